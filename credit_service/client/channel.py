"""Channels with the standard retry policy, and errors in a form for people.

Every failed call becomes a `ServiceError` with the reason, the invalid fields, the retry delay and
the other standard error details.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from credit_service.client.tls import ClientTls, connection_problem
from credit_service.settings import ClientSettings

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_STATUS_DETAILS_KEY = "grpc-status-details-bin"

SERVICE_CONFIG: Mapping[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            # UNAVAILABLE: nothing was decided. CANCELLED: gRPC ends a call with it that reaches a
            # server in the instant in which it stops, before the service sees it. Writes carry a
            # request id, so a retry is safe after both.
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        },
        {
            # A broken client stream is resumed after the committed rows, not sent again.
            "name": [
                {"service": "credit_service.v1.IngestionService", "method": "IngestRows"},
                {"service": "credit_service.v1.IngestionService", "method": "UploadSpreadsheet"},
            ],
            "waitForReady": True,
        },
    ]
}
"""The retry policy that clients of the service use, as a gRPC service config."""


def open_channel(address: str, token: str | None = None, ca: Path | None = None) -> grpc.Channel:
    """Return a channel to `address` (host:port or a gRPC target) with SERVICE_CONFIG.

    It uses TLS if `ca` or CREDIT_SERVER_CA names the trusted authorities. Each call carries a given
    `token` as `authorization: Bearer …`. Calls wait until the server is available, so give each
    call a timeout.

    Raises TlsFileError for an unusable file of certificates or keys.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        # Reconnect within a second of the server's return, not after two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # The channel has its own connection, shared with no other channel of this process.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    tls = ClientTls.configured(ClientSettings(), ca)
    if tls is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, tls.credentials(), options)
    return channel if token is None else grpc.intercept_channel(channel, _BearerToken(token))


class _BearerToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]  # no types at run time
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]  # no types at run time
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]  # no types at run time
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]  # no types at run time
):
    """Adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._entry = ("authorization", f"Bearer {token}")

    def _with_token(self, details: Any) -> "_CallDetails":
        return _CallDetails(details, (*(details.metadata or ()), self._entry))

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,
        request_iterator: Any,
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)


class _CallDetails(grpc.ClientCallDetails):
    """Call details: gRPC requires an object with these attributes."""

    def __init__(self, details: Any, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


def require_ready(
    channel: grpc.Channel, address: str, timeout_seconds: float, ca: Path | None = None
) -> None:
    """Wait until the server responds. Raises ServiceError (UNAVAILABLE) on timeout.

    The error says whether TLS is the reason: TLS on one side only, or a rejected certificate.
    """
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout_seconds)
    except grpc.FutureTimeoutError as error:
        problem = connection_problem(address, ClientTls.configured(ClientSettings(), ca))
        raise ServiceError(
            grpc.StatusCode.UNAVAILABLE,
            problem
            or f"No credit service answers at {address} (waited {timeout_seconds:g} s). "
            "Start one with `credit-service up`, or choose another with --address.",
        ) from error


@dataclass(eq=False)
class ServiceError(Exception):
    """A call that failed, decoded.

    `reason` is a value of the contract's ErrorReason without its prefix, or '' if the failure does
    not come from the service (no connection, unknown method). `violations` are (field, problem).
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)
    retry_after_seconds: float | None = None
    resource: str = ""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    @property
    def unavailable(self) -> bool:
        """Whether the service caused the failure, not the request."""
        return self.code in _NOT_THE_REQUEST

    def lines(self) -> list[str]:
        """Return the error for a person: what happened, each invalid field, what to do."""
        title = self.code.name + (f" ({self.reason})" if self.reason else "")
        lines = [f"{title}: {self.message}"]
        lines += [f"  {name}: {problem}" for name, problem in self.violations]
        if self.metadata and not self.violations:
            lines += [f"  {name} = {value}" for name, value in sorted(self.metadata.items())]
        if self.retry_after_seconds is not None:
            lines.append(f"  retry in {self.retry_after_seconds:g} s")
        return lines


_NOT_THE_REQUEST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


def decoded(error: Exception) -> ServiceError:
    """Return a grpc.RpcError as ServiceError with its google.rpc details."""
    if not isinstance(error, grpc.Call):
        return ServiceError(grpc.StatusCode.UNKNOWN, str(error))
    result = ServiceError(error.code(), error.details() or "no message")
    for detail in _details(error):
        match detail:
            case error_details_pb2.ErrorInfo():
                result.reason = detail.reason
                result.metadata = dict(detail.metadata)
            case error_details_pb2.BadRequest():
                result.violations = [(v.field, v.description) for v in detail.field_violations]
            case error_details_pb2.RetryInfo():
                delay = detail.retry_delay
                result.retry_after_seconds = delay.seconds + delay.nanos / 1e9
            case error_details_pb2.ResourceInfo():
                result.resource = f"{detail.resource_type} {detail.resource_name}"
    return result


@contextmanager
def decoded_errors() -> Iterator[None]:
    """Raise ServiceError if a call in the block fails."""
    try:
        yield
    except grpc.RpcError as error:
        raise decoded(error) from None


_DETAIL_TYPES: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.ResourceInfo,
)


def _details(error: grpc.Call) -> Iterator[Message]:
    for key, value in error.trailing_metadata() or ():
        if key != _STATUS_DETAILS_KEY:
            continue
        for any_detail in status_pb2.Status.FromString(value).details:
            for kind in _DETAIL_TYPES:
                if any_detail.Is(kind.DESCRIPTOR):
                    detail = kind()
                    any_detail.Unpack(detail)
                    yield detail

"""Channels to the service, with the retry policy, TLS and the bearer token of each call."""

import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from credit_service_client.errors import ServiceError
from credit_service_client.tls import ClientTls, connection_problem

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

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

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"

TokenSource = str | Callable[[], str]
"""A bearer token, or a function that returns the one to use now."""


class TokenFile:
    """Returns the bearer token of a file, which is read for every call.

    While the file is missing, as in the moment in which it is replaced, the last token is used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""

    def __call__(self) -> str:
        """Return the token. Raises OSError if the file was never readable."""
        try:
            self._token = self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if not self._token:
                raise
        return self._token


def open_channel(
    address: str, *, token: TokenSource | None = None, tls: ClientTls | None = None
) -> grpc.Channel:
    """Return a channel to `address` (host:port or a gRPC target) with SERVICE_CONFIG.

    Without `tls` the connection is plaintext. Each call carries a given `token` as
    `authorization: Bearer …`. Calls wait until the server is available, so give each call a
    timeout.

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

    def __init__(self, token: TokenSource) -> None:
        self._token = token

    def _with_token(self, details: Any) -> "_CallDetails":
        token = self._token if isinstance(self._token, str) else self._token()
        entry = ("authorization", f"Bearer {token}")
        return _CallDetails(details, (*(details.metadata or ()), entry))

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
    channel: grpc.Channel, address: str, timeout_seconds: float, tls: ClientTls | None = None
) -> None:
    """Wait until the server responds. Raises ServiceError (UNAVAILABLE) on timeout.

    The error says whether TLS is the reason: TLS on one side only, or a rejected certificate.
    """
    # A call, because gRPC's watch of the connection delays the close of the channel by 0.2 s.
    check = channel.unary_unary(_HEALTH_CHECK, None, None)
    try:
        check(b"", timeout=timeout_seconds, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            # Any other answer, of a server without this method too, comes from a server.
            return
        message = connection_problem(address, tls) or (
            f"No credit service answers at {address} (waited {timeout_seconds:g} s). "
            "Start one with `credit-service up`, or choose another with --address."
        )
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, message) from error


def is_local(address: str) -> bool:
    """Whether the address is of this machine: a loopback address, localhost or a Unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return is_loopback(address.rpartition(":")[0].removeprefix("[").removesuffix("]"))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

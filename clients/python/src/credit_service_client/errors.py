"""Failed calls as exceptions, with the standard details that the service attaches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

_STATUS_DETAILS_KEY = "grpc-status-details-bin"


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
        is_named = self.reason not in ("", self.code.name)
        title = self.code.name + (f" ({self.reason})" if is_named else "")
        lines = [f"{title}: {self.message}"]
        # The service's message contains the first problems.
        lines += [f"  {name}: {text}" for name, text in self.violations if text not in self.message]
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

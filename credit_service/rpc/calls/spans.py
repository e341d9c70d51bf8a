"""What the span of a call says, by the semantic conventions of OpenTelemetry."""

from functools import lru_cache

import grpc

from credit_service.observability import tracing
from credit_service.observability.tracing import Activity
from credit_service.rpc.errors import STATUS_BY_NUMBER

_OWN_FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


@lru_cache(maxsize=128)
def span_attributes(method: str) -> tracing.Attributes:
    """What a span says of the method, by the semantic conventions of OpenTelemetry."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def end_span(activity: Activity, call_id: str, code: int, reason: str) -> None:
    """End the span of the call with its status."""
    attributes: dict[str, str | int] = {
        "rpc.grpc.status_code": code,
        "credit.call_id": call_id,
    }
    if reason:
        attributes["error.type"] = reason
    # What a caller did wrong is no error of the server's span: so the convention has it.
    failed = STATUS_BY_NUMBER[code] in _OWN_FAILURES
    error = (reason or STATUS_BY_NUMBER[code].name) if failed else ""
    activity.end(error=error, attributes=attributes)

"""Span attributes of calls, by the semantic conventions of OpenTelemetry."""

from functools import lru_cache

import grpc
from opentelemetry.trace import Span

from credit_service.observability import tracing
from credit_service.rpc.errors import STATUS_BY_NUMBER

_SERVER_FAULTS = frozenset(
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
    """Attributes that every span of the method has."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def end_span(span: Span, call_id: str, code: int, reason: str) -> None:
    """End the call's span with its status number and its reason, which is empty on success."""
    attributes: dict[str, str | int] = {
        "rpc.grpc.status_code": code,
        "credit.call_id": call_id,
    }
    if reason:
        attributes["error.type"] = reason
    # By the convention, a caller's mistake is no error of the server's span.
    is_fault = STATUS_BY_NUMBER[code] in _SERVER_FAULTS
    error = (reason or STATUS_BY_NUMBER[code].name) if is_fault else ""
    tracing.end_span(span, error=error, attributes=attributes)

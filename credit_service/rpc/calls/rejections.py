"""Statuses that end calls at next to no cost: made once, sent many times."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import grpc
from google.rpc import status_pb2
from prometheus_client import Counter

from credit_service.domain.errors import OverloadedError
from credit_service.observability import metrics
from credit_service.observability.metrics import MethodMetrics, method_metrics
from credit_service.rpc.calls.access_log import AccessLog
from credit_service.rpc.calls.call import CALL_ID_KEY, named
from credit_service.rpc.calls.methods import Handler
from credit_service.rpc.calls.pool import InlineExecutor, OnExecutor
from credit_service.rpc.errors import (
    STATUS_BY_NUMBER,
    STATUS_DETAILS_KEY,
    QuotaExceededError,
    UnimplementedError,
    reason_of,
    to_status,
)

UNKNOWN_METHOD = method_metrics("/unknown/unknown", client_streaming=False, server_streaming=False)
_INLINE = InlineExecutor()


class PreparedStatus(NamedTuple):
    """A status, made once for many calls."""

    code: grpc.StatusCode
    message: str
    details: bytes
    failures: Counter
    """Counts the calls that it ended."""
    reason: str


def prepared(status: status_pb2.Status) -> PreparedStatus:
    reason = reason_of(status)
    return PreparedStatus(
        STATUS_BY_NUMBER[status.code],
        status.message,
        status.SerializeToString(),
        metrics.call_failures.labels(reason),
        reason,
    )


class Rejections:
    """Rejects calls of any method. Safe to share between threads."""

    def __init__(self, counters: Mapping[str, MethodMetrics], access: AccessLog | None) -> None:
        """`counters` are the metrics of methods by path."""
        self._counters = counters
        self._access = access

    def behavior(self, method: str, statuses: Sequence[PreparedStatus]) -> "Rejection":
        """A behavior that ends a call of the method with one of the statuses."""
        counters = self._counters.get(method, UNKNOWN_METHOD)
        return Rejection(method, statuses, counters, self._access)

    def handler(self, method: str, refusals: Sequence[PreparedStatus]) -> Handler:
        """A handler that refuses with one of some statuses, at once and at next to no cost.

        It runs on the thread that calls come in by, and awaits no message, being of a stream.
        """

        answer = self.behavior(method, refusals)

        def refuse(
            _requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]
        ) -> None:
            refusal = answer.tell(context)
            context.set_code(refusal.code)
            context.set_details(refusal.message)
            send(None)

        refuse.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpc looks for it
        return grpc.stream_stream_rpc_method_handler(OnExecutor(refuse, _INLINE))


class Rejection:
    """A behavior that ends calls of a method with one of some statuses, at next to no cost."""

    def __init__(
        self,
        method: str,
        refusals: Sequence[PreparedStatus],
        counted: MethodMetrics,
        access: AccessLog | None,
    ) -> None:
        self._method = method
        self._refusals = refusals
        self._counted = counted
        self._access = access

    def __call__(self, _requests: Iterator[bytes], context: grpc.ServicerContext) -> NoReturn:
        refusal = self.tell(context)
        context.abort(refusal.code, refusal.message)

    def tell(self, context: grpc.ServicerContext) -> PreparedStatus:
        """Count the call and set its metadata; what is left to send is returned."""
        refusal = random.choice(self._refusals)  # noqa: S311 - no secret
        call_id, _ = named(context)
        context.set_trailing_metadata(
            ((CALL_ID_KEY, call_id), (STATUS_DETAILS_KEY, refusal.details))
        )
        self._counted.begin()
        self._counted.end(refusal.code.value[0], 0.0)
        refusal.failures.inc()
        if self._access is not None:
            self._access.count(self._method[1:], refusal.code.value[0], refusal.reason, call_id)
        return refusal


def overloaded(max_concurrent_calls: int, retry_after_seconds: float) -> OverloadedError:
    """The refusal of a call that the server has no room for. The delays are spread, so that those
    refused together do not come again together."""
    return OverloadedError(
        "OVERLOADED",
        "The server is at capacity; retry shortly.",
        retry_after_seconds=retry_after_seconds,
        metadata={"max_concurrent_calls": str(max_concurrent_calls)},
    )


def too_many_calls(principal: str, max_calls: int) -> QuotaExceededError:
    """The refusal of a call of a principal that has as many as it may."""
    return QuotaExceededError(
        "TOO_MANY_CALLS",
        f"You have {max_calls} calls running or waiting on this server, the limit; wait for some "
        "to finish.",
        subject=principal,
        retry_after_seconds=0.5,
        metadata={"max_calls": str(max_calls)},
    )


@lru_cache(maxsize=256)
def prepared_too_many_calls(principal: str, max_calls: int) -> PreparedStatus:
    return prepared(to_status(too_many_calls(principal, max_calls), "", ""))


def not_implemented(method: str) -> UnimplementedError:
    """The refusal of a method that this server does not answer, by its full name."""
    return UnimplementedError(
        "METHOD_NOT_IMPLEMENTED",
        f"This server does not implement {method}; check the name and the server's release.",
        {"method": method},
    )

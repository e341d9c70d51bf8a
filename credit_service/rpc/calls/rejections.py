"""Reject calls at next to no cost, with statuses prepared in advance."""

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
from credit_service.rpc.calls.call import CALL_ID_KEY, read_call_id
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
"""Metrics of all methods that the server does not implement."""

_INLINE = InlineExecutor()


class PreparedStatus(NamedTuple):
    """A status, serialized once for many calls."""

    code: grpc.StatusCode
    message: str
    details: bytes
    failures: Counter
    """Counts the calls that end with it."""
    reason: str


def prepare(status: status_pb2.Status) -> PreparedStatus:
    """The status, ready to be sent many times."""
    reason = reason_of(status)
    return PreparedStatus(
        STATUS_BY_NUMBER[status.code],
        status.message,
        status.SerializeToString(),
        metrics.call_failures.labels(reason),
        reason,
    )


class Rejections:
    """Makes behaviors and handlers that reject calls. Thread-safe."""

    def __init__(
        self, metrics_by_method: Mapping[str, MethodMetrics], access_log: AccessLog | None
    ) -> None:
        self._metrics = metrics_by_method
        self._access_log = access_log

    def behavior(self, method: str, statuses: Sequence[PreparedStatus]) -> "Rejection":
        """A behavior that ends a call of the method with a random one of the statuses."""
        counters = self._metrics.get(method, UNKNOWN_METHOD)
        return Rejection(method, statuses, counters, self._access_log)

    def handler(self, method: str, statuses: Sequence[PreparedStatus]) -> Handler:
        """A handler that rejects calls at once, with a random one of the statuses.

        It runs on the thread that receives all calls. As a handler of streams it waits for no
        message.
        """
        rejection = self.behavior(method, statuses)

        def reject(
            _requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]
        ) -> None:
            status = rejection.apply(context)
            context.set_code(status.code)
            context.set_details(status.message)
            send(None)

        reject.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpc looks for it
        return grpc.stream_stream_rpc_method_handler(OnExecutor(reject, _INLINE))


class Rejection:
    """A behavior that ends calls of a method with a random one of some statuses."""

    def __init__(
        self,
        method: str,
        statuses: Sequence[PreparedStatus],
        counters: MethodMetrics,
        access_log: AccessLog | None,
    ) -> None:
        self._method = method
        self._statuses = statuses
        self._counters = counters
        self._access_log = access_log

    def __call__(self, _requests: Iterator[bytes], context: grpc.ServicerContext) -> NoReturn:
        status = self.apply(context)
        context.abort(status.code, status.message)

    def apply(self, context: grpc.ServicerContext) -> PreparedStatus:
        """Count the call and set its trailing metadata; return the status still to be sent."""
        status = random.choice(self._statuses)  # noqa: S311 - no secret
        call_id, _ = read_call_id(context)
        context.set_trailing_metadata(
            ((CALL_ID_KEY, call_id), (STATUS_DETAILS_KEY, status.details))
        )
        self._counters.begin()
        self._counters.end(status.code.value[0], 0.0)
        status.failures.inc()
        if self._access_log is not None:
            self._access_log.count(self._method[1:], status.code.value[0], status.reason, call_id)
        return status


def overloaded(max_concurrent_calls: int, retry_after_seconds: float) -> OverloadedError:
    """OVERLOADED: the server is at capacity. Callers pass various delays, so that calls rejected
    together do not retry together."""
    return OverloadedError(
        "OVERLOADED",
        "The server is at capacity; retry shortly.",
        retry_after_seconds=retry_after_seconds,
        metadata={"max_concurrent_calls": str(max_concurrent_calls)},
    )


@lru_cache(maxsize=256)
def too_many_calls(principal: str, max_calls: int) -> PreparedStatus:
    """TOO_MANY_CALLS: the principal is at its limit of concurrent calls."""
    error = QuotaExceededError(
        "TOO_MANY_CALLS",
        f"You have {max_calls} calls running or waiting on this server, the limit; wait for some "
        "to finish.",
        subject=principal,
        retry_after_seconds=0.5,
        metadata={"max_calls": str(max_calls)},
    )
    return prepare(to_status(error, "", ""))


def not_implemented(method: str) -> UnimplementedError:
    """METHOD_NOT_IMPLEMENTED: the server has no method of this full name."""
    return UnimplementedError(
        "METHOD_NOT_IMPLEMENTED",
        f"This server does not implement {method}; check the name and the server's release.",
        {"method": method},
    )

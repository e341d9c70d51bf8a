"""The interceptor that surrounds every call, of all four kinds.

Before the work: the call's id, its deadline, authentication and authorization, capacity. During the
work: cancellation once no caller waits. After a failure: the status of the exception, from
`errors`. For every call: metrics, a span, a line in the access log. Servicers know none of this;
they find what they need in `current_call()`.

The pipeline wraps a handler once, at the first call of its method. A call of one message takes a
thread only when its message has arrived (`incoming`). Before that the server only authenticates the
caller: at once from the cache of verified tokens, else on a thread. To grpc every method takes a
stream of messages, because for others it waits for the message on a thread, without a time limit.
The pipeline parses the messages itself: grpc would parse them on the thread that receives all
calls, and answer INTERNAL to invalid bytes.
"""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from credit_service.observability.metrics import method_metrics
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.access_log import AccessLog
from credit_service.rpc.calls.admission import Admission
from credit_service.rpc.calls.concurrency import ConcurrencyLimiter
from credit_service.rpc.calls.deadlines import DeadlineWatcher
from credit_service.rpc.calls.dispatch import Dispatch, Lane
from credit_service.rpc.calls.health_calls import HealthCalls
from credit_service.rpc.calls.incoming import Incoming, MessageFirstExecutor
from credit_service.rpc.calls.keyed_locks import KeyedLocks
from credit_service.rpc.calls.limits import RateLimiter, StreamCapacity, StreamLimiter
from credit_service.rpc.calls.methods import (
    BATCHES,
    HEALTH_PREFIX,
    KINDS,
    SHARED_READS,
    Behavior,
    Handler,
    contract_metrics,
    counted,
    customer_reader,
    is_reflection,
    kind_and_behavior,
    request_parser,
    stream_handler_factory,
)
from credit_service.rpc.calls.overload import LoadShedder
from credit_service.rpc.calls.pool import OnExecutor, ServingPool
from credit_service.rpc.calls.rejections import (
    Rejections,
    not_implemented,
    overloaded,
    prepare,
)
from credit_service.rpc.calls.serving import Serving
from credit_service.rpc.calls.shared_reads import Arrivals
from credit_service.rpc.errors import to_status

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    # Generic for the type checker only.
    _Interceptor = grpc.ServerInterceptor


class Pipeline(_Interceptor):
    """The interceptor. One per server; thread-safe."""

    def __init__(
        self,
        pool: ServingPool,
        write_pool: ServingPool,
        batch_pool: ServingPool,
        stream_pool: ServingPool,
        *,
        max_waiting: int,
        max_wait_seconds: float,
        max_lock_wait_seconds: float,
        max_streams: int,
        max_streams_per_principal: int,
        ingestion_streams: int,
        reflection_streams: int,
        max_calls_per_second: float,
        max_calls_at_work_per_principal: int,
        max_calls_per_principal: int,
        default_deadline_seconds: float,
        stream_idle_seconds: float,
        stream_lifetime_seconds: float,
        serve_health_watch: Callable[[Incoming, bytes], None],
        gatekeeper: Gatekeeper,
        stopping: threading.Event,
        access_log: AccessLog | None = None,
    ) -> None:
        """Streams run on `stream_pool`: at most `max_streams`, and `ingestion_streams` more for
        ingestions alone. Reflection has threads of its own, for `reflection_streams`. Other
        calls run on `write_pool` if they write, batches on `batch_pool`, the others on `pool`.
        In front of each pool at most `max_waiting` calls queue, of batches 16; at capacity they
        wait at most `max_wait_seconds`, batches 2 s. Writes to one customer run one after the
        other: at most `max_waiting` wait, each at most `max_lock_wait_seconds`. The limits of
        principals apply where the gatekeeper requires credentials. `serve_health_watch` serves a
        `Watch` of the health service. When `stopping` is set, idle streams end with
        SHUTTING_DOWN."""
        self._stream_pool = stream_pool
        # Two more threads than streams: they reject calls while all streams are open.
        self._reflection_pool = ServingPool(reflection_streams + 2)
        # Writes wait for row locks, so they must not take the threads of reads.
        self._reads = Lane(pool, LoadShedder(pool, max_waiting, max_wait_seconds))
        # A write waits for a thread no longer than for a row lock.
        self._writes = Lane(
            write_pool,
            LoadShedder(write_pool, max_waiting, max_wait_seconds, max_lock_wait_seconds),
        )
        self._batches = Lane(
            batch_pool,
            LoadShedder(
                batch_pool,
                bounds.MAX_WAITING_BATCHES,
                max(max_wait_seconds, bounds.MAX_BATCH_WAIT_SECONDS),
            ),
        )
        self.max_waiting = max_waiting
        self.max_streams = max_streams + ingestion_streams
        max_concurrent_calls = max_waiting + pool.threads
        self._handlers: dict[str, _MethodHandlers] = {}
        self._metrics = contract_metrics()
        self._overloads = [
            prepare(to_status(overloaded(max_concurrent_calls, tenth / 10), "", ""))
            for tenth in range(1, 6)
        ]
        # The parts of the pipeline, in the order in which a call passes them.
        self._watcher = DeadlineWatcher(self._on_poll)
        self._rejections = Rejections(self._metrics, access_log)
        self._health = HealthCalls(serve_health_watch, self._watcher)
        self._concurrency = ConcurrencyLimiter(
            max_calls_at_work_per_principal, max_calls_per_principal
        )
        self._admission = Admission(
            gatekeeper,
            self._concurrency,
            RateLimiter(max_calls_per_second),
            StreamLimiter(max_streams_per_principal),
            self._rejections,
        )
        self._customer_locks = KeyedLocks(max_waiting, max_lock_wait_seconds)
        self._dispatch = Dispatch(
            self._concurrency, self._customer_locks, self._rejections, self._overloads
        )
        self._streams = StreamCapacity(max_streams, ingestion_streams)
        self._reflection_streams = StreamCapacity(reflection_streams, 0)
        self._serving = Serving(
            self._admission,
            self._metrics,
            self._watcher,
            access_log,
            streams=self._streams,
            reflection_streams=self._reflection_streams,
            max_concurrent_calls=max_concurrent_calls,
            default_deadline_seconds=default_deadline_seconds,
            stream_idle_seconds=stream_idle_seconds,
            stream_lifetime_seconds=stream_lifetime_seconds,
            stopping=stopping,
        )
        self._watcher.start()

    @property
    def open_streams(self) -> int:
        """Open streams."""
        return self._streams.open

    @property
    def awaiting_customer_locks(self) -> int:
        """Calls that wait to write to a customer."""
        return self._customer_locks.waiting

    @property
    def pending_messages(self) -> int:
        """Calls whose message has not arrived."""
        return len(self._admission.pending_messages) + len(self._health.pending_messages)

    def _on_poll(self, now: float) -> None:
        """Enforce the time limits; `now` in seconds of time.monotonic()."""
        self._reads.shedder.adjust(now)
        self._writes.shedder.adjust(now)
        self._batches.shedder.adjust(now)
        self._customer_locks.expire(now)
        self._admission.pending_messages.expire(now)
        self._health.pending_messages.expire(now)

    def close(self) -> None:
        """End the threads of health checks, reflection and the deadline watcher."""
        self._health.close()
        self._reflection_pool.shutdown()
        self._watcher.close()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call. Must be brief: it runs on the thread that receives all calls."""
        method = handler_call_details.method
        handlers = self._handlers.get(method)
        if handlers is None:
            found = continuation(handler_call_details)
            if found is None:
                # Not kept: any caller could fill the table with invented names.
                error = not_implemented(method.removeprefix("/"))
                return self._rejections.handler(method, [prepare(to_status(error, "", method))])
            handlers = self._handlers[method] = self._method_handlers(method, found)
        if handlers.should_shed(time.monotonic()):
            return handlers.rejecting
        return handlers.serving

    def _method_handlers(self, method: str, handler: Handler) -> "_MethodHandlers":
        rejecting = self._rejections.handler(method, self._overloads)
        if method.startswith(HEALTH_PREFIX):
            return _MethodHandlers(
                self._health.handler(method, handler), rejecting, self._health.should_shed
            )
        is_stream = handler.request_streaming or handler.response_streaming
        should_shed = (
            self._should_shed_streams if is_stream else self._lane(method).shedder.should_shed
        )
        return _MethodHandlers(self._wrap(method, handler), rejecting, should_shed)

    def _lane(self, method: str) -> Lane:
        """The lane of a method with one request and one response."""
        if method in BATCHES:
            return self._batches
        return self._writes if KINDS.get(method) == "write" else self._reads

    def _should_shed_streams(self, _now: float) -> bool:
        """Whether too many streams wait for a thread."""
        waiting = max(self._stream_pool.waiting, self._reflection_pool.waiting)
        return waiting >= self.max_waiting

    def _wrap(self, method: str, handler: Handler) -> Handler:
        kind, behavior = kind_and_behavior(handler)
        counters = self._metrics.get(method)
        if counters is None:  # reflection, which is not in the contract
            counters = self._metrics[method] = method_metrics(
                method,
                client_streaming=handler.request_streaming,
                server_streaming=handler.response_streaming,
            )
        lane = self._lane(method)
        serve: dict[str, Behavior] = {
            "unary_unary": partial(self._serving.unary_unary, lane),
            "unary_stream": self._serving.unary_stream,
            "stream_unary": self._serving.stream_unary,
            "stream_stream": self._serving.stream_stream,
        }
        parse, serialize = request_parser(handler.request_deserializer), handler.response_serializer
        if handler.request_streaming:
            parse = counted(parse, counters.received)
        if handler.response_streaming and serialize is not None:
            serialize = counted(serialize, counters.sent)
        serving: Behavior = partial(serve[kind], method, behavior, parse)
        if handler.request_streaming:
            executor: futures.ThreadPoolExecutor = (
                self._reflection_pool if is_reflection(method) else self._stream_pool
            )
        elif handler.response_streaming:
            executor = MessageFirstExecutor(
                partial(
                    self._admission.enter,
                    method,
                    self._stream_pool,
                    partial(self._dispatch.start_stream, self._stream_pool),
                ),
                self._stream_pool,
            )
        else:
            customer_of = customer_reader(parse) if lane is self._writes else None
            arrivals = Arrivals() if method in SHARED_READS else None
            start = partial(self._dispatch.start_unary, method, lane, customer_of, arrivals)
            executor = MessageFirstExecutor(
                partial(self._admission.enter, method, lane.pool, start), lane.pool
            )
        return stream_handler_factory(handler)(OnExecutor(serving, executor), None, serialize)


class _MethodHandlers(NamedTuple):
    """The handlers of a method."""

    serving: Handler
    rejecting: Handler
    should_shed: Callable[[float], bool]
    """Whether to reject a call at that time, in seconds of time.monotonic()."""

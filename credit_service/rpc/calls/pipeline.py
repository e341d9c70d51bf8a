"""What surrounds every call, of all four kinds, in one place.

Before the work: an id for the call, its deadline, who makes it and whether it may, room for it.
While it runs: an end to it when nobody waits any more. After a failure: the status that `errors`
gives it. Around all: its metrics, and its line in the access log. The servicers know none of this,
and find what they need in `current_call()`.

A handler is wrapped once, when its method is called first. A call of one message takes a thread
when its message has arrived (`incoming`), and before that only its caller is looked up: a caller
with a token that was verified before is known at once, any other is authenticated on a thread. To
grpc all methods take streams: for others it awaits the message on a thread, without a limit.
Messages are parsed here and not by grpc: it would do so on the thread that all calls come in by,
and answer INTERNAL to bytes that are no message.
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
from credit_service.rpc.calls.access_log import AccessLog
from credit_service.rpc.calls.admission import Admission
from credit_service.rpc.calls.concurrency import CallShares
from credit_service.rpc.calls.deadlines import Warden
from credit_service.rpc.calls.dispatch import Dispatch, Lane
from credit_service.rpc.calls.health_calls import HealthCalls
from credit_service.rpc.calls.incoming import Incoming, MessageFirst
from credit_service.rpc.calls.keyed_locks import Turns
from credit_service.rpc.calls.limits import RateLimiter, StreamLimiter, StreamRoom
from credit_service.rpc.calls.methods import (
    HEALTH_PREFIX,
    KINDS,
    Behavior,
    Handler,
    contract_metrics,
    counting,
    customer_finder,
    is_reflection,
    parser,
    taken_apart,
    taking_streams,
)
from credit_service.rpc.calls.overload import LoadShedder
from credit_service.rpc.calls.pool import OnExecutor, ServingPool
from credit_service.rpc.calls.rejections import (
    Rejections,
    not_implemented,
    overloaded,
    prepared,
)
from credit_service.rpc.calls.serving import Serving
from credit_service.rpc.errors import to_status

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    # Generic for the type checker only.
    _Interceptor = grpc.ServerInterceptor


class Pipeline(_Interceptor):
    """The interceptor. One per server; safe to share between threads."""

    def __init__(
        self,
        pool: ServingPool,
        write_pool: ServingPool,
        stream_pool: ServingPool,
        *,
        max_waiting: int,
        max_wait_seconds: float,
        max_turn_wait_seconds: float,
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
        watch_health: Callable[[Incoming, bytes], None],
        gatekeeper: Gatekeeper,
        stopping: threading.Event,
        access: AccessLog | None = None,
    ) -> None:
        """Streams run on `stream_pool`, of which `max_streams` are open at once, with
        `ingestion_streams` more that only ingestions may take. Reflection has `reflection_streams`
        and threads of its own. Other calls run on `write_pool` if they write, else on `pool`. In
        front of each `max_waiting` queue for a thread, and wait for `max_wait_seconds` when more
        come than can be served. Calls that write to the same customer take turns, and wait for
        `max_turn_wait_seconds` at most, `max_waiting` of them at once. What one principal may
        take is limited where the gatekeeper asks for credentials. `watch_health` serves a watch of
        the health. When `stopping` is set, silent streams end with SHUTTING_DOWN."""
        self._stream_pool = stream_pool
        # Two more than there may be streams: they refuse the others while all of them are open.
        self._reflection_pool = ServingPool(reflection_streams + 2)
        # Writes wait for rows that others have locked: they are not to take the threads of reads.
        self._reads = Lane(pool, LoadShedder(pool, max_waiting, max_wait_seconds))
        # Nor to wait for a thread for longer than for a row.
        self._writes = Lane(
            write_pool,
            LoadShedder(write_pool, max_waiting, max_wait_seconds, max_turn_wait_seconds),
        )
        self.max_waiting = max_waiting
        self.max_streams = max_streams + ingestion_streams
        max_concurrent_calls = max_waiting + pool.threads
        self._handlers: dict[str, _Known] = {}
        self._metrics = contract_metrics()
        self._overloads = [
            prepared(to_status(overloaded(max_concurrent_calls, tenth / 10), "", ""))
            for tenth in range(1, 6)
        ]
        # The parts of the pipeline, in the order in which a call passes them.
        self._warden = Warden(self._look)
        self._rejections = Rejections(self._metrics, access)
        self._health = HealthCalls(watch_health, self._warden)
        self._shares = CallShares(max_calls_at_work_per_principal, max_calls_per_principal)
        self._admission = Admission(
            gatekeeper,
            self._shares,
            RateLimiter(max_calls_per_second),
            StreamLimiter(max_streams_per_principal),
            self._rejections,
        )
        self._customers = Turns(max_waiting, max_turn_wait_seconds)
        self._dispatch = Dispatch(self._shares, self._customers, self._rejections, self._overloads)
        self._streams = StreamRoom(max_streams, ingestion_streams)
        self._reflection_streams = StreamRoom(reflection_streams, 0)
        self._serving = Serving(
            self._admission,
            self._metrics,
            self._warden,
            access,
            streams=self._streams,
            reflection_streams=self._reflection_streams,
            max_concurrent_calls=max_concurrent_calls,
            default_deadline_seconds=default_deadline_seconds,
            stream_idle_seconds=stream_idle_seconds,
            stream_lifetime_seconds=stream_lifetime_seconds,
            stopping=stopping,
        )
        self._warden.start()

    @property
    def open_streams(self) -> int:
        """Streams that are open."""
        return self._streams.open

    @property
    def awaiting_turns(self) -> int:
        """Calls that wait for their turn to write to a customer."""
        return self._customers.waiting

    @property
    def awaiting_messages(self) -> int:
        """Calls whose message has not arrived."""
        return len(self._admission.awaiting) + len(self._health.awaiting)

    def _look(self, now: float) -> None:
        """Called many times a second; `now` in seconds of time.monotonic()."""
        self._reads.shedder.adjust(now)
        self._writes.shedder.adjust(now)
        self._customers.expire(now)
        self._admission.awaiting.expire(now)
        self._health.awaiting.expire(now)

    def close(self) -> None:
        """End the threads for health checks and reflection, and the one that looks after calls."""
        self._health.close()
        self._reflection_pool.shutdown()
        self._warden.close()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call. Runs on the thread that all calls come in by: it must be brief."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is None:
            found = continuation(handler_call_details)
            if found is None:
                # Not kept: anyone could fill the table with names that they made up.
                refusal = not_implemented(method.removeprefix("/"))
                return self._rejections.handler(method, [prepared(to_status(refusal, "", method))])
            known = self._handlers[method] = self._known(method, found)
        if known.sheds is not None and known.sheds(time.monotonic()):
            return known.refusing
        return known.handler

    def _known(self, method: str, handler: Handler) -> "_Known":
        """What serves a method, what refuses it when there is too much, and what tells when."""
        if method.startswith(HEALTH_PREFIX):
            return _Known(
                self._health.handler(method, handler),
                self._rejections.handler(method, self._overloads),
                self._health.sheds,
            )
        streaming = handler.request_streaming or handler.response_streaming
        sheds = self._streams_wait if streaming else self._lane(method).shedder.sheds
        refusing = self._rejections.handler(method, self._overloads)
        return _Known(self._wrapped(method, handler), refusing, sheds)

    def _lane(self, method: str) -> Lane:
        """Where calls of one message and one answer are served."""
        return self._writes if KINDS.get(method) == "write" else self._reads

    def _streams_wait(self, _now: float) -> bool:
        """Whether more streams wait to be refused than there should be."""
        waiting = max(self._stream_pool.waiting, self._reflection_pool.waiting)
        return waiting >= self.max_waiting

    def _wrapped(self, method: str, handler: Handler) -> Handler:
        kind, behavior = taken_apart(handler)
        counted = self._metrics.get(method)
        if counted is None:  # reflection, which is not of the contract
            counted = self._metrics[method] = method_metrics(
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
        parse, serialize = parser(handler.request_deserializer), handler.response_serializer
        if handler.request_streaming:
            parse = counting(parse, counted.received)
        if handler.response_streaming and serialize is not None:
            serialize = counting(serialize, counted.sent)
        serving: Behavior = partial(serve[kind], method, behavior, parse)
        if handler.request_streaming:
            reflects = is_reflection(method)
            threads: futures.ThreadPoolExecutor = (
                self._reflection_pool if reflects else self._stream_pool
            )
        elif handler.response_streaming:
            threads = MessageFirst(
                partial(
                    self._admission.enter,
                    method,
                    self._stream_pool,
                    partial(self._dispatch.begin_answers, self._stream_pool),
                ),
                self._stream_pool,
            )
        else:
            customer = customer_finder(parse) if lane is self._writes else None
            begin = partial(self._dispatch.begin_unary, method, lane, customer)
            threads = MessageFirst(
                partial(self._admission.enter, method, lane.pool, begin), lane.pool
            )
        return taking_streams(handler)(OnExecutor(serving, threads), None, serialize)


class _Known(NamedTuple):
    """A method: what serves it, what refuses it, and what tells by the time when to refuse."""

    handler: Handler
    refusing: Handler
    sheds: Callable[[float], bool] | None

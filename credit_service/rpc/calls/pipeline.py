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

import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import Counter
from structlog.contextvars import bind_contextvars

from credit_service.domain.errors import InvalidRequestError, OverloadedError, UnavailableError
from credit_service.domain.principals import ANONYMOUS
from credit_service.observability import metrics, tracing
from credit_service.observability.metrics import MethodMetrics, method_metrics
from credit_service.observability.tracing import TRACEPARENT_KEY, TRACERESPONSE_KEY, Activity, Span
from credit_service.rpc.auth.gatekeeper import Gatekeeper, method_scopes
from credit_service.rpc.auth.principal import SCOPES, Principal
from credit_service.rpc.auth.refusals import challenge, hold_no_longer
from credit_service.rpc.calls.access_log import COUNTED_REASONS, AccessLog, Ids, note_ids
from credit_service.rpc.calls.concurrency import CallShares, Held
from credit_service.rpc.calls.deadlines import Warden
from credit_service.rpc.calls.incoming import Incoming, Message, MessageFirst, Waiting
from credit_service.rpc.calls.keyed_locks import Turn, Turns
from credit_service.rpc.calls.limits import RateLimiter, StreamLimiter, StreamRoom
from credit_service.rpc.calls.overload import LoadShedder
from credit_service.rpc.calls.pool import InlineExecutor, ServingPool
from credit_service.rpc.calls.streams import Messages, read_ahead, reader_of, stream_over
from credit_service.rpc.errors import (
    REASONS,
    STATUS_DETAILS_KEY,
    DeadlineExceededError,
    PermissionDeniedError,
    QuotaExceededError,
    UnauthenticatedError,
    UnimplementedError,
    to_status,
)
from credit_service.rpc.reflection import REFLECTION_METHODS
from credit_service.storage.cancellation import CancelScope, Kind, current_scope
from credit_service.storage.database import in_progress
from credit_service.v1 import credit_service_pb2, ingestion_service_pb2

CALL_ID_KEY = "x-request-id"
"""Metadata: a caller may name its call; the answer carries that id, or the one made for it."""

CHALLENGE_KEY = "www-authenticate"
"""Metadata of a refusal for want of credentials: which are wanted (RFC 6750)."""

_CALL_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
_HEALTH_PREFIX = "/grpc.health.v1.Health/"
_HEALTH_WATCH = f"{_HEALTH_PREFIX}Watch"
# How long a call that takes one message may wait for it. It mostly comes at once. Each such call
# may have a message of 4 MiB under way, hence the limits.
_MESSAGE_SECONDS = 5.0
_MAX_AWAITED = 256
_HEALTH_MESSAGE_SECONDS = 1.0
_MAX_HEALTH_AWAITED = 64
# Where the private parts of grpc are others than `incoming` knows, health takes threads.
_HEALTH_THREADS = 8
_MAX_HEALTH_WAITING = 64
_REFLECTION_IDLE_SECONDS = 5.0
_REFLECTION_LIFETIME_SECONDS = 30.0
_LAST_SECONDS = 15.0
"""How long after the end of its lifetime a stream is cancelled that has not ended by itself, such
as one whose caller reads nothing. A watch of events ends with its next sign, ten seconds later at
most."""
_CREDENTIALS_LOOK_SECONDS = 1.0
_CONTRACT = (credit_service_pb2.DESCRIPTOR, ingestion_service_pb2.DESCRIPTOR)
# A longer message is not looked into on grpc's thread: it is padded, and takes no turn.
_MAX_LOOKED_INTO_BYTES = 4096
_UNKNOWN_METHOD = method_metrics("/unknown/unknown", client_streaming=False, server_streaming=False)
_STATUS_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
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

if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic for the type checker only.
    _Interceptor, _Handler = grpc.ServerInterceptor, grpc.RpcMethodHandler

_Behavior = Callable[..., Any]
_Parse = Callable[[bytes], Any]
_BeginCall = Callable[[Incoming, Message, Held | None], None]


class Call:
    """One call: its id, who makes it, and until when its answer is of use.

    As a context it is the current call, and an exception inside ends it with a status.
    """

    __slots__ = (
        "_access",
        "_begun",
        "_caller",
        "_credentials_checked_at",
        "_credentials_over",
        "_credentials_over_at",
        "_metrics",
        "_warden",
        "activity",
        "awaits_until",
        "call_id",
        "check_credentials",
        "context",
        "deadline",
        "ids",
        "is_caller_known",
        "lifetime_seconds",
        "messages_received",
        "messages_sent",
        "method",
        "principal",
        "scope",
        "scopes",
        "timeout_seconds",
    )

    def __init__(
        self,
        method: str,
        call_id: str,
        timeout_seconds: float,
        context: grpc.ServicerContext,
        counted_by: MethodMetrics,
        warden: Warden,
        caller: Span | None,
        access: AccessLog | None,
        kind: Kind,
    ) -> None:
        """`caller` is the span that the caller named, `kind` what it does in the database."""
        counted_by.begin()
        self._metrics = counted_by
        self._begun = time.monotonic()
        self.method = method
        self.call_id = call_id
        self.principal = ANONYMOUS
        self.scopes: frozenset[str] = frozenset()
        """What the caller may do; none until the call is admitted."""
        self.is_caller_known = True
        """False until a server that asks for credentials has found valid ones."""
        self._access = access
        self.ids: Ids | None = None if access is None else {}
        """Of the records that the call is about; None where no access log is written."""
        self.messages_received: int | None = None
        """Messages of a stream, and None for calls that are none."""
        self.messages_sent: int | None = None
        self.timeout_seconds = timeout_seconds
        self.deadline = self._begun + timeout_seconds
        """In seconds of time.monotonic()."""
        self.awaits_until: float | None = None
        """While the call awaits its only message: until when, in seconds of time.monotonic()."""
        self.lifetime_seconds = _NO_LIMIT_SECONDS
        """How long a stream may last."""
        self.check_credentials: Callable[[], object] | None = None
        """Raises UnauthenticatedError or PermissionDeniedError when a stream's credentials become
        invalid."""
        self._credentials_checked_at = self._begun
        self._credentials_over: UnauthenticatedError | PermissionDeniedError | None = None
        self._credentials_over_at = math.inf
        self.context = context
        self.activity: Activity | None = None
        """Where the call stands in its trace; None while it has not begun, or belongs to none."""
        self._caller = caller
        self.scope = CancelScope(self.deadline, kind)
        self._warden = warden

    def __enter__(self) -> Self:
        # In contextvars of this call alone: grpc runs each call in its own.
        _current.set(self)
        current_scope.set(self.scope)
        bind_contextvars(call_id=self.call_id)
        self.activity = activity = tracing.begin(
            self.method[1:], "server", self._caller, _span_attributes(self.method)
        )
        if activity is not None:
            tracing.current.set(activity)
            bind_contextvars(trace_id=activity.span.trace_id, span_id=activity.span.span_id)
        self.context.set_trailing_metadata(tuple(self.signs()))
        self._warden.watch(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # Else grpc's context, this call and its contextvars would hold each other until the
        # garbage collector comes: measured, a fifth of what an empty call costs.
        _current.set(None)
        current_scope.set(None)
        tracing.current.set(None)
        self._warden.release(self)
        if error is None:
            # A stream may end in order because its reader has gone.
            self._count_end(metrics.CANCELED if self.scope.is_cancelled else metrics.OK)
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            # A stream of answers whose reader has gone is closed from outside.
            self._count_end(metrics.CANCELED)

    def fail(self, error: Exception) -> NoReturn:
        """End the call with the status of its failure."""
        if isinstance(error, grpc.RpcError):
            self._count_end(metrics.CANCELED)
            raise error  # the caller has gone, and grpc knows
        late = (
            isinstance(error, (UnavailableError, OverloadedError))
            and time.monotonic() >= self.deadline
        )
        if self._credentials_over is not None:
            if not isinstance(error, (UnauthenticatedError, PermissionDeniedError)):
                error = self._credentials_over
        elif self.scope.is_cancelled or late:
            error = self._too_late()
        if isinstance(error, PermissionDeniedError) and error.principal:
            self.principal, self.is_caller_known = error.principal, True
        status = to_status(error, self.call_id, self.method)
        if self.context.is_active():
            reason = _reason(status)
            self._count_end(status.code, reason)
            metrics.call_failures.labels(reason).inc()
        else:
            self._count_end(metrics.CANCELED)
        metadata = [*self.signs(), (STATUS_DETAILS_KEY, status.SerializeToString())]
        asked = challenge(error)
        if asked is not None:
            metadata.append((CHALLENGE_KEY, asked))
        self.context.set_trailing_metadata(tuple(metadata))
        self.context.abort(_STATUS_BY_NUMBER[status.code], status.message)

    def signs(self) -> list[tuple[str, str | bytes]]:
        """Metadata by which the caller finds the call in the logs."""
        signs: list[tuple[str, str | bytes]] = [(CALL_ID_KEY, self.call_id)]
        if self.activity is not None:
            signs.append((TRACERESPONSE_KEY, str(self.activity.span)))
        return signs

    def _count_end(self, code: int, reason: str = "") -> None:
        seconds = time.monotonic() - self._begun
        if code in (metrics.OK, metrics.CANCELED) and seconds >= self.timeout_seconds:
            # Too late, whatever came of it: grpc has told the caller so.
            code = metrics.DEADLINE_EXCEEDED
        self._metrics.end(code, seconds)
        if self._access is not None:
            self._log_end(self._access, code, reason, seconds)
        if self.activity is not None:
            self._end_span(self.activity, code, reason)

    def _log_end(self, access: AccessLog, code: int, reason: str, seconds: float) -> None:
        if reason and reason in COUNTED_REASONS:
            access.count(self.method[1:], code, reason, self.call_id)
            return
        known, activity = self.is_caller_known, self.activity
        access.add(
            (
                time.time(),
                self.method[1:],
                self.principal if known else None,
                # Its address takes three times as long to find as all the rest.
                "" if known else self.context.peer(),
                code,
                reason,
                seconds,
                self.call_id,
                "" if activity is None else activity.span.trace_id,
                self.ids or {},
                self.messages_received,
                self.messages_sent,
            )
        )

    def note(self, message: Any) -> Any:
        """The same message, its ids noted for the access log."""
        if self.ids is not None:
            note_ids(message, self.ids)
        return message

    def note_received(self, message: Any) -> Any:
        """The same for a message of the caller's stream. A batch names rows by the thousand: those
        are found by the id of its ingestion."""
        self.messages_received = (self.messages_received or 0) + 1
        if self.ids is not None:
            note_ids(message, self.ids, lists=False)
        return message

    def noted_sent(self, messages: Iterator[Any]) -> Iterator[Any]:
        """The same messages of a stream of answers, each noted before it is sent."""
        self.messages_received = self.messages_received or 0
        self.messages_sent = 0
        try:
            for message in messages:
                self.messages_sent += 1
                yield self.note(message)
        finally:
            # As `yield from` would, where the reader has gone.
            close = getattr(messages, "close", None)
            if close is not None:
                close()

    def _end_span(self, activity: Activity, code: int, reason: str) -> None:
        attributes: dict[str, str | int] = {
            "rpc.grpc.status_code": code,
            "credit.call_id": self.call_id,
        }
        if reason:
            attributes["error.type"] = reason
        # What a caller did wrong is no error of the server's span: so the convention has it.
        failed = _STATUS_BY_NUMBER[code] in _OWN_FAILURES
        error = (reason or _STATUS_BY_NUMBER[code].name) if failed else ""
        activity.end(error=error, attributes=attributes)

    def ensure_wanted(self) -> None:
        """Let work begin, or go on, only while somebody waits for its result.

        Raises:
            DeadlineExceededError: the deadline has passed, or the caller has gone.
        """
        if self.unwanted(time.monotonic()):
            raise self._too_late()

    def ensure_lasting(self, **resume_at: object) -> None:
        """Let a stream go on only within its lifetime, and while its credentials hold. `resume_at`
        is where the caller continues.

        Raises:
            UnauthenticatedError, PermissionDeniedError: they hold no longer.
            UnavailableError: STREAM_LIFETIME_OVER, the caller opens another stream.
        """
        if self._credentials_over is not None:
            raise hold_no_longer(self._credentials_over, **resume_at)
        if time.monotonic() >= self._begun + self.lifetime_seconds:
            raise stream_over(self.lifetime_seconds, **resume_at)

    def ensure_not_stopped(self) -> None:
        """Let a stream that has come to its end do so in order only if nothing stopped it.

        Raises:
            UnauthenticatedError, PermissionDeniedError: its credentials hold no longer.
        """
        if self.scope.is_cancelled and self._credentials_over is not None:
            raise self._credentials_over

    def unwanted(self, now: float) -> bool:
        """Whether nobody waits for the result any more; `now` in seconds of time.monotonic()."""
        until = self.deadline if self.awaits_until is None else self.awaits_until
        return (
            now >= until
            or self._is_overdue(now)
            or not self.context.is_active()
            or self._is_unauthorized(now)
        )

    def _is_unauthorized(self, now: float) -> bool:
        """Whether the credentials that a stream began with hold no longer."""
        if self.check_credentials is None:
            return False
        if (
            self._credentials_over is None
            and now >= self._credentials_checked_at + _CREDENTIALS_LOOK_SECONDS
        ):
            self._credentials_checked_at = now
            try:
                self.check_credentials()
            except (UnauthenticatedError, PermissionDeniedError) as refusal:
                self._credentials_over = hold_no_longer(refusal)
                self._credentials_over_at = now
        return self._credentials_over is not None

    def stop(self) -> None:
        """Stop the statement under way, the wait for a message, and a stream that should have
        ended. From any thread."""
        self.scope.cancel()
        if self.awaits_until is not None or self._is_overdue(time.monotonic()):
            self.context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out

    def _is_overdue(self, now: float) -> bool:
        over_at = min(self._begun + self.lifetime_seconds, self._credentials_over_at)
        return now >= over_at + _LAST_SECONDS

    def only_message(self, requests: Iterator[bytes]) -> bytes:
        """The bytes of the one message that the call has: received already, or awaited for a few
        seconds where `incoming` cannot receive it.

        Raises:
            InvalidRequestError: it has none.
            grpc.RpcError: it did not come in time, or the caller has gone.
        """
        if isinstance(requests, Message):
            data = next(requests, None)
        else:
            self.awaits_until = min(self.deadline, time.monotonic() + _MESSAGE_SECONDS)
            data = next(requests, None)
            self.awaits_until = None
        if data is None:
            raise InvalidRequestError(
                "INVALID_FIELD", "The call carries no request message; send one."
            )
        return data

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            "DEADLINE_EXCEEDED",
            "The deadline passed before the call finished; retry with a longer deadline.",
            {"timeout_seconds": f"{self.timeout_seconds:.3g}"},
        )


_current: ContextVar[Call | None] = ContextVar("credit_service_call", default=None)


def current_call() -> Call:
    """The call that the current thread serves. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being served")
    return call


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
        self._reads = _Lane(pool, LoadShedder(pool, max_waiting, max_wait_seconds))
        # Nor to wait for a thread for longer than for a row.
        self._writes = _Lane(
            write_pool,
            LoadShedder(write_pool, max_waiting, max_wait_seconds, max_turn_wait_seconds),
        )
        self._customers = Turns(max_waiting, max_turn_wait_seconds)
        self.max_waiting = max_waiting
        self._max_concurrent_calls = max_waiting + pool.threads
        self.max_streams = max_streams + ingestion_streams
        self._streams = StreamRoom(max_streams, ingestion_streams)
        self._reflection_streams = StreamRoom(reflection_streams, 0)
        self._default_deadline_seconds = default_deadline_seconds
        self._stream_idle_seconds = stream_idle_seconds
        self._stream_lifetime_seconds = stream_lifetime_seconds
        self._watch_health = watch_health
        self._gatekeeper = gatekeeper
        self._rates = RateLimiter(max_calls_per_second)
        self._streams_by_principal = StreamLimiter(max_streams_per_principal)
        self._shares = CallShares(max_calls_at_work_per_principal, max_calls_per_principal)
        note_cancelled = metrics.calls_without_message.inc
        self._awaiting = Waiting(_MAX_AWAITED, _MESSAGE_SECONDS, note_cancelled)
        self._awaiting_health = Waiting(
            _MAX_HEALTH_AWAITED, _HEALTH_MESSAGE_SECONDS, note_cancelled
        )
        self._warden = Warden(self._look)
        self._stopping = stopping
        self._access = access
        # Health checks never wait behind the calls that they are about. As a rule grpc's thread
        # answers them, and these threads start none.
        self._aside = ServingPool(_HEALTH_THREADS)
        self._handlers: dict[str, _Known] = {}
        self._overloads = [
            _sendable(to_status(overloaded(self._max_concurrent_calls, tenth / 10), "", ""))
            for tenth in range(1, 6)
        ]
        self._metrics = _contract_metrics()

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
        return len(self._awaiting) + len(self._awaiting_health)

    def _look(self, now: float) -> None:
        """Called many times a second; `now` in seconds of time.monotonic()."""
        self._reads.shedder.adjust(now)
        self._writes.shedder.adjust(now)
        self._customers.expire(now)
        self._awaiting.expire(now)
        self._awaiting_health.expire(now)

    def close(self) -> None:
        """End the threads for health checks and reflection, and the one that looks after calls."""
        self._aside.shutdown()
        self._reflection_pool.shutdown()
        self._warden.close()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of a call. Runs on the thread that all calls come in by: it must be brief."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is None:
            found = continuation(handler_call_details)
            if found is None:
                # Not kept: anyone could fill the table with names that they made up.
                refusal = not_implemented(method.removeprefix("/"))
                return self._refusing(method, [_sendable(to_status(refusal, "", method))])
            known = self._handlers[method] = self._known(method, found)
        if known.sheds is not None and known.sheds(time.monotonic()):
            return known.refusing
        return known.handler

    def _known(self, method: str, handler: _Handler) -> "_Known":
        """What serves a method, what refuses it when there is too much, and what tells when."""
        if method.startswith(_HEALTH_PREFIX):
            return _Known(
                self._on_aside(method, handler),
                self._refusing(method, self._overloads),
                self._health_waits,
            )
        streaming = handler.request_streaming or handler.response_streaming
        sheds = self._streams_wait if streaming else self._lane(method).shedder.sheds
        refusing = self._refusing(method, self._overloads)
        return _Known(self._wrapped(method, handler), refusing, sheds)

    def _lane(self, method: str) -> "_Lane":
        """Where calls of one message and one answer are served."""
        return self._writes if _KINDS.get(method) == "write" else self._reads

    def _streams_wait(self, _now: float) -> bool:
        """Whether more streams wait to be refused than there should be."""
        waiting = max(self._stream_pool.waiting, self._reflection_pool.waiting)
        return waiting >= self.max_waiting

    def _health_waits(self, _now: float) -> bool:
        """Whether more health checks wait for a thread than there should be."""
        return self._aside.waiting >= _MAX_HEALTH_WAITING

    def _wrapped(self, method: str, handler: _Handler) -> _Handler:
        kind, behavior = _taken_apart(handler)
        counted = self._metrics.get(method)
        if counted is None:  # reflection, which is not of the contract
            counted = self._metrics[method] = method_metrics(
                method,
                client_streaming=handler.request_streaming,
                server_streaming=handler.response_streaming,
            )
        lane = self._lane(method)
        serve: dict[str, _Behavior] = {
            "unary_unary": partial(self._serve_unary_unary, lane),
            "unary_stream": self._serve_unary_stream,
            "stream_unary": self._serve_stream_unary,
            "stream_stream": self._serve_stream_stream,
        }
        parse, serialize = _parser(handler.request_deserializer), handler.response_serializer
        if handler.request_streaming:
            parse = _counting(parse, counted.received)
        if handler.response_streaming and serialize is not None:
            serialize = _counting(serialize, counted.sent)
        serving: _Behavior = partial(serve[kind], method, behavior, parse)
        if handler.request_streaming:
            reflects = method in REFLECTION_METHODS
            threads: futures.ThreadPoolExecutor = (
                self._reflection_pool if reflects else self._stream_pool
            )
        elif handler.response_streaming:
            threads = MessageFirst(
                partial(self._enter, method, self._stream_pool, self._begin_answers),
                self._stream_pool,
            )
        else:
            customer = _customer_of(parse) if lane is self._writes else None
            begin = partial(self._begin_unary, method, lane, customer)
            threads = MessageFirst(partial(self._enter, method, lane.pool, begin), lane.pool)
        return _taking_streams(handler)(_Elsewhere(serving, threads), None, serialize)

    # A call of one message, from its headers until it has a thread. All but `_identify` runs on
    # grpc's thread and must be brief.

    def _enter(
        self, method: str, threads: ServingPool, begin: _BeginCall, incoming: Incoming
    ) -> None:
        """Let a call in whose headers have arrived. `begin` is given it with its message, or with
        None where none will come."""
        if not self._gatekeeper.asks:
            self._await(begin, incoming, None, None)
            return
        principal = self._gatekeeper.recognize(method, incoming)
        if principal is None:
            threads.submit(self._identify, method, begin, incoming)
            return
        held = self._shares.hold(principal.name, writes=self._lane(method) is self._writes)
        if held is not None:
            self._await(begin, incoming, principal, held)
        else:
            refusal = _too_many_calls_sendable(principal.name, self._shares.max_held)
            incoming.serve(Message(None), self._refusal(method, [refusal]))

    def _identify(self, method: str, begin: _BeginCall, incoming: Incoming) -> None:
        """Find out who calls, on a thread, before the message is awaited."""
        try:
            principal = self._gatekeeper.admit(method, incoming.context)
        except Exception as error:  # noqa: BLE001 - the call's behavior raises it
            incoming.serve(Message(None, error=error))
            return
        held = self._shares.hold(principal.name, writes=self._lane(method) is self._writes)
        if held is not None:
            self._await(begin, incoming, principal, held)
        else:
            refusal = _too_many_calls(principal.name, self._shares.max_held)
            incoming.serve(Message(None, error=refusal))

    def _await(
        self,
        begin: _BeginCall,
        incoming: Incoming,
        principal: Principal | None,
        held: Held | None,
    ) -> None:
        self._awaiting.add(incoming)
        if not incoming.receive(partial(self._arrived, begin, principal, held)):
            self._awaiting.remove(incoming)
            self._release(held)

    def _release(self, held: Held | None) -> None:
        if held is not None:
            self._shares.release(held)

    def _arrived(
        self,
        begin: _BeginCall,
        principal: Principal | None,
        held: Held | None,
        incoming: Incoming,
        data: bytes | None,
    ) -> None:
        self._awaiting.remove(incoming)
        if data is None and incoming.gone:
            self._release(held)
        else:
            begin(incoming, Message(data, principal=principal), held)

    def _begin_answers(self, incoming: Incoming, message: Message, held: Held | None) -> None:
        """Give a thread to a call that a stream of answers is for."""
        self._release(held)
        self._stream_pool.submit(incoming.serve, message)

    def _begin_unary(
        self,
        method: str,
        lane: "_Lane",
        customer_of: Callable[[bytes], int] | None,
        incoming: Incoming,
        message: Message,
        held: Held | None,
    ) -> None:
        """Give a thread to a call of one answer, when it is its turn. `customer_of` finds whom it
        writes to."""
        lane.shedder.note_lag(time.monotonic() - incoming.arrived_at)
        if lane.shedder.full:
            self._release(held)
            incoming.serve(message, self._refusal(method, self._overloads))
            return
        customer_id = customer_of(message.data or b"") if customer_of is not None else 0
        _Arrived(
            incoming, message, lane.pool, self._shares, held, self._customers, customer_id
        ).begin()

    def _serve_unary_unary(
        self,
        lane: "_Lane",
        method: str,
        behavior: _Behavior,
        parse: _Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Any:
        with self._begin(method, context, self._default_deadline_seconds) as call:
            if lane.shedder.too_late():
                raise overloaded(self._max_concurrent_calls, random.uniform(0.1, 0.5))  # noqa: S311 - no secret
            self._admit(call, requests)
            data = call.only_message(requests)
            request = call.note(parse(data))
            if isinstance(requests, Message) and requests.refusal is not None:
                raise requests.refusal
            return call.note(behavior(request, context))

    def _serve_unary_stream(
        self,
        method: str,
        behavior: _Behavior,
        parse: _Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._begin_stream(method, context) as call:
            self._admit(call, requests)
            data = call.only_message(requests)
            with self._stream_slot(call, self._streams):
                request = call.note_received(parse(data))
                yield from call.noted_sent(behavior(request, context))
                call.ensure_not_stopped()

    def _serve_stream_unary(
        self,
        method: str,
        behavior: _Behavior,
        parse: _Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Any:
        with self._begin_stream(method, context) as call:
            self._admit(call, requests)
            with (
                self._stream_slot(call, self._streams, kept=True),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                return call.note(behavior(messages, context))

    def _serve_stream_stream(
        self,
        method: str,
        behavior: _Behavior,
        parse: _Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._begin_stream(method, context) as call:
            self._admit(call, requests)
            reflects = method in REFLECTION_METHODS
            room = self._reflection_streams if reflects else self._streams
            with (
                self._stream_slot(call, room, kept=not reflects),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                yield from call.noted_sent(behavior(messages, context))
                call.ensure_not_stopped()

    def _begin(self, method: str, context: grpc.ServicerContext, default_seconds: float) -> Call:
        """The call as it comes in. Never fails."""
        call_id, caller = _named(context)
        # Without a deadline of the caller's grpc tells one of centuries.
        timeout_seconds = context.time_remaining()
        if timeout_seconds > _NO_LIMIT_SECONDS:
            timeout_seconds = default_seconds
        return Call(
            method,
            call_id,
            timeout_seconds,
            context,
            self._metrics.get(method, _UNKNOWN_METHOD),
            self._warden,
            caller,
            self._access,
            _KINDS.get(method, "read"),
        )

    def _begin_stream(self, method: str, context: grpc.ServicerContext) -> Call:
        call = self._begin(method, context, _NO_LIMIT_SECONDS)
        call.lifetime_seconds = self._stream_lifetime_seconds
        if method in REFLECTION_METHODS:
            call.lifetime_seconds = min(call.lifetime_seconds, _REFLECTION_LIFETIME_SECONDS)
        return call

    def _admit(self, call: Call, requests: Iterator[bytes]) -> None:
        """Whether a call may begin: the one gate, passed before any work is done."""
        call.ensure_wanted()
        if self._gatekeeper.asks:
            call.is_caller_known = False
            principal = None
            if isinstance(requests, Message):
                if isinstance(requests.error, QuotaExceededError):
                    call.principal, call.is_caller_known = requests.error.subject, True
                if requests.error is not None:
                    raise requests.error
                principal = requests.principal
            if principal is None:
                principal = self._gatekeeper.admit(call.method, call.context)
            call.principal, call.scopes = principal.name, principal.scopes
            call.is_caller_known = True
            if call.lifetime_seconds < _NO_LIMIT_SECONDS:  # a stream
                call.check_credentials = partial(self._gatekeeper.admit, call.method, call.context)
            bind_contextvars(principal=call.principal)
            self._rates.take(call.principal)
        else:
            call.scopes = SCOPES

    @contextmanager
    def _stream_slot(self, call: Call, room: StreamRoom, *, kept: bool = False) -> Iterator[None]:
        """Room for a stream, which holds a thread while it is open. `kept` lets it take the room
        that is kept for ingestions."""
        with room.slot(kept=kept):
            if self._gatekeeper.asks and call.principal != ANONYMOUS:
                with self._streams_by_principal.slot(call.principal):
                    yield
            else:
                yield

    def _messages(
        self, requests: Iterator[bytes], parse: _Parse, behavior: _Behavior, call: Call
    ) -> AbstractContextManager[Messages[Any]]:
        call.messages_received, call.messages_sent = 0, 0
        read = reader_of(behavior, lambda data: call.note_received(parse(data)))
        idle_seconds = self._stream_idle_seconds
        if call.method in REFLECTION_METHODS:
            idle_seconds = min(idle_seconds, _REFLECTION_IDLE_SECONDS)
        return read_ahead(requests, read, idle_seconds, self._stopping, call.ensure_lasting)

    def _on_aside(self, method: str, handler: _Handler) -> _Handler:
        """The same handler of the health service, which takes no thread and waits for none.

        Anyone may call it, so it has little patience with callers that do not send their message.
        """
        _, behavior = _taken_apart(handler)
        parse = _parser(handler.request_deserializer)

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext, *send: Any) -> Any:
            # Where `incoming` cannot receive the message, a thread waits for it.
            awaited = _Awaited(context, time.monotonic() + _HEALTH_MESSAGE_SECONDS)
            self._warden.watch(awaited)
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            finally:
                self._warden.release(awaited)
            return behavior(request, context, *send)

        def check(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            return behavior(request, context)

        def arrived(incoming: Incoming, data: bytes | None) -> None:
            self._awaiting_health.remove(incoming)
            if incoming.gone:
                return
            if method == _HEALTH_WATCH:
                self._watch_health(incoming, data or b"")
            else:
                incoming.serve(Message(data), check)

        def enter(incoming: Incoming) -> None:
            self._awaiting_health.add(incoming)
            if not incoming.receive(arrived):
                self._awaiting_health.remove(incoming)

        # A watch of the health takes no thread: it is called back.
        not_blocking = getattr(behavior, "experimental_non_blocking", False)
        answer.experimental_non_blocking = not_blocking  # type: ignore[attr-defined]  # for grpc
        aside = _Elsewhere(answer, MessageFirst(enter, self._aside))
        return _taking_streams(handler)(aside, None, handler.response_serializer)

    def _refusing(self, method: str, refusals: Sequence["_Sendable"]) -> _Handler:
        """A handler that refuses with one of some statuses, at once and at next to no cost.

        It runs on the thread that calls come in by, and awaits no message, being of a stream.
        """

        answer = self._refusal(method, refusals)

        def refuse(
            _requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]
        ) -> None:
            refusal = answer.tell(context)
            context.set_code(refusal.code)
            context.set_details(refusal.message)
            send(None)

        refuse.experimental_non_blocking = True  # type: ignore[attr-defined]  # grpc looks for it
        return grpc.stream_stream_rpc_method_handler(_Elsewhere(refuse, _INLINE))

    def _refusal(self, method: str, refusals: Sequence["_Sendable"]) -> "_Refusal":
        return _Refusal(method, refusals, self._metrics.get(method, _UNKNOWN_METHOD), self._access)


class _Lane(NamedTuple):
    """Threads that serve calls, and what keeps more from them than they can serve."""

    pool: ServingPool
    shedder: LoadShedder


class _Arrived:
    """A call whose message has arrived and that has no thread. It takes a place among those of its
    principal first, and then its turn: a call that waits for a place has no turn that others could
    use."""

    __slots__ = ("_customer_id", "_held", "_incoming", "_message", "_pool", "_shares", "_turns")

    def __init__(
        self,
        incoming: Incoming,
        message: Message,
        pool: ServingPool,
        shares: CallShares,
        held: Held | None,
        turns: Turns,
        customer_id: int,
    ) -> None:
        """`customer_id` is whom it writes to; 0 for none."""
        self._incoming = incoming
        self._message = message
        self._pool = pool
        self._shares = shares
        self._held = held
        self._turns = turns
        self._customer_id = customer_id

    @property
    def gone(self) -> bool:
        """Whether its caller has gone."""
        return self._incoming.gone

    def begin(self) -> None:
        """Serve it on a thread, when its principal has a place for it and it is its turn."""
        if self._held is None or self._shares.enter(self._held, self._take_turn):
            self._take_turn()

    def start(self) -> bool:
        """Serve it, as its turn has come; False where it waits for a place first."""
        if self._held is not None and not self._shares.enter(self._held, self._take_turn):
            return False
        self._pool.submit(self._serve)
        return True

    def give_up(self) -> None:
        """Refuse it, on the current thread, which takes next to no time."""
        if self._held is not None:
            self._shares.release(self._held)
        self._message.refusal = in_progress()
        self._incoming.serve(self._message)

    def _take_turn(self) -> None:
        """Of a call that has a place."""
        if not self._customer_id or self._turns.take(self._customer_id):
            self._pool.submit(self._serve)
            return
        # It waits without a place. From `begin` on it may be started or given up by other threads.
        if self._held is not None:
            self._shares.leave(self._held)
        turn = self._turns.begin(self._customer_id, self)
        if turn is Turn.FULL:
            self.give_up()
        elif turn is Turn.TAKEN and not self.start():
            self._turns.end(self._customer_id)

    def _serve(self) -> None:
        try:
            self._incoming.serve(self._message)
        finally:
            if self._held is not None:
                self._shares.end(self._held)
            if self._customer_id:
                self._turns.end(self._customer_id)


class _Refusal:
    """A behavior that ends calls of a method with one of some statuses, at next to no cost."""

    def __init__(
        self,
        method: str,
        refusals: Sequence["_Sendable"],
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

    def tell(self, context: grpc.ServicerContext) -> "_Sendable":
        """Count the call and set its metadata; what is left to send is returned."""
        refusal = random.choice(self._refusals)  # noqa: S311 - no secret
        call_id, _ = _named(context)
        context.set_trailing_metadata(
            ((CALL_ID_KEY, call_id), (STATUS_DETAILS_KEY, refusal.details))
        )
        self._counted.begin()
        self._counted.end(refusal.code.value[0], 0.0)
        refusal.failures.inc()
        if self._access is not None:
            self._access.count(self._method[1:], refusal.code.value[0], refusal.reason, call_id)
        return refusal


_INLINE = InlineExecutor()

_NO_LIMIT_SECONDS = 365 * 24 * 3600.0
"""A deadline further away than this is none."""


def _named(context: grpc.ServicerContext) -> tuple[str, Span | None]:
    """The call's id, the caller's or one made for it, and the span that the caller named."""
    call_id, caller = "", None
    for key, value in context.invocation_metadata():
        if key == CALL_ID_KEY and isinstance(value, str) and _CALL_ID.fullmatch(value):
            call_id = value
        elif key == TRACEPARENT_KEY and isinstance(value, str):
            caller = Span.read(value)
    return call_id or f"{random.getrandbits(64):016x}", caller


class _Known(NamedTuple):
    """A method: what serves it, what refuses it, and what tells by the time when to refuse."""

    handler: _Handler
    refusing: _Handler
    sheds: Callable[[float], bool] | None


class _Sendable(NamedTuple):
    """A status, made once for many calls."""

    code: grpc.StatusCode
    message: str
    details: bytes
    failures: Counter
    """Counts the calls that it ended."""
    reason: str


def _sendable(status: status_pb2.Status) -> _Sendable:
    reason = _reason(status)
    return _Sendable(
        _STATUS_BY_NUMBER[status.code],
        status.message,
        status.SerializeToString(),
        metrics.call_failures.labels(reason),
        reason,
    )


def overloaded(max_concurrent_calls: int, retry_after_seconds: float) -> OverloadedError:
    """The refusal of a call that the server has no room for. The delays are spread, so that those
    refused together do not come again together."""
    return OverloadedError(
        "OVERLOADED",
        "The server is at capacity; retry shortly.",
        retry_after_seconds=retry_after_seconds,
        metadata={"max_concurrent_calls": str(max_concurrent_calls)},
    )


def _too_many_calls(principal: str, max_calls: int) -> QuotaExceededError:
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
def _too_many_calls_sendable(principal: str, max_calls: int) -> _Sendable:
    return _sendable(to_status(_too_many_calls(principal, max_calls), "", ""))


class _Elsewhere:
    """A behavior with the attributes by which grpc chooses the threads that it runs on."""

    def __init__(self, behavior: _Behavior, threads: futures.ThreadPoolExecutor) -> None:
        self._behavior = behavior
        self.experimental_thread_pool = threads
        self.experimental_non_blocking = getattr(behavior, "experimental_non_blocking", False)

    def __call__(self, *arguments: Any) -> Any:
        return self._behavior(*arguments)


class _Awaited:
    """A call that has not sent its message yet, as the warden sees it."""

    def __init__(self, context: grpc.ServicerContext, until: float) -> None:
        self._context = context
        self._until = until

    def unwanted(self, now: float) -> bool:
        """Whether it has been awaited for long enough."""
        return now >= self._until

    def stop(self) -> None:
        """Wait for it no longer."""
        self._context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out


def _customer_of(parse: _Parse) -> Callable[[bytes], int]:
    """What finds the customer that a message names; 0 where it names none."""

    def customer_of(data: bytes) -> int:
        if len(data) > _MAX_LOOKED_INTO_BYTES:
            return 0
        try:
            return int(getattr(parse(data), "customer_id", 0))
        except InvalidRequestError:
            return 0

    return customer_of


def _taking_streams(handler: _Handler) -> Callable[..., _Handler]:
    """What makes a handler that answers as the given one does and takes a stream of messages."""
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler
    return grpc.stream_unary_rpc_method_handler


def _taken_apart(handler: _Handler) -> tuple[str, Any]:
    """The name of a handler's kind, and the behavior inside."""
    if handler.request_streaming and handler.response_streaming:
        return "stream_stream", handler.stream_stream
    if handler.request_streaming:
        return "stream_unary", handler.stream_unary
    if handler.response_streaming:
        return "unary_stream", handler.unary_stream
    return "unary_unary", handler.unary_unary


def _parser(deserializer: Callable[[bytes], Any] | None) -> _Parse:
    if deserializer is None:
        raise TypeError("a method without a deserializer")

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            raise InvalidRequestError(
                "INVALID_FIELD",
                "The bytes sent are not a valid request message; encode them by the contract.",
            ) from error

    return parse


def _counting(convert: Callable[[Any], Any], counter: Counter) -> Callable[[Any], Any]:
    """The same conversion of a message, counted."""

    def counting(message: Any) -> Any:
        counter.inc()
        return convert(message)

    return counting


@lru_cache(maxsize=128)
def _span_attributes(method: str) -> tracing.Attributes:
    """What a span says of the method, by the semantic conventions of OpenTelemetry."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _kinds() -> dict[str, Kind]:
    """What the methods of the contract do in the database, by path; those that only read left out.

    Other methods than these write nothing, or next to nothing.
    """
    services = [service for file in _CONTRACT for service in file.services_by_name.values()]
    kinds: dict[str, Kind] = {
        path: "write" for path, scope in method_scopes(services).items() if scope == "credit.write"
    }
    for service in services:
        for method in service.methods:
            if method.client_streaming:
                kinds[f"/{service.full_name}/{method.name}"] = "ingestion"
    return kinds


_KINDS = _kinds()


def _contract_metrics() -> dict[str, MethodMetrics]:
    """The metrics of every method of the contract, by path."""
    metrics.show_reasons(REASONS)
    return {
        path: method_metrics(
            path,
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for file in _CONTRACT
        for service in file.services_by_name.values()
        for method in service.methods
        for path in (f"/{service.full_name}/{method.name}",)
    }


def _reason(status: status_pb2.Status) -> str:
    """The reason in a status, which always begins its details."""
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return info.reason if info.reason in REASONS else "INTERNAL"


def not_implemented(method: str) -> UnimplementedError:
    """The refusal of a method that this server does not answer, by its full name."""
    return UnimplementedError(
        "METHOD_NOT_IMPLEMENTED",
        f"This server does not implement {method}; check the name and the server's release.",
        {"method": method},
    )

"""One call: its id, caller and deadline, how it ends, and what is recorded about it."""

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn, Self

import grpc
from opentelemetry import context as trace_context
from opentelemetry.trace import Span, SpanKind
from structlog.contextvars import bind_contextvars

from credit_service.domain.errors import InvalidRequestError, OverloadedError, UnavailableError
from credit_service.domain.principals import ANONYMOUS
from credit_service.observability import metrics, tracing
from credit_service.observability.metrics import MethodMetrics
from credit_service.observability.tracing import TRACEPARENT_KEY, TRACERESPONSE_KEY
from credit_service.rpc.auth.errors import challenge, stream_unauthorized
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.access_log import COUNTED_REASONS, AccessLog
from credit_service.rpc.calls.deadlines import DeadlineWatcher
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.record_ids import Ids, collect_ids
from credit_service.rpc.calls.shared_reads import Arrival
from credit_service.rpc.calls.spans import end_span, span_attributes
from credit_service.rpc.calls.streams import stream_expired
from credit_service.rpc.errors import (
    STATUS_BY_NUMBER,
    STATUS_DETAILS_KEY,
    DeadlineExceededError,
    PermissionDeniedError,
    UnauthenticatedError,
    reason_of,
    to_status,
)
from credit_service.storage.cancellation import CancelScope, Kind, current_scope

CALL_ID_KEY = "x-request-id"
"""Metadata: the call's id. The caller may set it; the response carries it, or a generated one."""

CHALLENGE_KEY = "www-authenticate"
"""Trailing metadata of a call rejected for its credentials: what the server accepts (RFC 6750)."""

_CALL_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


class Call:
    """One call, from its start on a thread to its end.

    As a context manager it is the thread's current call; an exception inside ends it with the
    status of that exception.
    """

    __slots__ = (
        "_access_log",
        "_credentials_checked_at",
        "_credentials_error",
        "_credentials_invalid_at",
        "_metrics",
        "_started_at",
        "_traceparent",
        "_traceresponse",
        "_watcher",
        "arrival",
        "call_id",
        "cancel_scope",
        "check_credentials",
        "context",
        "deadline",
        "ids",
        "is_caller_known",
        "lifetime_seconds",
        "message_deadline",
        "messages_received",
        "messages_sent",
        "method",
        "principal",
        "scopes",
        "span",
        "timeout_seconds",
    )

    def __init__(
        self,
        method: str,
        call_id: str,
        timeout_seconds: float,
        context: grpc.ServicerContext,
        counters: MethodMetrics,
        watcher: DeadlineWatcher,
        traceparent: str | None,
        access_log: AccessLog | None,
        kind: Kind,
    ) -> None:
        """`traceparent` is the caller's, `kind` what the call does in the database."""
        counters.begin()
        self._metrics = counters
        self._started_at = time.monotonic()
        self.method = method
        self.call_id = call_id
        self.principal = ANONYMOUS
        self.scopes: frozenset[str] = frozenset()
        """Scopes of the caller; empty until the call is admitted."""
        self.is_caller_known = True
        """False until a server that requires credentials has authenticated the caller."""
        self._access_log = access_log
        self.ids: Ids | None = None if access_log is None else {}
        """Ids of the records that the call names; None without an access log."""
        self.messages_received: int | None = None
        """Count for streams; None for other calls."""
        self.messages_sent: int | None = None
        self.timeout_seconds = timeout_seconds
        self.deadline = self._started_at + timeout_seconds
        """In seconds of time.monotonic()."""
        self.message_deadline: float | None = None
        """Deadline of the wait for the only message, in seconds of time.monotonic(); else None."""
        self.lifetime_seconds = bounds.NO_LIMIT_SECONDS
        """Longest duration of a stream."""
        self.check_credentials: Callable[[], object] | None = None
        """Raises UnauthenticatedError or PermissionDeniedError once a stream's credentials are
        invalid."""
        self._credentials_checked_at = self._started_at
        self._credentials_error: UnauthenticatedError | PermissionDeniedError | None = None
        self._credentials_invalid_at = math.inf
        self.context = context
        self.span: Span | None = None
        """None before the call starts, and for a call that belongs to no trace."""
        self._traceparent = traceparent
        self._traceresponse = ""
        self.cancel_scope = CancelScope(self.deadline, kind)
        self._watcher = watcher
        self.arrival: Arrival | None = None

    def __enter__(self) -> Self:
        # grpc runs each call in a context of its own, so these contextvars are the call's alone.
        _current.set(self)
        current_scope.set(self.cancel_scope)
        bind_contextvars(call_id=self.call_id)
        self.span = span = tracing.start_span(
            self.method[1:], SpanKind.SERVER, self._traceparent, span_attributes(self.method)
        )
        if span is not None:
            trace_context.attach(tracing.context_of(span))
            self._traceresponse = tracing.traceparent_of(span)
            bind_contextvars(**tracing.log_fields(self._traceresponse))
        self.context.set_trailing_metadata(tuple(self.trailing_metadata()))
        self._watcher.watch(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # Break the reference cycle of grpc's context, this call and its contextvars. Left to the
        # garbage collector it costs a fifth of an empty call, measured.
        _current.set(None)
        current_scope.set(None)
        if self.span is not None:
            # Not `detach`: an abandoned stream may be closed in another context than its own.
            trace_context.attach(tracing.NO_SPAN)
        self._watcher.release(self)
        if error is None:
            # A stream may end normally because its reader has gone.
            self._count_end(metrics.CANCELED if self.cancel_scope.is_cancelled else metrics.OK)
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            # grpc closes a response stream from outside when its reader has gone.
            self._count_end(metrics.CANCELED)

    def fail(self, error: Exception) -> NoReturn:
        """End the call with the status of the error."""
        if isinstance(error, grpc.RpcError):
            self._count_end(metrics.CANCELED)
            raise error  # the caller has gone, and grpc knows it
        is_late = (
            isinstance(error, (UnavailableError, OverloadedError))
            and time.monotonic() >= self.deadline
        )
        if self._credentials_error is not None:
            if not isinstance(error, (UnauthenticatedError, PermissionDeniedError)):
                error = self._credentials_error
        elif self.cancel_scope.is_cancelled or is_late:
            error = self._deadline_exceeded()
        if isinstance(error, PermissionDeniedError) and error.principal:
            self.principal, self.is_caller_known = error.principal, True
        status = to_status(error, self.call_id, self.method)
        if self.context.is_active():
            reason = reason_of(status)
            self._count_end(status.code, reason)
            metrics.call_failures.labels(reason).inc()
        else:
            self._count_end(metrics.CANCELED)
        metadata = [*self.trailing_metadata(), (STATUS_DETAILS_KEY, status.SerializeToString())]
        accepted = challenge(error)
        if accepted is not None:
            metadata.append((CHALLENGE_KEY, accepted))
        self.context.set_trailing_metadata(tuple(metadata))
        self.context.abort(STATUS_BY_NUMBER[status.code], status.message)

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        """The call's id and span, by which its caller finds it in logs and traces."""
        metadata: list[tuple[str, str | bytes]] = [(CALL_ID_KEY, self.call_id)]
        if self._traceresponse:
            metadata.append((TRACERESPONSE_KEY, self._traceresponse))
        return metadata

    def _count_end(self, code: int, reason: str = "") -> None:
        seconds = time.monotonic() - self._started_at
        if code in (metrics.OK, metrics.CANCELED) and seconds >= self.timeout_seconds:
            # grpc has already reported this status to the caller.
            code = metrics.DEADLINE_EXCEEDED
        self._metrics.end(code, seconds)
        if self._access_log is not None:
            self._log_end(self._access_log, code, reason, seconds)
        if self.span is not None:
            end_span(self.span, self.call_id, code, reason)

    def _log_end(self, access_log: AccessLog, code: int, reason: str, seconds: float) -> None:
        if reason and reason in COUNTED_REASONS:
            access_log.count(self.method[1:], code, reason, self.call_id)
            return
        known, traceresponse = self.is_caller_known, self._traceresponse
        access_log.add(
            (
                time.time(),
                self.method[1:],
                self.principal if known else None,
                # Finding the address takes three times as long as all the rest.
                "" if known else self.context.peer(),
                code,
                reason,
                seconds,
                self.call_id,
                tracing.log_fields(traceresponse)["trace_id"] if traceresponse else "",
                self.ids or {},
                self.messages_received,
                self.messages_sent,
            )
        )

    def record_ids(self, message: Any) -> Any:
        """Record the message's ids for the access log, and return the message."""
        if self.ids is not None:
            collect_ids(message, self.ids)
        return message

    def record_received(self, message: Any) -> Any:
        """Do the same for a message of the caller's stream, and count it. Ids in lists are left
        out: a batch names thousands of rows, which are found by the id of their ingestion."""
        self.messages_received = (self.messages_received or 0) + 1
        if self.ids is not None:
            collect_ids(message, self.ids, lists=False)
        return message

    def recorded_sent(self, messages: Iterator[Any]) -> Iterator[Any]:
        """The messages of a response stream; counts each and records its ids before it is sent."""
        self.messages_received = self.messages_received or 0
        self.messages_sent = 0
        try:
            for message in messages:
                self.messages_sent += 1
                yield self.record_ids(message)
        finally:
            # As `yield from` does where the reader has gone.
            close = getattr(messages, "close", None)
            if close is not None:
                close()

    def raise_if_cancelled(self) -> None:
        """Raise unless a caller still waits for the result.

        Raises:
            DeadlineExceededError: the deadline has passed, or the caller has gone.
        """
        if self.is_cancelled(time.monotonic()):
            raise self._deadline_exceeded()

    def raise_if_expired(self, **resume_at: object) -> None:
        """Raise once a stream's lifetime is over or its credentials are invalid. `resume_at` says
        where the caller resumes.

        Raises:
            UnauthenticatedError, PermissionDeniedError: the credentials are no longer valid.
            UnavailableError: STREAM_LIFETIME_OVER, the caller opens another stream.
        """
        if self._credentials_error is not None:
            raise stream_unauthorized(self._credentials_error, **resume_at)
        if time.monotonic() >= self._started_at + self.lifetime_seconds:
            raise stream_expired(self.lifetime_seconds, **resume_at)

    def raise_if_stopped(self) -> None:
        """Raise where a stream ended because its credentials became invalid.

        Raises:
            UnauthenticatedError, PermissionDeniedError: the credentials are no longer valid.
        """
        if self.cancel_scope.is_cancelled and self._credentials_error is not None:
            raise self._credentials_error

    def is_cancelled(self, now: float) -> bool:
        """Whether the call must end: its deadline, lifetime or credentials have expired, or its
        caller has gone. `now` in seconds of time.monotonic()."""
        until = self.deadline if self.message_deadline is None else self.message_deadline
        return (
            now >= until
            or self._is_overdue(now)
            or not self.context.is_active()
            or self._is_unauthorized(now)
        )

    def _is_unauthorized(self, now: float) -> bool:
        """Whether a stream's credentials are no longer valid."""
        if self.check_credentials is None:
            return False
        if (
            self._credentials_error is None
            and now >= self._credentials_checked_at + bounds.CREDENTIALS_CHECK_SECONDS
        ):
            self._credentials_checked_at = now
            try:
                self.check_credentials()
            except (UnauthenticatedError, PermissionDeniedError) as error:
                self._credentials_error = stream_unauthorized(error)
                self._credentials_invalid_at = now
        return self._credentials_error is not None

    def stop(self) -> None:
        """Interrupt the running statement, the wait for a message, and a stream that should have
        ended. Thread-safe."""
        self.cancel_scope.cancel()
        if self.message_deadline is not None or self._is_overdue(time.monotonic()):
            self.context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out

    def _is_overdue(self, now: float) -> bool:
        ended_at = min(self._started_at + self.lifetime_seconds, self._credentials_invalid_at)
        return now >= ended_at + bounds.LAST_SECONDS

    def request_bytes(self, requests: Iterator[bytes]) -> bytes:
        """The bytes of the only request message: already received, or awaited for a few seconds
        where `incoming` cannot receive it.

        Raises:
            InvalidRequestError: the call has no message.
            grpc.RpcError: the message did not arrive in time, or the caller has gone.
        """
        if isinstance(requests, Message):
            data = next(requests, None)
        else:
            self.message_deadline = min(self.deadline, time.monotonic() + bounds.MESSAGE_SECONDS)
            data = next(requests, None)
            self.message_deadline = None
        if data is None:
            raise InvalidRequestError(
                "INVALID_FIELD", "The call carries no request message; send one."
            )
        return data

    def _deadline_exceeded(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            "DEADLINE_EXCEEDED",
            "The deadline passed before the call finished; retry with a longer deadline.",
            {"timeout_seconds": f"{self.timeout_seconds:.3g}"},
        )


_current: ContextVar[Call | None] = ContextVar("credit_service_call", default=None)


def current_call() -> Call:
    """The call on the current thread. Raises LookupError outside of a call."""
    call = _current.get()
    if call is None:
        raise LookupError("this thread serves no call")
    return call


def read_call_id(context: grpc.ServicerContext) -> tuple[str, str | None]:
    """The call's id, generated where the caller sent none, and the caller's `traceparent`."""
    call_id, traceparent = "", None
    for key, value in context.invocation_metadata():
        if key == CALL_ID_KEY and isinstance(value, str) and _CALL_ID.fullmatch(value):
            call_id = value
        elif key == TRACEPARENT_KEY and isinstance(value, str):
            traceparent = value
    return call_id or f"{random.getrandbits(64):016x}", traceparent

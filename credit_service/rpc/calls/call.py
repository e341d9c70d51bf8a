"""One call: its id, its caller, its deadline, and how it ends."""

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn, Self

import grpc
from structlog.contextvars import bind_contextvars

from credit_service.domain.errors import InvalidRequestError, OverloadedError, UnavailableError
from credit_service.domain.principals import ANONYMOUS
from credit_service.observability import metrics, tracing
from credit_service.observability.metrics import MethodMetrics
from credit_service.observability.tracing import TRACEPARENT_KEY, TRACERESPONSE_KEY, Activity, Span
from credit_service.rpc.auth.refusals import challenge, hold_no_longer
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.access_log import COUNTED_REASONS, AccessLog, Ids, note_ids
from credit_service.rpc.calls.deadlines import Warden
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.spans import end_span, span_attributes
from credit_service.rpc.calls.streams import stream_over
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
"""Metadata: a caller may name its call; the answer carries that id, or the one made for it."""

CHALLENGE_KEY = "www-authenticate"
"""Metadata of a refusal for want of credentials: which are wanted (RFC 6750)."""

_CALL_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


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
        self.lifetime_seconds = bounds.NO_LIMIT_SECONDS
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
            self.method[1:], "server", self._caller, span_attributes(self.method)
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
            reason = reason_of(status)
            self._count_end(status.code, reason)
            metrics.call_failures.labels(reason).inc()
        else:
            self._count_end(metrics.CANCELED)
        metadata = [*self.signs(), (STATUS_DETAILS_KEY, status.SerializeToString())]
        asked = challenge(error)
        if asked is not None:
            metadata.append((CHALLENGE_KEY, asked))
        self.context.set_trailing_metadata(tuple(metadata))
        self.context.abort(STATUS_BY_NUMBER[status.code], status.message)

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
            end_span(self.activity, self.call_id, code, reason)

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
            and now >= self._credentials_checked_at + bounds.CREDENTIALS_CHECK_SECONDS
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
        return now >= over_at + bounds.LAST_SECONDS

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
            self.awaits_until = min(self.deadline, time.monotonic() + bounds.MESSAGE_SECONDS)
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


def named(context: grpc.ServicerContext) -> tuple[str, Span | None]:
    """The call's id, the caller's or one made for it, and the span that the caller named."""
    call_id, caller = "", None
    for key, value in context.invocation_metadata():
        if key == CALL_ID_KEY and isinstance(value, str) and _CALL_ID.fullmatch(value):
            call_id = value
        elif key == TRACEPARENT_KEY and isinstance(value, str):
            caller = Span.read(value)
    return call_id or f"{random.getrandbits(64):016x}", caller

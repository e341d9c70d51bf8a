"""The deadline of a call's database work, and how another thread cancels it.

The edge makes one `CancelScope` per call and sets it as `current_scope`. The Database waits for a
connection no longer than the scope allows, and registers the connection in use with it.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import psycopg
import structlog

_CANCEL_TIMEOUT_SECONDS = 2.0

_log = structlog.get_logger(__name__)


Kind = Literal["read", "write", "ingestion"]
"""Which connections a call may use: see `Database`."""


class ScopeCancelledError(Exception):
    """The scope was cancelled before the statement or transaction started."""


class CancelScope:
    """The database work of one call. One thread uses it, any thread may cancel it."""

    __slots__ = ("_connection", "_lock", "_shared", "deadline", "is_cancelled", "kind")

    def __init__(self, deadline: float, kind: Kind = "read") -> None:
        """`deadline` is in seconds of time.monotonic(); it may be infinite."""
        self.deadline = deadline
        self.kind = kind
        self.is_cancelled = False
        self._connection: psycopg.Connection | None = None
        self._lock = threading.Lock()
        self._shared: _SharedScope | None = None

    def remaining_seconds(self) -> float:
        """Time until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())

    @contextmanager
    def using(self, connection: psycopg.Connection) -> Iterator[None]:
        """Let `cancel` cancel what runs on the connection inside.

        The exit waits for a cancellation in progress, which must not hit the statement of the
        connection's next user. PostgreSQL has signalled its process by then, and ignores a signal
        between two statements.

        Raises:
            ScopeCancelledError: the scope was cancelled before.
        """
        if self.is_cancelled:
            raise ScopeCancelledError
        outer, self._connection = self._connection, connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = outer

    def cancel(self) -> None:
        """Cancel the statement that runs now, if any, and let no further one start.

        May be called again, for a statement that started just after. Never fails.
        """
        self.is_cancelled = True
        shared = self._shared
        if shared is not None:
            shared.cancel_if_unused()
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)
            except psycopg.Error as error:
                # The statement timeout ends it, or the broken connection does.
                _log.warning("statement_not_cancelled", reason=type(error).__name__)


class _SharedScope(CancelScope):
    """The database work that one thread does for several calls. Ends with the last of them."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Sequence[CancelScope]) -> None:
        super().__init__(max(each.deadline for each in calls), "write")
        self._calls = calls

    def cancel_if_unused(self) -> None:
        """Cancel if every call is cancelled. A call's own cancellation calls this, repeatedly."""
        if all(each.is_cancelled for each in self._calls):
            self.cancel()

    def join(self) -> None:
        """Let the calls' cancellations reach this scope."""
        for each in self._calls:
            each._shared = self  # noqa: SLF001 - of the same module

    def leave(self) -> None:
        """End what `join` started."""
        for each in self._calls:
            each._shared = None  # noqa: SLF001 - of the same module


current_scope: ContextVar[CancelScope | None] = ContextVar("credit_service_scope", default=None)
"""The scope of the call that the current thread serves; None outside of calls."""


def is_cancelled() -> bool:
    """Whether the current scope is cancelled; for loops that wait for other things than
    statements."""
    scope = current_scope.get()
    return scope is not None and scope.is_cancelled


@contextmanager
def shared_by(calls: Sequence[CancelScope | None]) -> Iterator[None]:
    """Run the body, work for several calls, in a scope that is cancelled once all of them are.

    Its deadline is the latest of theirs. None stands for work outside of calls, which nothing
    cancels.
    """
    scopes = [each for each in calls if each is not None]
    if len(scopes) < len(calls):
        scopes.append(CancelScope(math.inf, "write"))
    scope = _SharedScope(scopes)
    token = current_scope.set(scope)
    scope.join()
    try:
        yield
    finally:
        scope.leave()
        current_scope.reset(token)


@contextmanager
def shielded() -> Iterator[None]:
    """Run the body although the call was cancelled: for cleaning up after it."""
    token = current_scope.set(None)
    try:
        yield
    finally:
        current_scope.reset(token)

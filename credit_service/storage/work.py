"""Until when a caller wants what it asks of the database, and how to stop it from elsewhere.

The edge makes one `Work` for each call and puts it into `current_work`. The Database waits for a
connection no longer than it allows, and lets it know the connection in use.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import psycopg
import structlog

_CANCEL_TIMEOUT_SECONDS = 2.0

_log = structlog.get_logger(__name__)


Kind = Literal["read", "write", "ingestion"]
"""Which connections work may use: see `Database`."""


class WorkStoppedError(Exception):
    """Nobody waits for this work any more; it was not begun."""


class Work:
    """What one caller has the database do. Used by one thread, stopped by any."""

    __slots__ = ("_connection", "_lock", "deadline", "kind", "stopped")

    def __init__(self, deadline: float, kind: Kind = "read") -> None:
        """`deadline` is in seconds of time.monotonic(); it may be infinite."""
        self.deadline = deadline
        self.kind = kind
        self.stopped = False
        self._connection: psycopg.Connection | None = None
        self._lock = threading.Lock()

    def remaining_seconds(self) -> float:
        """Time until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())

    @contextmanager
    def using(self, connection: psycopg.Connection) -> Iterator[None]:
        """Let `stop` cancel what runs on the connection inside.

        At the end it waits for a cancellation that is under way: it must not meet the statement of
        whoever has the connection next. PostgreSQL has signalled its process by then, and ignores a
        signal between two statements.

        Raises:
            WorkStoppedError: the work was stopped before.
        """
        if self.stopped:
            raise WorkStoppedError
        outer, self._connection = self._connection, connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = outer

    def stop(self) -> None:
        """Cancel the statement that runs now, if any, and let no further work begin.

        May be called again, for a statement that began just after. Never fails.
        """
        self.stopped = True
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)
            except psycopg.Error as error:
                # The statement timeout ends it, or the broken connection does.
                _log.warning("statement_not_cancelled", reason=type(error).__name__)


current_work: ContextVar[Work | None] = ContextVar("credit_service_work", default=None)
"""The work of the call that the current thread serves; None outside of calls."""


def is_wanted() -> bool:
    """Whether the current work goes on; for those that wait for something else than a statement."""
    work = current_work.get()
    return work is None or not work.stopped


@contextmanager
def aftermath() -> Iterator[None]:
    """What is done inside is done although the caller has gone: tidying up after it."""
    token = current_work.set(None)
    try:
        yield
    finally:
        current_work.reset(token)

"""The Database: connections, transactions, retries, and what their failures mean.

Use cases never commit. They get a connection inside `transaction()` (one commit at its end) or
inside `autocommit()` (every statement its own transaction: for reads, and for writes that are one
statement), and wrap the whole in `retry()` where a lost race is worth another try.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, create_engine, exc

from credit_service import metrics, tracing
from credit_service.domain.errors import RetryLater, Unavailable
from credit_service.storage.work import Work, current_work

T = TypeVar("T")

ATTEMPTS = 10
"""Tries of one unit of work before the caller is told to come again."""

_SPAN_ATTRIBUTES: tracing.Attributes = {"db.system.name": "postgresql"}
_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
_TRANSIENT = frozenset({"40001", "40P01"})  # serialization failure, deadlock detected


class LostRaceError(Exception):
    """Another transaction changed what this one had read. Only `Database.retry` sees it."""


class Database:
    """A pool of connections to PostgreSQL. Safe to share between threads, not between processes."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 12,
        statement_timeout_seconds: float = 10.0,
        lock_timeout_seconds: float = 3.0,
        idle_in_transaction_timeout_seconds: float = 30.0,
        pool_timeout_seconds: float = 2.0,
        application_name: str = "credit-service",
    ) -> None:
        options = " ".join(
            f"-c {name}={int(seconds * 1000)}"
            for name, seconds in (
                ("statement_timeout", statement_timeout_seconds),
                ("lock_timeout", lock_timeout_seconds),
                ("idle_in_transaction_session_timeout", idle_in_transaction_timeout_seconds),
            )
        )
        self._engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            # A connection that died is found by the statement that meets it: see `_translated`.
            pool_pre_ping=False,
            # Connections rest in the mode that most calls want, and that needs no tidying up.
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            # Errors are logged, and a statement's parameters are people's names and numbers.
            hide_parameters=True,
            connect_args={
                "application_name": application_name,
                "connect_timeout": 3,
                "options": f"{options} -c timezone=UTC",
                "prepare_threshold": 2,
            },
        )
        self._pool_size = pool_size
        self._pool_timeout_seconds = pool_timeout_seconds
        # One for each connection: the pool's own wait knows no deadline.
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(pool_size):
            self._slots.put(None)
        self._transactional = self._engine.execution_options(isolation_level="READ COMMITTED")
        # Connections that are as new, at hand for the next call, the last one used first. Giving
        # one back to the pool and taking it out again costs half of what a read does.
        self._kept: deque[Connection] = deque()

    def dispose(self) -> None:
        """Close every connection."""
        self._close_kept()
        self._engine.dispose()

    def pool_use(self) -> tuple[int, int]:
        """Connections in use, and how many there may be."""
        return self._pool_size - self._slots.qsize(), self._pool_size

    def transaction(self) -> AbstractContextManager[Connection]:
        """A connection in a transaction that commits at the end and rolls back on an exception.

        Raises:
            Unavailable: the database is out of reach, or no connection became free in time.
            RetryLater: a row stayed locked by another call for too long.
            LostRaceError: serialization failure or deadlock.
            WorkStoppedError: nobody waits for the current work any more.
        """
        return tracing.as_part("transaction", _SPAN_ATTRIBUTES, self._begin())

    def autocommit(self) -> AbstractContextManager[Connection]:
        """A connection on which every statement is a transaction of its own. Raises as above."""
        return tracing.as_part("autocommit", _SPAN_ATTRIBUTES, self._lend())

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A connection in a transaction, for the current work, which may stop what runs on it."""
        with self._slot() as work, _translated():
            with suppress(IndexError):
                # The pool needs room for it.
                self._kept.pop().close()
            with self._transactional.begin() as connection:
                try:
                    with _used_by(work, connection):
                        yield connection
                except BaseException:
                    self._note_broken(connection)
                    raise

    # As above, and not made of the same parts: a third of what a short read costs was theirs.
    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        """A connection on which every statement is a transaction of its own, for the current work,
        which may stop what runs on it."""
        work = current_work.get()
        self._await_slot(work)
        connection: Connection | None = None
        try:
            try:
                connection = self._kept.pop()
            except IndexError:
                connection = self._engine.connect()
            if work is None:
                yield connection
            else:
                with work.using(_driver_connection(connection)):
                    yield connection
        except BaseException as error:
            if connection is not None:
                self._note_broken(connection)
                connection.close()
            meaning = _meaning(error)
            if meaning is error:
                raise
            raise meaning from error
        else:
            if connection.in_transaction():
                # A statement went through SQLAlchemy, which has something to tidy up.
                connection.close()
            else:
                self._kept.append(connection)
        finally:
            self._slots.put(None)

    def _note_broken(self, connection: Connection) -> None:
        """What broke a connection broke the kept ones as well."""
        if connection.invalidated:
            self._close_kept()

    def _close_kept(self) -> None:
        with suppress(IndexError):
            while True:
                connection = self._kept.pop()
                connection.invalidate()
                connection.close()

    @contextmanager
    def _slot(self) -> Iterator[Work | None]:
        work = current_work.get()
        self._await_slot(work)
        try:
            yield work
        finally:
            self._slots.put(None)

    def _await_slot(self, work: Work | None) -> None:
        """Wait for a connection to be free, no longer than the work's deadline allows."""
        timeout_seconds = self._pool_timeout_seconds
        if work is not None:
            timeout_seconds = min(timeout_seconds, work.remaining_seconds())
        try:
            self._slots.get(timeout=timeout_seconds)
        except queue.Empty:
            raise _unavailable("No database connection became free in time.") from None

    def retry(self, work: Callable[[int], T]) -> T:
        """Run `work(attempt)`, attempt counting from 0, again while it loses races.

        Raises:
            RetryLater: the race was lost too often.
        """
        for attempt in range(ATTEMPTS):
            try:
                return work(attempt)
            except LostRaceError:
                metrics.lost_races.inc()
                # From a few hundred microseconds up, spread so that rivals do not meet again.
                time.sleep(random.uniform(0, 0.0005 * 2**attempt))  # noqa: S311 - a pause, no secret
        raise RetryLater(
            "CONFLICT_RETRIES_EXHAUSTED",
            "Other calls kept changing this customer; send the same request again.",
            retry_after_seconds=0.2,
        )


def _used_by(work: Work | None, connection: Connection) -> AbstractContextManager[None]:
    return nullcontext() if work is None else work.using(_driver_connection(connection))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        meaning = _meaning(error)
        if meaning is error:
            raise
        raise meaning from error


def _meaning(error: BaseException) -> BaseException:
    """What a failure of the database means to the caller; anything else as it is."""
    if isinstance(error, exc.TimeoutError):
        return _unavailable("No database connection became free in time.")
    if isinstance(error, psycopg.Error):
        return _meaning_of_driver_error(error)
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, psycopg.Error):
        meaning = _meaning_of_driver_error(error.orig)
        return error if meaning is error.orig else meaning
    return error


def _meaning_of_driver_error(error: psycopg.Error) -> Exception:
    state = error.sqlstate
    if state in _TRANSIENT:
        return LostRaceError(state)
    if state == _LOCK_NOT_AVAILABLE:
        return RetryLater(
            "REQUEST_IN_PROGRESS",
            "Another call is still working on this; send the same request again.",
            retry_after_seconds=0.5,
        )
    if state == _QUERY_CANCELED:
        return _unavailable("The database took too long to answer.")
    # Class 08 connection, 53 resources, 57P operator intervention; None: the connection broke.
    broken = state is None or state.startswith(("08", "53", "57P"))
    if broken and isinstance(error, psycopg.OperationalError):
        return _unavailable("The database is out of reach.")
    return error


def _unavailable(message: str) -> Unavailable:
    return Unavailable("DATABASE_UNAVAILABLE", message, retry_after_seconds=1.0)


def _driver_connection(connection: Connection) -> psycopg.Connection:
    driver_connection = connection.connection.driver_connection
    assert isinstance(driver_connection, psycopg.Connection)  # noqa: S101 - the only driver used
    return driver_connection


def constraint_of(error: exc.IntegrityError) -> str:
    """Name of the constraint that refused a statement; empty where the database gives none."""
    original = error.orig
    if isinstance(original, psycopg.Error):
        return original.diag.constraint_name or ""
    return ""

"""The Database: connections, transactions, retries, and what their failures mean.

Use cases never commit. They get a connection inside `transaction()` (one commit at its end) or
inside `autocommit()` (every statement its own transaction: for reads, and for writes that are one
statement), and wrap the whole in `retry()` where a lost race is worth another try.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

import psycopg
import structlog
from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from credit_service.domain.errors import OverloadedError, RetryLaterError, UnavailableError
from credit_service.observability import metrics, tracing
from credit_service.storage import sessions
from credit_service.storage.cancellation import (
    CancelScope,
    Kind,
    ScopeCancelledError,
    current_scope,
)
from credit_service.storage.sessions import (
    POOLER_ADVICE,
    POOLER_REFUSAL,
    Pooler,
    SessionSettings,
    connect_arguments,
)

T = TypeVar("T")

ATTEMPTS = 10
"""Tries of one unit of work before the caller is told to come again."""

_SPAN_ATTRIBUTES: tracing.Attributes = {"db.system.name": "postgresql"}
_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
_TRANSIENT = frozenset({"40001", "40P01"})  # serialization failure, deadlock detected
_READ_ONLY = "25006"
_DISK_FULL = "53100"
# Idle in transaction, or in one transaction, for too long: PostgreSQL has closed the connection.
_SESSION_TIMED_OUT = frozenset({"25P03", "25P04"})
# Class 08 connection, 53 resources, 57P operator intervention, 58 system (an I/O error).
_OUT_OF_REACH = ("08", "53", "57P", "58")
_GENERATION = "credit_service_generation"
_LEAST_GENERATION_SECONDS = 1.0
# A batch of an ingestion takes seconds, and others may wait for a turn of such.
_INGESTION_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.25

_Slots = queue.SimpleQueue[None]

_log = structlog.get_logger(__name__)


class DiskFullError(UnavailableError):
    """The database's disk had no room for what a statement was to write."""


class LostRaceError(Exception):
    """Another transaction changed what this one had read. Only `Database.retry` sees it."""


def write_share(pool_size: int) -> int:
    """How many connections of a pool calls that write may use at once: five sixths."""
    return max(1, pool_size - max(1, pool_size // 6))


def _ingestion_share(pool_size: int) -> int:
    """How many of them ingestions may use: half of the pool."""
    return max(1, pool_size // 2)


class Database:
    """A pool of connections to PostgreSQL. Safe to share between threads, not between processes.

    Writes may wait for rows that others have locked, and keep their connections meanwhile. So that
    some are left for reads, calls that write use at most five sixths of the connections, and
    ingestions at most half. Work outside of calls has no such limit.
    """

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
        pooler: Pooler = "none",
    ) -> None:
        """`pooler` is what stands between this and PostgreSQL: see `storage.sessions`."""
        self.session_settings = SessionSettings(
            statement_timeout_ms=int(statement_timeout_seconds * 1000),
            lock_timeout_ms=int(lock_timeout_seconds * 1000),
            idle_in_transaction_timeout_ms=int(idle_in_transaction_timeout_seconds * 1000),
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
            # With a pooler transactions are begun in this mode as well.
            skip_autocommit_rollback=pooler == "none",
            # Errors are logged, and a statement's parameters are people's names and numbers.
            hide_parameters=True,
            connect_args={
                "application_name": application_name,
                "connect_timeout": 3,
                **connect_arguments(self.session_settings, pooler),
            },
        )
        # Connections opened before this number was raised are replaced at their next use.
        self._generation = 0
        self._generation_began = 0.0
        event.listen(self._engine, "connect", self._note_generation)
        event.listen(self._engine, "checkout", self._refuse_older_generation)
        self._pool_size = pool_size
        self._pool_timeout_seconds = pool_timeout_seconds
        # One for each connection: the pool's own wait knows no deadline.
        self._slots = _make_slots(pool_size)
        writes = _make_slots(write_share(pool_size))
        ingestions = _make_slots(_ingestion_share(pool_size))
        # What work of each kind needs one of, in the order in which it is taken.
        self._needs: dict[Kind, Sequence[_Slots]] = {
            "read": (self._slots,),
            "write": (writes, self._slots),
            "ingestion": (ingestions, writes, self._slots),
        }
        self._transactional = self._make_transactional(pooler)
        # Connections that are as new, each with its generation, at hand for the next call, the last
        # one used first. Giving one back to the pool and taking it out again costs half of what a
        # read does.
        self._kept: deque[tuple[int, Connection]] = deque()

    def _make_transactional(self, pooler: Pooler) -> Engine:
        """The same engine, for transactions."""
        if pooler == "none":
            return self._engine.execution_options(isolation_level="READ COMMITTED")
        transactional = self._engine.execution_options()

        def begin(connection: Connection) -> None:
            sessions.begin(driver_connection(connection), self.session_settings)

        event.listen(transactional, "begin", begin)
        return transactional

    def dispose(self) -> None:
        """Close every connection."""
        self._close_kept()
        self._engine.dispose()

    def renew(self) -> None:
        """Replace every connection at its next use; close those that are idle now.

        For when sessions opened so far may be unfit: a session that began while the database was
        read-only stays read-only.
        """
        self._generation += 1
        self._generation_began = time.monotonic()
        self._close_kept()

    def pool_use(self) -> tuple[int, int]:
        """Connections in use, and how many there may be."""
        return self._pool_size - self._slots.qsize(), self._pool_size

    def transaction(self) -> AbstractContextManager[Connection]:
        """A connection in a transaction that commits at the end and rolls back on an exception.

        Raises:
            UnavailableError: the database is out of reach, or no connection became free in time.
            OverloadedError: OVERLOADED, calls of the same kind used all connections that they may.
            RetryLaterError: a row stayed locked by another call for too long.
            LostRaceError: serialization failure or deadlock.
            ScopeCancelledError: the current call was cancelled.
        """
        return tracing.in_child_span("transaction", _SPAN_ATTRIBUTES, self._begin())

    def autocommit(self) -> AbstractContextManager[Connection]:
        """A connection on which every statement is a transaction of its own. Raises as above."""
        return tracing.in_child_span("autocommit", _SPAN_ATTRIBUTES, self._lend())

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A connection in a transaction, for the current work, which may stop what runs on it."""
        with self._slot() as scope, _translated():
            with suppress(IndexError):
                # The pool needs room for it.
                self._kept.pop()[1].close()
            with self._transactional.begin() as connection:
                try:
                    with _used_by(scope, connection):
                        yield connection
                except BaseException as error:
                    self._drop_unfit(connection, error)
                    raise

    # As above, and not made of the same parts: a third of what a short read costs was theirs.
    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        """A connection on which every statement is a transaction of its own, for the current work,
        which may stop what runs on it."""
        scope = current_scope.get()
        slots = self._await_slots(scope)
        connection: Connection | None = None
        try:
            generation, connection = self._take()
            if scope is None:
                yield connection
            else:
                with scope.using(driver_connection(connection)):
                    yield connection
        except BaseException as error:
            if connection is not None:
                self._drop_unfit(connection, error)
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
                self._kept.append((generation, connection))
        finally:
            _give_back(slots)

    def _take(self) -> tuple[int, Connection]:
        """A connection at hand, or else one from the pool, with its generation."""
        with suppress(IndexError):
            while True:
                generation, connection = self._kept.pop()
                if generation == self._generation:
                    return generation, connection
                _close_for_good(connection)
        # Read first: a connection made while the generation ends belongs to the one that ended.
        generation = self._generation
        return generation, self._engine.connect()

    def _drop_unfit(self, connection: Connection, error: BaseException) -> None:
        """Close a connection that the failure has broken, or shown to be read-only, for good.

        What is wrong with one is wrong with the others that were opened before.
        """
        driver_error = _driver_error(error)
        if not connection.invalidated:
            unfit = driver_error is not None and _shows_unfit(driver_error)
            if not unfit and not driver_connection(connection).closed:
                return
            connection.invalidate(error if isinstance(error, Exception) else None)
        if driver_error is not None and driver_error.sqlstate == _READ_ONLY:
            # As long as it lasts every write finds it so: reads are to keep their connections.
            if time.monotonic() - self._generation_began < _LEAST_GENERATION_SECONDS:
                return
            _log.warning("database_read_only", error=str(driver_error).splitlines()[0])
        self.renew()

    def _close_kept(self) -> None:
        with suppress(IndexError):
            while True:
                _close_for_good(self._kept.pop()[1])

    def _note_generation(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_GENERATION] = self._generation

    def _refuse_older_generation(
        self, _connection: object, record: ConnectionPoolEntry, _proxy: object
    ) -> None:
        """Raises DisconnectionError, upon which the pool connects anew."""
        if record.info[_GENERATION] != self._generation:
            raise exc.DisconnectionError

    @contextmanager
    def _slot(self) -> Iterator[CancelScope | None]:
        scope = current_scope.get()
        slots = self._await_slots(scope)
        try:
            yield scope
        finally:
            _give_back(slots)

    def _await_slots(self, scope: CancelScope | None) -> Sequence[_Slots]:
        """Wait for a connection that work of this kind may use, no longer than the work's deadline
        allows. What is returned is for `_give_back`."""
        needs = self._needs["read" if scope is None else scope.kind]
        timeout_seconds = self._pool_timeout_seconds
        if scope is not None:
            if scope.kind == "ingestion":
                timeout_seconds = max(timeout_seconds, _INGESTION_PATIENCE_SECONDS)
            timeout_seconds = min(timeout_seconds, scope.remaining_seconds())
        until = time.monotonic() + timeout_seconds
        for place, slots in enumerate(needs):
            try:
                _take_slot(slots, scope, until, is_share=slots is not self._slots)
            except BaseException:
                _give_back(needs[:place])
                raise
        return needs

    def retry(self, work: Callable[[int], T]) -> T:
        """Run `work(attempt)`, attempt counting from 0, again while it loses races.

        Raises:
            RetryLaterError: the race was lost too often.
        """
        for attempt in range(ATTEMPTS):
            try:
                return work(attempt)
            except LostRaceError:
                metrics.lost_races.inc()
                # From a few hundred microseconds up, spread so that rivals do not meet again.
                time.sleep(random.uniform(0, 0.0005 * 2**attempt))  # noqa: S311 - a pause, no secret
        raise RetryLaterError(
            "CONFLICT_RETRIES_EXHAUSTED",
            "Other calls kept changing this customer; send the same request again.",
            retry_after_seconds=0.2,
        )


def _make_slots(count: int) -> _Slots:
    slots: _Slots = queue.SimpleQueue()
    for _ in range(count):
        slots.put(None)
    return slots


def _take_slot(slots: _Slots, scope: CancelScope | None, until: float, *, is_share: bool) -> None:
    """Take one, waiting until that time, in seconds of time.monotonic(), at most. Raises
    UnavailableError, OverloadedError, ScopeCancelledError."""
    while True:
        left_seconds = max(0.0, until - time.monotonic())
        try:
            slots.get(timeout=min(left_seconds, _LOOK_SECONDS))
        except queue.Empty:
            if scope is not None and scope.is_cancelled:
                raise ScopeCancelledError from None
            if left_seconds <= _LOOK_SECONDS:
                raise _no_connection(is_share=is_share) from None
        else:
            return


def _give_back(slots: Sequence[_Slots]) -> None:
    for each in slots:
        each.put(None)


def _close_for_good(connection: Connection) -> None:
    connection.invalidate()
    connection.close()


def _used_by(scope: CancelScope | None, connection: Connection) -> AbstractContextManager[None]:
    return nullcontext() if scope is None else scope.using(driver_connection(connection))


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
    driver_error = _driver_error(error)
    if driver_error is None:
        return error
    meaning = _meaning_of_driver_error(driver_error)
    return error if meaning is driver_error else meaning


def _driver_error(error: BaseException) -> psycopg.Error | None:
    """The driver's error that this is or wraps; None where it is none of the database's."""
    if isinstance(error, exc.DBAPIError):
        return error.orig if isinstance(error.orig, psycopg.Error) else None
    return error if isinstance(error, psycopg.Error) else None


def _shows_unfit(error: psycopg.Error) -> bool:
    """Whether the connection that the error came by is of no further use."""
    state = error.sqlstate or ""
    return state in {_READ_ONLY, *_SESSION_TIMED_OUT} or state.startswith(("08", "57P"))


def _meaning_of_driver_error(error: psycopg.Error) -> Exception:
    state = error.sqlstate
    if state in _TRANSIENT:
        return LostRaceError(state)
    if state == _LOCK_NOT_AVAILABLE:
        return in_progress()
    if state == _QUERY_CANCELED:
        return _unavailable("The database took too long to answer.")
    if state == _READ_ONLY:
        return _unavailable("The database is read-only now and takes no writes.")
    if state in _SESSION_TIMED_OUT:
        return _unavailable("The database ended a transaction that took too long.")
    if state == _DISK_FULL:
        return DiskFullError(
            "DATABASE_UNAVAILABLE",
            "The database has no room left on its disk.",
            retry_after_seconds=1.0,
        )
    # Without a state: the connection broke, or there was none.
    out_of_reach = state is None or state.startswith(_OUT_OF_REACH)
    if out_of_reach and isinstance(error, psycopg.OperationalError):
        if POOLER_REFUSAL in str(error):
            return _unavailable(f"A pooler refuses the connection's settings: {POOLER_ADVICE}.")
        return _unavailable("The database is out of reach.")
    return error


def in_progress() -> RetryLaterError:
    """The refusal of a call that has waited for another one for too long."""
    return RetryLaterError(
        "REQUEST_IN_PROGRESS",
        "Another call is still working on this; send the same request again.",
        retry_after_seconds=0.5,
    )


def _no_connection(*, is_share: bool) -> UnavailableError | OverloadedError:
    """The refusal of work for which no connection became free in time; `is_share` tells that there
    may be some, and not for work of this kind."""
    if is_share:
        return OverloadedError(
            "OVERLOADED",
            "The server has as many calls of this kind as it can hold; come again shortly.",
            retry_after_seconds=0.5,
        )
    return _unavailable("No database connection became free in time.")


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError("DATABASE_UNAVAILABLE", message, retry_after_seconds=1.0)


def driver_connection(connection: Connection) -> psycopg.Connection:
    """The driver's own connection."""
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101 - the only driver used
    return found


def constraint_of(error: exc.IntegrityError) -> str:
    """Name of the constraint that refused a statement; empty where the database gives none."""
    original = error.orig
    if isinstance(original, psycopg.Error):
        return original.diag.constraint_name or ""
    return ""

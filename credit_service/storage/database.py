"""The Database: connections, transactions, retries, and what their failures mean.

Use cases never commit. They get a connection inside `transaction()` (one commit at its end) or
inside `autocommit()` (every statement its own transaction: for reads, and for writes that are one
statement), and wrap the whole in `retry()` where a lost race is worth another try.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TypeVar

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, create_engine, exc
from sqlalchemy.pool import NullPool

from credit_service.domain.errors import OverloadedError, RetryLaterError, UnavailableError
from credit_service.observability import metrics, tracing
from credit_service.postgresql_url import Host
from credit_service.storage import sessions, violations
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
    network_arguments,
)

T = TypeVar("T")

ATTEMPTS = 10
"""Attempts at one operation before the caller has to retry it."""

NO_WRITABLE_SERVER = "No server of the database accepts writes."
"""The message while the URL requires a server that accepts writes, and only others answer."""

_SPAN_ATTRIBUTES: tracing.Attributes = {"db.system.name": "postgresql"}
_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
_TRANSIENT = frozenset({"40001", "40P01"})  # serialization failure, deadlock detected
_READ_ONLY = "25006"
# libpq, about a host that does not have the target_session_attrs of the URL.
_NOT_WRITABLE = "session is read-only"
_DISK_FULL = "53100"
# Idle in transaction, or in one transaction, for too long: PostgreSQL has closed the connection.
_SESSION_TIMED_OUT = frozenset({"25P03", "25P04"})
# PostgreSQL's function that waits until a standby has a commit. Its notices say that the wait ended
# before that.
_REPLICATION_WAIT = "SyncRepWaitForLSN"
# Class 08 connection, 53 resources, 57P operator intervention, 58 system (an I/O error).
_OUT_OF_REACH = ("08", "53", "57P", "58")
_MIN_GENERATION_SECONDS = 1.0
# A batch of an ingestion takes seconds, and several may wait for a connection.
_INGESTION_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.25

_Slots = queue.SimpleQueue[None]

_log = structlog.get_logger(__name__)


class DiskFullError(UnavailableError):
    """A statement could not write: the database's disk is full."""


class LostRaceError(Exception):
    """Another transaction changed what this one had read. Only `Database.retry` catches it."""


def write_share(pool_size: int) -> int:
    """Return how many connections of a pool writing calls may use at once: five sixths."""
    return max(1, pool_size - max(1, pool_size // 6))


def _ingestion_share(pool_size: int) -> int:
    """Return how many connections of a pool ingestions may use at once: half."""
    return max(1, pool_size // 2)


class Database:
    """A pool of connections to PostgreSQL. Safe to share between threads, not between processes.

    Writes keep their connections while they wait for locked rows. To leave some for reads, writing
    calls use at most five sixths of the connections, and ingestions at most half. Work outside of
    calls has no such limit.
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
        self._begin = sessions.begin_statement(self.session_settings, pooler)
        self._engine = create_engine(
            url,
            poolclass=NullPool,
            # Connections stay in this mode: `transaction` begins and commits by itself.
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            # Errors are logged, and a statement's parameters are people's names and numbers.
            hide_parameters=True,
            connect_args={
                "application_name": application_name,
                **network_arguments(url),
                **connect_arguments(self.session_settings, pooler),
            },
        )
        self._pool_size = pool_size
        self._pool_timeout_seconds = pool_timeout_seconds
        # A thread that holds one of these may use a connection.
        self._slots = _make_slots(pool_size)
        writes = _make_slots(write_share(pool_size))
        ingestions = _make_slots(_ingestion_share(pool_size))
        # The slots that a call of each kind needs, in the order in which it acquires them.
        self._needs: dict[Kind, Sequence[_Slots]] = {
            "read": (self._slots,),
            "write": (writes, self._slots),
            "ingestion": (ingestions, writes, self._slots),
        }
        # Idle connections, each with its generation. The last one returned is the next one used.
        self._idle: deque[tuple[int, Connection]] = deque()
        # A connection of an earlier generation is closed instead of used.
        self._generation = 0
        self._generation_started_at = 0.0
        # Connections whose last commit a synchronous standby has not confirmed.
        self._unconfirmed: set[psycopg.Connection] = set()

    def dispose(self) -> None:
        """Close every idle connection."""
        with suppress(IndexError):
            while True:
                _discard(self._idle.pop()[1])

    def renew(self) -> None:
        """Close the idle connections now, and those in use before their next use.

        For when open sessions may be unusable: a session that started while the database was
        read-only stays read-only.
        """
        self._generation += 1
        self._generation_started_at = time.monotonic()
        self.dispose()

    def pool_use(self) -> tuple[int, int]:
        """Return how many connections are in use, and the pool's size."""
        return self._pool_size - self._slots.qsize(), self._pool_size

    def transaction(self) -> AbstractContextManager[Connection]:
        """Check out a connection, begin a transaction, and commit it; on an exception roll back.

        Raises:
            UnavailableError: the database is unreachable, or no connection became free in time.
            OverloadedError: OVERLOADED, calls of the same kind use all connections that they may.
            RetryLaterError: another call kept a row locked for too long.
            LostRaceError: serialization failure or deadlock.
            ScopeCancelledError: the current call was cancelled.
        """
        return tracing.in_child_span("transaction", _SPAN_ATTRIBUTES, self._checkout(self._begin))

    def autocommit(self) -> AbstractContextManager[Connection]:
        """Check out a connection on which every statement is a transaction. Raises as above."""
        return tracing.in_child_span("autocommit", _SPAN_ATTRIBUTES, self._checkout(None))

    # One generator instead of nested context managers: those took a third of a short read's time.
    @contextmanager
    def _checkout(self, begin: bytes | None) -> Iterator[Connection]:
        """Check out a connection for the current call, which may cancel what runs on it; with
        `begin`, a statement, in a transaction."""
        scope = current_scope.get()
        slots = self._acquire_slots(scope)
        connection: Connection | None = None
        driver: psycopg.Connection | None = None
        try:
            generation, connection = self._take()
            driver = driver_connection(connection)
            if begin is not None:
                psycopg.Cursor(driver).execute(begin, prepare=False)
            if scope is None:
                yield connection
                if begin is not None:
                    driver.commit()
            else:
                with scope.using(driver):
                    yield connection
                    # Inside: with synchronous replication it waits as long as there is no standby.
                    if begin is not None:
                        driver.commit()
            self._raise_if_unconfirmed(driver)
            if connection.in_transaction():
                # This resets SQLAlchemy's state alone: the driver is in autocommit mode.
                connection.rollback()
            self._idle.append((generation, connection))
        except BaseException as error:
            if connection is not None:
                self._drop_unusable(connection, error)
                if _is_usable(connection):
                    self._idle.append((generation, connection))
                else:
                    _discard(connection)
            if driver is not None:
                self._unconfirmed.discard(driver)
            meaning = _meaning(error)
            if meaning is error:
                raise
            raise meaning from error
        finally:
            _release(slots)

    def _take(self) -> tuple[int, Connection]:
        """Return an idle connection, or else a new one, with its generation."""
        with suppress(IndexError):
            while True:
                generation, connection = self._idle.pop()
                if generation == self._generation:
                    return generation, connection
                _discard(connection)
        # Read first: a connection opened while the generation changes belongs to the earlier one.
        generation = self._generation
        connection = self._engine.connect()
        driver = driver_connection(connection)
        driver.add_notice_handler(partial(self._heed, driver))
        return generation, connection

    def _raise_if_unconfirmed(self, driver: psycopg.Connection) -> None:
        if driver in self._unconfirmed:
            raise _unavailable("No standby has confirmed the commit; retry the same request.")

    def _heed(self, driver: psycopg.Connection, notice: psycopg.errors.Diagnostic) -> None:
        """Note a commit that is on this server only: its cancellation ended the wait for the
        standby. A failover may lose it, so the call must not succeed."""
        if notice.source_function == _REPLICATION_WAIT:
            self._unconfirmed.add(driver)

    def _drop_unusable(self, connection: Connection, error: BaseException) -> None:
        """Close a connection that the error has broken or shown to be read-only.

        The other connections opened before have the same fault.
        """
        driver_error = _driver_error(error)
        if not connection.invalidated:
            is_fatal = driver_error is not None and _is_fatal(driver_error)
            if not is_fatal and not driver_connection(connection).closed:
                return
            connection.invalidate(error if isinstance(error, Exception) else None)
        if driver_error is not None and driver_error.sqlstate == _READ_ONLY:
            # Every write fails with it for as long as it lasts: reads keep their connections.
            if time.monotonic() - self._generation_started_at < _MIN_GENERATION_SECONDS:
                return
            _log.warning("database_read_only", error=str(driver_error).splitlines()[0])
        self.renew()

    def _acquire_slots(self, scope: CancelScope | None) -> Sequence[_Slots]:
        """Wait for a connection that this kind of call may use, until its deadline at most; return
        what `_release` takes."""
        needs = self._needs["read" if scope is None else scope.kind]
        timeout_seconds = self._pool_timeout_seconds
        if scope is not None:
            if scope.kind == "ingestion":
                timeout_seconds = max(timeout_seconds, _INGESTION_TIMEOUT_SECONDS)
            timeout_seconds = min(timeout_seconds, scope.remaining_seconds())
        until = time.monotonic() + timeout_seconds
        for place, slots in enumerate(needs):
            try:
                _acquire_slot(slots, scope, until, is_share=slots is not self._slots)
            except BaseException:
                _release(needs[:place])
                raise
        return needs

    def retry(self, operation: Callable[[int], T]) -> T:
        """Run `operation(attempt)`, attempt counting from 0, again while it loses races.

        Raises:
            RetryLaterError: it lost ATTEMPTS races.
        """
        for attempt in range(ATTEMPTS):
            try:
                return operation(attempt)
            except LostRaceError:
                metrics.lost_races.inc()
                # From a few hundred microseconds up, spread so that rivals do not collide again.
                time.sleep(random.uniform(0, 0.0005 * 2**attempt))  # noqa: S311 - a pause, no secret
        raise RetryLaterError(
            "CONFLICT_RETRIES_EXHAUSTED",
            "Concurrent requests kept changing this customer; retry the same request.",
            retry_after_seconds=0.2,
        )


def _make_slots(count: int) -> _Slots:
    slots: _Slots = queue.SimpleQueue()
    for _ in range(count):
        slots.put(None)
    return slots


def _acquire_slot(
    slots: _Slots, scope: CancelScope | None, until: float, *, is_share: bool
) -> None:
    """Acquire one slot; wait until that time at most, in seconds of time.monotonic(). Raises
    UnavailableError, OverloadedError, ScopeCancelledError."""
    while True:
        remaining_seconds = max(0.0, until - time.monotonic())
        try:
            slots.get(timeout=min(remaining_seconds, _POLL_SECONDS))
        except queue.Empty:
            if scope is not None and scope.is_cancelled:
                raise ScopeCancelledError from None
            if remaining_seconds <= _POLL_SECONDS:
                raise _no_connection(is_share=is_share) from None
        else:
            return


def _release(slots: Sequence[_Slots]) -> None:
    for each in slots:
        each.put(None)


def _is_usable(connection: Connection) -> bool:
    """Roll back what a failure left open; return whether the connection can be used again."""
    if connection.invalidated:
        return False
    # This resets SQLAlchemy's state alone: the driver is in autocommit mode.
    connection.rollback()
    driver = driver_connection(connection)
    if driver.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        with suppress(psycopg.Error):
            driver.rollback()
    return driver.info.transaction_status == TransactionStatus.IDLE


def _discard(connection: Connection) -> None:
    connection.invalidate()
    connection.close()


def _meaning(error: BaseException) -> BaseException:
    """Translate a database error for the caller; return any other error unchanged."""
    driver_error = _driver_error(error)
    if driver_error is None:
        return error
    meaning = _meaning_of_driver_error(driver_error)
    return error if meaning is driver_error else meaning


def _driver_error(error: BaseException) -> psycopg.Error | None:
    """Return the driver's error that this is or wraps; None for any other error."""
    if isinstance(error, exc.DBAPIError):
        return error.orig if isinstance(error.orig, psycopg.Error) else None
    return error if isinstance(error, psycopg.Error) else None


def _is_fatal(error: psycopg.Error) -> bool:
    """Return whether the error makes its connection unusable."""
    state = error.sqlstate or ""
    return state in {_READ_ONLY, *_SESSION_TIMED_OUT} or state.startswith(("08", "57P"))


def _meaning_of_driver_error(error: psycopg.Error) -> Exception:
    state = violations.sqlstate_of(error)
    if state in _TRANSIENT:
        return LostRaceError(state)
    if state == _LOCK_NOT_AVAILABLE:
        return in_progress()
    if state == _QUERY_CANCELED:
        return _unavailable("The database timed out.")
    if state == _READ_ONLY:
        return _unavailable("The database is read-only and accepts no writes.")
    if state in _SESSION_TIMED_OUT:
        return _unavailable("The database ended a transaction that took too long.")
    if state == _DISK_FULL:
        return DiskFullError(
            "DATABASE_UNAVAILABLE",
            "The database has no space left on its disk.",
            retry_after_seconds=1.0,
        )
    # Without a state: the connection broke or failed.
    out_of_reach = state is None or state.startswith(_OUT_OF_REACH)
    if out_of_reach and isinstance(error, psycopg.OperationalError):
        if POOLER_REFUSAL in str(error):
            return _unavailable(f"A pooler rejects the connection's settings: {POOLER_ADVICE}.")
        if _NOT_WRITABLE in str(error):
            return _unavailable(NO_WRITABLE_SERVER)
        return _unavailable("The database is unreachable.")
    return error


def in_progress() -> RetryLaterError:
    """Return the error for a call that waited too long for another one."""
    return RetryLaterError(
        "REQUEST_IN_PROGRESS",
        "Another call is still working on this; retry the same request.",
        retry_after_seconds=0.5,
    )


def _no_connection(*, is_share: bool) -> UnavailableError | OverloadedError:
    """Return the error for a call that got no connection in time; with `is_share`, only its kind of
    calls is at its limit."""
    if is_share:
        return OverloadedError(
            "OVERLOADED",
            "The server is at capacity for calls of this kind; retry shortly.",
            retry_after_seconds=0.5,
        )
    return _unavailable("No database connection became free in time.")


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError("DATABASE_UNAVAILABLE", message, retry_after_seconds=1.0)


def driver_connection(connection: Connection) -> psycopg.Connection:
    """Return the driver's connection."""
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101 - the only driver used
    return found


def server_of(connection: Connection) -> str:
    """Return the server that the connection uses, as in `postgresql_url.shown_hosts`."""
    info = driver_connection(connection).info
    return str(Host(info.host, info.port))


def constraint_of(error: exc.IntegrityError) -> str:
    """Return the name of the violated constraint; empty if the database names none."""
    original = error.orig
    return violations.constraint_of(original) if isinstance(original, psycopg.Error) else ""


@contextmanager
def lost_race_on(constraints: Collection[str]) -> Iterator[None]:
    """Raise LostRaceError where the block violates one of these constraints, which a concurrent
    transaction with the same key does."""
    try:
        yield
    except exc.IntegrityError as error:
        constraint = constraint_of(error)
        if constraint in constraints:
            raise LostRaceError(constraint) from error
        raise

"""The connection pool: idle connections are reused, bounded, and replaced when they break."""

import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from credit_service.domain.errors import OverloadedError, UnavailableError
from credit_service.storage import schema
from credit_service.storage.cancellation import (
    CancelScope,
    Kind,
    ScopeCancelledError,
    current_scope,
)
from credit_service.storage.database import Database, driver_connection
from credit_service.storage.statements import Statement
from tests.integration.credit.test_create_loan import in_parallel

BACKEND = Statement("SELECT pg_backend_pid()")
SLEEP = Statement("SELECT pg_sleep(20)")
SIZE = 3


@pytest.fixture
def small(database_url: str) -> Iterator[Database]:
    made = Database(database_url, pool_size=SIZE, pool_timeout_seconds=0.5)
    yield made
    made.dispose()


def backend(database: Database) -> int:
    with database.autocommit() as connection:
        row = BACKEND.row(connection, {})
    assert row is not None
    return int(row[0])


def in_transaction(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("SELECT 1")


def several(database: Database) -> list[int]:
    """Use all connections of the pool at once; return their backends."""
    met = threading.Barrier(SIZE, timeout=20)

    def ask() -> int:
        with database.autocommit() as connection:
            met.wait()
            row = BACKEND.row(connection, {})
            assert row is not None
            met.wait()
            return int(row[0])

    return in_parallel(ask, SIZE)


def test_sequential_calls_use_the_same_connection(small: Database) -> None:
    assert len({backend(small) for _ in range(10)}) == 1


def test_connections_never_exceed_the_pool_size(small: Database) -> None:
    backends = several(small)
    assert len(set(backends)) == SIZE
    assert small.pool_use() == (0, SIZE)
    # All of them are idle; transactions and later calls reuse them.
    for _ in range(2 * SIZE):
        with small.transaction() as connection:
            assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() in backends
            assert small.pool_use() == (1, SIZE)
    assert set(several(small)) == set(backends)


def test_a_call_without_a_free_connection_is_unavailable(small: Database) -> None:
    with small.autocommit(), small.autocommit(), small.transaction():
        with pytest.raises(UnavailableError):
            backend(small)
        assert small.pool_use() == (SIZE, SIZE)
    assert backend(small)


@pytest.mark.parametrize("by", ["autocommit", "transaction", "sqlalchemy"])
def test_a_broken_connection_fails_one_call(small: Database, database_url: str, by: str) -> None:
    gone = several(small)
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (gone,))
    ask: Callable[[Database], object] = {
        "autocommit": backend,
        "transaction": in_transaction,
        "sqlalchemy": schema.require,
    }[by]
    with pytest.raises(UnavailableError):
        ask(small)
    now = several(small)
    assert len(set(now)) == SIZE
    assert not set(now) & set(gone)


def test_a_broken_connection_leaks_none_that_is_in_use(small: Database, database_url: str) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        with small.transaction() as in_use:
            in_use.exec_driver_sql("SELECT 1")
            gone = backend(small)
            with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s::int)", (gone,))
            with pytest.raises(UnavailableError):
                backend(small)
        assert small.pool_use() == (0, SIZE)
        small.dispose()
        del in_use
        gc.collect()
    assert [str(each.message) for each in warned] == []


def test_a_connection_in_use_during_a_renewal_is_not_used_again(small: Database) -> None:
    with small.autocommit() as connection:
        before = BACKEND.row(connection, {})
        small.renew()
    assert (backend(small),) != before


def test_a_connection_stays_usable_after_a_failed_statement(small: Database) -> None:
    broken = Statement("SELECT 1 / 0")
    before = backend(small)
    for _ in range(2 * SIZE):
        with pytest.raises(psycopg.errors.DivisionByZero), small.autocommit() as connection:
            broken.row(connection, {})
    assert backend(small) == before
    assert small.pool_use() == (0, SIZE)


@pytest.mark.parametrize("ask", [in_transaction, schema.require])
def test_a_connection_used_through_sqlalchemy_stays_open(
    small: Database, ask: Callable[[Database], None]
) -> None:
    before = backend(small)
    ask(small)
    assert backend(small) == before


def test_a_failed_transaction_is_rolled_back_and_its_connection_stays_open(
    small: Database,
) -> None:
    def fail() -> None:
        with small.transaction() as connection:
            connection.exec_driver_sql("CREATE TABLE never (id int)")
            raise ZeroDivisionError

    before = backend(small)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert backend(small) == before
    with small.autocommit() as connection:
        assert Statement("SELECT to_regclass('never')").row(connection, {}) == (None,)


def test_a_connection_left_in_the_middle_of_a_statement_is_closed(small: Database) -> None:
    streams = []

    def fail() -> None:
        with small.autocommit() as connection:
            streams.append(
                driver_connection(connection).cursor().stream("SELECT generate_series(1, 100000)")
            )
            next(streams[0])
            raise ZeroDivisionError

    before = backend(small)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert backend(small) != before


def test_a_connection_is_checked_out_clean(small: Database) -> None:
    schema.require(small)
    with small.autocommit() as connection:
        assert not connection.in_transaction()


def test_settings_of_a_transaction_do_not_outlast_it(small: Database) -> None:
    with small.transaction() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 1")
    with small.autocommit() as connection:
        row = Statement("SHOW statement_timeout").row(connection, {})
        assert row == ("10s",)
        assert connection.connection.driver_connection.autocommit  # type: ignore[union-attr]


def test_a_cancelled_call_returns_its_connection(small: Database) -> None:
    scope = CancelScope(deadline=float("inf"))
    began = threading.Event()

    def stop() -> None:
        began.wait(20)
        while not scope.is_cancelled or small.pool_use()[0]:
            scope.cancel()

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    token = current_scope.set(scope)
    try:
        with small.autocommit() as connection:
            began.set()
            with pytest.raises(psycopg.errors.QueryCanceled):
                SLEEP.row(connection, {})
        with pytest.raises(ScopeCancelledError), small.autocommit():
            pass
    finally:
        current_scope.reset(token)
    stopper.join(20)
    assert backend(small)


@contextmanager
def working(kind: Kind, seconds: float = 60.0) -> Iterator[None]:
    token = current_scope.set(CancelScope(time.monotonic() + seconds, kind))
    try:
        yield
    finally:
        current_scope.reset(token)


@contextmanager
def using(database: Database, kind: Kind, count: int) -> Iterator[None]:
    """Keep `count` connections in use by calls of that kind."""
    with ExitStack() as held:
        held.enter_context(working(kind))
        for _ in range(count):
            held.enter_context(database.transaction())
        yield


def is_lent(database: Database, kind: Kind) -> bool:
    """Return whether a call of that kind gets a connection."""
    try:
        with working(kind, 0.1), database.autocommit():
            return True
    except (UnavailableError, OverloadedError) as error:
        reason = error.reason
    in_use, size = database.pool_use()
    assert reason == ("OVERLOADED" if in_use < size else "DATABASE_UNAVAILABLE")
    return False


def test_writes_and_ingestions_leave_connections_to_reads(database: Database) -> None:
    with using(database, "ingestion", 6):
        assert not is_lent(database, "ingestion")
        with using(database, "write", 4):
            assert not is_lent(database, "write")
            assert is_lent(database, "read")
        assert is_lent(database, "write")
    with using(database, "write", 10):
        assert not is_lent(database, "ingestion")
        assert is_lent(database, "read")
    with using(database, "read", 12):
        assert not is_lent(database, "ingestion")
    # Calls that got no connection have released their slots.
    assert database.pool_use()[0] == 0
    with using(database, "ingestion", 6), using(database, "write", 4), using(database, "read", 2):
        assert not is_lent(database, "read")


@pytest.mark.parametrize("kind", ["read", "write", "ingestion"])
def test_the_smallest_pool_serves_every_kind(database_url: str, kind: Kind) -> None:
    for size in (1, 2, 3):
        database = Database(database_url, pool_size=size)
        assert is_lent(database, kind)
        database.dispose()


def test_an_ingestion_waits_longer_than_a_call_until_it_is_cancelled(
    small: Database,
) -> None:
    """`small` has a single connection for ingestions, and waits for half a second."""
    scope = CancelScope(float("inf"), "ingestion")
    ended = threading.Event()

    def wait() -> None:
        current_scope.set(scope)
        with pytest.raises(ScopeCancelledError), small.autocommit():
            pass
        ended.set()

    with using(small, "ingestion", 1):
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        assert not ended.wait(1.0)
        scope.cancel()
        assert ended.wait(20)

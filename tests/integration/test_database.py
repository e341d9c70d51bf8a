"""The connections: kept at hand, never more than there may be, and replaced when they break."""

import gc
import threading
import warnings
from collections.abc import Callable, Iterator

import psycopg
import pytest

from credit_service.domain.errors import Unavailable
from credit_service.storage import schema
from credit_service.storage.database import Database
from credit_service.storage.statements import Statement
from credit_service.storage.work import Work, WorkStoppedError, current_work
from tests.integration.test_create_loan import in_parallel

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
    """Backends of as many connections as there may be, all in use at once."""
    met = threading.Barrier(SIZE, timeout=20)

    def ask() -> int:
        with database.autocommit() as connection:
            met.wait()
            row = BACKEND.row(connection, {})
            assert row is not None
            met.wait()
            return int(row[0])

    return in_parallel(ask, SIZE)


def test_one_call_after_the_other_has_the_same_connection(small: Database) -> None:
    assert len({backend(small) for _ in range(10)}) == 1


def test_there_are_never_more_than_there_may_be(small: Database) -> None:
    backends = several(small)
    assert len(set(backends)) == SIZE
    assert small.pool_use() == (0, SIZE)
    # All of them are kept; a transaction has room all the same, and so has what comes after it.
    for _ in range(2 * SIZE):
        with small.transaction() as connection:
            assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() in backends
            assert small.pool_use() == (1, SIZE)
    assert set(several(small)) == set(backends)


def test_who_finds_none_free_is_told_so(small: Database) -> None:
    with small.autocommit(), small.autocommit(), small.transaction():
        with pytest.raises(Unavailable):
            backend(small)
        assert small.pool_use() == (SIZE, SIZE)
    assert backend(small)


@pytest.mark.parametrize("by", ["autocommit", "transaction", "sqlalchemy"])
def test_what_breaks_one_costs_one_failure(small: Database, database_url: str, by: str) -> None:
    gone = several(small)
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (gone,))
    ask: Callable[[Database], object] = {
        "autocommit": backend,
        "transaction": in_transaction,
        "sqlalchemy": schema.require,
    }[by]
    with pytest.raises(Unavailable):
        ask(small)
    now = several(small)
    assert len(set(now)) == SIZE
    assert not set(now) & set(gone)


def test_what_breaks_one_leaves_none_behind_that_is_in_use(
    small: Database, database_url: str
) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        with small.transaction() as in_use:
            in_use.exec_driver_sql("SELECT 1")
            gone = backend(small)
            with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (gone,))
            with pytest.raises(Unavailable):
                backend(small)
        assert small.pool_use() == (0, SIZE)
        small.dispose()
        del in_use
        gc.collect()
    assert [str(each.message) for each in warned] == []


def test_a_failed_statement_leaves_a_connection_that_works(small: Database) -> None:
    broken = Statement("SELECT 1 / 0")
    before = backend(small)
    for _ in range(2 * SIZE):
        with pytest.raises(psycopg.errors.DivisionByZero), small.autocommit() as connection:
            broken.row(connection, {})
    assert backend(small) == before
    assert small.pool_use() == (0, SIZE)


def test_a_connection_is_lent_as_new(small: Database) -> None:
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


def test_work_that_is_stopped_gives_its_connection_back(small: Database) -> None:
    work = Work(deadline=float("inf"))
    began = threading.Event()

    def stop() -> None:
        began.wait(20)
        while not work.stopped or small.pool_use()[0]:
            work.stop()

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    token = current_work.set(work)
    try:
        with small.autocommit() as connection:
            began.set()
            with pytest.raises(psycopg.errors.QueryCanceled):
                SLEEP.row(connection, {})
        with pytest.raises(WorkStoppedError), small.autocommit():
            pass
    finally:
        current_work.reset(token)
    stopper.join(20)
    assert backend(small)

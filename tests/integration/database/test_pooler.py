"""PgBouncer in transaction mode between the service and PostgreSQL."""

import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import psycopg
import pytest
from google.type import decimal_pb2, money_pb2
from pydantic import SecretStr
from sqlalchemy import make_url, text

from credit_service.clock import Clock
from credit_service.domain.errors import RetryLaterError, UnavailableError
from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import Settings
from credit_service.storage import readiness, tasks
from credit_service.storage.cancellation import CancelScope, current_scope
from credit_service.storage.database import Database
from credit_service.storage.statements import Statement
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2
from tests import pgbouncer
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.database.test_database_read_only import health
from tests.integration.rpc.test_rpc_server import NOT_SERVING, SERVING, eventually
from tests.system.up import credit_service, environment
from workers.process import WorkerProcess

CALLS = 300
SLEEP = Statement("SELECT pg_sleep(20)")
TIMEOUT = Statement("SELECT current_setting('statement_timeout'), current_setting('TimeZone')")


def through(base_url: str, database_url: str) -> str:
    """The URL of the same database through PgBouncer."""
    return f"{base_url}/{make_url(database_url).database}"


@pytest.fixture
def pooled_url(servers: tuple[str, str], database_url: str) -> Iterator[str]:
    with pgbouncer.running(servers[0]) as base_url:
        yield through(base_url, database_url)


def sqlalchemy(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


@contextmanager
def closing(database: Database) -> Iterator[Database]:
    """Yield the database; close its connections at the end."""
    try:
        yield database
    finally:
        database.dispose()


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Database]:
    with closing(
        Database(
            sqlalchemy(pooled_url),
            statement_timeout_seconds=0.3,
            lock_timeout_seconds=0.15,
            idle_in_transaction_timeout_seconds=0.25,
            pooler="transaction",
        )
    ) as database:
        yield database


def settings_of(url: str, **changes: object) -> Settings:
    given = {
        "database_url": SecretStr(url),
        "redis_url": None,
        "listen": "127.0.0.1:0",
        "threads": 16,
        "database_pooler": "transaction",
        **changes,
    }
    return Settings(**given)  # type: ignore[arg-type]  # values of several types


# The service as a whole.


@pytest.mark.slow
@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_concurrent_mixed_calls_all_succeed(
    servers: tuple[str, str], database_url: str, redis_url: str, pool_mode: str
) -> None:
    with pgbouncer.running(
        servers[0], pool_mode=pool_mode, default_pool_size="4" if pool_mode != "session" else "60"
    ) as base_url:
        settings = settings_of(through(base_url, database_url), redis_url=SecretStr(redis_url))
        worker = WorkerProcess(settings)
        database = open_database(settings)
        server = CreditServer(settings, database)
        server.start()
        worker.start()
        try:
            with grpc.insecure_channel(str(server.address)) as channel:
                edge = Edge.of(server, channel)
                eventually(lambda: health(edge) == SERVING)
                call_all(edge)
                eventually(lambda: unpublished(database) == 0)
                eventually(lambda: not left(database))
        finally:
            assert worker.stop()
            server.stop(grace_seconds=2)
            database.dispose()


def call_all(edge: Edge) -> None:
    """Make calls of all kinds from sixteen concurrent callers; fail if one fails."""
    customers = [
        lending.register(edge.credit, f"+91{9_700_000_000 + number}") for number in range(12)
    ]
    loans = [lending.import_loans(edge, customer_id, 3) for customer_id in customers[:3]]
    assert all(each.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED for each in loans)
    phones = iter(range(9_600_000_000, 9_600_001_000))
    lock = threading.Lock()

    def fresh_phone() -> str:
        with lock:
            return f"+91{next(phones)}"

    def pick() -> int:
        return random.choice(customers)  # noqa: S311 - no secret

    kinds: list[Callable[[], object]] = [
        lambda: edge.credit.GetCustomer(pb.GetCustomerRequest(customer_id=pick())),
        lambda: edge.credit.ListCustomers(pb.ListCustomersRequest(page_size=50)),
        lambda: edge.credit.ListLoans(pb.ListLoansRequest(customer_id=pick())),
        lambda: edge.credit.CreateLoan(lending.ask(pick(), str(uuid.uuid4()))),
        lambda: edge.credit.CheckEligibility(
            pb.CheckEligibilityRequest(
                customer_id=pick(),
                loan_amount=money_pb2.Money(currency_code="INR", units=50_000),
                interest_rate=decimal_pb2.Decimal(value="10"),
                tenure_months=12,
            )
        ),
        lambda: lending.register(edge.credit, fresh_phone()),
    ]

    def call(number: int) -> None:
        kinds[number % len(kinds)]()

    with ThreadPoolExecutor(16) as callers:
        for done in [callers.submit(call, number) for number in range(CALLS)]:
            done.result()


def unpublished(database: Database) -> int:
    with database.autocommit() as connection:
        found = connection.execute(text("SELECT count(*) FROM events WHERE event_id IS NULL"))
        return int(found.scalar_one())


def left(database: Database) -> list[str]:
    with database.autocommit() as connection:
        return list(connection.execute(text("SELECT actor FROM tasks")).scalars())


# Settings.


def test_settings_apply_to_each_statement_and_end_with_it(
    pooled: Database, pooled_url: str
) -> None:
    expected = ("300ms", "UTC")
    with pooled.autocommit() as connection:
        assert TIMEOUT.row(connection, {}) == expected
        assert tuple(connection.execute(text(TIMEOUT.text)).one()) == expected
    with pooled.transaction() as connection:
        assert TIMEOUT.row(connection, {}) == expected
        assert TIMEOUT.row(connection, {}) == expected
    assert readiness.find_problem(pooled) is None
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as other:
        for _ in range(8):
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)


@pytest.mark.parametrize("lend", ["autocommit", "transaction"])
@pytest.mark.parametrize("by_sqlalchemy", [False, True])
def test_statements_time_out(pooled: Database, lend: str, by_sqlalchemy: bool) -> None:
    def sleep() -> None:
        with getattr(pooled, lend)() as connection:
            if by_sqlalchemy:
                connection.execute(text(SLEEP.text))
            else:
                SLEEP.row(connection, {})

    with pytest.raises(UnavailableError, match="timed out"):
        sleep()
    with pooled.autocommit() as connection:
        assert TIMEOUT.row(connection, {}) == ("300ms", "UTC")


def test_a_copy_times_out(pooled: Database) -> None:
    def copy() -> None:
        with pooled.transaction() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            query = "COPY (SELECT pg_sleep(20)) TO STDOUT"
            with driver.cursor().copy(query) as rows:
                list(rows)

    with pytest.raises(UnavailableError, match="timed out"):
        copy()


def test_waits_for_locks_time_out(pooled: Database, database: Database) -> None:
    def enqueue(where: Database) -> None:
        with where.transaction() as connection:
            tasks.enqueue(connection, "any", "1", Clock().moment())

    enqueue(database)
    with database.transaction() as holder:
        holder.execute(text("SELECT * FROM tasks FOR UPDATE"))
        with pytest.raises(RetryLaterError):
            enqueue(pooled)
    enqueue(pooled)


def test_an_idle_transaction_times_out(pooled: Database) -> None:
    def idle() -> None:
        with pooled.transaction() as connection:
            connection.execute(text("SELECT 1"))
            threading.Event().wait(0.8)
            connection.execute(text("SELECT 1"))

    with pytest.raises(UnavailableError):
        idle()


def test_a_cancelled_call_is_cancelled_through_the_pooler(pooled_url: str) -> None:
    with closing(Database(sqlalchemy(pooled_url), pool_size=1, pooler="transaction")) as patient:
        scope = CancelScope(deadline=float("inf"))
        stopper = threading.Timer(0.3, scope.cancel)
        stopper.start()
        token = current_scope.set(scope)
        try:
            with pytest.raises(UnavailableError), patient.autocommit() as connection:
                SLEEP.row(connection, {})
        finally:
            current_scope.reset(token)
        with patient.autocommit() as connection:
            assert TIMEOUT.row(connection, {}) == ("10s", "UTC")


def test_a_failed_statement_fails_as_without_a_pooler(pooled: Database) -> None:
    broken = Statement("SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero), pooled.autocommit() as connection:
        broken.row(connection, {})
    with pytest.raises(psycopg.errors.DivisionByZero), pooled.transaction() as connection:
        broken.row(connection, {})
    assert pooled.pool_use()[0] == 0


# Commands.


@pytest.mark.slow
def test_migrations_run_through_it(servers: tuple[str, str], database_url: str) -> None:
    name, redis_url = make_url(database_url).database, servers[1]
    with (
        psycopg.connect(servers[0], autocommit=True) as maintenance,
        pgbouncer.running(servers[0]) as base_url,
    ):
        maintenance.execute(f'CREATE DATABASE "{name}_empty"')
        url = f"{base_url}/{name}_empty"
        try:
            with ThreadPoolExecutor(2) as both:
                done = [
                    each.result()
                    for each in [
                        both.submit(
                            credit_service,
                            "migrate",
                            env=environment(DATABASE_URL=url, REDIS_URL=redis_url),
                        )
                        for _ in range(2)
                    ]
                ]
            assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
        finally:
            maintenance.execute(f'DROP DATABASE "{name}_empty" WITH (FORCE)')


def doctor(url: str, **settings: str) -> dict[str, dict[str, object]]:
    done = credit_service("doctor", "--json", env=environment(DATABASE_URL=url, **settings))
    return {each["name"]: each for each in json.loads(done.stdout)["checks"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignored", "check"), [("", "database"), ("options", "writable")], ids=["refused", "ignored"]
)
def test_without_the_setting_calls_fail_and_the_doctor_names_it(
    servers: tuple[str, str], database_url: str, ignored: str, check: str
) -> None:
    with pgbouncer.running(servers[0], ignore_startup_parameters=ignored) as base_url:
        url = through(base_url, database_url)
        found = doctor(url)[check]
        assert not found["ok"]
        assert "pooler" in str(found["found"])
        assert found["fix"] == "set CREDIT_DATABASE_POOLER=transaction"
        settings = settings_of(url, database_pooler="none")
        database = open_database(settings)
        server = CreditServer(settings, database)
        server.start()
        try:
            with grpc.insecure_channel(str(server.address)) as channel:
                edge = Edge.of(server, channel)
                threading.Event().wait(1.5)
                assert health(edge) == NOT_SERVING
        finally:
            server.stop(grace_seconds=1)
            database.dispose()
        good = doctor(url, CREDIT_DATABASE_POOLER="transaction")
        assert all(good[each]["ok"] for each in ("database", "writable", "migrations", "worker"))

"""The service on a cluster with Citus, and the parts of it that one server can test."""

import math
from datetime import date
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import create_engine, exc, inspect, text

from credit_service.cli.demo import _Demo
from credit_service.commands import group_work
from credit_service.commands.booking_groups import _Bookings
from credit_service.commands.create_loan import (
    BookingRequest,
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.group_work import LANES, LARGEST
from credit_service.commands.grouping import GoAloneError
from credit_service.commands.loan_changes import Request
from credit_service.commands.payment_groups import _Payments
from credit_service.commands.record_payment import PaymentCall, RecordPayment, record_payment
from credit_service.domain.eligibility import Ask
from credit_service.storage import cluster, event_stream, migrate
from credit_service.storage.database import Database
from credit_service.storage.tables import EVERYWHERE, LOCAL, metadata
from tests import citus
from tests.integration.database.schema_versions import upgrade
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on
from tests.system.up import credit_service, environment, up

TODAY = on(date(2026, 6, 10))
on_a_cluster = pytest.mark.skipif(not citus.url(), reason="TEST_CITUS_URL is not set")
on_one_server = pytest.mark.one_server("tests a server without Citus")

# Of the schema 0015.
_EARLIER_CUSTOMERS = """INSERT INTO customers (customer_id, first_name, last_name, age,
        monthly_income_paise, phone_number, approved_limit_paise, imported, created_at,
        position_as_of, position_valid_until)
    SELECT n, 'Asha', 'Rao', 30, 100, '+9191000000' || 10 + n, 0, true, now(), '2025-06-15',
        '2025-06-16'
    FROM generate_series(1, 40) n"""
_PLACED = "SELECT table_name::text, citus_table_type FROM citus_tables"


@pytest.fixture
def as_on_a_cluster(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database that is used like a cluster, with four shards on one server."""
    if not citus.url():
        with database.transaction() as connection:
            connection.execute(
                text(
                    """CREATE FUNCTION get_shard_id_for_distribution_column(text, bigint)
                    RETURNS bigint LANGUAGE sql AS 'SELECT $2 % 4'"""
                )
            )
        monkeypatch.setattr(cluster, "is_distributed", lambda _connection: True)
    return database


def publish(database: Database) -> list[int]:
    """The ids of the events that one step of the relay numbers."""
    with database.transaction() as connection:
        return [each.event_id for each in event_stream.publish(connection, 100)]


def newest(database: Database) -> int:
    """The id up to which watchers read."""
    with database.autocommit() as connection:
        return event_stream.last_event_id(connection)


def has_work(database: Database) -> bool:
    with database.autocommit() as connection:
        return event_stream.has_unpublished(connection)


def went_alone(outcome: object) -> bool:
    """Whether a call must run by itself because of the cluster."""
    return isinstance(outcome, GoAloneError) and outcome.reason == "distributed"


def change(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement))


def test_watchers_wait_until_all_nodes_have_committed(as_on_a_cluster: Database) -> None:
    database = as_on_a_cluster
    for _ in range(3):
        a_customer(database, TODAY)
    assert publish(database) == [1, 2, 3]
    # Committed, and possibly not yet on every node.
    assert newest(database) == 0
    change(database, "UPDATE events SET event_id = NULL WHERE event_id = 2")
    # The node of event 2 has not committed: its event looks unpublished.
    assert has_work(database)
    assert publish(database) == []
    assert newest(database) == 0
    change(database, "UPDATE events SET event_id = 2 WHERE event_id IS NULL")
    assert publish(database) == []
    assert newest(database) == 3
    assert not has_work(database)
    a_customer(database, TODAY)
    assert publish(database) == [4]
    assert publish(database) == []
    assert newest(database) == 4


def test_calls_draw_their_ids_separately(as_on_a_cluster: Database) -> None:
    database = as_on_a_cluster
    customer_id = a_good_customer(database, TODAY)
    ask = Ask(LAKH, 1200, 12)
    first = create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests")
    second = create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests")
    assert 0 < first.decision_id < second.decision_id
    assert (first.loan_id or 0) < (second.loan_id or 0)
    paid = [
        record_payment(
            database,
            RecordPayment(uuid4(), customer_id, first.loan_id or 0, 100, None),
            TODAY,
            "tests",
        )
        for _ in range(2)
    ]
    assert 0 < paid[0].payment.payment_id < paid[1].payment.payment_id


def test_calls_form_no_groups(as_on_a_cluster: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pause lasts on a slow machine too.
    monkeypatch.setattr(group_work, "PAUSE_SECONDS", math.inf)
    database = as_on_a_cluster
    ask = Ask(LAKH, 1200, 12)
    customer_ids = [a_good_customer(database, TODAY) for _ in range(2)]
    bookings = _Bookings(database, None, LANES, LARGEST)
    commands = [CreateLoan(uuid4(), each, ask) for each in customer_ids]
    asked = [BookingRequest(each, b"", TODAY, "tests", 7) for each in commands]
    assert [went_alone(each) for each in bookings._run(asked)] == [True, True]
    booked = [
        create_loan(database, each, TODAY, "tests", groups=bookings.groups) for each in commands
    ]
    payments = _Payments(database, None, LANES, LARGEST)
    paid = [
        PaymentCall(
            RecordPayment(uuid4(), each.customer_id, each.loan_id or 0, 100, None),
            Request(uuid4(), b"", "tests", TODAY, None),
        )
        for each in booked
    ]
    assert [went_alone(each) for each in payments._run(paid)] == [True, True]
    for call in paid:
        stored = record_payment(database, call.command, TODAY, "tests", groups=payments.groups)
        assert stored.payment.amount_paise == 100
    # The next calls do not even wait for a lane.
    with pytest.raises(GoAloneError, match="distributed"):
        bookings.groups.submit(asked[0])
    with pytest.raises(GoAloneError, match="distributed"):
        payments.groups.submit(paid[0])


def test_rows_are_locked_shard_by_shard(as_on_a_cluster: Database) -> None:
    ids = np.arange(1, 41)
    with as_on_a_cluster.transaction() as connection:
        groups = list(cluster.lockable(connection, ids))
    assert 1 < len(groups) <= citus.SHARDS
    assert sorted(np.concatenate(groups)) == list(ids)
    assert all(list(group) == sorted(group) for group in groups)


@on_one_server
def test_one_server_locks_all_rows_at_once_and_has_no_cluster(database: Database) -> None:
    ids = np.arange(1, 41)
    with database.transaction() as connection:
        assert [list(group) for group in cluster.lockable(connection, ids)] == [list(ids)]
        assert cluster.find(connection) is None


@on_one_server
def test_tables_are_distributed_only_on_a_cluster(database_url: str) -> None:
    done = credit_service("migrate", "--distributed", env=environment(DATABASE_URL=database_url))
    assert done.returncode == 2
    assert "has no Citus extension; run CREATE EXTENSION citus" in done.stderr
    assert "Traceback" not in done.stderr


@on_a_cluster
def test_every_table_is_placed_as_declared(database: Database, database_url: str) -> None:
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT table_name::text, citus_table_type, distribution_column FROM citus_tables")
        )
        found = {
            name: column if kind == "distributed" else "everywhere" for name, kind, column in rows
        }
        state = cluster.find(connection)
    assert found == {
        table.name: table.info["placement"]
        for table in metadata.tables.values()
        if table.info != LOCAL
    }
    assert state is not None
    assert (state.workers > 0, state.inactive, state.unplaced) == (True, 0, [])
    assert migrate.distribute(database_url) == []
    assert migrate.drift(database_url) == []
    done = credit_service("migrate", "--distributed", env=environment(DATABASE_URL=database_url))
    assert "All tables were already distributed." in done.stdout


def _distributed_by_an_earlier_release(
    url: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrate an empty database to the schema of an earlier release, and place its tables."""
    upgrade(url, revision)
    engine = create_engine(url)
    with engine.begin() as connection, monkeypatch.context() as earlier:
        names = inspect(connection).get_table_names()
        known = [each for each in cluster._DISTRIBUTED if each.name in names]
        earlier.setattr(cluster, "_DISTRIBUTED", known)
        cluster.distribute(connection)
    engine.dispose()


@on_a_cluster
def test_a_distributed_database_of_an_earlier_release_is_migrated(
    servers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"earlier_{uuid4().hex[:12]}"
    with citus.scratch_database(servers[0], name) as plain_url:
        url = plain_url.replace("postgresql://", "postgresql+psycopg://", 1)
        _distributed_by_an_earlier_release(url, "0015", monkeypatch)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text(_EARLIER_CUSTOMERS))
        done = credit_service("migrate", "--distributed", env=environment(DATABASE_URL=url))
        assert done.returncode == 0, done.stderr
        assert "These tables are now distributed: " in done.stdout
        assert "loan_offers" in done.stdout
        with engine.begin() as connection:
            placed = connection.execute(text(_PLACED)).all()
            assert {(name, kind) for name, kind in placed} == {
                (table.name, "reference" if table.info == EVERYWHERE else "distributed")
                for table in metadata.tables.values()
                if table.info != LOCAL
            }
            kept = connection.execute(text("SELECT count(*), sum(customer_id) FROM customers"))
            assert kept.one() == (40, 820)
        engine.dispose()
        assert migrate.drift(url) == []
        database = Database(url)
        customer_id = a_good_customer(database, TODAY)
        ask = Ask(LAKH, 1200, 12)
        _, offer = create_loan_offer(
            database, CreateLoanOffer(uuid4(), customer_id, ask), TODAY, "tests"
        )
        assert offer is not None
        assert create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests").loan_id
        with pytest.raises(exc.DBAPIError, match="rows are facts and never change"):
            change(database, "DELETE FROM loan_offers")
        database.dispose()


@on_a_cluster
def test_the_demo_succeeds(database_url: str, redis_url: str, tmp_path: Path) -> None:
    with up(folder=tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as running:
        assert _Demo(running.address, tmp_path).run()

"""Migrations of earlier schema versions to the newest."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, exc, text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.idempotency import fingerprint
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.domain.customers import NewCustomer
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import AlreadyExistsError, RequestIdReusedError
from credit_service.storage import migrate
from credit_service.storage.database import Database, constraint_of
from credit_service.storage.retention import Deletion, Retention
from credit_service.storage.tables import FIRST_ISSUED_ID
from tests.integration.database.schema_versions import downgrade
from tests.integration.portfolio import LAKH, on

_TODAY = on(date(2026, 6, 10))
_CUSTOMERS = """INSERT INTO customers (customer_id, first_name, last_name, age,
        monthly_income_paise, phone_number, approved_limit_paise, imported, created_at,
        position_as_of, position_valid_until)
    SELECT n, 'Asha', 'Rao', 30, 100, '+9191000000' || 10 + row_number() OVER (), 0, imported,
        now(), '2025-06-15', '2025-06-16'
    FROM (VALUES (1::bigint, false), (1000000000000000, true)) AS v (n, imported)"""


def _next(connection: Connection, sequence: str) -> int:
    found = connection.execute(text(f"SELECT nextval('{sequence}')")).scalar_one()
    assert isinstance(found, int)
    return found


@pytest.mark.one_server("migrates tables that are not distributed")
def test_ids_issued_after_the_migration_lie_above_those_imported(database_url: str) -> None:
    downgrade(database_url, "0002")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(_CUSTOMERS))
        connection.execute(text("SELECT setval('customer_ids', 1)"))
        # The state after an import of the id 10^15 and some bookings.
        connection.execute(text("SELECT setval('loan_ids', 1000000000000024)"))
    migrate.upgrade(database_url)
    with engine.begin() as connection:
        kept = connection.execute(text("SELECT customer_id FROM customers ORDER BY 1")).scalars()
        assert kept.all() == [1, 10**15]
        assert [_next(connection, "customer_ids") for _ in range(2)] == [10**15 + 1, 10**15 + 11]
        assert _next(connection, "loan_ids") == 10**15 + 31
        # Rows stored before can still change.
        connection.execute(text("UPDATE customers SET age = 31"))
        unproven = "SELECT conname FROM pg_constraint WHERE NOT convalidated"
        assert connection.execute(text(unproven)).scalars().all() == []
    engine.dispose()


@pytest.mark.one_server("migrates tables that are not distributed")
def test_rejections_stored_by_earlier_releases_are_deleted(database_url: str) -> None:
    downgrade(database_url, "0007")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO requests (request_id, method, fingerprint, customer_id, refusal,
                    created_at, principal)
                SELECT gen_random_uuid(), 'RegisterCustomer', decode(repeat('00', 32), 'hex'),
                    customer_id, refusal, now(), 'tests'
                FROM (VALUES (7, NULL), (NULL, '{"resource_name": "+919876598765"}'::json))
                    AS v (customer_id, refusal)"""
            )
        )
    migrate.upgrade(database_url)
    with engine.begin() as connection:
        left = connection.execute(text("SELECT customer_id, refusal FROM requests")).all()
    engine.dispose()
    assert [tuple(row) for row in left] == [(7, None)]


@pytest.mark.one_server("migrates tables that are not distributed")
def test_concurrent_migrations_wait_for_each_other(database_url: str) -> None:
    """Also if one builds an index concurrently and waits for all sessions with a snapshot."""
    downgrade(database_url, "0011")
    with ThreadPoolExecutor(2) as both:
        done = [both.submit(migrate.upgrade, database_url) for _ in range(2)]
        assert {each.result(timeout=60) for each in done} == {migrate.head_revision()}
    assert migrate.drift(database_url) == []


_EARLIER_REQUESTS = """INSERT INTO requests (request_id, method, fingerprint, customer_id,
        decision_id, created_at, principal)
    VALUES (:request_id, :method, :fingerprint, :customer_id, :decision_id, now(), 'tests')"""


@pytest.mark.one_server("migrates tables that are not distributed")
def test_requests_stored_by_the_previous_release_are_answered(database_url: str) -> None:
    """Also those about the same id, which the previous release accepted for one customer only."""
    new = RegisterCustomer(uuid4(), NewCustomer("Asha", "Rao", 30, LAKH, "+919812345678"))
    downgrade(database_url, "0013")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO customers (customer_id, first_name, last_name, age,
                    monthly_income_paise, phone_number, approved_limit_paise, imported, created_at,
                    position_as_of, position_valid_until)
                VALUES (:id, 'Asha', 'Rao', 30, :income, '+919812345678', 36 * :income, false,
                    now(), '2026-06-10', '2027-01-01')"""
            ),
            {"id": FIRST_ISSUED_ID, "income": LAKH},
        )
        stored = {
            "request_id": new.request_id,
            "method": "RegisterCustomer",
            "fingerprint": fingerprint(new),
            "customer_id": FIRST_ISSUED_ID,
            "decision_id": None,
        }
        connection.execute(text(_EARLIER_REQUESTS), stored)
    engine.dispose()
    migrate.upgrade(database_url)
    database = Database(database_url)
    view = register_customer(database, new, _TODAY, "tests")
    assert view.customer.customer_id == FIRST_ISSUED_ID
    with pytest.raises(RequestIdReusedError):
        create_loan(
            database,
            CreateLoan(new.request_id, FIRST_ISSUED_ID, Ask(LAKH, 1200, 12)),
            _TODAY,
            "tests",
        )
    database.dispose()


@pytest.mark.one_server("only servers of this release use a cluster")
def test_servers_of_the_previous_release_write_phone_numbers(database_url: str) -> None:
    """They write to `customers` alone."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(_CUSTOMERS))
    database = Database(database_url)

    def register(phone: str) -> int:
        new = RegisterCustomer(uuid4(), NewCustomer("Asha", "Rao", 30, LAKH, phone))
        return register_customer(database, new, _TODAY, "tests").customer.customer_id

    with pytest.raises(AlreadyExistsError):
        register("+919100000011")
    assert register("+919100000013")
    change = "UPDATE customers SET phone_number = :phone WHERE customer_id = 1"
    with (
        pytest.raises(exc.IntegrityError) as taken,
        engine.begin() as connection,
    ):
        connection.execute(text(change), {"phone": "+919100000013"})
    assert constraint_of(taken.value) == "customers_phone_number_key"
    with engine.begin() as connection:
        connection.execute(text(change), {"phone": "+919100000014"})
    assert register("+919100000011")
    with pytest.raises(AlreadyExistsError):
        register("+919100000014")
    database.dispose()
    engine.dispose()


@pytest.mark.one_server("migrates tables that are not distributed")
def test_ingestions_of_earlier_releases_keep_their_rows_until_the_retention_ends(
    database_url: str,
) -> None:
    downgrade(database_url, "0014")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                """INSERT INTO ingestions (ingestion_id, kind, source, on_existing, state,
                    import_day, created_at, finished_at, principal)
                SELECT gen_random_uuid(), 'LOANS', 'UPLOAD', 'SKIP', 'SUCCEEDED', '2025-06-15',
                    now(), now() - days * interval '1 day', 'tests'
                FROM (VALUES (29), (31)) AS v (days)"""
            )
        )
        connection.execute(
            text("INSERT INTO ingestion_chunks SELECT ingestion_id, 0, 'x' FROM ingestions")
        )
        # What an interrupted migration left.
        connection.execute(text("CREATE INDEX requests_created_at_idx ON requests (principal)"))
    migrate.upgrade(database_url)
    assert migrate.drift(database_url) == []
    deletion = Deletion(Retention())
    with engine.begin() as connection:
        while deletion.step(connection) is not None:
            pass
        states = text("SELECT source_state, row_errors_state FROM ingestions ORDER BY finished_at")
        assert [tuple(row) for row in connection.execute(states)] == [
            ("DELETED", "KEPT"),
            ("KEPT", "KEPT"),
        ]
        kept = text("SELECT count(*) FROM ingestion_chunks")
        assert connection.execute(kept).scalar_one() == 1
    engine.dispose()

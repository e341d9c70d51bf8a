"""Databases of earlier versions on their way to the newest schema."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text

from credit_service.storage import migrate

_CUSTOMERS = """INSERT INTO customers (customer_id, first_name, last_name, age,
        monthly_income_paise, phone_number, approved_limit_paise, imported, created_at,
        position_as_of, position_valid_until)
    SELECT n, 'Asha', 'Rao', 30, 100, '+9191000000' || 10 + row_number() OVER (), 0, imported,
        now(), '2025-06-15', '2025-06-16'
    FROM (VALUES (1::bigint, false), (1000000000000000, true)) AS v (n, imported)"""


def _downgrade(url: str, revision: str) -> None:
    """Take a database that holds nothing back to the schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


def _next(connection: Connection, sequence: str) -> int:
    found = connection.execute(text(f"SELECT nextval('{sequence}')")).scalar_one()
    assert isinstance(found, int)
    return found


def test_ids_issued_after_the_migration_lie_above_those_imported(database_url: str) -> None:
    _downgrade(database_url, "0002")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(_CUSTOMERS))
        connection.execute(text("SELECT setval('customer_ids', 1)"))
        # As after an import of the id 10^15, and some bookings.
        connection.execute(text("SELECT setval('loan_ids', 1000000000000024)"))
    migrate.upgrade(database_url)
    with engine.begin() as connection:
        kept = connection.execute(text("SELECT customer_id FROM customers ORDER BY 1")).scalars()
        assert kept.all() == [1, 10**15]
        assert [_next(connection, "customer_ids") for _ in range(2)] == [10**15 + 1, 10**15 + 11]
        assert _next(connection, "loan_ids") == 10**15 + 31
        # What was stored before can still change.
        connection.execute(text("UPDATE customers SET age = 31"))
        unproven = "SELECT conname FROM pg_constraint WHERE NOT convalidated"
        assert connection.execute(text(unproven)).scalars().all() == []
    engine.dispose()


def test_rejections_stored_by_earlier_releases_are_deleted(database_url: str) -> None:
    _downgrade(database_url, "0007")
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


def test_concurrent_migrations_wait_for_each_other(database_url: str) -> None:
    """Also if one builds an index concurrently, which waits for all sessions with a snapshot."""
    _downgrade(database_url, "0011")
    with ThreadPoolExecutor(2) as both:
        done = [both.submit(migrate.upgrade, database_url) for _ in range(2)]
        assert {each.result(timeout=60) for each in done} == {migrate.head_revision()}
    assert migrate.drift(database_url) == []

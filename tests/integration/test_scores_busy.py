"""Work on many customers of whom somebody keeps one: it neither waits nor keeps the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import pytest
from sqlalchemy import text

from credit_service.commands.recompute_scores import (
    recompute_lagging,
    recompute_past_horizon,
)
from credit_service.commands.reconcile import reconcile
from credit_service.storage import customers, tasks
from credit_service.storage.database import Database
from tests.integration.portfolio import a_good_customer, on

TODAY = on(date(2026, 6, 10))


@pytest.fixture
def impatient(database_url: str) -> Iterator[Database]:
    """Waiting for a lock at all is an error here."""
    opened = Database(database_url, lock_timeout_seconds=0.2)
    yield opened
    opened.dispose()


@contextmanager
def kept(database: Database, customer_id: int) -> Iterator[None]:
    """The customer's row is locked inside."""
    with database.transaction() as connection:
        customers.lock(connection, customer_id)
        yield


def scored(database: Database) -> set[int]:
    with database.autocommit() as connection:
        return set(connection.execute(text("SELECT customer_id FROM credit_scores")).scalars())


def test_a_batch_leaves_a_task_for_a_customer_whom_somebody_keeps(
    database: Database, impatient: Database
) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    with kept(database, ids[1]):
        found, last = recompute_lagging(impatient, TODAY, after=0)
    assert {each.customer_id for each in found} == scored(database) == {ids[0], ids[2]}
    assert last == ids[2]
    with database.transaction() as connection:
        claimed = tasks.claim(
            connection, ["recompute_score"], limit=9, window=9, timeout_seconds=1.0
        )
    assert [task.subject for task in claimed] == [str(ids[1])]


def test_days_that_pass_do_not_wait_either(database: Database, impatient: Database) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    recompute_lagging(database, TODAY, after=0)
    later = on(TODAY.today + timedelta(days=365))
    with kept(database, ids[1]):
        found = recompute_past_horizon(impatient, later)
        assert {each.customer_id for each in found} == {ids[0], ids[2]}
        assert recompute_past_horizon(impatient, later) == []
    assert {each.customer_id for each in recompute_past_horizon(impatient, later)} == {ids[1]}


def test_a_reconciliation_takes_its_turn_with_the_others(
    database: Database, impatient: Database
) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    with kept(database, ids[1]):
        assert reconcile(impatient, TODAY).compared == 2
    assert reconcile(impatient, TODAY).compared == 3

"""Bulk updates of customers neither wait for a locked customer nor lock others for long."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta

import pytest
from opentelemetry import context as trace_context
from opentelemetry.trace import SpanKind
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.commands import recompute_scores as commands
from credit_service.commands.recompute_scores import lagging, recompute_past_horizon
from credit_service.commands.reconcile import reconcile
from credit_service.domain.positions import CreditPosition
from credit_service.observability import tracing
from credit_service.storage import customers, tasks
from credit_service.storage.database import Database
from tests.integration.portfolio import a_good_customer, on, recompute_lagging
from workers.actors import ACTORS
from workers.runner import Resources

TODAY = on(date(2026, 6, 10))
NOW = Clock().moment()


@pytest.fixture
def impatient(database_url: str) -> Iterator[Database]:
    """A database whose lock waits fail after 0.2 s."""
    opened = Database(database_url, lock_timeout_seconds=0.2)
    yield opened
    opened.dispose()


@contextmanager
def customer_lock(database: Database, customer_id: int) -> Iterator[None]:
    """Hold a lock on the customer's row."""
    with database.transaction() as connection:
        customers.lock(connection, customer_id)
        yield


def scored(database: Database) -> set[int]:
    with database.autocommit() as connection:
        return set(connection.execute(text("SELECT customer_id FROM credit_scores")).scalars())


def test_a_batch_enqueues_a_task_for_a_locked_customer(
    database: Database, impatient: Database
) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    with customer_lock(database, ids[1]):
        found = recompute_lagging(impatient, TODAY)
    assert {each.customer_id for each in found} == scored(database) == {ids[0], ids[2]}
    assert lagging(database, TODAY, ids[0]) == [ids[1]]
    assert lagging(database, TODAY, ids[1]) == []
    with database.transaction() as connection:
        claimed = tasks.claim(
            connection, ["recompute_score"], limit=9, window=9, timeout_seconds=1.0
        )
    assert [task.subject for task in claimed] == [str(ids[1])]


def test_recomputing_expired_scores_does_not_wait_for_locks(
    database: Database, impatient: Database
) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    recompute_lagging(database, TODAY)
    later = on(TODAY.today + timedelta(days=365))
    with customer_lock(database, ids[1]):
        found = recompute_past_horizon(impatient, later)
        assert {each.customer_id for each in found} == {ids[0], ids[2]}
        assert recompute_past_horizon(impatient, later) == []
    assert {each.customer_id for each in recompute_past_horizon(impatient, later)} == {ids[1]}


def test_a_reconciliation_skips_a_locked_customer(database: Database, impatient: Database) -> None:
    ids = [a_good_customer(database, TODAY) for _ in range(3)]
    with customer_lock(database, ids[1]):
        assert reconcile(impatient, TODAY).compared == 2
    assert reconcile(impatient, TODAY).compared == 3


@pytest.fixture
def resources(database: Database, redis_url: str) -> Iterator[Resources]:
    cache = PositionCache(redis_url)
    yield Resources(database, cache, Clock(), threading.Event(), ingestion_batch_rows=1000)
    cache.close()


def recompute_all(resources: Resources) -> None:
    (actor,) = (each for each in ACTORS if each.name == "recompute_scores")
    actor.work(resources, "all")


def test_all_scores_are_recomputed_in_concurrent_batches(
    database: Database, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BATCH", 3)
    ids = [a_good_customer(database, NOW) for _ in range(20)]
    recompute_all(resources)
    assert scored(database) == set(ids)
    recompute_all(resources)
    with database.autocommit() as connection:
        assert connection.execute(text("SELECT count(*) FROM score_history")).scalar_one() == 20


def test_concurrent_batches_belong_to_the_trace_of_their_task(
    database: Database, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BATCH", 1)
    for _ in range(3):
        a_good_customer(database, NOW)
    caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    span = tracing.start_span("task", SpanKind.CONSUMER, caller, {})
    assert span is not None
    token = trace_context.attach(tracing.context_of(span))
    try:
        recompute_all(resources)
    finally:
        trace_context.detach(token)
    with database.autocommit() as connection:
        found = connection.execute(
            text("SELECT traceparent FROM events WHERE kind = 'score_changed'")
        ).scalars()
        assert list(found) == [tracing.traceparent_of(span)] * 3


def test_a_failed_batch_fails_the_task(
    database: Database, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry of the task finds the other batches done."""
    monkeypatch.setattr(commands, "BATCH", 3)
    ids = [a_good_customer(database, NOW) for _ in range(20)]

    def failing(
        database: Database, moment: Moment, customer_ids: Sequence[int]
    ) -> list[CreditPosition]:
        if ids[4] in customer_ids:
            raise RuntimeError("this batch failed")
        return commands.recompute_batch(database, moment, customer_ids)

    with monkeypatch.context() as broken:
        broken.setattr("workers.actors.recompute_batch", failing)
        with pytest.raises(RuntimeError, match="this batch failed"):
            recompute_all(resources)
    assert set(ids[3:6]).isdisjoint(scored(database))
    recompute_all(resources)
    assert scored(database) == set(ids)

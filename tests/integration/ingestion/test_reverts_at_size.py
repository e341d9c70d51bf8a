"""After the revert of a large import, tables, positions, scores and cache are as before it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.ingestion.reverting import revert_ingestion
from credit_service.queries.credit import CreditQueries
from credit_service.queries.ingestions import get_ingestion
from credit_service.storage.database import Database
from credit_service.storage.tables import metadata
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    LoanRow,
    assert_positions_are_right,
    counts,
    ingest,
)
from tests.integration.portfolio import on
from workers.actors import ACTORS
from workers.runner import Resources

TODAY = on(date(2025, 6, 15))
BEFORE = replace(TODAY, now=TODAY.now - timedelta(hours=1))

# Numbers only grow, and a score says when it was computed.
_NUMBERS = {
    "customers": ("version", "event_seq", "arrears_version"),
    "credit_scores": ("customer_version", "computed_at"),
}
_RECORDS = frozenset({"events", "fact_changes", "score_history"})
"""Tables whose rows stay, and new ones follow."""
_WORK = frozenset(
    {"bookmarks", "ingestions", "ingestion_batches", "ingestion_keys", "tasks", "row_errors"}
)
"""Tables about the work itself."""


class _Clock(Clock):
    """A clock that stands still."""

    def moment(self) -> Moment:
        return TODAY


@pytest.fixture
def resources(database: Database, redis_url: str) -> Iterator[Resources]:
    cache = PositionCache(redis_url, timeout_seconds=10)
    yield Resources(database, cache, _Clock(), threading.Event(), ingestion_batch_rows=1_000)
    cache.close()


def work(resources: Resources, actor: str, subject: str = "all") -> None:
    """Do a worker's work on a subject."""
    (found,) = (each for each in ACTORS if each.name == actor)
    found.work(resources, subject)


def rows_of_tables(database: Database) -> dict[str, set[str]]:
    """Every row as text, by table; without the numbers that only grow."""
    found = {}
    with database.autocommit() as connection:
        for name in metadata.tables.keys() - _WORK:
            without = "".join(f" - '{each}'" for each in _NUMBERS.get(name, ()))
            statement = f"SELECT (to_jsonb(t){without})::text FROM {name} t"  # noqa: S608 - names of ours
            rows = list(connection.execute(text(statement)).scalars())
            found[name] = set(rows)
            assert len(found[name]) == len(rows) or name in _NUMBERS
    return found


def cached(resources: Resources, ids: list[int]) -> dict[int, dict[str, Any]]:
    """The entries of these customers in the cache, without the version."""
    entries = resources.cache.get_many(ids, TODAY.today)
    return {
        key: asdict(each.position) | {"version": 0, "scorecard": each.scorecard_version}
        for key, each in entries.items()
    }


def read_through(resources: Resources, ids: list[int]) -> dict[int, dict[str, Any]]:
    """The entries after a read of every customer."""
    queries = CreditQueries(resources.database, resources.cache)
    for start in range(0, len(ids), 50):
        some = ids[start : start + 50]
        # On a busy machine the cache leaves out what was read too long ago.
        while len(cached(resources, some)) < len(some):
            queries.snapshots(some, TODAY)
            time.sleep(0.02)
    return cached(resources, ids)


@pytest.mark.parametrize(
    "customers", [60, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_after_a_revert_everything_is_as_before(resources: Resources, customers: int) -> None:
    """With 20,000 customers, the import has 1,00,000 loans."""
    database, ids = resources.database, list(range(1, customers + 1))
    ingest(database, [CustomerRow(each) for each in ids], BEFORE, batch_rows=5_000)
    ingest(database, [LoanRow(each, 1) for each in ids], BEFORE, batch_rows=5_000)
    work(resources, "recompute_scores")
    before, entries_before = rows_of_tables(database), read_through(resources, ids)
    assert len(before["credit_scores"]) == len(entries_before) == customers

    rows = [LoanRow(each, 1, emis_paid_on_time=9) for each in ids]
    rows += [LoanRow(each, number, tenure_months=60) for number in range(2, 6) for each in ids]
    done = ingest(database, rows, TODAY, batch_rows=5_000, on_existing="UPDATE")
    assert counts(done) == {"inserted": 4 * customers, "updated": customers}
    work(resources, "recompute_scores")
    between = rows_of_tables(database)
    assert all(between[name] != before[name] for name in ("customers", "loans", "credit_scores"))
    entries_between = cached(resources, ids)
    assert len(entries_between) == customers
    assert all(each != entries_before[key] for key, each in entries_between.items())

    revert_ingestion(database, done.ingestion_id, uuid4(), TODAY, PRINCIPAL)
    work(resources, "revert_ingestion", str(done.ingestion_id))
    reverted = get_ingestion(database, done.ingestion_id)
    assert (reverted.rows_removed, reverted.rows_restored) == (4 * customers, customers)
    # No reader sees the import any more, before any score is computed.
    assert all(each == entries_before[key] for key, each in cached(resources, ids).items())

    work(resources, "recompute_scores")
    after = rows_of_tables(database)
    for name, rows_before in before.items():
        missing, added = rows_before - after[name], after[name] - rows_before
        assert not missing, name
        assert not added or name in _RECORDS, name
    assert read_through(resources, ids) == entries_before
    assert_positions_are_right(database, ids[:: max(1, customers // 50)], TODAY.today)

"""Tables stay bounded while events are written, watched and deleted: RETENTION_EVENTS of them.

`make retention` runs it with 1,00,000 events and prints figures.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import RetryLaterError
from credit_service.queries.backtest import replay_decision
from credit_service.settings import Settings
from credit_service.storage import retention
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration.conftest import Edge, code_of, refusal_of
from tests.integration.imported import execute, scalar
from tests.integration.portfolio import LAKH, a_good_customer
from workers import process
from workers.process import WorkerProcess

EVENTS = int(os.environ.get("RETENTION_EVENTS", "240"))
ROUNDS = 4
PATIENCE_SECONDS = 60 + EVENTS / 100
CUSTOMERS = 20 + EVENTS // 100
CLOCK = Clock()
INCOME = 1_000 * LAKH
SMALL, LARGE = Ask(LAKH, 1200, 12), Ask(100_000 * LAKH, 1200, 12)
KEPT = ("decisions", "score_history", "loans", "customers")
EXPIRING = ("events", "requests")


def waited(condition: Callable[[], bool]) -> float:
    """Wait until the condition holds; return the seconds that this took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS, "the condition does not hold"
        time.sleep(0.02)
    return time.monotonic() - began


class Bank:
    """Books loans of a few customers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._customers = [
            a_good_customer(database, CLOCK.moment(), 1_000 * LAKH) for _ in range(CUSTOMERS)
        ]
        self._booked = 0

    def book(self) -> float:
        """Book or decline one loan; return the seconds that this took."""
        self._booked += 1
        ask = SMALL if self._booked % 3 else LARGE
        customer_id = self._customers[self._booked % CUSTOMERS]
        began = time.monotonic()
        command = CreateLoan(uuid4(), customer_id, ask)
        while True:
            try:
                create_loan(self._database, command, CLOCK.moment(), "tests")
            except RetryLaterError as error:
                # Another booking or a score of the customer takes seconds on a busy machine.
                time.sleep(error.retry_after_seconds)
            else:
                return time.monotonic() - began

    def book_until(self, newest: int) -> None:
        """Book until about that many events are published."""
        with ThreadPoolExecutor(4) as pool:
            while (left := newest - published(self._database)) > 0:
                list(pool.map(lambda _: self.book(), range(min(left, 1_000))))
                waited(lambda: unfinished(self._database) == 0)


def published(database: Database) -> int:
    return int(scalar(database, "SELECT coalesce(max(event_id), 0) FROM events"))


def unfinished(database: Database) -> int:
    events = scalar(database, "SELECT count(*) FROM events WHERE event_id IS NULL")
    return int(events) + int(scalar(database, "SELECT count(*) FROM tasks"))


def watched(server: Edge, after: int) -> Iterator[int]:
    """The ids of events after that one; 0 for a heartbeat."""
    stream: Any = server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest(after_event_id=after))
    try:
        for response in stream:
            yield response.event.event_id
    finally:
        stream.cancel()


class Follower:
    """Watches all events from the first one on, in a thread."""

    def __init__(self, server: Edge) -> None:
        self.ids: list[int] = []
        self.error: grpc.StatusCode | None = None
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event_id in watched(self._server, 0):
                if event_id:
                    self.ids.append(event_id)
                if self._stop.is_set():
                    return
        except grpc.RpcError as error:
            self.error = code_of(error)

    def has_all(self, count: int) -> bool:
        """Whether it has received that many events. Fails if its stream has ended."""
        assert self.error is None, self.error
        return len(self.ids) == count

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def worker_of(database_url: str, redis_url: str) -> Iterator[None]:
    settings = Settings(
        database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), worker_threads=2
    )
    worker = WorkerProcess(settings)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def expire(database: Database) -> None:
    """Let everything published and requested so far be older than its retention."""
    execute(
        database,
        "UPDATE events SET occurred_at = now() - interval '91 days' WHERE event_id IS NOT NULL",
    )
    execute(database, "UPDATE requests SET created_at = now() - interval '401 days'")


def run_pass(database: Database, meanwhile: Callable[[], None]) -> float:
    """Let the worker delete what has expired; return the seconds that this took."""
    before = time.time()

    def is_complete() -> bool:
        meanwhile()
        with database.autocommit() as connection:
            return (retention.completed_at(connection) or 0) > before

    execute(database, "DELETE FROM bookmarks WHERE name = 'retention_due_ms'")
    return waited(is_complete)


def counted(database: Database, tables: tuple[str, ...]) -> dict[str, int]:
    with database.autocommit() as connection:
        return {
            table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608 - one of these
            for table in tables
        }


def bytes_per_row(database: Database) -> dict[str, int]:
    """Of each table with rows, with its indexes."""
    with database.autocommit() as connection:
        connection.execute(text("ANALYZE"))
        found = connection.execute(
            text(
                """SELECT relname, pg_total_relation_size(oid) / reltuples FROM pg_class
                WHERE relkind = 'r' AND reltuples > 100
                    AND relnamespace = 'public'::regnamespace ORDER BY 1"""
            )
        )
        return {name: round(size) for name, size in found}


def percentile(seconds: list[float], share: float) -> str:
    return f"{sorted(seconds)[int(len(seconds) * share)] * 1000:.1f} ms"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_tables_stay_bounded_and_watchers_resume(
    database: Database,
    database_url: str,
    redis_url: str,
    server: Edge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "POLL_SECONDS", 0.05)
    per_round = EVENTS // ROUNDS
    began = time.monotonic()
    passes, deleted = 0.0, 0
    during: list[float] = []
    replays: dict[int, Any] = {}
    sizes: dict[str, int] = {}
    with worker_of(database_url, redis_url):
        # The first pass, which finds nothing.
        run_pass(database, lambda: None)
        bank = Bank(database)
        follower = Follower(server)
        for number in range(1, ROUNDS + 1):
            start = published(database)
            bank.book_until(number * per_round)
            waited(lambda: follower.has_all(published(database)))
            ids = scalar(
                database, "SELECT array_agg(decision_id) FROM decisions TABLESAMPLE SYSTEM (20)"
            )
            for decision_id in (ids or [])[:100]:
                replays[decision_id] = replay_decision(database, decision_id)
            sizes = sizes or bytes_per_row(database)
            kept = counted(database, KEPT)
            before = counted(database, EXPIRING)
            expire(database)
            passes += run_pass(database, lambda: during.append(bank.book()))
            waited(lambda: unfinished(database) == 0)
            after = counted(database, EXPIRING)
            assert all(after[table] <= 3 * len(during) + per_round // 10 for table in after), after
            assert all(counted(database, KEPT)[table] >= kept[table] for table in KEPT)
            deleted += sum(before.values()) - sum(after.values())
            if number > 1:
                # One who watched until the start of the round has missed events.
                with pytest.raises(grpc.RpcError) as caught:
                    next(watched(server, start))
                refusal = refusal_of(caught.value)
                assert refusal.reason == "EVENTS_EXPIRED"
                oldest = int(refusal.metadata["oldest_event_id"])
                resumed = watched(server, oldest - 1)
                assert next(resumed) == oldest
                assert next(watched(server, 0)) == oldest
        waited(lambda: follower.has_all(published(database)))
        quiet = [bank.book() for _ in range(len(during))]
        follower.stop()
    assert follower.error is None
    assert follower.ids[: published(database)] == list(range(1, len(follower.ids) + 1))
    assert {each: replay_decision(database, each) for each in replays} == replays
    assert all(each.is_identical for each in replays.values())
    print(  # noqa: T201 - the result of `make retention`
        f"\n{published(database):,} events in {time.monotonic() - began:.0f} s; {deleted:,} rows "
        f"deleted in {passes:.1f} s of passes ({deleted / passes:,.0f} a second); at most "
        f"{max(before.values()):,} rows of {' and '.join(EXPIRING)}; a booking during a pass "
        f"p50 {percentile(during, 0.5)}, p99 {percentile(during, 0.99)}; without one "
        f"p50 {percentile(quiet, 0.5)}, p99 {percentile(quiet, 0.99)} ({len(during):,} each); "
        f"{len(replays)} replays the same; bytes a row with indexes: {sizes}"
    )

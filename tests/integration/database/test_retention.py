"""Expired rows are deleted in small steps, and nothing that a rule still needs."""

import asyncio
import threading
from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from sqlalchemy import Connection, func, select, table, text

from credit_service.cli.app import run as run_command
from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.console import feed
from credit_service.console.event_lines import EventLine
from credit_service.console.feed import Feeds
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    OutOfRangeError,
    PreconditionFailedError,
    RequestIdReusedError,
)
from credit_service.ingestion.streams import begin_stream, fail_stream, finish_stream, ingest_rows
from credit_service.ingestion.uploads import fail_upload, store_upload
from credit_service.ingestion.wire import RowBatch
from credit_service.observability import metrics
from credit_service.queries.backtest import replay_decision
from credit_service.queries.ingestions import get_ingestion, list_row_errors
from credit_service.rpc import watch
from credit_service.storage import event_stream, retention, row_errors, tasks, uploaded_files
from credit_service.storage.database import Database
from credit_service.storage.event_stream import StoredEvent
from credit_service.storage.ingestions import Header
from credit_service.storage.retention import Deletion, Retention
from credit_service.storage.row_errors import StoredRowError
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from tests.integration.conftest import Edge, refusal_of
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    LoanRow,
    columns_of,
    execute,
    header_of,
    ingest,
    scalar,
)
from tests.integration.portfolio import LAKH, a_customer, on
from workers.retention import ExpiredRows

TODAY = on(date(2026, 6, 10))
FOREVER = Retention(0, 0, 0, 0, 0, 0)
ASK = Ask(LAKH, 1200, 24)


def counted(database: Database, *tables: str) -> list[int]:
    with database.autocommit() as connection:
        counts = [select(func.count()).select_from(table(each)) for each in tables]
        return [connection.execute(each).scalar_one() for each in counts]


def run(database: Database, statement: str, **values: object) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement), values)


def publish(database: Database) -> None:
    # On a cluster, the second step lets watchers read the events of the first.
    for _ in range(2):
        with database.transaction() as connection:
            event_stream.publish(connection, 1_000)


def decide(database: Database, customer_id: int, request_id: UUID | None = None) -> Any:
    return create_loan(
        database, CreateLoan(request_id or uuid4(), customer_id, ASK), TODAY, PRINCIPAL
    )


def delete(database: Database, kept: Retention, step_rows: int = 1_000) -> list[dict[str, int]]:
    """What each step of a whole pass deleted; steps that deleted nothing are left out."""
    deletion = Deletion(kept, step_rows=step_rows)
    steps: list[dict[str, int]] = []
    while True:
        with database.transaction() as connection:
            deleted = deletion.step(connection)
        if deleted is None:
            return steps
        if any(deleted.values()):
            steps.append({table: count for table, count in deleted.items() if count})


@pytest.fixture
def three_customers(database: Database) -> Database:
    ingest(database, [CustomerRow(1), CustomerRow(2), CustomerRow(3)], TODAY)
    return database


# Events.


def test_the_oldest_published_events_are_deleted_in_steps(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    for _ in range(9):
        decide(database, customer_id)
    publish(database)
    execute(database, "UPDATE events SET occurred_at = now() - interval '91 days'")
    execute(database, "UPDATE events SET occurred_at = now() WHERE event_id > 7")
    decide(database, customer_id)
    execute(
        database,
        "UPDATE events SET occurred_at = now() - interval '1000 days' WHERE event_id IS NULL",
    )

    steps = delete(database, replace(FOREVER, events=90), step_rows=3)

    assert steps == [{"events": 3}, {"events": 3}, {"events": 1}]
    with database.autocommit() as connection:
        assert event_stream.expired_until(connection) == 7
    assert scalar(database, "SELECT min(event_id) FROM events") == 8
    assert scalar(database, "SELECT count(*) FROM events WHERE event_id IS NULL") == 1


def test_the_newest_event_is_kept_to_continue_its_numbers(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    publish(database)
    decide(database, customer_id)
    publish(database)
    execute(database, "UPDATE events SET occurred_at = now() - interval '91 days'")
    assert delete(database, replace(FOREVER, events=90)) == [{"events": 1}]
    assert delete(database, replace(FOREVER, events=90)) == []
    decide(database, customer_id)
    publish(database)
    assert scalar(database, "SELECT max(event_id) FROM events") == 3


def test_an_event_is_kept_as_long_as_one_numbered_before_it(database: Database) -> None:
    """A watcher never misses an event in between."""
    customer_id = a_customer(database, TODAY)
    for _ in range(3):
        decide(database, customer_id)
    publish(database)
    execute(database, "UPDATE events SET occurred_at = now() - interval '91 days'")
    execute(database, "UPDATE events SET occurred_at = now() WHERE event_id = 2")
    assert delete(database, replace(FOREVER, events=90)) == [{"events": 1}]
    assert scalar(database, "SELECT min(event_id) FROM events") == 2


# Request records and what they stand for.


def test_only_request_records_past_the_retention_are_deleted(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    old, young = uuid4(), uuid4()
    decisions = [decide(database, customer_id, each).decision_id for each in (old, young)]
    before = [replay_decision(database, each) for each in decisions]
    execute(database, "UPDATE requests SET created_at = now() - interval '399 days'")
    run(
        database,
        "UPDATE requests SET created_at = now() - interval '401 days' WHERE request_id = :id",
        id=old,
    )

    assert delete(database, replace(FOREVER, requests=400)) == [{"requests": 1}]

    # The young one still stands for its decision; the old one is new again.
    assert decide(database, customer_id, young).decision_id == decisions[1]
    assert decide(database, customer_id, old).decision_id not in decisions
    other = CreateLoan(young, customer_id, Ask(2 * LAKH, 1200, 24))
    with pytest.raises(RequestIdReusedError):
        create_loan(database, other, TODAY, PRINCIPAL)
    # Decisions stay, with their request ids, and replay to the same bytes.
    assert [replay_decision(database, each) for each in decisions] == before
    assert scalar(database, "SELECT count(*) - count(DISTINCT request_id) FROM decisions") == 1


def test_rows_of_one_instant_are_deleted_together(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    for _ in range(6):
        decide(database, customer_id)
    execute(database, "UPDATE requests SET created_at = now() - interval '500 days'")
    # With that of the customer.
    assert delete(database, replace(FOREVER, requests=400), step_rows=2) == [{"requests": 7}]


def test_parked_tasks_and_discrepancies_expire(database: Database) -> None:
    with database.transaction() as connection:
        tasks.enqueue_all(connection, "recompute_score", ["1", "2", "3"], TODAY)
    execute(database, "UPDATE tasks SET due_at = now() - interval '91 days'")
    execute(database, "UPDATE tasks SET state = 'PARKED' WHERE subject <> '3'")
    execute(database, "UPDATE tasks SET due_at = now() WHERE subject = '2'")
    execute(
        database,
        """INSERT INTO discrepancies (customer_id, found_at, stored, computed)
        SELECT n, now() - n * interval '300 days', '{}', '{}' FROM generate_series(1, 3) n""",
    )
    assert delete(database, Retention()) == [{"tasks": 1}, {"discrepancies": 2}]
    assert scalar(database, "SELECT string_agg(subject, ',' ORDER BY subject) FROM tasks") == "2,3"


# What belongs to an ingestion.


def _rejected(count: int) -> list[LoanRow]:
    """Loans of unknown customers."""
    return [LoanRow(9, number) for number in range(1, count + 1)]


def test_the_file_of_an_upload_expires_after_its_end(database: Database) -> None:
    ids = [uuid4(), uuid4()]
    for ingestion_id in ids:
        header = Header(ingestion_id, "CUSTOMERS", filename="c.csv")
        store_upload(database, header, [b"Customer ID\n1\n"] * 100_000, TODAY, PRINCIPAL, 10**7)
    ended, queued = ids
    fail_upload(database, ended, "COLUMN_MISSING", "There is no column Age.", TODAY)
    run(
        database,
        "UPDATE ingestions SET finished_at = now() - interval '29 days' WHERE NOT state = 'QUEUED'",
    )
    delete(database, Retention())
    assert not get_ingestion(database, ended).is_file_expired
    run(
        database,
        "UPDATE ingestions SET finished_at = now() - interval '31 days' WHERE NOT state = 'QUEUED'",
    )

    assert delete(database, Retention(), step_rows=1) == [{"ingestion_chunks": 1}] * 2

    assert get_ingestion(database, ended).is_file_expired
    assert not get_ingestion(database, queued).is_file_expired
    assert counted(database, "ingestion_chunks") == [2]


def test_row_errors_expire_after_the_end_of_their_ingestion(three_customers: Database) -> None:
    ended = ingest(three_customers, _rejected(40), TODAY).ingestion_id
    header = header_of(_rejected(1))
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    rows = [RowBatch(0, columns_of(_rejected(1)))]
    ingest_rows(three_customers, header.ingestion_id, rows, TODAY)
    delete(three_customers, FOREVER)
    run(
        three_customers,
        "UPDATE ingestions SET finished_at = now() - interval '91 days' WHERE ingestion_id = :id",
        id=ended,
    )

    steps = delete(three_customers, replace(FOREVER, row_errors=90), step_rows=16)

    assert steps == [{"row_errors": 16}, {"row_errors": 16}, {"row_errors": 8}]
    found = get_ingestion(three_customers, ended)
    assert (found.is_row_errors_expired, found.rejected) == (True, 40)
    assert len(list_row_errors(three_customers, header.ingestion_id, None, 100)) == 1


def test_an_ingestion_without_row_errors_has_none_that_expired(three_customers: Database) -> None:
    execute(three_customers, "UPDATE ingestions SET finished_at = now() - interval '99 days'")
    delete(three_customers, Retention())
    ingestion_id = scalar(three_customers, "SELECT ingestion_id FROM ingestions")
    found = get_ingestion(three_customers, ingestion_id)
    assert found.row_errors_state == found.source_state == "DELETED"
    assert [found.is_row_errors_expired, found.is_file_expired] == [False, False]


def test_an_ingestion_is_marked_before_its_first_rows_are_deleted(
    three_customers: Database,
) -> None:
    ingestion = ingest(three_customers, _rejected(5), TODAY)
    execute(three_customers, "UPDATE ingestions SET finished_at = now() - interval '91 days'")
    deletion = Deletion(replace(FOREVER, row_errors=90), step_rows=2)
    while get_ingestion(three_customers, ingestion.ingestion_id).row_errors_state == "KEPT":
        with three_customers.transaction() as connection:
            assert deletion.step(connection) is not None
    found = get_ingestion(three_customers, ingestion.ingestion_id)
    assert (found.row_errors_state, found.is_row_errors_expired) == ("DELETING", True)
    assert counted(three_customers, "row_errors") == [3]


def test_what_a_stream_needs_to_resume_is_kept_for_7_days(three_customers: Database) -> None:
    def silent(ingestion_id: UUID, interval: str) -> None:
        run(
            three_customers,
            """UPDATE ingestions SET last_activity_at = now() - CAST(:interval AS interval),
                finished_at = finished_at - CAST(:interval AS interval)
            WHERE ingestion_id = :id""",
            id=ingestion_id,
            interval=interval,
        )

    kept = replace(FOREVER, sources=1)
    rows = [LoanRow(1, 1), LoanRow(1, 2)]
    headers = [header_of(rows, validate_only=True) for _ in range(3)]
    for header in headers:
        begin_stream(three_customers, header, TODAY, PRINCIPAL)
        first = [RowBatch(0, columns_of(rows[:1]))]
        ingest_rows(three_customers, header.ingestion_id, first, TODAY)
    running, failed, resumed = (each.ingestion_id for each in headers)
    tables = ("ingestion_keys", "ingestion_batches")
    delete(three_customers, FOREVER)
    before = counted(three_customers, *tables)
    for ingestion_id in (failed, resumed):
        fail_stream(three_customers, ingestion_id, "The file is damaged.", TODAY)
    for ingestion_id in (running, failed, resumed):
        silent(ingestion_id, "6 days 23 hours")
    delete(three_customers, kept)
    assert counted(three_customers, *tables) == [before[0], before[1] - 1]
    assert begin_stream(three_customers, headers[2], TODAY, PRINCIPAL).state == "RUNNING"

    silent(running, "8 days")
    silent(failed, "7 days")
    assert delete(three_customers, kept) == [{"ingestion_keys": 1}, {"ingestion_batches": 1}]

    # Not resumed without them, by its header or by rows alone.
    execute(three_customers, "UPDATE ingestions SET last_activity_at = now()")
    assert begin_stream(three_customers, headers[1], TODAY, PRINCIPAL).state == "FAILED"
    with pytest.raises(PreconditionFailedError, match="has ended"):
        ingest_rows(three_customers, failed, [RowBatch(1, columns_of(rows[1:]))], TODAY)
    for ingestion_id in (running, resumed):
        ingest_rows(three_customers, ingestion_id, [RowBatch(1, columns_of(rows[1:]))], TODAY)
        assert finish_stream(three_customers, ingestion_id, TODAY).inserted == 2


def test_keys_of_an_enormous_stream_are_deleted_in_steps_after_its_end(
    three_customers: Database,
) -> None:
    ingestion_id = ingest(three_customers, [LoanRow(1, 1)], TODAY).ingestion_id
    delete(three_customers, FOREVER)
    execute(three_customers, "UPDATE ingestions SET keys_state = 'KEPT'")
    run(
        three_customers,
        """INSERT INTO ingestion_keys (ingestion_id, customer_id, loan_id, row_number, fingerprint)
        SELECT CAST(:id AS uuid), n / 10, n % 10 - 1, n, n FROM generate_series(1, 10500) n""",
        id=ingestion_id,
    )
    steps = delete(three_customers, FOREVER, step_rows=2_000)
    assert [each["ingestion_keys"] for each in steps] == [2_000] * 5 + [500]


def test_0_days_keep_rows_forever(three_customers: Database) -> None:
    ingest(three_customers, _rejected(3), TODAY)
    decide(three_customers, 1)
    publish(three_customers)
    execute(three_customers, "UPDATE events SET occurred_at = now() - interval '90 years'")
    execute(three_customers, "UPDATE requests SET created_at = now() - interval '90 years'")
    execute(three_customers, "UPDATE ingestions SET finished_at = now() - interval '90 years'")
    tables = ("events", "requests", "row_errors", "ingestion_batches")
    before = counted(three_customers, *tables)
    delete(three_customers, FOREVER)
    assert counted(three_customers, *tables) == before


# Steps of workers.


@pytest.fixture
def old_events(database: Database) -> Database:
    """Ten old events and a new one, and ten old records of requests."""
    customer_id = a_customer(database, TODAY)
    for _ in range(10):
        decide(database, customer_id)
    publish(database)
    execute(database, "UPDATE events SET occurred_at = now() - interval '91 days'")
    execute(database, "UPDATE events SET occurred_at = now() WHERE event_id = 11")
    execute(
        database,
        """UPDATE requests
        SET created_at = (timestamp '2020-01-01' + decision_id * interval '1 s') AT TIME ZONE 'UTC'
        WHERE decision_id IS NOT NULL""",
    )
    return database


def _workers(database: Database, count: int = 1) -> list[ExpiredRows]:
    kept = replace(FOREVER, events=90, requests=400)
    return [ExpiredRows(database, kept, threading.Event(), step_rows=4) for _ in range(count)]


def _deleted(table: str) -> float:
    """The metric of a table's deleted rows."""
    labels = {"table": table}
    name = "credit_retention_deleted_rows_total"
    return metrics.REGISTRY.get_sample_value(name, labels) or 0


def _run(database: Database, worker: ExpiredRows) -> int:
    """Let the worker step until a pass is complete; return the number of steps."""
    steps = 0
    while scalar(database, "SELECT count(*) FROM bookmarks WHERE name LIKE '%completed%'") == 0:
        steps += worker.step()
    return steps


def test_a_pass_ends_and_the_next_one_waits(old_events: Database) -> None:
    (worker,) = _workers(old_events)
    with old_events.autocommit() as connection:
        assert retention.completed_at(connection) is None
    before = _deleted("events")
    assert _run(old_events, worker) == 6
    assert _deleted("events") - before == 10
    assert counted(old_events, "events", "requests") == [1, 1]
    with old_events.autocommit() as connection:
        assert not retention.is_due(connection)
        completed_at = retention.completed_at(connection)
    assert abs((completed_at or 0) - Clock().moment().now.timestamp()) < 600


def test_a_failed_step_is_repeated(old_events: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_connection: Connection, _seconds: float) -> None:
        raise OSError("interrupted")

    (worker,) = _workers(old_events)
    with monkeypatch.context() as patched:
        patched.setattr(retention, "pause", fail)
        with pytest.raises(OSError, match="interrupted"):
            worker.step()
    assert counted(old_events, "events", "requests") == [11, 11]
    _run(old_events, worker)
    assert counted(old_events, "events", "requests") == [1, 1]


def test_one_worker_deletes_at_a_time(old_events: Database) -> None:
    first, second = _workers(old_events, 2)
    with old_events.transaction() as connection:
        assert retention.try_lock(connection)
        assert not second.step()
        assert counted(old_events, "requests") == [11]
    assert first.step()
    execute(old_events, "UPDATE bookmarks SET position = position + 60000 WHERE name ~ 'due'")
    # The pause after a step is one for all workers.
    assert not first.step()
    assert not second.step()
    assert counted(old_events, "requests") == [7]


def test_ages_are_reported_for_every_table_that_expires(old_events: Database) -> None:
    day = 86_400

    def ages(kept: Retention) -> dict[str, tuple[int, int]]:
        with old_events.autocommit() as connection:
            return {
                each.table: (int(each.oldest_seconds / day), int(each.overdue_seconds / day))
                for each in Deletion(kept).ages(connection)
            }

    ingest(old_events, [CustomerRow(1), CustomerRow(1, age=40)], TODAY)
    execute(old_events, "UPDATE ingestions SET finished_at = now() - interval '35 days'")
    execute(old_events, "UPDATE requests SET created_at = now() - interval '20 days'")
    assert ages(Retention()) == {
        "ingestion_keys": (35, 35),
        "ingestion_chunks": (35, 5),
        "row_errors": (35, 0),
        "requests": (20, 0),
        "events": (91, 1),
        "tasks": (0, 0),
        "discrepancies": (0, 0),
    }
    # A stream that can be resumed is not overdue.
    execute(
        old_events,
        """UPDATE ingestions SET state = 'FAILED', error_code = 'ABANDONED',
            last_activity_at = now() - interval '1 day'""",
    )
    assert ages(FOREVER) == {"ingestion_keys": (35, 0)}
    # Neither is the newest event.
    delete(old_events, Retention())
    execute(old_events, "UPDATE events SET occurred_at = now() - interval '95 days'")
    assert ages(Retention())["events"] == (0, 0)


# What callers see.


def watched(server: Edge, after: int, count: int, customer_id: int | None = None) -> list[int]:
    """The ids of the first events of a watch, 0 for a heartbeat."""
    request = pb.WatchCreditEventsRequest(after_event_id=after, customer_id=customer_id)
    stream: Any = server.credit.WatchCreditEvents(request, timeout=20)
    found = [each.event.event_id for each in islice(stream, count)]
    stream.cancel()
    return found


def test_a_watch_that_would_miss_events_is_rejected(old_events: Database, server: Edge) -> None:
    execute(old_events, "UPDATE events SET occurred_at = now() WHERE event_id > 8")
    delete(old_events, replace(FOREVER, events=90))
    for customer_id in (None, 99):
        with pytest.raises(grpc.RpcError) as caught:
            watched(server, 7, 1, customer_id)
        refusal = refusal_of(caught.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_EXPIRED")
        assert refusal.metadata == {"after_event_id": "7", "oldest_event_id": "9"}
    # None is missed after the one before the oldest, nor from the start.
    assert watched(server, 8, 4) == watched(server, 0, 4) == [9, 10, 11, 0]
    assert watched(server, 0, 1, customer_id=99) == [0]


def test_a_slow_watch_ends_when_its_next_events_are_deleted(
    old_events: Database, server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_PAGE", 2)
    tail = watch.EventTail(old_events, threading.Event())
    stream = tail.follow(0, None, frozenset())
    assert [event_id_of(each) for each in islice(stream, 2)] == [1, 2]
    # None of the next ones is left when they are read.
    delete(old_events, replace(FOREVER, events=90))
    with pytest.raises(OutOfRangeError) as caught:
        next(stream)
    assert caught.value.metadata == {"after_event_id": "2", "oldest_event_id": "11"}


def test_events_deleted_before_the_first_page_are_no_gap(
    old_events: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = watch.EventTail(old_events, threading.Event())
    newest = watch.EventTail.newest

    def delete_first(tail: watch.EventTail) -> int:
        delete(old_events, replace(FOREVER, events=90))
        return newest(tail)

    monkeypatch.setattr(watch.EventTail, "newest", delete_first)
    assert event_id_of(next(tail.follow(0, None, frozenset()))) == 11


def event_id_of(found: StoredEvent | int) -> int:
    assert not isinstance(found, int)
    return found.event_id


def test_events_that_are_no_longer_kept_are_named_by_the_command(
    old_events: Database, server: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(old_events, replace(FOREVER, events=90))
    command = ["events", "--no-follow", "--address", server.target]
    assert run_command([*command, "--after", "3"]) == 1
    shown = capsys.readouterr().err
    assert "Events 4 to 10 are no longer kept" in shown
    assert "--after 10" in shown
    assert run_command([*command, "--after", "10"]) == 0
    assert run_command(command) == 0


def test_the_consoles_feed_starts_with_the_events_that_are_kept(
    old_events: Database, server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its search for the newest events meets deleted ones, and it starts after one of them.
    monkeypatch.setattr(feed, "_SEARCH_EVENTS", 4)
    delete(old_events, replace(FOREVER, events=90))

    async def first() -> object:
        feeds = Feeds(server.channel)
        try:
            async for item in feeds.listen(""):
                if item is not None:
                    return item
        finally:
            feeds.close()
        return None

    found = asyncio.run(asyncio.wait_for(first(), 20))
    assert isinstance(found, EventLine)
    assert found.event_id == 11


def test_a_file_and_row_errors_that_are_no_longer_kept_are_reported(
    database: Database, server: Edge, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ingestion_id = uuid4()
    header = Header(ingestion_id, "CUSTOMERS", filename="c.csv")
    content = b"Customer ID\n1\n"
    store_upload(database, header, [content], TODAY, PRINCIPAL, 10**7)
    fail_upload(database, ingestion_id, "COLUMN_MISSING", "There is no column Age.", TODAY)
    run(database, "UPDATE ingestions SET rejected = 3, rows_read = 3")
    with database.transaction() as connection:
        errors = [StoredRowError(n, 1, n, "age", "MISSING", "", "a", "m") for n in range(3)]
        row_errors.add(connection, ingestion_id, errors)
    request = ingestion_pb.ListRowErrorsRequest(ingestion_id=str(ingestion_id))
    listed = server.ingestion.ListRowErrors(request)
    assert (len(listed.row_errors), listed.row_errors_expired) == (3, False)

    execute(database, "UPDATE ingestions SET finished_at = now() - interval '60 days'")
    delete(database, Retention(sources=30, row_errors=90))
    seen = server.ingestion.GetIngestion(
        ingestion_pb.GetIngestionRequest(ingestion_id=str(ingestion_id))
    ).ingestion
    assert (seen.file_expired, seen.row_errors_expired, seen.rejected) == (True, False, 3)
    assert _problem_of_download(server, ingestion_id) == "FILE_EXPIRED"
    path = tmp_path / "a.xlsx"
    command = ["annotated", str(ingestion_id), "--output", str(path), "--address", server.target]
    assert run_command(command) == 1
    assert "it was deleted at the end of its retention" in capsys.readouterr().err
    assert len(server.ingestion.ListRowErrors(request).row_errors) == 3

    # As soon as the first of them is deleted.
    execute(database, "UPDATE ingestions SET row_errors_state = 'DELETING'")
    listed = server.ingestion.ListRowErrors(request)
    assert (list(listed.row_errors), listed.row_errors_expired) == ([], True)
    execute(database, "UPDATE ingestions SET source_state = 'KEPT'")
    with database.transaction() as connection:
        uploaded_files.store_chunk(connection, ingestion_id, 0, content)
    assert _problem_of_download(server, ingestion_id) == "ROW_ERRORS_EXPIRED"


def _problem_of_download(server: Edge, ingestion_id: UUID) -> str:
    request = ingestion_pb.DownloadAnnotatedWorkbookRequest(ingestion_id=str(ingestion_id))
    with pytest.raises(grpc.RpcError) as caught:
        list(server.ingestion.DownloadAnnotatedWorkbook(request))
    refusal = refusal_of(caught.value)
    assert refusal.reason == "WORKBOOK_UNAVAILABLE"
    assert refusal.code == grpc.StatusCode.FAILED_PRECONDITION
    return refusal.metadata["problem"]

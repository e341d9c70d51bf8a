"""A cancelled ingestion stores no row after the cancellation; its committed rows stay."""

import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest

from credit_service import failpoints
from credit_service.clock import Clock, Moment
from credit_service.domain.errors import (
    NotFoundError,
    PreconditionFailedError,
    RequestIdReusedError,
)
from credit_service.ingestion.cancelling import cancel_ingestion
from credit_service.ingestion.streams import begin_stream, fail_stream, finish_stream, ingest_rows
from credit_service.ingestion.uploads import run_upload, store_upload
from credit_service.ingestion.wire import RowBatch
from credit_service.queries.ingestions import get_ingestion
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header, Ingestion
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    columns_of,
    header_of,
    ingest,
    scalar,
)
from tests.integration.portfolio import on

TODAY = on(date(2025, 6, 15))
ROWS = [CustomerRow(n) for n in range(1, 7)]


class _Clock(Clock):
    """A clock that stands still."""

    def moment(self) -> Moment:
        return TODAY


def cancel(database: Database, ingestion_id: UUID, request_id: UUID | None = None) -> Ingestion:
    return cancel_ingestion(database, ingestion_id, request_id or uuid4(), TODAY, PRINCIPAL)


def send(database: Database, ingestion_id: UUID, offset: int, count: int = 2) -> Ingestion:
    rows = [RowBatch(offset, columns_of(ROWS[offset : offset + count]))]
    return ingest_rows(database, ingestion_id, rows, TODAY)


def stored(database: Database) -> int:
    found: int = scalar(database, "SELECT count(*) FROM customers")
    return found


def events(database: Database) -> list[Any]:
    found: list[Any] = scalar(
        database,
        "SELECT coalesce(json_agg(payload), '[]') FROM events WHERE kind = 'rows_ingested'",
    )
    return found


def a_stream(database: Database) -> UUID:
    header = header_of(ROWS)
    begin_stream(database, header, TODAY, PRINCIPAL)
    return header.ingestion_id


def an_upload(database: Database) -> UUID:
    lines = ["customer_id,first_name,last_name,age,phone_number,monthly_salary"]
    lines += [f"{r.customer_id},Asha,Rao,30,{r.phone_number},50000" for r in ROWS]
    header = Header(uuid4(), "CUSTOMERS", filename="customers.csv")
    content = "\n".join(lines).encode()
    store_upload(database, header, [content], TODAY, PRINCIPAL, 10**6)
    return header.ingestion_id


def test_a_stream_is_cancelled_between_batches(database: Database) -> None:
    ingestion_id = a_stream(database)
    send(database, ingestion_id, 0)
    request_id = uuid4()
    cancelled = cancel(database, ingestion_id, request_id)
    assert cancelled.state == "CANCELLED"
    assert (cancelled.inserted, cancelled.committed_offset) == (2, 2)
    assert cancelled.finished_at == TODAY.now
    with pytest.raises(PreconditionFailedError) as refused:
        send(database, ingestion_id, 2)
    assert refused.value.reason == "INGESTION_ENDED"
    # What is committed already is not sent again.
    assert send(database, ingestion_id, 0) == cancelled
    assert stored(database) == 2
    # Nothing else changes its state.
    assert finish_stream(database, ingestion_id, TODAY) == cancelled
    assert fail_stream(database, ingestion_id, "Line 3 is damaged.", TODAY) == cancelled
    assert begin_stream(database, header_of(ROWS, ingestion_id=ingestion_id), TODAY, PRINCIPAL) == (
        cancelled
    )
    assert cancel(database, ingestion_id, request_id) == cancelled
    assert [each["inserted"] for each in events(database)] == [2]


def test_a_stream_that_is_begun_is_cancelled_without_an_event(database: Database) -> None:
    cancelled = cancel(database, a_stream(database))
    assert (cancelled.state, cancelled.rows_read) == ("CANCELLED", 0)
    assert events(database) == []


def test_a_queued_upload_is_cancelled_and_its_task_does_nothing(database: Database) -> None:
    ingestion_id = an_upload(database)
    cancelled = cancel(database, ingestion_id)
    assert (cancelled.state, cancelled.started_at) == ("CANCELLED", None)
    assert run_upload(database, ingestion_id, _Clock()) == cancelled
    assert stored(database) == 0


def test_a_worker_stops_when_its_upload_is_cancelled(database: Database) -> None:
    ingestion_id, steps = an_upload(database), 0

    def cancel_at_the_second_batch() -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            cancel(database, ingestion_id)

    found = run_upload(
        database, ingestion_id, _Clock(), batch_rows=2, on_progress=cancel_at_the_second_batch
    )
    assert (found.state, found.inserted) == ("CANCELLED", 2)
    assert stored(database) == 2
    assert steps == 2


def test_an_ended_ingestion_is_not_cancelled(database: Database) -> None:
    done = ingest(database, ROWS, TODAY)
    for ingestion_id in (done.ingestion_id, a_stream(database)):
        request_id = uuid4()
        if ingestion_id != done.ingestion_id:
            cancel(database, ingestion_id, request_id)
            with pytest.raises(RequestIdReusedError):
                cancel(database, done.ingestion_id, request_id)
        with pytest.raises(PreconditionFailedError) as refused:
            cancel(database, ingestion_id)
        assert refused.value.reason == "INGESTION_ENDED"
    with pytest.raises(NotFoundError):
        cancel(database, uuid4())


def test_a_cancellation_waits_for_the_batch_that_is_being_committed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingestion_id = a_stream(database)
    in_batch, commit = threading.Event(), threading.Event()
    order: list[str] = []

    def reach(point: str) -> None:
        if point == "ingestion.before_commit":
            in_batch.set()
            assert commit.wait(20)
        elif point == "ingestion.after_commit":
            order.append("committed")

    monkeypatch.setattr(failpoints, "reach", reach)
    sending = threading.Thread(target=send, args=(database, ingestion_id, 0))
    sending.start()
    assert in_batch.wait(20)
    found: list[Ingestion] = []

    def cancel_it() -> None:
        found.append(cancel(database, ingestion_id))
        order.append("cancelled")

    cancelling = threading.Thread(target=cancel_it)
    cancelling.start()
    _wait_until(lambda: _waiting(database) == 1)
    commit.set()
    cancelling.join()
    sending.join()
    assert sorted(order) == ["cancelled", "committed"]
    # It counts the batch that was committed before it.
    assert (found[0].state, found[0].inserted) == ("CANCELLED", 2)
    assert [each["inserted"] for each in events(database)] == [2]
    assert get_ingestion(database, ingestion_id) == found[0]
    assert stored(database) == 2


def _waiting(database: Database) -> int:
    found: int = scalar(
        database,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()",
    )
    return found


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)

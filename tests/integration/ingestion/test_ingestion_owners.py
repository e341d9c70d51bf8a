"""Several teams share the service: only its owner continues an ingestion."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.type.money_pb2 import Money
from pydantic import SecretStr

from credit_service.clock import Clock
from credit_service.ingestion.reverting import run_revert
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from tests.integration.conftest import Edge, Refusal, refusal_of
from tests.integration.ingestion.test_rpc_ingestion import (
    CUSTOMERS,
    accounted,
    batch,
    customer_row,
    failure,
    header,
)
from tests.integration.rpc.test_identity_methods import ISSUER, KEY, bearing, token, write_keys
from tests.integration.rpc.test_rpc_server import eventually

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
# Longer than the tests of a busy machine take.
_EXPIRY = int(time.time()) + 86_400
A = bearing(token(sub="team-a", scope="ingest", exp=_EXPIRY))
B = bearing(token(sub="team-b", scope="ingest", exp=_EXPIRY))
READER = bearing(token(sub="team-c", scope="ingest credit.read", exp=_EXPIRY))

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    keys = tmp_path / "jwks.json"
    write_keys(keys, k1=KEY)
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=12,
        token_keys=keys,
        token_issuer=ISSUER,
    )


def ingest(
    server: Edge, caller: Metadata, *messages: pb.IngestRowsRequest
) -> ingestion_pb2.Ingestion:
    return server.ingestion.IngestRows(iter(messages), timeout=10, metadata=caller).ingestion


def upload(
    server: Edge, caller: Metadata, ingestion_id: str, **other: Any
) -> ingestion_pb2.Ingestion:
    first = pb.UploadSpreadsheetHeader(
        ingestion_id=ingestion_id, kind=CUSTOMERS, filename="c.csv", **other
    )
    messages = [
        pb.UploadSpreadsheetRequest(header=first),
        pb.UploadSpreadsheetRequest(chunk=b"customer_id,first_name\n1,Asha\n"),
    ]
    answer = server.ingestion.UploadSpreadsheet(iter(messages), timeout=10, metadata=caller)
    return answer.ingestion


def refused(call: Any, *arguments: Any, **named: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)
    return refusal_of(caught.value)


def names(database: Database) -> list[str]:
    with database.autocommit() as connection:
        found = connection.exec_driver_sql("SELECT first_name FROM customers ORDER BY 1")
        return list(found.scalars())


def test_a_running_ingestion_accepts_rows_of_its_owner_only(
    server: Edge, database: Database
) -> None:
    ingestion_id, resume = str(uuid4()), threading.Event()

    def rows() -> Iterator[pb.IngestRowsRequest]:
        yield header(ingestion_id)
        yield batch(0, [customer_row(1, first_name="Asha")])
        assert resume.wait(20)
        yield batch(1, [customer_row(2, first_name="Bina")])

    theirs = server.ingestion.IngestRows.future(rows(), timeout=20, metadata=A)

    def listed() -> Sequence[ingestion_pb2.Ingestion]:
        answer = server.ingestion.ListIngestions(pb.ListIngestionsRequest(), metadata=B)
        return answer.ingestions

    eventually(lambda: any(each.committed_offset for each in listed()))
    (found,) = listed()
    assert found.ingestion_id == ingestion_id
    assert found.principal == "team-a"
    mine = batch(0, [customer_row(1, first_name="Mallory")])
    for messages in ([mine], [], [failure("Ended by another.")]):
        refusal = refused(ingest, server, B, header(ingestion_id), *messages)
        assert (refusal.code, refusal.reason) == (PERMISSION_DENIED, "INGESTION_NOT_OWNED")
        assert refusal.metadata == {"ingestion_id": ingestion_id}
    assert refused(upload, server, B, ingestion_id).reason == "INGESTION_NOT_OWNED"
    resume.set()
    ended = theirs.result().ingestion
    assert ended.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    assert accounted(ended) == {"inserted": 2}
    assert names(database) == ["Asha", "Bina"]


def test_an_ended_ingestion_is_resumed_by_its_owner_only(server: Edge) -> None:
    ingestion_id = str(uuid4())
    rows = [customer_row(1), customer_row(2)]
    ingest(server, A, header(ingestion_id), batch(0, rows[:1]), failure("Line 2 is damaged."))
    refusal = refused(ingest, server, B, header(ingestion_id), batch(1, rows[1:]))
    assert refusal.reason == "INGESTION_NOT_OWNED"
    done = ingest(server, A, header(ingestion_id), batch(0, rows))
    assert accounted(done) == {"inserted": 2}
    assert refused(ingest, server, B, header(ingestion_id), batch(0, rows)).code is (
        PERMISSION_DENIED
    )


def test_an_upload_belongs_to_its_caller(server: Edge) -> None:
    ingestion_id = str(uuid4())
    queued = upload(server, A, ingestion_id)
    assert upload(server, A, ingestion_id) == queued
    assert refused(upload, server, B, ingestion_id).reason == "INGESTION_NOT_OWNED"
    assert refused(ingest, server, B, header(ingestion_id)).reason == "INGESTION_NOT_OWNED"


def test_row_errors_are_read_by_the_owner_and_with_the_scope_credit_read(
    server: Edge,
) -> None:
    ingestion_id = str(uuid4())
    ingest(server, A, header(ingestion_id), batch(0, [customer_row(1, phone_number="12")]))
    errors = pb.ListRowErrorsRequest(ingestion_id=ingestion_id)
    workbook = pb.DownloadAnnotatedWorkbookRequest(ingestion_id=ingestion_id)

    def downloaded(caller: Metadata) -> list[Any]:
        return list(server.ingestion.DownloadAnnotatedWorkbook(workbook, metadata=caller))

    for caller in (A, READER):
        found = server.ingestion.ListRowErrors(errors, metadata=caller).row_errors
        assert [each.found for each in found] == ["12"]
        assert refused(downloaded, caller).reason == "INGESTION_NOT_UPLOADED"
    for refusal in (
        refused(server.ingestion.ListRowErrors, errors, metadata=B),
        refused(downloaded, B),
    ):
        assert (refusal.code, refusal.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
        assert refusal.metadata == {"required_scope": "credit.read"}
    # Every caller with the scope ingest may read the progress.
    request = pb.GetIngestionRequest(ingestion_id=ingestion_id)
    assert server.ingestion.GetIngestion(request, metadata=B).ingestion.rejected == 1
    (watched,) = server.ingestion.WatchIngestion(
        pb.WatchIngestionRequest(ingestion_id=ingestion_id), metadata=B
    )
    assert watched.ingestion.principal == "team-a"
    unknown = pb.ListRowErrorsRequest(ingestion_id=str(uuid4()))
    refusal = refused(server.ingestion.ListRowErrors, unknown, metadata=B)
    assert refusal.reason == "INGESTION_NOT_FOUND"


def test_replacing_stored_facts_requires_its_own_scope(server: Edge) -> None:
    updater = bearing(token(sub="team-a", scope="ingest ingest.update"))
    rows = [customer_row(1), customer_row(2)]
    ingest(server, A, header(str(uuid4())), batch(0, rows))
    changed = batch(0, [customer_row(1, approved_limit=Money(units=4_00_00_000)), rows[1]])
    update = ingestion_pb2.ON_EXISTING_UPDATE
    for dry_run in (False, True):
        first = header(str(uuid4()), on_existing=update, validate_only=dry_run)
        refusals = (
            refused(ingest, server, A, first, changed),
            refused(upload, server, A, str(uuid4()), on_existing=update, validate_only=dry_run),
        )
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
            assert refusal.metadata == {"required_scope": "ingest.update"}
    # No ingestion began. Without UPDATE, stored facts are kept.
    listed = server.ingestion.ListIngestions(pb.ListIngestionsRequest(), metadata=A).ingestions
    assert len(listed) == 1
    assert accounted(ingest(server, A, header(str(uuid4())), changed)) == {
        "skipped": 1,
        "unchanged": 1,
    }
    done = ingest(server, updater, header(str(uuid4()), on_existing=update), changed)
    assert accounted(done) == {"updated": 1, "unchanged": 1}
    only = bearing(token(sub="team-a", scope="ingest.update"))
    assert refused(ingest, server, only, header(str(uuid4()))).metadata == {
        "required_scope": "ingest"
    }


def test_the_owner_and_an_admin_cancel_and_revert_an_ingestion(
    server: Edge, database: Database
) -> None:
    admin = bearing(token(sub="operations", scope="ingest admin", exp=_EXPIRY))
    running, ended, updated = (str(uuid4()) for _ in range(3))
    rows = [customer_row(1), customer_row(2)]
    upload(server, A, running)
    ingest(server, A, header(ended), batch(0, rows))
    updater = bearing(token(sub="team-a", scope="ingest ingest.update", exp=_EXPIRY))
    update = header(updated, on_existing=ingestion_pb2.ON_EXISTING_UPDATE)
    ingest(server, updater, update, batch(0, [customer_row(1, age=44)]))

    def cancel(ingestion_id: str, caller: Metadata, request_id: str = "") -> Any:
        request = pb.CancelIngestionRequest(
            request_id=request_id or str(uuid4()), ingestion_id=ingestion_id
        )
        return server.ingestion.CancelIngestion(request, metadata=caller).ingestion

    def revert(ingestion_id: str, caller: Metadata, request_id: str = "") -> Any:
        request = pb.RevertIngestionRequest(
            request_id=request_id or str(uuid4()), ingestion_id=ingestion_id
        )
        return server.ingestion.RevertIngestion(request, metadata=caller)

    for undo, ingestion_id in ((cancel, running), (revert, ended)):
        refusal = refused(undo, ingestion_id, B)
        assert (refusal.code, refusal.reason) == (PERMISSION_DENIED, "INGESTION_NOT_OWNED")
        fields = refused(undo, "", A, "no UUID")
        assert fields.metadata == {"fields": "request_id,ingestion_id"}
        assert refused(undo, str(uuid4()), A).reason == "INGESTION_NOT_FOUND"
    for caller in (A, admin):
        refusal = refused(revert, updated, caller)
        assert refusal.metadata == {"required_scope": "ingest.update"}
    assert cancel(running, admin).state == ingestion_pb2.INGESTION_STATE_CANCELLED
    refusal = refused(cancel, running, A)
    assert (refusal.reason, refusal.metadata["state"]) == ("INGESTION_ENDED", "CANCELLED")

    request_id = str(uuid4())
    begun = revert(ended, admin, request_id).ingestion
    assert begun.state == ingestion_pb2.INGESTION_STATE_REVERTING
    assert begun.reverted_by == "operations"
    watched: Any = server.ingestion.WatchIngestion(
        pb.WatchIngestionRequest(ingestion_id=ended), metadata=A, timeout=20
    )
    assert next(watched).ingestion == begun
    run_revert(database, UUID(ended), Clock())
    last = list(watched)[-1].ingestion
    assert last.state == ingestion_pb2.INGESTION_STATE_REVERTED
    assert (last.rows_removed, last.rows_kept) == (1, 1)
    assert last.HasField("reverted_time")
    repeated = revert(ended, admin, request_id)
    assert repeated.ingestion == last
    # Customer 1 was updated by a later ingestion.
    (kept,) = repeated.kept_rows
    assert kept.code == ingestion_pb2.ROW_ERROR_CODE_CHANGE_SINCE
    assert (kept.found, kept.row_number) == ("customer 1", 1)
    listed = server.ingestion.ListRowErrors(
        pb.ListRowErrorsRequest(ingestion_id=ended, outcomes=[ingestion_pb2.ROW_OUTCOME_KEPT]),
        metadata=A,
    )
    assert list(listed.row_errors) == [kept]
    assert kept.outcome == ingestion_pb2.ROW_OUTCOME_KEPT
    assert refused(revert, ended, A).reason == "INGESTION_ALREADY_REVERTED"
    assert names(database) == ["First 1"]

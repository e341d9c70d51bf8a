"""IngestionService as callers see it: rows are imported and counted once, and files are stored."""

import contextlib
import hashlib
import io
import random
import threading
import time
from collections.abc import Iterator
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import grpc
import openpyxl
import psutil
import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.ingestion.downloads import AT_ONCE
from credit_service.ingestion.uploads import run_upload
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2, ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from tests.integration.conftest import Edge, Refusal, refusal_of

TODAY = Clock().moment().today
START = date(TODAY.year - 2, 3, 5)
CUSTOMERS = ingestion_pb2.INGESTION_KIND_CUSTOMERS
LOANS = ingestion_pb2.INGESTION_KIND_LOANS


def customer_row(number: int, /, **other: Any) -> ingestion_pb2.CustomerRow:
    values: dict[str, Any] = {
        "customer_id": number,
        "first_name": f"First {number}",
        "last_name": "Last",
        "age": 40,
        "phone_number": f"98{number:08d}",
        "monthly_income": Money(units=50_000),
    }
    return ingestion_pb2.CustomerRow(**{**values, **other})


def loan_row(customer_id: int, loan_id: int, /, **other: Any) -> ingestion_pb2.LoanRow:
    values: dict[str, Any] = {
        "customer_id": customer_id,
        "loan_id": loan_id,
        "loan_amount": Money(units=1_00_000),
        "tenure_months": 12,
        "interest_rate": Decimal(value="12.5"),
        "monthly_installment": Money(units=9_000),
        "emis_paid_on_time": 12,
        "start_date": Date(year=START.year, month=START.month, day=START.day),
        "end_date": Date(year=START.year + 1, month=START.month, day=START.day),
    }
    return ingestion_pb2.LoanRow(**{**values, **other})


def header(ingestion_id: str, kind: int = CUSTOMERS, **other: Any) -> pb.IngestRowsRequest:
    message: Any = pb.IngestRowsHeader(ingestion_id=ingestion_id, **other)
    message.kind = kind
    return pb.IngestRowsRequest(header=message)


def batch(offset: int, rows: list[Any]) -> pb.IngestRowsRequest:
    message = pb.RowBatch(offset=offset)
    if rows and isinstance(rows[0], ingestion_pb2.LoanRow):
        message.loans.rows.extend(rows)
    else:
        message.customers.rows.extend(rows)
    return pb.IngestRowsRequest(batch=message)


def ingest(server: Edge, *messages: pb.IngestRowsRequest) -> pb.IngestRowsResponse:
    return server.ingestion.IngestRows(iter(messages))


def customers(server: Edge, count: int) -> pb.IngestRowsResponse:
    rows = [customer_row(number) for number in range(1, count + 1)]
    return ingest(server, header(str(uuid4())), batch(0, rows))


def refused(server: Edge, *messages: pb.IngestRowsRequest) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        ingest(server, *messages)
    return refusal_of(caught.value)


def get(server: Edge, ingestion_id: str) -> ingestion_pb2.Ingestion:
    return server.ingestion.GetIngestion(
        pb.GetIngestionRequest(ingestion_id=ingestion_id)
    ).ingestion


def accounted(ingestion: ingestion_pb2.Ingestion) -> dict[str, int]:
    """The counts that are not 0; their sum must be the number of rows read."""
    names = ("inserted", "updated", "unchanged", "skipped", "rejected")
    counts = {name: int(getattr(ingestion, name)) for name in names}
    assert sum(counts.values()) == ingestion.rows_read
    return {name: count for name, count in counts.items() if count}


# Streams of rows.


def test_valid_rows_are_stored_and_rejected_ones_reported(server: Edge) -> None:
    assert accounted(customers(server, 3).ingestion) == {"inserted": 3}
    rows = [
        loan_row(1, 1003),
        loan_row(2, 1003, end_date=None),
        loan_row(1, 1004, loan_amount=Money(units=5, currency_code="USD"), tenure_months=481),
        loan_row(77, 1005),
        loan_row(1, 1003),
        loan_row(1, 1006, start_date=None, emis_paid_on_time=None, row_number=99),
        loan_row(
            1,
            1007,
            unreadable_cells=[ingestion_pb2.UnreadableCell(column="tenure_months", found="ten")],
        ),
    ]
    ingestion_id = str(uuid4())
    answer = ingest(server, header(ingestion_id, LOANS), batch(0, rows[:4]), batch(4, rows[4:]))
    assert accounted(answer.ingestion) == {"inserted": 2, "unchanged": 1, "rejected": 4}
    assert answer.ingestion.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    assert answer.ingestion.committed_offset == answer.ingestion.total_rows == 7
    assert answer.ingestion.finished_time.seconds > 0
    found = {(error.row_number, error.column): error for error in answer.row_errors}
    codes = {key: ingestion_pb2.RowErrorCode.Name(error.code) for key, error in found.items()}
    assert codes == {
        (3, "loan_amount"): "ROW_ERROR_CODE_CURRENCY_UNSUPPORTED",
        (3, "tenure_months"): "ROW_ERROR_CODE_OUT_OF_RANGE",
        (4, "customer_id"): "ROW_ERROR_CODE_CUSTOMER_UNKNOWN",
        (99, "start_date"): "ROW_ERROR_CODE_MISSING",
        (99, "emis_paid_on_time"): "ROW_ERROR_CODE_MISSING",
        (7, "tenure_months"): "ROW_ERROR_CODE_NOT_A_NUMBER",
    }
    assert all(error.found or "MISSING" in codes[key] for key, error in found.items())
    assert all(error.expected and error.message for error in found.values())
    ambiguous = credit_service_pb2.GetLoanRequest(loan_id=1003)
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.GetLoan(ambiguous)
    assert refusal_of(caught.value).metadata["customer_ids"] == "1,2"

    request = pb.ListRowErrorsRequest(ingestion_id=ingestion_id, page_size=4)
    listed = []
    while True:
        page = server.ingestion.ListRowErrors(request)
        listed += list(page.row_errors)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == list(answer.row_errors)


def test_customers_can_register_after_an_import(server: Edge) -> None:
    customers(server, 5)
    made = server.credit.RegisterCustomer(
        credit_service_pb2.RegisterCustomerRequest(
            request_id=str(uuid4()), first_name="A", last_name="B", age=30,
            monthly_income=Money(units=1), phone_number="9123456780",
        )
    ).customer  # fmt: skip
    assert made.customer_id > 5


def test_ingesting_the_same_rows_again_changes_nothing(server: Edge) -> None:
    customers(server, 4)
    again = customers(server, 4).ingestion
    assert accounted(again) == {"unchanged": 4}
    changed = [customer_row(1, age=41), customer_row(2)]
    kept = ingest(server, header(str(uuid4())), batch(0, changed)).ingestion
    assert accounted(kept) == {"skipped": 1, "unchanged": 1}
    update = ingestion_pb2.ON_EXISTING_UPDATE
    taken = ingest(server, header(str(uuid4()), on_existing=update), batch(0, changed)).ingestion
    assert accounted(taken) == {"updated": 1, "unchanged": 1}


def test_a_dry_run_reports_and_writes_nothing(server: Edge) -> None:
    rows = [customer_row(1), customer_row(2, age=7)]
    dry = ingest(server, header(str(uuid4()), validate_only=True), batch(0, rows))
    assert accounted(dry.ingestion) == {"inserted": 1, "rejected": 1}
    assert dry.ingestion.validate_only
    listed = server.credit.ListCustomers(credit_service_pb2.ListCustomersRequest())
    assert not listed.customers
    real = ingest(server, header(str(uuid4())), batch(0, rows))
    assert accounted(real.ingestion) == accounted(dry.ingestion)
    assert list(real.row_errors) == list(dry.row_errors)


def test_an_import_sets_no_limit_above_the_maximum(server: Edge) -> None:
    most, beyond = Money(units=5_00_00_000), Money(units=5_00_00_000, nanos=10_000_000)
    rows = [
        customer_row(1, approved_limit=most),
        customer_row(2, approved_limit=beyond),
        # This limit, 36 times the income, also counts.
        customer_row(3, monthly_income=Money(units=10_00_00_000)),
        customer_row(4, monthly_income=Money(units=10_00_00_000), approved_limit=most),
    ]
    for dry_run in (True, False):
        answer = ingest(server, header(str(uuid4()), validate_only=dry_run), batch(0, rows))
        assert accounted(answer.ingestion) == {"inserted": 2, "rejected": 2}
        found = [(each.row_number, each.column, each.found) for each in answer.row_errors]
        assert found == [
            (2, "approved_limit", "50000000.01"),
            (3, "approved_limit", "3600000000.00"),
        ]
        codes = {each.code for each in answer.row_errors}
        assert codes == {ingestion_pb2.ROW_ERROR_CODE_LIMIT_ABOVE_CEILING}
        assert "₹5,00,00,000.00" in answer.row_errors[0].expected
    update = ingestion_pb2.ON_EXISTING_UPDATE
    raised = [customer_row(1, approved_limit=beyond), customer_row(4, approved_limit=most, age=41)]
    done = ingest(server, header(str(uuid4()), on_existing=update), batch(0, raised)).ingestion
    assert accounted(done) == {"rejected": 1, "updated": 1}


def test_an_upload_sets_no_limit_above_the_maximum(server: Edge, database: Database) -> None:
    ingestion_id = uploaded(server, database, CSV.replace(b"50000,1800000", b"50000,50000001"))
    assert accounted(get(server, ingestion_id)) == {"rejected": 3}


def test_an_unchanged_limit_above_the_maximum_is_accepted(server: Edge, database: Database) -> None:
    """A limit stored before there was a maximum does not reject updates of its customer."""
    high = Money(units=9_00_00_000)
    ingest(server, header(str(uuid4())), batch(0, [customer_row(1)]))
    with database.transaction() as connection:
        connection.execute(text("UPDATE customers SET approved_limit_paise = 9000000000"))
    update = ingestion_pb2.ON_EXISTING_UPDATE
    for row, outcome in (
        (customer_row(1, approved_limit=high), "unchanged"),
        (customer_row(1, approved_limit=high, age=41), "updated"),
        (customer_row(1, age=42), "updated"),
    ):
        done = ingest(server, header(str(uuid4()), on_existing=update), batch(0, [row])).ingestion
        assert accounted(done) == {outcome: 1}


def failure(message: str) -> pb.IngestRowsRequest:
    return pb.IngestRowsRequest(failure=pb.SourceFailure(message=message))


def test_a_client_fails_a_stream_whose_source_it_cannot_read(server: Edge) -> None:
    rows = [customer_row(number) for number in range(1, 11)]
    ingestion_id = str(uuid4())
    said = "customers.csv is damaged from line 6 on."
    failed = ingest(server, header(ingestion_id), batch(0, rows[:4]), failure(said)).ingestion
    assert failed.state == ingestion_pb2.INGESTION_STATE_FAILED
    assert failed.error.code == ingestion_pb2.INGESTION_ERROR_CODE_SOURCE_FAILED
    assert failed.error.message == said
    assert accounted(failed) == {"inserted": 4}
    assert failed.committed_offset == 4
    assert failed.finished_time.seconds > 0
    assert get(server, ingestion_id) == failed
    # The corrected source resumes it, from the start or from the damaged line.
    done = ingest(server, header(ingestion_id), batch(0, rows)).ingestion
    assert done.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    assert not done.HasField("error")
    assert accounted(done) == {"inserted": 10}
    # A failure after the success changes nothing.
    assert ingest(server, header(ingestion_id), failure(said)).ingestion == done


def test_a_resumed_stream_knows_the_rows_before_the_failure(server: Edge) -> None:
    customers(server, 1)
    ingestion_id = str(uuid4())
    same, other = customer_row(1), customer_row(1, age=41)
    ingest(server, header(ingestion_id), batch(0, [same]), failure("Line 3 is damaged."))
    done = ingest(server, header(ingestion_id), batch(1, [other]))
    assert accounted(done.ingestion) == {"unchanged": 1, "rejected": 1}
    assert done.row_errors[0].code == ingestion_pb2.ROW_ERROR_CODE_DUPLICATE_DIFFERS


@pytest.mark.parametrize("message", ["", " ", "x" * 501, "one\ntwo", "\x1b[31m"])
def test_the_message_of_a_source_failure_is_one_line_of_text(server: Edge, message: str) -> None:
    found = refused(server, header(str(uuid4())), failure(message))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_skipped_rows_are_listed_on_request(server: Edge) -> None:
    customers(server, 3)
    ingestion_id = str(uuid4())
    rows = [customer_row(number, age=50) for number in range(1, 4)] + [customer_row(4, age=5)]
    answer = ingest(server, header(ingestion_id), batch(0, rows))
    assert accounted(answer.ingestion) == {"skipped": 3, "rejected": 1}
    rejected, skipped = ingestion_pb2.ROW_OUTCOME_REJECTED, ingestion_pb2.ROW_OUTCOME_SKIPPED
    assert [each.outcome for each in answer.row_errors] == [rejected]

    def page(outcomes: list[Any], size: int = 0, token: str = "") -> pb.ListRowErrorsResponse:
        request = pb.ListRowErrorsRequest(
            ingestion_id=ingestion_id, page_size=size, page_token=token, outcomes=outcomes
        )
        return server.ingestion.ListRowErrors(request)

    assert [each.outcome for each in page([]).row_errors] == [rejected]
    assert [each.outcome for each in page([rejected]).row_errors] == [rejected]
    first = page([skipped], 2)
    rest = page([skipped], 2, first.next_page_token)
    assert [each.row_number for each in [*first.row_errors, *rest.row_errors]] == [1, 2, 3]
    one = first.row_errors[0]
    assert (one.outcome, one.code) == (skipped, ingestion_pb2.ROW_ERROR_CODE_DIFFERS_FROM_STORED)
    assert (one.column, one.found, one.expected) == ("age", "age 50", "age 40")
    assert [each.row_number for each in page([skipped, rejected]).row_errors] == [1, 2, 3, 4]
    for outcomes, token in (([99], ""), ([], first.next_page_token)):
        with pytest.raises(grpc.RpcError) as caught:
            page(outcomes, 2, token)
        assert refusal_of(caught.value).code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_resumed_stream_counts_each_row_once(server: Edge) -> None:
    rows = [customer_row(number) for number in range(1, 11)]
    ingestion_id = str(uuid4())
    gap = refused(server, header(ingestion_id), batch(0, rows[:4]), batch(5, rows[5:]))
    assert (gap.code, gap.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_MISMATCH")
    assert gap.metadata["expected_offset"] == "4"
    running = get(server, ingestion_id)
    assert running.state == ingestion_pb2.INGESTION_STATE_RUNNING
    assert running.committed_offset == 4
    # It resumes from any offset up to the committed one.
    done = ingest(server, header(ingestion_id), batch(2, rows[2:6]), batch(6, rows[6:]))
    assert accounted(done.ingestion) == {"inserted": 10}
    # A full repeat changes nothing.
    again = ingest(server, header(ingestion_id), batch(0, rows))
    assert again.ingestion == done.ingestion
    beyond = refused(server, header(ingestion_id), batch(10, rows[:1]))
    assert (beyond.code, beyond.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INGESTION_ENDED",
    )
    other = refused(server, header(ingestion_id, LOANS))
    assert other.reason == "INGESTION_HEADER_MISMATCH"
    assert other.metadata["fields"] == "kind"


def test_two_clients_with_different_rows_cannot_share_an_id(server: Edge) -> None:
    """Also without authentication: a different row at a committed offset is rejected."""
    ingestion_id = str(uuid4())
    mine, theirs = customer_row(1, first_name="Mine"), customer_row(1, first_name="Theirs")
    ingest(server, header(ingestion_id), batch(0, [theirs]))
    found = refused(server, header(ingestion_id), batch(0, [mine]))
    assert (found.code, found.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "COMMITTED_ROWS_DIFFER",
    )
    assert found.metadata["offset"] == "0"
    assert "new ingestion id" in found.message
    longer = str(uuid4())
    rows = [customer_row(number) for number in range(2, 5)]
    ingest(server, header(longer), batch(0, rows))
    found = refused(server, header(longer), batch(0, rows[:2]))
    assert found.reason == "COMMITTED_ROWS_DIFFER"
    assert found.metadata == {
        "ingestion_id": longer,
        "offset": "2",
        "committed_offset": "3",
    }


@pytest.mark.parametrize(
    ("messages", "reason", "fields"),
    [
        ([], "STREAM_ORDER_INVALID", set()),
        ([pb.IngestRowsRequest()], "STREAM_ORDER_INVALID", set()),
        ([batch(0, [customer_row(1)])], "STREAM_ORDER_INVALID", set()),
        ([header(str(uuid4())), header(str(uuid4()))], "STREAM_ORDER_INVALID", set()),
        ([header(str(uuid4())), batch(0, [loan_row(1, 1)])], "STREAM_ORDER_INVALID", set()),
        ([header("")], "INVALID_FIELD", {"header.ingestion_id"}),
        (
            [header("7", 0, on_existing=9)],
            "INVALID_FIELD",
            {"header.ingestion_id", "header.kind", "header.on_existing"},
        ),
        (
            [header(str(uuid4())), batch(-1, [])],
            "INVALID_FIELD",
            {"batch.offset", "batch.rows"},
        ),
        (
            [header(str(uuid4())), batch(0, [customer_row(1)] * 10_001)],
            "INVALID_FIELD",
            {"batch.rows"},
        ),
    ],
)
def test_an_invalid_sequence_of_messages_is_rejected(
    server: Edge, messages: list[pb.IngestRowsRequest], reason: str, fields: set[str]
) -> None:
    found = refused(server, *messages)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    if fields:
        assert found.fields == fields


HOSTILE = [
    {"first_name": "\x00"},
    {"first_name": "a\x00b"},
    {"first_name": "x" * 5000},
    {"phone_number": "\x00" * 100},
    {"monthly_income": Money(units=2**63 - 1, nanos=999_999_999)},
    {"monthly_income": Money(units=-(2**63), nanos=-999_999_999)},
    {"monthly_income": Money(nanos=2**31 - 1)},
    {"monthly_income": Money(units=1, currency_code="\x00")},
    {"approved_limit": Money(units=2**62)},
    {"approved_limit": Money(units=-1)},
    {"age": -(2**31)},
    {"customer_id": -(2**63)},
    {"customer_id": 2**63 - 1, "age": 0},
    {"row_number": -(2**63), "age": 0},
    {"unreadable_cells": [ingestion_pb2.UnreadableCell(column="\x00", found="\x00" * 9000)]},
    {"unreadable_cells": [ingestion_pb2.UnreadableCell()] * 300_000},
]
HOSTILE_LOANS: list[dict[str, Any]] = [
    {"interest_rate": Decimal(value=text)}
    for text in ("NaN", "1e400", "-1", "12.345", "\x00", "9" * 9000, "1_0", "", "12\x00", "1\x002")
] + [
    {"start_date": Date(year=2**31 - 1, month=-5, day=99)},
    {"start_date": Date(year=2023, month=2, day=29)},
    {"start_date": Date(year=9999, month=12, day=31), "end_date": None},
    {"start_date": Date(year=1, month=1, day=1), "end_date": None},
    {"end_date": Date(year=2024)},
    {"tenure_months": 2**31 - 1},
    {"emis_paid_on_time": -1},
    {"loan_id": 0},
    {"monthly_installment": Money(units=0)},
]


def test_no_hostile_row_fails_the_stream(server: Edge) -> None:
    rows = [customer_row(100 + index, **values) for index, values in enumerate(HOSTILE)]
    answer = ingest(server, header(str(uuid4())), batch(0, [*rows, customer_row(1)]))
    assert accounted(answer.ingestion) == {"inserted": 1, "rejected": len(HOSTILE)}
    loans = [loan_row(1, 100 + index, **values) for index, values in enumerate(HOSTILE_LOANS)]
    answer = ingest(server, header(str(uuid4()), LOANS), batch(0, [*loans, loan_row(1, 1)]))
    counts = accounted(answer.ingestion)
    assert counts["rejected"] >= len(HOSTILE_LOANS) - 1
    assert sum(counts.values()) == len(HOSTILE_LOANS) + 1
    for error in answer.row_errors:
        assert len(error.found) <= 201


def test_a_broken_stream_never_succeeds(server: Edge) -> None:
    """The iterator of grpc sometimes ends the same for both."""
    for number in range(80):
        ingestion_id = str(uuid4())
        release = threading.Event()

        def messages(
            ingestion_id: str = ingestion_id, release: threading.Event = release
        ) -> Iterator[pb.IngestRowsRequest]:
            yield header(ingestion_id)
            yield batch(0, [customer_row(1)])
            # The stream must break while the server waits for the next message.
            release.wait(20)

        call: Any = server.ingestion.IngestRows.future(messages())
        time.sleep(0.02 + 0.001 * (number % 10))
        call.cancel()
        release.set()
    deadline = time.monotonic() + 15
    while server.server._pipeline.open_streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    listed = server.ingestion.ListIngestions(pb.ListIngestionsRequest(page_size=1000))
    assert {each.state for each in listed.ingestions} <= {ingestion_pb2.INGESTION_STATE_RUNNING}
    assert listed.ingestions


def test_waiting_batches_are_stored_in_one_transaction(server: Edge, database: Database) -> None:
    customers(server, 1)
    ingestion_id = str(uuid4())
    one_by_one = [batch(n, [loan_row(1, 100 + n)]) for n in range(5)]
    apart = batch(9, [loan_row(1, 109)])
    stored = "SELECT count(DISTINCT xmin::text) FROM loans"
    with database.transaction() as connection:
        connection.execute(text("SELECT FROM customers WHERE customer_id = 1 FOR UPDATE"))
        messages = iter([header(ingestion_id, LOANS), *one_by_one, apart])
        call = server.ingestion.IngestRows.future(messages)
        time.sleep(0.5)
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    # A batch that does not continue at their end is processed alone.
    assert refusal_of(caught.value).reason == "OFFSET_MISMATCH"
    assert refusal_of(caught.value).metadata["expected_offset"] == "5"
    assert get(server, ingestion_id).committed_offset == 5
    with database.autocommit() as connection:
        assert 1 < connection.execute(text(stored)).scalar_one() < 5


# Files.

CSV = (
    b"Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary,Approved Limit\n"
    b"1,Asha,Rao,30,9876500001,50000,1800000\n"
    b"2,Bela,Rao,17,9876500002,50000,1800000\n"
    b"3,Chand,Rao,50,9876500003,50000,1800000\n"
)


def upload_messages(
    ingestion_id: str, content: bytes = CSV, /, **other: Any
) -> Iterator[pb.UploadSpreadsheetRequest]:
    values: dict[str, Any] = {
        "ingestion_id": ingestion_id,
        "kind": CUSTOMERS,
        "filename": "customers.csv",
    }
    yield pb.UploadSpreadsheetRequest(header=pb.UploadSpreadsheetHeader(**{**values, **other}))
    for start in range(0, len(content), 64):
        yield pb.UploadSpreadsheetRequest(chunk=content[start : start + 64])


def upload_refused(server: Edge, messages: Iterator[pb.UploadSpreadsheetRequest]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        server.ingestion.UploadSpreadsheet(messages)
    return refusal_of(caught.value)


def test_a_file_is_stored_once_and_watched_to_its_end(server: Edge, database: Database) -> None:
    ingestion_id = str(uuid4())
    digest = hashlib.sha256(CSV).hexdigest()
    answer = server.ingestion.UploadSpreadsheet(upload_messages(ingestion_id, sha256=digest))
    queued = answer.ingestion
    assert queued.state == ingestion_pb2.INGESTION_STATE_QUEUED
    assert (queued.source, queued.sha256) == (ingestion_pb2.INGESTION_SOURCE_UPLOAD, digest)
    assert queued.principal == ""
    again = server.ingestion.UploadSpreadsheet(upload_messages(ingestion_id))
    assert again.ingestion == queued
    changed = upload_refused(server, upload_messages(ingestion_id, CSV + b"4,,,,,,\n"))
    assert changed.reason == "INGESTION_HEADER_MISMATCH"

    seen: list[ingestion_pb2.Ingestion] = []
    watch = server.ingestion.WatchIngestion(pb.WatchIngestionRequest(ingestion_id=ingestion_id))
    reader = threading.Thread(target=lambda: seen.extend(each.ingestion for each in watch))
    reader.start()
    while not seen:
        time.sleep(0.01)
    run_upload(database, UUID(ingestion_id), Clock())
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert seen[0] == queued
    assert seen[-1].state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    assert accounted(seen[-1]) == {"inserted": 2, "rejected": 1}
    assert seen[-1] == get(server, ingestion_id)
    errors = server.ingestion.ListRowErrors(pb.ListRowErrorsRequest(ingestion_id=ingestion_id))
    assert [(each.row_number, each.column) for each in errors.row_errors] == [(3, "age")]


def test_an_invalid_upload_is_rejected(server: Edge) -> None:
    def header_only(**other: Any) -> Iterator[pb.UploadSpreadsheetRequest]:
        return upload_messages(str(uuid4()), b"", **other)

    assert upload_refused(server, header_only()).reason == "UPLOAD_EMPTY"
    text_as_workbook = upload_messages(str(uuid4()), CSV, filename="customers.xlsx")
    assert upload_refused(server, text_as_workbook).reason == "UPLOAD_UNSUPPORTED"
    mismatch = upload_refused(server, upload_messages(str(uuid4()), sha256="0" * 64))
    assert (mismatch.code, mismatch.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "UPLOAD_CHECKSUM_MISMATCH",
    )
    wrong = upload_refused(
        server,
        header_only(
            ingestion_id="x", kind=0, filename="../a", on_existing=7, sha256="zz", date_order=9
        ),
    )
    assert wrong.fields == {
        "header.ingestion_id",
        "header.kind",
        "header.filename",
        "header.on_existing",
        "header.sha256",
        "header.date_order",
    }
    for filename in ("", " ", "x" * 256, "a\x00.csv", "a/b.csv"):
        assert upload_refused(server, header_only(filename=filename)).fields == {"header.filename"}
    for messages in (
        [],
        [pb.UploadSpreadsheetRequest(chunk=b"x")],
        [*upload_messages(str(uuid4())), *upload_messages(str(uuid4()))],
    ):
        found = upload_refused(server, iter(messages))
        assert found.reason == "STREAM_ORDER_INVALID"


class TestSmallUploads:
    """A server with a small upload limit and a short idle timeout."""

    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return Settings(
            database_url=SecretStr(database_url),
            redis_url=None,
            listen="127.0.0.1:0",
            upload_max_bytes=100,
            stream_idle_seconds=0.4,
        )

    def test_a_file_too_large_is_rejected(self, server: Edge) -> None:
        found = upload_refused(server, upload_messages(str(uuid4())))
        assert found.reason == "UPLOAD_TOO_LARGE"
        assert found.metadata == {"max_bytes": "100"}

    def test_an_idle_stream_times_out_and_can_be_resumed(self, server: Edge) -> None:
        ingestion_id = str(uuid4())
        release = threading.Event()

        def silent() -> Iterator[pb.IngestRowsRequest]:
            yield header(ingestion_id)
            yield batch(0, [customer_row(1)])
            release.wait(20)

        with pytest.raises(grpc.RpcError) as caught:
            server.ingestion.IngestRows(silent())
        release.set()
        found = refusal_of(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE")
        assert get(server, ingestion_id).committed_offset == 1
        done = ingest(server, header(ingestion_id), batch(1, [customer_row(2)]))
        assert accounted(done.ingestion) == {"inserted": 2}


# Reading ingestions.


def test_ingestions_are_listed_latest_first_in_pages(server: Edge) -> None:
    ids = []
    for _ in range(5):
        ids.append(str(uuid4()))
        ingest(server, header(ids[-1]))
    request = pb.ListIngestionsRequest(page_size=2)
    listed = []
    while True:
        page = server.ingestion.ListIngestions(request)
        listed += [each.ingestion_id for each in page.ingestions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == ids[::-1]


def test_unknown_ids_are_not_found_and_malformed_ones_invalid(server: Edge) -> None:
    def answer(method: str, request: Any) -> None:
        answered = getattr(server.ingestion, method)(request)
        if method in ("WatchIngestion", "DownloadAnnotatedWorkbook"):
            next(answered)

    def of(method: str, request: Any) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            answer(method, request)
        return refusal_of(caught.value)

    known = str(uuid4())
    requests = (
        ("GetIngestion", pb.GetIngestionRequest),
        ("WatchIngestion", pb.WatchIngestionRequest),
        ("ListRowErrors", pb.ListRowErrorsRequest),
        ("DownloadAnnotatedWorkbook", pb.DownloadAnnotatedWorkbookRequest),
    )
    for method, request in requests:
        found = of(method, request(ingestion_id=known))
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "INGESTION_NOT_FOUND")
        assert found.details["ResourceInfo"].resource_name == known
        assert of(method, request(ingestion_id="7")).fields == {"ingestion_id"}
        assert of(method, request()).fields == {"ingestion_id"}
    both = of("ListRowErrors", pb.ListRowErrorsRequest(ingestion_id="7", page_size=-1))
    assert both.fields == {"ingestion_id", "page_size"}


# Annotated workbooks.


def download(
    server: Edge, ingestion_id: str, *, rejected_only: bool = False
) -> tuple[pb.AnnotatedWorkbookHeader, bytes, list[int]]:
    """The header, the bytes, and the size of each chunk."""
    request = pb.DownloadAnnotatedWorkbookRequest(
        ingestion_id=ingestion_id, rejected_only=rejected_only
    )
    first, *others = server.ingestion.DownloadAnnotatedWorkbook(request)
    assert first.WhichOneof("payload") == "header"
    chunks = [each.chunk for each in others]
    content = b"".join(chunks)
    assert first.header.size_bytes == len(content)
    return first.header, content, [len(chunk) for chunk in chunks]


def uploaded(server: Edge, database: Database, content: bytes, /, **other: Any) -> str:
    """Upload and ingest a file; return the ingestion id."""
    ingestion_id = str(uuid4())
    server.ingestion.UploadSpreadsheet(upload_messages(ingestion_id, content, **other))
    run_upload(database, UUID(ingestion_id), Clock())
    return ingestion_id


def upload_in_large_chunks(server: Edge, content: bytes) -> str:
    ingestion_id = str(uuid4())
    messages = [next(upload_messages(ingestion_id))]
    messages += [
        pb.UploadSpreadsheetRequest(chunk=content[at : at + 2**20])
        for at in range(0, len(content), 2**20)
    ]
    server.ingestion.UploadSpreadsheet(iter(messages))
    return ingestion_id


def test_an_annotated_workbook_is_imported_once_corrected(server: Edge, database: Database) -> None:
    again = CSV + b"1,Asha,Roy,30,9876500001,50000,1800000\n4,Dev,Rao,30,9876500001,1,\n"
    ingestion_id = uploaded(server, database, again)
    before = get(server, ingestion_id)
    assert accounted(before) == {"inserted": 2, "rejected": 3}
    header, content, _ = download(server, ingestion_id)
    assert header.filename == "customers-annotated.xlsx"
    assert header.content_type.endswith("spreadsheetml.sheet")
    book = openpyxl.load_workbook(io.BytesIO(content))
    assert book.sheetnames == ["Ingestion summary", "Rows"]
    facts = {row[0].value: row[1].value for row in book.worksheets[0].iter_rows()}
    assert (facts["Rows read"], facts["Inserted"], facts["Rejected"]) == (5, 2, 3)
    sheet = book["Rows"]
    assert sheet["D3"].comment.text.startswith("OUT_OF_RANGE\nFound: 17\n")
    reasons = {number: sheet[f"H{number}"].value for number in range(2, 7)}
    assert reasons[2] is reasons[4] is None
    assert "DUPLICATE_DIFFERS: The row has the key of row 2" in reasons[5]
    assert "PHONE_TAKEN" in reasons[6]
    assert sheet["E6"].comment is not None

    # Unchanged, it has the same errors; corrected, all rows are imported.
    same = uploaded(server, database, content, filename=header.filename)
    assert accounted(get(server, same)) == {"unchanged": 2, "rejected": 3}
    sheet["D3"] = 18
    sheet["C5"] = "Rao"
    sheet["E6"] = "+91 98765 00004"
    buffer = io.BytesIO()
    book.save(buffer)
    corrected = uploaded(server, database, buffer.getvalue(), filename=header.filename)
    assert accounted(get(server, corrected)) == {"inserted": 2, "unchanged": 3}
    _, content, _ = download(server, corrected)
    clean = openpyxl.load_workbook(io.BytesIO(content))
    assert clean.worksheets[0]["A2"].value == "No row was rejected."


@pytest.mark.slow
def test_only_the_rejected_rows_are_returned_and_accepted_once_corrected(
    server: Edge, database: Database
) -> None:
    ingest(server, header(str(uuid4())), batch(0, [customer_row(1, phone_number="9876500001")]))
    content = CSV + b"3,Asha,Roy,30,9876500003,50000,1800000\n4,Dev,Rao,30,9876500001,1,\n"
    ingestion_id = uploaded(server, database, content)
    counts = accounted(get(server, ingestion_id))
    assert counts == {"inserted": 1, "skipped": 1, "rejected": 3}
    found, content, _ = download(server, ingestion_id, rejected_only=True)
    assert found.filename == "customers-rejected.xlsx"
    book = openpyxl.load_workbook(io.BytesIO(content))
    sheet = book["Rows"]
    assert [row[0].value for row in sheet.iter_rows()] == ["Customer ID", "2", "3", "4"]
    assert sheet["D2"].comment.text.startswith("OUT_OF_RANGE\nFound: 17\n")
    assert "DUPLICATE_DIFFERS" in sheet["H3"].value
    texts = [str(row[0].value) for row in book.worksheets[0].iter_rows()]
    assert texts[1] == "3 of 5 rows were rejected. The sheet 'Rows' contains only these rows."
    assert not any("kipped rows" in each for each in texts)

    # The row that repeats the key of an accepted row now differs from the stored record.
    same = uploaded(server, database, content, filename=found.filename)
    assert accounted(get(server, same)) == {"skipped": 1, "rejected": 2}
    sheet["D2"] = 18
    sheet["A3"] = 5
    sheet["E3"], sheet["E4"] = "9876500005", "9876500004"
    buffer = io.BytesIO()
    book.save(buffer)
    corrected = uploaded(server, database, buffer.getvalue(), filename=found.filename)
    assert accounted(get(server, corrected)) == {"inserted": 3}
    _, content, _ = download(server, corrected, rejected_only=True)
    clean = openpyxl.load_workbook(io.BytesIO(content))
    assert clean.worksheets[0]["A2"].value == "No row was rejected."
    assert clean.worksheets[1].max_row == 1


def test_all_rows_are_returned_if_the_header_was_rejected(server: Edge, database: Database) -> None:
    ingestion_id = uploaded(server, database, CSV.replace(b"Age", b"Years"))
    found, content, _ = download(server, ingestion_id, rejected_only=True)
    assert found.filename == "customers-annotated.xlsx"
    assert openpyxl.load_workbook(io.BytesIO(content))["Rows"].max_row == len(CSV.splitlines())


def test_an_annotated_workbook_marks_skipped_and_rejected_rows(
    server: Edge, database: Database
) -> None:
    ingest(server, header(str(uuid4())), batch(0, [customer_row(1, phone_number="9876500001")]))
    ingestion_id = uploaded(server, database, CSV)
    counts = accounted(get(server, ingestion_id))
    assert counts == {"inserted": 1, "skipped": 1, "rejected": 1}
    _, content, _ = download(server, ingestion_id)
    book = openpyxl.load_workbook(io.BytesIO(content))
    facts = {row[0].value: row[1].value for row in book.worksheets[0].iter_rows()}
    assert (facts["Skipped"], facts["Rejected"]) == (1, 1)
    sheet = book["Rows"]
    reasons = [sheet[f"H{number}"].value for number in (2, 3, 4)]
    assert reasons[0].startswith("SKIPPED: The customer 1 is stored with First Name First 1;")
    assert reasons[1].startswith("Age (OUT_OF_RANGE)")
    assert reasons[2] is None
    # A skipped row, a rejected cell and a stored row look different.
    assert len({sheet[place].fill.fgColor.rgb for place in ("A2", "D3", "A4")}) == 3


def test_a_dry_run_has_an_annotated_workbook(server: Edge, database: Database) -> None:
    ingestion_id = uploaded(server, database, CSV, validate_only=True)
    _, content, _ = download(server, ingestion_id)
    book = openpyxl.load_workbook(io.BytesIO(content))
    facts = {row[0].value: row[1].value for row in book.worksheets[0].iter_rows()}
    assert facts["State"] == "SUCCEEDED (dry run: nothing was stored)"
    assert book["Rows"]["D3"].comment is not None


@pytest.mark.slow
def test_a_large_workbook_is_sent_in_chunks(server: Edge, database: Database) -> None:
    noise = random.Random(5)  # noqa: S311 - incompressible test data, no secret
    rows = b"".join(
        b"%d,A,B,7,%d,%d,,%s\n" % (n, n, n, noise.randbytes(1_000).hex().encode())
        for n in range(1, 1_300)
    )
    head = CSV.splitlines()[0] + b",Remarks\n"
    ingestion_id = upload_in_large_chunks(server, head + rows)
    run_upload(database, UUID(ingestion_id), Clock())
    _, _, sizes = download(server, ingestion_id)
    assert len(sizes) > 1
    assert sizes[:-1] == [1024**2] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 1024**2


def test_an_unavailable_workbook_states_the_reason(server: Edge, database: Database) -> None:
    def refused_download(ingestion_id: str) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            download(server, ingestion_id)
        return refusal_of(caught.value)

    assert refused_download("7").fields == {"ingestion_id"}
    assert refused_download(str(uuid4())).reason == "INGESTION_NOT_FOUND"
    streamed = customers(server, 1).ingestion.ingestion_id
    found = refused_download(streamed)
    assert (found.code, found.reason, found.metadata) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INGESTION_NOT_UPLOADED",
        {"ingestion_id": streamed},
    )
    queued = str(uuid4())
    server.ingestion.UploadSpreadsheet(upload_messages(queued))
    found = refused_download(queued)
    assert found.reason == "INGESTION_NOT_ENDED"
    assert found.metadata == {"ingestion_id": queued, "state": "QUEUED"}
    damaged = uploaded(server, database, CSV + b'4,"never closed,1\n')
    found = refused_download(damaged)
    assert (found.code, found.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "WORKBOOK_UNAVAILABLE",
    )
    assert found.metadata == {"ingestion_id": damaged, "problem": "FILE_UNREADABLE"}
    lost = uploaded(server, database, CSV)
    with database.transaction() as connection:
        connection.execute(
            text("DELETE FROM ingestion_chunks WHERE ingestion_id = :id"), {"id": lost}
        )
    assert refused_download(lost).metadata["problem"] == "FILE_LOST"


def test_a_rejected_header_is_marked(server: Edge, database: Database) -> None:
    ingestion_id = uploaded(server, database, CSV.replace(b"Age", b"Years"))
    failed = get(server, ingestion_id)
    assert failed.state == ingestion_pb2.INGESTION_STATE_FAILED
    _, content, _ = download(server, ingestion_id)
    book = openpyxl.load_workbook(io.BytesIO(content))
    assert "needs the column 'Age'" in book.worksheets[0]["A2"].value
    sheet = book["Rows"]
    assert "needs the column 'Age'" in sheet["A1"].comment.text
    sheet["D1"] = "Age"
    buffer = io.BytesIO()
    book.save(buffer)
    corrected = uploaded(server, database, buffer.getvalue(), filename="c.xlsx")
    assert accounted(get(server, corrected)) == {"inserted": 2, "rejected": 1}


def annotating_processes() -> list[psutil.Process]:
    """The child processes of this server that annotate workbooks."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "credit_service.ingestion.annotated_workbook" in child.cmdline():
                found.append(child)
    return found


def test_a_cancelled_download_ends(server: Edge, database: Database) -> None:
    rows = b"".join(b"%d,A,B,30,%d,1,\n" % (n, 9_800_000_000 + n) for n in range(150_000))
    ingestion_id = upload_in_large_chunks(server, CSV.splitlines()[0] + b"\n" + rows)
    with database.transaction() as connection:
        connection.execute(text("UPDATE ingestions SET state = 'CANCELLED', finished_at = now()"))
    request = pb.DownloadAnnotatedWorkbookRequest(ingestion_id=ingestion_id)
    calls: list[Any] = [server.ingestion.DownloadAnnotatedWorkbook(request) for _ in range(4)]
    deadline = time.monotonic() + 60
    while not annotating_processes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Two run at a time; further ones wait, and meanwhile other calls are served.
    assert get(server, ingestion_id).ingestion_id == ingestion_id
    assert len(annotating_processes()) <= AT_ONCE
    for call in calls:
        call.cancel()
    while server.server._pipeline.open_streams or annotating_processes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Which parts of a file were read.


def test_an_upload_lists_the_sheet_read_and_the_parts_not_read(
    server: Edge, database: Database
) -> None:
    book = openpyxl.Workbook()
    notes = book.active
    assert notes is not None
    notes.append(["Prepared by", "Accounts"])
    for title in ("Borrowers", "Borrowers 2023"):
        sheet = book.create_sheet(title)
        sheet.append(["Register of borrowers"])
        names = ("Customer ID", "First Name", "Last Name", "Age", "Phone", "Salary", "Town", None)
        sheet.append(names)
        sheet.append([31, "Asha", "Rao", 30, 9_811_000_031, 50_000, "Pune", "x"])
    buffer = io.BytesIO()
    book.save(buffer)
    ingestion_id = uploaded(server, database, buffer.getvalue(), filename="register.xlsx")
    found = get(server, ingestion_id)
    assert accounted(found) == {"inserted": 1}
    assert (found.sheet, list(found.unread_sheets)) == ("Borrowers", ["Borrowers 2023"])
    assert list(found.ignored_columns) == ["Town", "column H (no header)"]
    # The summary of an annotated workbook lists them too.
    request = pb.DownloadAnnotatedWorkbookRequest(ingestion_id=ingestion_id)
    content = b"".join(each.chunk for each in server.ingestion.DownloadAnnotatedWorkbook(request))
    summary = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
    facts = dict(row[:2] for row in summary.iter_rows(values_only=True))
    assert facts["Columns ignored"] == "Town, column H (no header)"
    assert facts["Sheets not read"] == "Borrowers 2023"


def row_errors(server: Edge, ingestion_id: str, *outcomes: int) -> list[ingestion_pb2.RowError]:
    request = pb.ListRowErrorsRequest(ingestion_id=ingestion_id, outcomes=outcomes)  # type: ignore[arg-type]  # values of the enum
    return list(server.ingestion.ListRowErrors(request).row_errors)


def test_row_errors_of_an_upload_name_the_headers_of_the_file(
    server: Edge, database: Database
) -> None:
    renamed = CSV.replace(b"Age", b"AGE (years)").replace(b"Phone Number", b"  Mobile\tNo.")
    renamed = renamed.replace(b"9876500003", b"none")
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for line in renamed.decode().splitlines():
        sheet.append(line.split(","))
    buffer = io.BytesIO()
    book.save(buffer)
    for content, filename in ((renamed, "register.csv"), (buffer.getvalue(), "register.xlsx")):
        ingestion_id = uploaded(server, database, content, filename=filename, validate_only=True)
        found = [(each.column, each.column_header) for each in row_errors(server, ingestion_id)]
        assert found == [("age", "AGE (years)"), ("phone_number", "Mobile No.")]

    # Errors of a whole row and files read by earlier releases have no header.
    ingestion_id = uploaded(server, database, CSV + b"4,Dev,Rao,30,9876500004,50000,,x\n")
    found = [(each.column, each.column_header) for each in row_errors(server, ingestion_id)]
    assert found == [("age", "Age"), ("", "")]
    with database.transaction() as connection:
        statement = "UPDATE ingestions SET column_headers = DEFAULT WHERE ingestion_id = :id"
        connection.execute(text(statement), {"id": UUID(ingestion_id)})
    assert not any(each.column_header for each in row_errors(server, ingestion_id))


def test_row_errors_of_a_stream_have_no_header(server: Edge) -> None:
    rows = batch(0, [customer_row(1, age=17)])
    (error,) = ingest(server, header(str(uuid4())), rows).row_errors
    assert (error.column, error.column_header) == ("age", "")


def test_a_header_in_another_unit_fails_the_upload_with_its_fix(
    server: Edge, database: Database
) -> None:
    content = CSV.replace(b"Monthly Salary", b"Monthly Salary (in lakhs)")
    assert content != CSV
    found = get(server, uploaded(server, database, content))
    assert found.state == ingestion_pb2.INGESTION_STATE_FAILED
    assert found.error.code == ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_UNIT_UNSUPPORTED
    assert "must be in rupees" in found.error.message


FILE_FIELDS: dict[str, Any] = {
    "filename": "register.xlsx",
    "sheet": "Borrowers",
    "ignored_columns": ["Town"],
    "unread_sheets": ["Loans"],
}


def test_a_stream_keeps_the_first_description_of_its_file(
    server: Edge,
) -> None:
    ingestion_id = str(uuid4())
    rows = batch(0, [customer_row(1)])
    found = ingest(server, header(ingestion_id, **FILE_FIELDS), rows).ingestion
    described = {name: getattr(found, name) for name in FILE_FIELDS}
    assert described == FILE_FIELDS
    again = ingest(server, header(ingestion_id, filename="copy.xlsx"), rows).ingestion
    assert again == found
    assert ingest(server, header(str(uuid4())), rows).ingestion.filename == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filename", "x" * 256),
        ("filename", "a/b.xlsx"),
        ("sheet", "x" * 256),
        ("sheet", "a\nb"),
        ("ignored_columns", ["x"] * 51),
        ("ignored_columns", ["x" * 101]),
        ("ignored_columns", ["Town", "\x00"]),
        ("unread_sheets", ["x"] * 51),
        ("unread_sheets", ["x" * 256]),
    ],
)
def test_the_description_of_a_streamed_file_is_bounded(
    server: Edge, field: str, value: Any
) -> None:
    refusal = refused(server, header(str(uuid4()), **{field: value}), batch(0, [customer_row(1)]))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [f"header.{field}"]

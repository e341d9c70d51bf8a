"""Checks of data integrity."""

import secrets
import time
from itertools import pairwise
from typing import Any
from uuid import uuid4

import grpc
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.client import display
from credit_service.console.checklist.bench import (
    POLL_SECONDS,
    Bench,
    Flow,
    Item,
    loan_row,
    require,
)
from credit_service.console.service import ENDED_STATES
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2, ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb

_EVENT_WAIT_SECONDS = 5.0
_WORKER_WAIT_SECONDS = 20.0


def _counts(ingestion: Any) -> str:
    return (
        f"{ingestion.rows_read} read = {ingestion.inserted} inserted + {ingestion.updated} updated "
        f"+ {ingestion.unchanged} unchanged + {ingestion.skipped} skipped "
        f"+ {ingestion.rejected} rejected"
    )


def _counted(ingestion: Any) -> tuple[int, int, int, int]:
    return ingestion.rows_read, ingestion.inserted, ingestion.unchanged, ingestion.rejected


def _bad_row_is_reported(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    rows = [loan_row(customer_id, number, 50_000, 12) for number in (1, 2, 3)]
    rows[1].tenure_months = 481
    rows[1].emis_paid_on_time = 0
    rows[1].row_number = 77
    response = bench.ingest(rows)
    errors = [
        f"row {each.row_number}, {each.column}: "
        f"{display.enum_name(each.code, ingestion_pb2.RowErrorCode)}"
        for each in response.row_errors
    ]
    summary = f"{_counts(response.ingestion)}; {'; '.join(errors) or 'no error reported'}"
    require(
        _counted(response.ingestion) == (3, 2, 0, 1)
        and errors[:1] == ["row 77, tenure_months: OUT_OF_RANGE"],
        summary,
    )
    return summary


def _twice_changes_nothing(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    rows = [loan_row(customer_id, number, 50_000, 12) for number in (1, 2)]
    bench.ingest(rows)
    before = bench.service.customer(customer_id)
    second = bench.ingest(rows).ingestion
    after = bench.service.customer(customer_id)
    summary = f"{_counts(second)}; version {before.version} → {after.version}"
    require(_counted(second) == (2, 0, 2, 0) and before.version == after.version, summary)
    return summary


def _dry_run_writes_nothing(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    dry = bench.ingest([loan_row(customer_id, 1, 50_000, 12)], validate_only=True).ingestion
    stored = len(bench.loans(customer_id))
    summary = f"{_counts(dry)}; {stored} loans stored"
    require(_counted(dry) == (1, 1, 0, 0) and not stored, summary)
    return summary


def _shared_loan_id(bench: Bench) -> str:
    first, second = bench.customer().customer_id, bench.customer().customer_id
    loan_id = 1_000_000_000 + secrets.randbelow(1_000_000_000)
    bench.ingest([loan_row(each, loan_id, 50_000, 12) for each in (first, second)])
    error = bench.rejected(
        lambda: bench.service.loan(loan_id),
        grpc.StatusCode.FAILED_PRECONDITION,
        "LOAN_ID_AMBIGUOUS",
    )
    named = error.metadata.get("customer_ids", "")
    owner = bench.service.loan(loan_id, second).loan.customer_id
    summary = f"{error.reason} with customers {named}; for customer {second}, the loan of {owner}"
    require(named.split(",") == [str(first), str(second)] and owner == second, summary)
    return summary


def _paisa_is_the_finest(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    found = []
    for amount in (Money(units=100, nanos=5_000_000), Money(currency_code="USD", units=100)):
        request = pb.CheckEligibilityRequest(
            customer_id=customer_id,
            loan_amount=amount,
            interest_rate=DecimalMessage(value="12"),
            tenure_months=12,
        )
        error = bench.rejected(
            lambda request=request: bench.service.check(request),  # type: ignore[misc]
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
        )
        found.append(", ".join(problem for _, problem in error.violations))
    return " ".join(found)


def _events_in_order(bench: Bench) -> str:
    loan = bench.booked()
    give_up = time.monotonic() + _EVENT_WAIT_SECONDS
    while True:
        events = bench.service.history(loan.customer_id)
        kinds = [each.WhichOneof("payload") for each in events]
        if "loan_created" in kinds or time.monotonic() > give_up:
            break
        time.sleep(POLL_SECONDS)
    summary = ", ".join(f"{each.event_id} {each.WhichOneof('payload')}" for each in events)
    summary = (
        summary or f"no event within {_EVENT_WAIT_SECONDS:g} s: check that a worker is running"
    )
    in_order = all(_is_before(one, other) for one, other in pairwise(events))
    require(
        in_order and kinds[:1] == ["customer_registered"] and "loan_created" in kinds,
        summary,
    )
    return summary


def _is_before(one: event_pb2.CreditEvent, other: event_pb2.CreditEvent) -> bool:
    return one.event_id < other.event_id and one.customer_version <= other.customer_version


def _upload_is_read(bench: Bench) -> str:
    customer = bench.customer()
    text = (
        "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,"
        "EMIs paid on Time,Date of Approval,End Date\r\n"
        f"{customer.customer_id},1,50000,12,12,4500,12,2015-01-05,2016-01-05\r\n"
        f"{customer.customer_id},2,50000,twelve,12,4500,12,2015-01-05,2016-01-05\r\n"
    )
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=str(uuid4()),
        kind=ingestion_pb2.INGESTION_KIND_LOANS,
        filename="qa-check.csv",
    )
    ingestion = bench.service.upload(header, iter([text.encode()]))
    give_up = time.monotonic() + _WORKER_WAIT_SECONDS
    while ingestion.state not in ENDED_STATES and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
        ingestion = bench.service.ingestion(header.ingestion_id)
    state = display.enum_name(ingestion.state, ingestion_pb2.IngestionState)
    summary = f"{state}: {_counts(ingestion)}"
    succeeded = ingestion.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    require(succeeded and _counted(ingestion) == (2, 1, 0, 1), summary)
    return summary


FLOW = Flow(
    "integrity",
    "Data integrity",
    (
        Item(
            "bad-row",
            "An invalid row is reported and the other rows are stored",
            "3 read = 2 inserted + 1 rejected; row 77, tenure_months: OUT_OF_RANGE",
            _bad_row_is_reported,
        ),
        Item(
            "twice",
            "Sending the same rows twice changes nothing the second time",
            "2 read = 2 unchanged, the same version",
            _twice_changes_nothing,
        ),
        Item(
            "dry-run",
            "A dry run counts rows and writes nothing",
            "1 read = 1 inserted, 0 loans stored",
            _dry_run_writes_nothing,
        ),
        Item(
            "shared-loan-id",
            "A loan id that two customers share is ambiguous",
            "LOAN_ID_AMBIGUOUS with both customers; for one customer, that customer's loan",
            _shared_loan_id,
        ),
        Item(
            "money-precision",
            "Money finer than a paisa, or in another currency, is rejected",
            "INVALID_ARGUMENT both times, with the reason",
            _paisa_is_the_finest,
        ),
        Item(
            "events-in-order",
            "Events of a customer arrive in order",
            "customer_registered first, loan_created later; ids increase, versions never fall",
            _events_in_order,
            has_figures=True,
        ),
        Item(
            "upload-read",
            "A worker reads an uploaded file",
            "SUCCEEDED: 2 read = 1 inserted + 1 rejected",
            _upload_is_read,
        ),
    ),
)

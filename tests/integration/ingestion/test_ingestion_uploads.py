"""Files from the upload to the last row: public workbooks, invalid files and killed workers."""

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pandas as pd
import psutil
import pytest
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.domain.calendar import add_months
from credit_service.domain.errors import InvalidRequestError, NotFoundError, PreconditionFailedError
from credit_service.domain.loans import imported_settled
from credit_service.ingestion import uploads
from credit_service.ingestion.uploads import fail_upload, run_upload, store_upload
from credit_service.queries.customers import get_customer
from credit_service.queries.ingestions import get_ingestion, list_row_errors
from credit_service.queries.loans import get_loan
from credit_service.spreadsheets.columns import Kind
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header, Ingestion
from credit_service.storage.tables import FIRST_ISSUED_ID
from tests.integration.imported import (
    PRINCIPAL,
    assert_positions_are_right,
    counts,
    errors,
    scalar,
    snapshot,
)
from tests.integration.portfolio import a_customer
from tests.unit.spreadsheets.workbooks import (
    A_CUSTOMER,
    A_LOAN,
    CUSTOMER_HEADERS,
    LOAN_HEADERS,
    Xml,
    csv_of,
    customers_workbook,
    loans_workbook,
    sheet_xml,
    workbook,
)

CLOCK = Clock()
MAX_BYTES = 64 * 1024**2


def store(
    database: Database, kind: Kind, content: bytes, filename: str = "rows.xlsx", **options: Any
) -> Ingestion:
    header = replace(Header(uuid4(), kind, filename=filename), **options)
    pieces = (content[n : n + 1000] for n in range(0, len(content), 1000))
    return store_upload(database, header, pieces, CLOCK.moment(), PRINCIPAL, MAX_BYTES)


def upload(
    database: Database,
    kind: Kind,
    content: bytes,
    filename: str = "rows.xlsx",
    batch_rows: int = 1_000,
    **options: Any,
) -> Ingestion:
    stored = store(database, kind, content, filename, **options)
    assert stored.state == "QUEUED"
    return run_upload(database, stored.ingestion_id, CLOCK, batch_rows=batch_rows)


def codes(database: Database, ingestion: Ingestion) -> set[tuple[str, str]]:
    return {(column, code) for _, column, code in errors(database, ingestion.ingestion_id)}


# --- The public workbooks -------------------------------------------------------------------------


@pytest.fixture
def public(database: Database, public_workbooks: Path) -> Database:
    """A database with both public workbooks imported."""
    for kind, name, rows in (("CUSTOMERS", "customer_data", 300), ("LOANS", "loan_data", 782)):
        content = (public_workbooks / f"{name}.xlsx").read_bytes()
        ingestion = upload(database, kind, content, f"{name}.xlsx")  # type: ignore[arg-type] # one of two
        assert (ingestion.state, ingestion.total_rows) == ("SUCCEEDED", rows)
        assert counts(ingestion) == {"inserted": rows}
    return database


def test_every_row_of_the_public_workbooks_is_stored_unchanged(
    public: Database, public_workbooks: Path
) -> None:
    today = CLOCK.moment().today
    customers = pd.read_excel(public_workbooks / "customer_data.xlsx", engine="calamine").dropna()
    for row in customers.itertuples(index=False):
        found = get_customer(public, customer_id=int(row[0])).customer
        assert (found.first_name, found.last_name, found.age) == (row[1], row[2], int(row[3]))
        assert found.phone_number == f"+91{int(row[4])}"
        assert found.monthly_income_paise == int(row[5]) * 100
        assert found.approved_limit_paise == int(row[6]) * 100
    loans = pd.read_excel(public_workbooks / "loan_data.xlsx", engine="calamine")
    for row in loans.itertuples(index=False):
        loan, _ = get_loan(public, int(row[1]), int(row[0]))
        start = row[7].date()
        assert loan.principal_paise == int(row[2]) * 100
        assert loan.tenure_months == int(row[3])
        assert str(loan.annual_rate_bps / 100) == str(float(row[4]))
        assert loan.installment_paise == round(row[5] * 100)
        assert loan.emis_paid_on_time == int(row[6])
        assert (loan.start_date, loan.end_date) == (start, row[8].date())
        settled, closed_on = imported_settled(
            loan.emis_paid_on_time, start, loan.tenure_months, today
        )
        assert (loan.installments_settled, loan.closed_on) == (settled, closed_on)
        assert loan.end_date == add_months(start, loan.tenure_months)
    assert scalar(public, "SELECT count(*) FROM loans") == len(loans) == 782
    assert_positions_are_right(public, range(1, 301), today)


@pytest.mark.slow
def test_importing_the_public_workbooks_again_changes_nothing(
    public: Database, public_workbooks: Path
) -> None:
    before = snapshot(public)
    for mode in ("SKIP", "UPDATE"):
        for dry in (False, True):
            options: dict[str, Any] = {"on_existing": mode, "validate_only": dry}
            content = (public_workbooks / "loan_data.xlsx").read_bytes()
            again = upload(public, "LOANS", content, batch_rows=100, **options)
            assert counts(again) == {"unchanged": 782}
            content = (public_workbooks / "customer_data.xlsx").read_bytes()
            assert counts(upload(public, "CUSTOMERS", content, **options)) == {"unchanged": 300}
    assert snapshot(public) == before


def test_customers_register_right_after_the_import(public: Database) -> None:
    assert a_customer(public, CLOCK.moment()) == FIRST_ISSUED_ID


@pytest.mark.slow
def test_a_loan_id_of_two_customers_is_ambiguous_without_one(public: Database) -> None:
    with pytest.raises(PreconditionFailedError) as refused:
        get_loan(public, 1003, None)
    assert refused.value.metadata["customer_ids"] == "20,240"
    assert get_loan(public, 1003, 240)[0].customer_id == 240


@pytest.mark.slow
def test_the_same_rows_as_csv_change_nothing(public: Database, public_workbooks: Path) -> None:
    for kind, name in (("CUSTOMERS", "customer_data"), ("LOANS", "loan_data")):
        frame = pd.read_excel(public_workbooks / f"{name}.xlsx", engine="calamine")
        content = frame.dropna().to_csv(index=False).encode()
        ingestion = upload(public, kind, content, "rows.csv")  # type: ignore[arg-type] # one of two
        assert set(counts(ingestion)) == {"unchanged"}


# --- Invalid files and rows -----------------------------------------------------------------------


@pytest.fixture
def seven(database: Database) -> Database:
    """A database with customer 7."""
    assert counts(upload(database, "CUSTOMERS", customers_workbook(A_CUSTOMER))) == {"inserted": 1}
    return database


FORMULA = Xml('<c r="{r}"><f>C2/12</f><v>8333.33</v></c>')


def test_rejected_rows_are_reported_with_every_column_and_others_are_stored(
    seven: Database,
) -> None:
    rows = [
        A_LOAN,
        (7, 2, -5, 0, 101, 0, -1, date(2099, 1, 1), None),
        (7, 3, 1e18, 481, 12.345, 1000.005, 3, date(2024, 1, 31), date(2025, 1, 30)),
        (7, 4, "many", "a year", "12,0%", FORMULA, "all", "someday", "later"),
        (None,) * 9,
        (8, 5, *A_LOAN[2:]),
        (7, 6, *A_LOAN[2:]),
    ]
    ingestion = upload(seven, "LOANS", loans_workbook(*rows), batch_rows=2)
    assert ingestion.state == "SUCCEEDED"
    assert counts(ingestion) == {"inserted": 2, "rejected": 4}
    assert errors(seven, ingestion.ingestion_id) == [
        (3, "loan_amount", "OUT_OF_RANGE"),
        (3, "tenure_months", "OUT_OF_RANGE"),
        (3, "interest_rate", "OUT_OF_RANGE"),
        (3, "monthly_installment", "OUT_OF_RANGE"),
        (3, "emis_paid_on_time", "OUT_OF_RANGE"),
        (3, "start_date", "DATE_IN_FUTURE"),
        (4, "loan_amount", "OUT_OF_RANGE"),
        (4, "tenure_months", "OUT_OF_RANGE"),
        (4, "interest_rate", "TOO_PRECISE"),
        (4, "monthly_installment", "TOO_PRECISE"),
        (5, "loan_amount", "NOT_A_NUMBER"),
        (5, "tenure_months", "NOT_A_NUMBER"),
        (5, "interest_rate", "NOT_A_NUMBER"),
        (5, "monthly_installment", "FORMULA"),
        (5, "emis_paid_on_time", "NOT_A_NUMBER"),
        (5, "start_date", "DATE_INVALID"),
        (5, "end_date", "DATE_INVALID"),
        (7, "customer_id", "CUSTOMER_UNKNOWN"),
    ]
    formula = list_row_errors(seven, ingestion.ingestion_id, None, 100)[13]
    assert formula.found == "=C2/12"
    assert ingestion.total_rows == 6


def test_an_end_date_must_follow_from_the_start(seven: Database) -> None:
    row = (*A_LOAN[:8], date(2025, 1, 30))
    ingestion = upload(seven, "LOANS", loans_workbook(row))
    assert codes(seven, ingestion) == {("end_date", "END_DATE_MISMATCH")}
    found = list_row_errors(seven, ingestion.ingestion_id, None, 1)[0]
    assert "2025-01-31" in found.expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (csv_of(LOAN_HEADERS), "FILE_EMPTY"),
        (b"\r\n", "FILE_EMPTY"),
        (csv_of(CUSTOMER_HEADERS, A_CUSTOMER), "COLUMN_MISSING"),
        (csv_of((*LOAN_HEADERS, "EMI"), (*A_LOAN, 1)), "COLUMN_AMBIGUOUS"),
        (csv_of(LOAN_HEADERS) + b'"', "FILE_UNREADABLE"),
        (csv_of(LOAN_HEADERS, A_LOAN) + b"\xff\xff", "FILE_UNREADABLE"),
        (workbook("<worksheet>"), "FILE_UNREADABLE"),
        (workbook(sheet_xml([])), "FILE_EMPTY"),
        (loans_workbook(), "FILE_EMPTY"),
    ],
)
def test_a_file_that_cannot_be_read_fails_its_ingestion(
    seven: Database, content: bytes, code: str
) -> None:
    name = "rows.xlsx" if content.startswith(b"PK") else "rows.csv"
    ingestion = upload(seven, "LOANS", content, name)
    assert (ingestion.state, ingestion.error_code) == ("FAILED", code)
    assert ingestion.error_message
    assert ingestion.finished_at is not None
    assert counts(ingestion) == {}
    # A second run, as of a task sent twice, changes nothing.
    assert run_upload(seven, ingestion.ingestion_id, CLOCK) == ingestion


@pytest.mark.parametrize(
    ("content", "filename", "reason"),
    [
        (b"", "rows.xlsx", "UPLOAD_EMPTY"),
        (csv_of(LOAN_HEADERS, A_LOAN), "rows.xlsx", "UPLOAD_UNSUPPORTED"),
        (loans_workbook(A_LOAN)[:-40], "rows.xlsx", "UPLOAD_UNSUPPORTED"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "rows.xls", "UPLOAD_UNSUPPORTED"),
        (
            workbook(sheet_xml([]), extra={"xl/media/a.bin": bytes(4 * 1024**2)}),
            "rows.xlsx",
            "UPLOAD_UNSAFE",
        ),
        (bytes(MAX_BYTES + 1), "rows.xlsx", "UPLOAD_TOO_LARGE"),
    ],
)
def test_an_unsupported_file_is_rejected_at_the_upload(
    database: Database, content: bytes, filename: str, reason: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        store(database, "LOANS", content, filename)
    assert refused.value.reason == reason
    assert scalar(database, "SELECT count(*) FROM ingestions") == 0


def test_the_checksum_is_compared(database: Database) -> None:
    content = loans_workbook(A_LOAN)
    assert store(database, "LOANS", content, sha256=hashlib.sha256(content).digest()).sha256
    with pytest.raises(InvalidRequestError, match="UPLOAD_CHECKSUM_MISMATCH"):
        store(database, "LOANS", content, sha256=bytes(32))


def test_an_upload_sent_twice_is_stored_once(seven: Database) -> None:
    header = Header(uuid4(), "LOANS", filename="a.xlsx")
    content = loans_workbook(A_LOAN)

    def again(header: Header, content: bytes = content) -> Ingestion:
        return store_upload(seven, header, [content], CLOCK.moment(), PRINCIPAL, MAX_BYTES)

    first = again(header)
    assert again(header) == first
    tasks = "SELECT count(*) FROM tasks WHERE actor = 'ingest_upload' AND subject = '{}'"
    assert scalar(seven, tasks.format(header.ingestion_id)) == 1
    done = run_upload(seven, header.ingestion_id, CLOCK)
    assert again(header) == done
    with pytest.raises(PreconditionFailedError) as refused:
        again(replace(header, on_existing="UPDATE"), loans_workbook(A_LOAN, A_LOAN))
    assert refused.value.metadata["fields"] == "on_existing,sha256"


@pytest.mark.slow
def test_a_file_is_read_in_the_date_order_of_its_header(seven: Database) -> None:
    rows = [(7, n, *A_LOAN[2:7], day, "") for n, day in enumerate(("03-04-2024", "05-06-2024"), 1)]
    content = csv_of(LOAN_HEADERS, *rows)
    undecided = upload(seven, "LOANS", content, "rows.csv", validate_only=True)
    assert codes(seven, undecided) == {("start_date", "DATE_AMBIGUOUS")}
    stored = store(seven, "LOANS", content, "rows.csv", date_order="DMY")
    with pytest.raises(PreconditionFailedError) as refused:
        store(
            seven,
            "LOANS",
            content,
            "rows.csv",
            date_order="MDY",
            ingestion_id=stored.ingestion_id,
        )
    assert refused.value.metadata["fields"] == "date_order"
    assert counts(run_upload(seven, stored.ingestion_id, CLOCK)) == {"inserted": 2}
    days = [str(get_loan(seven, n, 7)[0].start_date) for n in (1, 2)]
    assert days == ["2024-04-03", "2024-06-05"]


def test_a_dry_run_of_a_file_stores_only_its_report(seven: Database) -> None:
    before = snapshot(seven)
    ingestion = upload(seven, "LOANS", loans_workbook(A_LOAN, (8, *A_LOAN[1:])), validate_only=True)
    assert counts(ingestion) == {"inserted": 1, "rejected": 1}
    assert snapshot(seven) == before


# --- Killed workers -------------------------------------------------------------------------------


def many_loans(count: int) -> bytes:
    return loans_workbook(*((7, n, *A_LOAN[2:]) for n in range(1, count + 1)))


class _Killed(BaseException):
    """The worker was killed."""


def killed_after(batches: int) -> Iterator[None]:
    yield from [None] * batches
    raise _Killed


@pytest.mark.slow
def test_a_run_resumes_where_the_last_one_was_killed(seven: Database) -> None:
    stored = store(seven, "LOANS", many_loans(250))
    offsets = []
    # Each run has another batch size, for other batch boundaries.
    for batches, batch_rows in ((1, 60), (0, 7), (2, 45), (1, 13)):
        progress = killed_after(batches)
        with pytest.raises(_Killed):
            run_upload(
                seven,
                stored.ingestion_id,
                CLOCK,
                batch_rows=batch_rows,
                on_progress=lambda progress=progress: next(progress),  # type: ignore[misc] # a default binds it
            )
        offsets.append(get_ingestion(seven, stored.ingestion_id).committed_offset)
    assert offsets == [60, 60, 150, 163]
    done = run_upload(seven, stored.ingestion_id, CLOCK, batch_rows=50)
    assert counts(done) == {"inserted": 250}
    assert [row[14] for row in snapshot(seven)["loans"]] == list(range(2, 252))
    assert_positions_are_right(seven, [7], CLOCK.moment().today)


def test_concurrent_workers_store_each_row_once(seven: Database) -> None:
    stored = store(seven, "LOANS", many_loans(400))
    results: list[Ingestion] = []

    def work(batch_rows: int) -> None:
        results.append(run_upload(seven, stored.ingestion_id, CLOCK, batch_rows=batch_rows))

    threads = [threading.Thread(target=work, args=(size,)) for size in (23, 50, 23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.state for each in results] == ["SUCCEEDED"] * 3
    assert counts(get_ingestion(seven, stored.ingestion_id)) == {"inserted": 400}
    assert scalar(seven, "SELECT count(*) FROM events WHERE kind = 'rows_ingested'") == 2


def reader_of(parent: int) -> psutil.Process:
    """The child process that reads the file."""
    return next(
        child
        for child in psutil.Process(parent).children()
        if "credit_service.ingestion.reading" in " ".join(child.cmdline())
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "state"), [(signal.SIGKILL, "RUNNING"), (signal.SIGABRT, "FAILED")]
)
def test_a_killed_reader_is_retried_and_an_aborted_one_means_an_unsafe_file(
    seven: Database, how: signal.Signals, state: str
) -> None:
    stored = store(seven, "LOANS", many_loans(30_000))

    def end_reader() -> None:
        # Batches already sent arrive before the end is noticed.
        with contextlib.suppress(StopIteration, psutil.Error):
            reader_of(os.getpid()).send_signal(how)

    try:
        run_upload(seven, stored.ingestion_id, CLOCK, batch_rows=500, on_progress=end_reader)
    except RuntimeError as error:
        assert "-9" in str(error)  # noqa: PT017 - only one of the two raises
    ingestion = get_ingestion(seven, stored.ingestion_id)
    assert ingestion.state == state
    if state == "FAILED":
        assert ingestion.error_code == "FILE_UNSAFE"
    else:
        done = run_upload(seven, stored.ingestion_id, CLOCK, batch_rows=20_000)
        assert counts(done) == {"inserted": 30_000}


def test_a_file_that_needs_too_much_memory_is_unsafe(seven: Database) -> None:
    """A file of one megabyte whose table would need gigabytes: it is as wide as it is long."""
    wide = "".join(f"<c><v>{n}</v></c>" for n in range(20_000))
    long = "".join(f"<row><c><v>{n}</v></c></row>" for n in range(20_000))
    sheet = sheet_xml([CUSTOMER_HEADERS]).replace('<row r="1" ', "<row ")
    content = workbook(sheet.replace("</sheetData>", f"<row>{wide}</row>{long}</sheetData>"))
    ingestion = upload(seven, "CUSTOMERS", content)
    assert (ingestion.state, ingestion.error_code) == ("FAILED", "FILE_UNSAFE")


def test_lost_bytes_fail_the_ingestion(seven: Database) -> None:
    stored = store(seven, "LOANS", many_loans(10))
    with seven.transaction() as connection:
        connection.execute(text("UPDATE ingestion_chunks SET content = 'x'"))
    ingestion = run_upload(seven, stored.ingestion_id, CLOCK)
    assert (ingestion.state, ingestion.error_code) == ("FAILED", "FILE_LOST")


def test_exhausted_attempts_fail_the_ingestion_once(seven: Database) -> None:
    stored = store(seven, "LOANS", many_loans(1))
    failed = fail_upload(
        seven, stored.ingestion_id, "ATTEMPTS_EXHAUSTED", "Tried five times.", CLOCK.moment()
    )
    assert failed.state == "FAILED"
    again = fail_upload(seven, stored.ingestion_id, "INTERNAL", "No.", CLOCK.moment())
    assert again == failed
    assert run_upload(seven, stored.ingestion_id, CLOCK) == failed


def test_an_unknown_upload_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError):
        run_upload(database, UUID(int=0), CLOCK)


def test_the_environment_of_the_reading_process_holds_no_secret(
    seven: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    seen: list[dict[str, str]] = []
    stored = store(seven, "LOANS", many_loans(2_000))
    run_upload(
        seven,
        stored.ingestion_id,
        CLOCK,
        batch_rows=1_000,
        on_progress=lambda: seen.append(reader_of(os.getpid()).environ()),
    )
    assert seen
    assert "DATABASE_URL" not in seen[0]
    assert uploads.BATCH_ROWS == 25_000

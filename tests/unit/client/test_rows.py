"""Files as rows of the contract: typed values, or unreadable cells with their text."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from credit_service.client import rows
from credit_service.client.rows import open_source
from credit_service.spreadsheets import samples
from credit_service.spreadsheets.columns import COLUMNS
from credit_service.v1 import ingestion_pb2
from credit_service_client.sources import SourceError

LOAN = [7, 5001, 150_000, 24, 12.5, 7100.5, 3, date(2024, 1, 31), date(2026, 1, 31)]
CUSTOMER = [7, "Asha", "Verma", 34, 9876598765, 50_000, 1_800_000]


def _loans(path: Path, *loans: list[Any]) -> list[ingestion_pb2.LoanRow]:
    samples.write_workbook(path, samples.LOAN_HEADERS, loans)
    return [row for each in open_source(path).batches() for row in each.batch.loans.rows]


def _customers(path: Path, *customers: list[Any]) -> list[ingestion_pb2.CustomerRow]:
    samples.write_workbook(path, samples.CUSTOMER_HEADERS, customers)
    return [row for each in open_source(path).batches() for row in each.batch.customers.rows]


def test_a_loan_row(tmp_path: Path) -> None:
    (row,) = _loans(tmp_path / "loans.xlsx", LOAN)
    assert (row.customer_id, row.loan_id, row.tenure_months, row.emis_paid_on_time) == (
        7,
        5001,
        24,
        3,
    )
    assert (row.loan_amount.units, row.loan_amount.nanos) == (150_000, 0)
    assert (row.monthly_installment.units, row.monthly_installment.nanos) == (7100, 500_000_000)
    assert row.interest_rate.value == "12.5"
    assert (row.start_date.year, row.start_date.month, row.start_date.day) == (2024, 1, 31)
    assert (row.end_date.year, row.end_date.month, row.end_date.day) == (2026, 1, 31)
    assert row.row_number == 2
    assert not row.unreadable_cells


def test_a_customer_row(tmp_path: Path) -> None:
    (row,) = _customers(tmp_path / "customers.xlsx", CUSTOMER)
    assert (row.customer_id, row.first_name, row.last_name) == (7, "Asha", "Verma")
    assert (row.age, row.phone_number) == (34, "9876598765")
    assert (row.monthly_income.units, row.approved_limit.units) == (50_000, 1_800_000)


@pytest.mark.parametrize(
    ("field", "cell", "code"),
    [
        ("customer_id", "seven", "NOT_A_NUMBER"),
        ("customer_id", 7.5, "NOT_A_WHOLE_NUMBER"),
        ("loan_id", 1e30, "OUT_OF_RANGE"),
        ("loan_amount", "a lakh", "NOT_A_NUMBER"),
        ("loan_amount", 1e300, "OUT_OF_RANGE"),
        ("tenure_months", "two years", "NOT_A_NUMBER"),
        ("tenure_months", 3e9, "OUT_OF_RANGE"),
        ("interest_rate", date(2024, 1, 1), "NOT_A_NUMBER"),
        ("emis_paid_on_time", "=1+1", "NOT_A_NUMBER"),
        ("start_date", "soon", "DATE_INVALID"),
        ("start_date", "2024-02-30", "DATE_INVALID"),
    ],
)
def test_cells_that_do_not_fit_are_sent_as_unreadable(
    tmp_path: Path, field: str, cell: object, code: str
) -> None:
    columns = [each.field for each in COLUMNS["LOANS"]]
    loan: list[Any] = list(LOAN)
    loan[columns.index(field)] = cell
    (row,) = _loans(tmp_path / "loans.xlsx", loan)
    (unreadable,) = row.unreadable_cells
    assert unreadable.column == field
    assert ingestion_pb2.RowErrorCode.Name(unreadable.code) == f"ROW_ERROR_CODE_{code}"
    assert unreadable.found
    # The other cells are sent too, so that the service can validate them.
    assert row.customer_id == (0 if field == "customer_id" else 7)
    assert row.end_date.year == 2026


def test_empty_cells_are_absent_and_blank_rows_ignored(tmp_path: Path) -> None:
    blank: list[Any] = [""] * 9
    first, second = _loans(
        tmp_path / "loans.xlsx", blank, [7, 5001, *[" "] * 7], blank, [8, 5002, *[""] * 7], blank
    )
    assert (first.row_number, second.row_number) == (3, 5)
    assert second.customer_id == 8
    assert not second.HasField("tenure_months")
    assert not second.HasField("loan_amount")
    assert not second.HasField("start_date")
    assert not first.unreadable_cells


@pytest.mark.parametrize(
    ("cell", "units", "nanos"),
    [
        (0.1 + 0.2, 0, 300_000_000),
        (8884.88, 8884, 880_000_000),
        (-12.25, -12, -250_000_000),
        (1e14, 10**14, 0),
        ("12.345", 12, 345_000_000),
        ("0." + "0" * 40, 0, 0),
    ],
)
def test_money_is_exact(tmp_path: Path, cell: Any, units: int, nanos: int) -> None:
    loan = [*LOAN[:2], cell, *LOAN[3:]]
    (row,) = _loans(tmp_path / "loans.xlsx", loan)
    assert row.HasField("loan_amount")
    assert (row.loan_amount.units, row.loan_amount.nanos) == (units, nanos)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "loans.csv"
    header = ["customer_id", "LOAN  ID", "Loan Amount", "Tenure", "Interest Rate"]
    header += ["Monthly Repayment (emi)", "EMIs paid on time", "Start Date"]
    lines = [header, ["7", "5001", "150000.50", "24", "12.5", "7100", "3", "2024-01-31"], [], ["8"]]
    text = "\r\n".join(separator.join(line) for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_source(path)
    assert (source.kind, source.size_bytes) == ("LOANS", path.stat().st_size)
    (only,) = source.batches()
    first, second = only.batch.loans.rows
    assert (first.loan_amount.units, first.loan_amount.nanos) == (150_000, 500_000_000)
    assert (first.start_date.year, first.row_number) == (2024, 2)
    assert (second.customer_id, second.row_number) == (8, 4)
    assert not second.HasField("loan_id")


def test_batches_start_at_any_offset_and_stay_below_the_maximum_message_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loans.xlsx"
    rows_of_file = [row.cells() for row in samples.sample_loans(300, 900, 1, date(2026, 3, 31))]
    samples.write_workbook(path, samples.LOAN_HEADERS, rows_of_file)
    source = open_source(path)
    monkeypatch.setattr(rows, "BATCH_ROWS", 400)
    monkeypatch.setattr(rows, "MAX_BATCH_BYTES", 12_000)
    for offset in (0, 1, 399, 899, 900):
        found = [each.batch for each in source.batches(offset)]
        numbers = [row.row_number for batch in found for row in batch.loans.rows]
        assert numbers == list(range(offset + 2, 902))
        assert all(batch.ByteSize() <= 12_100 for batch in found)
        expected = offset
        for batch in found:
            assert batch.offset == expected
            expected += len(batch.loans.rows)


def test_a_text_that_is_too_long_for_a_name_is_truncated(tmp_path: Path) -> None:
    (row,) = _customers(tmp_path / "customers.xlsx", [7, "A" * 30_000, *CUSTOMER[2:]])
    (unreadable,) = row.unreadable_cells
    assert unreadable.column == "first_name"
    assert unreadable.found == "A" * 200


def test_unreadable_files_are_reported_with_the_reason(tmp_path: Path) -> None:
    whole = tmp_path / "whole.xlsx"
    _loans(whole, *[LOAN] * 100)
    contents = {
        "text.xlsx": (b"Customer ID,Loan ID\n1,2\n", "its content is no workbook"),
        "cut.xlsx": (whole.read_bytes()[:500], "cut short or damaged"),
        "nothing.xlsx": (b"", "The file is empty"),
        "nothing.csv": (b"", "The file is empty"),
        "blank.csv": (b"\n  \n,,\n", "The file holds no row"),
        "letter.doc": (b"hello\x00", "neither an .xlsx workbook nor CSV text"),
        "other.csv": (b"a,b\n1,2\n", "the header of neither customers nor loans; it has 'a', 'b'"),
        "short.csv": (
            b"Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,EMI\n1,2,3,4,5,6\n",
            "needs the columns 'EMIs paid on Time', 'Date of Approval'; found 'Customer ID'",
        ),
        "twice.csv": (
            b"Customer ID,First Name,Last Name,Age,Phone,Mobile,Salary\n1,a,b,20,1,2,3\n",
            "'Phone' and 'Mobile' both stand for phone_number",
        ),
        "latin.csv": (
            b"Customer ID,First Name,Last Name,Age,Phone,Salary\n1,Zo\xeb,b,20,1,3\n",
            "not text in UTF-8",
        ),
    }
    for name, (content, message) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SourceError, match=message.replace("(", r"\(")):
            list(open_source(path).batches())
    with pytest.raises(SourceError, match="There is no file"):
        open_source(tmp_path / "absent.csv")
    for reads in (open_source, rows.kinds):
        with pytest.raises(SourceError, match="is a folder"):
            reads(tmp_path)


def test_a_date_with_a_time_is_invalid(tmp_path: Path) -> None:
    midnight = datetime(2024, 1, 31)  # noqa: DTZ001 - a sheet knows no time zone
    assert rows._date(midnight) == rows._date(date(2024, 1, 31)) == rows._date("2024-01-31")
    with pytest.raises(rows.UnreadableError):
        rows._date(midnight.replace(hour=9))

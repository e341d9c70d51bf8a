"""The files that arrive during the year, some with mistakes that people make."""

import csv
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from credit_service.spreadsheets import samples
from credit_service.spreadsheets.samples import Cell, SampleCustomer, SampleLoan

# What the sixth, thirteenth, … row has wrong: the column and the cell. Customers first.
_CUSTOMER_MISTAKES: tuple[tuple[str, Cell], ...] = (
    ("Phone Number", 12345),
    ("Age", "thirty"),
    ("Monthly Salary", -40000),
    ("First Name", ""),
)
_LOAN_MISTAKES: tuple[tuple[str, Cell], ...] = (
    ("Tenure", "two years"),
    ("Loan Amount", 0),
    ("Date of Approval", "31/02/2026"),
)
_ROWS_FOR_ONE_MISTAKE = 7


def customers(path: Path, rows: Iterable[SampleCustomer]) -> Path:
    """Write a CSV file of customers, about one row in seven with a mistake."""
    lines = [list(each.cells()) for each in rows]
    return _write(path, samples.CUSTOMER_HEADERS, lines, _CUSTOMER_MISTAKES)


def loans(path: Path, rows: Iterable[SampleLoan]) -> Path:
    """Write a CSV file of loans, about one row in seven with a mistake."""
    lines = [list(each.cells()) for each in rows]
    return _write(path, samples.LOAN_HEADERS, lines, _LOAN_MISTAKES)


def corrected_loans(path: Path, rows: Iterable[SampleLoan]) -> Path:
    """Write a workbook of the same loans with one more installment paid on time in each."""
    headers = list(samples.LOAN_HEADERS)
    on_time = headers.index("EMIs paid on Time")
    lines = [list(each.cells()) for each in rows]
    for line in lines:
        line[on_time] = int(str(line[on_time])) + 1
    samples.write_workbook(path, headers, lines)
    return path


def _write(
    path: Path,
    headers: Sequence[str],
    lines: list[list[Cell]],
    mistakes: Sequence[tuple[str, Cell]],
) -> Path:
    for number, line in enumerate(lines[_ROWS_FOR_ONE_MISTAKE - 1 :: _ROWS_FOR_ONE_MISTAKE]):
        column, cell = mistakes[number % len(mistakes)]
        line[headers.index(column)] = cell
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headers)
        for line in lines:
            writer.writerow([_text(cell) for cell in line])
    return path


def _text(cell: Cell) -> Cell:
    return cell.isoformat() if isinstance(cell, date) else cell

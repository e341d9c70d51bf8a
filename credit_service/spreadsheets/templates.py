"""Empty workbooks and CSV files to fill in, with the headers of each kind of rows and their values.

Imports no module of ours when it loads but the list of columns, so that the command line and the
console may both offer them.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from credit_service.spreadsheets.columns import COLUMNS, Column, Kind, letters

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EXPLANATIONS = "Columns"
"""The name of the second sheet, which says what each column takes. It is never read."""

_Style = Literal["text", "whole", "amount", "rate", "day"]


@dataclass(frozen=True, slots=True)
class _Guide:
    """The values of a column, for a person who fills it in."""

    style: _Style
    takes: str
    example: str


_RUPEES = "rupees, with at most two decimals"
_GUIDES: Mapping[str, _Guide] = {
    "customer_id": _Guide("whole", "a whole number from 1 to 999,999,999,999,999", "1024"),
    "first_name": _Guide("text", "1 to 50 characters", "Asha"),
    "last_name": _Guide("text", "1 to 50 characters", "Rao"),
    "age": _Guide("whole", "completed years, 18 to 120", "31"),
    "phone_number": _Guide("text", "an Indian number, or one with its country code", "9876598765"),
    "monthly_income": _Guide("amount", f"{_RUPEES}, more than 0, at most 10 crore", "50000"),
    "approved_limit": _Guide(
        "amount", f"{_RUPEES}; empty: 36 times the income, to the nearest lakh", "1800000"
    ),
    "loan_id": _Guide("whole", "a whole number, unique among the customer's loans", "1001"),
    "loan_amount": _Guide("amount", f"{_RUPEES}, more than 0, at most 100 crore", "100000"),
    "tenure_months": _Guide("whole", "a whole number of months, 1 to 480", "12"),
    "interest_rate": _Guide("rate", "percent a year, 0 to 100, at most two decimals", "12.5"),
    "monthly_installment": _Guide("amount", f"{_RUPEES} a month, more than 0", "8908.30"),
    "emis_paid_on_time": _Guide("whole", "a whole number from 0 to the tenure", "3"),
    "start_date": _Guide("day", "a day from 1900 on, not in the future", "2024-03-31"),
    "end_date": _Guide("day", "the start date plus the tenure, or empty", "2025-03-31"),
}


def headers(kind: Kind) -> tuple[str, ...]:
    """The usual header of each column, in order."""
    return tuple(column.headers[0] for column in COLUMNS[kind])


def csv_template(kind: Kind) -> bytes:
    """A CSV file of the header alone, in UTF-8 with a byte order mark, as spreadsheet programs
    expect."""
    return b"\xef\xbb\xbf" + (",".join(headers(kind)) + "\r\n").encode()


def template(kind: Kind) -> bytes:
    """A workbook of the header, with each column formatted for its values, and a second sheet
    that explains the columns. The bytes are the same each time."""
    # Importing openpyxl takes 0.3 s, which other commands and pages save.
    from openpyxl import Workbook  # noqa: PLC0415
    from openpyxl.styles import Font  # noqa: PLC0415

    from credit_service.spreadsheets.workbook_writer import save  # noqa: PLC0415

    workbook = Workbook()
    heading = Font(bold=True)
    rows = workbook.active
    rows.title = kind.capitalize()
    rows.append(headers(kind))
    rows.freeze_panes = "A2"
    for index, column in enumerate(COLUMNS[kind]):
        dimension = rows.column_dimensions[letters(index)]
        dimension.width = 20
        dimension.number_format = _NUMBER_FORMATS[_GUIDES[column.field].style]
    explanations = workbook.create_sheet(EXPLANATIONS)
    explanations.append([f"Fill in the sheet '{rows.title}'. This sheet is not read."])
    explanations.append(["Column", "Needed", "Takes", "Example", "Other headers that are read"])
    for column in COLUMNS[kind]:
        explanations.append(_explained(column))
    explanations.append(
        ["A header may name its unit: rupees as (INR), (Rs.) or (₹), months, % p.a."]
    )
    for index, width in enumerate((22, 10, 56, 16, 90)):
        explanations.column_dimensions[letters(index)].width = width
    for cell in (*rows[1], *explanations[2]):
        cell.font = heading
    buffer = io.BytesIO()
    save(workbook, buffer)
    return buffer.getvalue()


_GROUPED_BY_LAKHS = "[>=10000000]##\\,##\\,##\\,##0.00;[>=100000]##\\,##\\,##0.00;##,##0.00"
_NUMBER_FORMATS: Mapping[_Style, str] = {
    "text": "@",
    "whole": "0",
    "amount": _GROUPED_BY_LAKHS,
    "rate": "0.00",
    "day": "yyyy\\-mm\\-dd",
}


def _explained(column: Column) -> tuple[str, ...]:
    guide = _GUIDES[column.field]
    others = (*column.headers[1:], *column.second_choice)
    needed = "yes" if column.required else "no"
    return column.headers[0], needed, guide.takes, guide.example, ", ".join(others)

"""Empty workbooks and CSV files to fill in, with the headers of each kind of rows and their values.

Imports no module of ours when it loads but the list of columns, so that the command line and the
console may both offer them.
"""

import io
from collections.abc import Mapping

from credit_service.spreadsheets.columns import TABLES, Column, ColumnType, TableKind, usual_headers
from credit_service.spreadsheets.headers import letters

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EXPLANATIONS = "Columns"
"""The name of the second sheet, which says what each column takes. It is never read."""


def csv_template(kind: TableKind) -> bytes:
    """A CSV file of the header alone, in UTF-8 with a byte order mark, as spreadsheet programs
    expect."""
    return b"\xef\xbb\xbf" + (",".join(usual_headers(kind)) + "\r\n").encode()


def template(kind: TableKind) -> bytes:
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
    rows.append(usual_headers(kind))
    rows.freeze_panes = "A2"
    for index, column in enumerate(TABLES[kind]):
        dimension = rows.column_dimensions[letters(index)]
        dimension.width = 20
        dimension.number_format = _NUMBER_FORMATS[column.type]
    explanations = workbook.create_sheet(EXPLANATIONS)
    explanations.append([f"Fill in the sheet '{rows.title}'. This sheet is not read."])
    explanations.append(["Column", "Needed", "Takes", "Example", "Other headers that are read"])
    for column in TABLES[kind]:
        explanations.append(_explained(column))
    explanations.append(
        ["A header may name its unit: rupees as (INR), (Rs.) or (₹), months, % p.a."]
    )
    for index, width in enumerate((22, 10, 100, 16, 90)):
        explanations.column_dimensions[letters(index)].width = width
    for cell in (*rows[1], *explanations[2]):
        cell.font = heading
    buffer = io.BytesIO()
    save(workbook, buffer)
    return buffer.getvalue()


_GROUPED_BY_LAKHS = "[>=10000000]##\\,##\\,##\\,##0.00;[>=100000]##\\,##\\,##0.00;##,##0.00"
_NUMBER_FORMATS: Mapping[ColumnType, str] = {
    "ID": "0",
    "WHOLE": "0",
    "AMOUNT": _GROUPED_BY_LAKHS,
    "RATE": "0.00",
    "DAY": "yyyy\\-mm\\-dd",
    "NAME": "@",
    "PHONE": "@",
}


def _explained(column: Column) -> tuple[str, ...]:
    others = (*column.headers[1:], *column.second_choice)
    needed = "yes" if column.required else "no"
    takes = f"{column.expected}; {column.advice}" if column.advice else column.expected
    return column.headers[0], needed, takes, column.example, ", ".join(others)

"""The same rows from every usual writer of workbooks are read as the sheets show them."""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import xlsxwriter
from hypothesis import example, given
from hypothesis import strategies as st
from openpyxl.comments import Comment
from openpyxl.styles import Font

from credit_service.spreadsheets import workbook_writer
from credit_service.spreadsheets.cell_values import (
    Cell,
    ErrorValue,
    Formula,
    Percent,
    day_of_moment,
)
from credit_service.spreadsheets.source import open_source
from tests.tools import node_modules, tool

CURRENCY = '"₹" #,##0.00'
LAKHS = "[>=10000000]##\\,##\\,##\\,##0.00;[>=100000]##\\,##\\,##0.00;##,##0.00"
SCIENTIFIC = "0.00E+00"
TEXT = "@"
DAY = "dd-mm-yyyy"
HEADERS = (
    *("Customer ID", "Loan ID", "Loan Amount (INR)", "Tenure (in months)"),
    *("Interest Rate (% p.a.)", "EMI (Rs.)", "emis_paid", "Date of Approval", "End Date"),
)
START, END = date(2024, 3, 31), date(2025, 3, 31)

# (value, format) of each cell; every writer writes a date as a date.
ROWS: list[list[tuple[Any, str]]] = [
    [
        *((7, "0"), (1001, TEXT), (1234567.5, LAKHS), (12, "General"), (0.12, "0%")),
        *((8884.88, CURRENCY), (3, "0"), (START, DAY), (END, DAY)),
    ],
    [
        *((7, SCIENTIFIC), (1002, "#,##0"), (25_000_000, CURRENCY), (24, TEXT), (0.105, "0.0%")),
        *((1_200_000.25, LAKHS), (0, "0;-0;0"), (START, "yyyy-mm-dd"), (END, "d-mmm-yy")),
    ],
    [
        *((8, "0"), (1003, "000000"), (150_000, SCIENTIFIC), (12, '0 "months"'), (10.5, "0.00")),
        *((8_800, "#,##0.00"), (12, "0"), (START, "dd/mm/yyyy"), ("", TEXT)),
    ],
    [
        *((8, "0"), (1004, "0"), (99_999.99, "_(* #,##0.00_)"), (36, "0"), (0.085, "[Red]0.00%")),
        *((3_161.5, "[$₹-4009]\\ #,##0.00"), (5, "0"), (START, DAY), (END, DAY)),
    ],
    [
        *(("9", TEXT), ("1005", TEXT), ("1,50,000", TEXT), ("12", TEXT), (12, '0"%"')),
        *(("₹ 8,884.88", TEXT), ("3", TEXT), ("2024-03-31", TEXT), (END, DAY)),
    ],
]
EXPECTED: dict[str, list[Cell]] = {
    "customer_id": [7.0, 7.0, 8.0, 8.0, "9"],
    "loan_id": [1001.0, 1002.0, 1003.0, 1004.0, "1005"],
    "loan_amount": [1_234_567.5, 25_000_000.0, 150_000.0, 99_999.99, "1,50,000"],
    "tenure_months": [12.0, 24.0, 12.0, 36.0, "12"],
    "interest_rate": [Percent(12), Percent(10.5), 10.5, Percent(8.5), 12.0],
    "monthly_installment": [8_884.88, 1_200_000.25, 8_800.0, 3_161.5, "₹ 8,884.88"],
    "emis_paid_on_time": [3.0, 0.0, 12.0, 5.0, "3"],
    "start_date": [START, START, START, START, "2024-03-31"],
    "end_date": [END, END, "", END, END],
}


def by_openpyxl(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(HEADERS)
    for number, row in enumerate(ROWS, 2):
        for column, (value, code) in enumerate(row, 1):
            cell = sheet.cell(number, column, value if value != "" else None)
            cell.number_format = code
    book.save(path)


def by_xlsxwriter(path: Path) -> None:
    book = xlsxwriter.Workbook(path)
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, HEADERS)
    for number, row in enumerate(ROWS, 1):
        for column, (value, code) in enumerate(row):
            style = book.add_format({"num_format": code})
            if isinstance(value, date):
                moment = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - no zone
                sheet.write_datetime(number, column, moment, style)
            elif isinstance(value, str) and value:
                sheet.write_string(number, column, value, style)
            elif value == "":
                sheet.write_blank(number, column, None, style)
            else:
                sheet.write_number(number, column, value, style)
    book.close()


def by_libreoffice(path: Path) -> None:
    """Converts a workbook of openpyxl, so that LibreOffice writes all parts."""
    folder = path.parent / "converted"
    program = tool("soffice")
    source = path.with_name("source.xlsx")
    by_openpyxl(source)
    subprocess.run(
        [
            program,
            f"-env:UserInstallation={(path.parent / 'profile').as_uri()}",
            *("--headless", "--convert-to", "xlsx:Calc MS Excel 2007 XML"),
            *("--outdir", str(folder), str(source)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    path.write_bytes((folder / "source.xlsx").read_bytes())


SHEETJS = """
const XLSX = require("xlsx");
const { headers, rows, path } = JSON.parse(require("fs").readFileSync(0));
const cells = rows.map(row => row.map(([value, code, day]) =>
  value === "" ? null
  : day ? { t: "d", v: new Date(value + "T00:00:00"), z: code }
  : typeof value === "string" ? { t: "s", v: value, z: code }
  : { t: "n", v: value, z: code }));
const sheet = XLSX.utils.aoa_to_sheet([headers, ...cells]);
const book = XLSX.utils.book_new();
XLSX.utils.book_append_sheet(book, sheet, "Loans");
XLSX.writeFile(book, path);
"""
EXCELJS = """
const ExcelJS = require("exceljs");
const { headers, rows, path } = JSON.parse(require("fs").readFileSync(0));
const book = new ExcelJS.Workbook();
const sheet = book.addWorksheet("Loans");
sheet.addRow(headers);
rows.forEach((row, index) => row.forEach(([value, code, day], column) => {
  const cell = sheet.getCell(index + 2, column + 1);
  cell.value = value === "" ? null : day ? new Date(value + "T00:00:00Z") : value;
  cell.numFmt = code;
}));
book.xlsx.writeFile(path);
"""


def _by_node(script: str, package: str, path: Path) -> None:
    document = {
        "path": str(path),
        "headers": HEADERS,
        "rows": [
            [
                [str(value), code, 1] if isinstance(value, date) else [value, code]
                for value, code in row
            ]
            for row in ROWS
        ],
    }
    subprocess.run(
        [tool("node"), "-e", script],
        input=json.dumps(document).encode(),
        env={"NODE_PATH": node_modules(package), "TZ": "Asia/Kolkata"},
        check=True,
        capture_output=True,
        timeout=120,
    )


def by_sheetjs(path: Path) -> None:
    _by_node(SHEETJS, "xlsx", path)


def by_exceljs(path: Path) -> None:
    _by_node(EXCELJS, "exceljs", path)


@pytest.mark.parametrize(
    "write", [by_openpyxl, by_xlsxwriter, by_libreoffice, by_sheetjs, by_exceljs]
)
def test_written_values_are_read_as_the_sheet_shows_them(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "loans.xlsx"
    write(path)
    source = open_source(io.BytesIO(path.read_bytes()), path.name)
    assert (source.kind, source.ignored_columns) == ("LOANS", ())
    (block,) = source.blocks
    assert list(block.row_numbers) == [2, 3, 4, 5, 6]
    for field, expected in EXPECTED.items():
        found = [_day(cell) for cell in block.columns[field]]
        assert found == expected, field
        assert [isinstance(cell, Percent) for cell in found] == [
            isinstance(cell, Percent) for cell in expected
        ], field


def _day(cell: Cell) -> Cell:
    """The date of a JavaScript date, which is some seconds off midnight; other cells unchanged."""
    if isinstance(cell, datetime):
        day, _ = day_of_moment(cell)
        assert day is not None
        return day
    return cell


def _written(rows: list[list[tuple[Cell, int]]]) -> bytes:
    """A sheet of these cells, each with the number of its style; the last of each row has a
    comment."""
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet("Rows")
    factory = workbook_writer.CellFactory(sheet, [{}, {"font": Font(bold=True)}])

    def lines() -> Iterator[workbook_writer.Line]:
        for number, row in enumerate(rows, 1):
            cells = [factory.cell(number, column, *each) for column, each in enumerate(row)]
            if number % 3 == 0 and cells:
                cells[-1].comment = Comment("wrong", "x")
            yield number, cells

    buffer = io.BytesIO()
    workbook.properties.created = workbook.properties.modified = datetime(2024, 1, 1)  # noqa: DTZ001 - of a file
    with workbook_writer.WorkbookSaver(workbook, buffer) as saver:
        saver.write_rows(sheet, lines())
        saver.save()
    return buffer.getvalue()


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.one_of(
                    st.text(max_size=12),
                    st.text(" \t\n<>&\"'=#_x0", max_size=8),
                    st.integers(),
                    st.floats(),
                    st.booleans(),
                    st.dates(),
                    st.datetimes(),
                    st.timedeltas(),
                    st.floats(-10, 200).map(Percent),
                    st.sampled_from([ErrorValue("#N/A"), ErrorValue("#SPILL!"), Formula("=A1")]),
                ),
                st.integers(0, 1),
            ),
            max_size=4,
        ),
        max_size=4,
    )
)
@example([[(" ", 0), (" x", 0), ("", 0), ("", 1), ("]]>", 0)], [], [("<&>", 1)]])
def test_rows_written_as_text_are_the_bytes_of_openpyxl(rows: list[list[tuple[Cell, int]]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        written = _written(rows)
        patched.delattr(workbook_writer._LineWriter, "write_row")
        assert _written(rows) == written


def test_rows_are_the_same_where_the_file_cannot_be_written_to_directly() -> None:
    """openpyxl writes with lxml where that is installed, and then hides its file."""

    class Hidden:
        def __init__(self, xf: Any) -> None:
            self.element, self.write = xf.element, xf.write

    rows: list[list[tuple[Cell, int]]] = [[("<&> ", 0), (1, 1)], [], [(True, 0)]]
    write_row = workbook_writer._LineWriter.write_row
    written = _written(rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            workbook_writer._LineWriter,
            "write_row",
            lambda writer, xf, row, number: write_row(writer, Hidden(xf), row, number),
        )
        assert _written(rows) == written

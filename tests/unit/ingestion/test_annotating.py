"""Annotated workbooks: their content for people, and their rows when read again."""

import io
import random
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import Any
from xml.sax.saxutils import quoteattr

import openpyxl
import pytest
from openpyxl.comments import Comment
from openpyxl.formatting.rule import FormulaRule
from openpyxl.styles import Font, PatternFill
from openpyxl.utils.datetime import CALENDAR_MAC_1904, CALENDAR_WINDOWS_1900
from openpyxl.workbook.defined_name import DefinedName
from openpyxl.worksheet.datavalidation import DataValidation

from credit_service.ingestion import annotated_rows, annotated_workbook, sandbox
from credit_service.ingestion.annotated_workbook import write_annotated
from credit_service.ingestion.annotating import (
    AnnotationError,
    AnnotationOrder,
    Mark,
    annotate,
    write_marks,
)
from credit_service.ingestion.downloads import annotated_filename
from credit_service.ingestion.frames import source_rows
from credit_service.ingestion.validation import validate_block
from credit_service.spreadsheets import workbook_writer, xlsx_package
from credit_service.spreadsheets.cell_values import Cell
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.headers import REASONS_HEADER, SUMMARY_TITLE
from credit_service.spreadsheets.source import open_source, open_table
from credit_service.spreadsheets.table import MAX_COLUMNS, SpreadsheetError
from tests.unit.spreadsheets.workbooks import (
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

ORDER = AnnotationOrder(
    ingestion_id="5f0c5d6e-4f1c-4a52-9a3f-0c5b7a1e2d3f",
    kind="LOANS",
    filename="loans.xlsx",
    state="SUCCEEDED",
    validate_only=False,
    rows_read=3,
    inserted=0,
    updated=0,
    unchanged=0,
    skipped=0,
    rejected=0,
    error_code=None,
    error_message=None,
)
TODAY = date(2026, 1, 31)


def marks_of(content: bytes, name: str, kind: Kind) -> list[Mark]:
    """The errors that the validation finds in a file."""
    marks = []
    for block in open_source(io.BytesIO(content), name, kind).blocks:
        errors = validate_block(kind, source_rows(block), 0, TODAY).errors
        marks += [Mark(*(getattr(error, field) for field in Mark.__slots__)) for error in errors]
    return marks


def annotated(
    content: bytes,
    name: str = "loans.xlsx",
    kind: Kind = "LOANS",
    marks: Sequence[Mark] | None = None,
    **other: Any,
) -> bytes:
    """The annotated workbook of a file, by default with the errors of the validation."""
    found = marks_of(content, name, kind) if marks is None else marks
    rejected = len({mark.row_number for mark in found})
    order = replace(ORDER, **{"filename": name, "kind": kind, "rejected": rejected, **other})
    written, output = io.BytesIO(), io.BytesIO()
    write_marks(written, order, iter(found))
    written.seek(0)
    write_annotated(io.BytesIO(content), written, output)
    return output.getvalue()


def opened(content: bytes) -> Any:
    return openpyxl.load_workbook(io.BytesIO(content))


def cells_of(content: bytes, name: str, kind: Kind) -> list[tuple[int, dict[str, Cell]]]:
    """(row number, cell by field) of every row that the reader finds."""
    found = []
    for block in open_source(io.BytesIO(content), name, kind).blocks:
        for index, number in enumerate(block.row_numbers):
            found.append((number, {name: of[index] for name, of in block.columns.items()}))
    return found


WRONG_LOAN = (7, 1002, 100_000, 481, 12.345, 8_884.88, 3, date(2024, 1, 31), date(2025, 1, 31))


def test_the_workbook_shows_each_error_at_its_cell() -> None:
    content = loans_workbook(A_LOAN, WRONG_LOAN, (), (*A_LOAN[:2], None, *A_LOAN[3:]))
    book = opened(annotated(content))
    assert book.sheetnames == [SUMMARY_TITLE, "S1"]
    sheet = book["S1"]
    assert [cell.value for cell in sheet[1]] == [*LOAN_HEADERS, REASONS_HEADER]
    assert [cell.value for cell in sheet[2]][:7] == list(A_LOAN[:7])
    assert sheet["H2"].value == datetime(2024, 1, 31)  # noqa: DTZ001 - cells have no zone
    filled = {
        cell.coordinate
        for row in sheet.iter_rows()
        for cell in row
        if cell.fill.fgColor.rgb == "FFFFB3B3"
    }
    assert filled == {"D3", "E3", "C5"}
    noted = {cell.coordinate: cell.comment.text for row in sheet for cell in row if cell.comment}
    assert set(noted) == filled
    assert noted["D3"] == "OUT_OF_RANGE\nFound: 481\nExpected: a whole number from 1 to 480"
    reasons = {number: sheet[f"J{number}"].value for number in range(2, 6)}
    assert reasons[2] is reasons[4] is None
    assert "Tenure (OUT_OF_RANGE): found '481', expected a whole number" in reasons[3]
    assert "Interest Rate (TOO_PRECISE): found '12.345'" in reasons[3]
    assert "Loan Amount (MISSING): expected rupees" in reasons[5]
    assert sheet.auto_filter.ref == "A1:J5"
    assert sheet.freeze_panes == "A2"


def test_the_summary_has_counts_errors_and_the_next_step() -> None:
    content = loans_workbook(*[WRONG_LOAN] * 3, (*A_LOAN[:3], 0, *A_LOAN[4:]))
    book = opened(annotated(content, rows_read=4, validate_only=True))
    sheet = book.worksheets[0]
    values = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert values[0][0] == SUMMARY_TITLE
    assert values[1][0] == "4 of 4 rows were rejected. They are marked in the sheet 'S1'."
    facts = {row[0]: row[1] for row in values}
    assert facts["File"] == "loans.xlsx"
    assert facts["State"] == "SUCCEEDED (dry run: nothing was stored)"
    assert facts["Rejected"] == 4
    errors = [row for row in values if isinstance(row[2], int)]
    assert [row[:4] for row in errors] == [
        ["Tenure", "OUT_OF_RANGE", 4, "D2"],
        ["Interest Rate", "TOO_PRECISE", 3, "E2"],
    ]
    links = {cell.hyperlink.location for row in sheet for cell in row if cell.hyperlink}
    assert links == {"'S1'!D2", "'S1'!E2"}
    assert any("Send it again as it is" in str(row[0]) for row in values)


def test_without_rejected_rows_all_rows_are_unchanged() -> None:
    book = opened(annotated(loans_workbook(A_LOAN)))
    assert book.worksheets[0]["A2"].value == "No row was rejected."
    assert [cell.value for cell in book["S1"][1]] == list(LOAN_HEADERS)


VALUES: list[Cell] = [
    0.30000000000000004,
    1e300,
    123_456_789_012_345.67,
    -0.01,
    5.0,
    True,
    "=cmd|' /C calc'!A0",
    "+91 98765 98765",
    "-5",
    "@SUM(A1)",
    "\ttab",
    "\rreturn",
    "'quoted",
    " blanks ",
    "two\r\nlines",
    "\x01\x0b",
    "_x0041_ _x000D_",
    "<&>\"'",
    "नमस्ते 😀",
    "#N/A is text here",
    "2024-01-31",
    "00912345",
    date(1900, 1, 1),
    date(1900, 2, 28),
    date(1900, 3, 1),
    date(2024, 2, 29),
    date(9999, 12, 31),
    datetime(2024, 1, 31, 23, 59, 59),  # noqa: DTZ001 - cells have no zone
    time(10, 30),
    timedelta(hours=31),
]


def test_every_value_is_returned_equal() -> None:
    """In a known column and in an unknown one."""
    headers = (*CUSTOMER_HEADERS[:-1], "Remarks")
    texts = [value for value in VALUES if isinstance(value, str)]
    # Only the start of a file must look like text.
    content = csv_of(headers) + b"\r\n" * 5_000
    for number, text in enumerate(texts):
        quoted = '"' + text.replace('"', '""') + '"'
        content += f"{number},{quoted},Rao,30,,1,{quoted}\r\n".encode()
    once = annotated(content, "c.csv", "CUSTOMERS", marks=[])
    assert [cells["first_name"] for _, cells in cells_of(once, "c.xlsx", "CUSTOMERS")] == texts
    table = open_table(io.BytesIO(once), "c.xlsx", "CUSTOMERS")
    assert [row[6] for _, row in table.rows if row[0]] == texts


def test_numbers_dates_and_times_keep_their_value_and_type() -> None:
    values = [value for value in VALUES if not isinstance(value, str)]
    output = io.BytesIO()
    workbook_writer.write_table(output, [1, values[0]], [[1, value] for value in values[1:]])
    table = open_table(io.BytesIO(output.getvalue()), "x.xlsx", "LOANS")
    found = [table.header[1], *(row[1] for _, row in table.rows)]
    assert found == values
    assert [type(cell) for cell in found] == [type(value) for value in values]


def test_text_like_a_formula_is_marked_as_text() -> None:
    content = csv_of(CUSTOMER_HEADERS, (1, "=1+1", "-x", 30, "+91 98765 98765", 1, ""))
    sheet = opened(annotated(content, "c.csv", "CUSTOMERS", marks=[]))["Rows"]
    for place in ("B2", "C2", "E2"):
        assert sheet[place].data_type == "s"
        assert sheet[place].quotePrefix
    assert not sheet["A2"].quotePrefix


def test_a_formula_is_returned_as_text_and_rejected_again() -> None:
    formula = Xml('<c r="{r}"><f>A1&amp;B1</f><v>x</v></c>')
    customer = (7, formula, "Rao", formula, 9_876_598_765, 50_000, formula)
    content = customers_workbook(customer)
    assert {mark.code for mark in marks_of(content, "c.xlsx", "CUSTOMERS")} == {"FORMULA"}
    back = annotated(content, "c.xlsx", "CUSTOMERS")
    sheet = opened(back)["S1"]
    assert sheet["D2"].value == "=A1&B1"
    assert sheet["D2"].data_type == "s"
    again = {mark.column: mark.code for mark in marks_of(back, "c.xlsx", "CUSTOMERS")}
    assert again == {
        "first_name": "MISSING",
        "age": "NOT_A_NUMBER",
        "approved_limit": "NOT_A_NUMBER",
    }


def test_uncorrected_rows_are_rejected_and_annotated_again() -> None:
    """A returned row with any error is rejected again if sent unchanged."""
    error = Xml('<c r="{r}" t="e"><v>#REF!</v></c>')
    odd_error = Xml('<c r="{r}" t="e"><v>#SPILL!</v></c>')
    bad: list[tuple[object, ...]] = [
        WRONG_LOAN,
        (*A_LOAN[:2], "text", *A_LOAN[3:]),
        (*A_LOAN[:3], 12.5, *A_LOAN[4:]),
        (*A_LOAN[:4], error, *A_LOAN[5:]),
        (*A_LOAN[:8], odd_error),
        (*A_LOAN[:7], date(2027, 1, 1), None),
        (*A_LOAN[:8], date(2025, 1, 30)),
        (*A_LOAN[:7], True, None),
        (None, *A_LOAN[1:]),
    ]
    content = loans_workbook(A_LOAN, *bad)
    once = annotated(content)
    rows = set(range(3, 3 + len(bad)))
    assert {mark.row_number for mark in marks_of(once, "loans.xlsx", "LOANS")} == rows
    assert opened(once)["S1"]["I7"].value == "#VALUE!"
    twice = annotated(once)
    assert opened(twice).sheetnames == [SUMMARY_TITLE, "S1"]
    assert [cell.value for cell in opened(twice)["S1"][1]] == [*LOAN_HEADERS, REASONS_HEADER]
    assert cells_of(twice, "x.xlsx", "LOANS") == cells_of(once, "x.xlsx", "LOANS")


def test_a_corrected_row_has_no_reasons() -> None:
    book = opened(annotated(loans_workbook(WRONG_LOAN, WRONG_LOAN)))
    for place, value in (("D2", 12), ("E2", 12.5)):
        book["S1"][place] = value
    buffer = io.BytesIO()
    book.save(buffer)
    sheet = opened(annotated(buffer.getvalue()))["S1"]
    assert [sheet[f"J{number}"].value is None for number in (1, 2, 3)] == [False, True, False]
    assert sheet["D2"].fill.fgColor.rgb != sheet["D3"].fill.fgColor.rgb


def test_a_line_with_too_many_values_is_never_read_as_another_row() -> None:
    """Otherwise 50,000 with a separator would become an income of 50 and a limit of 0."""
    content = csv_of(
        ("Notes", *CUSTOMER_HEADERS),
        ("", 1, "Asha", "Rao", 30, "9876598765", "50,000"),
        ("", 2, "Asha", "Rao", 30, "9876598766", "50,000", 1_800_000),
    )
    marks = marks_of(content, "c.csv", "CUSTOMERS")
    assert {(mark.row_number, mark.code) for mark in marks} == {(3, "ROW_TOO_LONG")}
    back = annotated(content, "c.csv", "CUSTOMERS")
    sheet = opened(back)["Rows"]
    assert sheet["B3"].value == ",2,Asha,Rao,30,9876598766,50,000,1800000"
    assert "ROW_TOO_LONG" in sheet["B3"].comment.text
    again = marks_of(back, "c.xlsx", "CUSTOMERS")
    assert {mark.row_number for mark in again} == {3}


def test_rows_keep_their_numbers_and_columns_whatever_lies_between() -> None:
    sheet = {
        3: (None, None, *LOAN_HEADERS, "Remarks"),
        7: (None, None, *WRONG_LOAN, "see", "beyond the header"),
        9: (None, "left of the table"),
        1_048_576: (None, None, *WRONG_LOAN),
    }
    back = annotated(workbook(sheet_xml(sheet)))
    assert [number for number, _ in cells_of(back, "x.xlsx", "LOANS")] == [7, 1_048_576]
    table = open_table(io.BytesIO(back), "x.xlsx", "LOANS")
    assert table.header_row == 3
    rows = dict(table.rows)
    assert rows[7][11] == "see"
    assert str(rows[7][12]).startswith("Tenure (OUT_OF_RANGE)")
    assert rows[7][13] == "beyond the header"
    assert rows[9][1] == "left of the table"


def test_lines_of_csv_keep_their_numbers() -> None:
    content = (
        b"Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary\r\n"
        b'1,"As\r\nha",Rao,30,9876598765,5\r\n\r\n2,B,Rao,7,9876598766,5\r\n'
    )
    marks = marks_of(content, "c.csv", "CUSTOMERS")
    assert [mark.row_number for mark in marks] == [2, 5]
    sheet = opened(annotated(content, "c.csv", "CUSTOMERS"))["Rows"]
    assert sheet["D5"].value == "7"
    assert sheet["D5"].comment is not None


def test_a_rejected_header_has_its_mark() -> None:
    content = csv_of(("Customer ID", "Amount"), (1, 2))
    with pytest.raises(SpreadsheetError) as caught:
        open_source(io.BytesIO(content), "l.csv", "LOANS")
    back = annotated(
        content,
        "l.csv",
        marks=[],
        state="FAILED",
        rows_read=0,
        error_code=caught.value.code,
        error_message=caught.value.message,
    )
    book = opened(back)
    assert "needs the columns 'Loan ID'" in book.worksheets[0]["A2"].value
    sheet = book["Rows"]
    assert sheet["A1"].fill.fgColor.rgb == sheet["B1"].fill.fgColor.rgb == "FFFFB3B3"
    assert "'Loan ID'" in sheet["A1"].comment.text
    assert [cell.value for cell in sheet[2]] == ["1", "2"]


def test_a_summary_sheet_is_detected_by_its_first_row() -> None:
    header = (SUMMARY_TITLE, *LOAN_HEADERS)
    content = workbook(sheet_xml([header, ("x", *A_LOAN)]))
    assert cells_of(content, "x.xlsx", "LOANS")[0][1]["loan_id"] == 1001.0
    # The sheet has no rows, so the error is that of an empty file.
    alone = workbook(sheet_xml([(SUMMARY_TITLE,), LOAN_HEADERS, A_LOAN]))
    with pytest.raises(SpreadsheetError) as caught:
        open_source(io.BytesIO(alone), "x.xlsx", "LOANS")
    assert caught.value.code == "FILE_EMPTY"
    both = workbook(sheet_xml([(SUMMARY_TITLE,)]), sheet_xml([("Loan ID", "x"), (1, 2)]))
    with pytest.raises(SpreadsheetError) as caught:
        open_source(io.BytesIO(both), "x.xlsx", "LOANS")
    assert "'Loan ID', 'x'" in caught.value.message


def test_values_that_a_sheet_cannot_contain_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    more = (f"C{number}" for number in range(MAX_COLUMNS - len(LOAN_HEADERS)))
    wide = csv_of((*LOAN_HEADERS, *more), A_LOAN)
    with pytest.raises(AnnotationError) as caught:
        annotated(wide, "l.csv", marks=[])
    assert caught.value.code == "TOO_LARGE_FOR_A_SHEET"
    monkeypatch.setattr(annotated_rows, "MAX_ROWS", 2)
    with pytest.raises(AnnotationError) as caught:
        annotated(csv_of(LOAN_HEADERS, A_LOAN, A_LOAN), "l.csv", marks=[])
    assert caught.value.code == "TOO_LARGE_FOR_A_SHEET"


def test_a_long_text_is_truncated_to_the_limit_of_a_cell() -> None:
    content = csv_of((*LOAN_HEADERS, "Notes"), (*A_LOAN, "x" * 100_000))
    sheet = opened(annotated(content, "l.csv", marks=[]))["Rows"]
    assert len(sheet["J2"].value) == 32_767


def test_notes_have_a_limit_and_reasons_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotated_rows, "MAX_NOTES", 3)
    sheet = opened(annotated(loans_workbook(*[WRONG_LOAN] * 5)))["S1"]
    assert sum(cell.comment is not None for row in sheet for cell in row) == 3
    assert all(sheet[f"J{number}"].value for number in range(2, 7))


def test_many_notes_are_read_by_others() -> None:
    sheet = opened(annotated(loans_workbook(*[WRONG_LOAN] * 1_500)))["S1"]
    assert sheet["E1501"].comment.text.startswith("TOO_PRECISE")


def test_errors_not_stored_and_rows_not_reached_are_reported() -> None:
    back = annotated(
        loans_workbook(WRONG_LOAN, A_LOAN, A_LOAN), rejected=7, rows_read=9, state="CANCELLED"
    )
    texts = [str(row[0].value) for row in opened(back).worksheets[0].iter_rows()]
    assert "1 of the rejected rows are marked; the other reasons are not stored." in texts
    assert "The rows after the first 9 were not read." in texts


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("loans.xlsx", "loans-annotated.xlsx"),
        ("loans.CSV", "loans-annotated.xlsx"),
        ("loans-annotated.xlsx", "loans-annotated.xlsx"),
        ("loans", "loans-annotated.xlsx"),
        ("my.loans", "my.loans-annotated.xlsx"),
        ("x" * 255, "x" * 240 + "-annotated.xlsx"),
        ("loans-rejected.xlsx", "loans-rejected-annotated.xlsx"),
    ],
)
def test_the_file_name_describes_the_content(given: str, made: str) -> None:
    assert annotated_filename(given) == made


@pytest.mark.parametrize("given", ["loans.csv", "loans-rejected.xlsx", "loans-annotated.xlsx"])
def test_the_name_of_the_rejected_rows_differs(given: str) -> None:
    assert annotated_filename(given, rejected_only=True) == "loans-rejected.xlsx"


@pytest.mark.parametrize(
    "name", ["", "[a]:*?/\\b", "Ingestion Summary", "'", "x" * 40, "History", "a'b<&>"]
)
def test_any_sheet_name_is_converted_to_a_valid_one(name: str) -> None:
    content = loans_workbook(WRONG_LOAN)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part = archive.read("xl/workbook.xml").decode()
    named = part.replace('name="S1"', f"name={quoteattr(name)}")
    back = opened(
        annotated(workbook(sheet_xml([LOAN_HEADERS, WRONG_LOAN]), extra={"xl/workbook.xml": named}))
    )
    cleaned = back.sheetnames[1]
    assert 1 <= len(cleaned) <= 31
    assert cleaned.casefold() != SUMMARY_TITLE.casefold()
    assert not set(cleaned) & set("[]:*?/\\")
    link = next(cell.hyperlink for row in back.worksheets[0] for cell in row if cell.hyperlink)
    assert link.location == "'" + cleaned.replace("'", "''") + "'!D2"


def in_a_process(
    content: bytes,
    order: AnnotationOrder,
    raise_if_cancelled: Any = lambda: None,
    marks: Sequence[Mark] = (),
) -> bytes:
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as written,
        tempfile.TemporaryFile() as output,
    ):
        source.write(content)
        source.flush()
        write_marks(written, order, iter(marks))
        annotate(source, written, output, raise_if_cancelled)
        output.seek(0)
        return output.read()


@pytest.mark.slow
def test_a_separate_process_returns_the_same() -> None:
    content = loans_workbook(A_LOAN)
    assert opened(in_a_process(content, ORDER)).sheetnames == [SUMMARY_TITLE, "S1"]
    with pytest.raises(AnnotationError) as caught:
        in_a_process(content[:-40], ORDER)
    assert caught.value.code == "FILE_UNREADABLE"


def test_the_process_does_not_take_the_core_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    start, entered, started = subprocess.Popen, [False], []

    @contextmanager
    def unbound() -> Iterator[None]:
        entered[0] = True
        yield
        entered[0] = False

    def popen(*arguments: Any, **options: Any) -> Any:
        started.append(entered[0])
        return start(*arguments, **options)

    monkeypatch.setattr("credit_service.processes.cores.unbound", unbound)
    monkeypatch.setattr("credit_service.ingestion.annotating.subprocess.Popen", popen)
    in_a_process(loans_workbook(A_LOAN), ORDER)
    assert started == [True]


def test_a_cancelled_annotation_ends_at_once() -> None:
    def raise_if_cancelled() -> None:
        raise InterruptedError

    rows = b"".join(b"%d,1,1,1,1,1,1,2024-01-31,\r\n" % number for number in range(200_000))
    with pytest.raises(InterruptedError):
        in_a_process(
            csv_of(LOAN_HEADERS) + rows, replace(ORDER, filename="l.csv"), raise_if_cancelled
        )


@pytest.mark.parametrize(
    ("greed", "limits"),
    [
        ("bytearray(2 * 1024**3)", {"memory_bytes": 1024**3, "cpu_seconds": 60}),
        ("while True: pass", {"memory_bytes": 1024**3, "cpu_seconds": 1}),
        (
            "import sys; sys.stdout.buffer.write(bytes(99)); sys.stdout.flush()",
            {"memory_bytes": 1024**3, "cpu_seconds": 60, "file_bytes": 9},
        ),
    ],
    ids=["memory", "time", "disk"],
)
def test_a_process_that_opens_files_has_resource_limits(greed: str, limits: dict[str, int]) -> None:
    program = (
        "from credit_service.ingestion import sandbox\n"
        f"sandbox.limit_resources(**{limits})\n{greed}"
    )
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            env=sandbox.environment(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    errors = done.stderr.decode()
    assert done.returncode == -signal.SIGXCPU or "MemoryError" in errors or "[Errno 27]" in errors


def test_the_exit_of_a_reader_distinguishes_a_greedy_file_from_a_defect() -> None:
    # A C library ends a process that cannot send itself SIGABRT with SIGTRAP or 127.
    for status in (-signal.SIGXCPU, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGTRAP, 127):
        ended = sandbox.ended_early(status)
        assert isinstance(ended, SpreadsheetError)
        assert ended.code == "FILE_UNSAFE"
    for status in (0, 1, -signal.SIGKILL):
        assert isinstance(sandbox.ended_early(status), RuntimeError)


def test_a_sandboxed_process_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@127.0.0.1/x")
    assert "DATABASE_URL" not in sandbox.environment()


def test_random_bytes_in_a_workbook_are_annotated_or_rejected() -> None:
    content = loans_workbook(A_LOAN, WRONG_LOAN)
    chance = random.Random(7)  # noqa: S311 - a test's choice
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            back = annotated(bytes(damaged), marks=[])
        except (SpreadsheetError, AnnotationError):
            continue
        opened(back)


STYLES_WITH_PERCENT = (
    '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><cellXfs>'
    '<xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="10"/></cellXfs></styleSheet>'
)


def test_a_percentage_is_returned_as_a_percentage_with_the_same_value() -> None:
    """Also in a column without percentages, where a plain number could be a valid cell."""
    shown = Xml('<c r="{r}" s="2"><v>0.12</v></c>')
    half = Xml('<c r="{r}" s="2"><v>0.105</v></c>')
    rows = (
        LOAN_HEADERS,
        (*A_LOAN[:4], half, *A_LOAN[5:]),
        (7, 1002, *A_LOAN[2:4], shown, *A_LOAN[5:]),
        (7, 1003, A_LOAN[2], shown, *A_LOAN[4:]),
    )
    content = workbook(sheet_xml(rows), extra={"xl/styles.xml": STYLES_WITH_PERCENT})
    once = annotated(content)
    assert [opened(once)["S1"][cell].number_format for cell in ("E2", "E3", "D4")] == [
        "0.00%",
        "0%",
        "0%",
    ]
    assert cells_of(once, "l.xlsx", "LOANS") == cells_of(content, "l.xlsx", "LOANS")
    for each in (content, once):
        (mark,) = marks_of(each, "l.xlsx", "LOANS")
        assert (mark.row_number, mark.column, mark.code) == (4, "tenure_months", "PERCENTAGE")
        assert mark.found == "12%"


def test_titles_above_the_header_keep_their_places() -> None:
    content = workbook(
        sheet_xml({1: ("Sunrise Finance",), 2: ("As of", date(2024, 3, 31)), 4: LOAN_HEADERS})
    )
    sheet = opened(annotated(content))["S1"]
    assert [sheet[cell].value for cell in ("A1", "A2", "A3", "A4")] == [
        "Sunrise Finance",
        "As of",
        None,
        "Customer ID",
    ]
    rows = {1: ("Sunrise Finance",), 4: LOAN_HEADERS, 5: A_LOAN, 6: WRONG_LOAN}
    once = annotated(workbook(sheet_xml(rows)))
    assert {mark.row_number for mark in marks_of(once, "l.xlsx", "LOANS")} == {6}
    assert cells_of(annotated(once), "x.xlsx", "LOANS") == cells_of(once, "x.xlsx", "LOANS")
    titled = b"Sunrise Finance\r\n\r\n" + csv_of(LOAN_HEADERS, A_LOAN, WRONG_LOAN)
    sheet = opened(annotated(titled, "loans.csv"))["Rows"]
    assert [sheet[cell].value for cell in ("A1", "A3")] == ["Sunrise Finance", "Customer ID"]


def test_the_summary_names_columns_and_sheets_that_were_not_read() -> None:
    content = annotated(
        loans_workbook(A_LOAN), ignored_columns=["Branch", "Notes"], unread_sheets=["2023"]
    )
    facts = {row[0].value: row[1].value for row in opened(content)[SUMMARY_TITLE].iter_rows()}
    assert (facts["Columns ignored"], facts["Sheets not read"]) == ("Branch, Notes", "2023")


# --- The original ---------------------------------------------------------------------------------

HEADER_FONT = Font(name="Georgia", italic=True)
RUPEES = '"₹" #,##0.00'


def original(
    *rows: Sequence[Any], change: Callable[[Any], None] = lambda _: None, epoch: Any = None
) -> bytes:
    """A workbook by openpyxl with formats and another sheet, as people send."""
    book = openpyxl.Workbook()
    if epoch is not None:
        book.epoch = epoch
    sheet = book.active
    sheet.title = "Our loans"
    sheet.append(LOAN_HEADERS)
    for row in rows:
        sheet.append(row)
    for cell in sheet[1]:
        cell.font = HEADER_FONT
    for cells in sheet.iter_rows(min_row=2):
        cells[2].number_format = RUPEES
        cells[7].number_format = "dd-mmm-yyyy"
    sheet.column_dimensions["C"].width = 33
    other = book.create_sheet("Branches")
    other["B2"] = "=HYPERLINK(1)"
    other["B3"].value = "@SUM(A1)"
    # openpyxl alone would round it.
    other["B4"]._value = "0.30000000000000004"
    other["B5"].fill = PatternFill("solid", fgColor="FF00FF00")
    change(book)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def no_formula_in(content: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheets = [archive.read(name) for name in archive.namelist() if "worksheets/sheet" in name]
    return not any(b"<f>" in sheet or b"<f " in sheet for sheet in sheets)


def test_a_small_workbook_keeps_its_formats_and_other_sheets() -> None:
    content = original(A_LOAN, WRONG_LOAN)
    back = annotated(content)
    book = opened(back)
    assert book.sheetnames == [SUMMARY_TITLE, "Our loans", "Branches"]
    sheet = book["Our loans"]
    assert sheet["A1"].font.name == "Georgia"
    assert sheet["C2"].number_format == RUPEES
    assert (sheet["H2"].number_format, sheet["H2"].value) == (
        "dd-mmm-yyyy",
        datetime(2024, 1, 31),  # noqa: DTZ001 - cells have no zone
    )
    assert sheet.column_dimensions["C"].width == 33
    assert sheet["D3"].fill.fgColor.rgb == "FFFFB3B3"
    assert sheet["D3"].comment.text.startswith("OUT_OF_RANGE")
    assert "Tenure (OUT_OF_RANGE)" in sheet["J3"].value
    assert sheet["J1"].value == REASONS_HEADER
    assert book["Branches"]["B5"].fill.fgColor.rgb == "FF00FF00"
    assert cells_of(back, "l.xlsx", "LOANS") == cells_of(content, "l.xlsx", "LOANS")
    assert {mark.row_number for mark in marks_of(back, "l.xlsx", "LOANS")} == {3}
    again = opened(annotated(back))
    assert again.sheetnames == [SUMMARY_TITLE, "Our loans", "Branches"]
    assert [cell.value for cell in again["Our loans"][1]] == [*LOAN_HEADERS, REASONS_HEADER]


def test_no_returned_sheet_of_an_original_has_a_formula() -> None:
    def change(book: Any) -> None:
        sheet = book["Our loans"]
        sheet["D2"] = "=6*2"
        sheet.conditional_formatting.add("A1:A9", FormulaRule(formula=["A1>1"]))
        rule = DataValidation(type="custom", formula1="=WEBSERVICE(1)")
        sheet.add_data_validation(rule)
        rule.add("A2")
        book.defined_names["x"] = DefinedName("x", attr_text="'Our loans'!$A$1")

    content = original(A_LOAN, change=change)
    back = annotated(content)
    assert no_formula_in(back)
    assert not no_formula_in(content)
    book = opened(back)
    sheet = book["Our loans"]
    assert (sheet["D2"].value, sheet["D2"].data_type, sheet["D2"].quotePrefix) == (
        "=6*2",
        "s",
        True,
    )
    assert not sheet.conditional_formatting
    assert not sheet.data_validations.dataValidation
    assert not book.defined_names
    assert book["Branches"]["B3"].quotePrefix
    assert {mark.code for mark in marks_of(back, "l.xlsx", "LOANS")} == {"NOT_A_NUMBER"}


def test_every_value_of_an_original_means_the_same_if_sent_again() -> None:
    moments = [*A_LOAN[:7], datetime(2024, 1, 30, 23, 59, 50), None]  # noqa: DTZ001 - no zone
    texts = ("7", "1001", "₹ 1,00,000", "12", "12 %", "8,884.88", "3", "2024-01-31", "")
    rows = [
        A_LOAN,
        moments,
        texts,
        (*A_LOAN[:2], 0.1 + 0.2, -0.01, 0.12, 123_456_789_012_345.67, 1e300, "x", True),
        (None, " ", "\tx", "_x0041_", "-5", "+1", "@x", time(10, 30), timedelta(hours=31)),
    ]

    def change(book: Any) -> None:
        book["Our loans"]["E5"].number_format = "0.0%"

    for epoch in (CALENDAR_WINDOWS_1900, CALENDAR_MAC_1904):
        content = original(*rows, change=change, epoch=epoch)
        back = annotated(content)
        assert opened(back).sheetnames[1:] == ["Our loans", "Branches"]
        assert cells_of(back, "l.xlsx", "LOANS") == cells_of(content, "l.xlsx", "LOANS")
        with zipfile.ZipFile(io.BytesIO(back)) as archive:
            assert b"0.30000000000000004" in archive.read("xl/worksheets/sheet3.xml")


def test_an_original_shows_each_rejected_row() -> None:
    """Features that hide rows or cells, or make them hard to correct."""

    def change(book: Any) -> None:
        sheet = book["Our loans"]
        sheet.row_dimensions[3].hidden = True
        sheet.auto_filter.ref = "A1:B3"
        sheet.merge_cells("A2:B2")
        sheet.protection.enable()
        sheet["D3"].comment = Comment("mine", "a person")
        sheet["A3"].comment = Comment("mine", "a person")

    sheet = opened(annotated(original(A_LOAN, WRONG_LOAN, change=change)))["Our loans"]
    assert not sheet.row_dimensions[3].hidden
    assert not sheet.protection.sheet
    assert not sheet.merged_cells.ranges
    assert sheet.auto_filter.ref == "A1:J3"
    assert sheet["A3"].comment.text == "mine"
    assert sheet["D3"].comment.text.startswith("OUT_OF_RANGE")


REPLACED = "The original workbook could not be edited. This is a new workbook with the same rows."


def summary_of(content: bytes) -> list[str]:
    """The first column of the summary."""
    return [str(row[0].value) for row in opened(content).worksheets[0].iter_rows()]


def test_the_summary_states_that_openpyxl_could_not_load_the_original(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = original(A_LOAN, WRONG_LOAN)
    edited = annotated(content)
    assert opened(edited).sheetnames == [SUMMARY_TITLE, "Our loans", "Branches"]
    assert REPLACED not in summary_of(edited)

    def load_nothing(*_arguments: Any, **_options: Any) -> Any:
        raise KeyError("xl/theme/theme1.xml")

    with monkeypatch.context() as patch:
        patch.setattr(openpyxl, "load_workbook", load_nothing)
        replaced = annotated(content)
    assert opened(replaced).sheetnames == [SUMMARY_TITLE, "Our loans"]
    assert REPLACED in summary_of(replaced)
    assert {mark.row_number for mark in marks_of(replaced, "l.xlsx", "LOANS")} == {3}
    # Without an original workbook (CSV, rejected rows only) the summary does not say so.
    assert REPLACED not in summary_of(annotated(csv_of(LOAN_HEADERS, A_LOAN), "l.csv"))
    assert REPLACED not in summary_of(annotated(content, rejected_only=True))


def test_a_large_workbook_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotated_workbook, "MAX_KEPT_CELLS", 9)
    back = annotated(original(A_LOAN, WRONG_LOAN))
    assert opened(back).sheetnames == [SUMMARY_TITLE, "Our loans"]
    assert REPLACED in summary_of(back)
    assert {mark.row_number for mark in marks_of(back, "l.xlsx", "LOANS")} == {3}


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("xl/workbook.xml", b"<workbook ", b"<!DOCTYPE x [<!ENTITY a 'b'>]><workbook "),
        ("xl/theme/theme1.xml", b"<?xml", b"<!DOCTYPE x><?xml"),
        ("xl/styles.xml", b"<styleSheet ", b"<?xml version='1.0' encoding='koi8-r'?><styleSheet "),
        ("docProps/app.xml", b"<", "<".encode("utf-16")),
        (
            "xl/worksheets/sheet1.xml",
            b"</sheetData>",
            b'</sheetData><mergeCells><mergeCell ref="A9:XFD1048576"/></mergeCells>',
        ),
    ],
)
def test_openpyxl_loads_no_dangerous_part(part: str, old: bytes, new: bytes) -> None:
    content = original(A_LOAN)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert xlsx_package.can_be_loaded_whole(io.BytesIO(content), 1_000)
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert not xlsx_package.can_be_loaded_whole(buffer, 1_000)


def test_a_sandboxed_process_returns_the_original() -> None:
    """The modules that openpyxl imports late are loaded."""
    content = original(A_LOAN, WRONG_LOAN)
    order = replace(ORDER, rejected=1)
    marks = marks_of(content, "l.xlsx", "LOANS")
    book = opened(in_a_process(content, order, marks=marks))
    assert book.sheetnames == [SUMMARY_TITLE, "Our loans", "Branches"]
    assert book["Our loans"]["D3"].comment is not None


def test_random_bytes_in_an_original_are_annotated_or_rejected() -> None:
    content = original(A_LOAN, WRONG_LOAN)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    chance = random.Random(7)  # noqa: S311 - a test's choice
    for _ in range(100):
        name = chance.choice(list(parts))
        damaged = bytearray(parts[name])
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for each, data in parts.items():
                archive.writestr(each, bytes(damaged) if each == name else data)
        try:
            back = annotated(buffer.getvalue(), marks=[])
        except (SpreadsheetError, AnnotationError):
            continue
        opened(back)


# --- Rejected rows only ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l.xlsx", "l.csv"])
def test_only_the_rejected_rows_are_returned_below_the_header(name: str) -> None:
    rows = (A_LOAN, WRONG_LOAN, A_LOAN, (*WRONG_LOAN[:1], 1003, *WRONG_LOAN[2:]))
    content = original(*rows) if name == "l.xlsx" else csv_of(LOAN_HEADERS, *rows)
    back = annotated(content, name, rejected_only=True)
    book = opened(back)
    sheet = book.worksheets[1]
    assert [str(row[1].value) for row in sheet.iter_rows()] == ["Loan ID", "1002", "1003"]
    assert sheet["D2"].comment.text.startswith("OUT_OF_RANGE")
    links = {
        cell.hyperlink.location for row in book.worksheets[0] for cell in row if cell.hyperlink
    }
    assert {place.partition("!")[2] for place in links} == {"D2", "E2"}
    again = marks_of(back, "l.xlsx", "LOANS")
    assert [mark.row_number for mark in again] == [2, 2, 3, 3]


def test_the_summary_of_rejected_rows_states_what_the_workbook_omits() -> None:
    content = original(A_LOAN, WRONG_LOAN)
    other: dict[str, Any] = {"rejected": 3, "skipped": 2, "rows_read": 9, "validate_only": True}
    back = annotated(content, rejected_only=True, **other)
    texts = summary_of(back)
    assert texts[1] == "3 of 9 rows were rejected. The sheet 'Our loans' contains only these rows."
    assert "The accepted rows are not stored and not in this workbook." in texts
    assert "1 of the rejected rows are in this workbook; the other reasons are not stored." in texts
    assert not any("kipped rows" in each for each in texts)
    stored = annotated(content, rejected_only=True, **{**other, "validate_only": False})
    assert not any("accepted rows" in each for each in summary_of(stored))

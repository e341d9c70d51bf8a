"""Annotated workbooks: an uploaded file with its errors marked, written in a sandboxed process.

A summary sheet comes first. Cells with an error are filled, the first of them have comments, and a
column at the end lists the reasons of each row. A small workbook comes back as it is, with its
formats and other sheets; a CSV file, a larger workbook, and a workbook that openpyxl cannot load
come back as a new workbook with the rows at their own row numbers, or with the rejected rows alone.

No cell comes back as a formula, and each cell means the same when it is sent again, so that what
was not corrected is rejected again. The values are therefore those of our reader, not openpyxl's.
"""

import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

import openpyxl
from openpyxl.comments import Comment
from openpyxl.formatting.formatting import ConditionalFormattingList
from openpyxl.styles import Font, PatternFill
from openpyxl.styles.numbers import is_date_format
from openpyxl.utils.datetime import CALENDAR_WINDOWS_1900
from openpyxl.worksheet.datavalidation import DataValidationList
from openpyxl.worksheet.hyperlink import Hyperlink

from credit_service.ingestion import sandbox
from credit_service.ingestion.annotated_rows import (
    MAX_SHOWN_CHARS,
    AnnotatedRows,
    CellStyle,
    StyledLine,
    Summary,
    sheet_name,
)
from credit_service.ingestion.annotating import (
    AnnotationError,
    AnnotationOrder,
    Mark,
)
from credit_service.spreadsheets.headers import (
    REASONS_HEADER,
    SUMMARY_TITLE,
    letters,
)
from credit_service.spreadsheets.source import open_table
from credit_service.spreadsheets.table import SpreadsheetError, Table
from credit_service.spreadsheets.workbook_writer import (
    CellFactory,
    Line,
    WorkbookSaver,
    escaped,
    protect_text,
    save,
    set_value,
)
from credit_service.spreadsheets.xlsx_package import can_be_loaded_whole

MEMORY_LIMIT_BYTES = 1024**3
"""Address space of the annotating process."""
CPU_LIMIT_SECONDS = 600
"""CPU time of the annotating process."""
FILE_LIMIT_BYTES = 1024**3
"""Size of the largest workbook that the process may write."""
MAX_KEPT_CELLS = 200_000
"""Cells of the largest workbook that comes back with its formats and other sheets."""
_MOST_FROZEN_ROWS = 20
_SUMMARY_WIDTHS = (26, 26, 14, 14, 26, 80)
_NICENESS = 10
_AUTHOR = "credit-service"

_FILLS = {
    CellStyle.WRONG: "FFFFB3B3",
    CellStyle.WRONG_ROW: "FFFFF2CC",
    CellStyle.SKIPPED: "FFDDEBF7",
}
_FONTS = {
    CellStyle.HEADING: Font(bold=True),
    CellStyle.TITLE: Font(bold=True, size=16),
    CellStyle.LINK: Font(underline="single", color="FF0563C1"),
}


def _attributes(style: CellStyle) -> dict[str, Any]:
    """What openpyxl sets for a style."""
    attributes: dict[str, Any] = {}
    if style in _FILLS:
        attributes["fill"] = PatternFill("solid", fgColor=_FILLS[style])
    if style in _FONTS:
        attributes["font"] = _FONTS[style]
    return attributes


def main(arguments: Sequence[str]) -> None:
    """Annotate the file on standard input; the arguments are the descriptors of marks and
    output."""
    # Calls with a waiting caller come first.
    os.nice(_NICENESS)
    _load_all_of_openpyxl()
    sandbox.enter(
        memory_bytes=MEMORY_LIMIT_BYTES, cpu_seconds=CPU_LIMIT_SECONDS, file_bytes=FILE_LIMIT_BYTES
    )
    marks_number, output_number = map(int, arguments)
    code, message = "", ""
    try:
        with os.fdopen(marks_number, "rb") as marks, os.fdopen(output_number, "w+b") as output:
            write_annotated(sys.stdin.buffer, marks, output)
    except (AnnotationError, SpreadsheetError) as error:
        code, message = error.code, error.message
    except MemoryError:
        code, message = "FILE_UNSAFE", "Reading the file takes too much memory."
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        code, message = "TOO_LARGE_FOR_A_SHEET", "The workbook would be too large."
    sys.stdout.write(json.dumps({"code": code, "message": message[:MAX_SHOWN_CHARS]}))


def _load_all_of_openpyxl() -> None:
    """Load what openpyxl imports on first use; a sandboxed process cannot read modules."""
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.append([1, "x"])
    sheet["A1"].comment = Comment("x", _AUTHOR)
    sheet["A1"].hyperlink = Hyperlink(ref="A1", location="'Sheet'!A1")
    sheet.merge_cells("C1:D1")
    buffer = io.BytesIO()
    save(workbook, buffer)
    openpyxl.load_workbook(buffer, data_only=True, keep_links=False)


def write_annotated(source: BinaryIO, marks: IO[bytes], output: IO[bytes]) -> None:
    """Annotate in this process. Raises AnnotationError, SpreadsheetError."""
    order = AnnotationOrder(**json.loads(marks.readline()))
    first_mark = marks.tell()
    table = open_table(source, order.filename, order.kind)
    if table.sheet_name and not order.rejected_only and can_be_loaded_whole(source, MAX_KEPT_CELLS):
        try:
            # openpyxl warns of parts that it drops, and no caller can change that.
            with warnings.catch_warnings(action="ignore"):
                _write_original(source, order, table, marks, output)
        except Exception as error:  # openpyxl raises anything for odd files
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise
            marks.seek(first_mark)
            output.seek(0)
            output.truncate()
            table = open_table(source, order.filename, order.kind)
        else:
            return
    _write_new(order, table, marks, output)


def _by_row(marks: IO[bytes]) -> Iterator[list[Mark]]:
    """The marks, grouped by row."""
    row: list[Mark] = []
    for line in marks:
        mark = Mark(*json.loads(line))
        if row and row[0].row_number != mark.row_number:
            yield row
            row = []
        row.append(mark)
    if row:
        yield row


# --- A new workbook -------------------------------------------------------------------------------


def _write_new(order: AnnotationOrder, table: Table, marks: IO[bytes], output: IO[bytes]) -> None:
    """Write a workbook of the summary and the rows, by openpyxl in write-only mode."""
    workbook = openpyxl.Workbook(write_only=True)
    summary_sheet = workbook.create_sheet(SUMMARY_TITLE)
    name = sheet_name(table.sheet_name)
    sheet = workbook.create_sheet(name)
    rows = AnnotatedRows(order, table, name)
    sheet.sheet_format.defaultRowHeight = 15
    for index, width in enumerate(rows.widths):
        sheet.column_dimensions[letters(index)].width = width
    header_row = rows.header_row
    if header_row <= _MOST_FROZEN_ROWS:
        sheet.freeze_panes = f"A{header_row + 1}"
    factory = _factory(sheet)

    def lines() -> Iterator[Line]:
        for line in rows.lines(_by_row(marks)):
            cells = [factory.cell(line.number, *styled) for styled in line.cells]
            for cell in cells:
                if note := line.notes.get(cell.column - 1):
                    cell.comment = _comment(note)
            yield line.number, cells
        # openpyxl writes it after the rows.
        sheet.auto_filter.ref = rows.filtered

    with WorkbookSaver(workbook, output) as saver:
        saver.write_rows(sheet, lines())
        # Only a file with sheets is a workbook.
        was_replaced = bool(table.sheet_name) and not order.rejected_only
        summary = Summary(order, rows, original_was_replaced=was_replaced)
        _write_summary(saver, summary_sheet, summary)
        saver.save()


def _factory(sheet: Any) -> CellFactory:
    return CellFactory(sheet, [_attributes(style) for style in CellStyle])


def _comment(text: str) -> Comment:
    return Comment(escaped(text), _AUTHOR, height=120, width=320)


def _write_summary(saver: WorkbookSaver, sheet: Any, summary: Summary) -> None:
    for index, width in enumerate(_SUMMARY_WIDTHS):
        sheet.column_dimensions[letters(index)].width = width
    factory = _factory(sheet)

    def lines() -> Iterator[Line]:
        for number, line in enumerate(summary.rows, 1):
            cells = [factory.cell(number, *styled) for styled in line]
            for cell in cells:
                if place := summary.links.get(cell.coordinate):
                    cell.hyperlink = Hyperlink(ref=cell.coordinate, location=place)
            yield number, cells

    saver.write_rows(sheet, lines())


# --- The original ---------------------------------------------------------------------------------


def _write_original(
    source: BinaryIO, order: AnnotationOrder, table: Table, marks: IO[bytes], output: IO[bytes]
) -> None:
    """Write the workbook itself, with the rejected cells marked and the summary in front.

    Raises anything where openpyxl cannot load or save it, or would lose values of its rows.
    """
    source.seek(0)
    # Formulas of other sheets come back as their last values.
    workbook = openpyxl.load_workbook(source, data_only=True, keep_links=False)
    # set_value counts days from 1900, and the workbook may count from 1904.
    workbook.epoch = CALENDAR_WINDOWS_1900
    for old in [each for each in workbook.worksheets if _is_summary(each)]:
        workbook.remove(old)
    (sheet,) = (each for each in workbook.worksheets if each.title == table.sheet_name)
    for each in workbook.worksheets:
        _make_safe(each)
    workbook.defined_names.clear()
    _remove_annotations(sheet, table.header_row)
    rows = AnnotatedRows(order, table, sheet.title, first_free_column=sheet.max_column)
    for line in rows.lines(_by_row(marks)):
        if line.number >= table.header_row:
            _mark_line(sheet, line)
    if rows.gives_reasons:
        sheet.column_dimensions[letters(rows.reasons)].width = rows.widths[rows.reasons]
        if not sheet.tables:
            sheet.auto_filter.ref = rows.filtered
    if sheet.freeze_panes is None and table.header_row <= _MOST_FROZEN_ROWS:
        sheet.freeze_panes = f"A{table.header_row + 1}"
    summary_sheet = workbook.create_sheet(SUMMARY_TITLE, 0)
    workbook.active = 0
    for each in workbook.worksheets:
        # Input into one selected sheet goes into all selected sheets.
        each.sheet_view.tabSelected = each is summary_sheet
    with WorkbookSaver(workbook, output) as saver:
        _write_summary(saver, summary_sheet, Summary(order, rows))
        saver.save()


def _is_summary(sheet: Any) -> bool:
    return bool(sheet.title == SUMMARY_TITLE and sheet["A1"].value == SUMMARY_TITLE)


def _make_safe(sheet: Any) -> None:
    """Remove every formula of a sheet, and mark text that could pass for one."""
    sheet.defined_names.clear()
    sheet.conditional_formatting = ConditionalFormattingList()
    sheet.data_validations = DataValidationList()
    sheet._pivots.clear()  # noqa: SLF001 - openpyxl has no other list of them
    for table in sheet.tables.values():
        for column in table.tableColumns:
            column.calculatedColumnFormula = column.totalsRowFormula = None
    for row in sheet.iter_rows():
        for cell in row:
            if cell.value is not None:
                protect_text(cell)


def _remove_annotations(sheet: Any, header_row: int) -> None:
    """Remove the marks of an earlier annotation, and whatever hides rows or locks cells."""
    sheet.protection.disable()
    sheet.auto_filter.ref = None
    for merged in [each for each in sheet.merged_cells.ranges if each.max_row >= header_row]:
        sheet.unmerge_cells(str(merged))
    for number, dimension in sheet.row_dimensions.items():
        if number >= header_row:
            dimension.hidden = False
    for row in sheet.iter_rows(min_row=header_row):
        for cell in row:
            if cell.comment is not None and cell.comment.author == _AUTHOR:
                cell.comment = None
            if cell.fill.fgColor.rgb in _FILLS.values():
                cell.fill = PatternFill()


def _mark_line(sheet: Any, line: StyledLine) -> None:
    for column, value, style in line.cells:
        cell = sheet.cell(line.number, column + 1)
        number_format, is_quoted = set_value(cell, value)
        if not _shows(cell.number_format, number_format):
            cell.number_format = number_format
        if is_quoted:
            cell.quotePrefix = True
        for name, attribute in _attributes(style).items():
            # The header keeps its own font.
            if name != "font" or value == REASONS_HEADER:
                setattr(cell, name, attribute)
        if column in line.notes:
            cell.comment = _comment(line.notes[column])


def _shows(original: str, number_format: str) -> bool:
    """Whether the original's number format shows a day or a percentage as this one does."""
    if "%" in number_format:
        return "%" in original
    return not is_date_format(number_format) or is_date_format(original)


if __name__ == "__main__":
    main(sys.argv[1:])

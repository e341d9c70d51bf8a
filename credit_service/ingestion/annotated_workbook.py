"""Annotated workbooks: an uploaded file with its errors marked, written in a sandboxed process.

A summary sheet comes first. Cells with an error are filled, the first of them have comments, and a
column at the end lists the reasons of each row. A small workbook comes back as it is, with its
formats and other sheets; a CSV file, a larger workbook, and a workbook that openpyxl cannot load
come back as a new workbook with the rows at their own row numbers, or with the rejected rows alone.

No cell comes back as a formula, and each cell means the same when it is sent again, so that what
was not corrected is rejected again. The values are therefore those of our reader, not openpyxl's.
"""

import csv
import errno
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
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
from credit_service.ingestion.annotating import (
    HEADER_ERRORS,
    AnnotationError,
    AnnotationOrder,
    Mark,
)
from credit_service.spreadsheets.cell_values import Cell, Formula
from credit_service.spreadsheets.columns import BY_FIELD
from credit_service.spreadsheets.headers import (
    REASONS_HEADER,
    SUMMARY_TITLE,
    headers_of,
    letters,
    normalized,
)
from credit_service.spreadsheets.source import open_table
from credit_service.spreadsheets.table import MAX_COLUMNS, SpreadsheetError, Table
from credit_service.spreadsheets.workbook_writer import (
    MAX_ROWS,
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
MAX_NOTES = 5_000
"""Cells that get a comment; spreadsheet programs are slow with many. Reasons have no such limit."""
MAX_KINDS_OF_ERRORS = 20
"""Kinds of errors that the summary lists, the most frequent first."""

_EXPLAINED_BY_MESSAGE = frozenset(
    {
        "CUSTOMER_UNKNOWN",
        "CUSTOMER_MISMATCH",
        "CUSTOMER_CONTESTED",
        "LOAN_OF_REGISTERED_CUSTOMER",
        "PHONE_TAKEN",
    }
)
_FIELD = re.compile(r"[a-z]+(?:_[a-z]+)+")
_MAX_SHOWN_CHARS = 2_000
_MOST_FROZEN_ROWS = 20
_SUMMARY_WIDTHS = (26, 26, 14, 14, 26, 80)
_NICENESS = 10


_AUTHOR = "credit-service"


class CellStyle(IntEnum):
    """How a cell is shown."""

    PLAIN = 0
    WRONG = 1
    """The cell has an error."""
    WRONG_ROW = 2
    """The row as a whole has an error, or the cell holds the reasons."""
    HEADING = 3
    TITLE = 4
    LINK = 5
    SKIPPED = 6
    """The row was skipped, or the cell holds the reason."""


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

Styled = tuple[int, Cell, CellStyle]
"""Column from 0, content and style of a cell."""


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
    sys.stdout.write(json.dumps({"code": code, "message": message[:_MAX_SHOWN_CHARS]}))


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
    name = _sheet_name(table.sheet_name)
    sheet = workbook.create_sheet(name)
    rows = _Rows(order, table, name)
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
        summary = _Summary(order, rows, original_was_replaced=was_replaced)
        _write_summary(saver, summary_sheet, summary)
        saver.save()


def _factory(sheet: Any) -> CellFactory:
    return CellFactory(sheet, [_attributes(style) for style in CellStyle])


def _comment(text: str) -> Comment:
    return Comment(escaped(text), _AUTHOR, height=120, width=320)


def _write_summary(saver: WorkbookSaver, sheet: Any, summary: "_Summary") -> None:
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
    rows = _Rows(order, table, sheet.title, first_free_column=sheet.max_column)
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
        _write_summary(saver, summary_sheet, _Summary(order, rows))
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


def _mark_line(sheet: Any, line: "_Line") -> None:
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


# --- Rows -----------------------------------------------------------------------------------------


@dataclass
class _ErrorKind:
    """How often a code was found in a column, and where first."""

    first: Mark
    place: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """A row to write: its cells, and the comments at them by column."""

    number: int
    cells: Sequence[Styled]
    notes: Mapping[int, str] = field(default_factory=dict)


class _Rows:
    """The rows of the file and their errors, as they are written.

    The reasons are in the column after the header, and cells from there on move one to the right.
    Where `first_free_column` is given, the reasons are in that column, and no cell moves.
    """

    def __init__(
        self,
        order: AnnotationOrder,
        table: Table,
        sheet_name: str,
        *,
        first_free_column: int | None = None,
    ) -> None:
        self._order = order
        self._table = table
        header = list(table.header)
        while header and header[-1] == "":
            header.pop()
        names = [normalized(cell) for cell in header]
        reasons = normalized(REASONS_HEADER)
        # A workbook that was annotated before has the column; its content is replaced.
        self._had_reasons = reasons in names
        self._moves = not self._had_reasons and first_free_column is None
        if self._had_reasons:
            self.reasons = names.index(reasons)
        else:
            self.reasons = len(header) if first_free_column is None else first_free_column
        self._header = header
        known = BY_FIELD[order.kind]
        self._types = {index: known[name].type for name, index in table.columns.items()}
        self._names = headers_of(header, table.columns)
        self.gives_reasons = order.rejected + order.skipped > 0
        self.kinds: dict[tuple[str, str], _ErrorKind] = {}
        self.marked_rows = 0
        self.marked_skipped_rows = 0
        self.sheet_name = sheet_name
        self.filtered: str | None = None
        self._notes = 0
        # Counts the rows written, which number the rows of a workbook of rejected rows alone.
        self._written = 0
        width = max(len(header), self.reasons + 1)
        if width > MAX_COLUMNS:
            raise _too_large(f"more than {MAX_COLUMNS - 1} columns")
        self.widths = [16.0] * width
        self.widths[self.reasons] = 100.0 if self.gives_reasons else 16.0

    @property
    def header_row(self) -> int:
        """The row number of the header in the written sheet."""
        if self._order.rejected_only:
            return len(self._table.above) + 1
        return self._table.header_row

    def header_of(self, column: str) -> str:
        """The file's header for a field of the contract, on one line and cut as in RowError."""
        return self._names.get(column, column)

    def _in_headers(self, text: str) -> str:
        """The text with the file's headers in place of the contract's fields."""
        return _FIELD.sub(lambda match: self.header_of(match[0]), text)

    def _column_of(self, mark: Mark) -> int:
        """The column of a mark. An error of the whole row is at the row's first known column."""
        columns = self._table.columns
        return columns.get(mark.column, min(columns.values(), default=0))

    def lines(self, marks: Iterator[list[Mark]]) -> Iterator[_Line]:
        """The header and the rows to write, each with its errors."""
        for number, cells in self._table.above:
            yield self._line(number, cells, ())
        yield self._header_line()
        last = self.header_row
        marked = next(marks, None)
        for number, cells in self._table.rows:
            while marked is not None and marked[0].row_number < number:
                marked = next(marks, None)
            wrong: Sequence[Mark] = ()
            if marked is not None and marked[0].row_number == number:
                wrong = marked
            is_rejected = bool(wrong) and wrong[0].outcome != "SKIPPED"
            if self._order.rejected_only and not is_rejected:
                continue
            line = self._line(number, cells, wrong)
            last = line.number
            yield line
        if self.gives_reasons:
            self.filtered = f"A{self.header_row}:{letters(self.reasons)}{last}"

    def _number(self, number: int) -> int:
        """The row number to write a row under."""
        self._written += 1
        number = self._written if self._order.rejected_only else number
        if number > MAX_ROWS:
            raise _too_large(f"more than {MAX_ROWS:,} lines")
        return number

    def _header_line(self) -> _Line:
        order = self._order
        is_rejected = order.error_code in HEADER_ERRORS
        style = CellStyle.WRONG if is_rejected else CellStyle.HEADING
        cells: list[Styled] = [
            (self._moved(index), cell, style)
            for index, cell in enumerate(self._header)
            if index != self.reasons
        ]
        if self.gives_reasons:
            cells.append((self.reasons, REASONS_HEADER, CellStyle.HEADING))
        notes = {}
        if is_rejected and order.error_message:
            text = f"{order.error_code}\n{order.error_message[:_MAX_SHOWN_CHARS]}"
            first = min((index for index, cell in enumerate(self._header) if cell != ""), default=0)
            notes[first] = text
        return _Line(self._number(self._table.header_row), sorted(cells, key=_column), notes)

    def _moved(self, index: int) -> int:
        """The column that a cell is written to: columns after the header move for the reasons."""
        return index + (index >= self.reasons and self._moves and self.gives_reasons)

    def _line(self, number: int, cells: Sequence[Cell], wrong: Sequence[Mark]) -> _Line:
        number = self._number(number)
        cells = self._within_header(cells)
        styles: dict[int, CellStyle] = {}
        is_skipped = bool(wrong) and wrong[0].outcome == "SKIPPED"
        if is_skipped:
            self.marked_skipped_rows += 1
            styles = dict.fromkeys(self._table.columns.values(), CellStyle.SKIPPED)
        elif wrong:
            self.marked_rows += 1
            styles = self._styles(number, wrong)
        styled: dict[int, Styled] = {
            self._moved(index): (
                self._moved(index),
                self._given_back(index, cell),
                CellStyle.PLAIN,
            )
            for index, cell in enumerate(cells)
            if cell != "" and not (self._had_reasons and index == self.reasons)
        }
        for index, style in styles.items():
            _, cell, _ = styled.get(index, (index, "", style))
            styled[index] = (index, cell, style)
        if wrong:
            reasons = " ".join(self._reason(mark) for mark in wrong)
            style = CellStyle.SKIPPED if is_skipped else CellStyle.WRONG_ROW
            styled[self.reasons] = (self.reasons, reasons, style)
        elif self._had_reasons:
            styled[self.reasons] = (self.reasons, "", CellStyle.PLAIN)
        if styled and max(styled) >= MAX_COLUMNS:
            raise _too_large(f"more than {MAX_COLUMNS - 1} columns")
        notes = {} if is_skipped else self._notes_of(wrong)
        return _Line(number, sorted(styled.values(), key=_column), notes)

    def _within_header(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The cells of a row. A line of CSV with more values than the header comes back whole in
        one cell: value by value, it could pass for another, valid row when it is sent again."""
        if self._table.sheet_name or len(cells) <= len(self._header):
            return cells
        texts = [str(cell) for cell in cells]
        if not any(text.strip() for text in texts[len(self._header) :]):
            return cells[: len(self._header)]
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(texts)
        first = min(self._table.columns.values(), default=0)
        return [*[""] * first, line.getvalue()]

    def _given_back(self, index: int, cell: Cell) -> Cell:
        """A formula as text. In a column of names, where any text is valid, the cell is left empty
        and the comment shows the formula."""
        if isinstance(cell, Formula):
            return "" if self._types.get(index) == "NAME" else str(cell)
        return cell

    def _styles(self, number: int, wrong: Sequence[Mark]) -> dict[int, CellStyle]:
        styles: dict[int, CellStyle] = {}
        for mark in wrong:
            place = f"{letters(self._column_of(mark))}{number}"
            self.kinds.setdefault((mark.column, mark.code), _ErrorKind(mark, place)).count += 1
            if not mark.column:
                known = self._table.columns.values()
                styles = dict.fromkeys(known, CellStyle.WRONG_ROW) | styles
        return styles | dict.fromkeys(map(self._column_of, wrong), CellStyle.WRONG)

    def _notes_of(self, wrong: Sequence[Mark]) -> dict[int, str]:
        notes: dict[int, str] = {}
        for column in dict.fromkeys(map(self._column_of, wrong)):
            if self._notes < MAX_NOTES:
                self._notes += 1
                marks = [mark for mark in wrong if self._column_of(mark) == column]
                notes[column] = "\n\n".join(map(_note, marks))
        return notes

    def _reason(self, mark: Mark) -> str:
        if mark.outcome == "SKIPPED":
            return f"SKIPPED: {self._in_headers(mark.message)}"
        if not mark.column or mark.code in _EXPLAINED_BY_MESSAGE:
            return f"{mark.code}: {self._in_headers(mark.message)}"
        found = f"found {mark.found!r}, " if mark.found else ""
        return f"{self.header_of(mark.column)} ({mark.code}): {found}expected {mark.expected}."


def _column(cell: Styled) -> int:
    return cell[0]


def _note(mark: Mark) -> str:
    lines = [mark.code]
    if mark.found:
        lines.append(f"Found: {mark.found}")
    lines.append(f"Expected: {mark.expected}")
    return "\n".join(lines)


def _too_large(what: str) -> AnnotationError:
    return AnnotationError(
        "TOO_LARGE_FOR_A_SHEET",
        f"The file has {what}, which exceeds a sheet. List its errors with ListRowErrors.",
    )


def _sheet_name(name: str) -> str:
    """A valid name for the sheet of rows, other than the name of the summary."""
    cleaned = (
        re.sub(r"[\[\]:*?/\\\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", " ", name)
        .strip("' ")[:31]
        .strip("' ")
    )
    if not cleaned or cleaned.casefold() in (SUMMARY_TITLE.casefold(), "history"):
        return "Rows"
    return cleaned


class _Summary:
    """The rows of the summary sheet, and the links of its cells."""

    def __init__(
        self, order: AnnotationOrder, rows: _Rows, *, original_was_replaced: bool = False
    ) -> None:
        self.rows: list[list[Styled]] = []
        self.links: dict[str, str] = {}
        self._order = order
        self._annotated = rows
        # A workbook of rejected rows alone contains no skipped rows to explain.
        self._skipped = 0 if order.rejected_only else order.skipped
        self._line(SUMMARY_TITLE, style=CellStyle.TITLE)
        self._line(self._in_a_sentence())
        if original_was_replaced:
            self._line(
                "The original workbook could not be edited. This is a new workbook with the same "
                "rows."
            )
        self._line("")
        self._facts()
        if rows.kinds:
            self._errors()
        self._next_steps()

    def _line(self, *values: Cell, style: CellStyle = CellStyle.PLAIN) -> None:
        self.rows.append([(index, value, style) for index, value in enumerate(values)])

    def _in_a_sentence(self) -> str:
        order, sheet = self._order, self._annotated.sheet_name
        if order.error_message and not order.rejected:
            return f"The file was not imported: {order.error_message[:_MAX_SHOWN_CHARS]}"
        if not order.rejected and not self._skipped:
            return "No row was rejected."
        counts = [
            f"{count:,} of {order.rows_read:,} rows were {what}. "
            for count, what in ((order.rejected, "rejected"), (self._skipped, "skipped"))
            if count
        ]
        if order.rejected_only:
            return f"{''.join(counts)}The sheet '{sheet}' contains only these rows."
        return f"{''.join(counts)}They are marked in the sheet '{sheet}'."

    def _facts(self) -> None:
        order = self._order
        state = order.state + (" (dry run: nothing was stored)" if order.validate_only else "")
        facts: list[tuple[str, Cell]] = [
            ("File", order.filename),
            ("Rows are", order.kind.lower()),
            ("State", state),
        ]
        if order.error_code and order.error_message:
            message = order.error_message[:_MAX_SHOWN_CHARS]
            facts.append(("Error", f"{order.error_code}: {message}"))
        facts += [
            ("Rows read", order.rows_read),
            ("Inserted", order.inserted),
            ("Updated", order.updated),
            ("Unchanged", order.unchanged),
            ("Skipped", order.skipped),
            ("Rejected", order.rejected),
            ("Ingestion id", order.ingestion_id),
        ]
        for name, names in (
            ("Columns ignored", order.ignored_columns),
            ("Sheets not read", order.unread_sheets),
        ):
            if names:
                facts.append((name, ", ".join(names)))
        for name, value in facts:
            self.rows.append([(0, name, CellStyle.HEADING), (1, value, CellStyle.PLAIN)])
        if order.state != "SUCCEEDED" and order.rows_read:
            self._line(f"The rows after the first {order.rows_read:,} were not read.")
        if order.rejected_only and order.validate_only:
            self._line("The accepted rows are not stored and not in this workbook.")
        marked = self._annotated.marked_rows
        if marked < order.rejected:
            kept = "in this workbook" if order.rejected_only else "marked"
            self._line(
                f"{marked:,} of the rejected rows are {kept}; the other reasons are not stored."
            )
        marked = self._annotated.marked_skipped_rows
        if marked < self._skipped:
            self._line(
                f"{marked:,} of the skipped rows are marked; the other reasons are not stored."
            )

    def _errors(self) -> None:
        rows = self._annotated
        kinds = sorted(rows.kinds.values(), key=lambda kind: (-kind.count, kind.first.row_number))
        self._line("")
        self._line("Most frequent errors", style=CellStyle.HEADING)
        headings = ("Column", "Error", "Rows", "First at", "Found there", "Expected")
        self._line(*headings, style=CellStyle.HEADING)
        sheet = rows.sheet_name.replace("'", "''")
        for kind in kinds[:MAX_KINDS_OF_ERRORS]:
            mark, place = kind.first, kind.place
            column = rows.header_of(mark.column) if mark.column else "(the row)"
            self._line(column, mark.code, kind.count, place, mark.found, mark.expected)
            self.rows[-1][3] = (3, place, CellStyle.LINK)
            self.links[f"D{len(self.rows)}"] = f"'{sheet}'!{place}"
        if len(kinds) > MAX_KINDS_OF_ERRORS:
            self._line(f"and {len(kinds) - MAX_KINDS_OF_ERRORS} further kinds")

    def _next_steps(self) -> None:
        for line in self._instructions():
            self._line(line)

    def _instructions(self) -> Sequence[str]:
        order, sheet = self._order, self._annotated.sheet_name
        if self._skipped and not order.rejected and not order.error_code:
            return self._about_skipped()
        if not order.rejected and not order.error_code:
            return ()
        if not order.rejected:
            find = f"1. Correct the header in the sheet '{sheet}', which is marked."
        else:
            find = (
                f"1. In the sheet '{sheet}' correct the red cells. Their notes, and the column "
                f"'{REASONS_HEADER}', say what is wrong; filter that column for what is not blank."
            )
        return (
            "",
            find,
            "2. Save the workbook as .xlsx.",
            "3. Send it again as it is. Rows that are stored already change nothing.",
            "This sheet, the colours, the notes and the reasons are ignored.",
            *(self._about_skipped() if self._skipped else ()),
        )

    def _about_skipped(self) -> Sequence[str]:
        return (
            "",
            (
                "Skipped rows, in blue, have a key that is stored with other values, which were "
                f"kept: the column '{REASONS_HEADER}' has both. To replace what is stored, send "
                "the file again to update what exists."
            ),
        )


if __name__ == "__main__":
    main(sys.argv[1:])

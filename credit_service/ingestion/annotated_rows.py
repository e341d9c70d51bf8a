"""The content of an annotated workbook: the rows with their errors, and the summary.

`annotated_workbook` writes it, into a new workbook or into the original.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

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
from credit_service.spreadsheets.table import MAX_COLUMNS, MAX_ROWS, Table

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
MAX_SHOWN_CHARS = 2_000


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


Styled = tuple[int, Cell, CellStyle]
"""Column from 0, content and style of a cell."""


@dataclass
class _ErrorKind:
    """How often a code was found in a column, and where first."""

    first: Mark
    place: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class StyledLine:
    """A row to write: its cells, and the comments at them by column."""

    number: int
    cells: Sequence[Styled]
    notes: Mapping[int, str] = field(default_factory=dict)


class AnnotatedRows:
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

    def lines(self, marks: Iterator[list[Mark]]) -> Iterator[StyledLine]:
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

    def _header_line(self) -> StyledLine:
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
            text = f"{order.error_code}\n{order.error_message[:MAX_SHOWN_CHARS]}"
            first = min((index for index, cell in enumerate(self._header) if cell != ""), default=0)
            notes[first] = text
        return StyledLine(self._number(self._table.header_row), sorted(cells, key=_column), notes)

    def _moved(self, index: int) -> int:
        """The column that a cell is written to: columns after the header move for the reasons."""
        return index + (index >= self.reasons and self._moves and self.gives_reasons)

    def _line(self, number: int, cells: Sequence[Cell], wrong: Sequence[Mark]) -> StyledLine:
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
        return StyledLine(number, sorted(styled.values(), key=_column), notes)

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


def sheet_name(name: str) -> str:
    """A valid name for the sheet of rows, other than the name of the summary."""
    cleaned = (
        re.sub(r"[\[\]:*?/\\\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", " ", name)
        .strip("' ")[:31]
        .strip("' ")
    )
    if not cleaned or cleaned.casefold() in (SUMMARY_TITLE.casefold(), "history"):
        return "Rows"
    return cleaned


class Summary:
    """The rows of the summary sheet, and the links of its cells."""

    def __init__(
        self, order: AnnotationOrder, rows: AnnotatedRows, *, original_was_replaced: bool = False
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
            return f"The file was not imported: {order.error_message[:MAX_SHOWN_CHARS]}"
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
            message = order.error_message[:MAX_SHOWN_CHARS]
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

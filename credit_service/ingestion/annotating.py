"""An uploaded file as a workbook that shows what to mend, made in a process of its own.

Two sheets: a summary in front, and the rows as they were sent, at their own row numbers. Cells that
are wrong are filled, the first of them have notes, and a column at the end tells the reasons.
Nothing in it is ever run as a formula, and sent again it means the same as before, so that what
was not mended is rejected again.
"""

import csv
import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, BinaryIO

from credit_service.ingestion import confinement
from credit_service.ingestion.workbook_parts import (
    MAX_ROWS,
    Look,
    Note,
    RowWriter,
    Sheet,
    Styled,
    WorkbookWriter,
    column_name,
)
from credit_service.spreadsheets.columns import (
    REASONS_HEADER,
    SUMMARY_TITLE,
    Kind,
    headers_of,
    normalized,
)
from credit_service.spreadsheets.source import open_table
from credit_service.spreadsheets.table import MAX_COLUMNS, Cell, Formula, SpreadsheetError, Table

MEMORY_LIMIT_BYTES = 1024**3
"""Address space of the process that annotates."""
CPU_LIMIT_SECONDS = 300
"""Its computing time."""
FILE_LIMIT_BYTES = 1024**3
"""The largest workbook that it may write."""
MAX_NOTES = 5_000
"""Cells that get a note; spreadsheet programs are slow with many. Reasons have no such limit."""
MAX_KINDS_OF_ERRORS = 20
"""Kinds of errors that the summary lists, the most frequent first."""

_HEADER_ERRORS = ("COLUMN_MISSING", "COLUMN_AMBIGUOUS", "COLUMN_UNIT_UNSUPPORTED", "FILE_EMPTY")
_TOLD_BY_MESSAGE = frozenset(
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
_SUMMARY_WIDTHS = (26, 26, 14, 14, 26, 80)
_LOOK_SECONDS = 0.05
_NICENESS = 10


class AnnotationError(Exception):
    """The file cannot come back as a workbook. `code` is a name of IngestionErrorCode, or
    TOO_LARGE_FOR_A_SHEET; the message is for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class AnnotationOrder:
    """What to tell of an ingestion that has ended. Names are those of `storage.ingestions`."""

    ingestion_id: str
    kind: Kind
    filename: str
    state: str
    validate_only: bool
    rows_read: int
    inserted: int
    updated: int
    unchanged: int
    skipped: int
    rejected: int
    error_code: str | None
    error_message: str | None
    ignored_columns: Sequence[str] = ()
    unread_sheets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """Why a row was not stored, as of RowError."""

    row_number: int
    column: str
    code: str
    found: str
    expected: str
    message: str
    outcome: str = "REJECTED"


def write_marks(file: IO[bytes], order: AnnotationOrder, marks: Iterator[Mark]) -> None:
    """Write what `annotate` is to tell: the order, and a line for each mark, by rising rows."""
    file.write(json.dumps(asdict(order)).encode() + b"\n")
    for mark in marks:
        values = [getattr(mark, name) for name in Mark.__slots__]
        file.write(json.dumps(values).encode() + b"\n")
    file.flush()


def annotate(
    source: IO[bytes], marks: IO[bytes], output: IO[bytes], ensure_wanted: Callable[[], None]
) -> None:
    """Write the annotated workbook of a file, in a process that ends with this.

    All three must be files of the operating system; `marks` is what `write_marks` wrote.
    `ensure_wanted` is called many times a second, and what it raises ends the work.

    Raises:
        AnnotationError: the file cannot come back as a workbook.
        RuntimeError: the process was ended, or met a defect of ours.
    """
    for file in (source, marks, output):
        file.seek(0)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(marks.fileno()), str(output.fileno())],
        stdin=source,
        stdout=subprocess.PIPE,
        env=confinement.environment(),
        pass_fds=(marks.fileno(), output.fileno()),
    ) as process:
        try:
            while True:
                try:
                    process.wait(_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    ensure_wanted()
            answer = process.stdout.read() if process.stdout is not None else b""
        finally:
            process.kill()
    if process.returncode != 0 or not answer:
        ended = confinement.ended_early(process.returncode)
        if isinstance(ended, SpreadsheetError):
            raise AnnotationError(ended.code, ended.message)
        raise ended
    document = json.loads(answer)
    if document["code"]:
        raise AnnotationError(document["code"], document["message"])


# --- In the annotating process --------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Annotate the file on standard input; the arguments number the open marks and output."""
    # Calls that others wait for come first.
    os.nice(_NICENESS)
    confinement.confine(
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
        code, message = (
            "TOO_LARGE_FOR_A_SHEET",
            "The workbook would be too large.",
        )
    sys.stdout.write(json.dumps({"code": code, "message": message[:_MAX_SHOWN_CHARS]}))


def write_annotated(source: BinaryIO, marks: IO[bytes], output: IO[bytes]) -> None:
    """Annotate in this process. Raises AnnotationError, SpreadsheetError."""
    order = AnnotationOrder(**json.loads(marks.readline()))
    table = open_table(source, order.filename, order.kind)
    rows = _Rows(order, table)
    with WorkbookWriter(output) as writer:
        with writer.rows(rows.sheet) as sheet:
            rows.write(sheet, _by_row(marks))
        summary = _Summary(order, rows)
        writer.finish(Sheet(SUMMARY_TITLE, _SUMMARY_WIDTHS), summary.rows, summary.links)


def _by_row(marks: IO[bytes]) -> Iterator[list[Mark]]:
    """The marks of one row after the other."""
    row: list[Mark] = []
    for line in marks:
        mark = Mark(*json.loads(line))
        if row and row[0].row_number != mark.row_number:
            yield row
            row = []
        row.append(mark)
    if row:
        yield row


@dataclass
class _ErrorKind:
    """How often a code was found in a column, and where first."""

    first: Mark
    count: int = 0


class _Rows:
    """The rows of the file on their way into the second sheet."""

    def __init__(self, order: AnnotationOrder, table: Table) -> None:
        self._order = order
        self._table = table
        header = list(table.header)
        while header and header[-1] == "":
            header.pop()
        names = [normalized(cell) for cell in header]
        reasons = normalized(REASONS_HEADER)
        # An annotated workbook that is annotated again has the column, and it is written anew.
        self._had_reasons = reasons in names
        self._reasons = names.index(reasons) if self._had_reasons else len(header)
        self._header = header
        self._fields = {index: name for name, index in table.columns.items()}
        self._names = headers_of(header, table.columns)
        self._gives_reasons = order.rejected + order.skipped > 0
        self.kinds: dict[tuple[str, str], _ErrorKind] = {}
        self.marked_rows = 0
        self.marked_skipped_rows = 0
        width = max(len(header), self._reasons + 1)
        if width > MAX_COLUMNS:
            raise _too_large(f"more than {MAX_COLUMNS - 1} columns")
        widths = [16.0] * width
        widths[self._reasons] = 100.0 if self._gives_reasons else 16.0
        frozen = table.header_row if table.header_row <= 20 else 0
        self.sheet = Sheet(_sheet_name(table.sheet_name), widths, frozen)

    def header_of(self, column: str) -> str:
        """What the file calls a field of the contract, on one line and cut as in RowError."""
        return self._names.get(column, column)

    def _in_headers(self, text: str) -> str:
        """A text with the fields of the contract by the file's headers."""
        return _FIELD.sub(lambda match: self.header_of(match[0]), text)

    def place_of(self, mark: Mark) -> str:
        """Where the mark is, such as 'D5'."""
        return f"{column_name(self._column_of(mark))}{mark.row_number}"

    def _column_of(self, mark: Mark) -> int:
        """The cell that a mark is at; what is wrong with a whole row is at its first known cell."""
        columns = self._table.columns
        return columns.get(mark.column, min(columns.values(), default=0))

    def write(self, sheet: RowWriter, marks: Iterator[list[Mark]]) -> None:
        """Write the header and all rows, each with what is wrong with it."""
        for number, cells in self._table.above:
            self._write_row(sheet, number, cells, ())
        self._write_header(sheet)
        last = self._table.header_row
        marked = next(marks, None)
        for number, cells in self._table.rows:
            if number > MAX_ROWS:
                raise _too_large(f"more than {MAX_ROWS:,} lines")
            while marked is not None and marked[0].row_number < number:
                marked = next(marks, None)
            wrong: Sequence[Mark] = ()
            if marked is not None and marked[0].row_number == number:
                wrong = marked
            self._write_row(sheet, number, cells, wrong)
            last = number
        if self._gives_reasons:
            top = self._table.header_row
            sheet.filtered = f"A{top}:{column_name(self._reasons)}{last}"

    def _write_header(self, sheet: RowWriter) -> None:
        order, number = self._order, self._table.header_row
        refused = order.error_code in _HEADER_ERRORS
        look = Look.WRONG if refused else Look.HEADING
        cells: list[Styled] = [
            (self._moved(index), cell, look)
            for index, cell in enumerate(self._header)
            if index != self._reasons
        ]
        if self._gives_reasons:
            cells.append((self._reasons, REASONS_HEADER, Look.HEADING))
        sheet.row(number, sorted(cells, key=_column))
        if refused and order.error_message:
            text = f"{order.error_code}\n{order.error_message[:_MAX_SHOWN_CHARS]}"
            first = min((index for index, cell in enumerate(self._header) if cell != ""), default=0)
            sheet.notes.append(Note(number, first, text))

    def _moved(self, index: int) -> int:
        """Where a column comes to lie: those beyond the header make room for the reasons."""
        return index + (index >= self._reasons and not self._had_reasons and self._gives_reasons)

    def _write_row(
        self, sheet: RowWriter, number: int, cells: Sequence[Cell], wrong: Sequence[Mark]
    ) -> None:
        cells = self._within_header(cells)
        looks: dict[int, Look] = {}
        skipped = bool(wrong) and wrong[0].outcome == "SKIPPED"
        if skipped:
            self.marked_skipped_rows += 1
            looks = dict.fromkeys(self._table.columns.values(), Look.SKIPPED)
        elif wrong:
            self.marked_rows += 1
            looks = self._looks(sheet, number, wrong)
        styled: dict[int, Styled] = {
            self._moved(index): (self._moved(index), self._given_back(index, cell), Look.PLAIN)
            for index, cell in enumerate(cells)
            if cell != "" and not (self._had_reasons and index == self._reasons)
        }
        for index, look in looks.items():
            _, cell, _ = styled.get(index, (index, "", look))
            styled[index] = (index, cell, look)
        if wrong:
            reasons = " ".join(self._reason(mark) for mark in wrong)
            look = Look.SKIPPED if skipped else Look.WRONG_ROW
            styled[self._reasons] = (self._reasons, reasons, look)
        if styled and max(styled) >= MAX_COLUMNS:
            raise _too_large(f"more than {MAX_COLUMNS - 1} columns")
        sheet.row(number, sorted(styled.values(), key=_column))

    def _within_header(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The cells of a row. A line of CSV with more values than the header comes back whole in
        one cell: value by value it could pass for another, valid row when it is sent again."""
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
        """A formula as text that says it. A name may be any text, and so would be taken as one:
        there it is left to the note."""
        if isinstance(cell, Formula):
            return "" if self._fields.get(index) in ("first_name", "last_name") else str(cell)
        return cell

    def _looks(self, sheet: RowWriter, number: int, wrong: Sequence[Mark]) -> dict[int, Look]:
        looks: dict[int, Look] = {}
        for mark in wrong:
            kind = self.kinds.setdefault((mark.column, mark.code), _ErrorKind(mark))
            kind.count += 1
            if not mark.column:
                known = self._table.columns.values()
                looks = dict.fromkeys(known, Look.WRONG_ROW) | looks
        for column in dict.fromkeys(self._column_of(mark) for mark in wrong):
            looks[column] = Look.WRONG
            if len(sheet.notes) < MAX_NOTES:
                marks = [mark for mark in wrong if self._column_of(mark) == column]
                sheet.notes.append(Note(number, column, "\n\n".join(map(_note, marks))))
        return looks

    def _reason(self, mark: Mark) -> str:
        if mark.outcome == "SKIPPED":
            return f"SKIPPED: {self._in_headers(mark.message)}"
        if not mark.column or mark.code in _TOLD_BY_MESSAGE:
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
        f"The file has {what}, which no sheet can give back; ListRowErrors tells what was wrong.",
    )


def _sheet_name(name: str) -> str:
    """A name that a sheet can have beside the summary."""
    cleaned = re.sub(r"[\[\]:*?/\\\x00-\x1f\x7f]", " ", name).strip("' ")[:31].strip("' ")
    if not cleaned or cleaned.casefold() in (SUMMARY_TITLE.casefold(), "history"):
        return "Rows"
    return cleaned


class _Summary:
    """The rows of the sheet in front, and the links in it by their cells."""

    def __init__(self, order: AnnotationOrder, rows: _Rows) -> None:
        self.rows: list[list[Styled]] = []
        self.links: dict[str, str] = {}
        self._order = order
        self._annotated = rows
        self._line(SUMMARY_TITLE, look=Look.TITLE)
        self._line(self._in_a_sentence())
        self._line("")
        self._facts()
        if rows.kinds:
            self._errors()
        self._how_to_go_on()

    def _line(self, *values: Cell, look: Look = Look.PLAIN) -> None:
        self.rows.append([(index, value, look) for index, value in enumerate(values)])

    def _in_a_sentence(self) -> str:
        order, sheet = self._order, self._annotated.sheet.name
        if order.error_message and not order.rejected:
            return f"The file was not taken in: {order.error_message[:_MAX_SHOWN_CHARS]}"
        if not order.rejected and not order.skipped:
            return "No row was rejected."
        counts = [
            f"{count:,} of {order.rows_read:,} rows were {what}. "
            for count, what in ((order.rejected, "rejected"), (order.skipped, "skipped"))
            if count
        ]
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
            ("Columns not used", order.ignored_columns),
            ("Sheets not read", order.unread_sheets),
        ):
            if names:
                facts.append((name, ", ".join(names)))
        for name, value in facts:
            self.rows.append([(0, name, Look.HEADING), (1, value, Look.PLAIN)])
        if order.state != "SUCCEEDED" and order.rows_read:
            self._line(f"The rows after the first {order.rows_read:,} were not looked at.")
        marked = self._annotated.marked_rows
        if marked < order.rejected:
            self._line(
                f"Marked are {marked:,} of the rejected rows: of the others no reasons are kept."
            )
        marked = self._annotated.marked_skipped_rows
        if marked < order.skipped:
            self._line(
                f"Marked are {marked:,} of the skipped rows: of the others no reasons are kept."
            )

    def _errors(self) -> None:
        rows = self._annotated
        kinds = sorted(rows.kinds.values(), key=lambda kind: (-kind.count, kind.first.row_number))
        self._line("")
        self._line("Most frequent errors", look=Look.HEADING)
        headings = ("Column", "What is wrong", "Rows", "First at", "Found there", "Expected")
        self._line(*headings, look=Look.HEADING)
        sheet = rows.sheet.name.replace("'", "''")
        for kind in kinds[:MAX_KINDS_OF_ERRORS]:
            mark, place = kind.first, rows.place_of(kind.first)
            column = rows.header_of(mark.column) if mark.column else "(the row)"
            self._line(column, mark.code, kind.count, place, mark.found, mark.expected)
            self.rows[-1][3] = (3, place, Look.LINK)
            self.links[f"D{len(self.rows)}"] = f"'{sheet}'!{place}"
        if len(kinds) > MAX_KINDS_OF_ERRORS:
            self._line(f"and {len(kinds) - MAX_KINDS_OF_ERRORS} kinds more")

    def _how_to_go_on(self) -> None:
        for line in self._instructions():
            self._line(line)

    def _instructions(self) -> Sequence[str]:
        order, sheet = self._order, self._annotated.sheet.name
        if order.skipped and not order.rejected and not order.error_code:
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
            "This sheet, the colours, the notes and the reasons are passed over.",
            *(self._about_skipped() if order.skipped else ()),
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

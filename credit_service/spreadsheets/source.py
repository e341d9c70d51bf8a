"""Read .xlsx workbooks and CSV files as blocks of cells, in bounded memory, trusting neither.

A workbook's sheet is cut into pieces of whole rows, and python-calamine reads each piece as a
workbook of its own: a sheet of a million rows takes as much memory as one of a few thousand, and
rows are there before the file is read to its end. The cutting sees what calamine does not tell:
which cells hold formulas or error values.

One reader for the client, which streams the rows of a file, and for the service, which reads
uploaded ones. Imports nothing of ours but the list of columns, so that both may use it.
"""

import csv
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain, islice
from typing import BinaryIO, Literal
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook

from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets import columns as spreadsheet_columns
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.number_formats import (
    PercentFormat,
    percent_styles,
    without_misleading_formats,
)

Cell = int | float | str | bool | date | datetime | time | timedelta
"""What a cell holds; an empty one holds ''."""

MAX_ENTRIES = 2_000
"""Most files inside a workbook."""
MAX_INFLATED_BYTES = 2 * 1024**3
"""Most bytes that a workbook's parts may inflate to, all together."""
MAX_RATIO = 200
"""Most bytes that a byte of a workbook may inflate to, in parts of 1 MiB and more."""
MAX_COLUMNS = 702
"""Most columns of a sheet: A to ZZ."""
MAX_SHEETS = 50
"""Sheets of a workbook that are searched for a header."""
MAX_HEADER_ROWS = 20
"""Rows of a sheet, blank ones not counted, that are searched for the header."""

_MAX_DIRECTORY_BYTES = 1024**2
_MAX_PART_BYTES = 16 * 1024**2
_MAX_SHARED_STRINGS_BYTES = 192 * 1024**2
_MAX_HEAD_BYTES = 1024**2
_MAX_ROW_BYTES = 16 * 1024**2
_MAX_ROWS = 1_048_576
_PIECE_BYTES = 2 * 1024**2
# Enough for the header of a sheet that is not read.
_PEEK_BYTES = 64 * 1024
_CSV_BLOCK_ROWS = 5_000

ErrorCode = Literal[
    "FORMAT_UNSUPPORTED",
    "FILE_UNREADABLE",
    "FILE_EMPTY",
    "FILE_UNSAFE",
    "COLUMN_MISSING",
    "COLUMN_AMBIGUOUS",
    "COLUMN_UNIT_UNSUPPORTED",
]


class SpreadsheetError(Exception):
    """A file that cannot be read as rows: a code of IngestionErrorCode, a sentence for a person."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


class Formula(str):
    """A cell that holds a formula, as its text with the sign '='."""

    __slots__ = ()


class ErrorValue(str):
    """A cell that holds an error value, such as '#N/A'."""

    __slots__ = ()


class Percent(float):
    """A number that the sheet shows as a percentage, as shown: 12.0 for 12 %, stored as 0.12."""

    __slots__ = ()

    def __str__(self) -> str:
        """As people see it: 12.5%."""
        return f"{self:.15g}%"

    def fraction(self) -> str:
        """The stored number: 0.12 for 12 %."""
        return f"{Decimal(format(self, '.15g')).scaleb(-2):f}"


def shown(cell: Cell) -> str:
    """The cell as a person sees it."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, Percent):
        return format(cell, ".15g") + "%"
    if isinstance(cell, float):
        return format(cell, ".15g")
    return str(cell)


ERROR_VALUES = frozenset(
    {
        "#N/A",
        "#REF!",
        "#DIV/0!",
        "#NAME?",
        "#NULL!",
        "#NUM!",
        "#VALUE!",
        "#SPILL!",
        "#CALC!",
        "#GETTING_DATA",
    }
)
"""Error values as text, which is how a CSV file saved from a spreadsheet holds them."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows, blank ones left out, by column.

    `row_numbers` are those of the sheet, or the line in a CSV file where the row begins; the first
    row of a file is 1. `columns` maps a field to a cell for each row. `overlong` are the indexes of
    rows with a value beyond the last header, which tells that a separator stands in some value.
    `date_orders` are the orders of day and month of columns of dates, where they are known.
    """

    row_numbers: Sequence[int]
    columns: Mapping[str, Sequence[Cell]]
    overlong: Sequence[int] = ()
    date_orders: Mapping[str, DateOrder] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A file whose header is understood: what its rows are, and the rows, which can be read once.

    `headers` maps a field to the header of its column. `sheet` is the name of the sheet read, empty
    for CSV. `ignored_columns` are headers of columns that are not read, `unread_sheets` the names
    of other sheets with a header of either kind. Reading on may raise SpreadsheetError.
    """

    kind: Kind
    headers: Mapping[str, str]
    blocks: Iterator[Block]
    sheet: str = ""
    ignored_columns: tuple[str, ...] = ()
    unread_sheets: tuple[str, ...] = ()


def open_source(
    file: BinaryIO, filename: str, kind: Kind | None = None, date_order: DateOrder | None = None
) -> Source:
    """The rows of a seekable file, recognised by its content; `kind` None: by the header.

    The header is the row that names the most columns among the first MAX_HEADER_ROWS, in the first
    visible sheet where it fits. Texts such as 31-03-2024 in date columns have the order
    `date_order`, or, where that is None, the one order in which all dates of the column exist, for
    which the file is read once more when the first such text is met.

    Raises:
        SpreadsheetError
    """
    opened = _open_csv if check(file, filename) == "csv" else _open_workbook
    source = opened(file, kind)
    names = [name for name in _DATE_COLUMNS if name in source.headers]
    if not names:
        return source
    if date_order is not None:
        blocks = _with_orders(source.blocks, dict.fromkeys(names, date_order))
    else:
        blocks = _with_only_orders(source.blocks, names, _another_pass(file, opened, kind))
    return replace(source, blocks=blocks)


_DATE_COLUMNS = ("start_date", "end_date")
_Open = Callable[[BinaryIO, Kind | None], Source]


def _with_orders(blocks: Iterator[Block], orders: Mapping[str, DateOrder]) -> Iterator[Block]:
    for block in blocks:
        yield replace(block, date_orders=orders)


def _with_only_orders(
    blocks: Iterator[Block], names: Sequence[str], another: Callable[[], Iterator[Block]]
) -> Iterator[Block]:
    """The blocks with the order of each column that allows only one.

    `another` reads all the blocks once more; it is called at the first text that needs an order.
    """
    for block in blocks:
        if any(map(cell_values.needs_order, _distinct_texts(block, names))):
            yield from _with_orders(chain([block], blocks), _only_orders(another(), names))
            return
        yield block


def _another_pass(
    file: BinaryIO, opened: _Open, kind: Kind | None
) -> Callable[[], Iterator[Block]]:
    def blocks() -> Iterator[Block]:
        # The reader in progress continues from this position.
        position = file.tell()
        try:
            yield from opened(file, kind).blocks
        finally:
            file.seek(position)

    return blocks


def _only_orders(blocks: Iterator[Block], names: Sequence[str]) -> dict[str, DateOrder]:
    possible: dict[str, frozenset[DateOrder]] = {}
    for block in blocks:
        for name in names:
            found = cell_values.possible_orders(_distinct_texts(block, [name]))
            possible[name] = possible.get(name, found) & found
    return {name: next(iter(orders)) for name, orders in possible.items() if len(orders) == 1}


def _distinct_texts(block: Block, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        for cell in set(block.columns[name]):
            if type(cell) is str:
                yield cell


def kinds(file: BinaryIO, filename: str) -> tuple[Kind, ...]:
    """What the rows of a seekable file are: both kinds for a workbook with a sheet of each,
    customers first.

    Raises:
        SpreadsheetError: the file cannot be read, or no header fits.
    """
    if check(file, filename) == "csv":
        return (_open_csv(file, None).kind,)
    package = _open_package(file)
    found: set[Kind] = set()
    for _, part in package.sheets:
        with suppress(SpreadsheetError):
            found.add(_matched(None, _headed_sheet(package, part, None, _PEEK_BYTES).header)[0])
    if not found:
        return (_open_workbook(file, None).kind,)
    return tuple(each for each in spreadsheet_columns.COLUMNS if each in found)


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file as they stand, all columns of them, for giving them back.

    `columns` maps a field to the index of its column, and is empty where the header does not fit.
    `rows` are those below the header with their numbers, cells from the first column on, some of
    them blank; they can be read once. `above` are those above it. `sheet_name` is empty for CSV.
    """

    sheet_name: str
    header_row: int
    header: Sequence[Cell]
    columns: Mapping[str, int]
    rows: Iterator[tuple[int, Sequence[Cell]]]
    above: Sequence[tuple[int, Sequence[Cell]]] = ()


def open_table(file: BinaryIO, filename: str, kind: Kind) -> Table:
    """The same rows as `open_source` finds, with what it passes over; of a file whose header fits
    nowhere, those of the first sheet that has any.

    Raises:
        SpreadsheetError: the file cannot be read at all.
    """
    if check(file, filename) == "csv":
        return _csv_table(file, kind)
    return _workbook_table(file, kind)


def check(file: BinaryIO, filename: str) -> Literal["xlsx", "csv"]:
    """The format of a seekable file, without opening what is in it.

    Raises:
        SpreadsheetError: it is empty, of another format, not what its name says, damaged, or
            beyond a limit.
    """
    file.seek(0)
    head = file.read(8192)
    if not head:
        raise SpreadsheetError("FILE_EMPTY", "The file is empty.")
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            "The file is an old .xls workbook or one with a password; save it as .xlsx without.",
        )
    if (named := _FOREIGN.match(head)) is not None:
        what = next(text for group, text in _FOREIGN_NAMES.items() if named[group] is not None)
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            f"The file is {what}; open it in a spreadsheet program and save it as .xlsx.",
        )
    name = filename.lower()
    if head.startswith(b"PK"):
        if name.endswith(".csv"):
            raise SpreadsheetError(
                "FILE_UNREADABLE", "The file is named .csv, but its content is no text."
            )
        _check_directory(file)
        return "xlsx"
    if name.endswith(".xlsx"):
        raise SpreadsheetError(
            "FILE_UNREADABLE", "The file is named .xlsx, but its content is no workbook."
        )
    if head.startswith(_UTF16_MARKS):
        # A character cut in two at the end says nothing.
        head = head[: len(head) // 2 * 2].decode("utf-16", "ignore").encode()
    if re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head):
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            "The file is neither an .xlsx workbook nor CSV text in UTF-8 or UTF-16;"
            " save it as .xlsx or as CSV UTF-8.",
        )
    return "csv"


_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_FOREIGN = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,2000}?-->\s*)*"
    rb"(?:(?P<html><(?:!doctype\s+html|html|head|body|table|meta)\b)|(?P<xml><\?xml\b)|(?P<pdf>%PDF-))",
    re.IGNORECASE | re.DOTALL,
)
_FOREIGN_NAMES = {
    "html": "a web page (HTML), whatever its name says",
    "xml": "an XML document, whatever its name says",
    "pdf": "a PDF document",
}


# --- CSV ------------------------------------------------------------------------------------------


def _open_csv(file: BinaryIO, kind: Kind | None) -> Source:
    (*_, (line, header)), records = _headed_csv(file, kind)
    kind, columns = _matched(kind, header, row=line)
    first = list(islice(records, _CSV_BLOCK_ROWS))
    blocks = _csv_blocks(chain(first, records), columns, len(header))
    width = len(header)
    rows = _Piece([], [(cells + [""] * width)[:width] for _, cells in first], 0)
    ignored = _ignored(kind, header, rows)
    headers = spreadsheet_columns.headers_of(header, columns)
    return Source(kind, headers, blocks, ignored_columns=ignored)


def _csv_table(file: BinaryIO, kind: Kind) -> Table:
    (*above, (line, header)), records = _headed_csv(file, kind)
    return Table("", line, header, _columns_if_matched(kind, header), records, above)


_Record = tuple[int, list[str]]


def _headed_csv(file: BinaryIO, kind: Kind | None) -> tuple[list[_Record], Iterator[_Record]]:
    """The records to the header, which is the last of them, and those below it."""
    file.seek(0)
    utf16 = file.read(2) in _UTF16_MARKS
    file.seek(0)
    # Not closed here: the file is the caller's.
    text = io.TextIOWrapper(file, encoding="utf-16" if utf16 else "utf-8-sig", newline="")
    records = _csv_records(text, kind)
    read: list[_Record] = []
    best = (-1, 0)
    filled = 0
    for record in records:
        read.append(record)
        if all(map(_is_blank, record[1])):
            continue
        known = spreadsheet_columns.known_columns(record[1], kind)
        if known > best[0]:
            best = (known, len(read))
        filled += 1
        if filled == MAX_HEADER_ROWS or spreadsheet_columns.is_complete(record[1], kind):
            break
    if not filled:
        raise SpreadsheetError("FILE_EMPTY", "The file holds no row.")
    return read[: best[1]], chain(read[best[1] :], records)


_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"""sep=([^\w"'\r\n])\r?\n?""", re.IGNORECASE)
_LINE_CHARS = 65_536


def _csv_records(text: io.TextIOWrapper, kind: Kind | None) -> Iterator[_Record]:
    """The line each record begins in, and its cells."""
    line = 1
    try:
        separator, skipped = _separator(text, kind)
        text.seek(0)
        for _ in range(skipped):
            text.readline(_LINE_CHARS)
        line += skipped
        reader = csv.reader(text, delimiter=separator, strict=True)
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1 + skipped
    except UnicodeError as error:
        raise SpreadsheetError(
            "FILE_UNREADABLE",
            f"The file is not text in UTF-8 or UTF-16, from about line {line} on;"
            " save it as CSV UTF-8.",
        ) from error
    except csv.Error as error:
        raise SpreadsheetError(
            "FILE_UNREADABLE", f"The file cannot be read as CSV, line {line}: {error}."
        ) from error
    finally:
        # The caller may have closed the file already.
        if not text.closed:
            text.detach()


def _separator(text: io.TextIOWrapper, kind: Kind | None) -> tuple[str, int]:
    """The separator, and how many lines before the records only name it.

    It is the one that the first line names as Excel does (sep=;), else the one by which some of the
    first lines names the most columns, else the most frequent in the first line.
    """
    lines = [text.readline(_LINE_CHARS) for _ in range(MAX_HEADER_ROWS)]
    if match := _SEPARATOR_LINE.fullmatch(lines[0]):
        return match[1], 1

    def rank(separator: str) -> tuple[int, int]:
        split = csv.reader(lines, delimiter=separator)
        try:
            known = max(spreadsheet_columns.known_columns(cells, kind) for cells in split)
        except csv.Error:
            known = 0
        return known, lines[0].count(separator)

    return max(_SEPARATORS, key=rank), 0


def _csv_blocks(
    records: Iterator[tuple[int, list[str]]], columns: Mapping[str, int], width: int
) -> Iterator[Block]:
    while chunk := list(islice(records, _CSV_BLOCK_ROWS)):
        rows = [cells for _, cells in chunk]
        overlong = []
        if {width} != set(map(len, rows)):
            for index, cells in enumerate(rows):
                if len(cells) > width and not all(map(_is_blank, cells[width:])):
                    overlong.append(index)
                rows[index] = (cells + [""] * width)[:width]
        by_column = list(zip(*rows, strict=True))
        picked = {field: by_column[index] for field, index in columns.items()}
        yield _without_blank([number for number, _ in chunk], picked, overlong)


# --- Workbooks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Package:
    """The parts of a workbook that every piece of a sheet is read with."""

    archive: zipfile.ZipFile
    names: Mapping[str, zipfile.ZipInfo]
    # (name, part) of the visible ones, in their order, and of the others, which are not read.
    sheets: Sequence[tuple[str, str]]
    hidden_sheets: Sequence[tuple[str, str]]
    constant_parts: Mapping[str, bytes]
    shared_strings: str | None
    percent_styles: Mapping[int, PercentFormat]
    # The texts of `shared_strings` once a sheet has asked for them.
    strings: list[str] = field(default_factory=list)


def _open_workbook(file: BinaryIO, kind: Kind | None) -> Source:
    package = _open_package(file)
    first_error: SpreadsheetError | None = None
    for name, part in package.sheets:
        try:
            sheet = _headed_sheet(package, part, kind)
            kind_found, columns = _matched(kind, sheet.header, name, sheet.header_row)
        except SpreadsheetError as error:
            first_error = _more_helpful(first_error, error)
        else:
            return Source(
                kind_found,
                spreadsheet_columns.headers_of(sheet.header, columns),
                _sheet_blocks(sheet.rest, sheet.pieces, columns),
                spreadsheet_columns.shown(name),
                _ignored(kind_found, sheet.header, sheet.rest),
                _sheets_with_rows(package, besides=part),
            )
    raise first_error or _no_sheet()


def _ignored(kind: Kind, header: Sequence[Cell], rest: "_Piece") -> tuple[str, ...]:
    """The columns that are not read: by their headers, or where they have values and no header, by
    their letters. Only the first few thousand rows are searched for those."""
    names = spreadsheet_columns.ignored(kind, header)
    unnamed = []
    for place, cells in enumerate(zip(*rest.rows, strict=True), rest.first_column):
        no_header = place >= len(header) or _is_blank(header[place])
        if no_header and not all(map(_is_blank, set(cells))):
            unnamed.append(f"column {spreadsheet_columns.letters(place)} (no header)")
    return (*names, *unnamed)[: spreadsheet_columns.MAX_IGNORED]


def _sheets_with_rows(package: _Package, besides: str) -> tuple[str, ...]:
    """The names of other sheets with a header of either kind."""
    names = []
    for name, part in (*package.sheets, *package.hidden_sheets)[:MAX_SHEETS]:
        if part == besides:
            continue
        # What is damaged in a sheet that is not read does not matter.
        with suppress(SpreadsheetError):
            sheet = _headed_sheet(package, part, None, _PEEK_BYTES)
            if spreadsheet_columns.is_complete(sheet.header):
                names.append(spreadsheet_columns.shown(name))
    return tuple(names)


def _workbook_table(file: BinaryIO, kind: Kind) -> Table:
    package = _open_package(file)
    first_table: Table | None = None
    first_error: SpreadsheetError | None = None
    for name, part in package.sheets:
        try:
            sheet = _headed_sheet(package, part, kind)
        except SpreadsheetError as error:
            first_error = _more_helpful(first_error, error)
            continue
        columns = _columns_if_matched(kind, sheet.header)
        rows = _sheet_rows(sheet.rest, sheet.pieces)
        table = Table(name, sheet.header_row, sheet.header, columns, rows, sheet.above)
        if columns:
            return table
        first_table = first_table or table
    if first_table is None:
        raise first_error or _no_sheet()
    return first_table


_SHEET_ERRORS = ("FILE_EMPTY", "COLUMN_MISSING", "COLUMN_AMBIGUOUS", "COLUMN_UNIT_UNSUPPORTED")


def _more_helpful(first: SpreadsheetError | None, error: SpreadsheetError) -> SpreadsheetError:
    """Of the errors of two sheets in order, the one to report; raises what ends the search."""
    if error.code not in _SHEET_ERRORS:
        raise error
    # A sheet with another header says more than one without any.
    return error if first is None or first.code == "FILE_EMPTY" else first


def _no_sheet() -> SpreadsheetError:
    return SpreadsheetError("FILE_EMPTY", "The workbook has no visible sheet.")


@dataclass(frozen=True, slots=True)
class _HeadedSheet:
    """A sheet whose header is found; what follows is in `rest` and `pieces`."""

    above: Sequence[tuple[int, Sequence[Cell]]]
    header_row: int
    header: Sequence[Cell]
    rest: "_Piece"
    pieces: Iterator["_Piece"]


def _headed_sheet(
    package: _Package, part: str, kind: Kind | None, piece_bytes: int | None = None
) -> _HeadedSheet:
    """The sheet from the row on that names the most columns of the first MAX_HEADER_ROWS."""
    pieces = _pieces(package, part, piece_bytes or _PIECE_BYTES)
    read: list[_Piece] = []
    best = (-1, 0, 0)
    filled = 0
    for piece in pieces:
        for index, cells in enumerate(piece.rows):
            named = [cell for cell in cells if not _is_blank(cell)]
            if not named:
                continue
            if not filled and named == [spreadsheet_columns.SUMMARY_TITLE]:
                raise SpreadsheetError(
                    "FILE_EMPTY", "The workbook holds the summary of an ingestion and no rows."
                )
            if not read or read[-1] is not piece:
                read.append(piece)
            known = spreadsheet_columns.known_columns(named, kind)
            if known > best[0]:
                best = (known, len(read) - 1, index)
            filled += 1
            if filled == MAX_HEADER_ROWS or spreadsheet_columns.is_complete(named, kind):
                return _headed_at(read, best[1], best[2], pieces)
    if not filled:
        raise SpreadsheetError("FILE_EMPTY", "The file holds no row.")
    return _headed_at(read, best[1], best[2], pieces)


def _headed_at(
    read: Sequence["_Piece"], place: int, index: int, pieces: Iterator["_Piece"]
) -> _HeadedSheet:
    piece = read[place]
    header = [""] * piece.first_column + list(piece.rows[index])
    rest = _Piece(piece.row_numbers[index + 1 :], piece.rows[index + 1 :], piece)
    first = _Piece(piece.row_numbers[:index], piece.rows[:index], piece)
    above = list(_sheet_rows(first, iter(())))
    for each in reversed(read[:place]):
        above = [*_sheet_rows(each, iter(())), *above]
    return _HeadedSheet(
        above, piece.row_numbers[index], header, rest, chain(read[place + 1 :], pieces)
    )


def _sheet_rows(first: "_Piece", rest: Iterator["_Piece"]) -> Iterator[tuple[int, Sequence[Cell]]]:
    for piece in chain([first], rest):
        before = [""] * piece.first_column
        for number, cells in zip(piece.row_numbers, piece.rows, strict=True):
            yield number, before + list(cells)


def _sheet_blocks(
    first: "_Piece", rest: Iterator["_Piece"], columns: Mapping[str, int]
) -> Iterator[Block]:
    yield first.block(columns)
    for piece in rest:
        yield piece.block(columns)


class _Piece:
    """Consecutive rows of a sheet, all as wide, from column `first_column` (0 is A) on."""

    __slots__ = ("first_column", "row_numbers", "rows")

    def __init__(
        self,
        row_numbers: Sequence[int],
        rows: Sequence[Sequence[Cell]],
        first_column: "int | _Piece",
    ) -> None:
        self.row_numbers = row_numbers
        self.rows = rows
        self.first_column: int = (
            first_column.first_column if isinstance(first_column, _Piece) else first_column
        )

    def block(self, columns: Mapping[str, int]) -> Block:
        by_column = list(zip(*self.rows, strict=True))
        empty = ("",) * len(self.rows)
        picked: dict[str, Sequence[Cell]] = {}
        for name, index in columns.items():
            place = index - self.first_column
            picked[name] = by_column[place] if 0 <= place < len(by_column) else empty
        return _without_blank(self.row_numbers, picked, ())


def _check_directory(file: BinaryIO) -> None:
    """Refuse an archive by its directory alone, before anything is inflated."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _cut_short()
    entries, directory_bytes = struct.unpack_from("<HL", tail, end + 10)
    if tail[max(end - 20, 0) : end].startswith(b"PK\x06\x07"):
        entries, directory_bytes = _numbers_of_64_bits(tail, end, size)
    # The number may lie, and is not what the library goes by: the bytes bound what there can be.
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise _unsafe(f"has a directory of {directory_bytes:,} bytes")
    if entries > MAX_ENTRIES:
        raise _unsafe(f"has {entries} parts; at most {MAX_ENTRIES} are read")
    with _archive(file) as archive:
        infos = archive.infolist()
    _check_parts(infos, size)
    names = {_part_name(info) for info in infos}
    for part, what in _FOREIGN_PARTS.items():
        if part in names:
            raise SpreadsheetError(
                "FORMAT_UNSUPPORTED",
                f"The file is {what}; open it in its program and save it as .xlsx.",
            )
    if "[content_types].xml" not in names or "_rels/.rels" not in names:
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is no .xlsx workbook.")
    if any(name.endswith(("/vbaproject.bin", "/workbook.bin")) for name in names):
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            "The file is an .xlsm or .xlsb workbook; save it as .xlsx, without macros.",
        )


_FOREIGN_PARTS = {
    "index/document.iwa": "a Numbers document",
    "word/document.xml": "a text document (.docx)",
    "meta-inf/manifest.xml": "an OpenDocument or Java archive (.ods, .odt, .jar)",
}


def _numbers_of_64_bits(tail: bytes, end: int, size: int) -> tuple[int, int]:
    """Entries and bytes of a directory by the record of 64 bits before the usual one at `end`.

    It must lie where every reader looks for it, directly before its locator, as writers put it;
    and the usual record must not contradict it.
    """
    record = end - 20 - 56
    if record < 0 or not tail[record:].startswith(b"PK\x06\x06"):
        raise _unsafe("is an archive of 64 bits with its directory in an unusual place")
    length, _, _, disk, first_disk, on_disk, entries, directory_bytes, directory = (
        struct.unpack_from("<QHHIIQQQQ", tail, record + 4)
    )
    _, locator_disk, told_record, disks = struct.unpack_from("<4sLQL", tail, end - 20)
    usual_entries, usual_bytes, usual_directory = struct.unpack_from("<HLL", tail, end + 10)
    record += size - len(tail)
    agreed = (
        length == 44
        and (disk, first_disk, locator_disk, disks) == (0, 0, 0, 1)
        and told_record == record
        and on_disk == entries
        # The directory ends where the record begins.
        and directory + directory_bytes == record
        and usual_entries in (entries, 0xFFFF)
        and usual_bytes in (directory_bytes, 0xFFFFFFFF)
        and usual_directory in (directory, 0xFFFFFFFF)
    )
    if not agreed:
        raise _unsafe("is an archive of 64 bits whose records contradict each other")
    return entries, directory_bytes


def _check_parts(infos: Sequence[zipfile.ZipInfo], archive_bytes: int) -> None:
    """Refuse an archive by what its directory says of its parts."""
    if len(infos) > MAX_ENTRIES:
        raise _unsafe(f"has {len(infos)} parts; at most {MAX_ENTRIES} are read")
    if sum(info.file_size for info in infos) > MAX_INFLATED_BYTES:
        raise _unsafe(f"inflates to more than {MAX_INFLATED_BYTES:,} bytes")
    # Parts that share their bytes make much of little, each at a ratio that looks harmless.
    if sum(info.compress_size for info in infos) > archive_bytes:
        raise _unsafe("has parts that are larger than the file, or that overlap")
    for info in infos:
        if info.flag_bits & 1:
            raise SpreadsheetError(
                "FILE_UNREADABLE", "The workbook has a password; save it without."
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SpreadsheetError(
                "FILE_UNREADABLE", "The workbook is compressed in a way that workbooks are not."
            )
        if info.file_size > 1024**2 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise _unsafe(f"inflates more than {MAX_RATIO} times")


def _unsafe(what: str) -> SpreadsheetError:
    return SpreadsheetError("FILE_UNSAFE", f"The workbook {what}.")


def _cut_short() -> SpreadsheetError:
    return SpreadsheetError("FILE_UNREADABLE", "The workbook is cut short or damaged.")


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
        ValueError,
        struct.error,
    ) as error:
        raise _cut_short() from error


def _part_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/").lstrip("/").lower()


def _read_part(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, most_bytes: int = _MAX_PART_BYTES
) -> bytes:
    if info is None:
        return b""
    if info.file_size > most_bytes:
        raise _unsafe(f"has a part of {info.file_size:,} bytes; at most {most_bytes:,} are read")
    with _reading():
        return archive.read(info)


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    OSError,
    OverflowError,
    ValueError,
)
"""What a damaged archive makes the library raise."""


@contextmanager
def _reading() -> Iterator[None]:
    """Turns what a damaged archive raises into what a person can read."""
    try:
        yield
    except _DAMAGE as error:
        raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error


_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_PIECE_WORKBOOK = (
    f'{_DECLARATION}<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}">'
    '<workbookPr date1904="{date1904}"/>'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
)


def _open_package(file: BinaryIO) -> _Package:
    archive = _archive(file)
    names = {_part_name(info): info for info in archive.infolist()}

    def part(name: str) -> zipfile.ZipInfo | None:
        return names.get(name.lower())

    workbook = _targets(archive, part("_rels/.rels"), "").get("officedocument", [("", "")])[0][1]
    if part(workbook) is None or not workbook.lower().endswith(".xml"):
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is no .xlsx workbook.")
    folder, _, name = workbook.rpartition("/")
    targets = _targets(archive, part(f"{folder}/_rels/{name}.rels"), folder)
    by_id = dict(targets.get("worksheet", []))
    root = _xml(_read_part(archive, part(workbook)))
    if root.tag.rpartition("}")[2] != "workbook":
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is no .xlsx workbook.")
    sheets: list[tuple[str, str]] = []
    hidden: list[tuple[str, str]] = []
    for element in root.iterfind(".//{*}sheets/{*}sheet"):
        identity = next((v for k, v in element.attrib.items() if k.endswith("}id")), "")
        if part(by_id.get(identity, "")):
            visible = element.get("state", "visible") == "visible"
            (sheets if visible else hidden).append(
                (element.get("name") or "Sheet", by_id[identity])
            )
    properties = root.find(".//{*}workbookPr")
    date1904 = properties is not None and properties.get("date1904") in ("1", "true")
    styles, shared = (targets.get(each, [("", "")])[0][1] for each in ("styles", "sharedstrings"))
    relations = [("worksheet", "worksheets/sheet1.xml")]
    constant = {
        "xl/workbook.xml": _PIECE_WORKBOOK.format(date1904=int(date1904)).encode(),
        "_rels/.rels": _piece_relations([("officeDocument", "xl/workbook.xml")]),
    }
    content = _read_part(archive, part(styles))
    percents: dict[int, PercentFormat] = {}
    if content:
        root = _xml(content)
        percents = percent_styles(root)
        relations.append(("styles", "styles.xml"))
        constant["xl/styles.xml"] = without_misleading_formats(root) or content
    constant["xl/_rels/workbook.xml.rels"] = _piece_relations(relations)
    strings = shared if part(shared) else None
    return _Package(
        archive,
        names,
        sheets[:MAX_SHEETS],
        hidden[:MAX_SHEETS],
        constant,
        strings,
        percents,
    )


def _piece_relations(relations: Sequence[tuple[str, str]]) -> bytes:
    elements = "".join(
        f'<Relationship Id="rId{number}" Type="{_RELATIONS}/{relation}" Target="{target}"/>'
        for number, (relation, target) in enumerate(relations, 1)
    )
    return (
        f'{_DECLARATION}<Relationships xmlns="{_PACKAGE_RELATIONS}">{elements}</Relationships>'
    ).encode()


def _targets(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, folder: str
) -> dict[str, list[tuple[str, str]]]:
    """(id, part name) of each relation, by the last word of its type in lower case."""
    content = _read_part(archive, info)
    found: dict[str, list[tuple[str, str]]] = {}
    for element in _xml(content).iterfind("{*}Relationship") if content else ():
        if element.get("TargetMode") == "External":
            continue
        target = element.get("Target", "").replace("\\", "/")
        name = target.lstrip("/") if target.startswith("/") or not folder else f"{folder}/{target}"
        word = element.get("Type", "").rpartition("/")[2].lower()
        found.setdefault(word, []).append((element.get("Id", ""), _resolved(name)))
    return found


def _resolved(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _xml(content: bytes) -> ET.Element:
    if b"\x00" in content:
        # UTF-16, in which the next look would see nothing.
        raise _unusual("is not written in UTF-8")
    if b"<!" in content.replace(b"<!--", b""):
        raise _unsafe("has a document type of its own")
    try:
        return ET.fromstring(content)  # noqa: S314 - no document type, so no entities
    except (ET.ParseError, ValueError, LookupError) as error:
        raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error


# --- Sheets ---------------------------------------------------------------------------------------

_SHARED_MARK = "\ue000"
"""Stands before the index of a shared string. A workbook that has it elsewhere too names
another of its own strings with it."""

_ROOT = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)worksheet[\s>][^>]*")


class _Tags:
    """The tags of a sheet with the namespace prefix that its writer chose."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        escaped = re.escape(prefix)
        self.row = b"<" + prefix + b"row"
        self.sheet_data = b"<" + prefix + b"sheetData"
        self.end = b"</" + prefix + b"sheetData"
        self.close = b"</%bsheetData></%bworksheet>" % (prefix, prefix)
        self.usual_row = re.compile(b"<" + escaped + rb'row(?: r="([0-9]{1,9})")?')
        self.any_row = re.compile(b"<" + escaped + rb"row((?:\s[^>]*)?)>")
        self.cell = re.compile(
            b"<%bc((?:\\s[^>]*?)?)(?:/>|>(\\s*<%bf(?:\\s[^>]*?)?(?:/>|>([^<]*)))?)"
            % (escaped, escaped)
        )
        self.wide_blank_cell = re.compile(
            rb"""<%bc\s+(?:[^<>]*\s)?r="[A-Z]{3}[0-9]{1,9}"[^<>]*(?:/>|>\s*</%bc>)"""
            % (escaped, escaped)
        )
        self.error_cell = re.compile(rb"""(<%bc\s(?:[^>]*\s)?t\s*=\s*)["']e["']""" % escaped)
        self.value = re.compile(b"<%bv>([^<]*)" % escaped)
        value = b"<" + prefix + b"v>"
        self.usual_shared = b't="s">' + value
        self.marked = b't="str">' + value + _SHARED_MARK.encode()
        self.any_shared = re.compile(
            rb"""\bt\s*=\s*["']s["']([^>]*)>\s*<%bv(?:\s[^>]*)?>""" % escaped
        )
        self.marked_shared = rb't="str"\1>' + value + _SHARED_MARK.encode()
        formula = b"<" + prefix + b"f"
        self.formula = tuple(formula + char for char in (b">", b" ", b"/", b"\n", b"\t", b"\r"))

    def mark_shared(self, chunk: bytes) -> bytes:
        """The chunk with references to shared strings as texts that begin with _SHARED_MARK."""
        chunk = chunk.replace(self.usual_shared, self.marked)
        if b't="s"' in chunk or (b"'" in chunk and b"t='s'" in chunk):
            chunk = self.any_shared.sub(self.marked_shared, chunk)
        return chunk

    def has_special(self, chunk: bytes) -> bool:
        """Whether some cell of the chunk may hold a formula or an error value.

        A single byte is found a hundred times as fast as two, and is rarely there.
        """
        if b"f" in chunk and any(each in chunk for each in self.formula):
            return True
        return (b"e" in chunk and b't="e"' in chunk) or (b"'" in chunk and b"t='e'" in chunk)


_NUMBER_ATTRIBUTE = re.compile(rb"""(?:^|\s)r\s*=\s*["']([0-9]{1,9})["']""")
_REFERENCE = re.compile(rb"""(?:^|\s)r\s*=\s*["']([A-Za-z]{1,3})([0-9]{1,9})["']""")
_STYLE = re.compile(rb"""(?:^|\s)s\s*=\s*["']([0-9]{1,6})["']""")
_ERROR_TYPE = re.compile(rb"""(?:^|\s)t\s*=\s*["']e["']""")
_WIDE_REFERENCE = re.compile(rb'r="[A-Z]{3}')


def _pieces(package: _Package, sheet: str, piece_bytes: int) -> Iterator[_Piece]:
    """The sheet's rows in order, some of them blank."""
    with ExitStack() as opened:
        with _reading():
            stream = opened.enter_context(package.archive.open(package.names[sheet.lower()]))

        def read(size: int) -> bytes:
            with _reading():
                return stream.read(size)

        head = b""
        while (match := _ROOT.search(head)) is None or (b"<" + match[1] + b"sheetData" not in head):
            data = read(65_536)
            if not data or len(head) > _MAX_HEAD_BYTES:
                raise _unusual("has a sheet without rows of cells")
            head += data
        tags = _Tags(match[1])
        start = head.index(tags.sheet_data)
        while (open_end := head.find(b">", start)) < 0:
            data = read(65_536)
            if not data:
                raise _unusual("ends in the middle of a sheet")
            head += data
        if b"<!" in head[: match.start()] or head[match.end() :][:1] != b">":
            raise _unusual("has a document type of its own or an odd root")
        if head[open_end - 1 : open_end] == b"/":
            return
        reader = _SheetReader(package, tags, head[: match.end() + 1])
        for chunk in _row_chunks(read, head[open_end + 1 :], tags, piece_bytes):
            yield from reader.pieces(chunk)


def _row_chunks(
    read: Callable[[int], bytes], buffered: bytes, tags: _Tags, piece_bytes: int
) -> Iterator[bytes]:
    """The content of a sheet's data in chunks of whole rows."""
    searched = 0
    while True:
        end = buffered.find(tags.end, searched)
        if end >= 0:
            yield buffered[:end]
            break
        cut = buffered.rfind(tags.row)
        if cut > 0 and len(buffered) >= piece_bytes:
            yield buffered[:cut]
            buffered = buffered[cut:]
        elif len(buffered) > piece_bytes + _MAX_ROW_BYTES:
            raise _unsafe(f"has a row of more than {_MAX_ROW_BYTES:,} bytes")
        searched = max(0, len(buffered) - len(tags.end))
        data = read(piece_bytes)
        if not data:
            raise _unusual("ends in the middle of a sheet")
        buffered += data
    # To the end, where the archive compares the checksum.
    while read(1024**2):
        pass


def _unusual(what: str) -> SpreadsheetError:
    return SpreadsheetError(
        "FILE_UNREADABLE",
        f"The workbook {what}; open it in a spreadsheet program and save it again as .xlsx.",
    )


def _parsed(parts: Mapping[str, bytes], sheet_xml: bytes) -> tuple[CalamineSheet, list[list[Cell]]]:
    """A sheet that has the workbook to itself, and its rows."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("xl/worksheets/sheet1.xml", sheet_xml)
    buffer.seek(0)
    try:
        with CalamineWorkbook.from_filelike(buffer) as workbook:
            sheet = workbook.get_sheet_by_index(0)
            return sheet, sheet.to_python()
    except BaseException as error:
        # The parser's own assertions come as a PanicException, which is no Exception.
        if isinstance(error, CalamineError) or type(error).__name__ == "PanicException":
            raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error
        raise


_STRINGS_ROOT = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)sst[\s>/]")
_STRINGS_RELATIONS = [
    ("worksheet", "worksheets/sheet1.xml"),
    ("sharedStrings", "sharedStrings.xml"),
]


def _shared_strings(package: _Package) -> list[str]:
    """The texts that cells refer to by their index, read in pieces like a sheet's rows."""
    if package.shared_strings is None:
        return []
    strings: list[str] = []
    with ExitStack() as opened:
        with _reading():
            info = package.names[package.shared_strings.lower()]
            stream = opened.enter_context(package.archive.open(info))
        if info.file_size > _MAX_SHARED_STRINGS_BYTES:
            raise _unsafe(f"has texts of {info.file_size:,} bytes")
        buffered = b""
        while True:
            with _reading():
                data = stream.read(_PIECE_BYTES)
            buffered += data
            root = _STRINGS_ROOT.search(buffered)
            if root is None:
                raise _unusual("has no list of texts where it says")
            if b"<!" in buffered[: root.start()]:
                raise _unsafe("has a document type of its own")
            item = b"<" + root[1] + b"si"
            cut = buffered.rfind(item) if data else max(buffered.rfind(b"</" + root[1] + b"sst"), 0)
            first = buffered.find(item)
            if 0 <= first < cut:
                strings += _strings_of(package, root[1], buffered[first:cut])
                buffered = buffered[: root.end()] + buffered[cut:]
            elif len(buffered) > _PIECE_BYTES + _MAX_ROW_BYTES:
                raise _unsafe(f"has a text of more than {_MAX_ROW_BYTES:,} bytes")
            if not data:
                return strings


def _strings_of(package: _Package, prefix: bytes, items: bytes) -> list[str]:
    if b"<!" in items:
        raise _unusual("has comments among its texts")
    count = items.count(b"<" + prefix + b"si>") + items.count(b"<" + prefix + b"si ")
    count += items.count(b"<" + prefix + b"si/")
    namespace = b"xmlns:" + prefix[:-1] if prefix else b"xmlns"
    parts = dict(package.constant_parts)
    parts["xl/_rels/workbook.xml.rels"] = _piece_relations(_STRINGS_RELATIONS)
    parts["xl/sharedStrings.xml"] = b'<%bsst %b="%b">%b</%bsst>' % (
        prefix,
        namespace,
        _MAIN.encode(),
        items,
        prefix,
    )
    # A number beside each text keeps the rows of empty ones.
    cells = "".join(
        f'<row><c><v>0</v></c><c t="s"><v>{index}</v></c></row>' for index in range(count)
    )
    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{cells}</sheetData></worksheet>'
    _, rows = _parsed(parts, sheet.encode())
    return [str(row[1]) if len(row) > 1 else "" for row in rows]


class _SheetReader:
    """Reads chunks of rows of one sheet, in order."""

    def __init__(self, package: _Package, tags: _Tags, head: bytes) -> None:
        self._package = package
        self._tags = tags
        self._head = head + tags.sheet_data + b">"
        styles = package.percent_styles
        self._percent_tags = _PercentTags(tags.prefix, styles) if styles else None
        self._rows_before = 0
        self._last_number = 0

    def pieces(self, chunk: bytes) -> Iterator[_Piece]:
        """The rows of the chunk."""
        if (b"!" in chunk and b"<!" in chunk) or (b"?" in chunk and b"<?" in chunk):
            raise _unusual("has comments or instructions among its rows")
        if _WIDE_REFERENCE.search(chunk):
            # Formats that were filled to the last column hold no value.
            chunk = self._tags.wide_blank_cell.sub(b"", chunk)
            if _WIDE_REFERENCE.search(chunk):
                raise _unsafe(
                    f"has values beyond its first {MAX_COLUMNS} columns (A to ZZ);"
                    " delete the columns after the last one that is needed"
                )
        numbers = self._numbers(chunk)
        if not numbers:
            return
        if numbers[0] <= self._last_number or numbers[-1] > _MAX_ROWS or not _ascending(numbers):
            raise _unusual("has rows out of order")
        self._last_number = numbers[-1]
        for part, first, last in self._dense(chunk, numbers):
            piece = self._piece(part, first, last)
            if piece is not None:
                yield piece

    def _numbers(self, chunk: bytes) -> list[int]:
        """The row numbers; rows that tell none are counted."""
        found = self._tags.usual_row.findall(chunk)
        rows = len(found)
        before, self._rows_before = self._rows_before, self._rows_before + rows
        if b"" not in found:
            return list(map(int, found))
        attributes = self._tags.any_row.findall(chunk)
        told = [match for text in attributes if (match := _NUMBER_ATTRIBUTE.search(text))]
        if len(attributes) != rows or len(told) not in (0, rows):
            raise _unusual("numbers some rows and others not")
        if told:
            return [int(match[1]) for match in told]
        return list(range(before + 1, before + rows + 1))

    def _dense(self, chunk: bytes, numbers: list[int]) -> Iterator[tuple[bytes, int, int]]:
        """The chunk cut where rows are left out: calamine fills gaps, and they may be wide."""
        if numbers[-1] - numbers[0] < 2 * len(numbers) + 1_000:
            yield chunk, numbers[0], numbers[-1]
            return
        places = [match.start() for match in re.finditer(re.escape(self._tags.row), chunk)]
        first = 0
        for index in range(1, len(numbers) + 1):
            if index == len(numbers) or numbers[index] - numbers[index - 1] > 100:
                end = places[index] if index < len(numbers) else len(chunk)
                yield chunk[places[first] : end], numbers[first], numbers[index - 1]
                first = index

    def _piece(self, chunk: bytes, first: int, last: int) -> _Piece | None:
        marked = self._tags.mark_shared(chunk)
        has_strings = marked is not chunk and marked != chunk
        special: dict[tuple[int, int], Cell] = {}
        if self._tags.has_special(chunk):
            special = self._special_cells(chunk, first)
            # One error value that calamine does not know would cost all rows.
            marked = self._tags.error_cell.sub(rb'\1"str"', marked)
        content = b"".join((self._head, marked, self._tags.close))
        sheet, rows = _parsed(self._package.constant_parts, content)
        if has_strings:
            self._put_strings_in(rows)
        if sheet.start is None or sheet.end is None:
            return _with_special(_Piece([], [], 0), special)
        # Rows that tell their number are where they say, the others are counted from the chunk's.
        told = self._tells_number(chunk)
        top = sheet.start[0] + (0 if told else first - 1) + 1
        if top < first or top + len(rows) - 1 > last or sheet.end[1] >= MAX_COLUMNS:
            raise _unusual("has cells outside of their rows or of the columns A to ZZ")
        self._show_percentages(chunk, first, rows, (top, sheet.start[1]))
        piece = _Piece(range(top, top + len(rows)), rows, sheet.start[1])
        return _with_special(piece, special)

    def _put_strings_in(self, rows: list[list[Cell]]) -> None:
        """Replace references to shared strings by the strings."""
        strings = self._package.strings
        if not strings:
            strings.extend(_shared_strings(self._package))
        try:
            for row in rows:
                for column, cell in enumerate(row):
                    if type(cell) is str and cell[:1] == _SHARED_MARK:
                        row[column] = strings[int(cell[1:])]
        except (ValueError, IndexError) as error:
            raise _unusual("refers to texts that it does not have") from error

    def _tells_number(self, chunk: bytes) -> bool:
        row = self._tags.any_row.search(chunk)
        return row is not None and _NUMBER_ATTRIBUTE.search(row[1]) is not None

    def _special_cells(self, chunk: bytes, first: int) -> dict[tuple[int, int], Cell]:
        """(row number, column from 0) of the cells with a formula or an error value."""
        found: dict[tuple[int, int], Cell] = {}
        for number, column, text, match in self._cells(chunk, first):
            if match[2] is not None:
                found[number, column] = Formula("=" + _text(match[3] or b""))
            elif _ERROR_TYPE.search(match[1]):
                value = self._tags.value.search(text, match.end())
                found[number, column] = ErrorValue(_text(value[1]) if value else "#ERROR")
        return found

    def _cells(self, chunk: bytes, first: int) -> Iterator[tuple[int, int, bytes, re.Match[bytes]]]:
        """Every cell: row number, column from 0, the text of its row, and its tag in it."""
        number = first - 1
        for text in chunk.split(self._tags.row)[1:]:
            numbered = _NUMBER_ATTRIBUTE.search(text[: text.find(b">")])
            number = int(numbered[1]) if numbered else number + 1
            column = -1
            for match in self._tags.cell.finditer(text):
                reference = _REFERENCE.search(match[1])
                column = _column(reference[1]) if reference else column + 1
                yield number, column, text, match

    def _show_percentages(
        self, chunk: bytes, first: int, rows: list[list[Cell]], origin: tuple[int, int]
    ) -> None:
        """Replace numbers by Percent where the sheet shows them so. `origin` is the row number and
        the column of the first cell of `rows`."""
        if self._percent_tags is None:
            return
        found = self._percent_tags.referenced(chunk)
        if found is None:
            # Cells without a reference are counted.
            cells = [(n, c, _STYLE.search(m[1])) for n, c, _, m in self._cells(chunk, first)]
            found = [(n, c, style[1]) for n, c, style in cells if style]
        top, left = origin
        of_index = self._package.percent_styles
        formats = {style: of_index.get(int(style)) for style in {each[2] for each in found}}
        for number, column, style in found:
            shown = formats[style]
            row, place = number - top, column - left
            if shown is None or not (0 <= row < len(rows) and 0 <= place < len(rows[row])):
                continue
            cell = rows[row][place]
            if type(cell) is float and math.isfinite(cell) and shown.applies_to(cell):
                rows[row][place] = _percent(cell)


_MANY_STYLES = 100


class _PercentTags:
    """Finds the tags of cells in some styles, or in any style where these are many."""

    def __init__(self, prefix: bytes, styles: Collection[int]) -> None:
        few = len(styles) <= _MANY_STYLES
        tag, style = (
            re.escape(prefix),
            ("|".join(map(str, styles)) if few else "[0-9]{1,6}").encode(),
        )
        self._usual = re.compile(rb'<%bc r="([A-Z]{1,3})([0-9]{1,9})" s="(%b)"' % (tag, style))
        self._style = re.compile(rb"""s\s*=\s*["'](?:%b)["']""" % style)
        self._any = re.compile(
            rb"""<%bc(\s(?:[^<>]*?\s)?s\s*=\s*["'](%b)["'][^<>]*)>""" % (tag, style)
        )

    def referenced(self, chunk: bytes) -> list[tuple[int, int, bytes]] | None:
        """(row number, column from 0, style) of each; None where one has no reference.

        Nearly every writer begins a cell with its reference and its style, which is found several
        times as fast as attributes in any order. It is complete where the chunk has no further
        attribute with one of the styles.
        """
        tags = self._usual.findall(chunk)
        if len(tags) == len(self._style.findall(chunk)):
            columns = {letters: _column(letters) for letters in {tag[0] for tag in tags}}
            return [(int(number), columns[letters], style) for letters, number, style in tags]
        found = []
        for attributes, style in self._any.findall(chunk):
            reference = _REFERENCE.search(attributes)
            if reference is None:
                return None
            found.append((int(reference[2]), _column(reference[1]), style))
        return found


@lru_cache(maxsize=4_096)
def _percent(stored: float) -> Percent:
    """A stored fraction as the percentage shown, to the 15 digits that spreadsheets keep."""
    return Percent(Decimal(format(stored, ".15g")) * 100)


def _with_special(piece: _Piece, special: Mapping[tuple[int, int], Cell]) -> _Piece | None:
    """The piece with these cells put in, also where it had no row or column for them."""
    if not special:
        return piece if piece.rows else None
    rows: dict[int, dict[int, Cell]] = {
        number: dict(enumerate(cells, piece.first_column))
        for number, cells in zip(piece.row_numbers, piece.rows, strict=True)
    }
    for (number, column), cell in special.items():
        if column >= MAX_COLUMNS:
            raise _unsafe(f"has more than {MAX_COLUMNS} columns")
        rows.setdefault(number, {})[column] = cell
    width = 1 + max(max(cells, default=0) for cells in rows.values())
    numbers = sorted(rows)
    filled = [[rows[number].get(column, "") for column in range(width)] for number in numbers]
    return _Piece(numbers, filled, 0)


def _column(letters: bytes) -> int:
    """The index of a column from 0: A is 0, Z 25, AA 26."""
    index = 0
    for letter in letters.upper():
        index = index * 26 + letter - 64
    return index - 1


def _text(escaped: bytes) -> str:
    text = escaped.decode("utf-8", "replace")
    return unescape(text, {"&quot;": '"', "&apos;": "'"})


def _ascending(numbers: Sequence[int]) -> bool:
    return all(map(int.__lt__, numbers, islice(numbers, 1, None)))


# --- Both -----------------------------------------------------------------------------------------


def _matched(
    kind: Kind | None, header: Sequence[Cell], sheet: str = "", row: int = 0
) -> tuple[Kind, dict[str, int]]:
    """The kind and its columns; `sheet` and `row` say in an error where the header was found."""
    where = f"Row {row} of the sheet {_shortened(sheet)!r}" if sheet else f"Line {row} of the file"
    kind = kind or spreadsheet_columns.detect(header)
    if kind is None:
        raise SpreadsheetError(
            "COLUMN_MISSING",
            f"{where} was read as the header, but is the header of neither customers nor loans; "
            f"it has {spreadsheet_columns.listed(header)}. The templates show the columns of each.",
        )
    try:
        return kind, spreadsheet_columns.match(kind, header)
    except spreadsheet_columns.MissingColumnError as error:
        raise SpreadsheetError("COLUMN_MISSING", f"{error} {where} is its header.") from error
    except spreadsheet_columns.AmbiguousColumnError as error:
        raise SpreadsheetError("COLUMN_AMBIGUOUS", str(error)) from error
    except spreadsheet_columns.UnitError as error:
        raise SpreadsheetError("COLUMN_UNIT_UNSUPPORTED", str(error)) from error


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _columns_if_matched(kind: Kind, header: Sequence[object]) -> Mapping[str, int]:
    try:
        return spreadsheet_columns.match(kind, header)
    except spreadsheet_columns.ColumnsError:
        return {}


def _is_blank(cell: Cell) -> bool:
    return isinstance(cell, str) and (not cell or cell.isspace())


def _without_blank(
    row_numbers: Sequence[int], columns: Mapping[str, Sequence[Cell]], overlong: Sequence[int]
) -> Block:
    """The rows with a value in any column that is known."""
    count = len(row_numbers)
    blank = set(range(count))
    for cells in columns.values():
        if not blank:
            break
        blank = {index for index in blank if _is_blank(cells[index])}
    blank.difference_update(overlong)
    if not blank:
        return Block(row_numbers, columns, overlong)
    kept = [index for index in range(count) if index not in blank]
    places = {index: place for place, index in enumerate(kept)}
    return Block(
        [row_numbers[index] for index in kept],
        {field: [cells[index] for index in kept] for field, cells in columns.items()},
        [places[index] for index in overlong],
    )

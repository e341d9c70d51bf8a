"""The content of a file of any format: cells, blocks of rows, and columns matched to fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from credit_service.spreadsheets import headers as spreadsheet_headers
from credit_service.spreadsheets.cell_values import Cell, DateOrder, is_blank
from credit_service.spreadsheets.columns import Kind, TableKind

MAX_COLUMNS = 702
"""Most columns of a sheet: A to ZZ."""
TOO_WIDE = (
    f"has values beyond its first {MAX_COLUMNS} columns (A to ZZ);"
    " delete the columns after the last one that is needed"
)
"""What is wrong with a file that has more columns; completes 'The file …'."""
MAX_HEADER_ROWS = 20
"""Rows of a sheet, blank ones not counted, that are searched for the header."""
MAX_ROWS = 1_048_576
"""Rows of a sheet."""

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
    """The file cannot be read as rows. `code` is one of IngestionErrorCode; the message is for a
    person."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows by column, without blank ones.

    `row_numbers` are those of the sheet, or the line of a CSV file in which the row begins, from 1.
    `columns` maps a field to a cell for each row. `overlong` are the indexes of rows with a value
    after the last header, a sign of a separator inside some value. `date_orders` are the known
    orders of day and month of date columns.
    """

    row_numbers: Sequence[int]
    columns: Mapping[str, Sequence[Cell]]
    overlong: Sequence[int] = ()
    date_orders: Mapping[str, DateOrder] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A file with a known header: the kind of its rows, and the rows, which can be read once.

    `headers` maps a field to the header of its column. `sheet` is the name of the sheet, empty for
    CSV. `ignored_columns` are headers of columns that are not read, `unread_sheets` the names of
    other sheets with a header of either kind. Reading `blocks` may raise SpreadsheetError.
    """

    kind: Kind
    headers: Mapping[str, str]
    blocks: Iterator[Block]
    sheet: str = ""
    ignored_columns: tuple[str, ...] = ()
    unread_sheets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file with all their columns, for writing them back.

    `columns` maps a field to the index of its column, and is empty if the header does not fit.
    `rows` are the rows below the header and their numbers, with cells from the first column on,
    some of them blank; they can be read once. `above` are the rows above the header. `sheet_name`
    is empty for CSV.
    """

    sheet_name: str
    header_row: int
    header: Sequence[Cell]
    columns: Mapping[str, int]
    rows: Iterator[tuple[int, Sequence[Cell]]]
    above: Sequence[tuple[int, Sequence[Cell]]] = ()


def ignored_columns(kind: Kind, header: Sequence[Cell], rest: "Piece") -> tuple[str, ...]:
    """The columns that are not read: their headers, or the letters of columns with values and no
    header. The latter are searched in the first few thousand rows only."""
    names = spreadsheet_headers.ignored(kind, header)
    unnamed = []
    for place, cells in enumerate(zip(*rest.rows, strict=True), rest.first_column):
        no_header = place >= len(header) or is_blank(header[place])
        if no_header and not all(map(is_blank, set(cells))):
            unnamed.append(f"column {spreadsheet_headers.letters(place)} (no header)")
    return (*names, *unnamed)[: spreadsheet_headers.MAX_IGNORED]


class Piece:
    """Consecutive rows of a sheet, equally wide, from column `first_column` (0 is A) on."""

    __slots__ = ("first_column", "row_numbers", "rows")

    def __init__(
        self,
        row_numbers: Sequence[int],
        rows: Sequence[Sequence[Cell]],
        first_column: "int | Piece",
    ) -> None:
        self.row_numbers = row_numbers
        self.rows = rows
        self.first_column: int = (
            first_column.first_column if isinstance(first_column, Piece) else first_column
        )

    def block(self, columns: Mapping[str, int]) -> Block:
        by_column = list(zip(*self.rows, strict=True))
        empty = ("",) * len(self.rows)
        picked: dict[str, Sequence[Cell]] = {}
        for name, index in columns.items():
            place = index - self.first_column
            picked[name] = by_column[place] if 0 <= place < len(by_column) else empty
        return without_blank_rows(self.row_numbers, picked, ())


# --- Both -----------------------------------------------------------------------------------------


def matched(
    kind: Kind | None, header: Sequence[Cell], sheet: str = "", row: int = 0
) -> tuple[Kind, dict[str, int]]:
    """The kind and its columns. An error names `sheet` and `row` as the place of the header."""
    kind = kind or spreadsheet_headers.detect(header)
    if kind is None:
        raise SpreadsheetError(
            "COLUMN_MISSING",
            f"{_place(sheet, row)} was read as the header, but is the header of neither customers "
            f"nor loans; it has {spreadsheet_headers.listed(header)}. The templates show the "
            "columns of each.",
        )
    return kind, columns_of(kind, header, sheet, row)


def columns_of(
    kind: TableKind, header: Sequence[Cell], sheet: str = "", row: int = 0
) -> dict[str, int]:
    """Field → index of its column. An error names `sheet` and `row` as in `matched`.

    Raises:
        SpreadsheetError: the header does not identify the columns.
    """
    try:
        return spreadsheet_headers.match(kind, header)
    except spreadsheet_headers.MissingColumnError as error:
        where = _place(sheet, row)
        raise SpreadsheetError("COLUMN_MISSING", f"{error} {where} is its header.") from error
    except spreadsheet_headers.AmbiguousColumnError as error:
        raise SpreadsheetError("COLUMN_AMBIGUOUS", str(error)) from error
    except spreadsheet_headers.UnitError as error:
        raise SpreadsheetError("COLUMN_UNIT_UNSUPPORTED", str(error)) from error


def _place(sheet: str, row: int) -> str:
    return f"Row {row} of the sheet {_shortened(sheet)!r}" if sheet else f"Line {row} of the file"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def columns_if_matched(kind: TableKind, header: Sequence[object]) -> Mapping[str, int]:
    try:
        return spreadsheet_headers.match(kind, header)
    except spreadsheet_headers.ColumnsError:
        return {}


def without_blank_rows(
    row_numbers: Sequence[int], columns: Mapping[str, Sequence[Cell]], overlong: Sequence[int]
) -> Block:
    """The rows with a value in a known column."""
    count = len(row_numbers)
    blank = set(range(count))
    for cells in columns.values():
        if not blank:
            break
        blank = {index for index in blank if is_blank(cells[index])}
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

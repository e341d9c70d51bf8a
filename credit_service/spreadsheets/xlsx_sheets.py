"""The sheets of a workbook: the one whose header fits, its header, and the rows below."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from credit_service.spreadsheets import headers as spreadsheet_headers
from credit_service.spreadsheets.cell_values import Cell, is_blank
from credit_service.spreadsheets.columns import Kind, TableKind
from credit_service.spreadsheets.table import (
    MAX_HEADER_ROWS,
    Block,
    Piece,
    Source,
    SpreadsheetError,
    Table,
    columns_if_matched,
    ignored_columns,
    matched,
)
from credit_service.spreadsheets.xlsx_package import MAX_SHEETS, Package, open_package
from credit_service.spreadsheets.xlsx_pieces import pieces_of

# Enough for the header of a sheet that is not read.
PEEK_BYTES = 64 * 1024


def open_workbook(file: BinaryIO, kind: Kind | None) -> Source:
    package = open_package(file)
    first_error: SpreadsheetError | None = None
    for name, part in package.sheets:
        try:
            sheet = headed_sheet(package, part, kind)
            kind_found, columns = matched(kind, sheet.header, name, sheet.header_row)
        except SpreadsheetError as error:
            first_error = _more_helpful(first_error, error)
        else:
            return Source(
                kind_found,
                spreadsheet_headers.headers_of(sheet.header, columns),
                _sheet_blocks(sheet.rest, sheet.pieces, columns),
                spreadsheet_headers.shown(name),
                ignored_columns(kind_found, sheet.header, sheet.rest),
                _sheets_with_rows(package, besides=part),
            )
    raise first_error or _no_sheet()


def _sheets_with_rows(package: Package, besides: str) -> tuple[str, ...]:
    """The names of other sheets with a header of either kind."""
    names = []
    for name, part in (*package.sheets, *package.hidden_sheets)[:MAX_SHEETS]:
        if part == besides:
            continue
        # Damage in a sheet that is not read is ignored.
        with suppress(SpreadsheetError):
            sheet = headed_sheet(package, part, None, PEEK_BYTES)
            if spreadsheet_headers.is_complete(sheet.header):
                names.append(spreadsheet_headers.shown(name))
    return tuple(names)


def workbook_table(file: BinaryIO, kind: TableKind) -> Table:
    package = open_package(file)
    first_table: Table | None = None
    first_error: SpreadsheetError | None = None
    for name, part in package.sheets:
        try:
            sheet = headed_sheet(package, part, kind)
        except SpreadsheetError as error:
            first_error = _more_helpful(first_error, error)
            continue
        columns = columns_if_matched(kind, sheet.header)
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
    """The error to report, of the errors of two sheets in order. Raises an error that ends the
    search."""
    if error.code not in _SHEET_ERRORS:
        raise error
    # An error of another header helps more than one of no header.
    return error if first is None or first.code == "FILE_EMPTY" else first


def _no_sheet() -> SpreadsheetError:
    return SpreadsheetError("FILE_EMPTY", "The workbook has no visible sheet.")


@dataclass(frozen=True, slots=True)
class _HeadedSheet:
    """A sheet with its header; `rest` and `pieces` are the rows below."""

    above: Sequence[tuple[int, Sequence[Cell]]]
    header_row: int
    header: Sequence[Cell]
    rest: "Piece"
    pieces: Iterator["Piece"]


def headed_sheet(
    package: Package, part: str, kind: TableKind | None, piece_bytes: int | None = None
) -> _HeadedSheet:
    """The sheet from its header on: the row that names the most columns of the first
    MAX_HEADER_ROWS."""
    pieces = pieces_of(package, part, piece_bytes)
    read: list[Piece] = []
    best = (-1, 0, 0)
    filled = 0
    for piece in pieces:
        for index, cells in enumerate(piece.rows):
            named = [cell for cell in cells if not is_blank(cell)]
            if not named:
                continue
            if not filled and named == [spreadsheet_headers.SUMMARY_TITLE]:
                raise SpreadsheetError(
                    "FILE_EMPTY", "The workbook holds the summary of an ingestion and no rows."
                )
            if not read or read[-1] is not piece:
                read.append(piece)
            known = spreadsheet_headers.known_columns(named, kind)
            if known > best[0]:
                best = (known, len(read) - 1, index)
            filled += 1
            if filled == MAX_HEADER_ROWS or spreadsheet_headers.is_complete(named, kind):
                return _headed_at(read, best[1], best[2], pieces)
    if not filled:
        raise SpreadsheetError("FILE_EMPTY", "The file holds no row.")
    return _headed_at(read, best[1], best[2], pieces)


def _headed_at(
    read: Sequence["Piece"], place: int, index: int, pieces: Iterator["Piece"]
) -> _HeadedSheet:
    piece = read[place]
    header = [""] * piece.first_column + list(piece.rows[index])
    rest = Piece(piece.row_numbers[index + 1 :], piece.rows[index + 1 :], piece)
    first = Piece(piece.row_numbers[:index], piece.rows[:index], piece)
    above = list(_sheet_rows(first, iter(())))
    for each in reversed(read[:place]):
        above = [*_sheet_rows(each, iter(())), *above]
    return _HeadedSheet(
        above, piece.row_numbers[index], header, rest, chain(read[place + 1 :], pieces)
    )


def _sheet_rows(first: "Piece", rest: Iterator["Piece"]) -> Iterator[tuple[int, Sequence[Cell]]]:
    for piece in chain([first], rest):
        before = [""] * piece.first_column
        for number, cells in zip(piece.row_numbers, piece.rows, strict=True):
            yield number, before + list(cells)


def _sheet_blocks(
    first: "Piece", rest: Iterator["Piece"], columns: Mapping[str, int]
) -> Iterator[Block]:
    yield first.block(columns)
    for piece in rest:
        yield piece.block(columns)

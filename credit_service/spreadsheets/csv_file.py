"""CSV files: their encoding, separator, header and rows."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import BinaryIO

from credit_service.spreadsheets import headers as spreadsheet_headers
from credit_service.spreadsheets.cell_values import is_blank
from credit_service.spreadsheets.columns import Kind, TableKind
from credit_service.spreadsheets.table import (
    MAX_COLUMNS,
    MAX_HEADER_ROWS,
    TOO_WIDE,
    Block,
    Piece,
    Source,
    SpreadsheetError,
    Table,
    columns_if_matched,
    ignored_columns,
    matched,
    without_blank_rows,
)

_CSV_BLOCK_ROWS = 5_000


UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


# --- CSV ------------------------------------------------------------------------------------------


def open_csv(file: BinaryIO, kind: Kind | None) -> Source:
    (*_, (line, header)), records = _headed_csv(file, kind)
    kind, columns = matched(kind, header, row=line)
    first = list(islice(records, _CSV_BLOCK_ROWS))
    blocks = _csv_blocks(chain(first, records), columns, len(header))
    width = len(header)
    rows = Piece([], [(cells + [""] * width)[:width] for _, cells in first], 0)
    ignored = ignored_columns(kind, header, rows)
    headers = spreadsheet_headers.headers_of(header, columns)
    return Source(kind, headers, blocks, ignored_columns=ignored)


def csv_table(file: BinaryIO, kind: TableKind) -> Table:
    (*above, (line, header)), records = _headed_csv(file, kind)
    return Table("", line, header, columns_if_matched(kind, header), records, above)


_Record = tuple[int, list[str]]


def _headed_csv(file: BinaryIO, kind: TableKind | None) -> tuple[list[_Record], Iterator[_Record]]:
    """The records up to the header, which is the last of them, and the records below it."""
    file.seek(0)
    utf16 = file.read(2) in UTF16_MARKS
    file.seek(0)
    # Not closed here: the caller owns the file.
    text = io.TextIOWrapper(file, encoding="utf-16" if utf16 else "utf-8-sig", newline="")
    records = _csv_records(text, kind)
    read: list[_Record] = []
    best = (-1, 0)
    filled = 0
    for record in records:
        _cut(record[1])
        read.append(record)
        if all(map(is_blank, record[1])):
            continue
        known = spreadsheet_headers.known_columns(record[1], kind)
        if known > best[0]:
            best = (known, len(read))
        filled += 1
        if filled == MAX_HEADER_ROWS or spreadsheet_headers.is_complete(record[1], kind):
            break
    if not filled:
        raise SpreadsheetError("FILE_EMPTY", "The file holds no row.")
    return read[: best[1]], chain(read[best[1] :], records)


def _cut(cells: list[str]) -> None:
    """Remove the blank cells beyond the last column; reject others, as in a workbook."""
    if not all(map(is_blank, cells[MAX_COLUMNS:])):
        raise SpreadsheetError("FILE_UNSAFE", f"The file {TOO_WIDE}.")
    del cells[MAX_COLUMNS:]


_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"""sep=([^\w"'\r\n])\r?\n?""", re.IGNORECASE)
_LINE_CHARS = 65_536


def _csv_records(text: io.TextIOWrapper, kind: TableKind | None) -> Iterator[_Record]:
    """The line of the beginning of each record, and its cells."""
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


def _separator(text: io.TextIOWrapper, kind: TableKind | None) -> tuple[str, int]:
    """The separator, and the number of lines before the records that only name it.

    The first line may name it as Excel does (sep=;). Otherwise it is the one by which one of the
    first lines names the most columns, or else the most frequent one in the first line.
    """
    lines = [text.readline(_LINE_CHARS) for _ in range(MAX_HEADER_ROWS)]
    if match := _SEPARATOR_LINE.fullmatch(lines[0]):
        return match[1], 1

    def rank(separator: str) -> tuple[int, int]:
        split = csv.reader(lines, delimiter=separator)
        try:
            known = max(
                spreadsheet_headers.known_columns(cells[:MAX_COLUMNS], kind) for cells in split
            )
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
                if len(cells) > width and not all(map(is_blank, cells[width:])):
                    overlong.append(index)
                rows[index] = (cells + [""] * width)[:width]
        by_column = list(zip(*rows, strict=True))
        picked = {field: by_column[index] for field, index in columns.items()}
        yield without_blank_rows([number for number, _ in chunk], picked, overlong)

"""Reads .xlsx workbooks and CSV files as blocks of cells, in bounded memory, and trusts neither.

The client, which streams the rows of a file, and the service, which reads uploaded ones, share it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import BinaryIO, Literal

from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import COLUMNS, Kind, TableKind
from credit_service.spreadsheets.csv_file import UTF16_MARKS, csv_table, open_csv
from credit_service.spreadsheets.table import Block, Source, SpreadsheetError, Table, matched
from credit_service.spreadsheets.xlsx_package import check_directory, open_package
from credit_service.spreadsheets.xlsx_sheets import (
    PEEK_BYTES,
    headed_sheet,
    open_workbook,
    workbook_table,
)


def open_source(
    file: BinaryIO, filename: str, kind: Kind | None = None, date_order: DateOrder | None = None
) -> Source:
    """The rows of a seekable file, recognised by its content; with `kind` None, by its header.

    The header is the row that names the most columns among the first MAX_HEADER_ROWS, in the first
    visible sheet where it fits. Texts such as 31-03-2024 in date columns have the order
    `date_order`. If that is None, they have the only order in which all dates of the column exist;
    to find it, the file is read once more at the first such text.

    Raises:
        SpreadsheetError
    """
    opened = open_csv if check(file, filename) == "csv" else open_workbook
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

    Calls `another`, which reads all blocks once more, at the first text that needs an order.
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
    """The kinds of rows in a seekable file: both for a workbook with a sheet of each, customers
    first.

    Raises:
        SpreadsheetError: the file cannot be read, or no header fits.
    """
    if check(file, filename) == "csv":
        return (open_csv(file, None).kind,)
    package = open_package(file)
    found: set[Kind] = set()
    for _, part in package.sheets:
        with suppress(SpreadsheetError):
            found.add(matched(None, headed_sheet(package, part, None, PEEK_BYTES).header)[0])
    if not found:
        return (open_workbook(file, None).kind,)
    return tuple(each for each in COLUMNS if each in found)


def open_table(file: BinaryIO, filename: str, kind: TableKind) -> Table:
    """The rows that `open_source` finds, with everything that it ignores. If no header fits, the
    rows of the first sheet that has any.

    Raises:
        SpreadsheetError: the file cannot be read at all.
    """
    if check(file, filename) == "csv":
        return csv_table(file, kind)
    return workbook_table(file, kind)


def check(file: BinaryIO, filename: str) -> Literal["xlsx", "csv"]:
    """The format of a seekable file, without reading its content.

    Raises:
        SpreadsheetError: the file is empty, of another format than it must be or its name says,
            damaged, or beyond a limit.
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
        check_directory(file)
        return "xlsx"
    if name.endswith(".xlsx"):
        raise SpreadsheetError(
            "FILE_UNREADABLE", "The file is named .xlsx, but its content is no workbook."
        )
    if head.startswith(UTF16_MARKS):
        # The end may cut a character in two.
        head = head[: len(head) // 2 * 2].decode("utf-16", "ignore").encode()
    if re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head):
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            "The file is neither an .xlsx workbook nor CSV text in UTF-8 or UTF-16;"
            " save it as .xlsx or as CSV UTF-8.",
        )
    return "csv"


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

"""Files as batches of the contract's rows, typed and exact.

The client validates only what a message cannot contain: a cell that does not fit its field is sent
as an UnreadableCell, so that the service rejects and reports the row like any other. Numbers and
dates follow the same rules as in an uploaded file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from google.type.date_pb2 import Date

from credit_service.spreadsheets import cell_values, source, table
from credit_service.spreadsheets.cell_values import MAX_NUMBER, Cell, DateOrder, Form
from credit_service.spreadsheets.columns import COLUMNS, ColumnType, Kind
from credit_service.spreadsheets.table import Block, SpreadsheetError
from credit_service.v1 import ingestion_pb2
from credit_service.v1.ingestion_service_pb2 import IngestRowsRequest, RowBatch
from credit_service_client.sources import BatchProgress, SourceError

BATCH_ROWS = 5_000
"""Rows per batch. The contract allows twice as many, but the service stores several waiting batches
together, and gets the first of them sooner this way."""

MAX_BATCH_BYTES = 3 * 1024 * 1024
"""Larger batches are split, to stay below the maximum message size of 4 MiB."""

_MAX_FOUND_CHARS = 200
_MAX_TEXT_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with a known header. Its rows can be read from any offset, any number of times.

    `size_bytes` is the maximum of `BatchProgress.read_bytes`. `date_order` is that of numeric dates
    with the year last; None is the only order that fits the whole column. The other fields say what
    is read of the file and what is not, as in `table.Source`; they are empty for an unopened file.
    """

    path: Path
    kind: Kind
    size_bytes: int
    date_order: DateOrder | None = None
    sheet: str = ""
    ignored_columns: tuple[str, ...] = ()
    unread_sheets: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        """The name without folders."""
        return self.path.name

    def batches(self, offset: int = 0) -> Iterator[BatchProgress]:
        """Yield the rows that are not blank in batches, from the offset-th row on.

        Raises SourceError if the rest of the file is damaged.
        """
        with _explained(self.path), self.path.open("rb") as file:
            opened = source.open_source(file, self.path.name, self.kind, self.date_order)
            for request in _requests(opened, offset):
                yield BatchProgress(request, file.tell())


def open_source(
    path: Path, kind: Kind | None = None, date_order: DateOrder | None = None
) -> SourceFile:
    """Return the file at `path`, .xlsx or CSV, with its header matched.

    Without `kind`, the kind is detected from the header.

    Raises:
        SourceError: the file is absent, of another format, damaged or empty, its kind cannot be
            detected, or a required column is missing.
    """
    _ensure_file(path)
    with _explained(path), path.open("rb") as file:
        opened = source.open_source(file, path.name, kind)
    return SourceFile(
        path,
        opened.kind,
        path.stat().st_size,
        date_order,
        opened.sheet,
        opened.ignored_columns,
        opened.unread_sheets,
        opened.headers,
    )


def _ensure_file(path: Path) -> None:
    if path.is_dir():
        raise SourceError(f"{path} is a folder; name a file in it.")
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")


def kinds(path: Path) -> tuple[Kind, ...]:
    """Return the kinds of rows in the file: both, customers first, for a workbook with both.

    Raises:
        SourceError: like `open_source`.
    """
    _ensure_file(path)
    with _explained(path), path.open("rb") as file:
        return source.kinds(file, path.name)


class _explained:  # noqa: N801 - reads as the block it guards
    """Turns errors of files into SourceError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SpreadsheetError):
            raise SourceError(f"{self._path.name}: {error.message}") from error
        if isinstance(error, OSError):
            raise SourceError(f"{self._path} cannot be read: {error.strerror}.") from error


def _requests(source: table.Source, offset: int) -> Iterator[IngestRowsRequest]:
    skipped = count = 0
    request = IngestRowsRequest(batch=RowBatch(offset=offset))
    for block in source.blocks:
        rows = len(block.row_numbers)
        first = min(offset - skipped, rows)
        skipped += first
        while first < rows:
            end = min(rows, first + BATCH_ROWS - count)
            _fill(request.batch, block, range(first, end), source.kind)
            count += end - first
            first = end
            if count == BATCH_ROWS:
                yield from _within_size(request, source.kind)
                request = IngestRowsRequest(batch=RowBatch(offset=request.batch.offset + count))
                count = 0
    if count:
        yield from _within_size(request, source.kind)


def _rows_of(batch: RowBatch, kind: Kind) -> Any:
    """Return the message in the batch that has its rows."""
    return batch.loans if kind == "LOANS" else batch.customers


def _within_size(request: IngestRowsRequest, kind: Kind) -> Iterator[IngestRowsRequest]:
    batch = request.batch
    rows = _rows_of(batch, kind).rows
    if batch.ByteSize() <= MAX_BATCH_BYTES or len(rows) == 1:
        yield request
        return
    half = len(rows) // 2
    for offset, part in ((batch.offset, rows[:half]), (batch.offset + half, rows[half:])):
        smaller = IngestRowsRequest(batch=RowBatch(offset=offset))
        _rows_of(smaller.batch, kind).rows.extend(part)
        yield from _within_size(smaller, kind)


_FILL_ROWS = 2_500
"""Rows encoded at a time. Their texts may have a thousand characters, and the shorter ones of a
column take as much memory as the longest."""

_ROW_TYPES: Mapping[Kind, Any] = {
    "CUSTOMERS": ingestion_pb2.CustomerRow,
    "LOANS": ingestion_pb2.LoanRow,
}


def _fill(batch: RowBatch, block: Block, rows: range, kind: Kind) -> None:
    """Add these rows of the block to the batch."""
    # Importing numpy takes 0.1 s, which other commands save.
    from credit_service.client import encoding  # noqa: PLC0415

    messages = _rows_of(batch, kind)
    numbers = _ROW_TYPES[kind].DESCRIPTOR.fields_by_name
    for first in rows[::_FILL_ROWS]:
        part = slice(first, min(first + _FILL_ROWS, rows.stop))
        unreadable = _overlong(block, part)
        fields: dict[int, tuple[ColumnType, encoding.Values]] = {}
        for column in COLUMNS[kind]:
            if column.field not in block.columns:
                continue
            convert = CONVERTERS[column.type]
            if order := block.date_orders.get(column.field):
                convert = replace(convert, cell=partial(_date, order=order))
            cells = block.columns[column.field][part]
            values: encoding.Values | None = None
            if convert.most is not None:
                values = encoding.whole_numbers(cells, convert.most)
            if values is None:
                values = _converted(column.field, cells, convert.cell, unreadable)
            fields[numbers[column.field].number] = column.type, values
        row_numbers = numbers["row_number"].number, block.row_numbers[part]
        before = len(messages.rows)
        messages.MergeFromString(encoding.message_rows(fields, row_numbers))
        for index, found in unreadable.items():
            messages.rows[before + index].unreadable_cells.extend(found)


_Unreadable = dict[int, list[ingestion_pb2.UnreadableCell]]


def _overlong(block: Block, part: slice) -> _Unreadable:
    """Return the rows with a value beyond the last header, by their index in the part."""
    return {
        index - part.start: [
            ingestion_pb2.UnreadableCell(code=ingestion_pb2.ROW_ERROR_CODE_ROW_TOO_LONG)
        ]
        for index in block.overlong
        if part.start <= index < part.stop
    }


_Amount = tuple[int, int]
"""Units and nanos of a Money, with the same sign."""


@dataclass(frozen=True, slots=True)
class Converter:
    """Converts a cell to the value of its field, None for an empty one.

    A column of whole numbers up to `most` alone is converted at once; `most` is None where it
    is not. `fill` sets the field of a message.
    """

    cell: Callable[[Cell], Any]
    most: int | None = None
    fill: Callable[[Any, str, Any], None] = setattr


def _fill_money(message: Any, field: str, amount: _Amount) -> None:
    money = getattr(message, field)
    # Also if both are 0, which is an amount: an unset message means a missing value.
    money.units, money.nanos = amount


def _fill_decimal(message: Any, field: str, text: str) -> None:
    getattr(message, field).value = text


def _converted(
    name: str, cells: Sequence[Cell], convert: Callable[[Cell], Any], unreadable: _Unreadable
) -> list[Any]:
    try:
        return list(map(convert, cells))
    except UnreadableError:
        return _cell_by_cell(name, cells, convert, unreadable)


def _cell_by_cell(
    name: str,
    cells: Sequence[Cell],
    convert: Callable[[Cell], Any],
    unreadable: _Unreadable,
) -> list[Any]:
    values = []
    for index, cell in enumerate(cells):
        try:
            values.append(convert(cell))
        except UnreadableError as error:
            values.append(None)
            found = cell_values.shown(cell)[:_MAX_FOUND_CHARS]
            code = ingestion_pb2.RowErrorCode.Value(f"ROW_ERROR_CODE_{error.code}")
            unreadable.setdefault(index, []).append(
                ingestion_pb2.UnreadableCell(column=name, found=found, code=code)
            )
    return values


class UnreadableError(Exception):
    """The cell does not fit the field. `code` is a name of RowErrorCode."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _raise_unless_empty(code: str) -> None:
    """Raise the reason why a cell has no value, unless it is empty."""
    if code not in ("", "MISSING"):
        raise UnreadableError(code)


def _number(cell: Cell, form: Form) -> Decimal | None:
    """Return the cell as a number, or None if it is empty."""
    number, code = cell_values.number(cell, form)
    _raise_unless_empty(code)
    return number


def _scaled(number: Decimal, decimals: int) -> int:
    value = cell_values.scaled(number, decimals)
    if value is None:
        raise UnreadableError("TOO_PRECISE" if decimals else "NOT_A_WHOLE_NUMBER")
    return value


def _whole(most: int) -> Converter:
    """Return the converter to a whole number from -`most` to `most`."""

    def convert(cell: Cell) -> int | None:
        number = _number(cell, "WHOLE")
        if number is None:
            return None
        whole = _scaled(number, 0)
        if not -most <= whole <= most:
            raise UnreadableError("OUT_OF_RANGE")
        return whole

    return Converter(convert, most)


def _money(cell: Cell) -> _Amount | None:
    number = _number(cell, "AMOUNT")
    if number is None:
        return None
    units, rest = divmod(abs(_scaled(number, 9)), 1_000_000_000)
    sign = -1 if number < 0 else 1
    return sign * units, sign * rest


# A file has few distinct rates and days. Converting whole numbers is as fast as a lookup.
@lru_cache(maxsize=32_768, typed=True)
def _rate(cell: Cell) -> str | None:
    """Return a rate in percent as decimal text, or None for an empty cell."""
    number = _number(cell, "RATE")
    if number is None:
        return None
    _scaled(number, 2)
    return format(number, "f")


@lru_cache(maxsize=32_768, typed=True)
def _date(cell: Cell, order: DateOrder | None = None) -> bytes | None:
    """Return an encoded google.type.Date: of a date, of a midnight, or of a text that is
    unambiguous in that order."""
    day, code = cell_values.day(cell, order)
    _raise_unless_empty(code)
    if day is None:
        return None
    encoded: bytes = Date(year=day.year, month=day.month, day=day.day).SerializeToString()
    return encoded


def _text(too_long: str) -> Converter:
    """Return the converter that keeps text. `too_long` is the error code of overlong text."""

    def convert(cell: Cell) -> str:
        if not isinstance(cell, str):
            return cell_values.shown(cell)
        _raise_unless_empty(cell_values.problem_of_text(cell))
        if len(cell) > _MAX_TEXT_CHARS:
            raise UnreadableError(too_long)
        return cell

    return Converter(convert)


CONVERTERS: Mapping[ColumnType, Converter] = {
    "ID": _whole(MAX_NUMBER),
    "WHOLE": _whole(2**31 - 1),
    "AMOUNT": Converter(_money, MAX_NUMBER, _fill_money),
    "RATE": Converter(_rate, fill=_fill_decimal),
    "DAY": Converter(_date),
    "NAME": _text("TEXT_INVALID"),
    "PHONE": _text("PHONE_INVALID"),
}

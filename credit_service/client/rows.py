"""Files as batches of the contract's rows, typed and exact.

The client validates only what a message cannot contain: a cell that does not fit its field is sent
as an UnreadableCell, so that the service rejects and reports the row like any other. Numbers and
dates follow the same rules as in an uploaded file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

from google.type.date_pb2 import Date

from credit_service.spreadsheets import cell_values, source, table
from credit_service.spreadsheets.cell_values import MAX_NUMBER, Cell, DateOrder, Form
from credit_service.spreadsheets.columns import COLUMNS, ColumnType, Kind
from credit_service.spreadsheets.table import Block, SpreadsheetError
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2

BATCH_ROWS = 5_000
"""Rows per batch. The contract allows twice as many, but the service stores several waiting batches
together, and gets the first of them sooner this way."""

MAX_BATCH_BYTES = 3 * 1024 * 1024
"""Larger batches are split, to stay below the maximum message size of 4 MiB."""

_MAX_FOUND_CHARS = 200
_MAX_TEXT_CHARS = 1_000


class SourceError(Exception):
    """The file cannot be read as rows. The message says why."""


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

    def batches(self, offset: int = 0) -> "Iterator[BatchProgress]":
        """Yield the rows that are not blank in batches, from the offset-th row on.

        Raises SourceError if the rest of the file is damaged.
        """
        with _explained(self.path), self.path.open("rb") as file:
            opened = source.open_source(file, self.path.name, self.kind, self.date_order)
            for batch in _batches(opened, offset):
                yield BatchProgress(batch, file.tell())


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch, and the approximate number of bytes of the file read so far."""

    batch: ingestion_service_pb2.RowBatch
    read_bytes: int


def open_source(
    path: Path, kind: Kind | None = None, date_order: DateOrder | None = None
) -> SourceFile:
    """Return the file at `path`, .xlsx or CSV, with its header matched.

    Without `kind`, the kind is detected from the header.

    Raises:
        SourceError: the file is absent, of another format, damaged or empty, its kind cannot be
            detected, or a required column is missing.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")
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


def kinds(path: Path) -> tuple[Kind, ...]:
    """Return the kinds of rows in the file: both, customers first, for a workbook with both.

    Raises:
        SourceError: like `open_source`.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")
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


def _batches(source: table.Source, offset: int) -> Iterator[ingestion_service_pb2.RowBatch]:
    skipped = 0
    batch = ingestion_service_pb2.RowBatch(offset=offset)
    rows = _rows_of(batch, source.kind)
    for block in source.blocks:
        count = len(block.row_numbers)
        first = min(offset - skipped, count)
        skipped += first
        while first < count:
            end = min(count, first + BATCH_ROWS - len(rows))
            _fill(rows, block, range(first, end), source.kind)
            first = end
            if len(rows) == BATCH_ROWS:
                yield from _within_size(batch, source.kind)
                batch = ingestion_service_pb2.RowBatch(offset=batch.offset + BATCH_ROWS)
                rows = _rows_of(batch, source.kind)
    if rows:
        yield from _within_size(batch, source.kind)


def _rows_of(batch: ingestion_service_pb2.RowBatch, kind: Kind) -> Any:
    return batch.loans.rows if kind == "LOANS" else batch.customers.rows


def _within_size(
    batch: ingestion_service_pb2.RowBatch, kind: Kind
) -> Iterator[ingestion_service_pb2.RowBatch]:
    rows = _rows_of(batch, kind)
    if batch.ByteSize() <= MAX_BATCH_BYTES or len(rows) == 1:
        yield batch
        return
    half = len(rows) // 2
    for offset, part in ((batch.offset, rows[:half]), (batch.offset + half, rows[half:])):
        smaller = ingestion_service_pb2.RowBatch(offset=offset)
        _rows_of(smaller, kind).extend(part)
        yield from _within_size(smaller, kind)


_FILL_ROWS = 128
"""Rows converted at a time: few enough that their values stay in the processor's cache."""


def _fill(messages: Any, block: Block, rows: range, kind: Kind) -> None:
    """Add a message to `messages` for each of these rows of the block."""
    for first in rows[::_FILL_ROWS]:
        part = slice(first, min(first + _FILL_ROWS, rows.stop))
        unreadable = _overlong(block, part)
        added = []
        for number in block.row_numbers[part]:
            message = messages.add()
            message.row_number = number
            added.append(message)
        for column in COLUMNS[kind]:
            if column.field not in block.columns:
                continue
            convert = CONVERTERS[column.type]
            if order := block.date_orders.get(column.field):
                convert = replace(convert, cell=partial(_date, order=order))
            cells = block.columns[column.field][part]
            values = _converted(column.field, cells, convert, unreadable)
            convert.fill(added, column.field, values)
        for index, found in unreadable.items():
            added[index].unreadable_cells.extend(found)


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

# Fields are set one by one and in place: protobuf copies nested messages into their parents, which
# takes twice the time. None is an empty cell, and its field stays unset.


def _fill_plain(messages: Sequence[Any], field: str, values: Sequence[Any]) -> None:
    for message, value in zip(messages, values, strict=True):
        if value is not None:
            setattr(message, field, value)


def _fill_money(messages: Sequence[Any], field: str, amounts: Sequence[_Amount | None]) -> None:
    for message, amount in zip(messages, amounts, strict=True):
        if amount is not None:
            money = getattr(message, field)
            # Also if both are 0, which is an amount: an unset message means a missing value.
            money.units, money.nanos = amount


def _fill_decimals(messages: Sequence[Any], field: str, texts: Sequence[str | None]) -> None:
    for message, text in zip(messages, texts, strict=True):
        if text is not None:
            getattr(message, field).value = text


def _fill_dates(messages: Sequence[Any], field: str, days: Sequence[Date | None]) -> None:
    for message, day in zip(messages, days, strict=True):
        if day is not None:
            getattr(message, field).CopyFrom(day)


@dataclass(frozen=True, slots=True)
class Converter:
    """Converts cells to field values, and fills the field of messages with them. `together`
    converts a whole column of common cells to the same values in a fraction of the time, and
    returns None for any other column."""

    cell: Callable[[Cell], Any]
    together: Callable[[Sequence[Cell]], list[Any] | None] = lambda _cells: None
    fill: Callable[[Sequence[Any], str, Sequence[Any]], None] = _fill_plain


def _converted(
    name: str, cells: Sequence[Cell], convert: Converter, unreadable: _Unreadable
) -> list[Any]:
    values = convert.together(cells)
    if values is not None:
        return values
    try:
        return list(map(convert.cell, cells))
    except UnreadableError:
        return _cell_by_cell(name, cells, convert.cell, unreadable)


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


_PLAIN_DIGITS = 15


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


def _whole_numbers(cells: Sequence[Any], most: int) -> list[int] | None:
    """Return what `_number` reads from texts of digits (most cells of a CSV file) or from whole
    floats (most cells of a workbook). None if one cell is different or above `most`."""
    kinds = set(map(type, cells))
    if kinds == {str}:
        digits = "".join(cells)
        if not (digits.isascii() and digits.isdigit() and all(cells)):
            return None
        if max(map(len, cells)) > _PLAIN_DIGITS:
            return None
    elif kinds != {float} or not all(map(float.is_integer, cells)):
        return None
    numbers = list(map(int, cells))
    return numbers if -most <= min(numbers) and max(numbers) <= most else None


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

    return Converter(convert, lambda cells: _whole_numbers(cells, most))


def _money(cell: Cell) -> _Amount | None:
    number = _number(cell, "AMOUNT")
    if number is None:
        return None
    units, rest = divmod(abs(_scaled(number, 9)), 1_000_000_000)
    sign = -1 if number < 0 else 1
    return sign * units, sign * rest


def _whole_amounts(cells: Sequence[Cell]) -> list[_Amount] | None:
    units = _whole_numbers(cells, MAX_NUMBER)
    return None if units is None else list(zip(units, repeat(0)))


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
def _date(cell: Cell, order: DateOrder | None = None) -> Date | None:
    """Return the day of a date, of a midnight, or of a text that is unambiguous in that order."""
    day, code = cell_values.day(cell, order)
    _raise_unless_empty(code)
    return None if day is None else Date(year=day.year, month=day.month, day=day.day)


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
    "AMOUNT": Converter(_money, _whole_amounts, _fill_money),
    "RATE": Converter(_rate, fill=_fill_decimals),
    "DAY": Converter(_date, fill=_fill_dates),
    "NAME": _text("TEXT_INVALID"),
    "PHONE": _text("PHONE_INVALID"),
}

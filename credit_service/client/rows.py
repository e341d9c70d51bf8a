"""Files as batches of the contract's rows, typed and exact.

The client validates only what a message cannot contain: a cell that does not fit its field is sent
as an UnreadableCell, so that the service rejects and reports the row like any other. Numbers and
dates follow the same rules as in an uploaded file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

from google.type.date_pb2 import Date

from credit_service.spreadsheets import cell_values, source, table
from credit_service.spreadsheets.cell_values import DateOrder, Form
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.table import (
    ERROR_VALUES,
    Block,
    Cell,
    ErrorValue,
    Formula,
    Percent,
    SpreadsheetError,
)
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
    converters = _CUSTOMER_CELLS
    fill: Callable[..., None] = _fill_customer
    if kind == "LOANS":
        converters, fill = _LOAN_CELLS, _fill_loan
    for first in rows[::_FILL_ROWS]:
        part = slice(first, min(first + _FILL_ROWS, rows.stop))
        unreadable = _overlong(block, part)
        numbers = block.row_numbers[part]
        columns = [
            _converted(
                name,
                block.columns[name][part],
                _in_order(convert, block.date_orders.get(name)),
                unreadable,
            )
            if name in block.columns
            else repeat(None, len(numbers))
            for name, convert in converters.items()
        ]
        base = len(messages)
        for number, *values in zip(numbers, *columns, strict=True):
            message = messages.add()
            message.row_number = number
            fill(message, *values)
        for index, cells in unreadable.items():
            messages[base + index].unreadable_cells.extend(cells)


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


@dataclass(frozen=True, slots=True)
class _Converter:
    """Converts cells to field values. `together` converts a whole column of common cells to the
    same values in a fraction of the time, and returns None for any other column."""

    cell: Callable[[Cell], Any]
    together: Callable[[Sequence[Cell]], list[Any] | None] = lambda _cells: None


def _in_order(convert: _Converter, order: DateOrder | None) -> _Converter:
    """Return the converter of a column of dates with a known order."""
    return convert if order is None else _Converter(partial(_date, order=order))


def _converted(
    name: str, cells: Sequence[Cell], convert: _Converter, unreadable: _Unreadable
) -> list[Any]:
    values = convert.together(cells)
    if values is not None:
        return values
    try:
        return list(map(convert.cell, cells))
    except _UnreadableError:
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
        except _UnreadableError as error:
            values.append(None)
            found = table.shown(cell)[:_MAX_FOUND_CHARS]
            unreadable.setdefault(index, []).append(
                ingestion_pb2.UnreadableCell(column=name, found=found, code=error.code)
            )
    return values


class _UnreadableError(Exception):
    """The cell does not fit the field. `code` is a RowErrorCode."""

    def __init__(self, code: ingestion_pb2.RowErrorCode.ValueType) -> None:
        super().__init__(code)
        self.code = code


_MOST = 2**53
_PLAIN_DIGITS = 15
# Precision at which nothing is rounded.
_EXACT = Context(prec=500)


def _text_of(cell: str) -> str:
    """Return the trimmed text, '' for an empty cell. Formulas and error values raise."""
    if isinstance(cell, Formula):
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_FORMULA)
    text = cell.strip()
    if isinstance(cell, ErrorValue) or text in ERROR_VALUES:
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_ERROR_VALUE)
    return text


def _number(cell: Cell, form: Form) -> Decimal | None:
    """Return the cell as a number below 2⁵³, or None if it is empty."""
    if isinstance(cell, str):
        text = _text_of(cell)
        if not text:
            return None
        numeral = cell_values.plain_numeral(text, form)
        if numeral is None:
            if cell_values.is_percentage(text):
                raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_PERCENTAGE)
            raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_NOT_A_NUMBER)
        text = numeral
    elif isinstance(cell, float):
        if isinstance(cell, Percent) and form != "RATE":
            raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_PERCENTAGE)
        # A workbook shows 15 digits of a fraction. Further digits are errors of the float.
        whole = cell.is_integer() and abs(cell) < _MOST
        text = str(int(cell)) if whole else format(cell, ".15g")
    elif isinstance(cell, int) and not isinstance(cell, bool):
        text = str(cell)
    else:
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_NOT_A_NUMBER)
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_NOT_A_NUMBER)
    if abs(number) >= _MOST:
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_OUT_OF_RANGE)
    return number


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


def _whole(most: int) -> _Converter:
    """Return the converter to a whole number from -`most` to `most`."""

    def convert(cell: Cell) -> int | None:
        number = _number(cell, "WHOLE")
        if number is None:
            return None
        if number != int(number):
            raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_NOT_A_WHOLE_NUMBER)
        if not -most <= number <= most:
            raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_OUT_OF_RANGE)
        return int(number)

    return _Converter(convert, lambda cells: _whole_numbers(cells, most))


_Amount = tuple[int, int]
"""Units and nanos of a Money, with the same sign."""


def _money(cell: Cell) -> _Amount | None:
    number = _number(cell, "AMOUNT")
    if number is None:
        return None
    nanos = number.scaleb(9, _EXACT)
    if nanos != int(nanos):
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_TOO_PRECISE)
    units, rest = divmod(abs(int(nanos)), 1_000_000_000)
    sign = -1 if number < 0 else 1
    return sign * units, sign * rest


def _whole_amounts(cells: Sequence[Cell]) -> list[_Amount] | None:
    units = _whole_numbers(cells, _MOST - 1)
    return None if units is None else list(zip(units, repeat(0)))


# A file has few distinct rates and days. Converting whole numbers is as fast as a lookup.
@lru_cache(maxsize=32_768, typed=True)
def _rate(cell: Cell) -> str | None:
    """Return a rate in percent as decimal text, or None for an empty cell."""
    number = _number(cell, "RATE")
    if number is None:
        return None
    hundredths = number.scaleb(2, _EXACT)
    if hundredths != int(hundredths):
        raise _UnreadableError(ingestion_pb2.ROW_ERROR_CODE_TOO_PRECISE)
    return format(number, "f")


@lru_cache(maxsize=32_768, typed=True)
def _date(cell: Cell, order: DateOrder | None = None) -> Date | None:
    """Return the day of a date, of a midnight, or of a text that is unambiguous in that order."""
    day: date | None = None
    code = "DATE_INVALID"
    if type(cell) is date:
        day = cell
    elif isinstance(cell, str):
        text = _text_of(cell)
        if not text:
            return None
        day, code = cell_values.day_of_text(text, order)
    elif isinstance(cell, datetime):
        day, code = cell_values.day_of_moment(cell)
    if day is None:
        raise _UnreadableError(ingestion_pb2.RowErrorCode.Value(f"ROW_ERROR_CODE_{code}"))
    return Date(year=day.year, month=day.month, day=day.day)


def _text(too_long: ingestion_pb2.RowErrorCode.ValueType) -> _Converter:
    """Return the converter that keeps text. `too_long` is the error code of overlong text."""

    def convert(cell: Cell) -> str:
        if not isinstance(cell, str):
            return table.shown(cell)
        _text_of(cell)
        if len(cell) > _MAX_TEXT_CHARS:
            raise _UnreadableError(too_long)
        return cell

    return _Converter(convert)


_MOST_ID = _MOST - 1
_MOST_INT32 = 2**31 - 1
_MONEY = _Converter(_money, _whole_amounts)
_CUSTOMER_CELLS: Mapping[str, _Converter] = {
    "customer_id": _whole(_MOST_ID),
    "first_name": _text(ingestion_pb2.ROW_ERROR_CODE_TEXT_INVALID),
    "last_name": _text(ingestion_pb2.ROW_ERROR_CODE_TEXT_INVALID),
    "age": _whole(_MOST_INT32),
    "phone_number": _text(ingestion_pb2.ROW_ERROR_CODE_PHONE_INVALID),
    "monthly_income": _MONEY,
    "approved_limit": _MONEY,
}
_LOAN_CELLS: Mapping[str, _Converter] = {
    "customer_id": _whole(_MOST_ID),
    "loan_id": _whole(_MOST_ID),
    "loan_amount": _MONEY,
    "tenure_months": _whole(_MOST_INT32),
    "interest_rate": _Converter(_rate),
    "monthly_installment": _MONEY,
    "emis_paid_on_time": _whole(_MOST_INT32),
    "start_date": _Converter(_date),
    "end_date": _Converter(_date),
}


# The arguments are a row's values in the order above, None for an empty cell. Fields are set one by
# one and in place: protobuf copies nested messages into their parents, which takes twice the time.


def _fill_customer(
    message: ingestion_pb2.CustomerRow,
    customer_id: int | None,
    first_name: str | None,
    last_name: str | None,
    age: int | None,
    phone_number: str | None,
    monthly_income: _Amount | None,
    approved_limit: _Amount | None,
) -> None:
    if customer_id is not None:
        message.customer_id = customer_id
    if first_name is not None:
        message.first_name = first_name
    if last_name is not None:
        message.last_name = last_name
    if age is not None:
        message.age = age
    if phone_number is not None:
        message.phone_number = phone_number
    if monthly_income is not None:
        _fill_money(message.monthly_income, monthly_income)
    if approved_limit is not None:
        _fill_money(message.approved_limit, approved_limit)


def _fill_loan(
    message: ingestion_pb2.LoanRow,
    customer_id: int | None,
    loan_id: int | None,
    loan_amount: _Amount | None,
    tenure_months: int | None,
    interest_rate: str | None,
    monthly_installment: _Amount | None,
    emis_paid_on_time: int | None,
    start_date: Date | None,
    end_date: Date | None,
) -> None:
    if customer_id is not None:
        message.customer_id = customer_id
    if loan_id is not None:
        message.loan_id = loan_id
    if loan_amount is not None:
        _fill_money(message.loan_amount, loan_amount)
    if tenure_months is not None:
        message.tenure_months = tenure_months
    if interest_rate is not None:
        message.interest_rate.value = interest_rate
    if monthly_installment is not None:
        _fill_money(message.monthly_installment, monthly_installment)
    if emis_paid_on_time is not None:
        message.emis_paid_on_time = emis_paid_on_time
    if start_date is not None:
        message.start_date.CopyFrom(start_date)
    if end_date is not None:
        message.end_date.CopyFrom(end_date)


def _fill_money(message: Any, amount: _Amount) -> None:
    # Also if both are 0, which is an amount: an unset message means a missing value.
    message.units, message.nanos = amount

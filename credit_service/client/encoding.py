"""Rows as the bytes of the contract's messages, a column at a time.

Setting the fields of a message one by one takes Python several microseconds for a row. numpy writes
a column of all rows at once, in protobuf's wire format, and protobuf parses the bytes: a message is
what protobuf reads in them, and is sent as protobuf writes it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from credit_service.spreadsheets.columns import ColumnType

Ints = NDArray[np.int64]
Values = Ints | Sequence[Any]
"""The values of a column: whole numbers, or for each row a value, None for an empty cell."""

_VARINT, _DELIMITED = 0, 2
_PLAIN_DIGITS = 15


class Part(NamedTuple):
    """Bytes of each row: the first ones of its line of `values`, as many as its length."""

    values: NDArray[np.uint8]
    lengths: Ints


def whole_numbers(cells: Sequence[Any], most: int) -> Ints | None:
    """Return the numbers of cells that are all plain digits (most cells of a CSV file) or all whole
    floats (most cells of a workbook). None if one cell is different or beyond ±`most`."""
    kinds = set(map(type, cells))
    if kinds == {str}:
        digits = "".join(cells)
        if not (digits.isascii() and digits.isdigit()) or max(map(len, cells)) > _PLAIN_DIGITS:
            return None
        numbers = np.fromstring(" ".join(cells), np.int64, sep=" ")
        # An empty cell adds none.
        if len(numbers) != len(cells):
            return None
    elif kinds == {float}:
        floats = np.array(cells, np.float64)
        # Not a number compares as unequal.
        if not (np.abs(floats) <= most).all() or (floats != np.rint(floats)).any():
            return None
        numbers = floats.astype(np.int64)
    else:
        return None
    return numbers if -most <= numbers.min() and numbers.max() <= most else None


def message_rows(
    fields: Mapping[int, tuple[ColumnType, Values]], row_numbers: tuple[int, Sequence[int]]
) -> bytes:
    """Return a message whose field 1 is a row for each of the values.

    `fields` are the types and values of the rows' fields by their numbers, `row_numbers` the number
    of the field of row numbers, and these.
    """
    row: list[Part] = []
    for number, (type_, values) in fields.items():
        row += _ENCODERS[type_](number, values)
    number, given = row_numbers
    row += _whole(number, np.array(given, np.int64))
    parts = _delimited(1, row)
    widths = [each.values.shape[1] for each in parts]
    lengths = np.stack([each.lengths for each in parts], axis=1, dtype=np.int16, casting="unsafe")
    places = np.concatenate([np.arange(width, dtype=np.int16) for width in widths])
    values = np.hstack([each.values for each in parts])
    return values[np.repeat(lengths, widths, axis=1) > places].tobytes()


# --- Fields by the type of their column -----------------------------------------------------------


def _whole(number: int, values: Values) -> list[Part]:
    if isinstance(values, np.ndarray):
        return [_tag(number, _VARINT, len(values)), _varints(values)]
    numbers = np.array([each or 0 for each in values], np.int64)
    return _of_rows(values, [_tag(number, _VARINT, len(numbers)), _varints(numbers)])


def _text(number: int, values: Values) -> list[Part]:
    return _of_rows(values, _delimited(number, [_encoded(values)]))


def _decimal(number: int, values: Values) -> list[Part]:
    """google.type.Decimal of decimal texts."""
    return _of_rows(values, _delimited(number, _delimited(1, [_encoded(values)])))


def _money(number: int, values: Values) -> list[Part]:
    """google.type.Money of units alone, or of units and nanos."""
    if isinstance(values, np.ndarray):
        # A message also for 0, which is an amount: an absent one means a missing value.
        return _delimited(number, _whole(2, values))
    units, nanos = np.array([each or (0, 0) for each in values], np.int64).T
    return _of_rows(values, _delimited(number, [*_whole(2, units), *_whole(3, nanos)]))


def _message(number: int, values: Values) -> list[Part]:
    """Messages that are encoded already."""
    return _of_rows(values, _delimited(number, [_joined([each or b"" for each in values])]))


_ENCODERS: Mapping[ColumnType, Callable[[int, Values], list[Part]]] = {
    "ID": _whole,
    "WHOLE": _whole,
    "AMOUNT": _money,
    "RATE": _decimal,
    "DAY": _message,
    "NAME": _text,
    "PHONE": _text,
}


# --- The wire format ------------------------------------------------------------------------------

_LIMITS = np.array([1 << 7 * place for place in range(1, 10)], np.uint64)
_SHIFTS = np.array([7 * place for place in range(10)], np.uint64)


def _varints(numbers: Ints) -> Part:
    """Return numbers by seven bits, the lowest first; the highest bit of a byte says that more
    follow."""
    unsigned = numbers.view(np.uint64)
    lengths = np.searchsorted(_LIMITS, unsigned, "right") + 1
    shifted = unsigned[:, np.newaxis] >> _SHIFTS[: lengths.max()]
    values = shifted.astype(np.uint8) | np.uint8(0x80)
    values[np.arange(len(values)), lengths - 1] &= 0x7F
    return Part(values, lengths)


def _tag(number: int, wire_type: int, count: int) -> Part:
    values, lengths = _varints(np.array([number << 3 | wire_type], np.int64))
    return Part(values.repeat(count, axis=0), lengths.repeat(count))


def _delimited(number: int, content: Sequence[Part]) -> list[Part]:
    """Return a field of bytes, a text or a message."""
    lengths: Ints = np.add.reduce([each.lengths for each in content])
    return [_tag(number, _DELIMITED, len(lengths)), _varints(lengths), *content]


def _of_rows(values: Values, field: list[Part]) -> list[Part]:
    """Return the field of the rows that have a value."""
    if None not in values:
        return field
    is_given = np.array([each is not None for each in values])
    return [Part(each.values, each.lengths * is_given) for each in field]


def _encoded(texts: Values) -> Part:
    return _joined([each.encode() if each else b"" for each in texts])


def _joined(found: Sequence[bytes]) -> Part:
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    used = np.arange(lengths.max()) < lengths[:, np.newaxis]
    values = np.zeros(used.shape, np.uint8)
    values[used] = np.frombuffer(b"".join(found), np.uint8)
    return Part(values, lengths)

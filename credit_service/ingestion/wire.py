"""Columns of the rows of a stream, decoded from the wire's types like the cells of a file.

The rpc layer fills one list for each field, at a fraction of the cost of an object for each row.
The amounts are decoded by hand: pandas has no exact type for units and nanos.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from credit_service.ingestion import cells
from credit_service.ingestion.cells import MISSING, NUMBER_OF, OK, Ints, Numbers, Problems, Texts
from credit_service.spreadsheets.columns import BY_FIELD, ColumnType, Kind


@dataclass(frozen=True, slots=True)
class MoneyColumn:
    """google.type.Money of each row; `missing` are the indexes of rows without one."""

    units: Sequence[int]
    nanos: Sequence[int]
    currency_codes: Sequence[str]
    missing: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class DateColumn:
    """google.type.Date of each row; 0, 0, 0 is a missing date."""

    years: Sequence[int]
    months: Sequence[int]
    days: Sequence[int]


@dataclass(frozen=True, slots=True)
class UnreadableCell:
    """A cell of the client's source that fits no field; `row` is the row's index in the batch.

    `code` is a name of RowErrorCode; if it is empty, the column decides.
    """

    row: int
    column: str
    code: str
    found: str


WireColumn = Sequence[int | None] | Sequence[str] | MoneyColumn | DateColumn
"""A column by the type of its field: whole numbers, None for a missing one; texts, '' for a missing
one, and for rates decimals in percent; amounts; dates."""


@dataclass(frozen=True)
class Columns:
    """The rows of a batch. `values` has the columns of the kind by their field, without an optional
    one that has no value in any row, and `row_numbers` the client's number of each row, None for
    rows without one."""

    kind: Kind
    values: Mapping[str, WireColumn]
    row_numbers: Sequence[int | None]
    unreadable: Sequence[UnreadableCell] = ()

    @cached_property
    def decoded(self) -> Mapping[str, Numbers | Texts]:
        """Each column, decoded, by its field, in the order of the table of columns."""
        return {
            field: _DECODERS[column.type](self.values[field])
            for field, column in BY_FIELD[self.kind].items()
            if field in self.values
        }


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of a stream, from `offset` on."""

    offset: int
    columns: Columns

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.columns.row_numbers)

    @property
    def end(self) -> int:
        """The offset of the row after the last."""
        return self.offset + self.row_count

    def continues(self, before: "RowBatch") -> bool:
        """Whether the rows are of the same kind as those of another batch, and follow them
        directly."""
        return self.offset == before.end and self.columns.kind == before.columns.kind


_NANOS_IN_PAISA = 10_000_000
_MOST_UNITS = 10**15


def integers(column: Sequence[int | None]) -> Numbers:
    """Decode whole numbers, some of them missing."""
    problems = np.zeros(len(column), np.uint8)
    try:
        values = np.array(column, np.int64)
    except TypeError:  # for None
        problems[[value is None for value in column]] = MISSING
        values = np.array([value or 0 for value in column], np.int64)
    return Numbers(values, problems, lambda index: _shown(column[index]))


def money(column: MoneyColumn) -> Numbers:
    """Decode amounts as paise."""
    units = np.array(column.units, np.int64)
    nanos = np.array(column.nanos, np.int64)
    problems = np.zeros(len(units), np.uint8)
    problems[nanos % _NANOS_IN_PAISA != 0] = cells.TOO_PRECISE
    # Units and nanos have one sign, and nanos are less than a unit.
    problems[(np.abs(nanos) >= 10**9) | (units * np.sign(nanos) < 0)] = cells.NOT_A_NUMBER
    # Not abs(): the lowest 64-bit number has no opposite.
    far = (units >= _MOST_UNITS) | (units <= -_MOST_UNITS)
    problems[far] = cells.OUT_OF_RANGE
    paise = np.where(far, 0, units) * 100 + nanos // _NANOS_IN_PAISA
    if not set(column.currency_codes) <= {"", "INR"}:
        foreign = [code not in ("", "INR") for code in column.currency_codes]
        problems[foreign] = NUMBER_OF["CURRENCY_UNSUPPORTED"]
    if column.missing:
        problems[list(column.missing)] = MISSING

    def found(index: int) -> str:
        if problems[index] == MISSING:
            return ""
        sign = "-" if column.units[index] < 0 or column.nanos[index] < 0 else ""
        text = f"{sign}{abs(column.units[index])}.{abs(column.nanos[index]):09d}"
        amount = text.rstrip("0").rstrip(".")
        return cells.shown(f"{column.currency_codes[index]} {amount}".strip())

    return Numbers(paise, problems, found)


def percents(column: Sequence[str]) -> Numbers:
    """Decode yearly rates in percent as basis points."""
    return cells.numbers(column, "DECIMAL")


def dates(column: DateColumn) -> Numbers:
    """Decode days as days since 1970-01-01."""
    year, month, day = (
        np.array(part, np.int64) for part in (column.years, column.months, column.days)
    )
    values, exists = cells.civil_days(year, month, day)
    problems: Problems = np.where(exists, OK, cells.DATE_INVALID).astype(np.uint8)
    problems[(year == 0) & (month == 0) & (day == 0)] = MISSING
    return Numbers(
        values,
        problems,
        lambda index: (
            f"{column.years[index]:04d}-{column.months[index]:02d}-{column.days[index]:02d}"
            if problems[index] != MISSING
            else ""
        ),
    )


_DECODERS: Mapping[ColumnType, Callable[[Any], Numbers | Texts]] = {
    "ID": integers,
    "WHOLE": integers,
    "AMOUNT": money,
    "RATE": percents,
    "DAY": dates,
    "NAME": cells.texts,
    "PHONE": cells.texts,
}


def row_numbers(columns: Columns, offset: int) -> Ints:
    """The client's row numbers. A row without one has its place in the stream, from 1."""
    given = integers(columns.row_numbers)
    places = np.arange(offset + 1, offset + len(given.values) + 1, dtype=np.int64)
    return np.where(given.problems == OK, given.values, places)


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)

"""Splits rows into valid rows and errors, by one set of rules for workbooks, CSV and streams.

The limits are those of the domain. Every bad column of a row is reported, not only the first.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np

from credit_service.domain import customers as customer_rules
from credit_service.domain import loans as loan_rules
from credit_service.domain.customers import clean_name, parse_phone_number
from credit_service.ingestion import cells, digests, wire
from credit_service.ingestion.cells import CODES, NUMBER_OF, OK, Ints, Numbers, Problems, Texts
from credit_service.ingestion.frames import (
    NO_DAY,
    NO_LIMIT,
    Batch,
    RowError,
    SourceRows,
    frame_of,
)
from credit_service.ingestion.loan_days import add_months, imported_settled
from credit_service.ingestion.wire import Columns
from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets.columns import BY_FIELD, COLUMNS, Column, ColumnType, Kind

MAX_ID = 10**15 - 1
"""Largest customer or loan id of an import: `tables.MAX_IMPORTED_ID`."""
MAX_CUSTOMER_ID_OF_LOAN = 2**53 - 1
"""Largest customer id that a loan may name: the customer may have been registered here."""
MAX_INSTALLMENT_PAISE = 2 * loan_rules.MAX_PRINCIPAL_PAISE
"""Largest installment of a source, which is not checked otherwise."""
FIRST_START_DATE = date(1900, 1, 1)

_RANGES: Mapping[Kind, Mapping[str, tuple[int, int]]] = {
    "CUSTOMERS": {
        "customer_id": (1, MAX_ID),
        "age": (customer_rules.MIN_AGE, customer_rules.MAX_AGE),
        "monthly_income": (1, customer_rules.MAX_MONTHLY_INCOME_PAISE),
        "approved_limit": (0, customer_rules.MAX_LIMIT_PAISE),
    },
    "LOANS": {
        "customer_id": (1, MAX_CUSTOMER_ID_OF_LOAN),
        "loan_id": (1, MAX_ID),
        "loan_amount": (1, loan_rules.MAX_PRINCIPAL_PAISE),
        "tenure_months": (loan_rules.MIN_TENURE_MONTHS, loan_rules.MAX_TENURE_MONTHS),
        "interest_rate": (0, loan_rules.MAX_ANNUAL_RATE_BPS),
        "monthly_installment": (1, MAX_INSTALLMENT_PAISE),
        "emis_paid_on_time": (0, 2**31 - 1),
        "installments_settled": (0, 2**31 - 1),
    },
}
"""The least and the most of each column of numbers, in the unit of its type."""

_TOO_LONG = "as many values as the header has columns"
_INR_ONLY = "an amount in INR"
_DAY_ALONE = (
    "a day alone, such as 2024-03-31: with a time of day it may be another day in another time zone"
)


@dataclass
class _Rows:
    """The columns of a batch during its validation."""

    kind: Kind
    offset: int
    row_numbers: Ints
    # (row, column) → (code, found) of cells that fit no field.
    unreadable: Mapping[tuple[int, str], tuple[int, str]] = field(default_factory=dict)
    # The expected value of a single row, if it differs from the column's.
    expected: dict[tuple[int, str], str] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _problems: list[Problems] = field(default_factory=list)
    _found: dict[str, Callable[[int], str]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.row_numbers)

    def add(self, name: str, problems: Problems, found: Callable[[int], str]) -> None:
        """Add a column. Later rules can still add to its `problems`."""
        for (row, column), (code, _) in self.unreadable.items():
            if column == name:
                problems[row] = code
        self._names.append(name)
        self._problems.append(problems)
        self._found[name] = found

    def number(self, column: Column, numbers: Numbers) -> Ints:
        """Add a column of numbers, which must be in its range. Returns its values, NO_LIMIT for a
        missing value of an optional column."""
        self.add(column.field, numbers.problems, numbers.found)
        least, most = _RANGES[self.kind][column.field]
        problems, values = numbers.problems, numbers.values
        outside = (values < least) | (values > most)
        if not column.required:
            absent = problems == cells.MISSING
            values = np.where(absent, NO_LIMIT, values)
            problems[absent] = OK
            outside &= ~absent
        problems[outside & (problems == OK)] = cells.OUT_OF_RANGE
        # A number that does not fit its type is out of range, and its row is never stored.
        return np.where(problems == OK, values, least)

    def text(self, column: Column, texts: Texts) -> list[str]:
        """Add a column of texts, which a rule of the domain cleans. Returns the clean ones."""
        self.add(column.field, texts.problems, texts.found)
        clean, code = _CLEANING[column.type]
        cleaned: list[str] = []
        rest = map(clean, texts.values)
        while len(cleaned) < self.count:
            try:
                for text in rest:
                    cleaned.append(text)  # noqa: PERF402 - keeps the texts before an invalid one
            except ValueError:
                # The next round continues after the invalid text.
                if texts.problems[len(cleaned)] == OK:
                    texts.problems[len(cleaned)] = code
                cleaned.append("")
        return cleaned

    def batch(self, columns: Mapping[str, Any]) -> Batch:
        """The rows without an error, with these columns, and the errors of the others."""
        places = {
            "offset": np.arange(self.offset, self.offset + self.count),
            "row_number": self.row_numbers,
        }
        frame = frame_of(self.kind, {**places, **columns})
        if not any(map(np.any, self._problems)):
            return Batch(self.kind, self.offset, self.count, frame, [])
        problems = np.stack(self._problems, axis=1)
        valid = frame[(problems == OK).all(axis=1)].reset_index(drop=True)
        return Batch(self.kind, self.offset, self.count, valid, self._errors(problems))

    def _errors(self, table: Problems) -> list[RowError]:
        errors = []
        for row, column in np.argwhere(table != OK).tolist():
            name, code = self._names[column], CODES[table[row, column]]
            _, found = self.unreadable.get((row, name), (OK, None))
            if found is None:
                found = self._found[name](row)
            expected = self.expected.get((row, name)) or _expected(
                BY_FIELD[self.kind].get(name), code, found
            )
            errors.append(
                RowError(
                    row_offset=self.offset + row,
                    row_number=int(self.row_numbers[row]),
                    column=name,
                    code=code,
                    found=found,
                    expected=expected,
                    message=_message(name, code, found, expected),
                )
            )
        return errors


def _expected(column: Column | None, code: str, found: str) -> str:
    """What to expect of a cell, or of the row if `column` is None."""
    usual = _TOO_LONG if column is None else column.expected
    if code == "CURRENCY_UNSUPPORTED":
        return _INR_ONLY
    if code == "TIME_OF_DAY":
        return _DAY_ALONE
    if code == "DATE_AMBIGUOUS":
        return _expected_of_ambiguous(found)
    if code == "DATE_INVALID":
        return f"{usual}{_hint_for_date(found)}"
    if code == "PERCENTAGE":
        return f"{usual}, not a percentage"
    if code == "NOT_A_NUMBER" and column is not None and column.type in _WRITTEN:
        written = _WRITTEN[column.type].format(column.example)
        return f"{usual}, {written}{_hint_for_number(column, found)}"
    if code == "FORMULA":
        return f"a value instead of a formula: {usual}"
    return usual


def _expected_of_ambiguous(found: str) -> str:
    days = cell_values.readings(found)
    remedy = "name the order of day and month (--date-order), or write dates such as 2024-03-31"
    if len(days) == 2:
        first, second = (f"{day.day} {day:%B}" for day in days)
        return f"a date with one reading, but this is {first} or {second}: {remedy}"
    return f"dates of one order, but those of this column have different ones: {remedy}"


# How numbers are written, for a cell without one.
_WRITTEN: Mapping[ColumnType, str] = {
    "ID": "in digits alone, such as {0}",
    "WHOLE": "such as {0}",
    "AMOUNT": "such as 12500.50 or 1,25,000",
    "RATE": "such as {0} or {0}%",
}
_A_NUMBER = re.compile(r"[0-9]{1,7}(?:\.[0-9]+)?")
_YEAR_OF_TWO_DIGITS = re.compile(r"[0-9]{1,2}([-/. ])(?:[0-9]{1,2}|[A-Za-z]{3,9})\1[0-9]{2}")
_SHORTENED = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]+")


def _hint_for_date(found: str) -> str:
    text = found.strip()
    if _A_NUMBER.fullmatch(text):
        return "; a number is a day only in a cell with a date format"
    if _YEAR_OF_TWO_DIGITS.fullmatch(text):
        return ", with all four digits of the year"
    return ""


def _hint_for_number(column: Column, found: str) -> str:
    text = found.strip()
    if any(char.isdigit() and not char.isascii() for char in text):
        return ", in the digits 0 to 9"
    if _SHORTENED.fullmatch(text):
        return ", with all its digits"
    if not any(map(str.isalnum, text)) or text.casefold() in _NOTHING:
        return "; a row without one cannot be stored" if column.required else ", or an empty cell"
    return ""


_NOTHING = frozenset(("na", "n/a", "n.a.", "nil", "null", "none"))


def _message(name: str, code: str, found: str, expected: str) -> str:
    if code == "MISSING":
        return f"{name} is missing; expected {expected}."
    if code == "ROW_TOO_LONG":
        return "The row has more values than the header has columns; does one hold a separator?"
    return f"{name or 'A column'} is {found!r}; expected {expected}."


# --- Sources --------------------------------------------------------------------------------------


def validate_block(kind: Kind, rows: SourceRows, offset: int, import_day: date) -> Batch:
    """Validate rows of a file. `offset` is the index of the first of them, blank rows not counted.

    A loan must not start after `import_day`. Its installments due by that day count as settled,
    unless the source gives the number of settled ones.
    """
    unreadable = {(row, ""): (NUMBER_OF["ROW_TOO_LONG"], "") for row in rows.overlong}
    found = _Rows(kind, offset, rows.cells.index.to_numpy(), unreadable)
    columns = {
        name: cells.decoded(rows.cells[name].to_numpy(), column.type, rows.date_orders.get(name))
        for name, column in BY_FIELD[kind].items()
        if name in rows.cells
    }
    return _validated(found, columns, import_day)


def validate_columns(columns: Columns, offset: int, import_day: date) -> Batch:
    """Validate the rows of a stream's batch, and add their digests. `validate_block` defines the
    arguments."""
    unreadable = _unreadable(columns)
    row_digests = digests.of_rows(columns.decoded, unreadable)
    found = _Rows(columns.kind, offset, wire.row_numbers(columns, offset), unreadable)
    # The rules add their problems to a copy.
    decoded = {
        name: replace(each, problems=each.problems.copy()) for name, each in columns.decoded.items()
    }
    return replace(_validated(found, decoded, import_day), digests=row_digests)


def _unreadable(columns: Columns) -> dict[tuple[int, str], tuple[int, str]]:
    """(code, found) of the cells that fit no field of the client. An unknown column is an error
    of the row."""
    found: dict[tuple[int, str], tuple[int, str]] = {}
    for cell in columns.unreadable:
        column = BY_FIELD[columns.kind].get(cell.column)
        usual = cells.TEXT_INVALID if column is None else _UNREADABLE[column.type]
        code = NUMBER_OF.get(cell.code, OK) or usual
        found[cell.row, column.field if column else ""] = (code, cells.shown(cell.found))
    return found


_UNREADABLE: Mapping[ColumnType, int] = {
    "ID": cells.NOT_A_NUMBER,
    "WHOLE": cells.NOT_A_NUMBER,
    "AMOUNT": cells.NOT_A_NUMBER,
    "RATE": cells.NOT_A_NUMBER,
    "DAY": cells.DATE_INVALID,
    "NAME": cells.TEXT_INVALID,
    "PHONE": cells.PHONE_INVALID,
}
_CLEANING: Mapping[ColumnType, tuple[Callable[[str], str], int]] = {
    "NAME": (clean_name, cells.TEXT_INVALID),
    "PHONE": (parse_phone_number, cells.PHONE_INVALID),
}


def _validated(rows: _Rows, columns: Mapping[str, Numbers | Texts], import_day: date) -> Batch:
    """Apply the rules of each column, in the order of the table of columns, and those of loans."""
    facts: dict[str, Any] = {}
    for column in COLUMNS[rows.kind]:
        decoded = columns.get(column.field)
        if isinstance(decoded, Texts):
            facts[column.fact] = rows.text(column, decoded)
        elif column.type == "DAY":
            continue
        elif decoded is None:
            facts[column.fact] = np.full(rows.count, NO_LIMIT)
        else:
            facts[column.fact] = rows.number(column, decoded)
    if rows.kind == "LOANS":
        numbers = {name: each for name, each in columns.items() if isinstance(each, Numbers)}
        _check_emis(numbers, facts)
        _check_settled(rows, numbers, facts)
        facts |= _loan_dates(rows, numbers, facts, import_day)
    # Errors of whole rows come last.
    rows.add("", np.zeros(rows.count, np.uint8), lambda _: "")
    return rows.batch(facts)


def _check_emis(numbers: Mapping[str, Numbers], facts: Mapping[str, Ints]) -> None:
    is_known = numbers["tenure_months"].problems == OK
    on_time = numbers["emis_paid_on_time"].problems
    exceeds = facts["emis_paid_on_time"] > facts["tenure_months"]
    on_time[is_known & (on_time == OK) & exceeds] = NUMBER_OF["EMIS_EXCEED_TENURE"]


def _check_settled(rows: _Rows, numbers: Mapping[str, Numbers], facts: Mapping[str, Ints]) -> None:
    settled = numbers.get("installments_settled")
    if settled is None:
        return
    on_time, tenure, given = (
        facts[name] for name in ("emis_paid_on_time", "tenure_months", "settled_given")
    )
    is_known = (numbers["tenure_months"].problems == OK) & (
        numbers["emis_paid_on_time"].problems == OK
    )
    outside = is_known & (given != NO_LIMIT) & ((given < on_time) | (given > tenure))
    settled.problems[outside & (settled.problems == OK)] = cells.OUT_OF_RANGE
    for row in np.flatnonzero(outside).tolist():
        expected = f"a whole number from {on_time[row]} to {tenure[row]}, or nothing"
        rows.expected[row, "installments_settled"] = expected


def _loan_dates(
    rows: _Rows,
    numbers: Mapping[str, Numbers],
    columns: Mapping[str, Ints],
    import_day: date,
) -> dict[str, Ints]:
    """Check the dates of the loans. Returns the columns that follow from them."""
    today = import_day.toordinal() - cells.EPOCH_ORDINAL
    start = numbers["start_date"]
    problems = start.problems
    rows.add("start_date", problems, start.found)
    days = start.values
    too_early = days < FIRST_START_DATE.toordinal() - cells.EPOCH_ORDINAL
    problems[(problems == OK) & too_early] = cells.OUT_OF_RANGE
    problems[(problems == OK) & (days > today)] = NUMBER_OF["DATE_IN_FUTURE"]
    tenures = columns["tenure_months"]
    start_days = np.where(problems == OK, days, today)
    ends = add_months(start_days, tenures)
    end = numbers.get("end_date")
    if end is not None:
        given = end.problems != cells.MISSING
        end.problems[~given] = OK
        rows.add("end_date", end.problems, end.found)
        checked = (problems == OK) & (numbers["tenure_months"].problems == OK) & given
        mismatch = checked & (end.problems == OK) & (end.values != ends)
        end.problems[mismatch] = NUMBER_OF["END_DATE_MISMATCH"]
        for row in np.flatnonzero(mismatch).tolist():
            day = date.fromordinal(int(ends[row]) + cells.EPOCH_ORDINAL)
            rows.expected[row, "end_date"] = f"{day}, the start date plus the tenure, or nothing"
    given = columns["settled_given"]
    settled = np.where(
        given == NO_LIMIT,
        imported_settled(columns["emis_paid_on_time"], start_days, tenures, import_day),
        given,
    )
    closed = np.where(settled == tenures, np.minimum(ends, today), NO_DAY)
    return {
        "start_day": start_days,
        "end_day": ends,
        "installments_settled": settled,
        "closed_day": closed,
    }

"""Splits rows into valid rows and errors, by one set of rules for workbooks, CSV and streams.

The limits are those of the domain. Every bad column of a row is reported, not only the first.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
from phonenumbers import PhoneMetadata

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
from credit_service.ingestion.wire import Columns, LoanColumns
from credit_service.rupees import RUPEE_PAISE
from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets.cell_values import Form
from credit_service.spreadsheets.columns import Kind

MAX_ID = 10**15 - 1
"""Largest customer or loan id of an import: `tables.MAX_IMPORTED_ID`."""
MAX_CUSTOMER_ID_OF_LOAN = 2**53 - 1
"""Largest customer id that a loan may name: the customer may have been registered here."""
MAX_INSTALLMENT_PAISE = 2 * loan_rules.MAX_PRINCIPAL_PAISE
"""Largest installment of a source, which is not checked otherwise."""
MAX_LIMIT_PAISE = 1_000 * 10_000_000 * RUPEE_PAISE
"""Largest approved limit of a source: ₹1,000 crore."""
FIRST_START_DATE = date(1900, 1, 1)

_AN_ID = "a whole number from 1 to 999,999,999,999,999"
_A_NAME = "1 to 50 characters without control characters"
_EXPECTED: Mapping[str, str] = {
    "customer_id": _AN_ID,
    "loan_id": _AN_ID,
    "first_name": _A_NAME,
    "last_name": _A_NAME,
    "age": "a whole number from 18 to 120",
    "phone_number": "a valid phone number such as +91 98765 98765",
    "monthly_income": "rupees, more than 0 and at most 10 crore, with at most two decimals",
    "approved_limit": "rupees, 0 to 1,000 crore, with at most two decimals, or nothing",
    "loan_amount": "rupees, more than 0 and at most 100 crore, with at most two decimals",
    "tenure_months": "a whole number from 1 to 480",
    "interest_rate": "percent a year, 0 to 100, with at most two decimals",
    "monthly_installment": "rupees, more than 0 and at most 200 crore, with at most two decimals",
    "emis_paid_on_time": "a whole number from 0 to the tenure",
    "start_date": "a day such as 2024-03-31, from 1900 on and not in the future",
    "end_date": "the start date plus the tenure, such as 2027-03-31, or nothing",
    "": "as many values as the header has columns",
}
_INR_ONLY = "an amount in INR"
# Examples of each column's numbers, for a cell without a number.
_WRITTEN: Mapping[str, str] = {
    "customer_id": "in digits alone, such as 1024",
    "loan_id": "in digits alone, such as 7001",
    "age": "such as 35",
    "tenure_months": "such as 24",
    "emis_paid_on_time": "such as 12",
    "interest_rate": "such as 12.5 or 12.5%",
    **dict.fromkeys(
        ("monthly_income", "approved_limit", "loan_amount", "monthly_installment"),
        "such as 12500.50 or 1,25,000",
    ),
}
_DAY_ALONE = (
    "a day alone, such as 2024-03-31: with a time of day it may be another day in another time zone"
)


@dataclass
class _Rows:
    """The columns of a batch during its validation."""

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

    def number(
        self, name: str, column: Numbers, least: int, most: int, *, optional: bool = False
    ) -> Ints:
        """Add a column of numbers, which must be `least` to `most`. Returns its values.

        A missing value of an optional column is NO_LIMIT.
        """
        self.add(name, column.problems, column.found)
        problems, values = column.problems, column.values
        if optional:
            absent = problems == cells.MISSING
            values = np.where(absent, NO_LIMIT, values)
            problems[absent] = OK
            outside = ~absent & ((values < least) | (values > most))
        else:
            outside = (values < least) | (values > most)
        problems[outside & (problems == OK)] = cells.OUT_OF_RANGE
        return values

    def batch(self, kind: Kind, columns: Mapping[str, Any]) -> Batch:
        """The rows without an error, with these columns, and the errors of the others."""
        places = {
            "offset": np.arange(self.offset, self.offset + self.count),
            "row_number": self.row_numbers,
        }
        frame = frame_of(kind, {**places, **columns})
        if not any(map(np.any, self._problems)):
            return Batch(kind, self.offset, self.count, frame, [])
        problems = np.stack(self._problems, axis=1)
        valid = frame[(problems == OK).all(axis=1)].reset_index(drop=True)
        return Batch(kind, self.offset, self.count, valid, self._errors(problems))

    def _errors(self, table: Problems) -> list[RowError]:
        errors = []
        for row, column in np.argwhere(table != OK).tolist():
            name, code = self._names[column], CODES[table[row, column]]
            _, found = self.unreadable.get((row, name), (OK, None))
            if found is None:
                found = self._found[name](row)
            expected = self.expected.get((row, name)) or _expected(name, code, found)
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


def _expected(name: str, code: str, found: str) -> str:
    usual = _EXPECTED[name]
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
    if code == "NOT_A_NUMBER" and name in _WRITTEN:
        return f"{usual}, {_WRITTEN[name]}{_hint_for_number(name, found)}"
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


def _hint_for_number(name: str, found: str) -> str:
    text = found.strip()
    if any(char.isdigit() and not char.isascii() for char in text):
        return ", in the digits 0 to 9"
    if _SHORTENED.fullmatch(text):
        return ", with all its digits"
    if not any(map(str.isalnum, text)) or text.casefold() in _NOTHING:
        optional = name == "approved_limit"
        return ", or an empty cell" if optional else "; a row without one cannot be stored"
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

    A loan must not start after `import_day`, and its installments due by that day count as settled.
    """
    unreadable = {(row, ""): (NUMBER_OF["ROW_TOO_LONG"], "") for row in rows.overlong}
    found = _Rows(offset, rows.cells.index.to_numpy(), unreadable)
    columns = {name: rows.cells[name].to_numpy() for name in rows.cells}
    if kind == "LOANS":
        numbers = {
            name: cells.numbers(columns[name], form) for name, form in _FORMS_OF_LOANS.items()
        }
        for name in ("start_date", "end_date"):
            if name in columns:
                numbers[name] = cells.dates(columns[name], rows.date_orders.get(name))
        return _loans(found, numbers, import_day)
    numbers = {
        name: cells.numbers(columns[name], form)
        for name, form in _FORMS_OF_CUSTOMERS.items()
        if name in columns
    }
    texts = {name: cells.texts(columns[name]) for name in _TEXTS_OF_CUSTOMERS}
    return _customers(found, numbers, texts)


_FORMS_OF_LOANS: Mapping[str, Form] = {
    "customer_id": "WHOLE",
    "loan_id": "WHOLE",
    "tenure_months": "WHOLE",
    "emis_paid_on_time": "WHOLE",
    "loan_amount": "AMOUNT",
    "interest_rate": "RATE",
    "monthly_installment": "AMOUNT",
}
_FORMS_OF_CUSTOMERS: Mapping[str, Form] = {
    "customer_id": "WHOLE",
    "age": "WHOLE",
    "monthly_income": "AMOUNT",
    "approved_limit": "AMOUNT",
}
_TEXTS_OF_CUSTOMERS = ("first_name", "last_name", "phone_number")


def validate_columns(columns: Columns, offset: int, import_day: date) -> Batch:
    """Validate the rows of a stream's batch, and add their digests. `validate_block` defines the
    arguments."""
    numbers_of_rows = wire.row_numbers(columns, offset)
    if isinstance(columns, LoanColumns):
        numbers = {
            "customer_id": wire.integers(columns.customer_id),
            "loan_id": wire.integers(columns.loan_id),
            "loan_amount": wire.money(columns.loan_amount),
            "tenure_months": wire.integers(columns.tenure_months),
            "interest_rate": wire.percents(columns.interest_rate),
            "monthly_installment": wire.money(columns.monthly_installment),
            "emis_paid_on_time": wire.integers(columns.emis_paid_on_time),
            "start_date": wire.dates(columns.start_date),
            "end_date": wire.dates(columns.end_date),
        }
        unreadable = _unreadable(columns, numbers)
        row_digests = digests.of_rows(numbers, unreadable)
        rows = _Rows(offset, numbers_of_rows, unreadable)
        return replace(_loans(rows, numbers, import_day), digests=row_digests)
    numbers = {
        "customer_id": wire.integers(columns.customer_id),
        "age": wire.integers(columns.age),
        "monthly_income": wire.money(columns.monthly_income),
        "approved_limit": wire.money(columns.approved_limit),
    }
    texts = {
        "first_name": wire.texts(columns.first_name),
        "last_name": wire.texts(columns.last_name),
        "phone_number": wire.texts(columns.phone_number),
    }
    unreadable = _unreadable(columns, {**numbers, **texts})
    row_digests = digests.of_rows({**numbers, **texts}, unreadable)
    rows = _Rows(offset, numbers_of_rows, unreadable)
    return replace(_customers(rows, numbers, texts), digests=row_digests)


def _unreadable(
    columns: Columns, known: Mapping[str, Numbers | Texts]
) -> dict[tuple[int, str], tuple[int, str]]:
    """(code, found) of the cells that fit no field of the client. An unknown column is an error
    of the row."""
    found: dict[tuple[int, str], tuple[int, str]] = {}
    for cell in columns.unreadable:
        name = cell.column if cell.column in known else ""
        code = NUMBER_OF.get(cell.code, OK) or _unreadable_code(name)
        found[cell.row, name] = (code, cells.shown(cell.found))
    return found


def _unreadable_code(name: str) -> int:
    if name in ("start_date", "end_date"):
        return cells.DATE_INVALID
    if name == "phone_number":
        return NUMBER_OF["PHONE_INVALID"]
    return cells.TEXT_INVALID if name in (*_TEXTS_OF_CUSTOMERS, "") else cells.NOT_A_NUMBER


# --- Loans ----------------------------------------------------------------------------------------


def _loans(rows: _Rows, numbers: Mapping[str, Numbers], import_day: date) -> Batch:
    columns: dict[str, Ints] = {}
    for name, column, least, most in (
        ("customer_id", "customer_id", 1, MAX_CUSTOMER_ID_OF_LOAN),
        ("loan_id", "loan_id", 1, MAX_ID),
        ("loan_amount", "principal_paise", 1, loan_rules.MAX_PRINCIPAL_PAISE),
        (
            "tenure_months",
            "tenure_months",
            loan_rules.MIN_TENURE_MONTHS,
            loan_rules.MAX_TENURE_MONTHS,
        ),
        ("interest_rate", "annual_rate_bps", 0, loan_rules.MAX_ANNUAL_RATE_BPS),
        ("monthly_installment", "installment_paise", 1, MAX_INSTALLMENT_PAISE),
        ("emis_paid_on_time", "emis_paid_on_time", 0, 2**31 - 1),
    ):
        values = rows.number(name, numbers[name], least, most)
        # A number that does not fit its type is out of range, and its row is never stored.
        columns[column] = np.where(numbers[name].problems == OK, values, least)
    tenure_ok = numbers["tenure_months"].problems == OK
    on_time = numbers["emis_paid_on_time"].problems
    exceeds = columns["emis_paid_on_time"] > columns["tenure_months"]
    on_time[tenure_ok & (on_time == OK) & exceeds] = NUMBER_OF["EMIS_EXCEED_TENURE"]
    columns |= _loan_dates(rows, numbers, columns, import_day)
    rows.add("", np.zeros(rows.count, np.uint8), lambda _: "")
    return rows.batch("LOANS", columns)


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
    settled = imported_settled(columns["emis_paid_on_time"], start_days, tenures, import_day)
    closed = np.where(settled == tenures, np.minimum(ends, today), NO_DAY)
    return {
        "start_day": start_days,
        "end_day": ends,
        "installments_settled": settled,
        "closed_day": closed,
    }


# --- Customers ------------------------------------------------------------------------------------


def _customers(rows: _Rows, numbers: Mapping[str, Numbers], texts: Mapping[str, Texts]) -> Batch:
    columns: dict[str, Any] = {
        "customer_id": rows.number("customer_id", numbers["customer_id"], 1, MAX_ID),
        "first_name": _names(rows, "first_name", texts["first_name"]),
        "last_name": _names(rows, "last_name", texts["last_name"]),
    }
    ages = rows.number("age", numbers["age"], customer_rules.MIN_AGE, customer_rules.MAX_AGE)
    columns["age"] = np.where(numbers["age"].problems == OK, ages, 0)
    columns["phone_number"] = _phones(rows, texts["phone_number"])
    columns["monthly_income_paise"] = rows.number(
        "monthly_income",
        numbers["monthly_income"],
        1,
        customer_rules.MAX_MONTHLY_INCOME_PAISE,
    )
    columns["approved_limit_paise"] = np.full(rows.count, NO_LIMIT)
    if "approved_limit" in numbers:
        columns["approved_limit_paise"] = rows.number(
            "approved_limit", numbers["approved_limit"], 0, MAX_LIMIT_PAISE, optional=True
        )
    rows.add("", np.zeros(rows.count, np.uint8), lambda _: "")
    return rows.batch("CUSTOMERS", columns)


def _names(rows: _Rows, column: str, texts: Texts) -> list[str]:
    rows.add(column, texts.problems, texts.found)
    names = []
    for row, text in enumerate(texts.values):
        # Only letters of ASCII need no check of each character.
        if text.isascii() and text.isalpha() and len(text) <= customer_rules.MAX_NAME_LENGTH:
            names.append(text)
            continue
        try:
            names.append(clean_name(text))
        except ValueError:
            names.append("")
            if texts.problems[row] == OK:
                texts.problems[row] = cells.TEXT_INVALID
    return names


def _phones(rows: _Rows, texts: Texts) -> list[str]:
    rows.add("phone_number", texts.problems, texts.found)
    phones = []
    for row, text in enumerate(texts.values):
        try:
            phones.append(phone_number(text))
        except ValueError:
            phones.append("")
            if texts.problems[row] == OK:
                texts.problems[row] = NUMBER_OF["PHONE_INVALID"]
    return phones


def load_phone_plans() -> None:
    """Load the numbering plans of all countries, in about 50 ms. Otherwise the first number of
    each country loads its file."""
    PhoneMetadata.load_all()


def _indian_pattern(kind: str) -> re.Pattern[str]:
    """The numbering plan's pattern of Indian national numbers of a kind."""
    description = getattr(PhoneMetadata.metadata_for_region("IN"), kind)
    return re.compile(description.national_number_pattern)


_USUAL_PHONE = re.compile(r"(?:(?:\+91|0)[ -]?)?([6-9][0-9]{4})[ -]?([0-9]{5})")
_INDIAN = _indian_pattern("general_desc")
_INDIAN_MOBILE = _indian_pattern("mobile")


def phone_number(text: str) -> str:
    """Return what `domain.customers.parse_phone_number` returns, 50 times as fast for Indian
    mobiles.

    For the usual spellings of a national number of ten digits, matching the numbering plan's
    general pattern and its pattern of mobiles gives the parser's own result.
    """
    match = _USUAL_PHONE.fullmatch(text)
    if match is not None:
        national = match[1] + match[2]
        if _INDIAN.fullmatch(national) and _INDIAN_MOBILE.fullmatch(national):
            return "+91" + national
    return parse_phone_number(text)

"""Decodes columns of cells into exact integers and text, a whole column at a time.

Amounts become paise, rates basis points, dates days since 1970-01-01. A cell that does not fit its
column gets a problem code. A workbook's numbers are binary floats: the number meant is the shortest
decimal within the 15 digits that spreadsheets show. It has at most two decimals, or the cell is
rejected; nothing is rounded.

The one place that decodes by hand and not by pandas: `pandas.to_numeric` reads decimals as floats,
which lose paise, accepts exponents, and reports one bad value by failing for the whole column.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets.cell_values import Cell, DateOrder, Form, Percent
from credit_service.spreadsheets.columns import ColumnType

OK = 0
CODES = (
    "",
    "MISSING",
    "NOT_A_NUMBER",
    "NOT_A_WHOLE_NUMBER",
    "OUT_OF_RANGE",
    "TOO_PRECISE",
    "TEXT_INVALID",
    "PHONE_INVALID",
    "PHONE_TAKEN",
    "DATE_INVALID",
    "DATE_IN_FUTURE",
    "END_DATE_MISMATCH",
    "CURRENCY_UNSUPPORTED",
    "EMIS_EXCEED_TENURE",
    "CUSTOMER_UNKNOWN",
    "DUPLICATE_DIFFERS",
    "FORMULA",
    "ERROR_VALUE",
    "LOAN_BOOKED_HERE",
    "LOAN_HAS_PAYMENTS",
    "CUSTOMER_REGISTERED_HERE",
    "ROW_TOO_LONG",
    "TIME_OF_DAY",
    "PERCENTAGE",
    "DATE_AMBIGUOUS",
)
"""What can be wrong with a row: names of the contract's RowErrorCode, by their number here."""
NUMBER_OF = {code: number for number, code in enumerate(CODES)}

MISSING = NUMBER_OF["MISSING"]
NOT_A_NUMBER = NUMBER_OF["NOT_A_NUMBER"]
NOT_A_WHOLE_NUMBER = NUMBER_OF["NOT_A_WHOLE_NUMBER"]
OUT_OF_RANGE = NUMBER_OF["OUT_OF_RANGE"]
TOO_PRECISE = NUMBER_OF["TOO_PRECISE"]
TEXT_INVALID = NUMBER_OF["TEXT_INVALID"]
PHONE_INVALID = NUMBER_OF["PHONE_INVALID"]
DATE_INVALID = NUMBER_OF["DATE_INVALID"]

MAX_FOUND_CHARS = 200
"""Of what was found in a cell, this much is reported."""

EPOCH_ORDINAL = date(1970, 1, 1).toordinal()

Column = Sequence[Cell] | NDArray[Any]
"""A cell for each row: any sequence, or an array of objects or of floats."""
Ints = NDArray[np.int64]
Problems = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A decoded column. `values` holds a number wherever `problems` is OK, and anything elsewhere.

    `found` returns the content of a row's cell for a message.
    """

    values: Ints
    problems: Problems
    found: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Texts:
    """A decoded column of text, with the fields of Numbers."""

    values: list[str]
    problems: Problems
    found: Callable[[int], str]


_FORMS: Mapping[ColumnType, Form] = {
    "ID": "WHOLE",
    "WHOLE": "WHOLE",
    "AMOUNT": "AMOUNT",
    "RATE": "RATE",
}
_DECIMALS: Mapping[Form, int] = {"WHOLE": 0, "AMOUNT": 2, "RATE": 2, "DECIMAL": 2}


def decoded(cells: Column, type_: ColumnType, order: DateOrder | None = None) -> Numbers | Texts:
    """Decode a column of a file. `order` is that of its dates."""
    if type_ == "DAY":
        return dates(cells, order)
    return numbers(cells, _FORMS[type_]) if type_ in _FORMS else texts(cells)


def numbers(cells: Column, form: Form) -> Numbers:
    """Each cell as an integer: a whole number, paise, or basis points."""
    if isinstance(cells, np.ndarray) and cells.dtype == np.float64:
        values, problems = _from_floats(cells, form)
        return Numbers(values, problems, lambda index: shown(float(cells[index])))
    kinds = set(map(type, cells))
    if kinds <= {float} or (form == "RATE" and kinds <= {float, Percent}):
        values, problems = _from_floats(np.array(cells, np.float64), form)
    elif kinds == {str}:
        values, problems = _from_texts(cells, form)  # type: ignore[arg-type] # all are str
    else:
        values = np.zeros(len(cells), np.int64)
        problems = np.zeros(len(cells), np.uint8)
        is_float = [type(cell) is float for cell in cells]
        chosen = np.array(is_float, bool)
        values[chosen], problems[chosen] = _from_floats(
            np.array(list(compress(cells, is_float)), np.float64), form
        )
        for index in np.flatnonzero(~chosen).tolist():
            values[index], problems[index] = _from_cell(cells[index], form)
    return Numbers(values, problems, lambda index: shown(cells[index]))


def _from_floats(floats: NDArray[np.float64], form: Form) -> tuple[Ints, Problems]:
    decimals = _DECIMALS[form]
    scale = 10**decimals
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(floats * scale)
        # Dividing gives the float nearest to the decimal: if equal, this decimal is meant.
        # Beyond 2^52 hundredths floats are too far apart; whole ones are exact to 2^53.
        most = 2**52 if decimals else 2**53
        exact = (scaled / scale == floats) & (np.abs(scaled) < most)
    values = np.where(exact, scaled, 0).astype(np.int64)
    problems = np.zeros(len(floats), np.uint8)
    for index in np.flatnonzero(~exact).tolist():
        values[index], problems[index] = _from_cell(float(floats[index]), form)
    return values, problems


def _from_cell(cell: Cell, form: Form) -> tuple[int, int]:
    number, code = cell_values.number(cell, form)
    if number is None:
        return 0, NUMBER_OF[code]
    decimals = _DECIMALS[form]
    value = cell_values.scaled(number, decimals)
    if value is None:
        return 0, TOO_PRECISE if decimals else NOT_A_WHOLE_NUMBER
    return value, OK


_FAST_WIDTH = 18
"""Longest text that is decoded a column at a time: 15 digits, a point and two decimals."""


def _from_texts(texts: Sequence[str] | NDArray[Any], form: Form) -> tuple[Ints, Problems]:
    """Decode texts of at most 15 digits and two decimals at once, and the others one by one."""
    longest = max(map(len, texts), default=0)
    short = texts if longest <= _FAST_WIDTH else [t if len(t) <= _FAST_WIDTH else "" for t in texts]
    chars = _characters(short)
    count = len(texts)
    hundredths = np.zeros(count, np.int64)
    digits = np.zeros(count, np.int64)
    places = np.zeros(count, np.int64)
    pointed = np.zeros(count, bool)
    odd = np.zeros(count, bool)
    for char in chars.T:
        digit = char.astype(np.int64) - 48
        is_digit = (digit >= 0) & (digit <= 9)
        is_point = char == 46
        odd |= ~(is_digit | is_point | (char == 0)) | (is_point & pointed)
        hundredths = np.where(is_digit, hundredths * 10 + digit, hundredths)
        digits += is_digit & ~pointed
        places += is_digit & pointed
        pointed |= is_point
    # Padding is not counted. A text that contains the padding character itself is odd.
    lengths = np.fromiter(map(len, short), np.int64, count)
    odd |= np.count_nonzero(chars, axis=1) != lengths
    clean = ~odd & (digits >= 1) & (digits <= 15) & (places <= 2) & (pointed == (places > 0))
    hundredths *= np.where(places == 0, 100, np.where(places == 1, 10, 1))
    problems = np.zeros(count, np.uint8)
    values = hundredths
    if form == "WHOLE":
        values, rest = np.divmod(hundredths, 100)
        problems[rest != 0] = NOT_A_WHOLE_NUMBER
    for index in np.flatnonzero(~clean).tolist():
        values[index], problems[index] = _from_cell(texts[index], form)
    return values, problems


def _characters(texts: Sequence[str] | NDArray[Any]) -> NDArray[np.uint32]:
    """The code points of short texts, a row each, padded with 0."""
    array = np.array(texts, np.str_)
    width = array.dtype.itemsize // 4
    return array.view(np.uint32).reshape(len(texts), width)


def dates(cells: Column, order: DateOrder | None = None) -> Numbers:
    """Each cell as days since 1970-01-01; `spreadsheets.cell_values` reads texts and times."""
    count = len(cells)
    problems = np.zeros(count, np.uint8)
    kinds = set(map(type, cells))
    if kinds <= {date}:
        values = np.fromiter(map(date.toordinal, cells), np.int64, count)  # all are dates
        return Numbers(values - EPOCH_ORDINAL, problems, lambda index: shown(cells[index]))
    values = np.zeros(count, np.int64)
    slow: Sequence[int] = range(count)
    if kinds == {str}:
        values, clean = _from_iso_texts(cells)  # type: ignore[arg-type] # all are str
        slow = np.flatnonzero(~clean).tolist()
    for index in slow:
        values[index], problems[index] = _day(cells[index], order)
    return Numbers(values, problems, lambda index: shown(cells[index]))


def _from_iso_texts(texts: Sequence[str] | NDArray[Any]) -> tuple[Ints, NDArray[np.bool_]]:
    chars = _characters([t if len(t) == 10 else "" for t in texts] + ["0000-00-00"])[:-1]
    digit = chars.astype(np.int64) - 48
    places = [0, 1, 2, 3, 5, 6, 8, 9]
    shaped = ((digit[:, places] >= 0) & (digit[:, places] <= 9)).all(axis=1)
    shaped &= (chars[:, 4] == 45) & (chars[:, 7] == 45)
    year = digit[:, 0] * 1000 + digit[:, 1] * 100 + digit[:, 2] * 10 + digit[:, 3]
    month = digit[:, 5] * 10 + digit[:, 6]
    return civil_days(year, month, digit[:, 8] * 10 + digit[:, 9], shaped)


def civil_days(
    year: Ints, month: Ints, day: Ints, plausible: NDArray[np.bool_] | None = None
) -> tuple[Ints, NDArray[np.bool_]]:
    """Days since 1970-01-01, and a mask of the dates that exist."""
    exists = (year >= 1) & (year <= 9999) & (month >= 1) & (month <= 12) & (day >= 1)
    if plausible is not None:
        exists &= plausible
    months = np.where(exists, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    length = (months + 1).astype("datetime64[D]").astype(np.int64) - first
    exists &= day <= length
    return np.where(exists, first + day - 1, 0), exists


def _day(cell: Cell, order: DateOrder | None) -> tuple[int, int]:
    day, code = cell_values.day(cell, order)
    return (0, NUMBER_OF[code]) if day is None else (day.toordinal() - EPOCH_ORDINAL, OK)


def texts(cells: Column) -> Texts:
    """Each cell as text, a number as the sheet shows it."""
    count = len(cells)
    problems = np.zeros(count, np.uint8)
    if set(map(type, cells)) == {str}:
        values: list[str] = list(cells)  # type: ignore[arg-type] # all are str
    else:
        values = [cell if isinstance(cell, str) else shown(cell) for cell in cells]
    for index, text in enumerate(values):
        if not text or text[0] <= " " or text[0] in "#=":
            problems[index] = NUMBER_OF[cell_values.problem_of_text(text)]
    return Texts(values, problems, lambda index: shown(cells[index]))


def shown(cell: Cell | Any) -> str:
    """The cell as the sheet shows it, cut after MAX_FOUND_CHARS."""
    text = cell_values.shown(cell)
    return text[:MAX_FOUND_CHARS].replace("\x00", "\N{REPLACEMENT CHARACTER}")

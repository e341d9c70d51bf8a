"""What the cells of a sheet hold, and what they mean: numbers as people write them, days, texts.

The client, which streams the rows of a file, and the service, which reads uploaded ones, share it.
Nothing is guessed: a cell with two readings is rejected with a code of RowErrorCode.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Literal

Form = Literal["WHOLE", "AMOUNT", "RATE", "DECIMAL"]
"""What a column of numbers holds: ids and counts; money; percent a year; numerals with at most two
decimals, as google.type.Decimal has them."""
DateOrder = Literal["DMY", "MDY", "YMD"]
"""The order of day, month and year in a date written in digits."""

Cell = int | float | str | bool | date | datetime | time | timedelta
"""What a cell holds; an empty one holds ''."""


class Formula(str):
    """A cell with a formula: its text, with the sign '='."""

    __slots__ = ()


class ErrorValue(str):
    """A cell with an error value, such as '#N/A'."""

    __slots__ = ()


class Percent(float):
    """A number that the sheet shows as a percentage, as shown: 12.0 for 12 %, stored as 0.12."""

    __slots__ = ()

    def __str__(self) -> str:
        """The number as shown: 12.5%."""
        return f"{self:.15g}%"

    def fraction(self) -> str:
        """The stored number: 0.12 for 12 %."""
        return f"{Decimal(format(self, '.15g')).scaleb(-2):f}"


def shown(cell: Cell) -> str:
    """The cell as a person sees it."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, Percent):
        return format(cell, ".15g") + "%"
    if isinstance(cell, float):
        return format(cell, ".15g")
    return str(cell)


ERROR_VALUES = frozenset(
    {
        "#N/A",
        "#REF!",
        "#DIV/0!",
        "#NAME?",
        "#NULL!",
        "#NUM!",
        "#VALUE!",
        "#SPILL!",
        "#CALC!",
        "#GETTING_DATA",
    }
)
"""Error values as text, which is how a CSV file saved from a spreadsheet holds them."""


def is_blank(cell: Cell) -> bool:
    return isinstance(cell, str) and (not cell or cell.isspace())


TextCode = Literal["", "MISSING", "FORMULA", "ERROR_VALUE"]
NumberCode = Literal[TextCode, "NOT_A_NUMBER", "PERCENTAGE", "OUT_OF_RANGE"]
DayCode = Literal[TextCode, "DATE_INVALID", "DATE_AMBIGUOUS", "TIME_OF_DAY"]
"""Codes of RowErrorCode that say why a cell has no value; '' if it has one."""


def problem_of_text(cell: str) -> TextCode:
    """Why a text holds no value: it is blank, a formula, or an error value."""
    if isinstance(cell, Formula):
        return "FORMULA"
    if isinstance(cell, ErrorValue):
        return "ERROR_VALUE"
    text = cell.strip()
    if not text:
        return "MISSING"
    return "ERROR_VALUE" if text in ERROR_VALUES else ""


# --- Numbers --------------------------------------------------------------------------------------

MAX_NUMBER = 2**53 - 1
"""Numbers beyond this, in their own unit, are out of every range there is."""

# Precision at which nothing is rounded.
_EXACT = Context(prec=500)


def number(cell: Cell, form: Form) -> tuple[Decimal | None, NumberCode]:
    """The number in a cell, from -MAX_NUMBER to MAX_NUMBER; None, and the reason, if there is none.

    A workbook's numbers are binary floats: the number meant is the shortest decimal within the 15
    digits that spreadsheets show.
    """
    if isinstance(cell, str):
        if code := problem_of_text(cell):
            return None, code
        numeral = plain_numeral(cell, form)
        if numeral is None:
            # In a plain decimal a percent sign is only a typing error.
            is_percent = form != "DECIMAL" and is_percentage(cell)
            return None, "PERCENTAGE" if is_percent else "NOT_A_NUMBER"
        found = Decimal(numeral)
    elif isinstance(cell, float):
        if isinstance(cell, Percent) and form != "RATE":
            return None, "PERCENTAGE"
        whole = cell.is_integer() and abs(cell) <= MAX_NUMBER
        found = Decimal(int(cell)) if whole else Decimal(format(cell, ".15g"))
    elif isinstance(cell, int) and not isinstance(cell, bool):
        found = Decimal(cell)
    else:
        return None, "NOT_A_NUMBER"
    if not found.is_finite():
        return None, "NOT_A_NUMBER"
    return (found, "") if abs(found) <= MAX_NUMBER else (None, "OUT_OF_RANGE")


def scaled(number: Decimal, decimals: int) -> int | None:
    """The number times 10 ** `decimals`; None if that is no whole number."""
    found = number.scaleb(decimals, _EXACT)
    return int(found) if found == found.to_integral_value() else None


_NUMERAL = r"[+-]?(?:[0-9]{1,200}(?:\.[0-9]{0,200})?|\.[0-9]{1,200})"
_PLAIN = re.compile(_NUMERAL)
_PERCENTAGE = re.compile(rf"({_NUMERAL})\s*%(?:\s*(?:p\.?\s*a\.?|per\s+annum))?", re.IGNORECASE)
# 1,00,000 (two digits a group but for the last) or 100,000 (three digits a group).
# A group never begins with 0: in 0,500 the comma is a decimal one.
_GROUPED = re.compile(
    r"[+-]?(?=[1-9])(?:[0-9]{1,2}(?:,[0-9]{2}){0,60},[0-9]{3}|[0-9]{1,3}(?:,[0-9]{3}){1,60})"
    r"(?:\.[0-9]{0,200})?"
)
_AMOUNT = re.compile(
    r"(?:(?:₹|rs\.?|inr)\s*)?(.*?)(?:\s*/-)?(?:\s*(?:₹|rs\.?|inr))?", re.IGNORECASE
)


def plain_numeral(text: str, form: Form) -> str | None:
    """The number in a text, as a numeral such as -12500.50; None if there is none.

    An amount may be grouped (1,00,000.50 or 100,000.50) and name rupees (₹ 50,000 or Rs. 50,000/-),
    and a rate may end in a percent sign. An exponent is not read: a spreadsheet writes one where it
    has shortened the number.
    """
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return text
    if form == "RATE":
        match = _PERCENTAGE.fullmatch(text)
        return match[1] if match else None
    if form == "AMOUNT" and (match := _AMOUNT.fullmatch(text)):
        numeral = match[1]
        if _PLAIN.fullmatch(numeral):
            return numeral
        return numeral.replace(",", "") if _GROUPED.fullmatch(numeral) else None
    return None


def is_percentage(text: str) -> bool:
    """Whether a text is a number with a percent sign, such as "12 %"."""
    return _PERCENTAGE.fullmatch(text.strip()) is not None


# --- Days -----------------------------------------------------------------------------------------

_ZONE = r"\s?(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
_TIME = rf"(?:[ T]([0-9]{{2}}):([0-9]{{2}})(?::([0-9]{{2}})(?:\.[0-9]{{1,9}})?)?{_ZONE})?"
_ISO = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}){_TIME}")
_YEAR_FIRST = re.compile(rf"([0-9]{{4}})([-/.])([0-9]{{1,2}})\2([0-9]{{1,2}}){_TIME}")
_YEAR_LAST = re.compile(rf"([0-9]{{1,2}})([-/. ])([0-9]{{1,2}})\2([0-9]{{4}}){_TIME}")
_DAY_MONTH_NAME = re.compile(
    rf"([0-9]{{1,2}})[-/. ]([A-Za-z]{{3,9}})[-/., ]{{1,2}}([0-9]{{4}}){_TIME}"
)
_MONTH_NAME_DAY = re.compile(
    rf"([A-Za-z]{{3,9}})[-/. ]([0-9]{{1,2}})[-/., ]{{1,2}}([0-9]{{4}}){_TIME}"
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_HALF_A_MINUTE = timedelta(seconds=30)
_FLOAT_NOISE = timedelta(milliseconds=1)
_LAST_SECOND = timedelta(seconds=1)


def day(cell: Cell, order: DateOrder | None = None) -> tuple[date | None, DayCode]:
    """The day in a cell; None, and the reason, if there is none. `order` is that of
    `day_of_text`."""
    if isinstance(cell, datetime):
        return day_of_moment(cell)
    if isinstance(cell, date):
        return cell, ""
    if not isinstance(cell, str):
        return None, "DATE_INVALID"
    if code := problem_of_text(cell):
        return None, code
    return day_of_text(cell, order)


def day_of_moment(moment: datetime) -> tuple[date | None, DayCode]:
    """The day of a date cell with a time, which must be midnight to the nearest minute.

    JavaScript writers leave midnight in India ten seconds off. Any other time is rejected: after a
    shift of the time zone it may be another day. So is the last second, 23:59:59 or 23:59:59.999:
    databases write it for the end of that day, and the nearest midnight is of the next day.
    """
    try:
        rounded = moment + _HALF_A_MINUTE
    except OverflowError:
        return None, "DATE_INVALID"
    if (rounded.hour, rounded.minute) != (0, 0):
        return None, "TIME_OF_DAY"
    missing = datetime.combine(rounded.date(), time()) - moment
    if _FLOAT_NOISE <= missing <= _LAST_SECOND + _FLOAT_NOISE:
        return None, "TIME_OF_DAY"
    return rounded.date(), ""


def day_of_text(text: str, order: DateOrder | None = None) -> tuple[date | None, DayCode]:
    """The day in a text: ISO 8601, a month's English name, or digits in a known order.

    Digits with the year last, such as 03-04-2024, are DATE_AMBIGUOUS without an order, unless both
    orders give the same day.
    """
    text = text.strip()
    if match := _ISO.fullmatch(text):
        try:
            day = date.fromisoformat(match[1])
        except ValueError:
            return None, "DATE_INVALID"
        return _at(day, match.groups()[-3:])
    if match := _YEAR_FIRST.fullmatch(text):
        return _at(_date(match[1], match[3], match[4]), match.groups()[-3:])
    if match := _YEAR_LAST.fullmatch(text):
        days = _readings(match)
        if order is not None:
            return _at(days.get(order), match.groups()[-3:])
        if len(set(days.values())) > 1 or (len(days) == 1):
            return None, "DATE_AMBIGUOUS"
        return _at(next(iter(days.values()), None), match.groups()[-3:])
    if match := _DAY_MONTH_NAME.fullmatch(text):
        return _at(_date(match[3], _month(match[2]), match[1]), match.groups()[-3:])
    if match := _MONTH_NAME_DAY.fullmatch(text):
        return _at(_date(match[3], _month(match[1]), match[2]), match.groups()[-3:])
    return None, "DATE_INVALID"


def needs_order(text: str) -> bool:
    """Whether a text is a date in digits with the year last."""
    # Most dates begin with their year, and need no pattern.
    return not text[:4].isdecimal() and _YEAR_LAST.fullmatch(text.strip()) is not None


def possible_orders(texts: Iterable[str]) -> frozenset[DateOrder]:
    """The orders in which all of these texts that need an order are dates: both, one or none."""
    orders: frozenset[DateOrder] = frozenset(("DMY", "MDY"))
    for text in texts:
        match = _YEAR_LAST.fullmatch(text.strip())
        if match is not None and (days := _readings(match)):
            orders &= days.keys()
    return orders


def readings(text: str) -> tuple[date, ...]:
    """The possible days of digits with the year last: none, one, or one for each order."""
    match = _YEAR_LAST.fullmatch(text.strip())
    return () if match is None else tuple(dict.fromkeys(_readings(match).values()))


def _readings(match: re.Match[str]) -> dict[DateOrder, date]:
    """The possible days of digits with the year last, by order."""
    first, second, year = match[1], match[3], match[4]
    candidates: tuple[tuple[DateOrder, date | None], ...] = (
        ("DMY", _date(year, second, first)),
        ("MDY", _date(year, first, second)),
    )
    return {order: day for order, day in candidates if day is not None}


def _month(name: str) -> str:
    matches = [
        n for n, full in enumerate(_MONTHS, 1) if full == name.lower() or full[:3] == name.lower()
    ]
    if name.lower() == "sept":
        matches = [9]
    return str(matches[0]) if matches else "0"


def _date(year: str, month: str, day: str) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _at(day: date | None, time: tuple[str | None, ...]) -> tuple[date | None, DayCode]:
    """The day, if the time beside it is midnight or missing."""
    if day is None:
        return None, "DATE_INVALID"
    hours, minutes, seconds = (int(part or 0) for part in time)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None, "DATE_INVALID"
    return day_of_moment(datetime(day.year, day.month, day.day, hours, minutes, seconds))  # noqa: DTZ001 - a civil time

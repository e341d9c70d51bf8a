"""Values of the wire as text for a person, and text of a person as values of the wire.

Money is integer paise from the moment it is read; no figure on a page comes from a float.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.client.display import inr, paise
from credit_service.rupees import RUPEE_PAISE, format_inr, format_rupees

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
_NANOS_PER_PAISA = 10_000_000
_AMOUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,2}))?")
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


# What the service sends, for a person.


def other_last(
    message: Any, monthly: str = "monthly_installment", last: str = "last_installment"
) -> str:
    """The last installment where it differs from the others: '₹8,884.85'. Empty where it is the
    same, or not stated by the service. `monthly` and `last` are fields of the message."""
    if not message.HasField(last) or getattr(message, last) == getattr(message, monthly):
        return ""
    return inr(getattr(message, last))


def largest_installment_paise(message: Any) -> int:
    """The larger of the monthly and the last installment, which the income test goes by."""
    return max(paise(message.monthly_installment), paise(message.last_installment))


def short_rupees(amount_paise: int) -> str:
    """A figure for an axis, cut to hundredths of its unit: '₹1.25 lakh', '₹3 crore', '₹850'."""
    for unit_paise, name in ((1_000_000_000, " crore"), (10_000_000, " lakh"), (100_000, "k")):
        if amount_paise >= unit_paise:
            whole, rest = divmod(amount_paise * 100 // unit_paise, 100)
            figure = f"{whole}.{rest:02d}".rstrip("0").removesuffix(".")
            return f"₹{figure}{name}"
    return f"₹{amount_paise // RUPEE_PAISE}"


def plain_amount(money: Any) -> str:
    """A google.type.Money as a form field holds it: '500000', '8884.88'."""
    return format_rupees(paise(money)).removesuffix(".00")


def figure(text: str) -> str:
    """A plain figure in rupees ('32884.88') grouped with its sign: '₹32,884.88'."""
    hundredths = to_hundredths(text)
    return text if hundredths is None else format_inr(hundredths)


def to_hundredths(text: str) -> int | None:
    """A plain decimal in hundredths: '29.17' gives 2917; further digits are cut off.

    None when it is no decimal.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction = match.groups()
    value = int(whole) * 100 + int(((fraction or "") + "00")[:2])
    return -value if sign else value


def iso(day: Any) -> str:
    """A google.type.Date as '2024-02-29'; '' when unset."""
    return f"{day.year:04d}-{day.month:02d}-{day.day:02d}" if day.year else ""


def civil(day: Any) -> str:
    """A google.type.Date as '29 Feb 2024'; '—' when unset."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}" if day.year else "—"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def instant(time: Timestamp, zone: ZoneInfo) -> str:
    """A Timestamp in that zone: '29 Feb 2024, 14:05:09'; '—' when unset."""
    if not time.seconds:
        return "—"
    local = time.ToDatetime(UTC).astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]} {local.year}, {local:%H:%M:%S}"


def minute(time: Timestamp, zone: ZoneInfo) -> str:
    """A Timestamp in that zone where room is short: '29 Feb, 14:05'; '—' when unset."""
    if not time.seconds:
        return "—"
    local = time.ToDatetime(UTC).astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]}, {local:%H:%M}"


def clock_time(time: Timestamp, zone: ZoneInfo) -> str:
    """A Timestamp in that zone as '14:05:09'."""
    return f"{time.ToDatetime(UTC).astimezone(zone):%H:%M:%S}"


def iso_instant(time: Timestamp) -> str:
    """A Timestamp for the datetime attribute of <time>."""
    return time.ToDatetime(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A span for a person: '40 ms', '1.4 s', '12 s', '3 min 20 s'."""
    if seconds < 0.95:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# What a person types, for the service.


class Typed:
    """The fields of a form. What cannot be put into the contract's types is kept as a problem.

    Only that is judged here: whether a readable value is right is the service's to say.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: dict[str, str] = {}

    def text(self, name: str) -> str:
        """The text as it was typed, without blanks around it."""
        return self._values.get(name, "").strip()

    def flag(self, name: str) -> bool:
        """Whether a box is ticked."""
        return self.text(name) == "yes"

    def whole(self, name: str, largest: int = MAX_INT64) -> int:
        """A whole number; 0, with a problem noted, when it is none or does not fit."""
        text = self.text(name).replace(",", "")
        if not _WHOLE.fullmatch(text):
            self.problems[name] = "Enter a whole number." if text else "This field is required."
            return 0
        value = int(text)
        if not -largest - 1 <= value <= largest:
            self.problems[name] = "This number is too large."
            return 0
        return value

    def money(self, name: str) -> Any:
        """Rupees, with or without grouping and sign; None, with a problem noted, when unreadable.

        '₹5,00,000', '500000' and '5 00 000.00' are one amount.
        """
        text = re.sub(r"[\s,₹]", "", self.text(name))
        negative = text.startswith("-")
        match = _AMOUNT.fullmatch(text.removeprefix("-"))
        if match is None:
            problem = (
                "Enter rupees, such as 5,00,000 or 8884.88." if text else "This field is required."
            )
            self.problems[name] = problem
            return None
        rupees, rest = match.groups()
        amount = int(rupees) * RUPEE_PAISE + int(((rest or "") + "00")[:2])
        return money_of(-amount if negative else amount)

    def rate(self, name: str) -> Any:
        """A yearly rate in percent, handed on as it was typed but for a percent sign."""
        text = self.text(name).removesuffix("%").strip()
        if not text:
            self.problems[name] = "This field is required."
        return DecimalMessage(value=text)

    def day(self, name: str) -> Any:
        """A date as the date field sends it; None when it is empty or, with a problem, no date."""
        text = self.text(name)
        if not text:
            return None
        try:
            found = date.fromisoformat(text)
        except ValueError:
            self.problems[name] = "Enter a date as YYYY-MM-DD."
            return None
        return Date(year=found.year, month=found.month, day=found.day)


def money_of(amount_paise: int) -> Any:
    """Paise as a google.type.Money in INR."""
    sign = -1 if amount_paise < 0 else 1
    rupees, rest = divmod(abs(amount_paise), RUPEE_PAISE)
    return Money(currency_code="INR", units=sign * rupees, nanos=sign * rest * _NANOS_PER_PAISA)


# Files to take away.


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file that a spreadsheet opens as it is, with no cell taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([neutralised(cell) for cell in header])
    for row in rows:
        writer.writerow([neutralised(str(cell)) for cell in row])
    return out.getvalue()


def neutralised(cell: str) -> str:
    """The cell behind an apostrophe where a spreadsheet would take it for a formula."""
    # Some spreadsheets pass over blanks and a byte order mark before the sign.
    starts = cell.lstrip(" \u00a0\ufeff\n\u3000")
    # The full-width forms are formulas too in some locales.
    if starts.startswith((*_FORMULA_STARTS, "\uff1d", "\uff0b", "\uff0d", "\uff20")):
        return "'" + cell
    return cell


def as_datetime(time: Timestamp) -> datetime:
    """A Timestamp as an aware datetime in UTC."""
    return time.ToDatetime(UTC)

"""Values of the contract as text for pages, and form fields as values of the contract.

Money is integer paise everywhere. No figure on a page comes from a float.
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

from credit_service.client.csv_cells import neutralised
from credit_service.client.display import inr, paise
from credit_service.rupees import RUPEE_PAISE, format_inr, format_rupees
from credit_service.v1 import decision_pb2

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
_NANOS_PER_PAISA = 10_000_000
_AMOUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,2}))?")
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_DECIMAL = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")


# Values of the service as text.


def other_last(
    message: Any, monthly: str = "monthly_installment", last: str = "last_installment"
) -> str:
    """Return the last installment if it differs from the others: '₹8,884.85'. '' if it is the same
    or the service does not state it. `monthly` and `last` are field names of the message."""
    if not message.HasField(last) or getattr(message, last) == getattr(message, monthly):
        return ""
    return inr(getattr(message, last))


def largest_installment_paise(message: Any) -> int:
    """Return the larger of the monthly and the last installment, which the income rule uses."""
    return max(paise(message.monthly_installment), paise(message.last_installment))


def outcome(message: Any) -> str:
    """Return the outcome of a decision or an eligibility check: APPROVED, DECLINED or REFERRED."""
    if message.outcome == decision_pb2.DECISION_OUTCOME_REFERRED:
        return "REFERRED"
    return "APPROVED" if message.approved else "DECLINED"


def short_rupees(amount_paise: int) -> str:
    """Return an axis label, truncated to hundredths: '₹1.25 lakh', '₹3 crore', '₹850'."""
    for unit_paise, name in ((1_000_000_000, " crore"), (10_000_000, " lakh"), (100_000, "k")):
        if amount_paise >= unit_paise:
            whole, rest = divmod(amount_paise * 100 // unit_paise, 100)
            figure = f"{whole}.{rest:02d}".rstrip("0").removesuffix(".")
            return f"₹{figure}{name}"
    return f"₹{amount_paise // RUPEE_PAISE}"


def plain_amount(money: Any) -> str:
    """Return a google.type.Money for a form field: '500000', '8884.88'."""
    return format_rupees(paise(money)).removesuffix(".00")


def figure(text: str) -> str:
    """Return plain rupees ('32884.88') with grouping and currency: '₹32,884.88'."""
    hundredths = to_hundredths(text)
    return text if hundredths is None else format_inr(hundredths)


def to_hundredths(text: str) -> int | None:
    """Return a plain decimal in hundredths: '29.17' gives 2917. Further digits are truncated.

    None if the text is not a decimal.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction = match.groups()
    value = int(whole) * 100 + int(((fraction or "") + "00")[:2])
    return -value if sign else value


def iso(day: Any) -> str:
    """Return a google.type.Date as '2024-02-29', or '' if unset."""
    return f"{day.year:04d}-{day.month:02d}-{day.day:02d}" if day.year else ""


def civil(day: Any) -> str:
    """Return a google.type.Date as '29 Feb 2024', or '—' if unset."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}" if day.year else "—"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def instant(time: Timestamp, zone: ZoneInfo) -> str:
    """Return a Timestamp in the zone: '29 Feb 2024, 14:05:09', or '—' if unset."""
    if not time.seconds:
        return "—"
    local = time.ToDatetime(UTC).astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]} {local.year}, {local:%H:%M:%S}"


def minute(time: Timestamp, zone: ZoneInfo) -> str:
    """Return a Timestamp in the zone in short form: '29 Feb, 14:05', or '—' if unset."""
    if not time.seconds:
        return "—"
    local = time.ToDatetime(UTC).astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]}, {local:%H:%M}"


def clock_time(time: Timestamp, zone: ZoneInfo) -> str:
    """Return a Timestamp in the zone as '14:05:09'."""
    return f"{time.ToDatetime(UTC).astimezone(zone):%H:%M:%S}"


def iso_instant(time: Timestamp) -> str:
    """Return a Timestamp for the datetime attribute of <time>."""
    return time.ToDatetime(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Return a duration as text: '40 ms', '1.4 s', '12 s', '3 min 20 s'."""
    if seconds < 0.95:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Form fields as values of the service.


class Typed:
    """The fields of a form. `problems` has those that cannot be parsed into the contract's types.

    Nothing else is validated here: the service validates the parsed values.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: dict[str, str] = {}

    def text(self, name: str) -> str:
        """Return the text without surrounding whitespace."""
        return self._values.get(name, "").strip()

    def flag(self, name: str) -> bool:
        """Return whether a checkbox is ticked."""
        return self.text(name) == "yes"

    def whole(self, name: str, largest: int = MAX_INT64) -> int:
        """Return a whole number. 0, with a problem, if it is not one or too large."""
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
        """Return rupees, with or without grouping and sign. None, with a problem, if invalid.

        '₹5,00,000', '500000' and '5 00 000.00' are the same amount.
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
        """Return a yearly rate in percent as typed, without a percent sign."""
        text = self.text(name).removesuffix("%").strip()
        if not text:
            self.problems[name] = "This field is required."
        return DecimalMessage(value=text)

    def day(self, name: str) -> Any:
        """Return a date of a date field. None if it is empty, or invalid (with a problem)."""
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
    """Return paise as a google.type.Money in INR."""
    sign = -1 if amount_paise < 0 else 1
    rupees, rest = divmod(abs(amount_paise), RUPEE_PAISE)
    return Money(currency_code="INR", units=sign * rupees, nanos=sign * rest * _NANOS_PER_PAISA)


# Downloads.


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV file in which a spreadsheet program treats no cell as a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([neutralised(cell) for cell in header])
    for row in rows:
        writer.writerow([neutralised(str(cell)) for cell in row])
    return out.getvalue()


def as_datetime(time: Timestamp) -> datetime:
    """Return a Timestamp as an aware datetime in UTC."""
    return time.ToDatetime(UTC)

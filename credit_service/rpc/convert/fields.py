"""Fields that messages have in common: money, rates, dates, ids and texts.

Reading gathers every bad field of a request in a `Violations` and raises once. A reader returns a
harmless stand-in for what it could not read, so that the rest is still checked, by the rules of
the domain too. Nothing here is a float: money is units and nanos, a rate is text.
"""

import re
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.domain.customers import parse_phone_number
from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    FieldViolation,
    InvalidFieldsError,
)
from credit_service.domain.money import format_hundredths
from credit_service.domain.principals import ANONYMOUS

CURRENCY = "INR"
MAX_QUERY_LENGTH = 100

_NANOS_PER_PAISA = 10_000_000
_MAX_NANOS = 999_999_999
_MAX_DECIMAL_LENGTH = 40
_SHOWN = 40

_PLAIN_RATE = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_EXACT = Context(prec=2 * _MAX_DECIMAL_LENGTH)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_UUID = UUID(int=0)
_RESERVED_UUIDS = {UUID(int=0): "nil", UUID(int=2**128 - 1): "max"}
"""RFC 9562. Clients that set no id send them, all the same one."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Violations:
    """The bad fields of one request."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def add(self, field: str, reason: str, sentence: str) -> None:
        """Note one; the sentence goes on after the field's name: 'must be …'."""
        self.found.append(FieldViolation(field, reason, f"{field} {sentence}"))

    def merge(self, error: InvalidFieldsError) -> None:
        """Note what the domain found, but for fields that could not even be read."""
        unreadable = {each.field for each in self.found}
        self.found += [each for each in error.violations if each.field not in unreadable]

    def raise_if_any(self, reason: str = "INVALID_FIELD") -> None:
        """Raise InvalidFieldsError with all of them, when there are any."""
        if self.found:
            raise InvalidFieldsError(self.found, reason)


def shown(text: str) -> str:
    """What a caller sent, fit to be told back: short, and nothing that a terminal would obey."""
    start = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in text[: _SHOWN + 1]
    )
    return f"'{start}'" if len(start) <= _SHOWN else f"'{start[:_SHOWN]}…'"


# Reading. Each reads the field of that name from a message.


def read_money(message: Any, field: str, violations: Violations) -> int | None:
    """Paise of a google.type.Money; None, with a violation noted, when it cannot be read."""
    if not message.HasField(field):
        violations.add(field, REQUIRED, "is required.")
        return None
    money = getattr(message, field)
    currency = money.currency_code
    units: int = money.units
    nanos: int = money.nanos
    if currency and currency != CURRENCY:
        violations.add(field, INVALID_FORMAT, f"must be in INR, found {shown(currency)}.")
        return None
    if nanos:
        if not -_MAX_NANOS <= nanos <= _MAX_NANOS or (units and (units > 0) != (nanos > 0)):
            violations.add(
                field,
                INVALID_FORMAT,
                f"must have nanos below 1,000,000,000 with the same sign as units, found units "
                f"{units} and nanos {nanos}.",
            )
            return None
        if nanos % _NANOS_PER_PAISA:
            violations.add(
                field,
                INVALID_FORMAT,
                f"must be whole paise (multiples of 10,000,000 nanos), found nanos {nanos}.",
            )
            return None
        # The division is exact, and so right for either sign.
        return units * 100 + nanos // _NANOS_PER_PAISA
    return units * 100


def read_rate_bps(message: Any, field: str, violations: Violations) -> int | None:
    """Basis points of a google.type.Decimal in percent; None when it cannot be read."""
    if not message.HasField(field):
        violations.add(field, REQUIRED, "is required.")
        return None
    text: str = getattr(message, field).value
    plain = _PLAIN_RATE.fullmatch(text)
    if plain is not None:
        whole, fraction = plain.groups()
        return int(whole) * 100 + (int(fraction.ljust(2, "0")) if fraction else 0)
    if not text:
        violations.add(field, REQUIRED, "is required: its value is empty.")
        return None
    if len(text) > _MAX_DECIMAL_LENGTH or _DECIMAL.fullmatch(text) is None:
        violations.add(
            field, INVALID_FORMAT, f"must be a decimal number such as 12.5, found {shown(text)}."
        )
        return None
    return _hundredths(Decimal(text), text, field, violations)


def _hundredths(value: Decimal, text: str, field: str, violations: Violations) -> int | None:
    """A decimal that may have an exponent, in hundredths; its size is looked at before it is
    written out, because an exponent of a few characters can stand for hundreds of digits."""
    if not value:
        return 0
    if value.adjusted() > 3:
        violations.add(
            field, OUT_OF_RANGE, f"must be 0 to 100 percent a year, found {shown(text)}."
        )
        return None
    hundredths = value.scaleb(2, _EXACT)
    if value.adjusted() < -2 or hundredths != hundredths.to_integral_value():
        violations.add(
            field, INVALID_FORMAT, f"must have at most two decimals, found {shown(text)}."
        )
        return None
    return int(hundredths)


def read_date(message: Any, field: str, violations: Violations) -> date | None:
    """A full google.type.Date; None when it is absent, or noted when it is no day."""
    if not message.HasField(field):
        return None
    day = getattr(message, field)
    try:
        return date(day.year, day.month, day.day)
    except ValueError:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a valid date, found year {day.year}, month {day.month}, day {day.day}.",
        )
        return None


def read_id(value: int, field: str, violations: Violations) -> int:
    """An id, 1 or more."""
    if value < 1:
        if value:
            violations.add(field, OUT_OF_RANGE, f"must be 1 or more, found {value}.")
        else:
            violations.add(field, REQUIRED, "is required: an id, 1 or more.")
    return value


def read_uuid(text: str, field: str, violations: Violations) -> UUID | None:
    """A UUID in its usual form, in either case; None when there is none, or noted when it is
    something else or the nil or max UUID."""
    if not text:
        return None
    if _UUID.fullmatch(text) is None:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a UUID such as 0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20, found {shown(text)}.",
        )
        return None
    found = UUID(text)
    name = _RESERVED_UUIDS.get(found)
    if name is not None:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a unique UUID, found the {name} UUID {found}; generate a random one, with "
            "uuidgen or your language's UUID library.",
        )
        return None
    return found


def read_required_uuid(text: str, field: str, violations: Violations) -> UUID:
    """As `read_uuid`; that there is none is noted too."""
    if not text:
        violations.add(field, REQUIRED, "is required: a UUID.")
    return read_uuid(text, field, violations) or _NO_UUID


def read_request_id(message: Any, violations: Violations) -> UUID:
    """The request_id of a request that writes; noted when there is none or it is no UUID.

    Every writing method requires one: the published retry policy sends a call again whose answer
    was lost, and without an id the second attempt has a second effect.
    """
    if not message.request_id:
        violations.add(
            "request_id",
            REQUIRED,
            "is required: a random UUID for each intended write, the same one on every retry; "
            "generate it with uuidgen or your language's UUID library.",
        )
    return read_uuid(message.request_id, "request_id", violations) or _NO_UUID


def read_phone_number(text: str, field: str, violations: Violations) -> str:
    """A phone number in E.164."""
    try:
        return parse_phone_number(text)
    except ValueError:
        reason = INVALID_FORMAT if text.strip() else REQUIRED
        violations.add(field, reason, "must be a valid phone number such as +91 98765 98765.")
        return ""


def read_query(text: str, field: str, violations: Violations) -> str:
    """A text to search for."""
    if len(text) > MAX_QUERY_LENGTH:
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {MAX_QUERY_LENGTH} characters, found {len(text)}.",
        )
    elif _CONTROL.search(text):
        violations.add(
            field, INVALID_FORMAT, f"must not contain control characters, found {shown(text)}."
        )
    return text.strip()


def read_single_id(value: int, field: str) -> int:
    """The id of a request that has nothing else. Raises InvalidFieldsError."""
    violations = Violations()
    read_id(value, field, violations)
    violations.raise_if_any()
    return value


# Writing.


# What the busiest answers hold many of is put into its place, not made and copied there: measured,
# that halves the time of a list of loans.


def write_money(paise: int) -> Any:
    """A google.type.Money in INR."""
    message = Money()
    fill_money(message, paise)
    return message


def fill_money(message: Any, paise: int) -> None:
    """Put an amount in INR into an empty google.type.Money."""
    message.currency_code = CURRENCY
    if paise >= 0:
        units, rest = divmod(paise, 100)
    else:
        units, rest = divmod(-paise, 100)
        units, rest = -units, -rest
    message.units = units
    if rest:
        message.nanos = rest * _NANOS_PER_PAISA


def write_hundredths(hundredths: int) -> Any:
    """A google.type.Decimal of basis points as percent, or of hundredths of a point."""
    return DecimalMessage(value=_decimal_text(hundredths))


_decimal_text = lru_cache(maxsize=16_384)(format_hundredths)


def write_date(day: date) -> Any:
    """A google.type.Date."""
    return Date(year=day.year, month=day.month, day=day.day)


def fill_date(message: Any, day: date) -> None:
    """Put a day into a google.type.Date."""
    message.year = day.year
    message.month = day.month
    message.day = day.day


def write_time(instant: datetime) -> Timestamp:
    """A google.protobuf.Timestamp, exact to the microsecond."""
    message = Timestamp()
    fill_time(message, instant)
    return message


def fill_time(message: Timestamp, instant: datetime) -> None:
    """Put an instant into a google.protobuf.Timestamp, exact to the microsecond."""
    since = instant - EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def write_principal(principal: str) -> str:
    """Who acted; empty for a caller who was asked for no credentials."""
    return "" if principal == ANONYMOUS else principal

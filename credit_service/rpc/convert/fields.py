"""Convert common fields: money, rates, dates, ids and texts.

Readers collect every invalid field of a request in a `Violations`, which raises once. For a value
that it cannot read, a reader returns a valid placeholder, so that the remaining fields and the
rules of the domain are still checked. Nothing here is a float: money is units and nanos, a rate is
text.
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
_MAX_QUOTED = 40

_MAX_PLAIN_LENGTH = len("100.00")
_PLAIN_RATE = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_EXACT = Context(prec=2 * _MAX_DECIMAL_LENGTH)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_UUID = UUID(int=0)
_RESERVED_UUIDS = {UUID(int=0): "nil", UUID(int=2**128 - 1): "max"}
"""RFC 9562. Clients without an id of their own may send them, all the same one."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Violations:
    """The invalid fields of one request."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def add(self, field: str, reason: str, sentence: str) -> None:
        """Add one. The sentence continues the field's name: 'must be …'."""
        self.found.append(FieldViolation(field, reason, f"{field} {sentence}"))

    def merge(self, error: InvalidFieldsError) -> None:
        """Add what the domain found, except for fields that could not be read at all."""
        unreadable = {each.field for each in self.found}
        self.found += [each for each in error.violations if each.field not in unreadable]

    def raise_if_any(self, reason: str = "INVALID_FIELD") -> None:
        """Raise InvalidFieldsError with all violations, if there are any."""
        if self.found:
            raise InvalidFieldsError(self.found, reason)


def quoted(text: str) -> str:
    """A caller's text for a message: quoted, short, with control characters escaped."""
    start = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in text[: _MAX_QUOTED + 1]
    )
    return f"'{start}'" if len(start) <= _MAX_QUOTED else f"'{start[:_MAX_QUOTED]}…'"


# Readers. Each reads the field of that name from a message.


def read_money(
    message: Any, field: str, violations: Violations, path: str | None = None
) -> int | None:
    """Paise of a google.type.Money; None, with a violation of `path` (default: the field), when it
    cannot be read."""
    path = path or field
    if not message.HasField(field):
        violations.add(path, REQUIRED, "is required.")
        return None
    money = getattr(message, field)
    currency = money.currency_code
    units: int = money.units
    nanos: int = money.nanos
    if currency and currency != CURRENCY:
        violations.add(path, INVALID_FORMAT, f"must be in INR, found {quoted(currency)}.")
        return None
    if nanos:
        if not -_MAX_NANOS <= nanos <= _MAX_NANOS or (units and (units > 0) != (nanos > 0)):
            violations.add(
                path,
                INVALID_FORMAT,
                f"must have nanos below 1,000,000,000 with the same sign as units, found units "
                f"{units} and nanos {nanos}.",
            )
            return None
        if nanos % _NANOS_PER_PAISA:
            violations.add(
                path,
                INVALID_FORMAT,
                f"must be whole paise (multiples of 10,000,000 nanos), found nanos {nanos}.",
            )
            return None
        # The division is exact, so it is right for both signs.
        return units * 100 + nanos // _NANOS_PER_PAISA
    return units * 100


def read_rate_bps(message: Any, field: str, violations: Violations) -> int | None:
    """Basis points of a google.type.Decimal in percent; None when it cannot be read."""
    if not message.HasField(field):
        violations.add(field, REQUIRED, "is required.")
        return None
    text: str = getattr(message, field).value
    if len(text) <= _MAX_PLAIN_LENGTH and (plain := _plain_rate_bps(text)) is not None:
        return plain
    if not text:
        violations.add(field, REQUIRED, "is required: its value is empty.")
        return None
    if len(text) > _MAX_DECIMAL_LENGTH or _DECIMAL.fullmatch(text) is None:
        violations.add(
            field, INVALID_FORMAT, f"must be a decimal number such as 12.5, found {quoted(text)}."
        )
        return None
    return _hundredths(Decimal(text), text, field, violations)


# Cached because rates recur.
@lru_cache(maxsize=1_024)
def _plain_rate_bps(text: str) -> int | None:
    """Basis points of a plain text such as "12.5"; None for any other."""
    plain = _PLAIN_RATE.fullmatch(text)
    if plain is None:
        return None
    whole, fraction = plain.groups()
    return int(whole) * 100 + (int(fraction.ljust(2, "0")) if fraction else 0)


def _hundredths(value: Decimal, text: str, field: str, violations: Violations) -> int | None:
    """A decimal, with or without an exponent, in hundredths. Its size is checked before it is
    expanded: a short exponent can mean hundreds of digits."""
    if not value:
        return 0
    if value.adjusted() > 3:
        violations.add(
            field, OUT_OF_RANGE, f"must be 0 to 100 percent a year, found {quoted(text)}."
        )
        return None
    hundredths = value.scaleb(2, _EXACT)
    if value.adjusted() < -2 or hundredths != hundredths.to_integral_value():
        violations.add(
            field, INVALID_FORMAT, f"must have at most two decimals, found {quoted(text)}."
        )
        return None
    return int(hundredths)


def read_date(message: Any, field: str, violations: Violations) -> date | None:
    """A full google.type.Date; None when it is absent or, with a violation, invalid."""
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
    """An id of 1 or more; anything else adds a violation."""
    if value < 1:
        if value:
            violations.add(field, OUT_OF_RANGE, f"must be 1 or more, found {value}.")
        else:
            violations.add(field, REQUIRED, "is required: an id, 1 or more.")
    return value


def read_uuid(text: str, field: str, violations: Violations) -> UUID | None:
    """A UUID in its usual form, in upper or lower case. None when the text is empty or, with a
    violation, invalid, the nil or the max UUID."""
    if not text:
        return None
    if _UUID.fullmatch(text) is None:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a UUID such as 0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20, found {quoted(text)}.",
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
    """As `read_uuid`; an empty text adds a violation too."""
    if not text:
        violations.add(field, REQUIRED, "is required: a UUID.")
    return read_uuid(text, field, violations) or _NO_UUID


def read_request_id(message: Any, violations: Violations) -> UUID:
    """The request_id of a writing request; a missing or invalid one adds a violation.

    Every writing method requires one: the published retry policy repeats a call whose response was
    lost, and without an id the repeat would write a second time.
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
    """A phone number in E.164; an invalid one adds a violation."""
    try:
        return parse_phone_number(text)
    except ValueError:
        reason = INVALID_FORMAT if text.strip() else REQUIRED
        violations.add(field, reason, "must be a valid phone number such as +91 98765 98765.")
        return ""


def read_query(text: str, field: str, violations: Violations) -> str:
    """A search text, trimmed."""
    return read_text(text, field, MAX_QUERY_LENGTH, violations)


def read_text(text: str, field: str, max_length: int, violations: Violations) -> str:
    """An optional text, trimmed; a long one or control characters add a violation."""
    if len(text) > max_length:
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {max_length} characters, found {len(text)}.",
        )
    elif _CONTROL.search(text):
        violations.add(
            field, INVALID_FORMAT, f"must not contain control characters, found {quoted(text)}."
        )
    return text.strip()


def read_single_id(value: int, field: str) -> int:
    """The id of a request without other fields. Raises InvalidFieldsError."""
    violations = Violations()
    read_id(value, field, violations)
    violations.raise_if_any()
    return value


# Writers. The busiest responses fill messages in place instead of copying them: that halves the
# time of a list of loans, measured.


def write_money(paise: int) -> Any:
    """A google.type.Money in INR."""
    message = Money()
    fill_money(message, paise)
    return message


def fill_money(message: Any, paise: int) -> None:
    """Fill an empty google.type.Money with an amount in INR."""
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
    return DecimalMessage(value=decimal_text(hundredths))


decimal_text = lru_cache(maxsize=16_384)(format_hundredths)


def write_date(day: date) -> Any:
    """A google.type.Date."""
    return Date(year=day.year, month=day.month, day=day.day)


def fill_date(message: Any, day: date) -> None:
    """Fill a google.type.Date."""
    message.year = day.year
    message.month = day.month
    message.day = day.day


def write_time(instant: datetime) -> Timestamp:
    """A google.protobuf.Timestamp, exact to the microsecond."""
    message = Timestamp()
    fill_time(message, instant)
    return message


def fill_time(message: Timestamp, instant: datetime) -> None:
    """Fill a google.protobuf.Timestamp, exact to the microsecond."""
    since = instant - EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def write_principal(principal: str) -> str:
    """The principal's name; empty for a caller without credentials."""
    return "" if principal == ANONYMOUS else principal

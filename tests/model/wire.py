"""The contract's values as the model has them."""

from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from tests.model.policies import Refused

T = TypeVar("T")


def money_of(paise: int) -> Money:
    return Money(currency_code="INR", units=paise // 100, nanos=paise % 100 * 10_000_000)


def paise_of(money: Any) -> int:
    units: int = money.units
    assert money.nanos % 10_000_000 == 0
    return units * 100 + int(money.nanos) // 10_000_000


def day_of(message: Any) -> date:
    return date(message.year, message.month, message.day)


def to_day(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


def to_rate(bps: int) -> Decimal:
    return Decimal(value=f"{bps // 100}.{bps % 100:02d}")


def rate_of(message: Any) -> int:
    whole, _, rest = str(message.value).partition(".")
    return int(whole) * 100 + int(rest.ljust(2, "0"))


def hundredths_of(message: Any) -> int:
    return rate_of(message)


def outcome_of(work: Callable[..., T], *arguments: Any) -> T | str:
    """The model's result, or the reason of its rejection."""
    try:
        return work(*arguments)
    except Refused as refused:
        return str(refused)

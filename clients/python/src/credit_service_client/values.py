"""Values of the contract from Python's, and back: rupees, percent, days."""

from datetime import date
from decimal import Decimal

from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as Percent
from google.type.money_pb2 import Money

_NANOS = 1_000_000_000


def rupees(amount: Decimal | int | str) -> Money:
    """Return an amount in rupees as Money in INR. Raises ValueError if it is finer than a paisa.

    A float is not accepted, because 0.1 is not a whole number of paise.
    """
    if isinstance(amount, float):
        raise TypeError(f"give {amount!r} rupees as Decimal, int or str, not as float")
    exact = Decimal(amount)
    if not exact.is_finite() or exact != exact.quantize(Decimal("0.01")):
        raise ValueError(f"{amount} rupees is not a whole number of paise")
    units = int(exact)
    return Money(currency_code="INR", units=units, nanos=int((exact - units) * _NANOS))


def in_rupees(money: Money) -> Decimal:
    """Return the rupees of a Money as Decimal with two places."""
    return (Decimal(money.units) + Decimal(money.nanos) / _NANOS).quantize(Decimal("0.01"))


def percent(rate: Decimal | int | str) -> Percent:
    """Return a rate in percent as google.type.Decimal: percent('12.5')."""
    if isinstance(rate, float):
        raise TypeError(f"give {rate!r} percent as Decimal, int or str, not as float")
    return Percent(value=format(Decimal(rate), "f"))


def in_percent(rate: Percent) -> Decimal:
    """Return a rate in percent as Decimal."""
    return Decimal(rate.value)


def on(day: date) -> Date:
    """Return a day as google.type.Date."""
    return Date(year=day.year, month=day.month, day=day.day)


def as_date(day: Date) -> date:
    """Return a google.type.Date as date. Raises ValueError for an unset one."""
    return date(day.year, day.month, day.day)

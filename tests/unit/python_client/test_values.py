"""Values of the contract from Python's, and back."""

from datetime import date
from decimal import Decimal

import pytest
from google.type.money_pb2 import Money

from credit_service_client import as_date, in_percent, in_rupees, on, percent, rupees


@pytest.mark.parametrize("amount", ["0", "0.01", "-0.01", "8884.88", "-12.50", "100000000"])
def test_an_amount_comes_back_as_it_was(amount: str) -> None:
    assert in_rupees(rupees(amount)) == Decimal(amount)
    assert rupees(Decimal(amount)) == rupees(amount)


def test_an_amount_is_money_in_inr() -> None:
    assert rupees(5) == Money(currency_code="INR", units=5)
    assert rupees("-0.5") == Money(currency_code="INR", nanos=-500_000_000)


@pytest.mark.parametrize("amount", ["0.001", "NaN", "Infinity", "ten"])
def test_what_is_not_a_whole_number_of_paise_is_refused(amount: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        rupees(amount)


def test_a_float_is_refused() -> None:
    with pytest.raises(TypeError, match="as Decimal, int or str"):
        rupees(0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="as Decimal, int or str"):
        percent(12.5)  # type: ignore[arg-type]


def test_rates_and_days_come_back() -> None:
    assert percent(Decimal("1E+1")).value == "10"
    assert in_percent(percent("12.5")) == Decimal("12.5")
    assert as_date(on(date(2024, 2, 29))) == date(2024, 2, 29)
    with pytest.raises(ValueError, match="year 0"):
        as_date(type(on(date(2024, 1, 1)))())

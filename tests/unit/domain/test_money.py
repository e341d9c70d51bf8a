"""Rounding and formatting."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.money import divide_half_up, format_hundredths, format_rate
from credit_service.rupees import format_inr, format_rupees


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [
        (1, 2, 1),
        (-1, 2, -1),
        (3, 2, 2),
        (-3, 2, -2),
        (5, 2, 3),
        (1, 3, 0),
        (2, 3, 1),
        (-2, 3, -1),
        (1, -2, -1),
        (-1, -2, 1),
        (0, 7, 0),
        (49, 100, 0),
        (50, 100, 1),
    ],
)
def test_ties_go_away_from_zero(numerator: int, denominator: int, expected: int) -> None:
    assert divide_half_up(numerator, denominator) == expected


@given(st.integers(-(10**30), 10**30), st.integers(-(10**20), 10**20).filter(bool))
def test_result_is_the_nearest_integer(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    distance = abs(divide_half_up(numerator, denominator)) - abs(exact)
    assert -Fraction(1, 2) < distance <= Fraction(1, 2)


def test_division_by_zero_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        divide_half_up(1, 0)


@pytest.mark.parametrize(
    ("paise", "text"),
    [
        (0, "₹0.00"),
        (1, "₹0.01"),
        (99_999, "₹999.99"),
        (100_000, "₹1,000.00"),
        (10_000_000, "₹1,00,000.00"),
        (12_345_678_90, "₹1,23,45,678.90"),
        (100_000_000_000, "₹1,00,00,00,000.00"),
        (1_000_005, "₹10,000.05"),
        (-10_000_001, "-₹1,00,000.01"),
    ],
)
def test_rupees_in_indian_grouping(paise: int, text: str) -> None:
    assert format_inr(paise) == text


def test_plain_figures() -> None:
    assert format_rupees(888_488) == "8884.88"
    assert format_rupees(-5) == "-0.05"
    assert [format_rate(bps) for bps in (0, 5, 1250, 1254, 1200, 10_000)] == [
        "0 %",
        "0.05 %",
        "12.5 %",
        "12.54 %",
        "12 %",
        "100 %",
    ]
    assert format_hundredths(-125) == "-1.25"

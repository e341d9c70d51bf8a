"""Rounding and formatting."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.money import divide_half_up, format_hundredths, format_rate


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


def test_plain_figures() -> None:
    assert [format_rate(bps) for bps in (0, 5, 1250, 1254, 1200, 10_000)] == [
        "0 %",
        "0.05 %",
        "12.5 %",
        "12.54 %",
        "12 %",
        "100 %",
    ]
    assert format_hundredths(-125) == "-1.25"

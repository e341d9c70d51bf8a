"""Rupees as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.rupees import format_inr, format_rupees, group_digits


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
def test_amounts_have_indian_groups_and_two_decimals(paise: int, text: str) -> None:
    assert format_inr(paise) == text


def test_plain_figures() -> None:
    assert format_rupees(888_488) == "8884.88"
    assert format_rupees(-5) == "-0.05"


@given(st.integers(-(10**18), 10**18))
def test_grouping_changes_no_digit(number: int) -> None:
    text = group_digits(number)
    assert int(text.replace(",", "")) == number
    head, *groups = text.removeprefix("-").split(",")
    assert len(head) <= (2 if groups else 3)
    assert [len(each) for each in groups] == [2] * (len(groups) - 1) + [3] * bool(groups)

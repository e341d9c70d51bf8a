"""Due dates."""

from calendar import monthrange
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.calendar import add_months, installments_due_by, next_due_date
from tests.unit.domain.strategies import days, tenures


def test_month_ends_are_clamped_from_the_start_date_each_time() -> None:
    start = date(2024, 1, 31)
    assert [add_months(start, k) for k in range(1, 5)] == [
        date(2024, 2, 29),
        date(2024, 3, 31),
        date(2024, 4, 30),
        date(2024, 5, 31),
    ]


@pytest.mark.parametrize(
    ("start", "months", "expected"),
    [
        (date(2024, 2, 29), 12, date(2025, 2, 28)),
        (date(2024, 2, 29), 48, date(2028, 2, 29)),
        (date(2023, 12, 31), 2, date(2024, 2, 29)),
        (date(2099, 12, 31), 2, date(2100, 2, 28)),
        (date(1999, 12, 31), 2, date(2000, 2, 29)),
        (date(2024, 11, 30), 1, date(2024, 12, 30)),
        (date(2024, 12, 1), 1, date(2025, 1, 1)),
        (date(2024, 1, 31), 480, date(2064, 1, 31)),
        (date(2024, 1, 31), 0, date(2024, 1, 31)),
    ],
)
def test_add_months(start: date, months: int, expected: date) -> None:
    assert add_months(start, months) == expected


@given(days, st.integers(0, 480))
def test_add_months_equals_the_calendar(start: date, months: int) -> None:
    year, month = start.year, start.month
    for _ in range(months):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    assert add_months(start, months) == date(
        year, month, min(start.day, monthrange(year, month)[1])
    )


@given(days, tenures, st.integers(-500, 16_000))
def test_due_counts_equal_counting(start: date, tenure: int, offset: int) -> None:
    day = start + timedelta(days=offset)
    due_dates = [add_months(start, k) for k in range(1, tenure + 1)]
    passed = [due for due in due_dates if due <= day]
    coming = [due for due in due_dates if due > day]
    assert installments_due_by(start, tenure, day) == len(passed)
    assert next_due_date(start, tenure, day) == (coming[0] if coming else None)


@given(days, st.integers(1, 480), st.integers(-1, 1))
def test_the_due_date_itself_counts_as_due(start: date, number: int, offset: int) -> None:
    day = add_months(start, number) + timedelta(days=offset)
    assert installments_due_by(start, 480, day) == (number if offset >= 0 else number - 1)

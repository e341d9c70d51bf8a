"""Due dates, in whole months from a start date."""

from datetime import date

_DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MAX_MONTHS = 12 * 9_999


def add_months(start: date, months: int) -> date:
    """The same day of the month, `months` later (0 or more), clamped to that month's end.

    Counted from `start` each time: 31 January 2024 gives 29 February, 31 March, 30 April.
    Raises ValueError past the year 9999.
    """
    years, month_index = divmod(start.month - 1 + months, 12)
    year = start.year + years
    day = start.day
    if day > 28:
        last = _DAYS_IN_MONTH[month_index]
        if month_index == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
            last = 29
        day = min(day, last)
    return date(year, month_index + 1, day)


def installments_due_by(start_date: date, tenure_months: int, day: date) -> int:
    """How many of the installments 1 … tenure fall due on or before `day`: 0 … tenure."""
    months = (day.year - start_date.year) * 12 + day.month - start_date.month
    if months <= 0:
        return 0
    if months > tenure_months:
        return tenure_months
    # One is due in the month of `day`; compare its clamped date.
    return months if add_months(start_date, months) <= day else months - 1


def complete_months(start: date, day: date) -> int:
    """How many whole months lie between `start` and `day`, by `add_months`; 0 before `start`."""
    return installments_due_by(start, _MAX_MONTHS, day)


def next_due_date(start_date: date, tenure_months: int, day: date) -> date | None:
    """The first due date after `day`; None after the last one."""
    number = installments_due_by(start_date, tenure_months, day) + 1
    return add_months(start_date, number) if number <= tenure_months else None

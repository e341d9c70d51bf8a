"""The days and installments of loans, a column at a time, by the rules of the domain.

Days are counted from 1970-01-01, months of a tenure from 1. The columns are arrays: pandas adds a
number of months to each day by periods, at a fixed cost that a batch of a stream would feel.
"""

import calendar
from datetime import date

import numpy as np
from numpy.typing import NDArray

from credit_service.ingestion.cells import Ints


def add_months(days: Ints, months: Ints) -> Ints:
    """The days so many months later, at most the month's last: `domain.calendar.add_months`."""
    starts, day_of_month = _months(days)
    ends = starts + months.astype(np.int64)
    firsts = ends.astype("datetime64[D]").astype(np.int64)
    lengths = (ends + 1).astype("datetime64[D]").astype(np.int64) - firsts
    found: Ints = firsts + np.minimum(day_of_month, lengths) - 1
    return found


def installments_due(start_days: Ints, tenure_months: Ints, day: date) -> Ints:
    """Installments due on `day`: `domain.calendar.installments_due_by`."""
    starts, day_of_month = _months(start_days)
    elapsed = (day.year - 1970) * 12 + day.month - 1 - starts.astype(np.int64)
    # The installment of this month is due once its day, at most the month's last, has come.
    length = calendar.monthrange(day.year, day.month)[1]
    due: Ints = elapsed - (np.minimum(day_of_month, length) > day.day)
    return np.clip(due, 0, tenure_months)


def imported_settled(
    emis_paid_on_time: Ints, start_days: Ints, tenure_months: Ints, import_day: date
) -> Ints:
    """Installments that an import counts as settled: `domain.loans.imported_settled`."""
    due = installments_due(start_days, tenure_months, import_day)
    return np.minimum(np.maximum(due, emis_paid_on_time), tenure_months)


def _months(days: Ints) -> tuple[NDArray[np.datetime64], Ints]:
    """The month of each day, and the day of the month from 1."""
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    return months, (dates - months.astype("datetime64[D]")).astype(np.int64) + 1

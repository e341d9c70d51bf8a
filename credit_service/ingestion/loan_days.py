"""The days and installments of loans, a column at a time, by the rules of the domain.

Days are counted from 1970-01-01, months of a tenure from 1. Columns have the same index.
"""

import calendar
from datetime import date

import numpy as np
import pandas as pd


def add_months(days: "pd.Series[int]", months: "pd.Series[int]") -> "pd.Series[int]":
    """The days so many months later, at most the month's last: `domain.calendar.add_months`."""
    starts = _dates(days)
    # pd.DateOffset adds one number of months to all rows; periods add one to each.
    ends = starts.to_period("M") + months.to_numpy()
    firsts = ends.to_timestamp().to_numpy().astype("datetime64[D]").astype(np.int64)
    return pd.Series(firsts + np.minimum(starts.day, ends.days_in_month) - 1, days.index)


def installments_due(
    start_days: "pd.Series[int]", tenure_months: "pd.Series[int]", day: date
) -> "pd.Series[int]":
    """Installments due on `day`: `domain.calendar.installments_due_by`."""
    starts = _dates(start_days)
    elapsed = (day.year - starts.year) * 12 + day.month - starts.month
    # The installment of this month is due once its day, at most the month's last, has come.
    length = calendar.monthrange(day.year, day.month)[1]
    due = elapsed - (np.minimum(starts.day, length) > day.day)
    return pd.Series(due, start_days.index).clip(0, tenure_months)


def imported_settled(
    emis_paid_on_time: "pd.Series[int]",
    start_days: "pd.Series[int]",
    tenure_months: "pd.Series[int]",
    import_day: date,
) -> "pd.Series[int]":
    """Installments that an import counts as settled: `domain.loans.imported_settled`."""
    due = installments_due(start_days, tenure_months, import_day)
    return due.clip(lower=emis_paid_on_time).clip(upper=tenure_months)


def _dates(days: "pd.Series[int]") -> pd.DatetimeIndex:
    return pd.DatetimeIndex(days.to_numpy().astype("datetime64[D]"))

"""What new loans add to their customers' positions, summed by customer."""

from datetime import date

import numpy as np
from numpy.typing import NDArray

from credit_service.ingestion.cells import EPOCH_ORDINAL, Ints
from credit_service.ingestion.frames import NO_DAY, Arrays
from credit_service.ingestion.loan_days import add_months, installments_due
from credit_service.storage.positions import LoanSums

_LAST_DAY = int(np.iinfo(np.int32).max)


def sums(loans: Arrays, day: date) -> LoanSums:
    """What these loans add to the positions on `day` of each of their customers.

    `loans` are the columns of a frame of the kind LOANS. The sums are those that
    `domain.positions.position_from_loans` makes of all loans of a customer.
    """
    order = np.argsort(loans["customer_id"], kind="stable")
    customer_ids, firsts, counts = np.unique(
        loans["customer_id"][order], return_index=True, return_counts=True
    )
    is_open = loans["closed_day"] == NO_DAY
    on_time = loans["emis_paid_on_time"].astype(np.int64)
    tenure = loans["tenure_months"].astype(np.int64)
    due = installments_due(loans["start_day"], tenure, day)
    number = np.where(is_open, due, np.maximum(due, on_time)) + 1
    this_year, next_year = (
        date(year, 1, 1).toordinal() - EPOCH_ORDINAL for year in (day.year, day.year + 1)
    )
    change = np.where(
        number <= tenure, add_months(loans["start_day"], np.minimum(number, tenure)), next_year
    )
    unpaid = np.where(
        loans["installment_paise"] > 0,
        np.minimum(loans["installments_settled"].astype(np.int64) + 1, tenure),
        tenure,
    )
    # NO_DAY is the least number: it must not win.
    unpaid_day = np.where(is_open, add_months(loans["start_day"], unpaid), _LAST_DAY)
    counted = (loans["start_day"] < next_year) & (is_open | (loans["closed_day"] >= this_year))

    def total(values: NDArray[np.generic]) -> Ints:
        added: Ints = np.add.reduceat(values[order].astype(np.int64), firsts)
        return added

    oldest = np.minimum.reduceat(unpaid_day[order], firsts)
    return LoanSums(
        customer_id=customer_ids,
        loan_count=counts,
        total_principal_paise=total(loans["principal_paise"]),
        current_debt_paise=total(np.where(is_open, loans["principal_paise"], 0)),
        current_installments_paise=total(np.where(is_open, loans["installment_paise"], 0)),
        emis_on_time=total(on_time),
        emis_due=total(np.maximum(due, on_time)),
        current_year_loans=total(counted),
        next_change_day=np.minimum.reduceat(np.minimum(change, next_year)[order], firsts),
        oldest_unpaid_day=np.where(oldest == _LAST_DAY, NO_DAY, oldest),
    )

"""What new loans add to their customers' positions, summed column by column."""

from datetime import date

import numpy as np
from numpy.typing import NDArray

from credit_service.ingestion.cells import EPOCH_ORDINAL, Ints
from credit_service.ingestion.frames import NO_DAY, Facts
from credit_service.ingestion.loan_days import add_months, installments_due
from credit_service.storage.positions import LoanSums


def sums(facts: Facts, day: date) -> LoanSums:
    """What these loans add to the positions on `day` of each of their customers.

    They are summed as `domain.positions.position_from_loans` sums all loans of a customer.
    """
    facts = facts[np.argsort(facts["customer_id"], kind="stable")]
    customer_ids, begins, counts = np.unique(
        facts["customer_id"], return_index=True, return_counts=True
    )
    open_ = facts["closed_day"] == NO_DAY
    on_time = facts["emis_paid_on_time"].astype(np.int64)
    tenure = facts["tenure_months"].astype(np.int64)
    due = installments_due(facts["start_day"], tenure, day)
    number = np.where(open_, due, np.maximum(due, on_time)) + 1
    this_year, next_year = (
        date(year, 1, 1).toordinal() - EPOCH_ORDINAL for year in (day.year, day.year + 1)
    )
    change = np.where(
        number <= tenure, add_months(facts["start_day"], np.minimum(number, tenure)), next_year
    )
    counted = (facts["start_day"] < next_year) & (open_ | (facts["closed_day"] >= this_year))

    def total(values: NDArray[np.generic]) -> Ints:
        added: Ints = np.add.reduceat(values.astype(np.int64), begins)
        return added

    return LoanSums(
        customer_id=customer_ids,
        loan_count=counts,
        total_principal_paise=total(facts["principal_paise"]),
        current_debt_paise=total(np.where(open_, facts["principal_paise"], 0)),
        current_installments_paise=total(np.where(open_, facts["installment_paise"], 0)),
        emis_on_time=total(on_time),
        emis_due=total(np.maximum(due, on_time)),
        current_year_loans=total(counted),
        next_change_day=np.minimum.reduceat(np.minimum(change, next_year), begins),
    )

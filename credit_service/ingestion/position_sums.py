"""What new loans add to their customers' positions, summed by customer."""

from datetime import date

import pandas as pd

from credit_service.ingestion.cells import EPOCH_ORDINAL
from credit_service.ingestion.frames import NO_DAY
from credit_service.ingestion.loan_days import add_months, installments_due
from credit_service.storage.positions import LoanSums


def sums(loans: pd.DataFrame, day: date) -> LoanSums:
    """What these loans add to the positions on `day` of each of their customers.

    `loans` is a frame of the kind LOANS. The sums are those that
    `domain.positions.position_from_loans` makes of all loans of a customer.
    """
    is_open = loans["closed_day"] == NO_DAY
    on_time = loans["emis_paid_on_time"].astype("int64")
    tenure = loans["tenure_months"].astype("int64")
    due = installments_due(loans["start_day"], tenure, day)
    settled = due.where(is_open, due.clip(lower=on_time))
    this_year, next_year = (
        date(year, 1, 1).toordinal() - EPOCH_ORDINAL for year in (day.year, day.year + 1)
    )
    number = settled + 1
    change = add_months(loans["start_day"], number.clip(upper=tenure))
    counted = (loans["start_day"] < next_year) & (is_open | (loans["closed_day"] >= this_year))
    columns = pd.DataFrame(
        {
            "loan_count": 1,
            "total_principal_paise": loans["principal_paise"],
            "current_debt_paise": loans["principal_paise"].where(is_open, 0),
            "current_installments_paise": loans["installment_paise"].where(is_open, 0),
            "emis_on_time": on_time,
            "emis_due": due.clip(lower=on_time),
            "current_year_loans": counted.astype("int64"),
        },
        index=loans.index,
    )
    by_customer = loans["customer_id"]
    added = columns.groupby(by_customer).sum()
    next_change = change.where(number <= tenure, next_year).clip(upper=next_year)
    return LoanSums(
        customer_id=added.index.to_numpy(),
        next_change_day=next_change.groupby(by_customer).min().to_numpy(),
        **{str(name): column.to_numpy() for name, column in added.items()},
    )

"""The sums of new loans by column equal those of the domain for each loan."""

from datetime import date

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from credit_service.domain.calendar import installments_due_by
from credit_service.domain.loans import Loan
from credit_service.domain.positions import position_from_loans
from credit_service.ingestion.cells import EPOCH_ORDINAL
from credit_service.ingestion.frames import COLUMN_TYPES, NO_DAY, Arrays, arrays_of, frame_of
from credit_service.ingestion.loan_days import installments_due
from credit_service.ingestion.position_sums import sums

DAYS = st.dates(date(2019, 12, 1), date(2027, 2, 1)) | st.sampled_from(
    [date(2024, 1, 31), date(2024, 2, 29), date(2025, 2, 28), date(2024, 12, 31), date(2025, 1, 1)]
)


@st.composite
def imported_loans(draw: st.DrawFn) -> tuple[int, Loan]:
    """A customer's id and an imported loan in any state."""
    customer_id, tenure = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    settled = draw(st.integers(0, tenure))
    closed_on = draw(DAYS) if settled == tenure else None
    loan = Loan(
        loan_id=1,
        customer_id=customer_id,
        principal_paise=draw(st.integers(1, 10**15)),
        annual_rate_bps=1200,
        tenure_months=tenure,
        installment_paise=draw(st.integers(1, 10**14)),
        start_date=draw(DAYS),
        end_date=date(2030, 1, 1),
        imported=True,
        settled_at_import=settled,
        emis_paid_on_time=draw(st.integers(0, settled)),
        installments_settled=settled,
        closed_on=closed_on,
        decision_id=None,
        paid_paise=0,
        last_paid_on=None,
    )
    return customer_id, loan


def columns_of(loans: list[Loan]) -> Arrays:
    columns = dict.fromkeys(COLUMN_TYPES["LOANS"], [0] * len(loans))
    for name in (
        *("customer_id", "principal_paise", "installment_paise", "tenure_months"),
        "emis_paid_on_time",
    ):
        columns[name] = [getattr(loan, name) for loan in loans]
    columns["start_day"] = [loan.start_date.toordinal() - EPOCH_ORDINAL for loan in loans]
    columns["closed_day"] = [
        NO_DAY if loan.closed_on is None else loan.closed_on.toordinal() - EPOCH_ORDINAL
        for loan in loans
    ]
    return arrays_of(frame_of("LOANS", columns))


@given(st.lists(imported_loans(), min_size=1, max_size=25), DAYS)
def test_sums_are_those_of_the_domain(found: list[tuple[int, Loan]], day: date) -> None:
    loans = [loan for _, loan in found]
    summed = sums(columns_of(loans), day)
    assert summed.customer_id.tolist() == sorted({customer_id for customer_id, _ in found})
    for place, customer_id in enumerate(summed.customer_id.tolist()):
        own = [loan for loan in loans if loan.customer_id == customer_id]
        expected = position_from_loans(customer_id, 1, 0, 0, own, day)
        for name in (
            "loan_count",
            "total_principal_paise",
            "current_debt_paise",
            "current_installments_paise",
            "emis_on_time",
            "emis_due",
            "current_year_loans",
        ):
            assert getattr(summed, name)[place] == getattr(expected, name), name
        change = date.fromordinal(int(summed.next_change_day[place]) + EPOCH_ORDINAL)
        assert change == expected.valid_until


@given(st.lists(st.tuples(DAYS, st.integers(1, 480)), min_size=1, max_size=30), DAYS)
@example([(date(2024, 1, 31), 12)], date(2024, 2, 29))
@example([(date(2030, 1, 31), 12)], date(2024, 2, 29))
def test_due_installments_are_those_of_the_domain(loans: list[tuple[date, int]], day: date) -> None:
    starts = np.array([start.toordinal() - EPOCH_ORDINAL for start, _ in loans])
    due = installments_due(starts, np.array([tenure for _, tenure in loans]), day)
    assert due.tolist() == [installments_due_by(start, tenure, day) for start, tenure in loans]

"""Facts about a customer that a scorecard's policy uses beside the credit position."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

from credit_service.domain.calendar import add_months, complete_months, installments_due_by
from credit_service.domain.delinquency import Arrears, AssetClass
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.schedules import principal_outstanding_paise, repayment_plan

__all__ = [
    "AssetClass",
    "LoanCounts",
    "PolicyFacts",
    "facts_from_counts",
    "loan_counts",
    "policy_facts",
]


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """Facts on one day. They change with the customer's version, and from day to day."""

    active_loans: int
    # Of ACTIVE loans.
    principal_outstanding_paise: int
    # EMIs of all loans whose due date has come: those paid on time, and all of them.
    emis_on_time_when_due: int
    emis_fallen_due: int
    # Of the worst loan.
    days_past_due: int
    asset_class: AssetClass
    age: int
    # Complete months since the customer was stored.
    months_as_customer: int
    # The next due date of a loan that was repaid ahead of schedule: the counts of EMIs change then,
    # though no position does.
    next_due_of_repaid: date | None = None


@dataclass(frozen=True, slots=True)
class LoanCounts:
    """The fields of PolicyFacts that come from all the customer's loans, on one day.

    They are the same on every later day until a loan changes, or an installment of any loan falls
    due.
    """

    active_loans: int
    principal_outstanding_paise: int
    emis_on_time_when_due: int
    emis_fallen_due: int
    next_due_of_repaid: date | None = None


def loan_counts(loans: Collection[Loan], day: date) -> LoanCounts:
    """What counts in these loans on `day`, on or after the days of all payments."""
    active = outstanding = on_time = fallen_due = 0
    next_due: date | None = None
    for loan in loans:
        due = installments_due_by(loan.start_date, loan.tenure_months, day)
        fallen_due += due
        on_time += on_time_when_due(loan, due)
        if loan.state is LoanState.ACTIVE:
            active += 1
            outstanding += principal_outstanding_paise(loan)
        elif due < loan.tenure_months:
            following = add_months(loan.start_date, due + 1)
            next_due = following if next_due is None else min(next_due, following)
    return LoanCounts(active, outstanding, on_time, fallen_due, next_due)


def policy_facts(
    loans: Collection[Loan], arrears: Arrears, age: int, stored_on: date, day: date
) -> PolicyFacts:
    """The facts on `day`, from all the customer's loans and the arrears.

    `day` is on or after the days of all payments. The customer was stored on `stored_on`.
    """
    return facts_from_counts(loan_counts(loans, day), arrears, age, stored_on, day)


def facts_from_counts(
    counts: LoanCounts, arrears: Arrears, age: int, stored_on: date, day: date
) -> PolicyFacts:
    """The same as `policy_facts`, from the counts of that day."""
    return PolicyFacts(
        active_loans=counts.active_loans,
        principal_outstanding_paise=counts.principal_outstanding_paise,
        emis_on_time_when_due=counts.emis_on_time_when_due,
        emis_fallen_due=counts.emis_fallen_due,
        days_past_due=arrears.days_past_due(day),
        asset_class=arrears.asset_class(day),
        age=age,
        months_as_customer=complete_months(stored_on, day),
        next_due_of_repaid=counts.next_due_of_repaid,
    )


def on_time_when_due(loan: Loan, due: int) -> int:
    """How many of the loan's first `due` installments were paid on time: 0 … due.

    An installment that is settled before its due date was paid on time, so those settled ahead are
    subtracted from the EMIs paid on time.
    """
    settled = loan.installments_settled
    if settled <= due:
        return loan.emis_paid_on_time
    # An import may count installments of 0 as paid on time, payments do not.
    return min(max(loan.emis_paid_on_time - _payable(loan, due, settled), 0), due)


def _payable(loan: Loan, after: int, until: int) -> int:
    """How many of the installments `after` + 1 … `until` have an amount of more than 0."""
    if until < loan.tenure_months:
        # Only the last installments can be 0, or all but the last.
        return until - after if loan.installment_paise > 0 else 0
    plan = repayment_plan(loan)
    if loan.installment_paise > 0:
        return max(0, min(until, plan.full_count + 1) - after)
    return int(after < plan.full_count + 1 <= until)

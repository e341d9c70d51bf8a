"""Facts of a policy, by examples and by a count over the schedule."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.calendar import add_months, complete_months, installments_due_by
from credit_service.domain.delinquency import Arrears, Settlement, arrears
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, LoanState, LoanTerms, book, imported_settled
from credit_service.domain.payments import apply_payment, outstanding_paise
from credit_service.domain.policy_facts import (
    AssetClass,
    PolicyFacts,
    on_time_when_due,
    policy_facts,
)
from credit_service.domain.schedules import principal_outstanding_paise, repayment_plan, schedule
from tests.unit.domain.strategies import paid_portfolios

START = date(2026, 1, 10)
STORED_ON = date(2025, 11, 30)
DAYS = st.dates(date(2012, 1, 1), date(2040, 12, 31))


def loan(start: date = START, tenure: int = 12) -> Loan:
    terms = LoanTerms(10_000_000, 1200, tenure)
    return book(terms, installment_paise(terms), 1, 101, start, 1)


def facts(loans: list[Loan], day: date, *settlements: Settlement) -> PolicyFacts:
    known = arrears(loans, {1: settlements}, day)
    return policy_facts(loans, known, 30, STORED_ON, day)


def test_a_customer_without_loans() -> None:
    assert facts([], date(2026, 3, 1)) == PolicyFacts(0, 0, 0, 0, 0, AssetClass.STANDARD, 30, 3)


def test_a_loan_repaid_after_five_days_earns_an_emi_with_each_due_date() -> None:
    """The case of a customer who repays at once: nothing counts as on time before it is due."""
    paid_on = date(2026, 1, 15)
    whole = outstanding_paise(loan())
    repaid = apply_payment(loan(), whole, paid_on, paid_on, 0).loan_after
    assert (repaid.state, repaid.emis_paid_on_time) == (LoanState.CLOSED, 12)
    settlement = Settlement(1, 12, paid_on)
    for months, day in ((0, paid_on), (0, date(2026, 2, 9)), (1, date(2026, 2, 10))):
        found = facts([repaid], day, settlement)
        assert (found.emis_on_time_when_due, found.emis_fallen_due) == (months, months)
        assert (found.active_loans, found.principal_outstanding_paise) == (0, 0)
        # Until then they stay.
        assert found.next_due_of_repaid == date(2026, 2 + months, 10)
    found = facts([repaid], date(2027, 5, 5), settlement)
    assert (found.emis_on_time_when_due, found.emis_fallen_due) == (12, 12)
    assert found.next_due_of_repaid is None
    assert facts([loan()], paid_on).next_due_of_repaid is None


def test_three_overdue_loans() -> None:
    day = START + timedelta(days=365)
    found = facts([loan()], day)
    assert found.emis_fallen_due == 12
    assert found.emis_on_time_when_due == 0
    assert found.days_past_due == (day - date(2026, 2, 10)).days + 1
    assert found.asset_class is AssetClass.NPA
    assert (found.active_loans, found.principal_outstanding_paise) == (1, 10_000_000)


def test_principal_outstanding_is_the_balance_of_the_schedule() -> None:
    first = loan().installment_paise
    part = apply_payment(loan(), 100, START, START, 0).loan_after
    assert principal_outstanding_paise(part) == 10_000_000
    one = apply_payment(loan(), first, START, START, 0).loan_after
    # Interest of the first month: 1 % of ₹1,00,000.
    assert principal_outstanding_paise(one) == 10_000_000 - (first - 100_000)


def test_a_loan_that_rounding_repays_early_has_no_principal_left() -> None:
    """₹0.13 over 24 months at 0 %: 13 installments of a paisa, then 11 of 0."""
    tiny = book(LoanTerms(13, 0, 24), 1, 1, 101, START, 1)
    left = [
        principal_outstanding_paise(replace(tiny, installments_settled=settled))
        for settled in (0, 12, 13, 14, 23)
    ]
    assert left == [13, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("stored_on", "day", "months"),
    [
        (date(2026, 1, 31), date(2026, 1, 30), 0),
        (date(2026, 1, 31), date(2026, 2, 27), 0),
        (date(2026, 1, 31), date(2026, 2, 28), 1),
        (date(2026, 1, 31), date(2026, 3, 30), 1),
        (date(2026, 1, 31), date(2126, 1, 31), 1200),
    ],
)
def test_months_as_customer(stored_on: date, day: date, months: int) -> None:
    assert policy_facts([], Arrears(), 30, stored_on, day).months_as_customer == months
    assert complete_months(stored_on, day) == months


def test_an_import_counts_installments_paid_ahead_when_they_fall_due() -> None:
    day = date(2026, 4, 20)  # 3 of 12 are due
    settled, _ = imported_settled(5, START, 12, day)
    ahead = replace(
        loan(),
        imported=True,
        settled_at_import=settled,
        installments_settled=settled,
        emis_paid_on_time=5,
    )
    assert [on_time_when_due(ahead, due) for due in (3, 4, 5, 6)] == [3, 4, 5, 5]
    late = replace(ahead, settled_at_import=3, installments_settled=3, emis_paid_on_time=1)
    assert [on_time_when_due(late, due) for due in (3, 4)] == [1, 1]


def naive(each: Loan, on_time_numbers: set[int], day: date) -> tuple[int, int]:
    """(on time and due, due), installment by installment."""
    due = [n for n in range(1, each.tenure_months + 1) if add_months(each.start_date, n) <= day]
    return len(on_time_numbers.intersection(due)), len(due)


@given(st.data(), DAYS)
def test_a_count_over_the_schedule_gives_the_same(data: st.DataObject, day: date) -> None:
    loans, settlements = data.draw(paid_portfolios(day))
    at = day + timedelta(days=data.draw(st.integers(0, 400)))
    found = policy_facts(loans, arrears(loans, settlements, at), 30, STORED_ON, at)
    on_time = fallen_due = principal = active = 0
    for each in loans:
        # An import says how many were on time: the first ones, where they are all of those due.
        numbers = set(range(1, each.settled_at_import + 1))
        paid_on_time_here = {
            number
            for settlement in settlements.get(each.loan_id, ())
            for number in range(settlement.first_number, settlement.first_number + settlement.count)
            if settlement.paid_on <= add_months(each.start_date, number)
            and repayment_plan(each).payment_paise(number) > 0
        }
        imported = each.emis_paid_on_time - len(paid_on_time_here)
        numbers = set(sorted(numbers)[:imported]) | paid_on_time_here
        of_loan = naive(each, numbers, at)
        on_time += of_loan[0]
        fallen_due += of_loan[1]
        if each.state is LoanState.ACTIVE:
            active += 1
            settled = schedule(each).installments[: each.installments_settled]
            principal += each.principal_paise - sum(line.principal_paise for line in settled)
    assert (found.emis_on_time_when_due, found.emis_fallen_due) == (on_time, fallen_due)
    assert (found.active_loans, found.principal_outstanding_paise) == (active, principal)
    assert 0 <= found.emis_on_time_when_due <= found.emis_fallen_due


@given(st.data(), DAYS)
def test_on_time_when_due_grows_to_the_count_when_paid(data: st.DataObject, day: date) -> None:
    loans, _ = data.draw(paid_portfolios(day))
    for each in loans:
        counts = [on_time_when_due(each, due) for due in range(each.tenure_months + 1)]
        today = installments_due_by(each.start_date, each.tenure_months, day)
        assert counts[today:] == sorted(counts[today:])
        assert counts[-1] == each.emis_paid_on_time

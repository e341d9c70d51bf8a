"""Payments settle installments in order."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.errors import InvalidFieldsError, PreconditionFailedError
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, LoanState, LoanTerms, book
from credit_service.domain.payments import (
    InstallmentState,
    PaymentOutcome,
    apply_payment,
    installment_states,
    next_unsettled_due_date,
    outstanding_paise,
    paid_and_outstanding_paise,
)
from credit_service.domain.schedules import repayment_plan
from tests.unit.domain.strategies import imported_loans, loans_with_payments

START = date(2024, 1, 31)
FIRST_DUE = date(2024, 2, 29)
LATER = date(2026, 1, 1)
EMI = 888_488
TOTAL = 10_661_853


def loan() -> Loan:
    """₹1,00,000 at 12 % over 12 months: 11 installments of 8,884.88 and one of 8,884.85."""
    asked = LoanTerms(10_000_000, 1200, 12)
    return book(asked, installment_paise(asked), 7001, 101, START, 9)


def pay(
    to: Loan, amount: int, paid_on: date, today: date = LATER, grace: int = 0
) -> PaymentOutcome:
    return apply_payment(to, amount, paid_on, today, grace)


def test_one_installment_on_its_due_date_is_on_time() -> None:
    outcome = pay(loan(), EMI, FIRST_DUE)
    assert outcome.settled_numbers == (1,)
    assert outcome.on_time_numbers == (1,)
    assert not outcome.closed
    after = outcome.loan_after
    assert (after.installments_settled, after.emis_paid_on_time) == (1, 1)
    assert (after.paid_paise, after.last_paid_on) == (EMI, FIRST_DUE)
    assert after.repayments_left == 11
    assert outstanding_paise(after) == TOTAL - EMI
    assert next_unsettled_due_date(after) == date(2024, 3, 31)


@pytest.mark.parametrize(("days_late", "grace", "on_time"), [(1, 0, 0), (3, 3, 1), (4, 3, 0)])
def test_a_payment_within_the_grace_days_is_on_time(
    days_late: int, grace: int, on_time: int
) -> None:
    outcome = pay(loan(), EMI, FIRST_DUE + timedelta(days=days_late), grace=grace)
    assert outcome.settled_numbers == (1,)
    assert len(outcome.on_time_numbers) == on_time
    assert outcome.loan_after.emis_paid_on_time == on_time


def test_part_payments_settle_on_the_day_the_full_amount_is_reached() -> None:
    first = pay(loan(), EMI - 1, date(2024, 2, 1))
    assert first.settled_numbers == ()
    assert first.loan_after.installments_settled == 0
    late = pay(first.loan_after, 1, date(2024, 3, 1))
    assert late.settled_numbers == (1,)
    assert late.on_time_numbers == ()


def test_a_payment_settles_several_installments_some_late() -> None:
    outcome = pay(loan(), 3 * EMI + 5, date(2024, 3, 31))
    assert outcome.settled_numbers == (1, 2, 3)
    assert outcome.on_time_numbers == (2, 3)
    states = installment_states(outcome.loan_after, date(2024, 3, 31))
    assert states[3].paid_paise == 5
    assert states[3].state is InstallmentState.PARTLY_PAID


def test_paying_all_closes_the_loan() -> None:
    outcome = pay(loan(), TOTAL, date(2024, 2, 1))
    assert outcome.closed
    assert outcome.settled_numbers == tuple(range(1, 13))
    assert outcome.on_time_numbers == tuple(range(1, 13))
    after = outcome.loan_after
    assert after.state is LoanState.CLOSED
    assert after.closed_on == date(2024, 2, 1)
    assert after.repayments_left == 0
    assert outstanding_paise(after) == 0
    assert next_unsettled_due_date(after) is None


def closed() -> Loan:
    return pay(loan(), TOTAL, date(2024, 2, 1)).loan_after


def paid_in_march() -> Loan:
    return pay(loan(), EMI, date(2024, 3, 1)).loan_after


@pytest.mark.parametrize(
    ("make", "amount", "paid_on", "reason", "metadata"),
    [
        (closed, 1, date(2024, 3, 1), "LOAN_CLOSED", {"closed_on": "2024-02-01"}),
        (
            loan,
            TOTAL + 1,
            FIRST_DUE,
            "PAYMENT_EXCEEDS_OUTSTANDING",
            {"amount": "106618.54", "outstanding": "106618.53"},
        ),
        (
            loan,
            1,
            LATER + timedelta(days=1),
            "PAYMENT_IN_FUTURE",
            {"paid_on": "2026-01-02", "today": "2026-01-01"},
        ),
        (
            loan,
            1,
            START - timedelta(days=1),
            "PAYMENT_BEFORE_LOAN_START",
            {"paid_on": "2024-01-30", "start_date": "2024-01-31"},
        ),
        (
            paid_in_march,
            1,
            date(2024, 2, 29),
            "PAYMENT_BEFORE_PREVIOUS",
            {"paid_on": "2024-02-29", "previous_paid_on": "2024-03-01"},
        ),
    ],
)
def test_an_invalid_payment_is_rejected(
    make: Callable[[], Loan], amount: int, paid_on: date, reason: str, metadata: dict[str, str]
) -> None:
    with pytest.raises(PreconditionFailedError) as caught:
        pay(make(), amount, paid_on)
    assert caught.value.reason == reason
    assert caught.value.subject == "customers/101/loans/7001"
    assert caught.value.metadata == {"customer_id": "101", "loan_id": "7001", **metadata}


def test_dates_at_the_bounds_are_accepted() -> None:
    assert pay(loan(), 1, START).loan_after.last_paid_on == START
    assert pay(loan(), 1, LATER).loan_after.last_paid_on == LATER
    assert pay(paid_in_march(), 1, date(2024, 3, 1)).settled_numbers == ()


@pytest.mark.parametrize("amount", [0, -1])
def test_an_amount_must_be_positive(amount: int) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        pay(loan(), amount, FIRST_DUE)
    assert [each.field for each in caught.value.violations] == ["amount"]


@given(st.data())
def test_any_split_of_a_payment_gives_the_same_loan(data: st.DataObject) -> None:
    day = date(2024, 5, 5)
    start = data.draw(st.one_of(loans_with_payments(day), imported_loans(day)))
    outstanding = outstanding_paise(start)
    if outstanding == 0:
        return
    amount = data.draw(st.integers(1, outstanding))
    whole = pay(start, amount, day, today=day)
    parts = start
    settled: tuple[int, ...] = ()
    on_time: tuple[int, ...] = ()
    left = amount
    while left:
        part = data.draw(st.integers(max(1, left // 4), left))
        outcome = pay(parts, part, day, today=day)
        settled += outcome.settled_numbers
        on_time += outcome.on_time_numbers
        parts = outcome.loan_after
        left -= part
    assert parts == whole.loan_after
    assert settled == whole.settled_numbers
    assert on_time == whole.on_time_numbers


@given(st.data())
def test_the_state_of_a_loan_follows_from_its_payments(data: st.DataObject) -> None:
    day = date(2024, 5, 5)
    paid_loan = data.draw(loans_with_payments(day))
    plan = repayment_plan(paid_loan)
    payments = [plan.payment_paise(k) for k in range(1, paid_loan.tenure_months + 1)]
    paid, outstanding = paid_and_outstanding_paise(paid_loan)
    assert paid == paid_loan.paid_paise
    assert paid + outstanding == sum(payments)
    assert (outstanding == 0) == (paid_loan.state is LoanState.CLOSED)
    assert (paid_loan.closed_on is None) == (paid_loan.repayments_left > 0)
    rest = paid
    settled = 0
    for payment in payments:
        if paid_loan.paid_paise == 0 or payment > rest:
            break
        rest -= payment
        settled += 1
    assert paid_loan.installments_settled == settled
    assert paid_loan.emis_paid_on_time <= settled
    states = installment_states(paid_loan, day)
    assert sum(each.paid_paise for each in states) == paid
    assert [each.state is InstallmentState.SETTLED for each in states] == [
        number <= settled for number in range(1, len(payments) + 1)
    ]


def test_states_of_a_schedule() -> None:
    paid = pay(loan(), EMI + 7, FIRST_DUE).loan_after
    on_due_day = installment_states(paid, date(2024, 4, 30))
    assert [each.state for each in on_due_day[:4]] == [
        InstallmentState.SETTLED,
        InstallmentState.OVERDUE,
        InstallmentState.DUE,
        InstallmentState.UPCOMING,
    ]
    assert [each.paid_paise for each in on_due_day[:3]] == [EMI, 7, 0]
    early = installment_states(paid, date(2024, 3, 31))
    assert early[1].state is InstallmentState.PARTLY_PAID


@given(imported_loans(date(2024, 5, 5)))
def test_an_import_counts_its_settled_installments_as_paid(imported: Loan) -> None:
    day = date(2024, 5, 5)
    plan = repayment_plan(imported)
    paid, outstanding = paid_and_outstanding_paise(imported)
    assert paid == plan.first_paise(imported.settled_at_import)
    assert paid + outstanding == plan.total_paise
    if imported.state is LoanState.CLOSED or outstanding == 0:
        return
    number = imported.installments_settled + 1
    amount = plan.payment_paise(number)
    if amount == 0:
        return
    outcome = pay(imported, amount, day, today=day)
    assert outcome.settled_numbers[0] == number
    assert outcome.loan_after.settled_at_import == imported.settled_at_import


def test_a_loan_whose_installment_rounds_to_0_can_be_repaid() -> None:
    asked = LoanTerms(2, 1200, 480)
    tiny = book(asked, installment_paise(asked), 1, 1, START, 1)
    assert tiny.installment_paise == 0
    outcome = pay(tiny, 2, START)
    assert outcome.closed
    part = pay(tiny, 1, START).loan_after
    assert part.installments_settled == 479
    assert pay(part, 1, START).closed


def test_an_installment_of_nothing_is_never_paid_on_time() -> None:
    """Loans booked before such asks were rejected have 479 installments of 0, then 49 paise."""
    asked = LoanTerms(49, 1200, 480)
    loan = book(asked, installment_paise(asked), 1, 1, START, 1)
    outcome = apply_payment(loan, 1, START, START, 0)
    assert len(outcome.settled_numbers) == 479
    assert outcome.on_time_numbers == ()
    assert outcome.loan_after.emis_paid_on_time == 0


def test_installments_after_the_debt_is_repaid_are_not_paid_on_time() -> None:
    """1 paisa a month repays 70 paise in 70 months; the 10 installments after these are 0."""
    loan = book(LoanTerms(70, 0, 80), 1, 1, 1, START, 1)
    outcome = apply_payment(loan, 70, START, START, 0)
    assert outcome.closed
    assert len(outcome.settled_numbers) == 80
    assert outcome.on_time_numbers == tuple(range(1, 71))

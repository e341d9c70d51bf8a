"""A loan is a function of its terms and its payments."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan, LoanTerms, book, installment_paise, schedule
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    apply_payment,
    outstanding_paise,
)
from tests.unit.domain.strategies import imported_loans, loans_with_payments

EMI = 888_488
DAY = date(2024, 5, 5)


def loan(start: date = date(2026, 1, 15)) -> Loan:
    """₹1,00,000 at 12 % over 12 months."""
    asked = LoanTerms(10_000_000, 1200, 12)
    return book(asked, installment_paise(asked), 7001, 101, start, 9)


def prepayment(
    number: int,
    amount: int,
    paid_on: date,
    effect: PrepaymentEffect = PrepaymentEffect.REDUCE_TENURE,
) -> PaymentFact:
    return PaymentFact(number, amount, paid_on, PaymentPurpose.PART_PREPAYMENT, effect)


def test_a_prepayment_reduces_the_tenure_as_published() -> None:
    paid = PaymentFact(1, 3 * EMI, date(2026, 4, 15))
    account = replay(loan(), [paid, prepayment(2, 2_000_000, date(2026, 4, 25))])
    table = schedule(account.loan)
    assert [each.payment_paise for each in table.installments] == [EMI] * 6 + [501_966]
    assert table.total_interest_paise == 222_092
    assert (account.loan.tenure_months, account.loan.end_date) == (10, date(2026, 11, 15))


@given(st.data())
def test_payments_in_order_give_the_same_loan_as_one_by_one(data: st.DataObject) -> None:
    start = data.draw(st.one_of(loans_with_payments(DAY), imported_loans(DAY)))
    base = replay(replace(start, on_time_at_import=start.emis_paid_on_time), []).loan
    one_by_one = base
    facts: list[PaymentFact] = []
    for number in range(1, data.draw(st.integers(0, 6)) + 1):
        left = outstanding_paise(one_by_one)
        if left == 0 or one_by_one.closed_on:
            break
        grace = data.draw(st.integers(0, 5))
        amount = data.draw(st.one_of(st.integers(1, left), st.just(left)))
        paid_on = data.draw(st.dates(one_by_one.last_paid_on or base.start_date, DAY))
        facts.append(PaymentFact(number, amount, paid_on, grace_days=grace))
        outcome = apply_payment(one_by_one, amount, paid_on, DAY, grace)
        one_by_one = outcome.loan_after
        account = replay(base, facts)
        assert account.loan == one_by_one
        applied = account.applied[-1]
        assert tuple(applied.settled_numbers) == outcome.settled_numbers
        assert applied.on_time_count == len(outcome.on_time_numbers)
        assert applied.closed == outcome.closed
    shuffled = data.draw(st.permutations(facts))
    assert replay(one_by_one, shuffled).loan == one_by_one


def test_an_imported_loan_needs_its_emis_on_time() -> None:
    imported = replace(loan(), imported=True, paid_paise=1)
    with pytest.raises(ValueError, match="set on_time_at_import"):
        replay(imported, [])

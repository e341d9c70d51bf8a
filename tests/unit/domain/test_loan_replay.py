"""A loan is a function of its terms and its payments."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.installments import installment_paise, monthly_rate
from credit_service.domain.loan_replay import LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan, LoanState, LoanTerms, book
from credit_service.domain.money import divide_half_up
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    apply_payment,
    excess_paise,
    outstanding_paise,
)
from credit_service.domain.schedules import schedule
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


def paid_until_april(*later: PaymentFact) -> LoanAccount:
    """With three installments paid on the due date of the third."""
    return replay(loan(), [PaymentFact(1, 3 * EMI, date(2026, 4, 15)), *later])


def amounts(account: LoanAccount) -> list[int]:
    return [each.payment_paise for each in account.installments]


def test_a_prepayment_reduces_the_installment() -> None:
    """By the formula for 56,108.02 over 9 months; the last one balances."""
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    account = paid_until_april(prepayment(2, 2_000_000, date(2026, 4, 25), effect))
    assert amounts(account) == [EMI] * 3 + [655_007] * 8 + [662_228]
    assert account.loan.installment_paise == 655_007
    assert (account.loan.tenure_months, account.loan.end_date) == (12, date(2027, 1, 15))


def test_a_second_prepayment_in_a_period_splits_its_interest_again() -> None:
    account = paid_until_april(
        prepayment(2, 2_000_000, date(2026, 4, 25)), prepayment(3, 1_000_000, date(2026, 5, 5))
    )
    # 10 days of 30 on each of 76,108.02, 56,108.02 and 46,108.02: 594.413… at 1 % a month.
    assert account.installments[3].interest_paise == 59_441
    same_day = paid_until_april(
        prepayment(2, 2_000_000, date(2026, 4, 25)), prepayment(3, 1_000_000, date(2026, 4, 25))
    )
    at_once = paid_until_april(prepayment(2, 3_000_000, date(2026, 4, 25)))
    assert same_day.loan == at_once.loan


@pytest.mark.parametrize(
    ("start", "day", "interest"),
    [
        # On a due date and on the start day, the whole period is on the new balance.
        (date(2026, 1, 15), date(2026, 1, 15), 80_000),
        # 28 of 31 days on 1,00,000, then 3 on 80,000.
        (date(2026, 1, 15), date(2026, 2, 12), 98_065),
        # From 31 January to 28 February: 14 of 28 days.
        (date(2026, 1, 31), date(2026, 2, 14), 90_000),
        # From 29 to 31 January is nothing of a leap year's February.
        (date(2028, 1, 31), date(2028, 2, 15), 90_345),
    ],
)
def test_the_running_interest_is_split_by_days(start: date, day: date, interest: int) -> None:
    account = replay(loan(start), [prepayment(1, 2_000_000, day)])
    assert account.installments[0].interest_paise == interest


def test_a_prepayment_on_a_due_date_leaves_its_installment_alone() -> None:
    account = paid_until_april(prepayment(2, 2_000_000, date(2026, 4, 15)))
    assert account.installments[2].payment_paise == EMI
    assert account.installments[3].interest_paise == 56_108


def test_a_prepayment_in_the_last_period() -> None:
    eleven = PaymentFact(1, 11 * EMI, date(2026, 12, 15))
    # The last installment is 8,796.88 of principal and 87.97 of interest.
    account = replay(loan(), [eleven, prepayment(2, 500_000, date(2026, 12, 31))])
    line = account.installments[11]
    # 16 of 31 days on 8,796.88, 15 on 3,796.88.
    assert (line.principal_paise, line.interest_paise) == (379_688, 6_378)
    assert account.loan.tenure_months == 12


def test_installments_paid_ahead_are_not_split() -> None:
    """Five are paid when three are due: the sixth bears interest on what is owed after it."""
    ahead = PaymentFact(1, 5 * EMI, date(2026, 4, 15))
    account = replay(loan(), [ahead, prepayment(2, 2_000_000, date(2026, 4, 25))])
    before = schedule(loan()).installments
    assert account.installments[:5] == before[:5]
    assert account.installments[5].interest_paise == divide_half_up(
        before[4].balance_paise - 2_000_000, 100
    )
    # Once its period has begun, another prepayment splits it.
    later = replay(
        loan(),
        [ahead, prepayment(2, 2_000_000, date(2026, 4, 25)), PaymentFact(3, 1, date(2026, 6, 16))],
    )
    assert later.installments == account.installments
    again = prepayment(3, 1_000_000, date(2026, 6, 25))
    split = replay(loan(), [ahead, prepayment(2, 2_000_000, date(2026, 4, 25)), again])
    balance = before[4].balance_paise - 2_000_000
    assert split.installments[5].interest_paise == divide_half_up(
        10 * balance + 20 * (balance - 1_000_000), 3_000
    )


def test_what_was_paid_of_the_next_installment_stays_credited() -> None:
    part = PaymentFact(2, 100_000, date(2026, 4, 20))
    account = paid_until_april(part, prepayment(3, 2_000_000, date(2026, 4, 25)))
    without = paid_until_april(prepayment(3, 2_000_000, date(2026, 4, 25)))
    assert account.installments == without.installments
    assert outstanding_paise(account.loan) == outstanding_paise(without.loan) - 100_000


def test_a_part_that_covers_a_reduced_installment_settles_it() -> None:
    part = PaymentFact(2, 800_000, date(2026, 4, 20))
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    account = paid_until_april(part, prepayment(3, 5_000_000, date(2026, 4, 25), effect))
    installment = account.loan.installment_paise
    assert installment < 400_000
    applied = account.applied[-1]
    assert list(applied.settled_numbers) == [4, 5]
    assert (applied.on_time_count, account.loan.installments_settled) == (2, 5)
    assert account.loan.emis_paid_on_time == 1 + 2


def test_a_reduced_installment_pays_at_least_its_interest() -> None:
    """A day before the due date nearly all is prepaid: 735.75 of interest have accrued, more than
    the installment of 12.61. It is no part of the balance, which would bear interest."""
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    account = paid_until_april(prepayment(2, 7_600_000, date(2026, 5, 14), effect))
    assert amounts(account)[3:] == [73_575] + [1_261] * 7 + [2_509]
    assert account.installments[3].principal_paise == 0


def test_a_loan_without_interest() -> None:
    free = replay(
        book(LoanTerms(12_000, 0, 12), 1_000, 1, 1, date(2026, 1, 15), 1),
        [
            PaymentFact(1, 3_000, date(2026, 4, 15)),
            prepayment(2, 1_500, date(2026, 4, 25)),
            prepayment(3, 500, date(2026, 4, 26), PrepaymentEffect.REDUCE_INSTALLMENT),
        ],
    )
    assert amounts(free) == [1_000] * 3 + [875] * 8


def test_an_imported_loan_keeps_the_rate_of_its_installment() -> None:
    """₹1,00,000 in 12 installments of ₹10,000 is 35.07 % a year, whatever the source says."""
    imported = replace(
        loan(), imported=True, decision_id=None, installment_paise=1_000_000, on_time_at_import=0
    )
    numerator, denominator = monthly_rate(imported)
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    account = replay(imported, [prepayment(1, 5_000_000, date(2026, 1, 15), effect)])
    assert monthly_rate(account.loan) == (numerator, denominator)
    assert account.loan.installment_paise == 500_000
    assert account.installments[0].interest_paise == divide_half_up(
        5_000_000 * numerator, denominator
    )


def test_an_installment_that_does_not_repay_is_not_spread_over_more_months() -> None:
    """Two of ₹10 for ₹1,000: the last one repays the rest, and still does."""
    imported = replace(
        book(LoanTerms(100_000, 1200, 3), 1_000, 1, 1, date(2026, 1, 15), 1),
        imported=True,
        decision_id=None,
    )
    for effect in PrepaymentEffect:
        account = replay(imported, [prepayment(1, 10_000, date(2026, 1, 20), effect)])
        assert amounts(account) == [1_000, 1_000, 88_000]


def test_an_old_loan_with_installments_of_nothing_is_prepaid() -> None:
    """49 paise over 480 months: nothing each month, and all of it at the end."""
    tiny = book(LoanTerms(49, 1200, 480), 0, 1, 1, date(2026, 1, 15), 1)
    shorter = replay(tiny, [prepayment(1, 9, date(2026, 4, 25))])
    assert (shorter.loan.tenure_months, shorter.loan.installments_settled) == (480, 479)
    assert amounts(shorter)[-1] == 40
    assert shorter.loan.emis_paid_on_time == 0


def test_a_prepayment_first_settles_what_is_due() -> None:
    """As after the reversal of the payment that had settled it."""
    account = replay(loan(), [prepayment(2, 2_000_000, date(2026, 3, 25))])
    applied = account.applied[0]
    assert list(applied.settled_numbers) == [1, 2]
    assert (applied.on_time_count, applied.prepaid_principal_paise) == (0, 2_000_000 - 2 * EMI)
    on_time = replay(loan(), [prepayment(2, EMI + 1, date(2026, 2, 15))])
    assert on_time.loan.emis_paid_on_time == 1
    assert on_time.prepaid_principal_paise == 1
    too_little = replay(loan(), [prepayment(2, EMI + 1, date(2026, 3, 25))])
    assert too_little.loan.revision is None
    assert too_little.loan.installments_settled == 1


def foreclosure(number: int, amount: int, paid_on: date, charge: int = 0) -> PaymentFact:
    return PaymentFact(
        number, amount, paid_on, PaymentPurpose.FORECLOSURE, grace_days=0, charge_paise=charge
    )


def test_a_foreclosure_closes_the_loan_as_published() -> None:
    account = replay(
        loan(date(2026, 1, 1)), [foreclosure(1, 10_016_129 + 200_000, date(2026, 1, 6), 200_000)]
    )
    closed = account.loan
    assert (closed.closed_on, closed.tenure_months) == (date(2026, 1, 6), 1)
    assert (closed.installments_settled, closed.emis_paid_on_time) == (1, 1)
    assert closed.paid_paise == 10_016_129
    assert amounts(account) == [10_016_129]
    assert account.applied[0].closed


def test_a_foreclosure_that_no_longer_closes_reduces_the_tenure() -> None:
    less = paid_until_april(foreclosure(2, 2_000_000, date(2026, 4, 25)))
    prepaid = paid_until_april(prepayment(2, 2_000_000, date(2026, 4, 25)))
    assert less.loan == prepaid.loan


def test_all_principal_without_its_interest_leaves_the_interest_due() -> None:
    """76,108.02 are owed, with 253.69 for ten days. 100.00 of these are paid with the principal."""
    account = paid_until_april(foreclosure(2, 7_610_802 + 10_000, date(2026, 4, 25)))
    loan_after, line = account.loan, account.installments[3]
    assert loan_after.state is LoanState.ACTIVE
    assert (line.principal_paise, line.interest_paise) == (0, 25_369)
    assert (loan_after.tenure_months, outstanding_paise(loan_after)) == (4, 15_369)
    assert loan_after.installment_paise == EMI
    assert account.applied[-1].prepaid_principal_paise == 7_610_802
    effect = PrepaymentEffect.REDUCE_INSTALLMENT
    likewise = paid_until_april(prepayment(2, 7_610_802 + 10_000, date(2026, 4, 25), effect))
    assert likewise.loan == loan_after
    missing = paid_until_april(foreclosure(2, 7_610_802 + 25_368, date(2026, 4, 25)))
    assert missing.loan.revision == loan_after.revision
    assert outstanding_paise(missing.loan) == 1
    assert apply_payment(
        loan_after, 15_369, date(2026, 5, 15), date(2026, 5, 15), 0
    ).loan_after.closed_on == date(2026, 5, 15)


def test_a_foreclosure_after_the_end_pays_what_is_due() -> None:
    account = replay(loan(), [foreclosure(1, 10_661_853, date(2027, 6, 1))])
    assert account.loan.revision is None
    assert account.loan.closed_on == date(2027, 6, 1)
    for purpose in (PaymentPurpose.FORECLOSURE, PaymentPurpose.PART_PREPAYMENT):
        more = replay(loan(), [PaymentFact(1, 10_661_858, date(2027, 6, 1), purpose)])
        assert more.excess_paise == 5
        assert (more.installments, more.loan.revision) == (account.installments, None)


def test_payments_after_the_end_are_in_excess() -> None:
    """A payment is reversed, and the foreclosure after it was for less."""
    account = replay(
        loan(),
        [
            foreclosure(1, 10_661_853, date(2026, 1, 20)),
            PaymentFact(2, 7, date(2026, 1, 21)),
        ],
    )
    assert account.loan.closed_on == date(2026, 1, 20)
    owed = account.installments[0].payment_paise
    assert account.excess_paise == 10_661_853 + 7 - owed == excess_paise(account.loan)
    assert outstanding_paise(account.loan) == 0
    assert account.applied[1].settled_numbers == range(0)


def test_a_loan_that_its_import_closed_stays_closed() -> None:
    imported = replace(
        loan(),
        imported=True,
        decision_id=None,
        settled_at_import=12,
        installments_settled=12,
        emis_paid_on_time=5,
        closed_on=date(2026, 11, 1),
    )
    assert replay(imported, []).loan == imported


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

"""The amount that closes a loan on a day."""

from dataclasses import replace
from datetime import date
from itertools import pairwise

import pytest

from credit_service.domain.errors import PreconditionFailedError
from credit_service.domain.foreclosure import ForeclosureQuote, quote, require_foreclosable
from credit_service.domain.installments import effective_monthly_rate, installment_paise
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.money import divide_half_up
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect

EMI = 888_488


def loan() -> Loan:
    """₹1,00,000 at 12 % over 12 months from 1 January 2026."""
    asked = LoanTerms(10_000_000, 1200, 12)
    return book(asked, installment_paise(asked), 7001, 101, date(2026, 1, 1), 9)


def quoted(day: date, *payments: PaymentFact, charge_bps: int = 0) -> ForeclosureQuote:
    return quote(replay(loan(), payments), day, charge_bps)


@pytest.mark.parametrize(
    ("paid_paise", "day", "reason"),
    [
        (EMI, date(2026, 1, 9), "FORECLOSURE_BEFORE_PAYMENT"),
        (EMI, date(2025, 12, 31), "PAYMENT_BEFORE_LOAN_START"),
        (10_661_853, date(2026, 1, 10), "LOAN_CLOSED"),
    ],
)
def test_a_foreclosure_is_the_last_payment_of_an_open_loan(
    paid_paise: int, day: date, reason: str
) -> None:
    paid = replay(loan(), [PaymentFact(1, paid_paise, date(2026, 1, 10))]).loan
    with pytest.raises(PreconditionFailedError, match=reason):
        require_foreclosable(paid, day)


def test_a_foreclosure_may_be_on_the_day_of_the_last_payment() -> None:
    paid = replay(loan(), [PaymentFact(1, EMI, date(2026, 1, 10))]).loan
    require_foreclosable(paid, date(2026, 1, 10))


def test_a_quote_equals_the_published_one() -> None:
    found = quoted(date(2026, 1, 6))
    assert found == ForeclosureQuote(
        day=date(2026, 1, 6),
        principal_outstanding_paise=10_000_000,
        past_interest_paise=0,
        running_interest_paise=16_129,
        paid_in_part_paise=0,
        charge_paise=0,
        total_paise=10_016_129,
        interest_per_day_paise=3_226,
        interest_saved_paise=661_853 - 16_129,
        principal_not_due_paise=10_000_000,
        overdue_paise=0,
    )


def test_a_day_adds_its_interest() -> None:
    days = [quoted(date(2026, 1, day)).total_paise for day in range(1, 32)]
    assert days[0] == 10_000_000
    assert {after - before for before, after in pairwise(days)} == {3_225, 3_226}
    # On the due date the first installment is due.
    assert quoted(date(2026, 2, 1)).total_paise == 10_000_000 + 100_000


def test_past_installments_are_paid_with_their_interest() -> None:
    """Two are due on 6 March, and ₹1,000 of the first is paid."""
    found = quoted(date(2026, 3, 6), PaymentFact(1, 100_000, date(2026, 1, 3)), charge_bps=200)
    assert found.principal_outstanding_paise == 10_000_000
    assert found.past_interest_paise == 100_000 + 92_115
    # 5 days of 31 on the 84,151.39 that are not due yet.
    assert found.running_interest_paise == 13_573
    assert found.paid_in_part_paise == 100_000
    # 2 % of these 84,151.39.
    assert found.charge_paise == 168_303
    assert found.total_paise == 10_000_000 + 192_115 + 13_573 - 100_000 + 168_303


def test_installments_paid_ahead_leave_no_running_interest() -> None:
    found = quoted(date(2026, 1, 20), PaymentFact(1, 2 * EMI + 5_000, date(2026, 1, 10)))
    assert found.running_interest_paise == found.interest_per_day_paise == 0
    assert found.total_paise == found.principal_outstanding_paise - 5_000 == 8_415_139 - 5_000


def test_running_interest_covers_each_balance_of_the_period() -> None:
    prepaid = PaymentFact(
        1,
        2_000_000,
        date(2026, 1, 11),
        PaymentPurpose.PART_PREPAYMENT,
        PrepaymentEffect.REDUCE_TENURE,
    )
    # 10 days on 1,00,000 and 10 on 80,000, of 31.
    found = quoted(date(2026, 1, 21), prepaid)
    assert found.running_interest_paise == 58_065
    assert found.total_paise == 8_058_065


@pytest.mark.parametrize("day", [date(2027, 1, 1), date(2027, 8, 1)])
def test_from_the_end_date_on_the_quote_is_what_is_due(day: date) -> None:
    found = quoted(day, charge_bps=200)
    assert found.total_paise == 10_661_853
    assert found.past_interest_paise == 661_853
    assert (found.charge_paise, found.interest_saved_paise) == (0, 0)


def test_a_quote_is_at_least_a_paisa() -> None:
    """All but a paisa of the last installment is paid, more than principal and running interest."""
    nearly_all = PaymentFact(1, 10_661_852, date(2026, 12, 2))
    found = quoted(date(2026, 12, 3), nearly_all)
    assert found.total_paise == 1
    closing = PaymentFact(2, 1, date(2026, 12, 3), PaymentPurpose.FORECLOSURE)
    account = replay(loan(), [nearly_all, closing])
    assert account.loan.closed_on == date(2026, 12, 3)
    assert account.excess_paise == 0


def test_a_closed_loan_has_no_quote() -> None:
    closed = replay(loan(), [PaymentFact(1, 10_661_853, date(2026, 1, 3))])
    with pytest.raises(PreconditionFailedError) as caught:
        quote(closed, date(2026, 1, 3), 0)
    assert caught.value.reason == "LOAN_CLOSED"


def test_a_quote_needs_the_account_of_its_day() -> None:
    account = replay(loan(), [PaymentFact(1, 1, date(2026, 2, 3))])
    with pytest.raises(ValueError, match="replay its payments until that day"):
        quote(account, date(2026, 2, 2), 0)
    with pytest.raises(ValueError, match="the start of loan"):
        quote(replay(loan(), []), date(2025, 12, 31), 0)


def test_a_quote_of_an_imported_loan_is_at_the_rate_of_its_installment() -> None:
    """12 installments of ₹9,500 for ₹1,00,000 are more than 2 % a month, not 1 %."""
    imported = replace(loan(), imported=True, decision_id=None, installment_paise=950_000)
    found = quote(replay(imported, []), date(2026, 1, 31), 0)
    numerator, denominator = effective_monthly_rate(10_000_000, 950_000, 12)
    interest = divide_half_up(10_000_000 * 30 * numerator, 31 * denominator)
    assert found.running_interest_paise == interest > 2 * 96_774

"""What may be recorded on a loan."""

from datetime import date

import pytest

from credit_service.domain.errors import InvalidFieldsError, PreconditionFailedError
from credit_service.domain.installments import installment_paise
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.payment_recording import record_payment
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect

EMI = 888_488
TOTAL = 10_661_853
TODAY = date(2026, 8, 1)
PAID = [PaymentFact(1, 3 * EMI, date(2026, 4, 15))]


def loan() -> Loan:
    """₹1,00,000 at 12 % over 12 months from 15 January 2026."""
    asked = LoanTerms(10_000_000, 1200, 12)
    return book(asked, installment_paise(asked), 7001, 101, date(2026, 1, 15), 9)


def payment(
    amount: int, paid_on: date, purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
) -> PaymentFact:
    effect = PrepaymentEffect.REDUCE_TENURE if purpose is PREPAYMENT else None
    return PaymentFact(9, amount, paid_on, purpose, effect)


PREPAYMENT = PaymentPurpose.PART_PREPAYMENT
FORECLOSURE = PaymentPurpose.FORECLOSURE
APRIL = date(2026, 4, 25)


@pytest.mark.parametrize(
    ("recorded", "new", "reason", "metadata"),
    [
        ([], payment(1, date(2026, 8, 2)), "PAYMENT_IN_FUTURE", {"today": "2026-08-01"}),
        ([], payment(1, date(2026, 1, 14)), "PAYMENT_BEFORE_LOAN_START", {}),
        (
            PAID,
            payment(TOTAL - 3 * EMI + 1, date(2026, 2, 1)),
            "PAYMENT_EXCEEDS_OUTSTANDING",
            {"amount": "79963.90", "outstanding": "79963.89"},
        ),
        (
            PAID,
            payment(100, date(2026, 5, 15), PREPAYMENT),
            "PREPAYMENT_WHILE_OVERDUE",
            {"overdue": "8884.88", "paid_on": "2026-05-15"},
        ),
        (
            PAID,
            payment(7_610_802, APRIL, PREPAYMENT),
            "PREPAYMENT_TOO_LARGE",
            {"amount": "76108.02", "principal_outstanding": "76108.02"},
        ),
        (
            PAID,
            payment(7_636_171 - 1, APRIL, FORECLOSURE),
            "FORECLOSURE_AMOUNT_DIFFERS",
            {"amount": "76361.70", "total": "76361.71", "paid_on": "2026-04-25"},
        ),
        ([PaymentFact(1, TOTAL, APRIL)], payment(1, APRIL), "LOAN_CLOSED", {}),
        # A foreclosure before other payments would leave these in excess.
        (
            [*PAID, PaymentFact(2, EMI, date(2026, 5, 15))],
            payment(7_636_171, APRIL, FORECLOSURE),
            "FORECLOSURE_BEFORE_PAYMENT",
            {"paid_on": "2026-04-25", "last_paid_on": "2026-05-15"},
        ),
    ],
)
def test_an_invalid_payment_is_rejected(
    recorded: list[PaymentFact], new: PaymentFact, reason: str, metadata: dict[str, str]
) -> None:
    with pytest.raises(PreconditionFailedError) as caught:
        record_payment(replay(loan(), recorded).loan, recorded, new, TODAY)
    assert caught.value.reason == reason
    assert metadata.items() <= caught.value.metadata.items()


def test_an_amount_must_be_positive() -> None:
    with pytest.raises(InvalidFieldsError):
        record_payment(loan(), [], payment(0, APRIL), TODAY)


def test_amounts_at_the_bounds_are_recorded() -> None:
    rest = record_payment(loan(), PAID, payment(TOTAL - 3 * EMI, date(2026, 2, 1)), TODAY)
    assert rest.account.loan.closed_on == date(2026, 4, 15)
    assert not rest.applied.closed
    nearly_all = record_payment(loan(), PAID, payment(7_610_801, APRIL, PREPAYMENT), TODAY)
    assert nearly_all.account.loan.revision is not None
    assert nearly_all.account.loan.revision.balance_paise == 1


def test_a_backdated_payment_changes_what_later_ones_did() -> None:
    second = PaymentFact(1, EMI, date(2026, 3, 15))
    assert replay(loan(), [second]).applied[0].on_time_count == 0
    recording = record_payment(loan(), [second], payment(EMI, date(2026, 2, 10)), TODAY)
    assert list(recording.applied.settled_numbers) == [1]
    assert list(recording.account.applied[1].settled_numbers) == [2]
    assert recording.account.loan.emis_paid_on_time == 2


def test_a_prepayment_needs_what_was_due_on_its_day_alone() -> None:
    """It is backdated to a day on which nothing was overdue."""
    recording = record_payment(loan(), PAID, payment(2_000_000, APRIL, PREPAYMENT), TODAY)
    assert recording.applied.prepaid_principal_paise == 2_000_000


def test_a_foreclosure_gets_the_charge_of_its_quote() -> None:
    # 2 % of 76,108.02, beside 253.69 of interest for ten days.
    total = 7_610_802 + 25_369 + 152_216
    recording = record_payment(
        loan(), PAID, payment(total, APRIL, FORECLOSURE), TODAY, prepayment_charge_bps=200
    )
    assert recording.applied.fact.charge_paise == 152_216
    assert recording.applied.closed
    assert recording.account.loan.paid_paise == total - 152_216 + 3 * EMI
    assert recording.account.loan.closed_on == APRIL

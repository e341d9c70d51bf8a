"""What may be recorded on a loan: the checks of a payment that need a replay."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date

from credit_service.domain.calendar import installments_due_by
from credit_service.domain.foreclosure import quote, require_foreclosable
from credit_service.domain.loan_replay import AppliedPayment, LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan
from credit_service.domain.payments import (
    PaymentPurpose,
    exceeds_error,
    paid_in_all_paise,
    rejection,
    require_payable,
    require_positive,
)
from credit_service.domain.schedules import principal_outstanding_paise, repayment_plan
from credit_service.rupees import format_inr, format_rupees


@dataclass(frozen=True, slots=True)
class PaymentRecording:
    """The loan after a payment, and what the payment did. A backdated one can also change what
    later payments did: `account.applied`."""

    account: LoanAccount
    applied: AppliedPayment


def record_payment(
    loan: Loan,
    payments: Collection[PaymentFact],
    payment: PaymentFact,
    today: date,
    prepayment_charge_bps: int = 0,
) -> PaymentRecording:
    """The loan after one more payment, of any purpose, on any day from its start to `today`.

    `payments` are the recorded ones that are not reversed, and `payment` has a higher number than
    all of them. A foreclosure gets the charge of its quote: `applied.fact.charge_paise`.

    Raises:
        InvalidFieldsError: the amount is 0 or less.
        PreconditionFailedError: LOAN_CLOSED, PAYMENT_IN_FUTURE, PAYMENT_BEFORE_LOAN_START,
            PREPAYMENT_WHILE_OVERDUE, PREPAYMENT_TOO_LARGE, FORECLOSURE_BEFORE_PAYMENT,
            FORECLOSURE_AMOUNT_DIFFERS or PAYMENT_EXCEEDS_OUTSTANDING, checked in this order.
    """
    require_positive(payment.amount_paise)
    require_payable(loan, payment.paid_on, today)
    if payment.purpose is PaymentPurpose.PART_PREPAYMENT:
        _require_prepayable(replay(loan, payments, until=payment.paid_on).loan, payment)
    elif payment.purpose is PaymentPurpose.FORECLOSURE:
        require_foreclosable(loan, payment.paid_on)
        before = replay(loan, payments, until=payment.paid_on)
        found = quote(before, payment.paid_on, prepayment_charge_bps)
        if payment.amount_paise != found.total_paise:
            raise rejection(
                loan,
                "FORECLOSURE_AMOUNT_DIFFERS",
                f"The foreclosure of {format_inr(payment.amount_paise)} differs from the "
                f"{format_inr(found.total_paise)} that closes the loan on {payment.paid_on}; pay "
                f"exactly that amount.",
                amount=format_rupees(payment.amount_paise),
                total=format_rupees(found.total_paise),
                paid_on=payment.paid_on,
            )
        payment = replace(payment, charge_paise=found.charge_paise)
    account = replay(loan, [*payments, payment])
    if account.excess_paise:
        raise exceeds_error(
            loan, payment.amount_paise, max(payment.amount_paise - account.excess_paise, 0)
        )
    applied = next(each for each in account.applied if each.fact is payment)
    return PaymentRecording(account, applied)


def _require_prepayable(loan: Loan, payment: PaymentFact) -> None:
    """Raise PreconditionFailedError if the loan, as of the day of the part prepayment, has
    installments that are due and unpaid, or owes no more principal than the amount."""
    due = installments_due_by(loan.start_date, loan.tenure_months, payment.paid_on)
    overdue = repayment_plan(loan).first_paise(due) - paid_in_all_paise(loan)
    if overdue > 0:
        raise rejection(
            loan,
            "PREPAYMENT_WHILE_OVERDUE",
            f"{format_inr(overdue)} of the installments due by {payment.paid_on} is unpaid; pay it "
            f"before a prepayment.",
            overdue=format_rupees(overdue),
            paid_on=payment.paid_on,
        )
    principal = principal_outstanding_paise(loan)
    if payment.amount_paise >= principal:
        raise rejection(
            loan,
            "PREPAYMENT_TOO_LARGE",
            f"The prepayment of {format_inr(payment.amount_paise)} is not less than the "
            f"{format_inr(principal)} of principal outstanding; close the loan with a foreclosure.",
            amount=format_rupees(payment.amount_paise),
            principal_outstanding=format_rupees(principal),
        )

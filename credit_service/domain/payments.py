"""Payments settle installments in order; a loan's state is derived from them."""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum

from credit_service.domain.calendar import add_months
from credit_service.domain.errors import (
    OUT_OF_RANGE,
    FieldViolation,
    InvalidFieldsError,
    PreconditionFailedError,
)
from credit_service.domain.loans import Loan, LoanState, repayment_plan
from credit_service.rupees import format_inr, format_rupees


@dataclass(frozen=True, slots=True)
class PaymentOutcome:
    """The loan after a payment, the installments that it settled, and which of them on time."""

    loan_after: Loan
    settled_numbers: tuple[int, ...]
    on_time_numbers: tuple[int, ...]
    closed: bool


class InstallmentState(StrEnum):
    """The state of an installment on a day: the first that applies, in this order."""

    SETTLED = "SETTLED"
    """Its full amount was reached."""
    OVERDUE = "OVERDUE"
    """Its due date has passed; part of it may be paid."""
    PARTLY_PAID = "PARTLY_PAID"
    """Part of it is paid, and it is not overdue."""
    DUE = "DUE"
    """It falls due on the day; nothing is paid on it."""
    UPCOMING = "UPCOMING"
    """It falls due later; nothing is paid on it."""


@dataclass(frozen=True, slots=True)
class InstallmentProgress:
    """One installment's state and paid amount."""

    number: int
    state: InstallmentState
    paid_paise: int


def outstanding_paise(loan: Loan) -> int:
    """The unpaid sum, future interest included: 0 for a closed loan."""
    return paid_and_outstanding_paise(loan)[1]


def paid_and_outstanding_paise(loan: Loan) -> tuple[int, int]:
    """(paid, unpaid) under the schedule; together the schedule's total.

    Installments that the import treated as settled count as paid.
    """
    plan = repayment_plan(loan)
    paid = plan.first_paise(loan.settled_at_import) + loan.paid_paise
    return paid, plan.total_paise - paid


def next_unsettled_due_date(loan: Loan) -> date | None:
    """Due date of the first installment that is not settled; None for a closed loan."""
    if loan.state is LoanState.CLOSED:
        return None
    return add_months(loan.start_date, loan.installments_settled + 1)


def installment_states(loan: Loan, today: date) -> tuple[InstallmentProgress, ...]:
    """The state of every installment on `today`, in order."""
    plan = repayment_plan(loan)
    rest = plan.first_paise(loan.settled_at_import) + loan.paid_paise
    lines = []
    for number in range(1, loan.tenure_months + 1):
        paid = min(plan.payment_paise(number), rest)
        rest -= paid
        lines.append(InstallmentProgress(number, _state(loan, number, paid, today), paid))
    return tuple(lines)


def _state(loan: Loan, number: int, paid_paise: int, today: date) -> InstallmentState:
    if number <= loan.installments_settled:
        return InstallmentState.SETTLED
    due_date = add_months(loan.start_date, number)
    if due_date < today:
        return InstallmentState.OVERDUE
    if paid_paise > 0:
        return InstallmentState.PARTLY_PAID
    return InstallmentState.DUE if due_date == today else InstallmentState.UPCOMING


def apply_payment(
    loan: Loan, amount_paise: int, paid_on: date, today: date, grace_days: int
) -> PaymentOutcome:
    """The loan after a payment of `amount_paise` on `paid_on`.

    An installment is settled on the day its full amount is reached. It is on time if that day is at
    most `grace_days` after its due date and its amount is more than 0.

    Raises:
        InvalidFieldsError: the amount is 0 or less.
        PreconditionFailedError: LOAN_CLOSED, PAYMENT_IN_FUTURE, PAYMENT_BEFORE_LOAN_START,
            PAYMENT_BEFORE_PREVIOUS or PAYMENT_EXCEEDS_OUTSTANDING, checked in this order.
    """
    if amount_paise <= 0:
        message = f"amount must be more than ₹0, found {format_inr(amount_paise)}."
        raise InvalidFieldsError([FieldViolation("amount", OUT_OF_RANGE, message)])
    _require_payable(loan, paid_on, today)
    paid, outstanding = paid_and_outstanding_paise(loan)
    if amount_paise > outstanding:
        raise _rejection(
            loan,
            "PAYMENT_EXCEEDS_OUTSTANDING",
            f"The payment of {format_inr(amount_paise)} is more than the "
            f"{format_inr(outstanding)} outstanding on the loan.",
            amount=format_rupees(amount_paise),
            outstanding=format_rupees(outstanding),
        )
    plan = repayment_plan(loan)
    settled = plan.settled_by(paid + amount_paise)
    numbers = tuple(range(loan.installments_settled + 1, settled + 1))
    # An installment of 0 is settled with the rest, but was not paid.
    on_time = tuple(
        number
        for number in numbers
        if plan.payment_paise(number) > 0
        and paid_on <= add_months(loan.start_date, number) + timedelta(days=grace_days)
    )
    closed = settled == loan.tenure_months
    after = replace(
        loan,
        emis_paid_on_time=loan.emis_paid_on_time + len(on_time),
        installments_settled=settled,
        paid_paise=loan.paid_paise + amount_paise,
        last_paid_on=paid_on,
        closed_on=paid_on if closed else None,
    )
    return PaymentOutcome(after, numbers, on_time, closed)


def _require_payable(loan: Loan, paid_on: date, today: date) -> None:
    """Raise PreconditionFailedError when the loan accepts no payment of that day."""
    if loan.closed_on is not None:
        raise _rejection(
            loan,
            "LOAN_CLOSED",
            f"The loan was closed on {loan.closed_on}; nothing is left to pay.",
            closed_on=loan.closed_on,
        )
    if paid_on > today:
        raise _rejection(
            loan,
            "PAYMENT_IN_FUTURE",
            f"The payment is dated {paid_on}, after today, {today}.",
            paid_on=paid_on,
            today=today,
        )
    if paid_on < loan.start_date:
        raise _rejection(
            loan,
            "PAYMENT_BEFORE_LOAN_START",
            f"The payment is dated {paid_on}, before the loan's start on {loan.start_date}.",
            paid_on=paid_on,
            start_date=loan.start_date,
        )
    if loan.last_paid_on is not None and paid_on < loan.last_paid_on:
        raise _rejection(
            loan,
            "PAYMENT_BEFORE_PREVIOUS",
            f"The payment is dated {paid_on}, before the loan's previous payment on "
            f"{loan.last_paid_on}.",
            paid_on=paid_on,
            previous_paid_on=loan.last_paid_on,
        )


def _rejection(
    loan: Loan, reason: str, message: str, **figures: str | date
) -> PreconditionFailedError:
    return PreconditionFailedError(
        reason,
        message,
        subject=f"customers/{loan.customer_id}/loans/{loan.loan_id}",
        metadata={
            "customer_id": str(loan.customer_id),
            "loan_id": str(loan.loan_id),
            **{name: str(value) for name, value in figures.items()},
        },
    )

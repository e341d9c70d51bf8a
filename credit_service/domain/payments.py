"""Payments settle installments in order; a loan's state is derived from them."""

from collections.abc import Iterable
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
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.schedules import (
    RepaymentPlan,
    ScheduledInstallment,
    agreed_plan,
    repayment_plan,
)
from credit_service.rupees import format_inr, format_rupees


class PaymentPurpose(StrEnum):
    """What a payment is for. Each first settles the installments that are due."""

    INSTALLMENTS = "INSTALLMENTS"
    """It settles installments in order, also before they are due."""
    PART_PREPAYMENT = "PART_PREPAYMENT"
    """It repays a part of the principal at once."""
    FORECLOSURE = "FORECLOSURE"
    """It repays all principal and closes the loan."""


class PrepaymentEffect(StrEnum):
    """What a part prepayment changes."""

    REDUCE_TENURE = "REDUCE_TENURE"
    """Fewer installments of the same amount."""
    REDUCE_INSTALLMENT = "REDUCE_INSTALLMENT"
    """Smaller installments over the same tenure."""


class ReversalReason(StrEnum):
    """Why a payment was reversed."""

    BOUNCED = "BOUNCED"
    """It was returned unpaid."""
    DUPLICATE = "DUPLICATE"
    """It was recorded twice."""
    WRONG_LOAN = "WRONG_LOAN"
    """It belongs to another loan."""
    ENTRY_ERROR = "ENTRY_ERROR"
    """Its amount, day or purpose was recorded wrongly."""


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
    """(paid, unpaid) under the schedule; together the schedule's total, with prepaid principal.

    Installments that the import treated as settled count as paid. After a reversal, more can be
    paid than is owed: nothing is unpaid then, and `excess_paise` is the difference.
    """
    plan = repayment_plan(loan)
    # Not in a function of its own, because lists of loans compute it for every loan.
    agreed = plan if loan.revision is None else agreed_plan(loan)
    paid = agreed.first_paise(loan.settled_at_import) + loan.paid_paise
    outstanding = plan.total_paise - paid
    return paid, outstanding if outstanding > 0 else 0


def excess_paise(loan: Loan) -> int:
    """What was paid beyond the schedule's total: more than 0 only after a reversal."""
    return max(paid_in_all_paise(loan) - repayment_plan(loan).total_paise, 0)


def paid_in_all_paise(loan: Loan) -> int:
    """What was paid on the loan, with the installments that the import treated as settled."""
    return paid_and_outstanding_paise(loan)[0]


def next_unsettled_due_date(loan: Loan) -> date | None:
    """Due date of the first installment that is not settled; None for a closed loan."""
    if loan.state is LoanState.CLOSED:
        return None
    return add_months(loan.start_date, loan.installments_settled + 1)


def installment_states(loan: Loan, today: date) -> tuple[InstallmentProgress, ...]:
    """The state of every installment on `today`, in order: of those in `loans.schedule`."""
    plan = repayment_plan(loan)
    rest = paid_in_all_paise(loan) - plan.before_paise
    lines = []
    for number in range(plan.after_number + 1, loan.tenure_months + 1):
        paid = min(plan.payment_paise(number), rest)
        rest -= paid
        lines.append(InstallmentProgress(number, _state(loan, number, paid, today), paid))
    return tuple(lines)


def paid_in_full(installment: ScheduledInstallment) -> InstallmentProgress:
    """The progress of an installment before the last revision of the schedule: all are settled."""
    return InstallmentProgress(
        installment.number, InstallmentState.SETTLED, installment.payment_paise
    )


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
    """The loan after a payment of `amount_paise` on `paid_on` for its installments.

    Equal to a replay of all its payments and this one: see `loan_replay.replay`. An installment is
    settled on the day its full amount is reached. It is on time if that day is at most `grace_days`
    after its due date and its amount is more than 0.

    Raises:
        InvalidFieldsError: the amount is 0 or less.
        PreconditionFailedError: LOAN_CLOSED, PAYMENT_IN_FUTURE, PAYMENT_BEFORE_LOAN_START,
            PAYMENT_BEFORE_PREVIOUS or PAYMENT_EXCEEDS_OUTSTANDING, checked in this order.
    """
    require_positive(amount_paise)
    require_payable(loan, paid_on, today)
    if loan.last_paid_on is not None and paid_on < loan.last_paid_on:
        raise rejection(
            loan,
            "PAYMENT_BEFORE_PREVIOUS",
            f"The payment is dated {paid_on}, before the loan's previous payment on "
            f"{loan.last_paid_on}.",
            paid_on=paid_on,
            previous_paid_on=loan.last_paid_on,
        )
    paid, outstanding = paid_and_outstanding_paise(loan)
    if amount_paise > outstanding:
        raise exceeds_error(loan, amount_paise, outstanding)
    plan = repayment_plan(loan)
    settled = plan.settled_by(paid + amount_paise)
    numbers = tuple(range(loan.installments_settled + 1, settled + 1))
    on_time = on_time_numbers(loan.start_date, plan, numbers, paid_on, grace_days)
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


def on_time_numbers(
    start_date: date, plan: RepaymentPlan, numbers: Iterable[int], paid_on: date, grace_days: int
) -> tuple[int, ...]:
    """Which of these installments a payment of that day settles on time."""
    # An installment of 0 is settled with the rest, but was not paid.
    return tuple(
        number
        for number in numbers
        if plan.payment_paise(number) > 0
        and paid_on <= add_months(start_date, number) + timedelta(days=grace_days)
    )


def require_positive(amount_paise: int) -> None:
    """Raise InvalidFieldsError unless the amount is more than 0."""
    if amount_paise <= 0:
        message = f"amount must be more than ₹0, found {format_inr(amount_paise)}."
        raise InvalidFieldsError([FieldViolation("amount", OUT_OF_RANGE, message)])


def require_payable(loan: Loan, paid_on: date, today: date) -> None:
    """Raise PreconditionFailedError when the loan accepts no payment of that day."""
    if loan.closed_on is not None:
        raise closed_error(loan)
    if paid_on > today:
        raise rejection(
            loan,
            "PAYMENT_IN_FUTURE",
            f"The payment is dated {paid_on}, after today, {today}.",
            paid_on=paid_on,
            today=today,
        )
    if paid_on < loan.start_date:
        raise rejection(
            loan,
            "PAYMENT_BEFORE_LOAN_START",
            f"The payment is dated {paid_on}, before the loan's start on {loan.start_date}.",
            paid_on=paid_on,
            start_date=loan.start_date,
        )


def closed_error(loan: Loan) -> PreconditionFailedError:
    """LOAN_CLOSED: nothing is left to pay."""
    return rejection(
        loan,
        "LOAN_CLOSED",
        f"The loan was closed on {loan.closed_on}; nothing is left to pay.",
        closed_on=str(loan.closed_on),
    )


def exceeds_error(loan: Loan, amount_paise: int, outstanding_paise: int) -> PreconditionFailedError:
    """PAYMENT_EXCEEDS_OUTSTANDING: the amount is more than what is unpaid."""
    return rejection(
        loan,
        "PAYMENT_EXCEEDS_OUTSTANDING",
        f"The payment of {format_inr(amount_paise)} is more than the "
        f"{format_inr(outstanding_paise)} outstanding on the loan.",
        amount=format_rupees(amount_paise),
        outstanding=format_rupees(outstanding_paise),
    )


def rejection(
    loan: Loan, reason: str, message: str, **figures: str | date
) -> PreconditionFailedError:
    """The error of a payment that the loan does not accept, with the figures as metadata."""
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

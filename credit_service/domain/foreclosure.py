"""What closes a loan before its end: a pure function of its account and a day."""

from dataclasses import dataclass
from datetime import date

from credit_service.domain.calendar import installments_due_by
from credit_service.domain.loan_replay import LoanAccount, payoff
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.money import divide_half_up
from credit_service.domain.payments import (
    closed_error,
    outstanding_paise,
    paid_in_all_paise,
    rejection,
    require_payable,
)
from credit_service.domain.schedules import (
    balance_after_paise,
    principal_outstanding_paise,
    repayment_plan,
)

_BPS = 10_000


@dataclass(frozen=True, slots=True)
class ForeclosureQuote:
    """The amount that closes a loan on `day`, and its parts, in paise.

    total = principal outstanding + past interest + running interest - paid in part + charge
          = principal not due + overdue + running interest - paid ahead + charge.

    `past_interest_paise` is that of the installments that are due and not settled,
    `running_interest_paise` that of the days since the last due date, and `paid_in_part_paise` what
    was paid on installments that are not settled. `interest_per_day_paise` is added with each
    further day, up to rounding, until the next due date. `interest_saved_paise` is what the
    schedule asks for beyond the total without the charge.
    """

    day: date
    principal_outstanding_paise: int
    past_interest_paise: int
    running_interest_paise: int
    paid_in_part_paise: int
    charge_paise: int
    total_paise: int
    interest_per_day_paise: int
    interest_saved_paise: int
    principal_not_due_paise: int
    # The unpaid part of the installments that are due.
    overdue_paise: int

    @property
    def paid_ahead_paise(self) -> int:
        """What was paid on the next installment, ahead of its due date."""
        return self.paid_in_part_paise if self.overdue_paise == 0 else 0


def require_foreclosable(loan: Loan, day: date) -> None:
    """Raise PreconditionFailedError if a foreclosure on `day` would not be the loan's last payment.

    LOAN_CLOSED, PAYMENT_BEFORE_LOAN_START or FORECLOSURE_BEFORE_PAYMENT, checked in this order.
    """
    require_payable(loan, day, day)
    if loan.last_paid_on is not None and day < loan.last_paid_on:
        raise rejection(
            loan,
            "FORECLOSURE_BEFORE_PAYMENT",
            f"The foreclosure is dated {day}, before the loan's last payment on "
            f"{loan.last_paid_on}; use that day or a later one.",
            paid_on=day,
            last_paid_on=loan.last_paid_on,
        )


def quote(account: LoanAccount, day: date, charge_bps: int) -> ForeclosureQuote:
    """The amount that closes the loan on `day`, on or after its start and its last payment.

    The charge is `charge_bps` of the principal that is not due yet, rounded half up.

    Raises:
        PreconditionFailedError: LOAN_CLOSED.
        ValueError: the account has later payments, or the loan starts later.
    """
    loan = account.loan
    if loan.state is LoanState.CLOSED:
        raise closed_error(loan)
    if day < (loan.last_paid_on or loan.start_date):
        raise ValueError(
            f"{day} is before the last payment or the start of loan {loan.loan_id}; replay its "
            f"payments until that day"
        )
    plan = repayment_plan(loan)
    paid = paid_in_all_paise(loan)
    principal = principal_outstanding_paise(loan)
    settled = loan.installments_settled
    due = installments_due_by(loan.start_date, loan.tenure_months, day)
    number = max(due, settled)
    past = plan.first_paise(number) - plan.first_paise(settled)
    in_part = paid - plan.first_paise(settled)
    left = outstanding_paise(loan)
    if number == loan.tenure_months:
        return ForeclosureQuote(
            day, principal, past - principal, 0, in_part, 0, left, 0, 0, 0, left
        )
    balance = balance_after_paise(loan, number)
    # As after a payment of what is due.
    found = payoff(loan, max(paid, plan.first_paise(number)), number, day, account.accrual)
    arrears = max(plan.first_paise(number) - paid, 0)
    amount = arrears + found.amount_paise
    charge = divide_half_up(balance * charge_bps, _BPS)
    return ForeclosureQuote(
        day=day,
        principal_outstanding_paise=principal,
        past_interest_paise=past - (principal - balance),
        running_interest_paise=found.interest_paise,
        paid_in_part_paise=in_part,
        charge_paise=charge,
        total_paise=amount + charge,
        interest_per_day_paise=divide_half_up(*found.per_day),
        interest_saved_paise=left - amount,
        principal_not_due_paise=balance,
        overdue_paise=arrears,
    )

"""Convert loans and their repayment schedules."""

from collections.abc import Iterable
from datetime import date

from credit_service.domain.delinquency import arrears_known_from, days_past_due_of
from credit_service.domain.errors import OUT_OF_RANGE
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.payments import (
    InstallmentProgress,
    InstallmentState,
    excess_paise,
    next_unsettled_due_date,
    paid_and_outstanding_paise,
)
from credit_service.domain.schedules import (
    ScheduledInstallment,
    principal_outstanding_paise,
    repayment_plan,
)
from credit_service.queries.loans import RepaymentSchedule
from credit_service.rpc.convert.charges import cost_message, write_charges
from credit_service.rpc.convert.fields import (
    Violations,
    decimal_text,
    fill_date,
    fill_money,
    write_date,
    write_money,
)
from credit_service.v1 import credit_service_pb2, delinquency_pb2, loan_pb2

_LOAN_STATES = {state: loan_pb2.LoanState.Value(f"LOAN_STATE_{state.name}") for state in LoanState}
_LOAN_STATE_FILTERS: dict[int, LoanState | None] = {
    loan_pb2.LOAN_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _LOAN_STATES.items()},
}
_INSTALLMENT_STATES = {
    state: loan_pb2.InstallmentState.Value(f"INSTALLMENT_STATE_{state.name}")
    for state in InstallmentState
}


def read_loan_state(number: int, field: str, violations: Violations) -> LoanState | None:
    """The state to filter by; None for loans of every state."""
    if number not in _LOAN_STATE_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a LoanState, found {number}.")
        return None
    return _LOAN_STATE_FILTERS[number]


def write_loan(loan: Loan, today: date) -> loan_pb2.Loan:
    """A loan in its current state, with the days past due at the end of today."""
    message = loan_pb2.Loan()
    fill_loan(message, loan, today)
    return message


def fill_loan(message: loan_pb2.Loan, loan: Loan, today: date) -> None:
    """Fill an empty message with a loan in its current state, with the days past due at the end of
    today."""
    paid, outstanding = paid_and_outstanding_paise(loan)
    message.customer_id = loan.customer_id
    message.loan_id = loan.loan_id
    fill_money(message.loan_amount, loan.principal_paise)
    message.interest_rate.value = decimal_text(loan.annual_rate_bps)
    message.tenure_months = loan.tenure_months
    fill_money(message.monthly_installment, loan.installment_paise)
    message.emis_paid_on_time = loan.emis_paid_on_time
    message.installments_settled = loan.installments_settled
    message.repayments_left = loan.repayments_left
    message.state = _LOAN_STATES[loan.state]
    fill_date(message.start_date, loan.start_date)
    fill_date(message.end_date, loan.end_date)
    message.source = loan_pb2.LOAN_SOURCE_IMPORTED if loan.imported else loan_pb2.LOAN_SOURCE_BOOKED
    message.decision_id = loan.decision_id or 0
    fill_money(message.outstanding, outstanding)
    fill_money(message.paid_amount, paid)
    fill_money(message.last_installment, repayment_plan(loan).last_paise)
    fill_money(message.principal_outstanding, principal_outstanding_paise(loan))
    message.agreed_tenure_months = loan.agreed_tenure_months
    fill_money(message.agreed_monthly_installment, loan.agreed_installment_paise)
    if loan.closed_on is not None:
        fill_date(message.closed_on, loan.closed_on)
    due = next_unsettled_due_date(loan)
    if due is not None:
        fill_date(message.next_due_date, due)
    if loan.charges:
        message.charges.extend(write_charges(loan.charges))
    if not loan.imported:
        tenure = loan.agreed_tenure_months
        message.cost_of_credit.CopyFrom(
            cost_message(loan.principal_paise, loan.annual_rate_bps, tenure, loan.charges)
        )
    if outstanding == 0 and (excess := excess_paise(loan)):
        fill_money(message.excess_paid, excess)
    message.days_past_due = days_past_due_of(loan, today)
    fill_arrears_known_from(message, loan)


def fill_arrears_known_from(
    message: loan_pb2.Loan | delinquency_pb2.LoanDelinquency, loan: Loan
) -> None:
    """Fill the day from which arrears of an imported loan are known; nothing for another loan."""
    known_from = arrears_known_from(loan)
    if known_from is not None:
        fill_date(message.arrears_known_from, known_from)


def write_schedule(
    found: RepaymentSchedule,
) -> credit_service_pb2.GetRepaymentScheduleResponse:
    """The response of GetRepaymentSchedule."""
    prepaid = found.prepaid_principal_paise
    response = credit_service_pb2.GetRepaymentScheduleResponse(
        installments=[
            write_installment(line, progress, found.settled_on.get(line.number))
            for line, progress in zip(found.installments, found.progress, strict=True)
        ],
    )
    outstanding = paid_and_outstanding_paise(found.loan)[1]
    fill_totals(response.totals, found.installments, prepaid, outstanding)
    return response


def fill_totals(
    message: loan_pb2.ScheduleTotals,
    installments: Iterable[ScheduledInstallment],
    prepaid_principal_paise: int,
    outstanding_paise: int,
) -> None:
    """Fill an empty message with the totals of installments and of what was prepaid beside them."""
    principal, interest = prepaid_principal_paise, 0
    for line in installments:
        principal += line.principal_paise
        interest += line.interest_paise
    fill_money(message.payments, principal + interest)
    fill_money(message.principal, principal)
    fill_money(message.interest, interest)
    fill_money(message.outstanding, outstanding_paise)
    fill_money(message.prepaid_principal, prepaid_principal_paise)


def write_installment(
    line: ScheduledInstallment, progress: InstallmentProgress, settled_on: date | None
) -> loan_pb2.Installment:
    """An installment and its state.

    `settled_on` is the day of the payment that settled it; ignored unless it is settled.
    """
    if progress.state is not InstallmentState.SETTLED:
        settled_on = None
    return loan_pb2.Installment(
        number=line.number,
        due_date=write_date(line.due_date),
        payment=write_money(line.payment_paise),
        principal=write_money(line.principal_paise),
        interest=write_money(line.interest_paise),
        balance=write_money(line.balance_paise),
        state=_INSTALLMENT_STATES[progress.state],
        settled_on=None if settled_on is None else write_date(settled_on),
        paid_amount=write_money(progress.paid_paise),
    )

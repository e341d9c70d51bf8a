"""Commands about loans: whether they would be approved, their state and their payments."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from datetime import date
from typing import Annotated, Literal

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT, bounded
from credit_service.cli.common import (
    CustomerId,
    Format,
    LenderCharges,
    Limit,
    LoanAmount,
    LoanId,
    Rate,
    RequestId,
    Target,
    TenureMonths,
    ThirdPartyCharges,
    flag,
)


def check(
    customer_id: CustomerId,
    amount: LoanAmount,
    rate: Rate,
    tenure_months: TenureMonths,
    /,
    *,
    lender_charges: LenderCharges = None,
    third_party_charges: ThirdPartyCharges = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Check whether a loan would be approved, with reasons, a counter-offer, and its cost if there
    are charges. Stores nothing."""
    from credit_service.cli import asks, eligibility

    ask = asks.Ask(customer_id, amount, rate, tenure_months, lender_charges, third_party_charges)
    return eligibility.check(target, ask, form)


def create_loan(
    customer_id: CustomerId,
    amount: LoanAmount,
    rate: Rate,
    tenure_months: TenureMonths,
    /,
    *,
    lender_charges: LenderCharges = None,
    third_party_charges: ThirdPartyCharges = None,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Decide on a loan and, if it is approved, book it. Otherwise show reasons and a
    counter-offer."""
    from credit_service.cli import asks, booking

    ask = asks.Ask(customer_id, amount, rate, tenure_months, lender_charges, third_party_charges)
    return booking.create_loan(target, ask, request_id, form)


def loans(
    customer_id: CustomerId,
    /,
    *,
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List a customer's loans."""
    from credit_service.cli import loans

    return loans.loans(target, customer_id, bounded(limit), form)


def overdue(
    *,
    asset_class: Annotated[
        Literal["SMA_0", "SMA_1", "SMA_2", "NPA"] | None,
        Parameter(name="--class", help="Only loans of customers of this asset class."),
    ] = None,
    days: Annotated[int, Parameter(help="Only loans with at least so many days past due.")] = 1,
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List the overdue loans of all customers, most days past due first."""
    from credit_service.cli import loans

    return loans.overdue(target, asset_class, days, bounded(limit), form)


def arrears(
    customer_id: CustomerId,
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a customer's days past due, asset class and overdue loans."""
    from credit_service.cli import loans

    return loans.arrears(target, customer_id, form)


def loan(
    loan_id: LoanId,
    /,
    *,
    customer: Annotated[
        int | None,
        Parameter(help="Customer of the loan, if several customers have a loan with this id."),
    ] = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a loan and its customer."""
    from credit_service.cli import loans

    return loans.loan(target, loan_id, customer, form)


def key_facts(
    offer_id: Annotated[int | None, Parameter(help="Id of an offer.")] = None,
    /,
    *,
    customer: Annotated[int | None, Parameter(help="Customer of a loan, with --loan.")] = None,
    loan: Annotated[int | None, Parameter(help="Id of the loan, with --customer.")] = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show the key facts statement of an offer or of a booked loan."""
    from credit_service.cli import loans

    return loans.key_facts(target, offer_id, customer, loan, form)


def schedule(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show all installments of a loan: principal, interest, balance and state."""
    from credit_service.cli import loans

    return loans.schedule(target, customer_id, loan_id, form)


def pay(
    customer_id: CustomerId,
    loan_id: LoanId,
    amount: Annotated[str, Parameter(help="Amount in rupees, such as 4637.60.")],
    /,
    *,
    on: Annotated[date | None, Parameter(help="Date of the payment. Default: today.")] = None,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Record a payment on a loan."""
    from credit_service.cli import pay

    payment = pay.Payment(customer_id, loan_id, amount, on, request_id)
    return pay.pay(target, payment, form)


def payments(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List a loan's payments as they were recorded, with their reversals."""
    from credit_service.cli import payments

    return payments.payments(target, customer_id, loan_id, bounded(limit), form)


def reverse_payment(
    payment_id: Annotated[int, Parameter(help="Id of the payment.")],
    /,
    *,
    reason: Annotated[
        Literal["bounced", "duplicate", "wrong-loan", "entry-error"],
        Parameter(help="Why it is reversed."),
    ],
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Reverse a payment: the loan becomes what it would be without it."""
    from credit_service.cli import payments

    return payments.reverse(target, payment_id, reason, request_id, form)


def prepay(
    customer_id: CustomerId,
    loan_id: LoanId,
    amount: Annotated[str, Parameter(help="Amount in rupees, such as 20000.")],
    /,
    *,
    effect: Annotated[
        Literal["tenure", "installment"],
        Parameter(help="What the prepayment reduces."),
    ] = "tenure",
    on: Annotated[date | None, Parameter(help="Date of the payment. Default: today.")] = None,
    dry_run: Annotated[bool, flag("Only show the new schedule; record nothing.")] = False,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Repay a part of the principal ahead of the schedule."""
    from credit_service.cli import payments

    prepayment = payments.Prepayment(customer_id, loan_id, amount, effect, on, dry_run, request_id)
    return payments.prepay(target, prepayment, form)


def foreclosure(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    on: Annotated[date | None, Parameter(help="Day of the payment. Default: today.")] = None,
    pay: Annotated[bool, flag("Also record the payment, which closes the loan.")] = False,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show what closes a loan on a day; with --pay, also pay it."""
    from credit_service.cli import payments

    return payments.foreclosure(target, payments.Foreclosure(customer_id, loan_id, on, pay), form)


def decisions(
    *,
    customer: Annotated[
        int | None, Parameter(help="Only decisions about this customer. Default: all.")
    ] = None,
    referral: Annotated[
        Literal["pending", "approved", "declined", "expired"] | None,
        Parameter(help="Only referred decisions whose review is in this state."),
    ] = None,
    limit: Limit = 20,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List stored decisions, latest first."""
    from credit_service.cli import decisions

    return decisions.decisions(target, customer, referral, bounded(limit), form)


def decision(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a stored decision with all its inputs."""
    from credit_service.cli import decisions

    return decisions.decision(target, decision_id, form)


def review_decision(
    decision_id: Annotated[int, Parameter(help="Id of the referred decision.")],
    verdict: Annotated[
        Literal["approve", "decline"],
        Parameter(help="Approve to decide again without the rules that referred the request."),
    ],
    /,
    *,
    reason: Annotated[str, Parameter(help="Why. It is stored with the decision.")],
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Approve or decline a decision that was referred to a person. An approval decides again, and
    can still decline."""
    from credit_service.cli import decisions

    review = decisions.Review(decision_id, verdict, reason, request_id)
    return decisions.review_decision(target, review, form)

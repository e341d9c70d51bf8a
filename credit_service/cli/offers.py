"""`offers`, `offer`, `accept-offer` and `withdraw-offer`."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID, uuid4

from rich.text import Text

from credit_service.cli.amounts import read_money
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.loans import show_loan
from credit_service.cli.outcomes import a_month, cost
from credit_service.cli.output import Listing, instant, money, out, percent, print_data
from credit_service.cli.service import (
    by,
    date_of,
    day_text,
    list_pages,
    print_facts,
    print_list,
    repeatable,
    service_at,
)
from credit_service.client.display import enum_name, inr
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import offer_pb2


def offers(target: Target, customer_id: int, limit: int, form: Format) -> int:
    """List a customer's offers, latest first."""
    request = pb.ListLoanOffersRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListLoanOffers, request, "offers", limit)
    table = Listing(
        ("offer", "right"), ("amount", "right"), ("rate", "right"), ("APR", "right"),
        ("installment", "right"), "state", "valid until", ("loan", "right"),
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.offer_id),
            money(each.loan_amount),
            percent(each.interest_rate),
            percent(each.cost_of_credit.annual_percentage_rate),
            money(each.monthly_installment),
            enum_name(each.state, offer_pb2.LoanOfferState),
            day_text(each.valid_until),
            str(each.loan_id or ""),
        )
    return print_list(table, "offers", found, form, more=more)


def offer(target: Target, offer_id: int, form: Format) -> int:
    """Show one offer."""
    request = pb.GetLoanOfferRequest(offer_id=offer_id)
    with service_at(target) as service:
        response = service.GetLoanOffer(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        _show_offer(response.offer)
    return ExitCode.GOOD


def _show_offer(found: offer_pb2.LoanOffer) -> None:
    print_facts(
        (
            "offer",
            f"{found.offer_id}  of customer {found.customer_id}, by decision {found.decision_id}",
        ),
        ("state", _state(found)),
        ("amount", f"{inr(found.loan_amount)} at {found.interest_rate.value} % a year"),
        ("installments", f"{found.tenure_months}, {a_month(found)}"),
        ("cost", cost(found.cost_of_credit)),
        ("holds", f"{inr(found.held_credit)}, {inr(found.held_installment)} a month"),
        ("made", f"{instant(found.created_time)} {by(found.principal)}".strip()),
        ("valid until", day_text(found.valid_until)),
    )


def _state(found: offer_pb2.LoanOffer) -> str:
    state = enum_name(found.state, offer_pb2.LoanOfferState).lower()
    if found.HasField("ended_time"):
        state += f" {instant(found.ended_time)}"
    if found.loan_id:
        return f"{state}: {inr(found.accepted_amount)}, loan {found.loan_id}"
    return f"{state}: {found.withdrawal_reason}" if found.withdrawal_reason else state


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Arguments of `accept-offer`; None for all of the offer, and for today."""

    offer_id: int
    amount: str | None
    disbursed_on: date | None
    request_id: UUID | None


def accept(target: Target, acceptance: Acceptance, form: Format) -> int:
    """Book the loan of an offer, with a new request id unless one is given. Raises UsageError,
    ServiceError."""
    request_id = acceptance.request_id or uuid4()
    amount, day = acceptance.amount, acceptance.disbursed_on
    request = pb.AcceptLoanOfferRequest(
        request_id=str(request_id),
        offer_id=acceptance.offer_id,
        loan_amount=None if amount is None else read_money(amount),
        disbursed_on=None if day is None else date_of(day),
    )
    with repeatable(request_id, "the offer was accepted"), service_at(target) as service:
        response = service.AcceptLoanOffer(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    out.print(Text(f"Offer {response.offer.offer_id} is accepted"))
    show_loan(response.loan)
    return ExitCode.GOOD


def withdraw(
    target: Target, offer_id: int, reason: str, request_id: UUID | None, form: Format
) -> int:
    """End an open offer, with a new request id unless one is given. Raises ServiceError."""
    request_id = request_id or uuid4()
    request = pb.WithdrawLoanOfferRequest(
        request_id=str(request_id), offer_id=offer_id, reason=reason
    )
    with repeatable(request_id, "the offer was withdrawn"), service_at(target) as service:
        response = service.WithdrawLoanOffer(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        _show_offer(response.offer)
    return ExitCode.GOOD

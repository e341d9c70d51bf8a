"""Commands about offers of loans, which hold credit until they are accepted or end."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from datetime import date
from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT, bounded
from credit_service.cli.common import (
    CustomerId,
    Format,
    LenderCharges,
    Limit,
    LoanAmount,
    OfferId,
    Rate,
    RequestId,
    Target,
    TenureMonths,
    ThirdPartyCharges,
)


def offers(
    customer_id: CustomerId,
    /,
    *,
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List a customer's offers, latest first."""
    from credit_service.cli import offers

    return offers.offers(target, customer_id, bounded(limit), form)


def offer(offer_id: OfferId, /, *, target: Target = HERE, form: Format = TEXT) -> int:
    """Show an offer: its state, cost and last day."""
    from credit_service.cli import offers

    return offers.offer(target, offer_id, form)


def create_offer(
    customer_id: CustomerId,
    amount: LoanAmount,
    rate: Rate,
    tenure_months: TenureMonths,
    /,
    *,
    lender_charges: LenderCharges = None,
    third_party_charges: ThirdPartyCharges = None,
    valid_until: Annotated[
        date | None,
        Parameter(help="Last day to accept it, at most 30 days ahead. Default: 3 days ahead."),
    ] = None,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Decide on a loan and, if it is approved, hold its credit in an offer. Otherwise show reasons
    and a counter-offer."""
    from credit_service.cli import asks, booking

    ask = asks.Ask(customer_id, amount, rate, tenure_months, lender_charges, third_party_charges)
    return booking.create_offer(target, booking.OfferAsk(ask, valid_until, request_id), form)


def accept_offer(
    offer_id: OfferId,
    /,
    *,
    amount: Annotated[
        str | None, Parameter(help="Less than the offer, in rupees. Default: all of the offer.")
    ] = None,
    on: Annotated[date | None, Parameter(help="Start date of the loan. Default: today.")] = None,
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Book the loan of an open offer, all or a part of it."""
    from credit_service.cli import offers

    return offers.accept(target, offers.Acceptance(offer_id, amount, on, request_id), form)


def withdraw_offer(
    offer_id: OfferId,
    /,
    *,
    reason: Annotated[str, Parameter(help="Why it is withdrawn. Default: no reason.")] = "",
    request_id: RequestId = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """End an open offer and release its credit."""
    from credit_service.cli import offers

    return offers.withdraw(target, offer_id, reason, request_id, form)

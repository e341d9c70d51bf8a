"""`create-loan` and `create-offer`: a decision, which books a loan or makes an offer."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID, uuid4

from rich.text import Text

from credit_service.cli.asks import Ask
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.outcomes import (
    outcome_name,
    print_outcome,
    show_cost,
    show_counter_offer,
    show_reasons,
    show_rules,
    show_terms,
)
from credit_service.cli.output import out, print_data
from credit_service.cli.service import date_of, day_text, repeatable, service_at
from credit_service.v1 import credit_service_pb2 as pb


def create_loan(target: Target, ask: Ask, request_id: UUID | None, form: Format) -> int:
    """Decide on a loan and book it if it is approved, with a new request id unless one is given.

    A decline or a referral also exits with GOOD. Raises UsageError, ServiceError.
    """
    request_id = request_id or uuid4()
    request = pb.CreateLoanRequest(request_id=str(request_id), **ask.fields())
    with repeatable(request_id, "the loan was booked"), service_at(target) as service:
        response = service.CreateLoan(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    _show(request, response, f", loan {response.loan.loan_id}")
    # A server of release 0.1.0 sends no cost.
    if response.HasField("cost_of_credit"):
        show_cost(response.cost_of_credit)
    if response.approved:
        due = day_text(response.loan.next_due_date)
        out.print(Text(f"  first installment due on {due}"))
    show_rules(response.rule_results)
    return ExitCode.GOOD


@dataclass(frozen=True, slots=True)
class OfferAsk:
    """Arguments of `create-offer`; without `valid_until` the service chooses the last day."""

    ask: Ask
    valid_until: date | None
    request_id: UUID | None


def create_offer(target: Target, wanted: OfferAsk, form: Format) -> int:
    """Decide on a loan and hold it in an offer if it is approved, with a new request id unless one
    is given.

    A decline or a referral also exits with GOOD. Raises UsageError, ServiceError.
    """
    request_id = wanted.request_id or uuid4()
    request = pb.CreateLoanOfferRequest(
        request_id=str(request_id),
        valid_until=None if wanted.valid_until is None else date_of(wanted.valid_until),
        **wanted.ask.fields(),
    )
    with repeatable(request_id, "the offer was made"), service_at(target) as service:
        response = service.CreateLoanOffer(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    _show(request, response, f", offer {response.offer.offer_id}")
    if response.approved:
        show_cost(response.offer.cost_of_credit)
        out.print(Text(f"  valid until {day_text(response.offer.valid_until)}"))
    show_rules(response.rule_results)
    return ExitCode.GOOD


def _show(request: Any, response: Any, made: str) -> None:
    """Show the outcome, and what explains it. `made`: what an approval made."""
    what = made if response.approved else ""
    print_outcome(response, f"Decision {response.decision_id}: {outcome_name(response)}{what}")
    show_terms(request, response)
    show_reasons(response)
    if response.HasField("counter_offer"):
        show_counter_offer(response.counter_offer)
    if response.HasField("referral"):
        last = day_text(response.referral.last_day)
        out.print(
            Text(
                f"  waits for a review until {last}: "
                f"credit-service review-decision {response.decision_id}"
            ),
            soft_wrap=True,
        )

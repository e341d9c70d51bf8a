"""The parts of an answer about a loan: its outcome, reasons, rules, counter-offer and cost."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from credit_service.cli.output import Listing, out
from credit_service.client.display import enum_name, inr, words
from credit_service.v1 import decision_pb2, offer_pb2


def cost(found: offer_pb2.CostOfCredit) -> str:
    return (
        f"APR {found.annual_percentage_rate.value} %, {inr(found.net_disbursed)} disbursed, "
        f"{inr(found.total_interest)} interest, {inr(found.total_payable)} to pay"
    )


def a_month(
    message: Any, monthly: str = "monthly_installment", last: str = "last_installment"
) -> str:
    """Return the installment, and the last one if the service states it and it differs. `monthly`
    and `last` are field names of the message."""
    text = f"{inr(getattr(message, monthly))} a month"
    if message.HasField(last) and getattr(message, last) != getattr(message, monthly):
        text += f", the last {inr(getattr(message, last))}"
    return text


_OUTCOME_STYLES = {"approved": "bold green", "declined": "bold red", "referred": "bold yellow"}


def outcome_name(message: Any) -> str:
    """Return approved, declined or referred."""
    if message.outcome == decision_pb2.DECISION_OUTCOME_REFERRED:
        return "referred"
    return "approved" if message.approved else "declined"


def print_outcome(message: Any, sentence: str) -> None:
    out.print(Text(sentence, style=_OUTCOME_STYLES[outcome_name(message)]))


def show_terms(request: Any, response: Any) -> None:
    """Show amount, tenure, rate and installment of a requested loan, after the correction of the
    rate."""
    requested, corrected = response.interest_rate.value, response.corrected_interest_rate.value
    changed = "" if requested == corrected else f" (requested: {requested} %)"
    out.print(
        Text(
            f"  {inr(request.loan_amount)} over {request.tenure_months} months at {corrected} % a "
            f"year{changed}: {a_month(response)}"
        ),
        soft_wrap=True,
    )


def show_cost(found: offer_pb2.CostOfCredit) -> None:
    out.print(Text(f"  {cost(found)}"), soft_wrap=True)


def show_rules(results: Sequence[decision_pb2.RuleResult]) -> None:
    """Show the rules of the policy as they were evaluated; nothing without rules."""
    if not results:
        return
    table = Listing("rule", "effect", "applied", "values", "condition")
    for each in results:
        values = ", ".join(f"{value.name} {value.value}" for value in each.values)
        effect = words(enum_name(each.outcome, decision_pb2.RuleOutcome))
        applied = each.error or ("yes" if each.applied else "no")
        table.add(each.code, effect, applied, values, each.condition)
    table.print()


def show_reasons(answer: Any) -> None:
    """Show the reasons of a decline or a referral."""
    for reason in answer.reasons:
        code = enum_name(reason.code, decision_pb2.DeclineReasonCode)
        out.print(Text(f"  {code}: {reason.message}"), soft_wrap=True)


def show_counter_offer(offer: decision_pb2.CounterOffer) -> None:
    if offer.HasField("max_loan_amount"):
        largest = a_month(offer, "max_loan_amount_installment", "max_loan_amount_last_installment")
        out.print(
            Text(f"  counter-offer: {inr(offer.max_loan_amount)} over the same tenure, {largest}"),
            soft_wrap=True,
        )
    if offer.min_tenure_months:
        out.print(
            Text(
                f"  counter-offer: the same amount over {offer.min_tenure_months} months, "
                f"{a_month(offer, 'min_tenure_installment', 'min_tenure_last_installment')}"
            ),
            soft_wrap=True,
        )

"""`decisions`, `decision` and `review-decision`."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.outcomes import (
    a_month,
    outcome_name,
    print_outcome,
    show_counter_offer,
    show_reasons,
    show_rules,
)
from credit_service.cli.output import (
    Listing,
    decline_codes,
    instant,
    money,
    percent,
    print_data,
)
from credit_service.cli.scores import show_score
from credit_service.cli.service import (
    by,
    day_text,
    list_pages,
    print_facts,
    print_list,
    repeatable,
    service_at,
)
from credit_service.client.display import enum_name, inr
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, referral_pb2


def _review_facts(found: decision_pb2.Decision) -> list[tuple[str, str]]:
    """Return the review of a referred decision, and the decision that this one decides again."""
    facts = []
    if found.HasField("referral"):
        referral = found.referral
        state = enum_name(referral.state, referral_pb2.ReferralState).lower()
        if referral.HasField("reviewed_time"):
            result = referral.result_decision_id
            new = f", new decision {result}" if result else ""
            when = f"{instant(referral.reviewed_time)} {by(referral.reviewer)}".strip()
            state += f" {when}{new}: {referral.reason}"
        else:
            state += f", last day {day_text(referral.last_day)}"
        facts.append(("referral", state))
    if found.reviewed_decision_id:
        facts.append(("reviewed", f"decision {found.reviewed_decision_id}"))
    return facts


def made(decision: decision_pb2.Decision) -> str:
    """Return what an approval made: a loan, or an offer."""
    return f"offer {decision.offer_id}" if decision.offer_id else f"loan {decision.loan_id}"


def _loans(count: int) -> str:
    return f"{count} loan{'' if count == 1 else 's'}"


def decisions(
    target: Target, customer_id: int | None, referral: str | None, limit: int, form: Format
) -> int:
    """List stored decisions, latest first. `referral` is the state of a review such as 'pending',
    None for all decisions."""
    request = pb.ListDecisionsRequest(customer_id=customer_id)
    if referral is not None:
        request.referral_state = referral_pb2.ReferralState.Value(
            f"REFERRAL_STATE_{referral.upper()}"
        )
    with service_at(target) as service:
        found, more = list_pages(service.ListDecisions, request, "decisions", limit)
    table = Listing(
        ("decision", "right"), "time", ("customer", "right"), ("requested", "right"),
        ("months", "right"), ("rate", "right"), ("score", "right"), "outcome",
    )  # fmt: skip
    for each in found:
        reasons = ", ".join(decline_codes(reason.code for reason in each.reasons))
        table.add(
            str(each.decision_id),
            instant(each.decided_time),
            str(each.customer_id),
            money(each.ask.loan_amount),
            str(each.ask.tenure_months),
            percent(each.corrected_interest_rate),
            str(each.credit_score.score),
            f"approved: {made(each)}" if each.approved else f"{outcome_name(each)}: {reasons}",
        )
    return print_list(table, "decisions", found, form, more=more)


def decision(target: Target, decision_id: int, form: Format) -> int:
    """Show a stored decision with its inputs."""
    request = pb.GetDecisionRequest(decision_id=decision_id)
    with service_at(target) as service:
        response = service.GetDecision(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    _show_decision(response.decision)
    return ExitCode.GOOD


def _show_decision(found: decision_pb2.Decision) -> None:
    what = f", {made(found)}" if found.approved else ""
    print_outcome(found, f"Decision {found.decision_id}: {outcome_name(found)}{what}")
    show_reasons(found)
    if found.HasField("counter_offer"):
        show_counter_offer(found.counter_offer)
    ask, inputs = found.ask, found.inputs
    print_facts(
        ("customer", f"{found.customer_id} (version {inputs.customer_version})"),
        ("decided", f"{instant(found.decided_time)} {by(found.principal)}"),
        (
            "requested",
            (
                f"{inr(ask.loan_amount)} at {ask.interest_rate.value} % "
                f"over {ask.tenure_months} months"
            ),
        ),
        (
            "evaluated at",
            f"{found.corrected_interest_rate.value} %, {a_month(found)}",
        ),
        ("monthly income", inr(inputs.monthly_income)),
        ("approved limit", inr(inputs.approved_limit)),
        ("current debt", inr(inputs.current_debt)),
        ("installments", f"{inr(inputs.current_installments)} a month"),
        (
            "history",
            (
                f"{_loans(inputs.loan_count)}, {inputs.emis_on_time} of {inputs.emis_due} "
                f"installments on time, {_loans(inputs.current_year_loans)} this year"
            ),
        ),
        *_review_facts(found),
    )
    show_rules(found.rule_results)
    show_score(found.credit_score)


@dataclass(frozen=True, slots=True)
class Review:
    """Arguments of `review-decision`; `verdict` is 'approve' or 'decline'."""

    decision_id: int
    verdict: str
    reason: str
    request_id: UUID | None


def review_decision(target: Target, review: Review, form: Format) -> int:
    """Review a referred decision and show the decision that an approval made, or else the referred
    one; with a new request id unless one is given. A decline also exits with GOOD. Raises
    ServiceError."""
    request_id = review.request_id or uuid4()
    request = pb.ReviewDecisionRequest(
        request_id=str(request_id),
        decision_id=review.decision_id,
        verdict=referral_pb2.ReviewVerdict.Value(f"REVIEW_VERDICT_{review.verdict.upper()}"),
        reason=review.reason,
    )
    with repeatable(request_id, "the decision was reviewed"), service_at(target) as service:
        response = service.ReviewDecision(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        _show_decision(response.decision)
    return ExitCode.GOOD

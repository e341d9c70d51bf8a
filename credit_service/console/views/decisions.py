"""Stored decisions."""

from urllib.parse import urlencode

from starlette.responses import Response

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.page import Page
from credit_service.console.rules import (
    Ask,
    Position,
    component_lines,
    override_sentence,
    policy_lines,
    rule_lines,
)
from credit_service.v1 import credit_service_pb2 as pb

PAGE_SIZE = 50


def index(page: Page) -> Response:
    """The decisions about all customers, latest first."""
    request = pb.ListDecisionsRequest(
        page_size=PAGE_SIZE, page_token=page.query.get("page_token", "")
    )
    found = page.service.decisions(request)
    token = found.next_page_token
    return page.render(
        "decisions.html",
        decisions=found.decisions,
        next_href="/qa/decisions?" + urlencode({"page_token": token}) if token else "",
        first_page=not request.page_token,
    )


def show(page: Page) -> Response:
    """One decision with its inputs and rules."""
    decision = page.service.decision(page.path_id("decision_id"))
    ask = Ask(
        display.paise(decision.ask.loan_amount),
        decision.ask.interest_rate.value,
        decision.corrected_interest_rate.value,
        formats.largest_installment_paise(decision),
    )
    score = decision.credit_score
    # A repeat of the original call: with its request id it returns this decision.
    made_by = pb.CreateLoanRequest(
        request_id=decision.request_id,
        customer_id=decision.customer_id,
        loan_amount=decision.ask.loan_amount,
        interest_rate=decision.ask.interest_rate,
        tenure_months=decision.ask.tenure_months,
    )
    return page.render(
        "decision.html",
        decision=decision,
        rules=rule_lines(ask, Position.of_inputs(decision.inputs), score.score, decision.reasons),
        policy=policy_lines(decision.rule_results),
        components=component_lines(score),
        override=override_sentence(score),
        planned=page.planned(made_by) if decision.request_id else None,
        planned_label="RPC call of this decision",
    )

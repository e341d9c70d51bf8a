"""Stored decisions."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.lists import DECISIONS
from credit_service.console.page import Page, Problem, new_request_id
from credit_service.console.rules import (
    Ask,
    Position,
    component_lines,
    override_sentence,
    policy_lines,
    rule_lines,
)
from credit_service.console.views import lists
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2

PAGE_SIZE = 50


def index(page: Page) -> Response:
    """The decisions about all customers, latest first."""
    found = lists.shown(page, DECISIONS)
    return page.render("decisions.html", found.status, list=found)


def show(page: Page) -> Response:
    """One decision with its inputs and rules; for a referral, also its review."""
    return show_again(page, page.typed_before() or {"request_id": new_request_id()}, {}, None)


def show_again(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    """The page with the values and the problems of the review."""
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
    review = _review(page, decision.customer_id) if decision.HasField("referral") else {}
    return page.render(
        "decision.html",
        HTTPStatus.OK if problem is None else problem.http_status,
        decision=decision,
        values=values,
        problems=problems,
        problem=problem,
        **review,
        rules=rule_lines(ask, Position.of_inputs(decision.inputs), score.score, decision.reasons),
        policy=policy_lines(decision.rule_results),
        components=component_lines(score),
        override=override_sentence(score),
        planned=page.planned(made_by) if decision.request_id else None,
        planned_label="RPC call of this decision",
    )


def _review(page: Page, customer_id: int) -> dict[str, Any]:
    """What a reviewer needs besides the decision: the customer and the active loans now."""
    customer, customer_problem = page.attempt(lambda: page.service.customer(customer_id))
    request = pb.ListLoansRequest(
        customer_id=customer_id, state=loan_pb2.LOAN_STATE_ACTIVE, page_size=PAGE_SIZE
    )
    loans, loans_problem = page.attempt(lambda: page.service.loans(request).loans)
    return {
        "customer": customer,
        "customer_problem": customer_problem,
        "loans": loans,
        "loans_problem": loans_problem,
    }

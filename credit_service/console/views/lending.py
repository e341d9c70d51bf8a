"""The eligibility simulator, and the application for a loan in two steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import grpc
from starlette.responses import RedirectResponse, Response

from credit_service.client import display
from credit_service.console import fields, formats
from credit_service.console.formats import Typed
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    is_request_id,
    new_request_id,
)
from credit_service.console.rules import (
    Ask,
    ComponentLine,
    PolicyLine,
    Position,
    RuleLine,
    component_lines,
    override_sentence,
    policy_lines,
    rule_lines,
)
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import offer_pb2
from credit_service_client.errors import ServiceError

CHARGES = {
    "lender_charges": offer_pb2.CHARGE_PAYEE_LENDER,
    "third_party_charges": offer_pb2.CHARGE_PAYEE_THIRD_PARTY,
}
"""Who receives the charges of each optional field."""
FIELDS = ("customer_id", "loan_amount", "interest_rate", "tenure_months", *CHARGES)
EXAMPLE = pb.CheckEligibilityRequest(
    customer_id=101,
    loan_amount=formats.money_of(10_000_000),
    interest_rate={"value": "12"},
    tenure_months=12,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An eligibility check for display."""

    check: Any
    customer: Any
    rules: list[RuleLine]
    policy: list[PolicyLine]
    components: list[ComponentLine]
    override: str
    amount: Any


def _terms(values: Mapping[str, str]) -> dict[str, str]:
    return {name: values.get(name, "").strip() for name in FIELDS}


def _read(values: Mapping[str, str]) -> tuple[pb.CheckEligibilityRequest, dict[str, str]]:
    typed = Typed(values)
    request = pb.CheckEligibilityRequest(
        customer_id=typed.whole("customer_id"),
        loan_amount=typed.money("loan_amount"),
        interest_rate=typed.rate("interest_rate"),
        tenure_months=typed.whole("tenure_months", formats.MAX_INT32),
        charges=[
            offer_pb2.LoanCharge(
                type=fields.label(name).lower(), payee=payee, amount=typed.money(name)
            )
            for name, payee in CHARGES.items()
            if typed.text(name)
        ],
    )
    return request, typed.problems


def _problems(
    violations: Iterable[tuple[str, str]], typed: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the problem of each field; that of the charges together beside the first of them."""
    found = fields.beside((*FIELDS, "charges"), violations, typed)
    if "charges" in found:
        found.setdefault(next(iter(CHARGES)), found.pop("charges"))
    return found


def _answer(page: Page, request: pb.CheckEligibilityRequest) -> Answer:
    """Raises ServiceError."""
    check = page.service.check(request)
    customer = page.service.customer(request.customer_id)
    ask = Ask(
        display.paise(request.loan_amount),
        check.interest_rate.value,
        check.corrected_interest_rate.value,
        formats.largest_installment_paise(check),
    )
    position = replace(Position.of(customer), debt_is_known=not check.rule_results)
    rules = rule_lines(ask, position, check.credit_score.score, check.reasons)
    return Answer(
        check,
        customer,
        rules,
        policy_lines(check.rule_results),
        component_lines(check.credit_score),
        override_sentence(check.credit_score),
        request.loan_amount,
    )


def _simulated(page: Page) -> dict[str, Any]:
    """Return the template values: the answer for the terms in the address, or the problems."""
    values = _terms(page.query)
    shown: dict[str, Any] = {
        "values": values,
        "problems": {},
        "problem": None,
        "answer": None,
        "has_terms": any(values.values()),
        "apply_href": "/qa/apply?" + urlencode(values),
    }
    if not shown["has_terms"]:
        return shown
    request, problems = _read(values)
    if problems:
        return {**shown, "problems": _problems((), problems)}
    try:
        return {**shown, "answer": _answer(page, request)}
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        found = _problems(error.violations)
        return {**shown, "problems": found, "problem": Problem(error)}


def simulator(page: Page) -> Response:
    """The simulator, with its answer if the address has terms."""
    return page.render("eligibility.html", planned=page.planned(EXAMPLE), **_simulated(page))


def simulate(page: Page) -> Response:
    """Only the simulator's answer, requested while the user types."""
    return page.render("_answer.html", **_simulated(page))


def application(page: Page) -> Response:
    """The form to apply for a loan."""
    return _application(page, _terms(page.query), {}, None)


def _application(
    page: Page, values: Mapping[str, str], problems: dict[str, str], problem: Problem | None
) -> Response:
    failed = bool(problems) or problem is not None
    status = (problem.http_status if problem is not None else 400) if failed else 200
    planned = page.planned(
        pb.CreateLoanRequest(
            request_id=EXAMPLE_REQUEST_ID,
            customer_id=EXAMPLE.customer_id,
            loan_amount=EXAMPLE.loan_amount,
            interest_rate=EXAMPLE.interest_rate,
            tenure_months=EXAMPLE.tenure_months,
        )
    )
    return page.render(
        "apply.html", status, values=values, problems=problems, problem=problem, planned=planned
    )


def review(page: Page) -> Response:
    """Step two: the check, and the button to apply.

    The address contains the request id, so that a reload or the back button keeps it: repeated
    confirmations book one loan.
    """
    source = page.typed_before() or page.query
    values, request_id = _terms(source), source.get("request_id", "")
    if not is_request_id(request_id):
        address = urlencode({**values, "request_id": new_request_id()})
        return RedirectResponse(f"/qa/apply/review?{address}", 303)
    request, problems = _read(values)
    try:
        # Also if a field cannot be parsed: the service reports the problems of all other fields.
        answer = _answer(page, request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        found = _problems(error.violations, problems)
        return _application(page, values, found, Problem(error))
    if problems:
        return _application(page, values, _problems((), problems), None)
    planned = page.planned(_create_request(request, request_id))
    return page.render(
        "review.html",
        values=values,
        answer=answer,
        request_id=request_id,
        planned=planned,
        back_href="/qa/apply?" + urlencode(values),
    )


def apply(page: Page) -> Response:
    """Apply for the loan and redirect to the decision."""
    request, problems = _read(page.form)
    request_id = page.request_id()
    if problems:
        return _application(page, _terms(page.form), _problems((), problems), None)
    if page.form.get("intent") == "offer":
        return _offer(page, request, request_id)
    created = page.service.create_loan(_create_request(request, request_id))
    return page.redirect(f"/qa/decisions/{created.decision_id}", created.message)


def _offer(page: Page, check: pb.CheckEligibilityRequest, request_id: str) -> Response:
    """Make an offer, and redirect to it, or to the decision that made none."""
    created = page.service.create_offer(
        pb.CreateLoanOfferRequest(
            request_id=request_id,
            customer_id=check.customer_id,
            loan_amount=check.loan_amount,
            interest_rate=check.interest_rate,
            tenure_months=check.tenure_months,
            charges=check.charges,
        )
    )
    if created.HasField("offer"):
        return page.redirect(f"/qa/offers/{created.offer.offer_id}", created.message)
    return page.redirect(f"/qa/decisions/{created.decision_id}", created.message)


def _create_request(check: pb.CheckEligibilityRequest, request_id: str) -> pb.CreateLoanRequest:
    return pb.CreateLoanRequest(
        request_id=request_id,
        customer_id=check.customer_id,
        loan_amount=check.loan_amount,
        interest_rate=check.interest_rate,
        tenure_months=check.tenure_months,
        charges=check.charges,
    )

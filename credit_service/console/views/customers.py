"""Customers: the list, the registration, and one customer's page."""

from dataclasses import dataclass, field
from typing import Any

import grpc
from starlette.responses import Response

from credit_service.console import fields, formats
from credit_service.console.charts import ScorePoint
from credit_service.console.formats import Typed
from credit_service.console.lists import CUSTOMERS
from credit_service.console.page import Page, Problem, form_for_retry, new_request_id
from credit_service.console.rules import component_lines, override_sentence
from credit_service.console.views import lists
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2
from credit_service_client.errors import ServiceError

SHOWN_LOANS = 100
SHOWN_DECISIONS = 20
FIELDS = ("first_name", "last_name", "age", "monthly_income", "phone_number")

_EXAMPLE = pb.RegisterCustomerRequest(
    first_name="Asha",
    last_name="Verma",
    age=34,
    monthly_income=formats.money_of(6_250_000),
    phone_number="+91 70000 12345",
)


def index(page: Page) -> Response:
    """All customers, or those whose name or phone number starts with a text."""
    found = lists.shown(page, CUSTOMERS)
    query = found.filters.text("query")
    return page.render("customers.html", found.status, list=found, query=query)


def registration(page: Page) -> Response:
    """The form to register a customer."""
    values = page.typed_before() or {"request_id": new_request_id()}
    return _registration(page, values, {}, None)


def register(page: Page) -> Response:
    """Register a customer, or show the form again with the problem beside each field."""
    typed = Typed(page.form)
    income = typed.money("monthly_income")
    request = pb.RegisterCustomerRequest(
        request_id=page.request_id(),
        first_name=page.form.get("first_name", ""),
        last_name=page.form.get("last_name", ""),
        age=typed.whole("age", formats.MAX_INT32),
        monthly_income=income,
        phone_number=typed.text("phone_number"),
    )
    try:
        # Also if a field cannot be parsed: it is then missing, and the service reports the problems
        # of all other fields.
        customer = page.service.register(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        violations = [*error.violations]
        if error.reason == "PHONE_NUMBER_TAKEN":
            violations.append(("phone_number", error.message))
        problems = fields.beside(FIELDS, violations, typed.problems)
        return _registration(page, form_for_retry(page.form, error), problems, Problem(error))
    notice = f"Customer {customer.customer_id} is registered."
    return page.redirect(f"/qa/customers/{customer.customer_id}", notice)


def _registration(
    page: Page, values: Any, problems: dict[str, str], problem: Problem | None
) -> Response:
    status = 200
    if problems or problem is not None:
        status = problem.http_status if problem is not None else 400
    return page.render(
        "register.html",
        status,
        values=values,
        problems=problems,
        problem=problem,
        planned=page.planned(_EXAMPLE),
    )


@dataclass(slots=True)
class History:
    """Scores over time and payments from a customer's events, latest payment first."""

    points: list[ScorePoint] = field(default_factory=list)
    changes: list[event_pb2.CreditEvent] = field(default_factory=list)
    payments: list[Any] = field(default_factory=list)
    reversed_ids: set[int] = field(default_factory=set)


def show(page: Page) -> Response:
    """One customer with score, loans, payments and decisions."""
    customer_id = page.path_id("customer_id")
    customer = page.service.customer(customer_id)
    score, score_problem = page.attempt(lambda: page.service.score(customer_id))
    loans_request = pb.ListLoansRequest(
        customer_id=customer_id,
        page_size=SHOWN_LOANS,
        page_token=page.query.get("loans_token", ""),
    )
    loans, loans_problem = page.attempt(lambda: page.service.loans(loans_request))
    decisions_request = pb.ListDecisionsRequest(
        customer_id=customer_id,
        page_size=SHOWN_DECISIONS,
        page_token=page.query.get("decisions_token", ""),
    )
    decisions, decisions_problem = page.attempt(lambda: page.service.decisions(decisions_request))
    offers_request = pb.ListLoanOffersRequest(
        customer_id=customer_id,
        page_size=SHOWN_DECISIONS,
        page_token=page.query.get("offers_token", ""),
    )
    offers, offers_problem = page.attempt(lambda: page.service.offers(offers_request))
    history, history_problem = page.attempt(lambda: _history(page, customer_id))
    changes_request = pb.ListCustomerChangesRequest(
        customer_id=customer_id,
        page_size=SHOWN_DECISIONS,
        page_token=page.query.get("changes_token", ""),
    )
    changes, changes_problem = page.attempt(lambda: page.service.customer_changes(changes_request))
    return page.render(
        "customer.html",
        customer=customer,
        score=score,
        score_problem=score_problem,
        components=component_lines(score) if score else [],
        override=override_sentence(score) if score else "",
        loans=loans,
        loans_problem=loans_problem,
        decisions=decisions,
        decisions_problem=decisions_problem,
        offers=offers,
        offers_problem=offers_problem,
        history=history,
        history_problem=history_problem,
        changes=changes,
        changes_problem=changes_problem,
    )


def _history(page: Page, customer_id: int) -> History:
    history = History()
    events = page.service.history(
        customer_id,
        event_pb2.CREDIT_EVENT_TYPE_SCORE_CHANGED,
        event_pb2.CREDIT_EVENT_TYPE_PAYMENT_RECORDED,
        event_pb2.CREDIT_EVENT_TYPE_PAYMENT_REVERSED,
    )
    for event in events:
        if event.WhichOneof("payload") == "payment_reversed":
            history.reversed_ids.add(event.payment_reversed.payment_id)
            continue
        if event.WhichOneof("payload") == "payment_recorded":
            history.payments.insert(0, event.payment_recorded)
            continue
        score = event.score_changed.credit_score.score
        when = formats.instant(event.time, page.console.zone)
        history.points.append(ScorePoint(event.time.seconds, score, f"{when}: {score}"))
        history.changes.insert(0, event)
    return history

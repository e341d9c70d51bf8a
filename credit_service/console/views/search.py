"""Search by a number, a name or an id."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import grpc
from starlette.responses import RedirectResponse, Response

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.page import Page, Problem, is_request_id
from credit_service.v1 import credit_service_pb2 as pb
from credit_service_client.errors import ServiceError

SHOWN_CUSTOMERS = 10
_SEPARATORS = str.maketrans("", "", " ,-()\u00a0")
_INDIAN_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Match:
    """One match of a number."""

    kind: str
    name: str
    href: str


def find(page: Page) -> Response:
    """Find the customer, loan or decision with a number as id, or phone numbers that start with it.

    A single match is opened directly. Other text is searched in names and phone numbers; a UUID
    opens an ingestion.
    """
    query = page.query.get("query", "").strip()
    if is_request_id(query):
        return RedirectResponse(f"/qa/ingestions/{query}", 303)
    digits = query.translate(_SEPARATORS)
    is_number = digits.isascii() and digits.removeprefix("+").isdigit()
    if is_number and digits.startswith("+"):
        return RedirectResponse("/qa/customers?" + urlencode({"query": digits}), 303)
    if not is_number:
        return RedirectResponse("/qa/customers?" + urlencode({"query": query}), 303)
    matches, problems = _matches(page, digits)
    if len(matches) == 1 and not problems:
        return RedirectResponse(matches[0].href, 303)
    return page.render("search.html", query=query, matches=matches, problems=problems)


def _matches(page: Page, digits: str) -> tuple[list[Match], list[Problem]]:
    number = int(digits[:20])
    lookups: list[Callable[[], list[Match]]] = [lambda: _by_phone(page, digits)]
    if 0 < number <= formats.MAX_INT64 and len(digits) < 20:
        lookups = [
            lambda: [_customer(page.service.customer(number), "Customer")],
            lambda: _loans(page, number),
            lambda: [_decision(page.service.decision(number))],
            *lookups,
        ]
    with ThreadPoolExecutor(len(lookups)) as together:
        answers = [each.result() for each in [together.submit(_found, each) for each in lookups]]
    matches: dict[str, Match] = {}
    for found, _ in answers:
        for match in found:
            matches.setdefault(match.href, match)
    problems = {problem.message: problem for _, problem in answers if problem is not None}
    return list(matches.values()), list(problems.values())


def _found(lookup: Callable[[], list[Match]]) -> tuple[list[Match], Problem | None]:
    """Return the matches of a lookup. A missing record is not a problem."""
    try:
        return lookup(), None
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        if error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return [], None
        return [], Problem(error)


def _customer(customer: Any, kind: str) -> Match:
    name = f"{customer.first_name} {customer.last_name}, {customer.phone_number}"
    return Match(f"{kind} {customer.customer_id}", name, f"/qa/customers/{customer.customer_id}")


def _loans(page: Page, loan_id: int) -> list[Match]:
    try:
        found = page.service.loan(loan_id)
    except ServiceError as error:
        if error.reason != "LOAN_ID_AMBIGUOUS":
            raise
        ids = [each for each in error.metadata.get("customer_ids", "").split(",") if each]
        return [_loan(loan_id, each, f"of customer {each}") for each in ids]
    customer = found.customer
    owner = f"of {customer.first_name} {customer.last_name}, customer {customer.customer_id}"
    return [_loan(loan_id, customer.customer_id, owner)]


def _loan(loan_id: int, customer_id: Any, owner: str) -> Match:
    return Match(f"Loan {loan_id}", owner, f"/qa/customers/{customer_id}/loans/{loan_id}")


def _decision(decision: Any) -> Match:
    outcome = formats.outcome(decision).lower()
    name = f"{display.inr_short(decision.ask.loan_amount)} for customer {decision.customer_id}, "
    address = f"/qa/decisions/{decision.decision_id}"
    return Match(f"Decision {decision.decision_id}", name + outcome, address)


def _by_phone(page: Page, digits: str) -> list[Match]:
    request = pb.ListCustomersRequest(query=_as_stored(digits)[:100], page_size=SHOWN_CUSTOMERS)
    found = page.service.customers(request).customers
    return [_customer(each, "Phone number of customer") for each in found]


def _as_stored(digits: str) -> str:
    """Return the start of a phone number as the service stores it: with its country code, or an
    Indian number without."""
    if digits.startswith("91") and len(digits) == _INDIAN_DIGITS + 2:
        return f"+{digits}"
    if digits.startswith("0") and len(digits) == _INDIAN_DIGITS + 1:
        return digits[1:]
    return digits

"""A customer's credit on an earlier day."""

import grpc
from starlette.responses import Response

from credit_service.client.display import unknown_fact
from credit_service.console import fields
from credit_service.console.formats import Typed
from credit_service.console.page import Page, Problem
from credit_service.console.rules import component_lines, override_sentence
from credit_service_client.errors import ServiceError

_FIELDS = ("as_of",)


def show(page: Page) -> Response:
    """The position and the score at the end of the day in the address, or only the form."""
    customer_id = page.path_id("customer_id")
    typed = Typed(page.query)
    day = typed.day("as_of")
    values = {"as_of": typed.text("as_of")}
    if day is None:
        status = 400 if typed.problems else 200
        customer = page.service.customer(customer_id)
        return page.render(
            "earlier.html",
            status,
            customer=customer,
            values=values,
            problems=fields.beside(_FIELDS, (), typed.problems),
            problem=None,
            score=None,
        )
    try:
        customer = page.service.customer(customer_id, day)
        score = page.service.score(customer_id, day)
    except ServiceError as error:
        problems = fields.beside(_FIELDS, error.violations, {})
        if error.code is grpc.StatusCode.UNAUTHENTICATED or not problems:
            raise
        return page.render(
            "earlier.html",
            Problem(error).http_status,
            customer=page.service.customer(customer_id),
            values=values,
            problems=problems,
            problem=Problem(error),
            score=None,
        )
    return page.render(
        "earlier.html",
        customer=customer,
        values=values,
        problems={},
        problem=None,
        score=score,
        unknown=[unknown_fact(each) for each in customer.as_of.unknown_facts],
        components=component_lines(score),
        override=override_sentence(score),
    )

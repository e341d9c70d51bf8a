"""Key facts statements of offers and loans, to print."""

from starlette.responses import Response

from credit_service.console.page import Page
from credit_service.v1 import credit_service_pb2 as pb


def of_offer(page: Page) -> Response:
    """The statement of an offer."""
    return _show(page, pb.GetKeyFactsStatementRequest(offer_id=page.path_id("offer_id")))


def of_loan(page: Page) -> Response:
    """The statement of a booked loan."""
    request = pb.GetKeyFactsStatementRequest(
        customer_id=page.path_id("customer_id"), loan_id=page.path_id("loan_id")
    )
    return _show(page, request)


def _show(page: Page, request: pb.GetKeyFactsStatementRequest) -> Response:
    return page.render("keyfacts.html", facts=page.service.key_facts(request))

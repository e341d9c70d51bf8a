"""The overdue loans of all customers."""

from starlette.responses import Response

from credit_service.console.lists import OVERDUE
from credit_service.console.page import Page
from credit_service.console.views import lists


def index(page: Page) -> Response:
    """Overdue loans, the longest overdue first; of a class and with least days if chosen."""
    found = lists.shown(page, OVERDUE)
    return page.render("overdue.html", found.status, list=found)

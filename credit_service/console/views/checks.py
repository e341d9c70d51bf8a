"""The QA checklist."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from credit_service.console import checklist
from credit_service.console.page import Page


def index(page: Page) -> Response:
    """All items, none of them run yet."""
    return page.render("checks.html", flows=checklist.FLOWS, results={})


def run(page: Page) -> Response:
    """Runs one item: its line alone for a script, else the whole page with the item's result."""
    item = checklist.ITEMS.get(page.request.path_params["key"])
    if item is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such item.")
    result = checklist.run(item, page.service)
    if page.request.headers.get("x-fragment"):
        return page.render("_check.html", item=item, result=result)
    return page.render("checks.html", flows=checklist.FLOWS, results={item.key: result})

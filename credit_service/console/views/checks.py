"""The QA runner."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from credit_service.console.checklist import runner
from credit_service.console.checklist.bench import Item
from credit_service.console.page import Page


def index(page: Page) -> Response:
    """All checks, none of them run yet."""
    return _page(page, {})


def _page(
    page: Page,
    results: Mapping[str, runner.Result],
    *,
    confirming: Item | None = None,
    status: int = HTTPStatus.OK,
) -> Response:
    return page.render(
        "checks.html",
        status,
        flows=runner.FLOWS,
        results=results,
        confirming=confirming,
        refusal=runner.refusal(page.console.settings, page.session),
    )


def run(page: Page) -> Response:
    """Run one check. Return its line for a script, otherwise the whole page with the result.

    Writes nothing before the user confirms, or if the checklist may not run.
    """
    item = runner.ITEMS.get(page.request.path_params["key"])
    if item is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "This check does not exist.")
    is_fragment = bool(page.request.headers.get("x-fragment"))
    refusal = runner.refusal(page.console.settings, page.session)
    if refusal:
        raise HTTPException(HTTPStatus.FORBIDDEN, refusal)
    if page.form.get("confirmed") != "yes":
        if is_fragment:
            raise HTTPException(HTTPStatus.CONFLICT, "Confirm first that the checks may write.")
        return _page(page, {}, confirming=item, status=HTTPStatus.CONFLICT)
    result = runner.run(item, page.service)
    if is_fragment:
        return page.render("_check.html", item=item, result=result, refusal="")
    return _page(page, {item.key: result})

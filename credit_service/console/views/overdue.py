"""The overdue loans of all customers."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from credit_service.client import display
from credit_service.console.page import Page
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2

PAGE_SIZE = 50
_CLASSES: Mapping[str, Any] = {
    display.enum_name(number, decision_pb2.AssetClass): number
    for number in decision_pb2.AssetClass.values()
    if number > decision_pb2.ASSET_CLASS_STANDARD
}
_MAX_DAYS = 36_600


def index(page: Page) -> Response:
    """Overdue loans, the longest overdue first; of a class and with least days if chosen."""
    asset_class = page.query.get("class", "")
    if asset_class not in _CLASSES:
        asset_class = ""
    typed = page.query.get("days", "")
    days = min(int(typed), _MAX_DAYS) if typed.isascii() and typed.isdigit() else 1
    request = pb.ListDelinquentLoansRequest(
        asset_class=_CLASSES.get(asset_class, decision_pb2.ASSET_CLASS_UNSPECIFIED),
        min_days_past_due=days,
        page_size=PAGE_SIZE,
        page_token=page.query.get("page_token", ""),
    )
    found = page.service.overdue_loans(request)
    filters = {"class": asset_class, "days": days}
    token = found.next_page_token
    return page.render(
        "overdue.html",
        loans=found.loans,
        as_of=found.as_of,
        asset_class=asset_class,
        classes=list(_CLASSES),
        days=days,
        first_href="/qa/overdue?" + urlencode(filters),
        next_href="/qa/overdue?" + urlencode({**filters, "page_token": token}) if token else "",
        first_page=not request.page_token,
    )

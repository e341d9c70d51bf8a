"""The queue of referred decisions, and their review."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import grpc
from starlette.responses import Response

from credit_service.client import display
from credit_service.console import fields, formats
from credit_service.console.page import Page, Problem, form_for_retry
from credit_service.console.views import decisions
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import referral_pb2
from credit_service_client.errors import ServiceError

PAGE_SIZE = 50
_NO_VERDICT = referral_pb2.REVIEW_VERDICT_UNSPECIFIED
_STATES: Mapping[str, Any] = {
    display.enum_name(number, referral_pb2.ReferralState): number
    for number in referral_pb2.ReferralState.values()
    if number
}
_VERDICTS: Mapping[str, Any] = {
    "approve": referral_pb2.REVIEW_VERDICT_APPROVE,
    "decline": referral_pb2.REVIEW_VERDICT_DECLINE,
}


def index(page: Page) -> Response:
    """The referrals in a state, those that wait for a review by default, latest first."""
    state = page.query.get("state", "")
    if state not in _STATES:
        state = "PENDING"
    request = pb.ListDecisionsRequest(
        referral_state=_STATES[state],
        page_size=PAGE_SIZE,
        page_token=page.query.get("page_token", ""),
    )
    found = page.service.decisions(request)
    token = found.next_page_token
    return page.render(
        "referrals.html",
        decisions=found.decisions,
        state=state,
        states=list(_STATES),
        next_href="/qa/referrals?" + urlencode({"state": state, "page_token": token})
        if token
        else "",
        first_page=not request.page_token,
    )


def review(page: Page) -> Response:
    """Approve or decline a referred request."""
    decision_id = page.path_id("decision_id")
    request = pb.ReviewDecisionRequest(
        request_id=page.request_id(),
        decision_id=decision_id,
        verdict=_VERDICTS.get(page.form.get("verdict", ""), _NO_VERDICT),
        reason=page.form.get("reason", ""),
    )
    try:
        reviewed = page.service.review(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        problems = fields.beside(("reason",), error.violations, {})
        return decisions.show_again(
            page, form_for_retry(page.form, error), problems, Problem(error)
        )
    new = reviewed.decision
    if new.decision_id == decision_id:
        return page.redirect(f"/qa/decisions/{decision_id}", "The request is declined.")
    outcome = formats.outcome(new).lower()
    notice = f"Decision {new.decision_id} was made again, and is {outcome}."
    return page.redirect(f"/qa/decisions/{new.decision_id}", notice)

"""The queue of referred decisions, and their review."""

from collections.abc import Mapping
from typing import Any

import grpc
from starlette.responses import Response

from credit_service.console import fields, formats
from credit_service.console.lists import REFERRALS
from credit_service.console.page import Page, Problem, form_for_retry
from credit_service.console.views import decisions, lists
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import referral_pb2
from credit_service_client.errors import ServiceError

_NO_VERDICT = referral_pb2.REVIEW_VERDICT_UNSPECIFIED
_VERDICTS: Mapping[str, Any] = {
    "approve": referral_pb2.REVIEW_VERDICT_APPROVE,
    "decline": referral_pb2.REVIEW_VERDICT_DECLINE,
}


def index(page: Page) -> Response:
    """The referrals in a state, those that wait for a review by default, latest first."""
    found = lists.shown(page, REFERRALS)
    state = found.filters.text("state")
    return page.render("referrals.html", found.status, list=found, state=state)


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

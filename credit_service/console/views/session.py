"""Signing in with a bearer token, and out."""

from starlette.responses import RedirectResponse, Response

from credit_service.client.channel import ServiceError
from credit_service.console.page import Page, Problem, is_secure
from credit_service.console.security import MAX_TOKEN_CHARACTERS, is_page_of_ours
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb

_REASONS = {
    "needed": "The service requires a token.",
    "expired": "Your token is no longer valid. Sign in with a new one.",
}


def form(page: Page) -> Response:
    """The form for the token."""
    return page.render(
        "login.html",
        reason=_REASONS.get(page.query.get("reason", ""), ""),
        problems={},
        problem=None,
        next=page.typed_before().get("next") or page.query.get("next", ""),
    )


def sign_in(page: Page) -> Response:
    """Keeps the token, once the service has accepted it."""
    target = page.form.get("next", "")
    token = "".join(page.form.get("token", "").split()).removeprefix("Bearer")
    wrong = ""
    problem: Problem | None = None
    if not token:
        wrong = "This field is required."
    elif not token.isascii() or not token.isprintable():
        wrong = "This is not a token: it contains invalid characters."
    elif len(token) > MAX_TOKEN_CHARACTERS:
        wrong = f"This token is longer than {MAX_TOKEN_CHARACTERS:,} characters."
    else:
        problem = _refusal(page, token)
    if wrong or problem is not None:
        problems = {"token": wrong} if wrong else {}
        return page.render(
            "login.html", 400, reason="", problems=problems, problem=problem, next=target
        )
    response = RedirectResponse(target if is_page_of_ours(target) else "/qa/", 303)
    sessions = page.console.sessions
    # A new session: one that was there before must not become that of a person.
    sessions.end(page.session)
    sessions.write(response, sessions.begin(token), secure=is_secure(page.request))
    return response


def _refusal(page: Page, token: str) -> Problem | None:
    """Why the service rejects the token; a missing scope is no reason to reject it here."""
    try:
        service = Service(page.console.channel, token)
        service.decisions(pb.ListDecisionsRequest(page_size=1))
    except ServiceError as error:
        return None if error.code.name == "PERMISSION_DENIED" else Problem(error)
    return None


def sign_out(page: Page) -> Response:
    """Ends the session and forgets the token."""
    response = RedirectResponse("/qa/login", 303)
    sessions = page.console.sessions
    sessions.end(page.session)
    sessions.write(response, sessions.begin(), secure=is_secure(page.request))
    page.console.drafts.forget(sessions.draft_id(page.request))
    sessions.clear_draft(response)
    return response

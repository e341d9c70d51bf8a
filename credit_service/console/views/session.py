"""Sign-in with a bearer token, and sign-out."""

from starlette.responses import RedirectResponse, Response

from credit_service.console.page import Page, Problem, is_secure
from credit_service.console.security import MAX_TOKEN_CHARACTERS, is_own_page
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb
from credit_service_client.errors import ServiceError

_REASONS = {
    "needed": "The service requires a token.",
    "expired": "Your token is no longer valid. Sign in with a new one.",
}


def form(page: Page) -> Response:
    """The sign-in form."""
    return page.render(
        "login.html",
        reason=_REASONS.get(page.query.get("reason", ""), ""),
        problems={},
        problem=None,
        next=page.typed_before().get("next") or page.query.get("next", ""),
    )


def sign_in(page: Page) -> Response:
    """Sign in with the token if the service accepts it."""
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
        problem = _rejection(page, token)
    if wrong or problem is not None:
        problems = {"token": wrong} if wrong else {}
        return page.render(
            "login.html", 400, reason="", problems=problems, problem=problem, next=target
        )
    response = RedirectResponse(target if is_own_page(target) else "/qa/", 303)
    sessions = page.console.sessions
    # A new session id: one from before the sign-in must not become signed in (session fixation).
    sessions.end(page.session)
    sessions.write(response, sessions.begin(token), secure=is_secure(page.request))
    return response


def _rejection(page: Page, token: str) -> Problem | None:
    """Return why the service rejects the token, or None. A missing scope is no rejection."""
    try:
        service = Service(page.console.channel, token)
        service.decisions(pb.ListDecisionsRequest(page_size=1))
    except ServiceError as error:
        return None if error.code.name == "PERMISSION_DENIED" else Problem(error)
    return None


def sign_out(page: Page) -> Response:
    """End the session and delete the token."""
    response = RedirectResponse("/qa/login", 303)
    sessions = page.console.sessions
    sessions.end(page.session)
    sessions.write(response, sessions.begin(), secure=is_secure(page.request))
    page.console.drafts.forget(sessions.draft_id(page.request))
    sessions.clear_draft(response)
    return response

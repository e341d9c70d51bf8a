"""Shared by all pages: session, service with the user's token, rendering, and failures.

A view is a plain function from `Page` to a response. It runs on a thread of a bounded pool, because
its gRPC calls block. A failed call becomes a page that says what to do.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import grpc
import jinja2
import structlog
from google.protobuf.message import Message
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from credit_service.console import confirming, fields, formats
from credit_service.console.addresses import form_page
from credit_service.console.backtests import Backtests
from credit_service.console.calls import Call, Snippets, full_method, request_json
from credit_service.console.confirming import ConfirmationRequiredError
from credit_service.console.feed import Feeds
from credit_service.console.security import (
    SESSION_COOKIE,
    Drafts,
    Session,
    Sessions,
    is_cross_origin,
)
from credit_service.console.service import Service
from credit_service.settings import Settings
from credit_service_client.errors import ServiceError

_log = structlog.get_logger(__name__)

MAX_FIELDS = 40
MAX_FIELD_BYTES = 80 * 1024
"""A scorecard's document has at most 64 KiB, and browsers send two characters per line end."""

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}

_ADVICE = {
    grpc.StatusCode.NOT_FOUND: "Check the id. It may belong to another environment.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "The service is slow or stuck. Reload this page in a "
    "moment.",
    grpc.StatusCode.PERMISSION_DENIED: "Your token lacks the scope named above. Sign in with a "
    "token that has it.",
    grpc.StatusCode.UNIMPLEMENTED: "The server is older than this console. Everything else on the "
    "console works.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The service is busy. Try again in a moment.",
    grpc.StatusCode.ABORTED: "A concurrent request changed the same data. Try again: the request "
    "id makes it safe.",
    grpc.StatusCode.INTERNAL: "This is a bug in the service. Its log has the details under the "
    "call id.",
}
_UNREACHABLE_ADVICE = (
    "Start it with `credit-service up`, or wait until it is back, then reload this page. If the "
    "service uses TLS, set CREDIT_SERVER_CA for the console."
)
_UNAVAILABLE_ADVICE = "Wait a moment, then reload this page."

_SENTENCES = {
    grpc.StatusCode.UNAVAILABLE: "The service does not respond.",
    grpc.StatusCode.CANCELLED: "The service ended the call.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "The service did not respond in time.",
    grpc.StatusCode.UNIMPLEMENTED: "The service does not support this call.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The service rejected the call, or its response is too "
    "large.",
}
"""Messages for failures that do not come from the service, by status."""


@dataclass(frozen=True)
class Console:
    """Objects with the lifetime of the console."""

    settings: Settings
    channel: grpc.Channel
    sessions: Sessions
    drafts: Drafts
    backtests: Backtests
    feeds: Feeds
    templates: jinja2.Environment
    snippets: Snippets
    zone: ZoneInfo

    @property
    def is_production(self) -> bool:
        """Whether each write needs one more confirmation."""
        return self.settings.console_environment.strip().lower() == "production"


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed call for display."""

    error: ServiceError

    @property
    def code(self) -> str:
        return self.error.code.name

    @property
    def message(self) -> str:
        """What happened. Messages of gRPC itself appear only in the log."""
        if self.error.reason:
            return fields.in_words(self.error.message)
        return _SENTENCES.get(self.error.code, "The call to the service failed.")

    @property
    def violations(self) -> list[str]:
        """One sentence per invalid field, which starts with the field's label."""
        return [fields.sentence(path, text) for path, text in self.error.violations]

    @property
    def sentences(self) -> list[str]:
        """Message, violations and advice as plain sentences."""
        return [self.message, *self.violations, *([self.advice] if self.advice else [])]

    @property
    def advice(self) -> str:
        """What to do next, or '' if the message is enough."""
        if self.error.code is grpc.StatusCode.UNAVAILABLE:
            return _UNAVAILABLE_ADVICE if self.error.reason else _UNREACHABLE_ADVICE
        return _ADVICE.get(self.error.code, "")

    @property
    def http_status(self) -> int:
        return _HTTP_STATUS.get(self.error.code, HTTPStatus.BAD_GATEWAY)


class StaleFormError(Exception):
    """The form must not be sent as it is. Its page is shown again with the typed values."""


_STALE = (
    "This form is from an earlier session. Nothing was sent. Check the fields and send it again."
)
_BACK = "Nothing was sent. Your values are still here."
_RESTORED = "You are signed in again. Nothing was sent yet. Check the fields and send the form."


@dataclass
class Page:
    """One request, and everything needed to answer it."""

    console: Console
    request: Request
    session: Session
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, UploadFile] = field(default_factory=dict)
    stale_status: int = 0
    """The HTTP status of a page that shows a form again, because it was not sent."""
    is_back: bool = False
    """Whether the user returned to the form instead of confirming it."""
    _draft_id: str = ""

    def __post_init__(self) -> None:
        guard: list[Any] = [self._guard] if self.console.is_production else []
        self.service = Service(self.console.channel, self.session.token, *guard)
        self.flash = self.console.sessions.read_flash(self.request)

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters."""
        return self.request.query_params

    @property
    def here(self) -> str:
        """This page's path and query."""
        url = self.request.url
        return f"{url.path}?{url.query}" if url.query else url.path

    @property
    def wants_json(self) -> bool:
        """Whether the console's script sent this form."""
        return self.request.headers.get("accept") == "application/json"

    def typed_before(self) -> dict[str, str]:
        """Return the values typed into this page's form before it could be sent, or {}.

        A form that is shown again keeps its request id, so that sending it twice has one effect.
        """
        if self.stale_status or self.is_back:
            values = confirming.typed(self.form)
        else:
            draft_id = self.console.sessions.draft_id(self.request)
            path = self.request.url.path
            values = self.console.drafts.read(draft_id, path, self.session.subject)
            if values:
                self._draft_id = draft_id
        if values and not is_request_id(values.get("request_id", "")):
            values["request_id"] = new_request_id()
        return values

    def request_id(self) -> str:
        """Return the form's request id. Raises StaleFormError if it has none."""
        text = self.form.get("request_id", "").strip()
        if not is_request_id(text):
            raise StaleFormError
        return text

    def path_id(self, name: str) -> int:
        """Return an id of 1 or more from the path. Raises HTTPException (404) otherwise."""
        text = str(self.request.path_params[name])
        if not (text.isascii() and text.isdigit()) or not 0 < int(text[:20]) <= formats.MAX_INT64:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"“{text[:40]}” is not an id.")
        return int(text)

    def path_uuid(self, name: str) -> str:
        """Return a UUID from the path. Raises HTTPException (404) otherwise."""
        text = str(self.request.path_params[name])
        try:
            return str(UUID(text))
        except ValueError:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"“{text[:40]}” is not an id.") from None

    def render(self, template: str, /, status: int = HTTPStatus.OK, **values: Any) -> Response:
        """Return a whole page, or a fragment if the template's name starts with '_'."""
        console = self.console
        notice, warning = self.flash.get("notice", ""), ""
        if self.stale_status:
            status, warning = self.stale_status, _STALE
        elif self.is_back:
            notice = _BACK
        elif self._draft_id:
            notice = _RESTORED
        carried = [Call(**each) for each in self.flash.get("calls", ())]
        html = console.templates.get_template(template).render(
            page=self,
            csrf_token=console.sessions.csrf_token(self.session),
            signed_in=bool(self.session.token),
            environment=console.settings.console_environment.strip(),
            is_production=console.is_production,
            notice=notice,
            warning=warning,
            calls=[*carried, *self.service.calls],
            server_address=console.settings.server_address,
            path=self.request.url.path,
            **values,
        )
        response = HTMLResponse(html, status_code=status)
        if self.flash and not template.startswith("_"):
            console.sessions.clear_flash(response)
        if self._draft_id:
            console.drafts.forget(self._draft_id)
            console.sessions.clear_draft(response)
        return response

    def render_problem(self, error: ServiceError) -> Response:
        """Return the page that says what failed and what to do."""
        _log.info("call_failed", code=error.code.name, reason=error.reason, message=error.message)
        self._draft_id = ""  # the draft was not shown
        problem = Problem(error)
        return self.render("error.html", problem.http_status, problem=problem)

    def redirect(self, path: str, notice: str = "") -> Response:
        """Redirect to another page, which shows the notice and the calls of this one."""
        response = RedirectResponse(path, HTTPStatus.SEE_OTHER)
        calls = [
            {
                "method": each.method,
                "request_json": each.request_json,
                "status": each.status,
                "milliseconds": each.milliseconds,
            }
            for each in self.service.calls
        ]
        if notice or calls:
            self.console.sessions.write_flash(
                response, {"notice": notice, "calls": calls}, secure=is_secure(self.request)
            )
        return response

    def _guard(self, requests: Sequence[Message]) -> None:
        """Raise ConfirmationRequiredError for a write that the form does not confirm."""
        # The CSRF token is a secret of the session that no other session can compute.
        key = self.console.sessions.csrf_token(self.session).encode()
        confirming.Guard(self.form, key)(requests)

    def render_confirmation(self, error: ConfirmationRequiredError) -> Response:
        """Return the page that asks to confirm a write, with all values of the form."""
        if self.files:
            sentence = "Tick the box that confirms the change of production. Nothing was sent."
            if self.wants_json:
                return JSONResponse({"problems": [sentence]}, HTTPStatus.CONFLICT)
            raise HTTPException(HTTPStatus.CONFLICT, sentence)
        kept = confirming.typed(self.form)
        kept[confirming.FIELD] = f"{self.form.get(confirming.FIELD, '')} {error.code}".strip()
        return self.render(
            "confirmation.html",
            HTTPStatus.CONFLICT,
            method=confirming.method_of(error.requests[0]),
            lines=confirming.lines(error.requests, self.console.zone),
            kept=kept,
            back_field=confirming.BACK_FIELD,
        )

    def attempt(self, call: Callable[[], Any]) -> tuple[Any, Problem | None]:
        """Return the call's result or its problem, for a part of a page that can fail separately.

        Raises ServiceError if the user must sign in, because that affects the whole page.
        """
        try:
            return call(), None
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                raise
            _log.info(
                "call_failed", code=error.code.name, reason=error.reason, message=error.message
            )
            return None, Problem(error)

    def planned(self, request: Any) -> Call:
        """Return a call that the page's form will make, for display."""
        return Call(full_method(request), request_json(request))


View = Callable[[Page], Response]


def view(
    function: View, console: Console, form: View | None = None, max_fields: int | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return a view as a Starlette endpoint, with session, form, thread pool and failures.

    `form` is the view that shows the form of `function` again if it cannot be sent. `max_fields` is
    the most fields that a form can have, MAX_FIELDS by default.
    """

    @functools.wraps(function)
    async def endpoint(request: Request) -> Response:
        session = console.sessions.read(request)
        known = session
        if session is None:
            if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
                return _reload_from_own_page(request)
            session = console.sessions.begin()
        page = Page(console, request, session)
        if request.method == "POST":
            if is_cross_origin(request):
                raise HTTPException(HTTPStatus.FORBIDDEN, "This form came from another site.")
            response = await _posted(function, form, page, known, max_fields or MAX_FIELDS)
        else:
            response = await run_in_threadpool(_answered, function, page)
        cookies = response.headers.getlist("set-cookie")
        if known is None and not any(each.startswith(f"{SESSION_COOKIE}=") for each in cookies):
            console.sessions.write(response, session, secure=is_secure(request))
        return response

    return endpoint


async def _posted(
    function: View,
    form_view: View | None,
    page: Page,
    known: Session | None,
    max_fields: int,
) -> Response:
    request = page.request
    async with request.form(
        max_files=1, max_fields=max_fields, max_part_size=MAX_FIELD_BYTES
    ) as form:
        page.form = {name: value for name, value in form.items() if isinstance(value, str)}
        page.files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
        token = page.form.get("csrf_token", "")
        if not page.console.sessions.is_csrf_token(known, token):
            page.stale_status = HTTPStatus.FORBIDDEN
            return await run_in_threadpool(_shown_again, form_view, page)
        if confirming.BACK_FIELD in page.form and form_view is not None:
            page.is_back = True
            return await run_in_threadpool(_answered, form_view, page)
        try:
            return await run_in_threadpool(_answered, function, page)
        except StaleFormError:
            page.stale_status = HTTPStatus.BAD_REQUEST
            return await run_in_threadpool(_shown_again, form_view, page)


def _shown_again(form_view: View | None, page: Page) -> Response:
    """Show the form with the typed values and a valid CSRF token. Nothing of it was sent."""
    if page.wants_json:
        token = page.console.sessions.csrf_token(page.session)
        return JSONResponse({"problems": [_STALE], "csrf_token": token}, page.stale_status)
    if form_view is None or page.request.headers.get("x-fragment"):
        raise HTTPException(page.stale_status, "This page is from an earlier session. Reload it.")
    return _answered(form_view, page)


def _answered(function: View, page: Page) -> Response:
    try:
        return function(page)
    except (HTTPException, StaleFormError):
        raise
    except ConfirmationRequiredError as error:
        return page.render_confirmation(error)
    except ServiceError as error:
        if error.code is not grpc.StatusCode.UNAUTHENTICATED:
            return page.render_problem(error)
        return _sign_in_first(page, error)
    except Exception as error:
        _log.exception("page_failed", path=page.request.url.path)
        raise HTTPException(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "This page has a bug. See the console's log for details.",
        ) from error


def _sign_in_first(page: Page, error: ServiceError) -> Response:
    """Redirect to the sign-in page and from there back. Keep the typed values in a draft."""
    target = _form_address(page)
    reason = "expired" if page.session.token else "needed"
    address = f"/qa/login?{urlencode({'next': target, 'reason': reason})}"
    if page.wants_json:
        sentence = "Your session has ended. Sign in again, then send the file again."
        document = {"problems": [sentence], "sign_in": address}
        return JSONResponse(document, HTTPStatus.UNAUTHORIZED)
    if page.request.headers.get("x-fragment"):
        return page.render("_problem.html", problem=Problem(error), sign_in=address)
    response = RedirectResponse(address, HTTPStatus.SEE_OTHER)
    if page.request.method == "POST":
        draft_id = page.console.drafts.keep(target, page.form, page.session.subject)
        secure = is_secure(page.request)
        page.console.sessions.write_draft_id(response, draft_id, secure=secure)
    return response


def _form_address(page: Page) -> str:
    """Return the address of the page with the form that was sent, or of this page."""
    target = form_page(page.request.url.path)
    if page.request.method == "GET" and page.request.url.query:
        target += f"?{page.request.url.query}"
    elif target == "/qa/apply/review" or target.endswith("/prepay/review"):
        # The address of this page contains the terms by design, so that it can be reloaded.
        target += f"?{urlencode(confirming.typed(page.form))}"
    return target


def _reload_from_own_page(request: Request) -> Response:
    """Make the browser repeat the request itself. A link from another site carries no SameSite
    cookie, and treating it as a new session would sign the user out."""
    path = quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
    return HTMLResponse(
        "<!doctype html><title>Credit console</title>", headers={"refresh": f"0; url={path}"}
    )


def is_secure(request: Request) -> bool:
    """Return whether the browser used HTTPS."""
    return request.url.scheme == "https"


def is_request_id(text: str) -> bool:
    """Return whether a text is a UUID that can identify a request: neither nil nor max."""
    try:
        found = UUID(text)
    except ValueError:
        return False
    return 0 < found.int < 2**128 - 1


def form_for_retry(form: Mapping[str, str], error: ServiceError) -> dict[str, str]:
    """Return the form for a retry after an error, with the same request id, so that nothing is done
    twice. If the service has stored the id with other content, the form gets a new id."""
    if error.reason == "REQUEST_ID_REUSED":
        return {**form, "request_id": new_request_id()}
    return dict(form)


EXAMPLE_REQUEST_ID = "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20"
"""The request id of a call that is shown before it is made."""


def new_request_id() -> str:
    """Return a new request id for one intent of the user."""
    return str(uuid4())

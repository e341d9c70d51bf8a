"""What every page shares: who asks, the service under their token, rendering, and failures.

A view is a plain function from `Page` to a response. It runs on a worker thread, of which there is
a bounded number, because the calls of gRPC it makes wait. Whatever call fails in it becomes a page
that a person can act on.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import grpc
import jinja2
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from credit_service.client.channel import ServiceError
from credit_service.console import formats
from credit_service.console.calls import Call, Snippets, full_method, request_json
from credit_service.console.feed import Feeds
from credit_service.console.security import SESSION_COOKIE, Session, Sessions, is_from_elsewhere
from credit_service.console.service import Service
from credit_service.settings import Settings

_log = structlog.get_logger(__name__)

MAX_FIELDS = 40
MAX_FIELD_BYTES = 16 * 1024

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
    grpc.StatusCode.UNAVAILABLE: "Start the service with `credit-service up`, or wait until it is "
    "back, and load this page again.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "The service is slow or stuck. Load this page again in a "
    "moment.",
    grpc.StatusCode.PERMISSION_DENIED: "The token you signed in with lacks the scope named above. "
    "Sign in with one that has it.",
    grpc.StatusCode.UNIMPLEMENTED: "The server is older than this console. Everything else on the "
    "console works.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The service is busy. Try again in a moment.",
    grpc.StatusCode.ABORTED: "Somebody else was at it. Try again: the request id keeps it safe.",
    grpc.StatusCode.INTERNAL: "This is a defect of the service. Its log has the details under the "
    "call id.",
}


@dataclass(frozen=True)
class Console:
    """What lives as long as the console does."""

    settings: Settings
    channel: grpc.Channel
    sessions: Sessions
    feeds: Feeds
    templates: jinja2.Environment
    snippets: Snippets
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed call, ready to be shown."""

    error: ServiceError

    @property
    def code(self) -> str:
        return self.error.code.name

    @property
    def advice(self) -> str:
        """What to do about it; empty when the message says it all."""
        return _ADVICE.get(self.error.code, "")

    @property
    def http_status(self) -> int:
        return _HTTP_STATUS.get(self.error.code, HTTPStatus.BAD_GATEWAY)


@dataclass
class Page:
    """One request and all that answering it needs."""

    console: Console
    request: Request
    session: Session
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, UploadFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.service = Service(self.console.channel, self.session.token)
        self.flash = self.console.sessions.read_flash(self.request)

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the address."""
        return self.request.query_params

    @property
    def here(self) -> str:
        """This page's path and parameters."""
        url = self.request.url
        return f"{url.path}?{url.query}" if url.query else url.path

    def path_id(self, name: str) -> int:
        """An id of 1 or more from the path. Raises HTTPException (404) for anything else."""
        text = str(self.request.path_params[name])
        if not (text.isascii() and text.isdigit()) or not 0 < int(text[:20]) <= formats.MAX_INT64:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"“{text[:40]}” is not an id.")
        return int(text)

    def path_uuid(self, name: str) -> str:
        """A UUID from the path. Raises HTTPException (404) for anything else."""
        text = str(self.request.path_params[name])
        try:
            return str(UUID(text))
        except ValueError:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"“{text[:40]}” is not an id.") from None

    def render(self, template: str, /, status: int = HTTPStatus.OK, **values: Any) -> Response:
        """A whole page, or a fragment when the template's name begins with '_'."""
        console = self.console
        carried = [Call(**each) for each in self.flash.get("calls", ())]
        html = console.templates.get_template(template).render(
            page=self,
            csrf_token=console.sessions.csrf_token(self.session),
            signed_in=bool(self.session.token),
            notice=self.flash.get("notice", ""),
            calls=[*carried, *self.service.calls],
            server_address=console.settings.server_address,
            path=self.request.url.path,
            **values,
        )
        response = HTMLResponse(html, status_code=status)
        if self.flash and not template.startswith("_"):
            console.sessions.clear_flash(response)
        return response

    def render_problem(self, error: ServiceError) -> Response:
        """The page that says what failed and what to do."""
        problem = Problem(error)
        return self.render("error.html", problem.http_status, problem=problem)

    def redirect(self, path: str, notice: str = "") -> Response:
        """Go on to another page, which shows the notice and the calls that led there."""
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

    def attempt(self, call: Callable[[], Any]) -> tuple[Any, Problem | None]:
        """The call's result, or what failed, for a part of a page that may fail by itself.

        Raises ServiceError when nobody is signed in: then all of the page has to wait.
        """
        try:
            return call(), None
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                raise
            return None, Problem(error)

    def planned(self, request: Any) -> Call:
        """A call that the page's form will make, for showing."""
        return Call(full_method(request), request_json(request))


View = Callable[[Page], Response]


def view(function: View, console: Console) -> Callable[[Request], Awaitable[Response]]:
    """A view as an endpoint of Starlette: session, form, worker thread, failures."""

    @functools.wraps(function)
    async def endpoint(request: Request) -> Response:
        session = console.sessions.read(request)
        known = session
        if session is None:
            if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
                return _once_more(request)
            session = console.sessions.begin()
        if request.method == "POST":
            if is_from_elsewhere(request):
                raise HTTPException(HTTPStatus.FORBIDDEN, "This form came from another site.")
            response = await _posted(function, Page(console, request, session), known)
        else:
            response = await run_in_threadpool(_answered, function, Page(console, request, session))
        cookies = response.headers.getlist("set-cookie")
        if known is None and not any(each.startswith(f"{SESSION_COOKIE}=") for each in cookies):
            console.sessions.write(response, session, secure=is_secure(request))
        return response

    return endpoint


async def _posted(function: View, page: Page, known: Session | None) -> Response:
    request = page.request
    async with request.form(
        max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    ) as form:
        page.form = {name: value for name, value in form.items() if isinstance(value, str)}
        page.files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
        token = page.form.get("csrf_token", "")
        if not page.console.sessions.is_csrf_token(known, token):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "This form is from an earlier session. Go back, load its page again and send it "
                "once more.",
            )
        return await run_in_threadpool(_answered, function, page)


def _answered(function: View, page: Page) -> Response:
    try:
        return function(page)
    except HTTPException:
        raise
    except ServiceError as error:
        if error.code is not grpc.StatusCode.UNAUTHENTICATED:
            return page.render_problem(error)
        if page.request.headers.get("x-fragment"):
            return page.render("_problem.html", problem=Problem(error))
        path = page.here if page.request.method == "GET" else page.request.url.path
        reason = "expired" if page.session.token else "needed"
        return RedirectResponse(
            f"/qa/login?{urlencode({'next': path, 'reason': reason})}", HTTPStatus.SEE_OTHER
        )
    except Exception as error:
        _log.exception("page_failed", path=page.request.url.path)
        raise HTTPException(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "This page has a defect. The console's log says more.",
        ) from error


def _once_more(request: Request) -> Response:
    """Have the browser ask again by itself: a link from another site brings no SameSite cookie,
    and answering it as a stranger's would sign the person out."""
    path = quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
    return HTMLResponse(
        "<!doctype html><title>Credit console</title>", headers={"refresh": f"0; url={path}"}
    )


def is_secure(request: Request) -> bool:
    """Whether the browser reached this page by HTTPS."""
    return request.url.scheme == "https"


def new_request_id() -> str:
    """A request id for one intent of a person."""
    return str(uuid4())

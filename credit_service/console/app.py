"""The console as an ASGI application, and its server."""

import asyncio
import hashlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from credit_service.client import display
from credit_service.client.channel import open_channel
from credit_service.console import charts, fields, formats, lists
from credit_service.console.addresses import form_page
from credit_service.console.backtests import Backtests
from credit_service.console.calls import Snippets
from credit_service.console.feed import Feeds
from credit_service.console.http_limits import LimitedH11Protocol
from credit_service.console.page import Console, Page, View, view
from credit_service.console.security import Drafts, Guard, Sessions
from credit_service.console.views import (
    as_of,
    asks,
    backtests,
    changes,
    checks,
    customers,
    dashboard,
    decisions,
    ingestions,
    keyfacts,
    lending,
    loans,
    methods,
    offers,
    overdue,
    parked_tasks,
    payments,
    referrals,
    scorecards,
    search,
    session,
    undo,
)
from credit_service.console.views import lists as listings
from credit_service.rupees import format_inr, group_digits
from credit_service.settings import Settings
from credit_service.v1 import (
    decision_pb2,
    ingestion_pb2,
    loan_pb2,
    offer_pb2,
    referral_pb2,
    scorecard_pb2,
)
from credit_service_client.channel import is_loopback

_HERE = Path(__file__).parent
_FORM_BYTES = 1024 * 1024
"""Maximum size of a form's fields, in addition to a file."""

_STOP_SECONDS = 5

_LOAN = "/qa/customers/{customer_id}/loans/{loan_id}"
_METHOD = "/qa/methods/{service}/{method}"
_PAYMENT = f"{_LOAN}/payments/{{payment_id}}"

_PAGES: tuple[tuple[str, str, View], ...] = (
    ("GET", "/qa/", dashboard.home),
    ("GET", "/qa/overview", dashboard.overview),
    ("GET", "/qa/search", search.find),
    ("GET", "/qa/customers", customers.index),
    ("GET", "/qa/customers/new", customers.registration),
    ("POST", "/qa/customers/new", customers.register),
    ("GET", "/qa/customers/{customer_id}", customers.show),
    ("GET", "/qa/customers/{customer_id}/edit", changes.form),
    ("POST", "/qa/customers/{customer_id}/edit", changes.change),
    ("GET", "/qa/customers/{customer_id}/as-of", as_of.show),
    ("GET", "/qa/customers/{customer_id}/loans/{loan_id}", loans.show),
    ("POST", "/qa/customers/{customer_id}/loans/{loan_id}/pay", loans.pay),
    ("GET", "/qa/customers/{customer_id}/loans/{loan_id}/schedule.csv", loans.schedule_csv),
    ("GET", "/qa/customers/{customer_id}/loans/{loan_id}/key-facts", keyfacts.of_loan),
    ("GET", f"{_PAYMENT}/reverse", payments.reversal),
    ("POST", f"{_PAYMENT}/reverse", payments.reverse),
    ("GET", f"{_LOAN}/prepay", payments.prepayment),
    ("GET", f"{_LOAN}/prepay/review", payments.preview),
    ("POST", f"{_LOAN}/prepay/review", payments.prepay),
    ("GET", f"{_LOAN}/foreclose", payments.quote),
    ("POST", f"{_LOAN}/foreclose", payments.foreclose),
    ("GET", "/qa/loans/{loan_id}", loans.find),
    ("GET", "/qa/eligibility", lending.simulator),
    ("GET", "/qa/eligibility/answer", lending.simulate),
    ("GET", "/qa/asks", asks.form),
    ("POST", "/qa/asks", asks.answer),
    ("GET", "/qa/apply", lending.application),
    ("GET", "/qa/apply/review", lending.review),
    ("POST", "/qa/apply/review", lending.apply),
    ("GET", "/qa/decisions", decisions.index),
    ("GET", "/qa/decisions/{decision_id}", decisions.show),
    ("GET", "/qa/referrals", referrals.index),
    ("GET", "/qa/overdue", overdue.index),
    ("POST", "/qa/decisions/{decision_id}/review", referrals.review),
    ("GET", "/qa/exports/{file}", listings.export),
    *(
        ("GET", each.path, listings.index_of(each))
        for each in (lists.LOANS, lists.OFFERS, lists.PAYMENTS, lists.CHANGES)
    ),
    ("GET", lists.ROW_ERRORS.path, listings.index_of(lists.ROW_ERRORS)),
    ("GET", lists.EVENTS.path, listings.index_of(lists.EVENTS)),
    ("GET", "/qa/offers/{offer_id}", offers.show),
    ("GET", "/qa/offers/{offer_id}/key-facts", keyfacts.of_offer),
    ("POST", "/qa/offers/{offer_id}/accept", offers.accept),
    ("POST", "/qa/offers/{offer_id}/withdraw", offers.withdraw),
    ("GET", "/qa/scorecards", scorecards.index),
    ("GET", "/qa/scorecards/{version}", scorecards.show),
    ("POST", "/qa/scorecards/{version}/trial", scorecards.start_trial),
    ("POST", "/qa/scorecards/{version}/end", scorecards.end_trial),
    ("GET", "/qa/scorecards/{version}/activate", scorecards.activation),
    ("POST", "/qa/scorecards/{version}/activate", scorecards.activate),
    ("GET", "/qa/scorecards/{version}/retire", scorecards.retirement),
    ("POST", "/qa/scorecards/{version}/retire", scorecards.retire),
    ("GET", "/qa/comparison", scorecards.compare),
    ("GET", "/qa/draft", scorecards.draft),
    ("POST", "/qa/draft", scorecards.save),
    ("GET", "/qa/trial", backtests.trial),
    ("GET", "/qa/backtest", backtests.form),
    ("POST", "/qa/backtest", backtests.start),
    ("GET", "/qa/backtests/{backtest_id}", backtests.show),
    ("GET", "/qa/backtests/{backtest_id}/progress", backtests.progress),
    ("GET", "/qa/ingestions", ingestions.index),
    ("POST", "/qa/ingestions", ingestions.upload),
    ("GET", "/qa/templates/{kind}.xlsx", ingestions.template),
    ("GET", "/qa/templates/{kind}.csv", ingestions.template_csv),
    ("GET", "/qa/ingestions/{ingestion_id}", ingestions.show),
    ("GET", "/qa/ingestions/{ingestion_id}/progress", ingestions.progress),
    ("GET", "/qa/ingestions/{ingestion_id}/errors.csv", ingestions.errors_csv),
    ("GET", "/qa/ingestions/{ingestion_id}/cancel", undo.cancellation),
    ("POST", "/qa/ingestions/{ingestion_id}/cancel", undo.cancel),
    ("GET", "/qa/ingestions/{ingestion_id}/revert", undo.reversal),
    ("POST", "/qa/ingestions/{ingestion_id}/revert", undo.revert),
    ("GET", "/qa/ingestions/{ingestion_id}/annotated", ingestions.annotated),
    ("GET", "/qa/ingestions/{ingestion_id}/rejected", ingestions.rejected),
    ("GET", "/qa/parked-tasks", parked_tasks.index),
    ("GET", "/qa/parked-tasks/{task_id}/retry", parked_tasks.retrying),
    ("POST", "/qa/parked-tasks/{task_id}/retry", parked_tasks.retry),
    ("GET", "/qa/parked-tasks/{task_id}/discard", parked_tasks.discarding),
    ("POST", "/qa/parked-tasks/{task_id}/discard", parked_tasks.discard),
    ("GET", "/qa/methods", methods.index),
    ("GET", _METHOD, methods.form),
    ("POST", _METHOD, methods.send),
    ("GET", "/qa/checks", checks.index),
    ("POST", "/qa/checks/{key}", checks.run),
    ("GET", "/qa/login", session.form),
    ("POST", "/qa/login", session.sign_in),
    ("POST", "/qa/logout", session.sign_out),
)

_FORMS: dict[View, View] = {
    customers.register: customers.registration,
    changes.change: changes.form,
    loans.pay: loans.show,
    payments.reverse: payments.reversal,
    payments.prepay: payments.preview,
    payments.foreclose: payments.quote,
    lending.apply: lending.review,
    ingestions.upload: ingestions.index,
    undo.cancel: undo.cancellation,
    undo.revert: undo.reversal,
    parked_tasks.retry: parked_tasks.retrying,
    parked_tasks.discard: parked_tasks.discarding,
    asks.answer: asks.form,
    checks.run: checks.index,
    methods.send: methods.form,
    referrals.review: decisions.show,
    offers.accept: offers.show,
    offers.withdraw: offers.show,
    scorecards.start_trial: scorecards.show,
    scorecards.end_trial: scorecards.show,
    scorecards.activate: scorecards.activation,
    scorecards.retire: scorecards.retirement,
    scorecards.save: scorecards.draft,
    backtests.start: backtests.form,
    session.sign_in: session.form,
}
"""The view of each form's page, by the view that receives the form. Signing out has no page."""

_MAX_FIELDS: dict[View, int] = {methods.send: methods.MAX_FIELDS}
"""Most fields of a form that has more than the others."""


def build_app(settings: Settings) -> Starlette:
    """Return the console for the server at `settings.server_address`.

    Opens a channel, which connects on the first call, and closes it at the end of the application's
    lifespan.
    """
    channel = open_channel(settings.server_address)
    console = Console(
        settings=settings,
        channel=channel,
        sessions=Sessions(
            settings.console_secret.get_secret_value() if settings.console_secret else None
        ),
        drafts=Drafts(),
        backtests=Backtests(),
        feeds=Feeds(channel),
        templates=_templates(settings),
        snippets=Snippets(
            settings.server_address,
            settings.server_ca,
            settings.client_certificate,
            settings.client_private_key,
        ),
        zone=ZoneInfo(settings.time_zone),
    )
    console.templates.globals["snippets"] = console.snippets

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        console.feeds.close()
        console.backtests.close()
        channel.close()

    async def events(request: Request) -> Response:
        return await dashboard.events(request, console)

    hosts = [each.strip().lower() for each in settings.console_hosts.split(",")]
    limit = settings.upload_max_bytes + _FORM_BYTES
    app = Starlette(
        routes=[
            Route("/", _to_dashboard),
            Route("/qa", _to_dashboard),
            Route("/healthz", _alive),
            Route("/qa/events", events),
            Mount("/qa/static", _Static(directory=_HERE / "static"), name="static"),
            *_routes(console),
        ],
        middleware=[
            Middleware(Guard, hosts=[each for each in hosts if each]),
            Middleware(RequestBodyLimitMiddleware, max_body_size=limit),
        ],
        exception_handlers={HTTPException: partial(_rejected, console)},
        lifespan=lifespan,
    )
    app.state.feeds = console.feeds
    return app


def _routes(console: Console) -> list[Route]:
    pages = [
        Route(path, view(page, console, _FORMS.get(page), _MAX_FIELDS.get(page)), methods=[method])
        for method, path, page in _PAGES
    ]
    shown = {path for method, path, _ in _PAGES if method == "GET"}
    # A GET of an address that only receives a form, by reload or history, redirects to the form.
    received = [path for method, path, _ in _PAGES if method == "POST" and path not in shown]
    return [*pages, *(Route(path, _to_form, methods=["GET"]) for path in received)]


async def _to_form(request: Request) -> Response:
    return RedirectResponse(form_page(request.url.path), HTTPStatus.SEE_OTHER)


async def _to_dashboard(_request: Request) -> Response:
    return RedirectResponse("/qa/", HTTPStatus.TEMPORARY_REDIRECT)


async def _alive(_request: Request) -> Response:
    """Report that the console is running. The service has its own health check."""
    return PlainTextResponse("ok\n")


async def _rejected(console: Console, request: Request, error: Exception) -> Response:
    """Return a page for a request that Starlette or a view rejects, such as an unknown page."""
    status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
    detail = str(getattr(error, "detail", ""))
    if status == HTTPStatus.NOT_FOUND and detail in ("", HTTPStatus.NOT_FOUND.phrase):
        detail = "This page does not exist."
    headers = getattr(error, "headers", None)
    page = Page(console, request, console.sessions.read(request) or console.sessions.begin())
    response = page.render("rejected.html", status, phrase=status.phrase, detail=detail)
    response.headers.update(headers or {})
    return response


class _Static(StaticFiles):
    """The console's own files. Browsers cache them for a year, because addresses have hashes."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def _templates(settings: Settings) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    zone = ZoneInfo(settings.time_zone)
    environment.filters.update(
        inr=display.inr,
        inr_short=display.inr_short,
        other_last=formats.other_last,
        outcome=formats.outcome,
        inr_of_paise=format_inr,
        plain_amount=formats.plain_amount,
        figure=formats.figure,
        civil=formats.civil,
        iso=formats.iso,
        instant=partial(formats.instant, zone=zone),
        clock_time=partial(formats.clock_time, zone=zone),
        minute=partial(formats.minute, zone=zone),
        iso_instant=formats.iso_instant,
        duration=formats.duration,
        grouped=group_digits,
        words=display.words,
        label=fields.label,
        left_out=ingestions.left_out,
        paise=display.paise,
        decline_code=partial(display.enum_name, enum=decision_pb2.DeclineReasonCode),
        decision_outcome=partial(display.enum_name, enum=decision_pb2.DecisionOutcome),
        asset_class=partial(display.enum_name, enum=decision_pb2.AssetClass),
        referral_state=partial(display.enum_name, enum=referral_pb2.ReferralState),
        referral_kind=partial(display.enum_name, enum=referral_pb2.ReferralKind),
        offer_state=partial(display.enum_name, enum=offer_pb2.LoanOfferState),
        charge_payee=partial(display.enum_name, enum=offer_pb2.ChargePayee),
        scorecard_state=partial(display.enum_name, enum=scorecard_pb2.ScorecardState),
        scorecard_change=partial(display.enum_name, enum=scorecard_pb2.ScorecardChangeType),
        loan_state=partial(display.enum_name, enum=loan_pb2.LoanState),
        loan_source=partial(display.enum_name, enum=loan_pb2.LoanSource),
        payment_purpose=partial(display.enum_name, enum=loan_pb2.PaymentPurpose),
        prepayment_effect=partial(display.enum_name, enum=loan_pb2.PrepaymentEffect),
        reversal_reason=partial(display.enum_name, enum=loan_pb2.PaymentReversalReason),
        installment_state=partial(display.enum_name, enum=loan_pb2.InstallmentState),
        ingestion_state=partial(display.enum_name, enum=ingestion_pb2.IngestionState),
        ingestion_kind=partial(display.enum_name, enum=ingestion_pb2.IngestionKind),
        row_error_code=partial(display.enum_name, enum=ingestion_pb2.RowErrorCode),
        ingestion_error_code=partial(display.enum_name, enum=ingestion_pb2.IngestionErrorCode),
    )
    environment.globals.update(charts=charts, zone=zone, static=_static_names(_HERE / "static"))
    return environment


def _static_names(folder: Path) -> Callable[[str], str]:
    """Return a function from a file's name to its address, which changes with the content."""
    hashes = {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()[:12]
        for each in folder.iterdir()
        if each.is_file()
    }

    def address(name: str) -> str:
        return f"/qa/static/{name}?v={hashes[name]}"

    return address


class ConsoleAddressError(ValueError):
    """The console cannot listen on the address. The message says why."""


def run(
    settings: Settings,
    *,
    announce: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve the console until SIGTERM, SIGINT (in the main thread) or `stop`.

    Calls `announce` with the console's URL once it listens.

    Raises:
        ConsoleAddressError: `console_listen` is malformed, in use, or not a loopback address while
            `console_hosts` is empty.
    """
    listener = _listener(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    app = build_app(settings)
    config = uvicorn.Config(
        app,
        http=LimitedH11Protocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Behind a TLS proxy on this machine or in FORWARDED_ALLOW_IPS, cookies are Secure.
        proxy_headers=True,
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=32 * 1024,
        limit_concurrency=256,
    )
    server = _Server(config, app.state.feeds.close, stop)
    if announce is not None:
        server.announce = lambda: announce(f"http://{shown}:{port}/qa/")
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """A server that announces when it listens, and stops on `stop`. It ends the event feeds first,
    because those responses do not end by themselves."""

    def __init__(
        self,
        config: uvicorn.Config,
        before_shutdown: Callable[[], Any],
        stop: threading.Event | None,
    ) -> None:
        super().__init__(config)
        self.announce: Callable[[], None] | None = None
        self._before_shutdown = before_shutdown
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.announce is not None:
            self.announce()

    async def on_tick(self, counter: int) -> bool:
        if self._stop is not None and self._stop.is_set():
            self.should_exit = True
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # After stopping, the base class raises the signal again, which would end the process with
        # its status. Here a requested stop is a success.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_shutdown()
        await super().shutdown(sockets)


def _listener(settings: Settings) -> socket.socket:
    host, separator, port_text = settings.console_listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port_text.isascii() and port_text.isdigit() and int(port_text[:6]) <= 65_535
    if not (separator and host and is_port):
        raise ConsoleAddressError(
            f"{settings.console_listen!r} is not an address such as 127.0.0.1:8080"
        )
    if not (is_loopback(host) or settings.console_hosts.strip()):
        raise ConsoleAddressError(
            f"{settings.console_listen!r} can be reached from other machines. Listen on 127.0.0.1, "
            "or list the host names that the console accepts in CREDIT_CONSOLE_HOSTS."
        )
    listener = None
    try:
        family, *_, address = socket.getaddrinfo(
            host, int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise ConsoleAddressError(
            f"cannot listen on {settings.console_listen!r}: check that no other program uses it"
        ) from error
    return listener

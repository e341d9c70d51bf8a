"""The dashboard and its live feed."""

from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.calls import SERVICES
from credit_service.console.feed import FeedFullError, Item, Recovered
from credit_service.console.page import Console, Page, Problem
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service_client.errors import ServiceError

RATED_DECISIONS = 100
SHOWN_DECISIONS = 8
SHOWN_INGESTIONS = 5
_RETRY_MILLISECONDS = 2_000


@dataclass(frozen=True, slots=True)
class Rating:
    """Outcomes of the latest decisions, and their most frequent main reasons."""

    approved: int
    referred: int
    declined: int
    total: int
    reasons: list[tuple[str, int]]


def home(page: Page) -> Response:
    """The dashboard."""
    return page.render("dashboard.html", **_overview(page))


def overview(page: Page) -> Response:
    """The part of the dashboard that is reloaded after events."""
    return page.render("_overview.html", **_overview(page))


def _overview(page: Page) -> dict[str, Any]:
    names = {"": "Server", **{each.full_name: each.name for each in SERVICES}}
    decisions_request = pb.ListDecisionsRequest(page_size=RATED_DECISIONS)
    ingestions_request = ingestion_pb.ListIngestionsRequest(page_size=SHOWN_INGESTIONS)
    # In parallel, because each call waits if the service is unavailable.
    with ThreadPoolExecutor(len(names) + 2) as together:
        checked = [
            (name, together.submit(page.service.health, each)) for each, name in names.items()
        ]
        listed = together.submit(
            page.attempt, lambda: page.service.decisions(decisions_request).decisions
        )
        ingested = together.submit(
            page.attempt, lambda: page.service.ingestions(ingestions_request).ingestions
        )
    health = [(name, status.result()) for name, status in checked]
    decisions, decisions_problem = listed.result()
    ingestions, ingestions_problem = ingested.result()
    return {
        "health": health,
        "healthy": all(status in ("SERVING", "NOT_SUPPORTED") for _, status in health),
        "rating": _rating(decisions or ()),
        "decisions": list(decisions or ())[:SHOWN_DECISIONS],
        "decisions_problem": decisions_problem,
        "ingestions": ingestions or (),
        "ingestions_problem": ingestions_problem,
    }


def _rating(decisions: Any) -> Rating:
    reasons = Counter(
        display.words(display.enum_name(each.reasons[0].code, decision_pb2.DeclineReasonCode))
        for each in decisions
        if formats.outcome(each) == "DECLINED" and each.reasons
    )
    found = Counter(map(formats.outcome, decisions))
    return Rating(
        found["APPROVED"],
        found["REFERRED"],
        found["DECLINED"],
        len(decisions),
        reasons.most_common(5),
    )


async def events(request: Request, console: Console) -> Response:
    """The live feed as server-sent events: `line`, an event as HTML; `trouble`, why the feed is
    interrupted; `recovered`, after trouble; `login`, if a token is required."""
    session = console.sessions.read(request)
    if session is None:
        return PlainTextResponse("No session.\n", HTTPStatus.FORBIDDEN)
    messages = _events(request, console, session.token)
    return StreamingResponse(messages, media_type="text/event-stream")


async def _events(request: Request, console: Console, token: str) -> AsyncIterator[str]:
    yield f"retry: {_RETRY_MILLISECONDS}\n\n"
    try:
        async with aclosing(console.feeds.listen(token)) as items:
            async for item in items:
                if console.sessions.read(request) is None:
                    return  # the user signed out
                yield _message(console, item)
    except FeedFullError:
        yield _sse("trouble", "Too many pages are showing live events. Close some of them.")


def _message(console: Console, item: Item | None) -> str:
    if item is None:
        return ": still here\n\n"
    if isinstance(item, ServiceError):
        if item.code is grpc.StatusCode.UNAUTHENTICATED:
            return _sse("login", "Sign in to see live events.")
        if item.unavailable:
            return _sse(
                "trouble", f"{Problem(item).message} The feed continues when the service is back."
            )
        return _sse("refused", " ".join(Problem(item).sentences))
    if isinstance(item, Recovered):
        return _sse("recovered", "")
    html = console.templates.get_template("_event.html").render(line=item)
    return _sse("line", html, item.event_id)


def _sse(event: str, data: str, event_id: int | None = None) -> str:
    number = f"id: {event_id}\n" if event_id is not None else ""
    body = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"{number}event: {event}\n{body}\n"

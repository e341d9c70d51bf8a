"""The list of checks, and running one.

Each check creates its own customers and loans, with figures whose results are known, and compares.
It writes to the service: its customers are called “QA Check”. So it runs only if the setting
`console_checklist` allows it, and after the user confirms.
"""

import time
from dataclasses import dataclass
from typing import Literal

import grpc

from credit_service.console.calls import Call
from credit_service.console.checklist import eligibility, integrity, lending, registration
from credit_service.console.checklist.bench import Bench, CheckFailedError, CheckSkippedError, Item
from credit_service.console.security import Session
from credit_service.console.service import Service
from credit_service.settings import Settings
from credit_service_client.channel import is_loopback
from credit_service_client.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check."""

    item: Item
    outcome: Literal["pass", "fail", "skip"]
    found: str
    seconds: float
    calls: list[Call]

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"


def run(item: Item, service: Service) -> Result:
    """Run one check. It writes to the service.

    Raises ServiceError if the user must sign in.
    """
    started = time.monotonic()
    outcome: Literal["pass", "fail", "skip"] = "fail"
    try:
        bench = Bench(service)
        if item.has_figures:
            bench.require_scorecard()
        found = item.run(bench)
        outcome = "pass"
    except CheckSkippedError as error:
        outcome, found = "skip", str(error)
    except CheckFailedError as error:
        found = str(error)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        found = "The service returned an error. " + " ".join(error.lines())
    return Result(item, outcome, found, time.monotonic() - started, list(service.calls))


SCOPES = ("credit.read", "credit.write", "ingest")
"""Scopes that all checks together need."""

FLOWS = (registration.FLOW, eligibility.FLOW, lending.FLOW, integrity.FLOW)

ITEMS = {item.key: item for flow in FLOWS for item in flow.items}


def refusal(settings: Settings, session: Session) -> str:
    """Return why the checklist may not run for this user and service, or '' if it may."""
    if settings.console_environment.strip().lower() == "production":
        return "The checklist writes test customers and loans, so it does not run in production."
    if settings.console_checklist == "off":
        return "The checklist is disabled by CREDIT_CONSOLE_CHECKLIST."
    if settings.console_checklist == "auto" and not _is_local_without_security(settings, session):
        return (
            "The checklist writes test customers and loans, so it runs only against a service on "
            "this machine without TLS and tokens. For a test environment, set "
            "CREDIT_CONSOLE_CHECKLIST=on."
        )
    missing = [] if session.scopes is None else [s for s in SCOPES if s not in session.scopes]
    if missing:
        return f"Your token lacks {', '.join(missing)}, which the checks need."
    return ""


def _is_local_without_security(settings: Settings, session: Session) -> bool:
    host = settings.server_address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return is_loopback(host) and settings.server_ca is None and not session.token

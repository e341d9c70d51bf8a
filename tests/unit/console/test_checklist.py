"""When the checklist may run, and what it does with another scorecard."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from credit_service.console.checklist import bench, runner
from credit_service.console.checklist.runner import refusal
from credit_service.console.security import Session
from credit_service.settings import Settings


def token_of(scope: str) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "qa", "scope": scope}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.x"


ALL = " ".join(runner.SCOPES)


@pytest.mark.parametrize(
    ("changed", "token", "word"),
    [
        ({}, "", ""),
        ({"console_environment": " PRODUCTION", "console_checklist": "on"}, "", "production"),
        ({"server_address": "[::1]:50051"}, "", ""),
        ({"server_address": "credit.example:443"}, "", "CREDIT_CONSOLE_CHECKLIST=on"),
        ({"server_ca": Path("ca.pem")}, "", "CREDIT_CONSOLE_CHECKLIST=on"),
        ({}, token_of(ALL), "CREDIT_CONSOLE_CHECKLIST=on"),
        ({"console_checklist": "off"}, "", "disabled by"),
        ({"console_checklist": "on", "server_address": "credit.example:443"}, "", ""),
        ({"console_checklist": "on"}, token_of(ALL), ""),
        ({"console_checklist": "on"}, token_of("credit.read ingest"), "lacks credit.write"),
    ],
)
def test_the_checklist_runs_only_where_it_is_allowed(
    changed: dict[str, Any], token: str, word: str
) -> None:
    settings = Settings(**{"server_address": "127.0.0.1:50051", **changed})
    found = refusal(settings, Session("id", token))
    assert word in found
    assert bool(found) == bool(word)


class UnderScorecard:
    """A service with another active scorecard, which counts the requested writes."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.written = 0
        self.calls: list[Any] = []

    def customers(self, _request: Any) -> Any:
        return SimpleNamespace(customers=[SimpleNamespace(customer_id=1)])

    def check(self, _request: Any) -> Any:
        return SimpleNamespace(credit_score=SimpleNamespace(scorecard_version=self.version))

    def register(self, _request: Any) -> Any:
        self.written += 1
        raise bench.CheckFailedError("it continued")


def test_checks_with_figures_are_skipped_with_another_scorecard() -> None:
    service: Any = UnderScorecard("prudent-1")
    result = runner.run(runner.ITEMS["rate-twelve"], service)
    assert (result.outcome, service.written) == ("skip", 0)
    assert "standard-1" in result.found
    assert "prudent-1" in result.found
    service = UnderScorecard("standard-1")
    assert runner.run(runner.ITEMS["rate-twelve"], service).outcome == "fail"
    assert service.written == 1


def test_checks_without_figures_run_with_every_scorecard() -> None:
    service: Any = UnderScorecard("prudent-1")
    assert runner.run(runner.ITEMS["register-once"], service).outcome == "fail"
    assert service.written == 1

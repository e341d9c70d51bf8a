"""Compares the service with a model in plain Python over random sequences of requests.

A few deterministic runs as a regular test; `make model` sets MODEL_RUNS and MODEL_STEPS.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as profile
from hypothesis.stateful import run_state_machine_as_test
from pydantic import SecretStr

from credit_service.settings import Settings
from credit_service.storage.database import Database
from tests.integration.conftest import Edge
from tests.integration.conftest import server as server  # noqa: PLC0414 - a fixture
from tests.model.lists_and_reverts import WholeService
from tests.model.machine import START_DAYS
from tests.model.policies import PRUDENT, STANDARD

_RUNS = int(os.environ.get("MODEL_RUNS", "0"))
_STEPS = int(os.environ.get("MODEL_STEPS", "40"))


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=12,
        clock_offset_file=tmp_path / "offset",
    )


@pytest.fixture(autouse=True)
def whole_service(server: Edge, settings: Settings, database: Database) -> None:
    assert settings.clock_offset_file is not None
    WholeService.edge = server
    WholeService.clock_file = settings.clock_offset_file
    WholeService.database = database


# Days past due, what happens meanwhile, days until the review, its verdict, whether an offer was
# asked for; and the state of the referral and the outcome of the decision that an approval made.
_REFERRALS = [
    (0, "nothing", 0, "APPROVE", False, "APPROVED", "APPROVED"),
    (5, "nothing", 7, "APPROVE", False, "APPROVED", "APPROVED"),
    (5, "nothing", 7, "APPROVE", True, "APPROVED", "APPROVED"),
    (5, "nothing", 1, "APPROVE", True, "APPROVED", "APPROVED"),
    (5, "nothing", 8, "APPROVE", False, "EXPIRED", ""),
    (29, "nothing", 1, "APPROVE", False, "APPROVED", "DECLINED"),
    (5, "payment", 1, "APPROVE", False, "APPROVED", "APPROVED"),
    (5, "standard", 0, "APPROVE", True, "APPROVED", "APPROVED"),
    (5, "nothing", 0, "DECLINE", False, "DECLINED", ""),
]


def test_referrals_and_scorecards_of_a_day_agree() -> None:
    """Random sequences seldom reach the end of a referral, or the day of an activation."""
    for late, meanwhile, days, verdict, is_offer, state, outcome in _REFERRALS:
        service = WholeService()
        service.begin(START_DAYS[0])
        service.refer_and_review(0, 10_000, late, meanwhile, days, verdict, is_offer=is_offer)
        (referral,) = service.bank.referrals.values()
        assert service.bank.referral_state(referral) == state
        assert service.outcomes == ([outcome] if outcome else [])
    for early in (0, 1):
        service = WholeService()
        service.begin(START_DAYS[0])
        service.pass_an_activation(PRUDENT, 1, early)
        service.pass_an_activation(STANDARD, 2, early)


def test_the_service_and_the_model_agree() -> None:
    run_state_machine_as_test(
        WholeService,
        settings=profile(
            max_examples=_RUNS or (25 if "CI" in os.environ else 12),
            stateful_step_count=_STEPS if _RUNS else 25,
            derandomize=not _RUNS,
            database=None,
            deadline=None,
            print_blob=bool(_RUNS),
            # A short run detects an error; `make model` shrinks it to a minimal example.
            phases=[Phase.generate, *([Phase.shrink] if _RUNS else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )

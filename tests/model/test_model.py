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


def test_the_service_and_the_model_agree(
    server: Edge, settings: Settings, database: Database
) -> None:
    assert settings.clock_offset_file is not None
    WholeService.edge = server
    WholeService.clock_file = settings.clock_offset_file
    WholeService.database = database
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

"""Fixtures for calls in groups."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as pool:
        yield pool


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group loses its lane, unless the test asks for it."""
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", math.inf)

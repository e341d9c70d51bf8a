"""Fixtures of the tests of authentication."""

from pathlib import Path

import pytest

from tests.unit.rpc.auth.signing import Fixture


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)

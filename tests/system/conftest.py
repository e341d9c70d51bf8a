"""Fixtures of the integration tests: a server in this process."""

from tests.integration.conftest import server as server  # noqa: PLC0414 - a fixture
from tests.integration.conftest import settings as settings  # noqa: PLC0414 - a fixture

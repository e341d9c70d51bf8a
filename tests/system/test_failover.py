"""A failover to a streaming standby, behind PgBouncer.

`make failover` has failovers under load, without a pooler.
"""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest
from pydantic import SecretStr

from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import Settings
from credit_service.storage import migrate
from tests import pgbouncer
from tests.faults import pair
from tests.faults.pair import Pair
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.database.test_database_read_only import health
from tests.integration.rpc.test_rpc_server import SERVING, eventually

PATIENCE_SECONDS = 60.0
phones = itertools.count(9_830_000_000)


@pytest.fixture
def servers() -> Iterator[Pair]:
    """A migrated primary with its standby."""
    with tempfile.TemporaryDirectory(prefix="credit-service-pair-") as folder:
        Path(folder).chmod(0o711)
        with pair.running(Path(folder) / "data") as running:
            migrate.upgrade(running.database_url.replace("postgresql:", "postgresql+psycopg:"))
            yield running


def writes(edge: Edge) -> bool:
    try:
        return lending.register(edge.credit, f"+91{next(phones)}") > 0
    except grpc.RpcError:
        return False


def test_writes_continue_once_the_pooler_leads_to_the_promoted_server(servers: Pair) -> None:
    with ExitStack() as running:
        # A folder of sockets that moves, as a name or an address of the primary does.
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="credit-service-name-"))
        Path(folder).chmod(0o711)
        name = Path(folder) / "primary"
        name.symlink_to(servers.primary_sockets)
        url = running.enter_context(
            pgbouncer.running(
                f"postgresql://postgres@/postgres?host={name}",
                admin_users="postgres",
                # After a failed connection; 15 s by default.
                server_login_retry="1",
            )
        )

        def move() -> None:
            name.unlink()
            name.symlink_to(servers.primary_sockets)
            with psycopg.connect(
                f"{url}/pgbouncer", autocommit=True, cursor_factory=psycopg.ClientCursor
            ) as console:
                console.execute("RECONNECT")

        settings = Settings(
            database_url=SecretStr(f"{url}/credit_service"),
            redis_url=None,
            listen="127.0.0.1:0",
            database_pooler="transaction",
        )
        database = open_database(settings)
        running.callback(database.dispose)
        server = CreditServer(settings, database)
        server.start()
        running.callback(server.stop, grace_seconds=1)
        channel = running.enter_context(grpc.insecure_channel(str(server.address)))
        edge = Edge.of(server, channel)
        eventually(lambda: health(edge) == SERVING)
        assert writes(edge)
        # The second time the former primary keeps running, read-only, and the pooler's sessions.
        for how in ("kill", "fence"):
            servers.fail(how)
            servers.promote()
            move()
            eventually(lambda: writes(edge), PATIENCE_SECONDS)
            eventually(lambda: health(edge) == SERVING, PATIENCE_SECONDS)
            for _ in range(5):
                assert writes(edge)
            servers.rebuild()

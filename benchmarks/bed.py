"""The test bed of the benchmarks: real, separate servers, generated databases, processors.

One serving process runs on one processor and the load generators on the others, so that they do not
distort the measurement. A `Group` of serving processes is started as users start it. The system
places PostgreSQL.
"""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import grpc
import psutil
import psycopg
import redis
from psycopg import sql

from credit_service.processes import postgresql
from credit_service.processes.embedded import EmbeddedStack
from credit_service.settings import Settings
from credit_service.storage import migrate, positions
from credit_service.storage.database import Database
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub

_PREFIX = "credit-service-benchmarks-"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_REFRESH_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a measurement."""

    processor: str
    processors: int
    memory_gib: int
    system: str
    python: str
    postgresql: str
    load_before: float

    def __str__(self) -> str:
        return (
            f"{self.processors} processors {self.processor}, {self.memory_gib} GiB, {self.system}, "
            f"Python {self.python}, PostgreSQL {self.postgresql}, "
            f"load {self.load_before:.1f} at the start"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Bed:
    """PostgreSQL and Valkey in a separate folder, with their databases."""

    def __init__(self, stack: EmbeddedStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.redis_url = stack.redis_url
        self.load_before = os.getloadavg()[0]
        processors = sorted(os.sched_getaffinity(0))
        self.serving = frozenset(processors[:1])
        """The processor of the server under measurement."""
        self.loading = frozenset(processors[1:] or processors)
        """The processors of the load generators."""
        self.all_processors = frozenset(processors)

    @property
    def machine(self) -> Machine:
        """This machine."""
        with psycopg.connect(self.url("postgres")) as connection:
            version = connection.info.parameter_status("server_version") or ""
        return Machine(
            processor=_processor(),
            processors=len(self.all_processors),
            memory_gib=round(psutil.virtual_memory().total / 2**30),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            postgresql=version.split()[0],
            load_before=self.load_before,
        )

    def url(self, database: str) -> str:
        """postgresql://… of a database."""
        return self._stack.database_url.replace(f"/{postgresql.DATABASE}?", f"/{database}?", 1)

    def database(self, name: str, *, template: str | None = None) -> str:
        """Create a database with the schema, replacing one of that name; returns its URL."""
        identifier = sql.Identifier(name)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier)
            )
            source = sql.Identifier(template or "template1")
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    identifier, source
                )
            )
        if template is None:
            migrate.upgrade(sqlalchemy_url(self.url(name)))
        return self.url(name)

    def flush_cache(self) -> None:
        """Empty Valkey."""
        with contextlib.closing(redis.Redis.from_url(self.redis_url)) as client:
            client.flushall()

    @property
    def database_pid(self) -> int:
        """Process id of PostgreSQL's first process."""
        return self._stack.pids["PostgreSQL"]


def sqlalchemy_url(url: str) -> str:
    """The same URL in SQLAlchemy's format."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@contextmanager
def started() -> Iterator[Bed]:
    """A test bed with durable commits, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # As root the servers run as another user, which needs access to this folder.
    folder.chmod(0o711)
    try:
        with EmbeddedStack(folder / "data", durable=True) as stack:
            bed = Bed(stack, folder)
            for pid in (stack.pids["Valkey"],):
                pin(pid, bed.loading)
            yield bed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pin(pid: int, processors: frozenset[int]) -> None:
    """Pin every thread of a process to these processors."""
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, processors)


@contextmanager
def on(processors: frozenset[int]) -> Iterator[None]:
    """Pin this thread, and processes started inside, to these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Server:
    """A serving process, or the supervisor of several."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children so far, in seconds."""
        return sum(_cpu_seconds(each) for each in (self.process, *self.process.children()))

    def stub(self, running: ExitStack) -> CreditServiceStub:
        """A regular client, open until the end of `running`."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        running.callback(channel.close)
        return CreditServiceStub(channel)


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def cpu_seconds_of_tree(pid: int) -> float:
    """CPU time of a process and its running children, in seconds."""
    process = psutil.Process(pid)
    return sum(_cpu_seconds(each) for each in (process, *process.children()))


@contextmanager
def server(
    database_url: str,
    redis_url: str | None,
    processors: frozenset[int],
    *,
    module: Sequence[str] = ("credit_service.rpc",),
    **settings: object,
) -> Iterator[Server]:
    """A server on these processors, started with `python -m`, until the end of the context.

    Without `redis_url` it has no cache. `settings` are names and values of
    `credit_service.settings`.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CREDIT_") and name not in ("DATABASE_URL", "REDIS_URL")
    }
    environment["DATABASE_URL"] = database_url
    if redis_url is not None:
        environment["REDIS_URL"] = redis_url
    # One principal makes all calls at full speed and must never be rejected.
    given: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "max_calls_per_second": 1_000_000,
        "max_wait_seconds": 10,
    }
    given |= settings
    environment |= {f"CREDIT_{name.upper()}": str(value) for name, value in given.items()}
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below, once the server has ended
    with on(processors):
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        port = _announced_port(process)
        if port is None:
            log.seek(0)
            raise RuntimeError(f"the server did not start:\n{log.read()}")
        yield Server(port, psutil.Process(process.pid))
    finally:
        log.close()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


PlacementName = Literal["default", "pinned", "free"]
"""Where serving processes run: where the service itself places them, each on a processor to which
the benchmark pins it, or on all processors."""


class Group:
    """A supervisor and its serving processes, which run only inside `at_work`: even idle ones use
    some CPU time."""

    def __init__(
        self, test_bed: Bed, url: str, running: ExitStack, count: int | None, **settings: object
    ) -> None:
        """`count` is the number of processes; None: that of the service itself. The group stops at
        the end of `running`."""
        given = settings if count is None else {"processes": count, **settings}
        self._bed = test_bed
        self.server: Server = running.enter_context(
            server(
                url,
                test_bed.redis_url,
                test_bed.all_processors,
                module=("credit_service.cli", "serve"),
                # The kernel does not spread connections exactly.
                max_calls_per_principal=1_000,
                max_streams_per_principal=64,
                **given,
            )
        )
        self._serving = self.server.process.children()
        if count not in (None, len(self._serving)):
            raise RuntimeError(f"{len(self._serving)} serving processes instead of {count}")
        self._placed = {
            each.pid: frozenset(os.sched_getaffinity(each.pid)) for each in self._serving
        }
        self._all = [*self._serving, self.server.process]
        running.callback(self._resume, self._all)
        self._suspend()

    @property
    def count(self) -> int:
        """The number of serving processes."""
        return len(self._serving)

    @contextmanager
    def at_work(self, placement: PlacementName) -> Iterator[frozenset[int]]:
        """Let the serving processes run. Yields the processors for the load: those that no placed
        process has, if there are any.

        The supervisor runs with the service's own placement only: it would move the processes.
        """
        processors = sorted(self._bed.all_processors)
        places = self._placed
        if placement == "free":
            places = dict.fromkeys(places, self._bed.all_processors)
        if placement == "pinned":
            places = {
                pid: frozenset({processors[number % len(processors)]})
                for number, pid in enumerate(places)
            }
        for pid, place in places.items():
            pin(pid, place)
        self._resume(self._all if placement == "default" else self._serving)
        try:
            every = self._bed.all_processors
            yield every.difference(*places.values()) or every
        finally:
            self._suspend()

    def _suspend(self) -> None:
        for each in self._all:
            each.suspend()

    @staticmethod
    def _resume(processes: Sequence[psutil.Process]) -> None:
        for each in processes:
            each.resume()


def _announced_port(process: "subprocess.Popen[str]") -> int | None:
    """The port in "Serving on host:port", once the server prints it and answers; None if it
    exits."""
    assert process.stdout is not None
    for line in process.stdout:
        if "127.0.0.1:" in line:
            port = int(line.rpartition(":")[2])
            channel = grpc.insecure_channel(f"127.0.0.1:{port}")
            grpc.channel_ready_future(channel).result(timeout=_START_SECONDS)
            channel.close()
            return port
    process.wait()
    return None


@contextmanager
def worker(
    database_url: str, redis_url: str, *arguments: str, **settings: object
) -> Iterator[psutil.Process]:
    """A worker process with these arguments until the end of the context."""
    environment = dict(os.environ) | {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    environment |= {f"CREDIT_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Data.

TODAY = Settings().clock.moment().today

_CUSTOMERS = """
    INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
        phone_number, approved_limit_paise, imported, created_at, position_as_of,
        position_valid_until)
    SELECT n, 'Asha', 'Rao', 30, 10000000000, '+91' || (7000000000 + n), 1000000000000000, true,
        now(), %(today)s, %(today)s + 1
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
"""
# Alternately a loan repaid long ago and one with five installments paid.
_LOANS = """
    INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
        installment_paise, start_date, end_date, imported, settled_at_import, emis_paid_on_time,
        installments_settled, closed_on)
    SELECT n, n * 32 + k, 10000000, 1200, CASE WHEN repaid THEN 12 ELSE 60 END,
        CASE WHEN repaid THEN 888488 ELSE 222444 END, begun, ended, true,
        CASE WHEN repaid THEN 12 ELSE 5 END, CASE WHEN repaid THEN 12 ELSE 5 END,
        CASE WHEN repaid THEN 12 ELSE 5 END, CASE WHEN repaid THEN ended END
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n, generate_series(1, %(loans)s) k,
        LATERAL (SELECT k %% 2 = 0 AS repaid) r,
        LATERAL (SELECT (%(today)s::date - 5 - k
            - make_interval(months => CASE WHEN repaid THEN 30 + k ELSE 5 END))::date AS begun) b,
        LATERAL (SELECT (begun + make_interval(months => CASE WHEN repaid THEN 12 ELSE 60 END))
            ::date AS ended) e
"""


def loan_id(customer_id: int, number: int) -> int:
    """The id of a customer's loan by number, from 1; loans with odd numbers are active."""
    return customer_id * 32 + number


def fill(url: str, first: int, last: int, loans_each: int) -> None:
    """Add customers with these ids, each with `loans_each` loans (at most 31), and their positions.

    Their incomes and limits are the maximum, so that every request is approved.
    """
    values: dict[str, object] = {"today": TODAY, "loans": loans_each}
    database = Database(sqlalchemy_url(url), statement_timeout_seconds=600.0)
    with psycopg.connect(url, autocommit=True) as connection:
        for start in range(first, last + 1, _REFRESH_AT_ONCE):
            end = min(start + _REFRESH_AT_ONCE - 1, last)
            part = values | {"first": start, "last": end}
            with connection.transaction():
                connection.execute(_CUSTOMERS, part)
                connection.execute(_LOANS, part)
            with database.transaction() as transaction:
                positions.refresh(transaction, range(start, end + 1), TODAY)
        connection.execute("VACUUM ANALYZE customers")
        connection.execute("VACUUM ANALYZE loans")
        connection.execute("CHECKPOINT")
    database.dispose()


def settle(url: str) -> None:
    """Flush pending writes, so that they do not affect the next measurement."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    time.sleep(0.2)

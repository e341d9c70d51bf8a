"""Fixtures on the real PostgreSQL and Valkey: `database`, `database_url`, `redis_url`.

Both servers start once per test session, in a separate folder, unless TEST_DATABASE_URL
(postgresql://…, with a user who may create databases) and TEST_REDIS_URL name other servers. The
schema is migrated once into a template. Each test that uses the fixture gets its own copy, so tests
that commit do not interfere. Redis is flushed before every test that uses it: TEST_REDIS_URL must
name database 0 of an instance without other data.

If there is space, all temporary files are in memory: creating a database from the template takes 15
ms there, and 200 ms on a disk.
"""

import atexit
import contextlib
import gc
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
import structlog
from hypothesis import settings
from psycopg import sql
from sqlalchemy import make_url

from credit_service.processes.embedded import EmbeddedStack, StackUrls
from credit_service.processes.stack_errors import StackError
from credit_service.storage import migrate, scorecards
from credit_service.storage.database import Database
from tests import citus, tools

_TEMPLATE = f"credit_service_tests_{os.getpid()}"
_PREFIX = "credit-service-tests-"
_numbers = itertools.count(1)
_MEMORY = Path("/dev/shm")  # noqa: S108 - only the parent of folders with random names
_ROOM_BYTES = 4 * 1024**3
_YOUNG_SECONDS = 60.0


def _use_no_profiles() -> None:
    """Profiles of the person who runs the tests name other services. Applies to children, too."""
    folder = tempfile.mkdtemp(prefix="credit-service-config-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_CONFIG_HOME"] = folder
    os.environ.pop("CREDIT_PROFILE", None)


def _keep_temporary_files_in_memory() -> None:
    """Applies to this process and its children, unless TMPDIR names another folder."""
    if "TMPDIR" in os.environ or not _MEMORY.is_dir():
        return
    room = os.statvfs(_MEMORY)
    # Servers are copied to the folder of their data, and run from there.
    if room.f_bavail * room.f_frsize >= _ROOM_BYTES and not room.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


_keep_temporary_files_in_memory()
_use_no_profiles()
# Tests depend neither on the speed of a machine nor on randomness. Random tests have their own
# targets: `make properties`, `make model`, `make fuzz`. Continuous integration tries more examples.
_THOROUGH = "CI" in os.environ
settings.register_profile(
    "same", deadline=None, derandomize=True, max_examples=100 if _THOROUGH else 50
)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("same")
# Logs of tests in this process are read when a test fails. By default, structlog renders every
# traceback with all variables, which takes seconds.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ],
    # Not to standard output, which tests of commands read.
    logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Reset the logging of commands run in this process: their logs go to the standard error of the
    test, which is closed at its end."""
    root = logging.getLogger()
    handlers, level, of_structlog = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**of_structlog)


def _restore_interrupts() -> None:
    """Handle SIGINT, which a process started in the background (`make test &`) and its children
    would ignore; tests interrupt children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_restore_interrupts()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need PostgreSQL on one server, where they run on a cluster."""
    for item in items if citus.url() else ():
        if (marker := item.get_closest_marker("one_server")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"not on a cluster: {marker.args[0]}"))


def pytest_collection_finish() -> None:
    """Exclude modules and tests, which live until the end, from garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what tests recorded as "tried", and all skipped tests in one line."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "tried":
                terminalreporter.write_line(str(value))
    reports = terminalreporter.getreports("skipped")
    reasons = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    if line := tools.summary(reasons):
        terminalreporter.write_line(line, yellow=True)


def _remove_leftovers() -> None:
    """Stop and remove the servers and folders of killed earlier sessions.

    Other sessions may start and end at any time. A session that has just created its folder may not
    have the lock yet, so new folders are kept.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        # Skip the folders of running sessions and other users.
        with contextlib.suppress(StackError, OSError):
            if time.time() - lock.parent.stat().st_mtime > _YOUNG_SECONDS:
                EmbeddedStack(lock.parent).stop_leftovers()
                shutil.rmtree(lock.parent)


@contextlib.contextmanager
def _servers() -> Iterator[tuple[str, str]]:
    """The addresses of PostgreSQL and Redis; embedded servers by default."""
    named = StackUrls(
        citus.url() or os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    )
    if named.database_url is not None and named.redis_url is not None:
        yield named.database_url, named.redis_url
        return
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # As root the servers run as another user, which needs access to this folder.
    folder.chmod(0o711)
    with EmbeddedStack(
        folder,
        durable=False,
        postgresql=named.database_url is None,
        valkey=named.redis_url is None,
    ) as running:
        yield (
            named.database_url or running.database_url,
            named.redis_url or running.redis_url,
        )
    # Another session may be removing it already.
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """PostgreSQL with the migrated template, and Redis, for the whole session. Tests that kill
    servers start a separate stack."""
    with _servers() as urls, _scratch_database(urls[0], _TEMPLATE) as template_url:
        migrate.upgrade(_sqlalchemy(template_url))
        if citus.url():
            migrate.distribute(_sqlalchemy(template_url))
            citus.close_to_sessions(urls[0], _TEMPLATE)
        yield urls


@contextlib.contextmanager
def _scratch_database(server_url: str, name: str, template: str = "template1") -> Iterator[str]:
    """The URL of a database created from `template`, dropped at the end; on a cluster, of one on
    all its nodes."""
    if citus.url():
        source = None if template == "template1" else template
        with citus.scratch_database(server_url, name, source) as url:
            yield url
        return
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    with psycopg.connect(_of_database(server_url, "postgres"), autocommit=True) as connection:
        connection.execute(create)
        yield _of_database(server_url, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _of_database(server_url: str, name: str) -> str:
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def _sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def database_url(servers: tuple[str, str]) -> Iterator[str]:
    """The SQLAlchemy URL of a new, migrated database, dropped after the test."""
    # Another database can have another scorecard of the same version.
    scorecards._parsed.clear()
    with _scratch_database(servers[0], f"{_TEMPLATE}_{next(_numbers)}", _TEMPLATE) as url:
        yield _sqlalchemy(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A Database on `database_url`, its connections closed after the test."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


def _beside_the_project(name: str, holds: str, what: str) -> Path:
    """The folder `shared/name` next to the project; skips the test if it lacks the file `holds`."""
    folder = Path(__file__).parents[2] / "shared" / name
    if not (folder / holds).exists():
        reason = f"{what} are not at {folder}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def public_workbooks() -> Path:
    """The folder of the public workbooks, next to the project and not part of it."""
    return _beside_the_project("data", "loan_data.xlsx", "the public workbooks")


@pytest.fixture
def cases() -> Path:
    """The folder of small field files, next to the project and not part of it."""
    return _beside_the_project("cases", "README.md", "the cases from the field")


@pytest.fixture
def redis_url(servers: tuple[str, str]) -> str:
    """The URL of Redis, flushed."""
    client = redis.Redis.from_url(servers[1])
    client.flushall()
    client.close()
    return servers[1]

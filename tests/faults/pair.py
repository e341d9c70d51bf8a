"""A PostgreSQL primary, its streaming standby, and the actions of a failover manager.

It replaces EmbeddedStack in the campaign and includes Valkey. Both PostgreSQL servers are those of
the wheel, on Unix sockets. Like a manager, it requires the standby's confirmation of every commit
(`synchronous_standby_names`), and removes the requirement when it promotes the standby.
"""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil
import psycopg

from credit_service.processes.account import account_for, socket_dir
from credit_service.processes.embedded import EmbeddedStack
from credit_service.processes.postgresql import DATABASE, PostgreSQL

HOWS = ("crash", "stall", "fence", "stop", "kill")
"""How a primary fails: an immediate stop; its standby stops receiving, then its processes are
killed; it becomes read-only and keeps running; a fast stop; its processes are killed."""

_STALL_SECONDS = 3.0
_STEP_SECONDS = 120.0
_POLL_SECONDS = 0.05


class _Server(PostgreSQL):
    """One of the two servers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
        self.account = account_for(folder)
        self.sockets = socket_dir(folder, self.account)
        self.cluster = folder / "postgresql"
        super().__init__(folder, self.sockets, self.account, durable=True)

    def command(self) -> list[str]:
        return [*super().command(), "-c", "wal_keep_size=1GB"]

    def processes(self) -> list[psutil.Process]:
        """The running processes of the server."""
        found = self.find()
        return [] if found is None else [found, *found.children(recursive=True)]

    def receiver(self) -> psutil.Process | None:
        """The process that receives the primary's WAL."""
        for process in self.processes():
            with suppress(psutil.Error):
                if "walreceiver" in " ".join(process.cmdline()):
                    return process
        return None

    def run(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as superuser; return its rows."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class Pair:
    """The two servers and Valkey, created by `running`."""

    def __init__(self, folder: Path, *, synchronous: bool) -> None:
        """With `synchronous=False` no commit waits for the standby: a negative control."""
        self._synchronous = synchronous
        self._valkey = EmbeddedStack(folder / "valkey", postgresql=False)
        self._servers = [_Server(folder / name) for name in ("first", "second")]
        self._primary, self._standby = self._servers
        self._changing = threading.Lock()

    def start(self) -> Self:
        self._valkey.start()
        self._primary.start()
        self.rebuild()
        return self

    def stop(self) -> None:
        for server in self._servers:
            server.stop()
        self._valkey.stop()

    @property
    def database_url(self) -> str:
        """The URL of whichever server accepts writes."""
        folders = ",".join(quote(str(server.sockets), safe="") for server in self._servers)
        return f"postgresql://postgres@/{DATABASE}?host={folders}&target_session_attrs=read-write"

    @property
    def primary_url(self) -> str:
        """The URL of the primary alone."""
        return self._primary.url(DATABASE)

    @property
    def standby_url(self) -> str:
        """The URL of the standby alone."""
        return self._standby.url(DATABASE)

    @property
    def primary_sockets(self) -> Path:
        """The folder of the primary's socket."""
        return self._primary.sockets

    @property
    def redis_url(self) -> str:
        return self._valkey.redis_url

    @property
    def pids(self) -> dict[str, int]:
        found = self._primary.find()
        return self._valkey.pids | ({} if found is None else {"PostgreSQL": found.pid})

    def revive(self) -> list[str]:
        """Restart Valkey if it died. A primary is not restarted: its standby is promoted."""
        return self._valkey.revive()

    # The actions of a failover manager, one at a time: see `changing`.

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold this for one failover and the rebuilding after it."""
        with self._changing:
            yield

    def fail(self, how: str) -> None:
        """Fail the primary in one of HOWS."""
        primary = self._primary
        if how == "stop":
            primary.stop()
        elif how == "fence":
            primary.run("ALTER SYSTEM SET default_transaction_read_only = on")
            primary.run("SELECT pg_reload_conf()")
        elif how == "crash":
            process = primary.processes()[0]
            process.send_signal(signal.SIGQUIT)
            psutil.wait_procs([process], _STEP_SECONDS)
        else:
            if how == "stall" and (receiver := self._standby.receiver()) is not None:
                # Until `promote`, everything that the primary sends is lost.
                receiver.suspend()
                time.sleep(_STALL_SECONDS)
            processes = primary.processes()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, _STEP_SECONDS)

    def promote(self) -> None:
        """Make the standby the primary; returns once it accepts writes."""
        standby = self._standby
        standby.run("SELECT pg_promote(wait => false)")
        if (receiver := standby.receiver()) is not None:
            # It exits before it reads the data that arrived while it was suspended.
            time.sleep(0.2)
            with suppress(psutil.NoSuchProcess):
                receiver.resume()
        self._await(standby, "SELECT NOT pg_is_in_recovery()")
        self._primary, self._standby = standby, self._primary

    def rebuild(self) -> None:
        """Stop the former primary, copy the current one, and wait until it has a standby again."""
        primary, standby = self._primary, self._standby
        standby.stop()
        shutil.rmtree(standby.cluster, ignore_errors=True)
        standby.cluster.mkdir(mode=0o700)
        standby.account.own(standby.cluster)
        log = standby.cluster.parent / "copying.log"
        log.write_bytes(b"")
        standby.account.own(log)
        copying = standby.account.spawn(
            [
                str(Path(primary.command()[0]).with_name("pg_basebackup")),
                *("--pgdata", str(standby.cluster), "--host", str(primary.sockets)),
                *("--username", "postgres", "--write-recovery-conf", "--checkpoint=fast"),
                "--no-sync",
            ],
            standby.cluster.parent,
            log,
        )
        if copying.wait(_STEP_SECONDS) != 0:
            raise RuntimeError(f"the standby cannot be copied:\n{log.read_text()}")
        with (standby.cluster / "postgresql.auto.conf").open("a") as settings:
            # After the promotion it has no standby for a while.
            settings.write("synchronous_standby_names = ''\n")
        standby.start()
        self._await(
            primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
        )
        if self._synchronous:
            primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.run("SELECT pg_reload_conf()")
            self._await_synchronous()

    def end_sessions(self) -> None:
        """End the service's sessions, so that it must reconnect."""
        self._primary.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'credit-service%'"
        )

    def _await_synchronous(self) -> None:
        """Wait until a commit waits for the standby."""
        receiver = self._standby.receiver()
        if receiver is None:
            raise RuntimeError("the standby does not receive")
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        until = time.monotonic() + _STEP_SECONDS
        while time.monotonic() < until:
            receiver.suspend()
            commit = threading.Thread(
                target=self._primary.run,
                args=("SELECT pg_logical_emit_message(true, 'faults', '')",),
                daemon=True,
            )
            try:
                commit.start()
                commit.join(1.0)
                if self._primary.run(waiting) == [(True,)]:
                    return
            finally:
                receiver.resume()
                commit.join()
        raise RuntimeError("no commit waits for the standby")

    def _await(self, server: _Server, question: str) -> None:
        """Wait until the query returns true."""
        until = time.monotonic() + _STEP_SECONDS
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                if server.run(question) == [(True,)]:
                    return
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"not within {_STEP_SECONDS:g} s: {question}")


@contextmanager
def running(folder: Path, *, synchronous: bool = True) -> Iterator[Pair]:
    """A running pair with its data in `folder`."""
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)
    pair = Pair(folder, synchronous=synchronous)
    try:
        yield pair.start()
    finally:
        pair.stop()

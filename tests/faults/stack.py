"""The system under test: databases, two servers, two workers, two relays, and the network.

The parts are the real programs, started as by `credit-service up`, with a proxy between any two of
them. A part that exits is restarted immediately, as by a service manager.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import psutil
import redis
from sqlalchemy import make_url

from credit_service.failpoints import VARIABLE
from credit_service.processes.embedded import EmbeddedStack
from credit_service.storage import migrate
from tests.faults import pair, sabotages
from tests.faults.pair import Pair
from tests.faults.proxy import INNER, SECOND, Proxy
from tests.system.up import environment

SERVERS = 2
WORKERS = 2
RELAYS = 2
_LOOK_SECONDS = 0.05
_WEIGH_SECONDS = 5.0
_START_SECONDS = 180.0
_STOP_SECONDS = 40.0
_JITTER_SECONDS = 0.008
_SERVING = re.compile(rb"Serving on 127\.0\.0\.1:(\d+)")
_SABOTAGE = Path(__file__).parent / "sabotage"
_ROOT = Path(__file__).parents[2]


class Part:
    """A program that is restarted whenever it exits."""

    def __init__(
        self, name: str, program: Sequence[str], settings: dict[str, str], log: IO[bytes]
    ) -> None:
        self.name = name
        self.port: int | None = None
        self.deaths = 0
        self._program = program
        self._settings = settings
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        self.port = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._program],
            env=self._settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()

    def _read(self, output: IO[bytes] | None) -> None:
        """Read the port from its output, and log the rest."""
        for line in output or ():
            if serving := _SERVING.match(line):
                self.port = int(serving[1])
            self._log.write(line)
            self._log.flush()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def look(self) -> bool:
        """Restart it if it has exited; returns whether it had."""
        if self._process is None or self._process.poll() is None:
            return False
        self._log.write(f"{self.name} ended with {self._process.returncode}\n".encode())
        self._log.flush()
        self.deaths += 1
        self.start()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def suspended(self, seconds: float) -> None:
        """Stop it with SIGSTOP for some seconds."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            process.suspend()
            time.sleep(seconds)
            process.resume()

    def stop(self) -> None:
        """Stop it cleanly. Raises subprocess.TimeoutExpired after a timeout."""
        if self._process is None:
            return
        try:
            self._process.terminate()
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            if self._reader is not None:
                self._reader.join(5.0)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None


class Stack:
    """The running stack, created by `running`."""

    def __init__(self, folder: Path, databases: EmbeddedStack | Pair, sabotage: str) -> None:
        self.folder = folder
        self.databases = databases
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir()
        self.clock_file = folder / "clock"
        self.proxy = Proxy(environment())
        self.deaths: Counter[str] = Counter()
        self._log = (folder / "log").open("ab")
        self._sabotage = sabotage
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.servers = [
            self._part(f"server {number}", ["credit_service.rpc"], "server")
            for number in range(SERVERS)
        ]
        self.workers = [
            self._part(f"worker {number}", ["workers", "--actors-only"], "worker")
            for number in range(WORKERS)
        ]
        self.relays = [
            self._part(f"relay {number}", ["workers", "--relay-only"], "worker")
            for number in range(RELAYS)
        ]
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._scales = threading.Thread(target=self._weigh, name="scales", daemon=True)
        self.most_memory_mib = 0
        self._failure: Exception | None = None

    def _part(self, name: str, program: Sequence[str], side: str) -> Part:
        ports = self.proxy.ports
        database = make_url(self.databases.database_url).database
        links = (f"{side}-database", f"{side}-database-2")[: len(self._database_sockets)]
        hosts = ",".join(f"127.0.0.1:{ports[link]}" for link in links)
        settings = {
            "DATABASE_URL": f"postgresql://postgres@{hosts}/"
            f"{database}?sslmode=disable&gssencmode=disable",
            "REDIS_URL": f"redis://127.0.0.1:{ports[f'{side}-redis']}/0",
            "CREDIT_LISTEN": "127.0.0.1:0",
            "CREDIT_DATA_DIR": str(self.folder),
            "CREDIT_CLOCK_OFFSET_FILE": str(self.clock_file),
            "CREDIT_TASK_TIMEOUT_SECONDS": "5",
            "CREDIT_MAX_STREAMS_PER_PRINCIPAL": "8",
            "CREDIT_LOG_FORMAT": "json",
            VARIABLE: str(self.failpoints),
        }
        if self._sabotage:
            path = f"{_SABOTAGE}{os.pathsep}{_ROOT}"
            settings |= {"PYTHONPATH": path, "FAULTS_SABOTAGE": self._sabotage}
        return Part(name, program, environment(**settings), self._log)

    def start(self) -> Self:
        migrate.upgrade(self.sqlalchemy_url)
        if self._sabotage:
            sabotages.prepare(self._sabotage, self.databases.database_url)
        redis_url = self.databases.redis_url
        redis_socket = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs["path"]
        for link in (*INNER, *SECOND):
            socket = self._database_sockets[-1 if link in SECOND else 0]
            if link.endswith("redis"):
                socket = redis_socket
            # Commands of different threads and processes do not reach Redis in the order of
            # sending.
            jitter = _JITTER_SECONDS if link.endswith("redis") else 0.0
            self.proxy.order(link, targets=[[socket]], jitter_seconds=jitter)
        for part in self.parts:
            part.start()
        self._keeper.start()
        self._scales.start()
        deadline = time.monotonic() + _START_SECONDS
        while not all(server.port for server in self.servers):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the servers did not start:\n{self.log[-4000:]}")
            time.sleep(0.05)
        return self

    @property
    def pair(self) -> Pair:
        """The databases of a campaign with failovers."""
        if not isinstance(self.databases, Pair):
            raise TypeError("this campaign has one PostgreSQL")
        return self.databases

    @property
    def _database_sockets(self) -> list[str]:
        folders = str(make_url(self.databases.database_url).query["host"]).split(",")
        return [f"{folder}/.s.PGSQL.5432" for folder in folders]

    @property
    def parts(self) -> list[Part]:
        return [*self.relays, *self.workers, *self.servers]

    @property
    def address(self) -> str:
        """The address for callers."""
        return f"127.0.0.1:{self.proxy.ports['callers']}"

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL without the proxy, for the campaign itself."""
        return self.databases.database_url.replace("postgresql://", "postgresql+psycopg://", 1)

    def set_clock(self, offset_seconds: int) -> None:
        """Set the clock of all parts to this many seconds after the machine's."""
        beside = self.clock_file.with_name("clock.new")
        beside.write_text(str(offset_seconds), encoding="ascii")
        beside.replace(self.clock_file)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def _keep(self) -> None:
        """Restart exited parts, and update the proxy's targets."""
        announced: list[int | None] = []
        while not self._ending.wait(_LOOK_SECONDS):
            with self._lock:
                if self._ending.is_set():
                    return
                for part in self.parts:
                    if part.look():
                        self.deaths[part.name.split()[0]] += 1
                try:
                    for name in self.databases.revive():
                        self.deaths[name] += 1
                except Exception as failure:  # noqa: BLE001 - raised to the campaign
                    self._failure = failure
                    return
            ports = [server.port for server in self.servers]
            if ports != announced:
                targets = [["127.0.0.1", port] for port in ports if port is not None]
                self.proxy.order("callers", targets=targets)
                announced = ports

    def _weigh(self) -> None:
        """Record the peak memory of the campaign and its processes."""
        while not self._ending.wait(_WEIGH_SECONDS):
            own = psutil.Process()
            weight_bytes = 0
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.Error):
                    # Shared pages are counted once.
                    weight_bytes += process.memory_full_info().pss
            self.most_memory_mib = max(self.most_memory_mib, weight_bytes // 1024**2)

    def stop_parts(self) -> list[str]:
        """Stop servers, workers and relays cleanly; returns what went wrong."""
        with self._lock:
            self._ending.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        found = [] if self._failure is None else [f"a database did not start: {self._failure}"]
        for part in reversed(self.parts):
            try:
                part.stop()
            except subprocess.TimeoutExpired:
                found.append(f"{part.name} did not stop in {_STOP_SECONDS:g} s")
        return found

    def strays(self) -> list[str]:
        """The parts and child processes that are still running."""
        home = str(self.folder)
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("CREDIT_DATA_DIR") == home:
                    found.append(" ".join(process.cmdline())[:100])
        return found

    def close(self) -> None:
        self.proxy.stop()
        self._log.close()


@contextmanager
def running(
    sabotage: str = "", *, with_standby: bool = False, offset_seconds: int = 0
) -> Iterator[Stack]:
    """A stack in a separate folder, which is removed afterwards unless FAULTS_KEEP is set. Its
    clock starts this many seconds after the machine's."""
    folder = Path(tempfile.mkdtemp(prefix="credit-service-faults-"))
    # As root the databases run as another user, which needs access to this folder.
    folder.chmod(0o711)
    try:
        with ExitStack() as closing:
            databases: EmbeddedStack | Pair
            if with_standby:
                synchronous = sabotage != sabotages.SYNCHRONOUS_STANDBY
                databases = closing.enter_context(
                    pair.running(folder / "data", synchronous=synchronous)
                )
            else:
                databases = closing.enter_context(EmbeddedStack(folder / "data"))
            stack = Stack(folder, databases, sabotage)
            stack.set_clock(offset_seconds)
            try:
                yield stack.start()
            finally:
                stack.stop_parts()
                stack.close()
    finally:
        if "FAULTS_KEEP" not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)

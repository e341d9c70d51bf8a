"""Several serving processes on one port, kept alive.

The supervisor never touches gRPC, whose threads do not survive a fork, and starts each server as a
program of its own. It holds the port from the beginning with a socket that is bound and never
listens, so that the port (chosen by the system for port 0) stays theirs while processes come and
go. The kernel spreads connections over them by SO_REUSEPORT.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from credit_service.observability import metrics
from credit_service.observability.metrics_http import MetricsEndpoint, Processes, ask, shows_ready
from credit_service.processes.address import Address, AddressRefusedError, listening_address
from credit_service.processes.termination import LOOK_SECONDS, Termination
from credit_service.settings import Settings

MAX_QUICK_DEATHS = 8
"""Deaths in a row, each soon after its start, after which servers that never served are given up.
What has served is started again for as long as the others run."""
QUICK_SECONDS = 30.0
MAX_PAUSE_SECONDS = 30.0

_START_TIMEOUT_SECONDS = 60.0
_STOP_SLACK_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_MISCONFIGURED = 2

_log = structlog.get_logger(__name__)


class ServersFailedError(RuntimeError):
    """The serving processes do not start."""


class ServersMisconfiguredError(ServersFailedError):
    """A serving process refused its settings. It has printed why."""


class Backoff:
    """How long to wait before what died is started again: ever longer, from the start once more
    after a long life."""

    def __init__(self) -> None:
        self.quick_deaths = 0
        """Deaths in a row, each soon after the start."""

    def pause_seconds(self, lived_seconds: float) -> float:
        """The pause after a death."""
        self.quick_deaths = self.quick_deaths + 1 if lived_seconds < QUICK_SECONDS else 1
        # Doublings are bounded too: a float has no room for a thousand of them.
        return min(MAX_PAUSE_SECONDS, 0.1 * 2.0 ** min(self.quick_deaths - 1, 16))


class _Server:
    """One serving process and what has become of it so far."""

    def __init__(self, number: int, environment: dict[str, str]) -> None:
        self.number = number
        self._environment = environment
        self._backoff = Backoff()
        self._next_start = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._has_served = False
        self.serving = False

    def look(self) -> None:
        """Start it, note that it serves, or note that it died; never waits.

        Raises:
            ServersFailedError: it has never served, and it is of no use to start it again.
        """
        if self._process is None:
            if time.monotonic() >= self._next_start:
                try:
                    self._start()
                except OSError as error:
                    # Such as no memory, or too many processes, at this moment.
                    _log.exception("server_not_started", number=self.number)
                    self._note_death(0, error.errno or 0)
            return
        status = self._process.poll()
        if status is not None:
            self._note_death(self._process.pid, status)
        elif not self.serving and self._control is not None:
            with suppress(BlockingIOError):
                self.serving = bool(self._control.recv(64))
                self._has_served |= self.serving

    def _start(self) -> None:
        self._started = time.monotonic()
        ours, theirs = socket.socketpair()
        # Closed when this process ends, however it ends: the sign for the server to stop.
        ours.settimeout(0)
        self._control = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "credit_service.rpc", f"--control-fd={theirs.fileno()}"],
                env=self._environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the supervisor, which stops the servers in order.
                start_new_session=True,
            )

    def exposition(self, *, readiness_alone: bool = False) -> str | None:
        """Its metrics; None when it does not serve, or does not answer soon."""
        control = self._control
        if control is None or not self.serving:
            return None
        return ask(control, readiness_alone=readiness_alone)

    def _note_death(self, pid: int, status: int) -> None:
        self.forget()
        metrics.server_deaths.inc()
        if pid and status == _MISCONFIGURED and not self._has_served:
            raise ServersMisconfiguredError("a serving process refused its settings")
        pause = self._backoff.pause_seconds(time.monotonic() - self._started)
        deaths = self._backoff.quick_deaths
        if deaths >= MAX_QUICK_DEATHS and not self._has_served:
            raise ServersFailedError("a serving process keeps dying; its log says why")
        self._next_start = time.monotonic() + pause
        _log.error(
            "server_died",
            number=self.number,
            pid=pid,
            status=status,
            quick_deaths_in_a_row=deaths,
            restart_in_seconds=pause,
        )

    def ask_to_stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait for its end, and end it by force when the time is over."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.warning("server_killed", number=self.number, pid=self._process.pid)
            self._process.kill()
            self._process.wait()
        self.forget()

    def forget(self) -> None:
        if self._control is not None:
            self._control.close()
        self._process = self._control = None
        self.serving = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid


class Supervisor:
    """`settings.processes` servers behind one address."""

    def __init__(self, settings: Settings) -> None:
        """Take the port.

        Raises:
            AddressRefusedError: the address cannot be served.
        """
        self._settings = settings
        self._socket, self.address = _reserve(listening_address(settings))
        environment = environment_of(
            settings.model_copy(update={"listen": str(self.address), "processes": 1})
        )
        self._servers = [_Server(number, environment) for number in range(settings.processes)]
        self._stopping = threading.Event()
        self._failure: ServersFailedError | None = None
        self._metrics: MetricsEndpoint | None = None
        self._watch = threading.Thread(target=self._keep_alive, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the servers and return when all of them answer calls.

        Raises:
            AddressRefusedError: the metrics cannot be shown where the settings want them.
            ServersFailedError: they do not start.
        """
        if self._settings.metrics_listen is not None:
            self._metrics = MetricsEndpoint(
                self._settings.metrics_listen,
                self._registry(),
                insecure=self._settings.metrics_insecure,
                is_ready=self._is_ready,
            )
        self._watch.start()
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not all(server.serving for server in self._servers):
            if self._failure is not None or time.monotonic() > deadline:
                failure = self._failure or ServersFailedError("the servers take too long to start")
                self.stop()
                raise failure
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Let calls under way end, then end the servers. Harmless when done twice."""
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        for server in self._servers:
            server.ask_to_stop()
        settings = self._settings
        seconds = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds
        deadline = time.monotonic() + seconds + _STOP_SLACK_SECONDS
        for server in self._servers:
            server.wait(deadline)
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._socket.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [server.pid for server in self._servers if server.pid is not None]

    @property
    def metrics_address(self) -> Address | None:
        """Where the metrics of all servers are shown; None where nobody asked for them."""
        return None if self._metrics is None else self._metrics.address

    def _registry(self) -> CollectorRegistry:
        """What the endpoint shows: the supervisor's own and, gathered when asked, its servers'."""
        metrics.server_processes.set_function(
            lambda: sum(server.serving for server in self._servers)
        )
        registry = CollectorRegistry()
        registry.register(metrics.server_deaths)
        registry.register(metrics.server_processes)
        registry.register(Processes(self._expositions))
        return registry

    def _expositions(self) -> dict[str, str]:
        asked = ((str(server.number), server.exposition()) for server in self._servers)
        return {number: text for number, text in asked if text is not None}

    def _is_ready(self) -> bool:
        """Whether at least one process serves, and all that serve are ready."""
        serving = [server for server in self._servers if server.serving]
        shown = [server.exposition(readiness_alone=True) for server in serving]
        return bool(shown) and all(each is not None and shows_ready(each) for each in shown)

    def _keep_alive(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                for server in self._servers:
                    server.look()
            except ServersFailedError as failure:
                self._failure = failure
                self._stopping.set()


def run(settings: Settings, announce: Callable[[Address], None]) -> None:
    """Serve by `settings.processes` processes until SIGTERM or SIGINT; call from the main thread.

    Raises:
        AddressRefusedError: the address cannot be served.
        ServersFailedError: the servers do not start.
    """
    termination = Termination()
    supervisor = Supervisor(settings)
    try:
        supervisor.start()
        announce(supervisor.address)
        while not termination.told:
            time.sleep(LOOK_SECONDS)
    finally:
        supervisor.stop()


def _reserve(address: Address) -> tuple[socket.socket, Address]:
    """A bound socket that keeps the port, and the address with the port it got."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # First without sharing: else a second supervisor would join the first one unnoticed.
    trial = socket.socket(family, socket.SOCK_STREAM)
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        with trial:
            # Connections of an earlier server that linger do not matter, one that listens does.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address.host, address.port))
            port = trial.getsockname()[1]
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((address.host, port))
    except OSError as error:
        reserved.close()
        raise AddressRefusedError(
            f"{address} cannot be listened on: {os.strerror(error.errno or 0)}"
        ) from error
    return reserved, Address(address.host, port)


_UNPREFIXED = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}


MALLOC_ARENAS = "2"
"""Heaps that the C library spreads a process's threads over. By default it makes up to eight a
core, and each keeps what its largest message took: measured over 3,600 hostile batches, a server
grew by 221 MiB with them and by 11 MiB with two, at the same speed."""


def environment_of(settings: Settings) -> dict[str, str]:
    """This process's environment with every setting in it, so that a child reads the same."""
    environment = {"MALLOC_ARENA_MAX": MALLOC_ARENAS, **os.environ}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        prefixed = f"CREDIT_{name.upper()}"
        environment.pop(prefixed, None)
        variable = _UNPREFIXED.get(name, prefixed)
        environment.pop(variable, None)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            environment[variable] = str(value)
    return environment

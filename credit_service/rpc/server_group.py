"""Several serving processes on one port.

The group holds the port from the start with a socket that is bound and never listens. So the
port, which the system chooses for port 0, stays reserved while processes die and restart. The
kernel spreads connections over them by SO_REUSEPORT.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry

from credit_service.observability import metrics
from credit_service.observability.metrics_http import (
    MetricsEndpoint,
    Processes,
    request_exposition,
    shows_ready,
)
from credit_service.processes.address import Address, AddressRefusedError, listening_address
from credit_service.processes.cores import Placement
from credit_service.processes.sizing import Sizing, size
from credit_service.processes.supervisor import (
    MAX_QUICK_DEATHS,
    Child,
    ChildFailedError,
    ChildMisconfiguredError,
    Death,
    environment_of,
)
from credit_service.processes.termination import POLL_SECONDS, Termination
from credit_service.settings import Settings
from credit_service.storage import readiness
from credit_service.storage.database import Database

_MODULE = "credit_service.rpc"
_START_TIMEOUT_SECONDS = 60.0
_STOP_SLACK_SECONDS = 5.0
_POLL_SECONDS = 0.05

_log = structlog.get_logger(__name__)


class _Server:
    """One serving process, restarted when it dies."""

    def __init__(self, number: int, environment: dict[str, str], core: int | None) -> None:
        self.number = number
        self._child = Child(_MODULE, environment, core=core)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def is_serving(self) -> bool:
        return self._child.is_ready

    def poll(self) -> None:
        """Restart it if it died, and log the death. Never waits.

        Raises:
            ChildFailedError: it has never served, and a restart would not help.
        """
        death = self._child.poll()
        if death is not None:
            metrics.server_deaths.inc()
            if not self._child.has_been_ready:
                _raise_if_hopeless(death)
            self._log_death(death)

    def _log_death(self, death: Death) -> None:
        if death.start_error is not None:
            _log.error("server_not_started", number=self.number, exc_info=death.start_error)
        _log.error(
            "server_died",
            number=self.number,
            pid=death.pid,
            status=death.status,
            quick_deaths_in_a_row=death.quick_deaths,
            restart_in_seconds=death.pause_seconds,
        )

    def exposition(self, *, readiness_alone: bool = False) -> str | None:
        """Its metrics; None if it does not serve, or does not answer soon."""
        control = self._child.control
        if control is None or not self.is_serving:
            return None
        return request_exposition(control, readiness_alone=readiness_alone)

    def move(self, core: int) -> None:
        """Note the core to which the process, and those after it, keep."""
        _log.info("server_moved", number=self.number, core=core, from_core=self._child.core)
        self._child.core = core

    def terminate(self) -> None:
        self._child.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for its end until `deadline`, in seconds of time.monotonic(), then kill it."""
        pid = self.pid
        if not self._child.wait(deadline):
            _log.warning("server_killed", number=self.number, pid=pid)


def _raise_if_hopeless(death: Death) -> None:
    """Raise ChildFailedError if a server that has never served is not to be restarted."""
    if death.is_misconfiguration:
        raise ChildMisconfiguredError("a serving process refused its settings")
    if death.quick_deaths >= MAX_QUICK_DEATHS:
        raise ChildFailedError("a serving process keeps dying; its log says why")


class ServerGroup:
    """Servers behind one address, as many as the settings or `processes.sizing` say."""

    def __init__(self, settings: Settings) -> None:
        """Reserve the port.

        Raises:
            AddressRefusedError: the address cannot be served: malformed, taken, or unsafe.
        """
        self._settings = settings
        self._socket, self.address = _reserve(listening_address(settings))
        sizing = size_of(settings)
        self._placement = Placement(sizing.count if settings.pin_processes else 0)
        environment = environment_of(
            settings.model_copy(update={"listen": str(self.address), "processes": 1})
        )
        self._servers = [
            _Server(number, environment, self._placement.core_of(number))
            for number in range(sizing.count)
        ]
        _log.info(
            "servers_sized",
            processes=sizing.count,
            limit=sizing.limit,
            cores=self._placement.cores or None,
        )
        self._stopping = threading.Event()
        self._failure: ChildFailedError | None = None
        self._metrics: MetricsEndpoint | None = None
        self._watch = threading.Thread(target=self._keep_alive, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the servers and return when all of them answer calls.

        Raises:
            AddressRefusedError: the metrics cannot listen on their address.
            ChildFailedError: the servers do not start.
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
        while not all(server.is_serving for server in self._servers):
            if self._failure is not None or time.monotonic() > deadline:
                failure = self._failure or ChildFailedError("the servers take too long to start")
                self.stop()
                raise failure
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Let calls in progress end, then stop the servers. A second call does nothing."""
        self._stopping.set()
        if self._watch.is_alive():
            self._watch.join()
        for server in self._servers:
            server.terminate()
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
        """The ids of the living processes."""
        return [server.pid for server in self._servers if server.pid is not None]

    @property
    def metrics_address(self) -> Address | None:
        """The address of the metrics of all servers; None if the settings name none."""
        return None if self._metrics is None else self._metrics.address

    def _registry(self) -> CollectorRegistry:
        """The group's own metrics and those of its servers, gathered at each scrape."""
        metrics.server_processes.set_function(
            lambda: sum(server.is_serving for server in self._servers)
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
        """Whether at least one process serves, and all serving processes are ready."""
        serving = [server for server in self._servers if server.is_serving]
        shown = [server.exposition(readiness_alone=True) for server in serving]
        return bool(shown) and all(each is not None and shows_ready(each) for each in shown)

    def _relieve(self) -> None:
        """Move servers that share their core with other busy processes."""
        serving = [server.pid if server.is_serving else None for server in self._servers]
        for number, core in self._placement.relieve(serving).items():
            self._servers[number].move(core)

    def _keep_alive(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                for server in self._servers:
                    server.poll()
                self._relieve()
            except ChildFailedError as failure:
                self._failure = failure
                self._stopping.set()


def size_of(settings: Settings) -> Sizing:
    """The number of serving processes for these settings, and what limits it."""
    if settings.processes is not None:
        return size(settings, None)
    url, pooler = settings.require_database_url(), settings.database_pooler
    with ExitStack() as closing:
        database = Database(url, pool_size=1, pooler=pooler)
        closing.callback(database.dispose)
        return size(settings, readiness.connection_limit(database, pooler))


def run(settings: Settings, announce: Callable[[Address], None]) -> None:
    """Run a group of servers until SIGTERM or SIGINT; call from the main thread.

    Raises:
        AddressRefusedError: the address cannot be served.
        ChildFailedError: the servers do not start.
    """
    termination = Termination()
    group = ServerGroup(settings)
    try:
        group.start()
        announce(group.address)
        while not termination.requested:
            time.sleep(POLL_SECONDS)
    finally:
        group.stop()


def _reserve(address: Address) -> tuple[socket.socket, Address]:
    """A bound socket that reserves the port, and the address with its port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # First without sharing: otherwise a second group would share the port unnoticed.
    trial = socket.socket(family, socket.SOCK_STREAM)
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        with trial:
            # Lingering connections of an earlier server do not matter, a listening server does.
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

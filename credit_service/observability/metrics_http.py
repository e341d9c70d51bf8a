"""Showing metrics and readiness over HTTP, of one process or of all serving processes as one.

Several serving processes are shown by their supervisor at one address, each sample with the label
`process`, the process's number. The samples are not summed here: a process that dies takes its
counts along, and only with a series each does Prometheus see that and keep its rates right. The
processes answer the supervisor over the sockets that it controls them by, so there is no port,
file or folder for each, nothing to clean after one that died, and gauges that are read when asked
for work. prometheus_client's way, files mapped into memory, was measured to make each count three
times as dear and has none of this.
"""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from credit_service.observability.metrics import READY, REGISTRY
from credit_service.observability.probe import trouble
from credit_service.processes.address import Address, AddressRefusedError, parse_address

PROCESS_LABEL = "process"

_MAX_EXPOSITION_BYTES = 16 * 1024 * 1024
_ANSWER_SECONDS = 2.0
_REQUEST_SECONDS = 5.0
_MAX_REQUESTS = 8

_log = structlog.get_logger(__name__)


class MetricsEndpoint:
    """Answers `GET /metrics` and `GET /ready` from now on, on threads of its own, until it is
    closed. `/ready` is 200 while calls are served well, and else 503: it is what a balancer asks,
    where callers cannot reach."""

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry = REGISTRY,
        *,
        insecure: bool = False,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        """`listen` is host:port; `insecure` allows others than this machine to ask. `is_ready` is
        by default what the registry shows of this process.

        Raises:
            AddressRefusedError: the address is malformed, taken, or other than loopback without
                `insecure`: nobody is asked for credentials here.
        """
        address = parse_address(listen, insecure=True)
        if not insecure and not ipaddress.ip_address(address.host).is_loopback:
            raise AddressRefusedError(
                f"metrics at {listen!r} could be read from other machines without credentials."
                " Use a loopback address, or set CREDIT_METRICS_INSECURE=true to allow it."
            )
        try:
            self._server = make_server(
                address.host,
                address.port,
                _application(registry, is_ready or (lambda: shows_ready(readiness(registry)))),
                server_class=_Server6 if ":" in address.host else _Server,
                handler_class=_Handler,
            )
        except OSError as error:
            raise AddressRefusedError(
                f"metrics cannot be shown at {listen}: {error.strerror}"
            ) from error
        self.address = Address(address.host, self._server.server_port)
        """Where it listens, with the port that the system chose for port 0."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()
        _log.info("metrics_shown", address=str(self.address))

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """At most eight requests at once, none longer than the handler's timeout."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._room = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hung up or took too long; said for whoever looks closely."""
        del request, client_address
        _log.debug("metrics_request_failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS  # of each read and write

    def log_message(self, *_: Any) -> None:
        """A scrape is nothing worth a line."""


def readiness(registry: CollectorRegistry) -> str:
    """What the registry shows of readiness alone, which costs little."""
    return generate_latest(registry.restricted_registry([READY])).decode()


def shows_ready(exposition: str) -> bool:
    """Whether the text of one process's metrics, or of several joined, says that all are ready."""
    return trouble(exposition, [READY]) is None


def _application(
    registry: CollectorRegistry, is_ready: Callable[[], bool]
) -> Callable[..., Iterable[bytes]]:
    show: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/ready":
            ready = is_ready()
            status = "200 OK" if ready else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain")])
            return [b"ready\n" if ready else b"not ready\n"]
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"The metrics are at /metrics, readiness is at /ready.\n"]
        return show(environ, start_response)

    return application


# Several processes as one.


class Processes(Collector):
    """The samples of several processes, each with the process's number as a label."""

    def __init__(self, expositions: Callable[[], Mapping[str, str]]) -> None:
        """`expositions` asks the processes: the text of each that answered, by its number."""
        self._expositions = expositions

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the samples of all processes."""
        families: dict[str, Metric] = {}
        for number, text in self._expositions().items():
            for found in text_string_to_metric_families(text):
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type)
                )
                family.samples += [
                    sample._replace(labels={**sample.labels, PROCESS_LABEL: number})
                    for sample in found.samples
                ]
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing: what the processes have is not known before they are asked."""
        return ()


def ask(control: socket.socket, *, readiness_alone: bool = False) -> str | None:
    """The exposition of the process at the other end of `control`, or what it shows of readiness
    alone; None when it gives none in time.

    It is handed one end of a new socket to write to, so that an answer that comes too late is
    nobody's instead of the next question's.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                question = _READINESS if readiness_alone else _METRICS
                socket.send_fds(control, [question], [theirs.fileno()])
            except OSError:
                # It has died, or is stopped and has not taken the questions before this one.
                return None
        return _read_all(ours)


def _read_all(source: socket.socket) -> str | None:
    deadline = time.monotonic() + _ANSWER_SECONDS
    received = bytearray()
    with contextlib.suppress(OSError):
        while (left := deadline - time.monotonic()) > 0 and len(received) < _MAX_EXPOSITION_BYTES:
            source.settimeout(left)
            chunk = source.recv(1 << 18)
            if not chunk:
                # An answer that broke off would show counters that are missing or cut short.
                text = received.decode()
                return text if text.endswith(_END) else None
            received += chunk
    return None


_END = "# EOF\n"
_METRICS, _READINESS = b"m", b"r"


def answer_until_closed(control: socket.socket, registry: CollectorRegistry = REGISTRY) -> None:
    """Answer a supervisor's questions; returns when its side is closed, however it ended."""
    while True:
        try:
            message, handed, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            return
        for number in handed:
            with socket.socket(fileno=number) as asker, contextlib.suppress(OSError):
                asker.settimeout(_ANSWER_SECONDS)
                if message == _READINESS:
                    shown = readiness(registry).encode()
                else:
                    shown = generate_latest(registry)
                asker.sendall(shown + _END.encode())
        if not message:
            return

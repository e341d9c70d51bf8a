"""Metrics and readiness over HTTP, of one process or of all serving processes at one address.

A supervisor shows the metrics of its serving processes, each sample with the label `process`, the
process's number. It does not sum them: a process that dies loses its counts, and only with a series
for each process can Prometheus detect that and compute correct rates. The processes answer the
supervisor over their control sockets, so none needs a port, file or folder, nothing is left to
clean up after a death, and gauges that are read at each scrape work. The alternative of
prometheus_client, memory-mapped files, was measured to make each count three times as expensive,
and has none of these properties.
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
_ANSWER_TIMEOUT_SECONDS = 2.0
_REQUEST_TIMEOUT_SECONDS = 5.0
_MAX_REQUESTS = 8

_log = structlog.get_logger(__name__)


class MetricsEndpoint:
    """Answers `GET /metrics` and `GET /ready` on its own threads until it is closed.

    `/ready`, for load balancers, is 200 while the process is ready and 503 otherwise.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry = REGISTRY,
        *,
        insecure: bool = False,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        """`listen` is host:port; `insecure` allows addresses other than loopback. By default
        `is_ready` returns this process's readiness from the registry.

        Raises:
            AddressRefusedError: the address is malformed, taken, or not loopback without
                `insecure`: requests here need no credentials.
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
        """The address, with the port that the system chose for port 0."""
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
    """Serves at most eight requests at once, each for at most the handler's timeout."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log, at debug level, a peer that closed the connection or took too long."""
        del request, client_address
        _log.debug("metrics_request_failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_SECONDS  # of each read and write

    def log_message(self, *_: Any) -> None:
        """Do not log scrapes."""


def readiness(registry: CollectorRegistry) -> str:
    """The registry's exposition of readiness alone, which is cheap."""
    return generate_latest(registry.restricted_registry([READY])).decode()


def shows_ready(exposition: str) -> bool:
    """Whether the metrics' text, of one process or of several joined, shows all as ready."""
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


# Several processes at one address.


class Processes(Collector):
    """The samples of several processes, each with the process's number as a label."""

    def __init__(self, expositions: Callable[[], Mapping[str, str]]) -> None:
        """`expositions` returns the metrics' text of each process that answers, by its number."""
        self._expositions = expositions

    def collect(self) -> Iterator[Metric]:
        """Each family once, with the samples of all processes."""
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
        """Nothing: the families of the processes are unknown before a scrape."""
        return ()


def request_exposition(control: socket.socket, *, readiness_alone: bool = False) -> str | None:
    """The exposition of the process at the other end of `control`, or its readiness alone.

    None if it does not answer in time. Each request passes one end of a new socket for the answer,
    so a late answer never reaches the next request.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                request = _READINESS if readiness_alone else _METRICS
                socket.send_fds(control, [request], [theirs.fileno()])
            except OSError:
                # It has died, or is suspended and has not read earlier requests.
                return None
        return _read_all(ours)


def _read_all(source: socket.socket) -> str | None:
    deadline = time.monotonic() + _ANSWER_TIMEOUT_SECONDS
    received = bytearray()
    with contextlib.suppress(OSError):
        while (left := deadline - time.monotonic()) > 0 and len(received) < _MAX_EXPOSITION_BYTES:
            source.settimeout(left)
            chunk = source.recv(1 << 18)
            if not chunk:
                # A truncated answer would show missing or wrong counters.
                text = received.decode()
                return text if text.endswith(_END) else None
            received += chunk
    return None


_END = "# EOF\n"
_METRICS, _READINESS = b"m", b"r"


def answer_until_closed(control: socket.socket, registry: CollectorRegistry = REGISTRY) -> None:
    """Answer a supervisor's requests until its end of the socket closes."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            return
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as answer, contextlib.suppress(OSError):
                answer.settimeout(_ANSWER_TIMEOUT_SECONDS)
                if message == _READINESS:
                    shown = readiness(registry).encode()
                else:
                    shown = generate_latest(registry)
                answer.sendall(shown + _END.encode())
        if not message:
            return

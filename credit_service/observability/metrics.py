"""What the service counts and measures, by names that Prometheus knows.

The numbers of a process live in its memory, in `REGISTRY`; `metrics_http` shows them, those of all
serving processes together. Calls go by the names of go-grpc-prometheus, so that dashboards and
rules made for those fit; the business's own begin with `credit_`. Every label has a bounded set of
values: nothing that a caller makes up becomes one.

This module imports nothing of ours: every layer but the domain may count.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# The time at which a counter began would double the number of series; nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""Everything this process counts."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

GRPC_CODES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
"""Names of the status codes 0 … 16, spelt as go-grpc-prometheus does."""

OK: Final = 0
CANCELED: Final = 1
DEADLINE_EXCEEDED: Final = 4

_CALL_SECONDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_WORK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# Calls.

_METHOD_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_started = Counter(
    "grpc_server_started_total",
    "Calls that began.",
    _METHOD_LABELS,
    registry=REGISTRY,
)
_handled = Counter(
    "grpc_server_handled_total",
    "Calls that ended, by status.",
    (*_METHOD_LABELS, "grpc_code"),
    registry=REGISTRY,
)
_received = Counter(
    "grpc_server_msg_received_total",
    "Messages received on streams.",
    _METHOD_LABELS,
    registry=REGISTRY,
)
_sent = Counter(
    "grpc_server_msg_sent_total",
    "Messages sent on streams.",
    _METHOD_LABELS,
    registry=REGISTRY,
)
_handling = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's begin on its thread to its end.",
    _METHOD_LABELS,
    registry=REGISTRY,
    buckets=_CALL_SECONDS,
)
calls_without_message = Counter(
    "credit_server_calls_without_message_total",
    "Calls cancelled because their message did not arrive in time.",
    registry=REGISTRY,
)
connections_closed = Counter(
    "credit_server_connections_closed_total",
    "Connections closed because they took more than half of the descriptors.",
    registry=REGISTRY,
)
call_failures = Counter(
    "credit_call_failures_total",
    "Calls that ended with an error, by the reason given in ErrorInfo.",
    ("reason",),
    registry=REGISTRY,
)


class MethodMetrics:
    """The numbers of one method, looked up once so that a call only adds to them.

    `received` and `sent` count the messages of streams: `received.inc()`.
    """

    __slots__ = ("_handled", "_handling", "_started", "received", "sent")

    def __init__(self, grpc_type: str, service: str, method: str) -> None:
        labels = (grpc_type, service, method)
        self._started = _started.labels(*labels)
        # All of them from the start: a rise from nothing is none to Prometheus, and the first
        # error of its kind would not be seen.
        self._handled = tuple(_handled.labels(*labels, code) for code in GRPC_CODES)
        self._handling = _handling.labels(*labels)
        self.received = _received.labels(*labels)
        self.sent = _sent.labels(*labels)

    def begin(self) -> None:
        """Count a call that begins."""
        self._started.inc()

    def end(self, code: int, seconds: float) -> None:
        """Count a call that ended with the status code of that number, after so many seconds."""
        self._handled[code].inc()
        self._handling.observe(seconds)


def method_metrics(path: str, *, client_streaming: bool, server_streaming: bool) -> MethodMetrics:
    """The numbers of the method `/package.Service/Method`. For methods that exist only: what a
    caller makes up must not become a label."""
    service, _, method = path.removeprefix("/").partition("/")
    return MethodMetrics(_grpc_type(client_streaming, server_streaming), service, method)


def _grpc_type(client_streaming: bool, server_streaming: bool) -> str:
    if client_streaming:
        return "bidi_stream" if server_streaming else "client_stream"
    return "server_stream" if server_streaming else "unary"


# Decisions.

decisions = Counter(
    "credit_decisions_total",
    "Decisions on loans, by outcome (approved, declined) and the reason that weighs most; an"
    " approval's is RATE_STANDS or RATE_CORRECTED. Answers repeated under a request id do not"
    " count.",
    ("outcome", "reason", "scorecard_version"),
    registry=REGISTRY,
)
decision_score = Histogram(
    "credit_score",
    "The scores, 0 to 100, that decisions were made on.",
    registry=REGISTRY,
    buckets=(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
)
lost_races = Counter(
    "credit_database_lost_races_total",
    "Tries of a unit of work that another transaction made void, and that began again.",
    registry=REGISTRY,
)

# Ingestion.

ROW_OUTCOMES: Final = ("inserted", "updated", "unchanged", "skipped", "rejected")
ingested_rows = Counter(
    "credit_ingestion_rows_total",
    "Rows dealt with, by kind (customers, loans), source (stream, upload) and outcome (inserted,"
    " updated, unchanged, skipped, rejected). Those of dry runs not counted.",
    ("kind", "source", "outcome"),
    registry=REGISTRY,
)
ingestion_batch_seconds = Histogram(
    "credit_ingestion_batch_seconds",
    "Time to check and store one batch of rows, its commit included.",
    ("kind", "source"),
    registry=REGISTRY,
    buckets=_WORK_SECONDS,
)
ingestions_ended = Counter(
    "credit_ingestions_total",
    "Ingestions that ended, by kind, source and state (succeeded, failed).",
    ("kind", "source", "state"),
    registry=REGISTRY,
)

customers_over_limit = Counter(
    "credit_ingestion_customers_over_limit_total",
    "Customers whom ingestions left with more debt than their approved limit, by kind and source.",
    ("kind", "source"),
    registry=REGISTRY,
)

events_skipped = Counter(
    "credit_events_skipped_total",
    "Events that a watcher did not get: of a kind that only a later release knows.",
    registry=REGISTRY,
)

# The cache of credit positions.

cache_reads = Counter(
    "credit_cache_reads_total",
    "Looks into the cache: hit, miss, or failure when Redis did not answer or was not asked.",
    ("outcome",),
    registry=REGISTRY,
)
cache_writes = Counter(
    "credit_cache_writes_total",
    "Entries written or removed: done, or failure when they are left for later.",
    ("outcome",),
    registry=REGISTRY,
)

# Work in the background.

tasks_ended = Counter(
    "credit_tasks_total",
    "Attempts at tasks that ended, by actor and outcome (done, failed, parked, given_back).",
    ("actor", "outcome"),
    registry=REGISTRY,
)
task_seconds = Histogram(
    "credit_task_seconds",
    "Time that an attempt at a task took.",
    ("actor",),
    registry=REGISTRY,
    buckets=_WORK_SECONDS,
)
events_published = Counter(
    "credit_events_published_total",
    "Events that the relay gave their place in the stream.",
    registry=REGISTRY,
)
reconciled_customers = Counter(
    "credit_reconciled_customers_total",
    "Customers whose stored position and score were compared with the facts.",
    registry=REGISTRY,
)
discrepancies = Counter(
    "credit_discrepancies_total",
    "Differences that the comparison found and corrected; each is a defect of the service.",
    registry=REGISTRY,
)

_build = Gauge("credit_build_info", "1; the release that runs.", ("version",), registry=REGISTRY)
try:
    _build.labels(version("credit-service")).set(1)
except PackageNotFoundError:  # run from a checkout that is not installed
    _build.labels("unknown").set(1)

# Shown from the start: a rise from nothing is none to Prometheus, and the first would go unseen.
for _outcome in ("hit", "miss", "failure"):
    cache_reads.labels(_outcome)
for _outcome in ("done", "failure"):
    cache_writes.labels(_outcome)
for _kind, _source in product(("customers", "loans"), ("stream", "upload")):
    ingestion_batch_seconds.labels(_kind, _source)
    customers_over_limit.labels(_kind, _source)
    for _outcome in ROW_OUTCOMES:
        ingested_rows.labels(_kind, _source, _outcome)
    for _state in ("succeeded", "failed"):
        ingestions_ended.labels(_kind, _source, _state)


def show_reasons(reasons: Iterable[str]) -> None:
    """Show these reasons of failed calls from the start."""
    for reason in reasons:
        call_failures.labels(reason)


def show_actors(actors: Iterable[str]) -> None:
    """Show these actors from the start."""
    for actor in actors:
        task_seconds.labels(actor)
        for outcome in ("done", "failed", "parked", "given_back"):
            tasks_ended.labels(actor, outcome)


# The supervisor of serving processes, which shows these beside what it gathers from them.

server_deaths = Counter(
    "credit_server_process_deaths_total",
    "Serving processes that ended without being told to, and were started again.",
    registry=None,
)
server_processes = Gauge(
    "credit_server_processes", "Serving processes that answer calls.", registry=None
)

# What is not counted but looked at when somebody asks.

Reading = tuple[str, tuple[str, ...], float]
"""Name of a gauge, the values of its labels, its value now."""

_Gauges = Mapping[str, tuple[str, tuple[str, ...]]]
"""Meaning and label names of gauges, by name."""


class Readings(Collector):
    """Gauges read at the moment they are asked for, from whoever knows them.

    Several sources of one gauge are summed, as of two servers in one process. A source is a
    function without arguments that answers at once and raises nothing; what it does not give is
    not shown.
    """

    def __init__(self, gauges: _Gauges) -> None:
        """Only `gauges` can be given."""
        self._gauges = dict(gauges)
        self._sources: list[Callable[[], Iterable[Reading]]] = []
        self._lock = threading.Lock()

    def add(self, source: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Ask `source` from now on. The function returned ends that, and may be called twice."""
        with self._lock:
            self._sources.append(source)

        def remove() -> None:
            with self._lock:
                if source in self._sources:
                    self._sources.remove(source)

        return remove

    def collect(self) -> Iterator[Metric]:
        """The gauges that at least one source knows."""
        with self._lock:
            sources = list(self._sources)
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for source in sources:
            for name, labels, value in source():
                values = found.setdefault(name, {})
                values[labels] = values.get(labels, 0.0) + value
        for name, values in found.items():
            meaning, label_names = self._gauges[name]
            family = GaugeMetricFamily(name, meaning, labels=label_names)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Every gauge, without values."""
        return [
            GaugeMetricFamily(name, meaning, labels=labels)
            for name, (meaning, labels) in self._gauges.items()
        ]


READY: Final = "credit_server_ready"
"""The reading that says whether a process serves."""

server_readings = Readings(
    {
        READY: ("1 while health says SERVING, which follows PostgreSQL.", ()),
        "credit_server_threads": ("Threads that serve calls, by kind (read, write).", ("kind",)),
        "credit_server_threads_busy": ("Threads that serve a call now, by kind.", ("kind",)),
        "credit_server_calls_waiting": ("Calls that wait for a thread, by kind.", ("kind",)),
        "credit_server_calls_waiting_limit": (
            "Waiting calls beyond which more are refused, by kind.",
            ("kind",),
        ),
        "credit_server_calls_awaiting_turn": (
            "Calls that wait, without a thread, for another that writes to the same customer.",
            (),
        ),
        "credit_server_calls_awaiting_message": (
            "Calls whose message has not arrived; they take no thread.",
            (),
        ),
        "credit_server_token_keys": ("Keys that verify tokens; with 0 no token holds.", ()),
        "credit_server_health_watches": ("Watches of the health that are open.", ()),
        "credit_server_streams": ("Streams that are open.", ()),
        "credit_server_streams_limit": ("Streams beyond which more are refused.", ()),
        "credit_database_pool_size": ("Database connections that the process may open.", ()),
        "credit_database_pool_in_use": ("Database connections in use now.", ()),
        "credit_cache_available": ("1 while Redis answers, 0 while it is left alone.", ()),
    }
)
"""What a process is at."""
REGISTRY.register(server_readings)

backlog_readings = Readings(
    {
        "credit_outbox_events_waiting": (
            "Events that wait for the relay; at most 10,000 are counted.",
            (),
        ),
        "credit_outbox_oldest_event_age_seconds": (
            "Age of the oldest event that waits for the relay; 0 when none does.",
            (),
        ),
        "credit_outbox_tasks": (
            "Tasks by actor and state (pending, sent, running; parked: given up, see why).",
            ("actor", "state"),
        ),
        "credit_outbox_oldest_task_overdue_seconds": (
            "For how long the longest waiting pending task has been due; 0 when none is.",
            ("actor",),
        ),
        "credit_ingestions_unfinished": ("Ingestions by state (queued, running).", ("state",)),
        "credit_scores_past_horizon": (
            "Customers whose stored score a date has outdated; at most 10,000 are counted.",
            (),
        ),
    }
)
"""Facts of the database, the same whichever process reads them."""
REGISTRY.register(backlog_readings)

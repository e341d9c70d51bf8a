"""The metrics of the service, for Prometheus.

Each process keeps its metrics in memory, in `REGISTRY`; `metrics_http` shows them, those of all
serving processes at one address. Metrics of calls have the names of go-grpc-prometheus, so its
dashboards and rules work; the service's own start with `credit_`. Each label has a bounded set of
values: no value from a caller becomes one.

This module imports no other of the service: every layer but the domain may count.
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

# The creation time of each counter would double the number of series, and no rule uses it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""All metrics of this process."""

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
"""Names of the status codes 0 … 16, spelt as in go-grpc-prometheus."""

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
    "Calls that started.",
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
    "Time from the start of a call on its thread to its end.",
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
    "Connections closed because connections used more than half of the descriptors.",
    registry=REGISTRY,
)
call_failures = Counter(
    "credit_call_failures_total",
    "Calls that ended with an error, by the reason in ErrorInfo.",
    ("reason",),
    registry=REGISTRY,
)


class MethodMetrics:
    """The metrics of one method, looked up once so that a call only adds to them.

    `received` and `sent` count the messages of streams: `received.inc()`.
    """

    __slots__ = ("_handled", "_handling", "_started", "received", "sent")

    def __init__(self, grpc_type: str, service: str, method: str) -> None:
        labels = (grpc_type, service, method)
        self._started = _started.labels(*labels)
        # Created at the start: Prometheus sees no increase when a new series appears, and would
        # miss the first error of its kind.
        self._handled = tuple(_handled.labels(*labels, code) for code in GRPC_CODES)
        self._handling = _handling.labels(*labels)
        self.received = _received.labels(*labels)
        self.sent = _sent.labels(*labels)

    def begin(self) -> None:
        """Count the start of a call."""
        self._started.inc()

    def end(self, code: int, seconds: float) -> None:
        """Count the end of a call with the numeric status `code` after `seconds`."""
        self._handled[code].inc()
        self._handling.observe(seconds)


def method_metrics(path: str, *, client_streaming: bool, server_streaming: bool) -> MethodMetrics:
    """The metrics of the method `/package.Service/Method`. Only for methods that exist: a caller
    must not create labels."""
    service, _, method = path.removeprefix("/").partition("/")
    return MethodMetrics(_grpc_type(client_streaming, server_streaming), service, method)


def _grpc_type(client_streaming: bool, server_streaming: bool) -> str:
    if client_streaming:
        return "bidi_stream" if server_streaming else "client_stream"
    return "server_stream" if server_streaming else "unary"


# Decisions.

decisions = Counter(
    "credit_decisions_total",
    "Decisions on loans, by outcome (approved, declined, referred) and main reason; that of an"
    " approval is RATE_STANDS or RATE_CORRECTED. Repeated answers to the same request id do not"
    " count.",
    ("outcome", "reason", "scorecard_version"),
    registry=REGISTRY,
)
decision_score = Histogram(
    "credit_score",
    "The scores, 0 to 100, that decisions used.",
    registry=REGISTRY,
    buckets=(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
)
loan_offers = Counter(
    "credit_loan_offers_total",
    "Offers by what happened to them (created, accepted, withdrawn, expired). Repeated answers to"
    " the same request id do not count.",
    ("event",),
    registry=REGISTRY,
)
asset_class_changes = Counter(
    "credit_asset_class_changes_total",
    "Announced changes of customers' asset classes, by the new class (STANDARD, SMA_0, SMA_1,"
    " SMA_2, NPA).",
    ("asset_class",),
    registry=REGISTRY,
)
replica_reads = Counter(
    "credit_replica_reads_total",
    "Calls of the methods in CREDIT_REPLICA_METHODS, by the server that answered (standby,"
    " primary).",
    ("server",),
    registry=REGISTRY,
)


def count_class_changes(classes: Iterable[str]) -> None:
    """Count announced changes by the names of the new classes."""
    for each in classes:
        asset_class_changes.labels(each).inc()


lost_races = Counter(
    "credit_database_lost_races_total",
    "Attempts at a unit of work that another transaction invalidated, and that were retried.",
    registry=REGISTRY,
)

group_sizes = Histogram(
    "credit_group_calls",
    "Concurrent calls of a command that one group ran together, or of a method (check,"
    " loan) that shared one read; 1 for a call alone.",
    ("command",),
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32),
)
GROUP_EXITS: Final = (
    "repeat",
    "lost_race",
    "outdated",
    "facts",
    "day",
    "distributed",
    "failed",
    "leader_died",
    "late",
)
group_exits = Counter(
    "credit_group_exits_total",
    "Calls that left their group to run alone, by reason (repeat: the request id is stored;"
    " lost_race: the customer was locked or had changed; outdated: the stored position is not of"
    " the day, or other loans or payments must be read; facts: a policy needs facts; day: the group"
    " runs for another day; distributed: the database is a cluster; failed: the group's statement"
    " failed; leader_died: its thread ended; late: a shared read took too long).",
    ("command", "reason"),
    registry=REGISTRY,
)

# Ingestion.

ROW_OUTCOMES: Final = ("inserted", "updated", "unchanged", "skipped", "rejected")
ingested_rows = Counter(
    "credit_ingestion_rows_total",
    "Rows processed, by kind (customers, loans), source (stream, upload) and outcome (inserted,"
    " updated, unchanged, skipped, rejected). Rows of dry runs do not count.",
    ("kind", "source", "outcome"),
    registry=REGISTRY,
)
ingestion_batch_seconds = Histogram(
    "credit_ingestion_batch_seconds",
    "Time to check and store one batch of rows, including the commit.",
    ("kind", "source"),
    registry=REGISTRY,
    buckets=_WORK_SECONDS,
)
ingestions_ended = Counter(
    "credit_ingestions_total",
    "Ingestions that ended, by kind, source and state (succeeded, failed, cancelled, reverted).",
    ("kind", "source", "state"),
    registry=REGISTRY,
)

customers_over_limit = Counter(
    "credit_ingestion_customers_over_limit_total",
    "Customers that ingestions left with more debt than their approved limit, by kind and source.",
    ("kind", "source"),
    registry=REGISTRY,
)

events_skipped = Counter(
    "credit_events_skipped_total",
    "Events of a kind that only a later release knows, which watchers did not get.",
    registry=REGISTRY,
)

# The cache of credit positions.

cache_reads = Counter(
    "credit_cache_reads_total",
    "Cache reads: hit, miss, or failure if Redis did not answer or was skipped.",
    ("outcome",),
    registry=REGISTRY,
)
cache_writes = Counter(
    "credit_cache_writes_total",
    "Cache entries written or removed: done, or failure if postponed.",
    ("outcome",),
    registry=REGISTRY,
)

# Background tasks.

tasks_ended = Counter(
    "credit_tasks_total",
    "Ended attempts at tasks, by actor and outcome (done, failed, parked, given_back).",
    ("actor", "outcome"),
    registry=REGISTRY,
)
task_seconds = Histogram(
    "credit_task_seconds",
    "Duration of an attempt at a task.",
    ("actor",),
    registry=REGISTRY,
    buckets=_WORK_SECONDS,
)
events_published = Counter(
    "credit_events_published_total",
    "Events that the relay published.",
    registry=REGISTRY,
)
reconciled_customers = Counter(
    "credit_reconciled_customers_total",
    "Customers whose stored loans, position and score the reconciliation compared with the facts.",
    registry=REGISTRY,
)
discrepancies = Counter(
    "credit_discrepancies_total",
    "Differences that the reconciliation found and corrected; each is a defect of the service.",
    registry=REGISTRY,
)

deleted_rows = Counter(
    "credit_retention_deleted_rows_total",
    "Rows deleted at the end of their retention, by table.",
    ("table",),
    registry=REGISTRY,
)

_build = Gauge("credit_build_info", "1; the running release.", ("version",), registry=REGISTRY)
try:
    _build.labels(version("credit-service")).set(1)
except PackageNotFoundError:  # run from a checkout that is not installed
    _build.labels("unknown").set(1)

# Created at the start: Prometheus would miss the first increase of a new series.
for _outcome in ("hit", "miss", "failure"):
    cache_reads.labels(_outcome)
for _outcome in ("done", "failure"):
    cache_writes.labels(_outcome)
for _kind, _source in product(("customers", "loans"), ("stream", "upload")):
    ingestion_batch_seconds.labels(_kind, _source)
    customers_over_limit.labels(_kind, _source)
    for _outcome in ROW_OUTCOMES:
        ingested_rows.labels(_kind, _source, _outcome)
    for _state in ("succeeded", "failed", "cancelled", "reverted"):
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


def show_deleted_tables(tables: Iterable[str]) -> None:
    """Show these tables of deleted rows from the start."""
    for table in tables:
        deleted_rows.labels(table)


# The supervisor's own metrics, which it shows beside those of its serving processes.

server_deaths = Counter(
    "credit_server_process_deaths_total",
    "Serving processes that died and were restarted.",
    registry=None,
)
server_processes = Gauge(
    "credit_server_processes", "Serving processes that answer calls.", registry=None
)

# Gauges that are read at each scrape.

Reading = tuple[str, tuple[str, ...], float]
"""Name of a gauge, the values of its labels, its current value."""

_Gauges = Mapping[str, tuple[str, tuple[str, ...]]]
"""Help text and label names of gauges, by name."""


class Readings(Collector):
    """Gauges read from their sources at each scrape.

    A source is a function without arguments that returns at once and raises nothing. The values of
    several sources of one gauge are summed, as with two servers in one process. A gauge without a
    value is not shown.
    """

    def __init__(self, gauges: _Gauges) -> None:
        """Sources may only return values of `gauges`."""
        self._gauges = dict(gauges)
        self._sources: list[Callable[[], Iterable[Reading]]] = []
        self._lock = threading.Lock()

    def add(self, source: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Add a source and return the function that removes it, which may be called twice."""
        with self._lock:
            self._sources.append(source)

        def remove() -> None:
            with self._lock:
                if source in self._sources:
                    self._sources.remove(source)

        return remove

    def collect(self) -> Iterator[Metric]:
        """The gauges with a value from at least one source."""
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
        """All gauges, without values."""
        return [
            GaugeMetricFamily(name, meaning, labels=labels)
            for name, (meaning, labels) in self._gauges.items()
        ]


READY: Final = "credit_server_ready"
"""The gauge of a process's readiness."""

server_readings = Readings(
    {
        READY: ("1 while the health status is SERVING, which depends on PostgreSQL.", ()),
        "credit_server_threads": ("Threads that serve calls, by kind (read, write).", ("kind",)),
        "credit_server_threads_busy": (
            "Threads that serve a call at the moment, by kind.",
            ("kind",),
        ),
        "credit_server_calls_waiting": (
            "Calls that wait for a thread, by kind (read, write, batch).",
            ("kind",),
        ),
        "credit_server_calls_waiting_limit": (
            "Waiting calls above which further calls are rejected, by kind.",
            ("kind",),
        ),
        "credit_server_calls_awaiting_turn": (
            "Calls that wait, without a thread, for another call that writes to the same customer.",
            (),
        ),
        "credit_server_calls_awaiting_message": (
            "Calls whose message has not arrived; they use no thread.",
            (),
        ),
        "credit_server_token_keys": ("Keys that verify tokens; with 0 every token is invalid.", ()),
        "credit_server_health_watches": ("Open health watches.", ()),
        "credit_server_streams": ("Open streams.", ()),
        "credit_server_streams_limit": (
            "Open streams above which further streams are rejected.",
            (),
        ),
        "credit_database_pool_size": ("Database connections that the process may open.", ()),
        "credit_database_pool_in_use": ("Database connections in use.", ()),
        "credit_cache_available": ("1 while Redis answers, 0 while the service skips it.", ()),
        "credit_redis_mode": (
            "1 for the form of REDIS_URL that the process uses (single, sentinel, cluster).",
            ("mode",),
        ),
        "credit_replica_usable": (
            "1 while the standby of CREDIT_REPLICA_URL serves calls, 0 while the primary does.",
            (),
        ),
        "credit_replica_lag_seconds": (
            "Age of the standby's data, at most; absent while it is unknown.",
            (),
        ),
    }
)
"""The state of a process."""
REGISTRY.register(server_readings)

backlog_readings = Readings(
    {
        "credit_outbox_events_waiting": (
            "Events that wait for the relay; counts at most 10,000.",
            (),
        ),
        "credit_outbox_oldest_event_age_seconds": (
            "Age of the oldest event that waits for the relay; 0 if none waits.",
            (),
        ),
        "credit_outbox_tasks": (
            "Tasks by actor and state (pending, sent, running; parked: every attempt failed).",
            ("actor", "state"),
        ),
        "credit_outbox_oldest_task_overdue_seconds": (
            "Time since the pending task that waits longest became due; 0 if none is due.",
            ("actor",),
        ),
        "credit_ingestions_unfinished": ("Ingestions by state (queued, running).", ("state",)),
        "credit_referrals_pending": (
            "Referred decisions that wait for a reviewer; counts at most 10,000.",
            (),
        ),
        "credit_referrals_oldest_pending_age_seconds": (
            "Age of the oldest referred decision that waits for a reviewer; 0 if none waits.",
            (),
        ),
        "credit_retention_oldest_age_seconds": (
            "Time for which the oldest row that can expire has been kept, by table; 0 without one.",
            ("table",),
        ),
        "credit_retention_overdue_seconds": (
            "Time since the oldest row should have been deleted, by table; 0 if none should.",
            ("table",),
        ),
        "credit_retention_completed_timestamp_seconds": (
            "When no expired row was left, in seconds since 1970.",
            (),
        ),
        "credit_scores_past_horizon": (
            "Customers whose stored score is outdated by a date; counts at most 10,000.",
            (),
        ),
    }
)
"""Facts of the database, the same from every process."""
REGISTRY.register(backlog_readings)

"""One serving process: listens, serves calls, reports its health, stops without dropping calls."""

import threading
import time
from collections.abc import Callable, Iterable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.domain.errors import CreditError
from credit_service.ingestion import streams
from credit_service.observability import metrics
from credit_service.postgresql_url import shown_hosts
from credit_service.processes.address import Address, AddressRefusedError, listening_address
from credit_service.processes.termination import Termination
from credit_service.rpc.auth.gatekeeper import gatekeeper
from credit_service.rpc.auth.tls import server_credentials
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.access_log import AccessLog
from credit_service.rpc.calls.connections import ConnectionGuard, raise_descriptor_limit
from credit_service.rpc.calls.pipeline import Pipeline
from credit_service.rpc.calls.pool import ServingPool
from credit_service.rpc.credit import CreditServicer
from credit_service.rpc.health import Health
from credit_service.rpc.ingestion import IngestionServicer
from credit_service.rpc.operations import OperationsServicer
from credit_service.rpc.reflection import REFLECTION_METHODS, Reflection
from credit_service.rpc.replica import Replica
from credit_service.rpc.scorecards import ScorecardServicer
from credit_service.settings import Settings
from credit_service.storage import readiness, schema
from credit_service.storage.database import Database, write_share
from credit_service.v1 import (
    credit_service_pb2,
    credit_service_pb2_grpc,
    ingestion_service_pb2,
    ingestion_service_pb2_grpc,
    operations_service_pb2,
    operations_service_pb2_grpc,
    scorecard_service_pb2,
    scorecard_service_pb2_grpc,
)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_METADATA_BYTES = 8 * 1024

SERVICES = (
    credit_service_pb2.DESCRIPTOR.services_by_name["CreditService"],
    ingestion_service_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    scorecard_service_pb2.DESCRIPTOR.services_by_name["ScorecardService"],
    operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"],
)
SERVICE_NAMES = tuple(service.full_name for service in SERVICES)
"""The contract's services, each with a health of its own."""

_MIN_PENDING_CALLS = 128
_HANDSHAKE_MILLISECONDS = 10_000
_PROBE_SECONDS = 1.0
_UNANSWERED_SECONDS = 10.0
_LINGER_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class CreditServer:
    """A server in this process. It starts once and stops once."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Clock | None = None,
        *,
        share_port: bool = False,
    ) -> None:
        """`share_port` lets other processes listen on the same port (SO_REUSEPORT).

        Raises:
            AddressRefusedError: the server cannot listen on the address.
            MisconfiguredError: the settings of credentials are invalid.
        """
        self._settings = settings
        self._database = database
        clock = clock or settings.clock
        address = listening_address(settings)
        credentials = server_credentials(settings)
        self._gatekeeper = gatekeeper(settings, SERVICES, REFLECTION_METHODS, clock)
        self._ready = self._is_draining = False
        self._stopping = threading.Event()
        self._pool = ServingPool(settings.threads)
        self._write_pool = ServingPool(settings.threads)
        self._batch_pool = ServingPool(bounds.BATCH_THREADS)
        # Two more threads than streams: they reject calls while all streams are open.
        self._stream_pool = ServingPool(settings.max_streams + settings.ingestion_streams + 2)
        self._access_log = AccessLog(settings.log_format) if settings.access_log else None
        self._health = Health()
        self._pipeline = Pipeline(
            self._pool,
            self._write_pool,
            self._batch_pool,
            self._stream_pool,
            max_waiting=max(1, settings.max_concurrent_calls - settings.threads),
            max_wait_seconds=settings.max_wait_seconds,
            max_lock_wait_seconds=settings.lock_timeout_seconds,
            max_streams=settings.max_streams,
            max_streams_per_principal=settings.max_streams_per_principal,
            ingestion_streams=settings.ingestion_streams,
            reflection_streams=settings.reflection_streams,
            max_calls_per_second=settings.max_calls_per_second,
            max_calls_at_work_per_principal=_max_running_calls(settings),
            max_calls_per_principal=settings.max_calls_per_principal,
            default_deadline_seconds=settings.default_deadline_seconds,
            stream_idle_seconds=settings.stream_idle_seconds,
            stream_lifetime_seconds=settings.stream_lifetime_seconds,
            serve_health_watch=self._health.watch,
            gatekeeper=self._gatekeeper,
            stopping=self._stopping,
            access_log=self._access_log,
        )
        options = _options(settings, share_port=share_port)
        self._server = grpc.server(self._pool, interceptors=[self._pipeline], options=options)
        self._cache = PositionCache(settings.require_redis_url()) if settings.redis_url else None
        self._replica = (
            Replica(settings, open_database(settings, settings.require_replica_url()))
            if settings.replica_method_names
            else None
        )
        self._add_services(database, clock)
        self._problem: str | None = "not checked yet"
        self._problem_lock = threading.Lock()
        self._probe_began_at: float | None = None
        self._readiness = [
            threading.Thread(target=watch, name=name, daemon=True)
            for watch, name in ((self._probe, "readiness"), (self._watch_probe, "readiness-watch"))
        ]
        try:
            if credentials is None:
                port = self._server.add_insecure_port(str(address))
            else:
                port = self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            self._close()
            raise AddressRefusedError(
                f"cannot listen on {address}; check whether another process uses it"
            ) from error
        self.address = Address(address.host, port)
        """The listening address, with the port that the system chose for port 0."""
        self._connections = ConnectionGuard(port)
        self._remove_readings = metrics.server_readings.add(self._readings)

    def _add_services(self, database: Database, clock: Clock) -> None:
        credit = self._credit_servicer(database, clock, self._cache)
        scorecards = ScorecardServicer(database, clock, stopping=self._stopping)
        if self._replica is not None:
            standby = self._replica.database
            # Without the cache, whose entries must not come from older data.
            self._replica.serve(credit, self._credit_servicer(standby, clock, None))
            self._replica.serve(
                scorecards, ScorecardServicer(standby, clock, stopping=self._stopping)
            )
        credit_service_pb2_grpc.add_CreditServiceServicer_to_server(credit, self._server)
        ingestion_service_pb2_grpc.add_IngestionServiceServicer_to_server(
            IngestionServicer(
                database, clock, self._settings, cache=self._cache, stopping=self._stopping
            ),
            self._server,
        )
        scorecard_service_pb2_grpc.add_ScorecardServiceServicer_to_server(scorecards, self._server)
        operations_service_pb2_grpc.add_OperationsServiceServicer_to_server(
            OperationsServicer(database, clock), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._settings.reflection != "off":
            Reflection((*SERVICE_NAMES, health.SERVICE_NAME)).add_to(self._server)

    def _credit_servicer(
        self, database: Database, clock: Clock, cache: PositionCache | None
    ) -> CreditServicer:
        return CreditServicer(
            database,
            clock,
            cache=cache,
            stopping=self._stopping,
            referral_days=self._settings.referral_days,
            others_run=lambda: bool(self._pool.busy or self._write_pool.busy),
        )

    def start(self) -> None:
        """Listen and serve calls; from now on health follows the database."""
        self._set_health(serving=False)
        self._server.start()
        self._connections.start()
        for thread in self._readiness:
            thread.start()
        if self._replica is not None:
            self._replica.start()

    def stop(self, grace_seconds: float | None = None) -> None:
        """Report NOT_SERVING, wait as the settings say, drain running calls, and close.

        `grace_seconds` (by default the setting) bounds the drain; the server then cancels calls
        that still run. Returns when no call runs.
        """
        grace = self._settings.shutdown_grace_seconds if grace_seconds is None else grace_seconds
        self._is_draining = True
        self._health.enter_graceful_shutdown()
        # Serve calls until balancers have noticed.
        time.sleep(self._settings.shutdown_delay_seconds)
        self._stopping.set()
        self._server.stop(grace)  # rejects new calls from here on
        deadline = time.monotonic() + grace
        for pool in (self._pool, self._write_pool, self._batch_pool, self._stream_pool):
            if not pool.wait_until_idle(deadline - time.monotonic()):
                _log.warning("calls_cancelled_by_stop", grace_seconds=grace)
        # Only health watches, which would last for the whole grace period, and the last bytes of
        # responses are left.
        time.sleep(min(_LINGER_SECONDS, grace))
        self._server.stop(None).wait()
        self._connections.close()
        for thread in self._readiness:
            if thread.is_alive():
                # A database that hangs keeps the probe waiting.
                thread.join(_UNANSWERED_SECONDS)
        self._close()
        self._remove_readings()

    def _close(self) -> None:
        """End the serving threads, the cache and the access log."""
        self._pipeline.close()
        self._pool.shutdown()
        self._write_pool.shutdown()
        self._batch_pool.shutdown()
        self._stream_pool.shutdown()
        if self._cache is not None:
            self._cache.close()
        if self._replica is not None:
            self._replica.close()
        if self._access_log is not None:
            self._access_log.close()

    def _readings(self) -> Iterable[metrics.Reading]:
        """Gauges of the server, for the metrics."""
        in_use, pool_size = self._database.pool_use()
        yield metrics.READY, (), float(self._ready and not self._is_draining)
        for kind, pool in (("read", self._pool), ("write", self._write_pool)):
            yield "credit_server_threads", (kind,), pool.threads
            yield "credit_server_threads_busy", (kind,), pool.busy
            yield "credit_server_calls_waiting", (kind,), pool.waiting
            yield "credit_server_calls_waiting_limit", (kind,), self._pipeline.max_waiting
        yield "credit_server_calls_waiting", ("batch",), self._batch_pool.waiting
        yield "credit_server_calls_waiting_limit", ("batch",), bounds.MAX_WAITING_BATCHES
        yield "credit_server_calls_awaiting_turn", (), self._pipeline.awaiting_customer_locks
        token_keys = self._gatekeeper.token_keys
        if token_keys is not None:
            yield "credit_server_token_keys", (), token_keys
        yield "credit_server_calls_awaiting_message", (), self._pipeline.pending_messages
        yield "credit_server_health_watches", (), self._health.watches
        yield "credit_server_streams", (), self._pipeline.open_streams
        yield "credit_server_streams_limit", (), self._pipeline.max_streams
        yield "credit_database_pool_in_use", (), in_use
        yield "credit_database_pool_size", (), pool_size
        if self._cache is not None:
            yield "credit_cache_available", (), float(self._cache.available)
            yield "credit_redis_mode", (self._cache.mode,), 1
        if self._replica is not None:
            yield from self._replica.readings()

    def _set_health(self, *, serving: bool) -> None:
        self._ready = serving
        statuses = health_pb2.HealthCheckResponse
        # The server as a whole last, so that it never serves before its services.
        for service in (*SERVICE_NAMES, ""):
            self._health.set(service, statuses.SERVING if serving else statuses.NOT_SERVING)

    def _probe(self) -> None:
        """Make health follow PostgreSQL, over a connection of its own: whether it answers, accepts
        writes, has disk space, and has the schema."""
        probe = Database(
            self._settings.require_database_url(),
            pool_size=1,
            statement_timeout_seconds=2.0,
            application_name="credit-service-probe",
            pooler=self._settings.database_pooler,
        )
        watch = readiness.Monitor(probe)
        try:
            while not self._stopping.is_set():
                self._probe_began_at = time.monotonic()
                problem = _database_problem(probe, watch)
                self._probe_began_at = None
                if problem is not None:
                    # A session keeps its initial state, such as being read-only.
                    probe.renew()
                elif self._problem is not None:
                    self._database.renew()
                self._report_readiness(problem)
                if problem is None:
                    # After the start, which this would delay, and before the first stream.
                    streams.import_modules()
                self._stopping.wait(_PROBE_SECONDS)
        finally:
            probe.dispose()

    def _watch_probe(self) -> None:
        """Report a probe without an answer. The driver waits for one as long as the machine of the
        database acknowledges what it gets, whether or not PostgreSQL runs there."""
        while not self._stopping.wait(_PROBE_SECONDS):
            began_at = self._probe_began_at
            if began_at is not None and time.monotonic() - began_at > _UNANSWERED_SECONDS:
                self._report_readiness("The database does not answer.")

    def _report_readiness(self, problem: str | None) -> None:
        with self._problem_lock:
            if problem == self._problem:
                return
            self._problem = problem
            _log.info(
                "readiness_changed",
                ready=problem is None,
                trouble=problem,
                database=shown_hosts(self._settings.require_database_url()),
                redis_mode=None if self._cache is None else self._cache.mode,
            )
            self._set_health(serving=problem is None)


def _database_problem(database: Database, watch: readiness.Monitor) -> str | None:
    """Why the database cannot be used; None when it can."""
    try:
        watch.require()
        schema.require(database)
    except CreditError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - logged
        # Such as a changed password: not ready either, and worth a log entry.
        _log.exception("readiness_probe_failed")
        return type(error).__name__
    return None


def _max_running_calls(settings: Settings) -> int:
    """Concurrent calls of one principal. They never take the last thread, nor the last database
    connection of writes."""
    most = min(settings.threads, write_share(settings.pool_size)) - 1
    return max(1, min(settings.max_calls_at_work_per_principal, most))


def _options(settings: Settings, *, share_port: bool) -> list[tuple[str, int]]:
    max_pending = max(_MIN_PENDING_CALLS, settings.max_concurrent_calls)
    age_seconds = settings.max_connection_age_seconds
    # Without an end to the grace, so that streams on the old connection continue.
    age = [] if age_seconds is None else [("grpc.max_connection_age_ms", int(age_seconds * 1000))]
    return [
        *age,
        ("grpc.so_reuseport", int(share_port)),
        # Calls that grpc holds until its receiving thread gets to them. Where that thread falls
        # behind, grpc ends calls with a bare CANCELLED: some above the first number, all above the
        # second.
        ("grpc.server.max_pending_requests", max_pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * max_pending),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # Detect a vanished peer within 90 seconds, and let callers ping an idle connection every
        # ten seconds.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        # An idle connection takes a descriptor: close it, and its caller opens another with the
        # next call. Close one that never becomes HTTP/2 sooner.
        ("grpc.max_connection_idle_ms", int(settings.max_connection_idle_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
    ]


def open_database(settings: Settings, url: str | None = None) -> Database:
    """The database of one serving process, as configured; with `url`, another server's."""
    return Database(
        url or settings.require_database_url(),
        pool_size=settings.pool_size,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        idle_in_transaction_timeout_seconds=settings.idle_in_transaction_timeout_seconds,
        pooler=settings.database_pooler,
    )


def serve(
    settings: Settings,
    announce: Callable[[Address], None],
    *,
    stop: threading.Event | None = None,
    share_port: bool = False,
) -> None:
    """Serve in this process until SIGTERM, SIGINT or `stop`; call from the main thread.

    `announce` gets the address once the server accepts calls.

    Raises:
        AddressRefusedError: the server cannot listen on the address.
    """
    termination = Termination()
    raise_descriptor_limit()
    database = open_database(settings)
    try:
        server = CreditServer(settings, database, share_port=share_port)
        server.start()
        announce(server.address)
        termination.wait(stop)
        server.stop()
    finally:
        database.dispose()

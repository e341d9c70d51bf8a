"""Serves chosen reading methods from a streaming standby, whose data are a little older.

Off by default. The primary serves a call of these methods if the standby's data are too old, if the
standby is unreachable, and if the standby does not have what the call names.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from credit_service.domain.errors import NotFoundError, UnavailableError
from credit_service.observability import metrics
from credit_service.settings import Settings
from credit_service.storage.database import Database, LostRaceError
from credit_service.storage.standby import StandbyAge

_PROBE_SECONDS = 1.0
_STOP_SECONDS = 10.0

Method = Callable[[Any, Any], Any]

_log = structlog.get_logger(__name__)


class Replica:
    """The standby of `CREDIT_REPLICA_URL`. It starts once and closes once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """`database` has the standby's connections, and is closed with this."""
        self.database = database
        self._methods = settings.replica_method_names
        self._max_lag_seconds = settings.replica_max_lag_seconds
        self._primary_probe, self._standby_probe = (
            Database(
                url,
                pool_size=1,
                statement_timeout_seconds=2.0,
                application_name="credit-service-probe",
                pooler=settings.database_pooler,
            )
            for url in (settings.require_database_url(), settings.require_replica_url())
        )
        self._age = StandbyAge(self._primary_probe, self._standby_probe)
        # A time, of time.monotonic(), whose commits the standby has.
        self._complete_at = -math.inf
        self._problem: str | None = "not checked yet"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._probe, name="replica", daemon=True)

    def serve(self, servicer: object, reading: object) -> None:
        """Let methods of `servicer` that may read the standby call those of `reading`, the same
        servicer on the standby. Call before the servicer is added to a server."""
        for name in self._methods:
            if hasattr(servicer, name):
                setattr(
                    servicer, name, self._routed(getattr(servicer, name), getattr(reading, name))
                )

    def start(self) -> None:
        """Start to compare the standby with the primary, which serves all calls until then."""
        self._thread.start()

    def close(self) -> None:
        """Close all connections."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        for each in (self.database, self._primary_probe, self._standby_probe):
            each.dispose()

    def readings(self) -> Iterable[metrics.Reading]:
        """Gauges for the metrics."""
        lag_seconds = self._lag_seconds()
        yield "credit_replica_usable", (), float(lag_seconds <= self._max_lag_seconds)
        if lag_seconds < math.inf:
            yield "credit_replica_lag_seconds", (), lag_seconds

    def _lag_seconds(self) -> float:
        """The age of the standby's data, at most."""
        return time.monotonic() - self._complete_at

    def _routed(self, on_primary: Method, on_standby: Method) -> Method:
        """A method with one request and one response that uses the standby if possible."""

        def serve(request: Any, context: Any) -> Any:
            if self._lag_seconds() <= self._max_lag_seconds:
                try:
                    response = on_standby(request, context)
                except (NotFoundError, LostRaceError):
                    # Not there yet, or the replay of a change conflicted with the query.
                    pass
                except UnavailableError:
                    # Until the next probe.
                    self._complete_at = -math.inf
                else:
                    metrics.replica_reads.labels("standby").inc()
                    return response
            metrics.replica_reads.labels("primary").inc()
            return on_primary(request, context)

        return serve

    def _probe(self) -> None:
        while not self._stopping.is_set():
            problem = None
            try:
                self._complete_at = self._age.measure()
            except Exception as error:  # noqa: BLE001 - logged; whatever it is, the primary serves
                self._complete_at = -math.inf
                self._standby_probe.renew()
                problem = str(error) or type(error).__name__
            else:
                if self._problem is not None:
                    # Connections from before may be unusable.
                    self.database.renew()
                if self._lag_seconds() > self._max_lag_seconds:
                    problem = "its data are too old"
            if problem != self._problem:
                self._problem = problem
                _log.info("replica_changed", usable=problem is None, trouble=problem)
            self._stopping.wait(_PROBE_SECONDS)

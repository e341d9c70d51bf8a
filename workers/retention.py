"""Deletes expired rows: `credit_service.storage.retention` says which."""

import threading
import time

from credit_service.observability import metrics
from credit_service.settings import Settings
from credit_service.storage import retention
from credit_service.storage.database import Database
from credit_service.storage.retention import STEP_ROWS, Deletion, Retention

PASS_SECONDS = 3600.0
"""Pause after a pass, which ends when no expired row is left."""

POLL_SECONDS = 5.0
"""Pause between two checks whether a pass is due."""

_MIN_PAUSE_SECONDS = 0.05


def retention_of(settings: Settings) -> Retention:
    """Return the retention of the settings."""
    return Retention(
        requests=settings.request_retention_days,
        events=settings.event_retention_days,
        sources=settings.source_retention_days,
        row_errors=settings.row_error_retention_days,
        parked_tasks=settings.parked_task_retention_days,
        discrepancies=settings.discrepancy_retention_days,
    )


class ExpiredRows:
    """Deletes expired rows step by step.

    Between two steps no worker deletes for as long as the step took, and at least 0.05 s: deletion
    uses at most half of one connection, however many workers there are.
    """

    def __init__(
        self,
        database: Database,
        kept: Retention,
        stopping: threading.Event,
        *,
        step_rows: int = STEP_ROWS,
    ) -> None:
        """`stopping` ends a pause."""
        self._database = database
        self._deletion = Deletion(kept, step_rows=step_rows)
        self._stopping = stopping

    def step(self) -> bool:
        """Delete some rows if a pass is due, then pause. Returns whether more may be left. Raises
        what the Database raises."""
        with self._database.autocommit() as connection:
            if not retention.is_due(connection):
                return False
        began = time.monotonic()
        pause_seconds = PASS_SECONDS
        try:
            with self._database.transaction() as connection:
                if not retention.try_lock(connection):
                    return False
                deleted = self._deletion.step(connection)
                if deleted is None:
                    retention.complete(connection)
                else:
                    pause_seconds = max(_MIN_PAUSE_SECONDS, time.monotonic() - began)
                retention.pause(connection, pause_seconds)
        except BaseException:
            self._deletion.restart()
            raise
        if deleted is None:
            return False
        for table, count in deleted.items():
            metrics.deleted_rows.labels(table).inc(count)
        self._stopping.wait(pause_seconds)
        return True

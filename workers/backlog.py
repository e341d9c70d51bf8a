"""The backlog in the database, for the metrics.

A loop reads it and keeps the result, so a scrape never waits for a slow or unreachable database.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from credit_service.clock import Clock
from credit_service.observability import metrics
from credit_service.observability.metrics import Reading
from credit_service.storage import backlog, referrals, retention, tasks
from credit_service.storage.database import Database
from credit_service.storage.retention import Deletion, Retention

READ_SECONDS = 5.0
"""Pause between two reads."""

FRESH_SECONDS = 30.0
"""Without a successful read for this time, the metrics show nothing instead of old values."""

_STATES = ("pending", "sent", "running", "parked")


class BacklogReader:
    """Reads the backlog and reports it to the metrics while it is fresh."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        actors: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        kept: Retention,
    ) -> None:
        """Reports 0 for those of `actors` that have no tasks, and what is overdue by `kept`."""
        self._deletion = Deletion(kept)
        self._database = database
        self._clock = clock
        self._actors = actors
        self._monotonic = monotonic
        self._readings: list[Reading] = []
        self._fresh_until = 0.0
        self._remove = metrics.backlog_readings.add(self._fresh_readings)

    def close(self) -> None:
        """Stop reporting to the metrics."""
        self._remove()

    def step(self) -> bool:
        """Read once. Raises what the Database raises."""
        with self._database.autocommit() as connection:
            moment = self._clock.moment()
            waiting = backlog.waiting(connection, moment)
            queue = referrals.queue(connection, moment)
            found = tasks.backlog(connection)
            ages = self._deletion.ages(connection)
            completed_at = retention.completed_at(connection)
        readings: list[Reading] = [
            ("credit_outbox_events_waiting", (), waiting.events),
            ("credit_outbox_oldest_event_age_seconds", (), waiting.oldest_event_age_seconds),
            ("credit_ingestions_unfinished", ("queued",), waiting.ingestions_queued),
            ("credit_ingestions_unfinished", ("running",), waiting.ingestions_running),
            ("credit_scores_past_horizon", (), waiting.scores_past_horizon),
            ("credit_referrals_pending", (), queue.pending),
            ("credit_referrals_oldest_pending_age_seconds", (), queue.oldest_age_seconds),
        ]
        counts = {(actor, state): 0 for actor in self._actors for state in _STATES}
        overdue_seconds = dict.fromkeys(self._actors, 0.0)
        for each in found:
            counts[each.actor, each.state.lower()] = each.count
            if each.state == "PENDING":
                overdue_seconds[each.actor] = each.oldest_seconds
        readings += [("credit_outbox_tasks", labels, count) for labels, count in counts.items()]
        readings += [
            ("credit_outbox_oldest_task_overdue_seconds", (actor,), seconds)
            for actor, seconds in overdue_seconds.items()
        ]
        for age in ages:
            readings.append(
                ("credit_retention_oldest_age_seconds", (age.table,), age.oldest_seconds)
            )
            readings.append(("credit_retention_overdue_seconds", (age.table,), age.overdue_seconds))
        if completed_at is not None:
            readings.append(("credit_retention_completed_timestamp_seconds", (), completed_at))
        self._readings = readings
        self._fresh_until = self._monotonic() + FRESH_SECONDS
        return False

    def _fresh_readings(self) -> Iterable[Reading]:
        return self._readings if self._monotonic() < self._fresh_until else []

"""What waits in the database, for the metrics.

Read by a loop of its own and kept, so that whoever asks for the metrics never waits for a database
that is slow or away.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from credit_service.clock import Clock
from credit_service.observability import metrics
from credit_service.observability.metrics import Reading
from credit_service.storage import backlog, tasks
from credit_service.storage.database import Database

READ_SECONDS = 5.0
"""Pause between two looks."""

FRESH_SECONDS = 30.0
"""After this time without a look that succeeded, nothing is shown rather than what was."""

_STATES = ("pending", "sent", "running", "parked")


class BacklogReader:
    """Looks at what waits, and tells the metrics of it while it is fresh."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        actors: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of these `actors` it tells also that nothing waits."""
        self._database = database
        self._clock = clock
        self._actors = actors
        self._monotonic = monotonic
        self._readings: list[Reading] = []
        self._fresh_until = 0.0
        self._forget = metrics.backlog_readings.add(self._known)

    def close(self) -> None:
        """Tell the metrics nothing more."""
        self._forget()

    def step(self) -> bool:
        """Look once. Raises what the Database raises."""
        with self._database.autocommit() as connection:
            waiting = backlog.waiting(connection, self._clock.moment())
            found = tasks.backlog(connection)
        readings: list[Reading] = [
            ("credit_outbox_events_waiting", (), waiting.events),
            ("credit_outbox_oldest_event_age_seconds", (), waiting.oldest_event_age_seconds),
            ("credit_ingestions_unfinished", ("queued",), waiting.ingestions_queued),
            ("credit_ingestions_unfinished", ("running",), waiting.ingestions_running),
            ("credit_scores_past_horizon", (), waiting.scores_past_horizon),
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
        self._readings = readings
        self._fresh_until = self._monotonic() + FRESH_SECONDS
        return False

    def _known(self) -> Iterable[Reading]:
        return self._readings if self._monotonic() < self._fresh_until else []

"""Counts of pending work, cheap enough to query every few seconds.

`storage.tasks.backlog` counts the tasks.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from credit_service.clock import Moment

MOST_COUNTED = 10_000
"""Upper bound of a count, so that the query stays cheap for the longest backlog."""

_EVENTS = text(
    """
    SELECT count(*), min(occurred_at) FROM (
        SELECT occurred_at FROM events WHERE event_id IS NULL LIMIT :most
    ) AS waiting
    """
)
# Citus needs a column in the subquery.
_SCORES = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM credit_scores WHERE valid_until <= :today LIMIT :most
    ) AS outdated
    """
)
_INGESTIONS = text(
    """
    SELECT count(*) FILTER (WHERE state = 'QUEUED'), count(*) FILTER (WHERE state = 'RUNNING')
    FROM ingestions WHERE state IN ('QUEUED', 'RUNNING')
    """
)
_CONNECTIONS = text(
    """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = :name
    """
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Counts up to MOST_COUNTED; the age is in seconds, 0.0 if no event waits."""

    events: int
    oldest_event_age_seconds: float
    scores_past_horizon: int
    ingestions_queued: int
    ingestions_running: int


def waiting(connection: Connection, moment: Moment) -> Waiting:
    """Return the counts at this moment."""
    events, oldest = connection.execute(_EVENTS, {"most": MOST_COUNTED}).one()
    outdated = connection.execute(
        _SCORES, {"today": moment.today, "most": MOST_COUNTED}
    ).scalar_one()
    queued, running = connection.execute(_INGESTIONS).one()
    age_seconds = 0.0 if oldest is None else (moment.now - oldest).total_seconds()
    return Waiting(events, max(0.0, age_seconds), outdated, queued, running)


def connections(connection: Connection, application_name: str) -> int:
    """Return the number of connections to this database with that application name."""
    return int(connection.execute(_CONNECTIONS, {"name": application_name}).scalar_one())

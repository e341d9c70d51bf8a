"""The environment for transcripts: a real server, manually driven workers, and a fixed clock.

Nothing runs in the background: relay, actors and time advance only on a transcript's steps, so the
same transcript always gives the same responses.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from unittest.mock import patch
from zoneinfo import ZoneInfo

import grpc
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.rpc import scorecards
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage import event_stream, tasks
from credit_service.storage.database import Database
from workers.actors import ACTORS, Timetable, follow
from workers.relay import Publisher
from workers.runner import Resources, Runner

_INDIA = ZoneInfo("Asia/Kolkata")
_ACTORS = {actor.name: actor for actor in ACTORS}
_MOST_ROUNDS = 100

# Issued ids of different kinds start far apart and far from imported ids, so that each is
# recognizable anywhere, even in a sentence.
_STORED_AT = """UPDATE scorecards SET added_at = :at,
    activated_at = CASE WHEN activated_at IS NOT NULL THEN CAST(:at AS timestamptz) END"""
_PARK = """INSERT INTO tasks
    (task_id, actor, subject, state, attempts, due_at, created_at, last_error)
    VALUES (:task_id, :actor, :subject, 'PARKED', 5, :now, :now, :error)"""
_AT = {"at": datetime(2026, 1, 1, tzinfo=_INDIA)}
_FIRST_IDS = {
    "customer_ids": 1_000_000_005_000_001,
    "loan_ids": 1_000_000_006_000_001,
    "decision_ids": 7_000_001,
    "payment_ids": 8_000_001,
}


class SetClock(Clock):
    """A clock that does not advance."""

    def __init__(self) -> None:
        super().__init__()
        self._now = datetime(2026, 1, 15, 12, tzinfo=_INDIA)

    def set(self, india: datetime) -> None:
        """Set it to a date and time in India."""
        self._now = india.replace(tzinfo=_INDIA)

    def moment(self) -> Moment:
        """The current value."""
        return Moment(self._now, self._now.date(), _INDIA)


@dataclass(slots=True)
class Stage:
    """A server, with relay and actors that run only on request."""

    channel: grpc.Channel
    clock: SetClock
    database: Database
    _publisher: Publisher
    _timetable: Timetable
    _runner: Runner
    _names: list[str] = field(default_factory=lambda: list(_ACTORS))

    def run_workers(self) -> None:
        """Publish all events and run all their tasks and the day's, until none is left.

        Raises AssertionError if a task fails.
        """
        for _ in range(_MOST_ROUNDS):
            self._timetable.step()
            published = self._publisher.step()
            with self.database.autocommit() as connection:
                claimed = tasks.claim(
                    connection, self._names, limit=100, window=1_000, timeout_seconds=600
                )
            for task in claimed:
                self._runner.run(_ACTORS[task.actor], [task.task_id])
            if not published and not claimed:
                break
        with self.database.autocommit() as connection:
            left = connection.execute(text("SELECT actor, subject, last_error FROM tasks")).all()
        assert not left, left

    def park(self, task_id: int, actor: str, subject: str, error: str) -> None:
        """Store a parked task, as after its last attempt."""
        values = {
            "task_id": task_id,
            "actor": actor,
            "subject": subject,
            "error": error,
            "now": self.clock.moment().now,
        }
        with self.database.autocommit() as connection:
            connection.execute(text(_PARK), values)

    def last_event_id(self) -> int:
        """Id of the newest published event."""
        with self.database.autocommit() as connection:
            return event_stream.last_event_id(connection)


@contextmanager
def stage(database: Database, database_url: str, redis_url: str) -> Iterator[Stage]:
    """A stage on a fresh database and an empty Redis."""
    with database.transaction() as connection:
        for name, first in _FIRST_IDS.items():
            connection.execute(text(f"ALTER SEQUENCE {name} RESTART WITH {first}"))
        # The migration stored the standard scorecard by the real time.
        connection.execute(text(_STORED_AT), _AT)
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        listen="127.0.0.1:0",
        threads=4,
    )
    clock = SetClock()
    # A long timeout for Redis, so that transcripts do not depend on the machine's speed.
    cache = PositionCache(redis_url, timeout_seconds=5.0)
    resources = Resources(database, cache, clock, threading.Event(), settings.ingestion_batch_rows)
    server = CreditServer(settings, database, clock)
    server.start()
    # The first progress message only: on a slow machine there would be more.
    one_progress = patch.object(scorecards, "_PROGRESS_SECONDS", math.inf)
    with one_progress, grpc.insecure_channel(str(server.address)) as channel:
        yield Stage(
            channel,
            clock,
            database,
            Publisher(database, clock, follow),
            Timetable(database, clock, monotonic=lambda: 0.0),
            Runner(resources, lease_seconds=600),
        )
    server.stop(grace_seconds=5)
    cache.close()

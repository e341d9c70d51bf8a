"""The relay: publishes committed events and sends due tasks to the actors.

Loops, each in its own thread, repeat one small step: publish events, send tasks, sweep tasks whose
leases expired, enqueue tasks by time. Any number of relays may run: the publisher holds an advisory
lock, the others skip rows that another relay has locked.

Sending is at least once. The relay marks a task as sent in a statement that commits by itself, and
sends it afterwards: no lock is held during the request to Redis, and no booking waits for it. If a
relay dies in between, the task is marked as sent and never starts; the sweeper resends it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
import structlog
from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.clock import Clock, Moment
from credit_service.observability import metrics
from credit_service.storage import event_stream, tasks
from credit_service.storage.database import Database
from credit_service.storage.event_stream import PublishedEvent
from credit_service.storage.tasks import Task

MIN_PAUSE_SECONDS = 0.005
MAX_FAILURE_PAUSE_SECONDS = 2.0
PUBLISH_LIMIT = 1_000
SEND_LIMIT = 100
SWEEP_LIMIT = 500
SWEEP_SECONDS = 1.0

Follow = Callable[[Connection, Sequence[PublishedEvent], Moment], None]
"""Enqueues the tasks that published events require."""

log = structlog.get_logger(__name__)


class Loop:
    """Calls `step` repeatedly in a thread.

    `step` returns whether it had work. If so, the next call follows at once, otherwise after pauses
    that grow from 5 ms to `interval_seconds`. After an exception they grow to 2 s: an unreachable
    database or Redis costs little, and the loop soon notices its return.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        interval_seconds: float,
        *,
        wakes: "Loop | None" = None,
    ) -> None:
        """`wakes` is the loop that has work after this one had some."""
        self.name = name
        self._step = step
        self._interval_seconds = interval_seconds
        self._wakes = wakes
        self._stopping = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step."""
        self._stopping = True
        self._woken.set()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def wake(self) -> None:
        """End the current pause."""
        self._woken.set()

    def _run(self) -> None:
        pause_seconds = MIN_PAUSE_SECONDS
        is_failing = False
        while not self._stopping:
            try:
                had_work = self._step()
            except Exception as error:
                if not is_failing:
                    log.warning("relay_in_trouble", loop=self.name, error=str(error))
                    log.debug("relay_in_trouble", loop=self.name, exc_info=True)
                is_failing = True
                pause_seconds = min(max(pause_seconds * 2, 0.05), MAX_FAILURE_PAUSE_SECONDS)
            else:
                if is_failing:
                    log.info("relay_recovered", loop=self.name)
                    is_failing = False
                if had_work:
                    if self._wakes is not None:
                        self._wakes.wake()
                    pause_seconds = MIN_PAUSE_SECONDS
                    continue
                pause_seconds = min(pause_seconds * 2, self._interval_seconds)
            if self._woken.wait(pause_seconds) and not self._stopping:
                self._woken.clear()
                pause_seconds = MIN_PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class Channel:
    """Sends tasks to the actors of one queue."""

    actors: tuple[str, ...]
    # Maximum of tasks that are sent and not started; the others wait in PostgreSQL.
    window: int
    # Sends tasks of one actor in one message, at most `bundle`. Raises redis.RedisError.
    send: Callable[[Sequence[Task]], None]
    bundle: int = 1


class Sender:
    """Sends due tasks on their channels."""

    def __init__(
        self, database: Database, channels: Sequence[Channel], *, timeout_seconds: float
    ) -> None:
        """The sweeper resends a task that has not started after `timeout_seconds`."""
        self._database = database
        self._channels = channels
        self._actors = [actor for channel in channels for actor in channel.actors]
        self._timeout_seconds = timeout_seconds
        self._limit = SEND_LIMIT

    def step(self) -> bool:
        """Send a batch per channel. Raises redis.RedisError, and what the Database raises."""
        with self._database.autocommit() as connection:
            waiting = tasks.waiting(connection, self._actors)
        sent = False
        for channel in self._channels:
            if waiting.isdisjoint(channel.actors):
                continue
            with self._database.autocommit() as connection:
                claimed = tasks.claim(
                    connection,
                    channel.actors,
                    limit=self._limit,
                    window=channel.window,
                    timeout_seconds=self._timeout_seconds,
                )
            self._send(channel, claimed)
            sent = sent or bool(claimed)
        return sent

    def _send(self, channel: Channel, claimed: Sequence[Task]) -> None:
        bundles = _bundles(claimed, channel.bundle)
        for place, bundle in enumerate(bundles):
            failpoints.reach("relay.before_send")
            try:
                channel.send(bundle)
            except redis.RedisError:
                # Probe Redis with single tasks instead of claiming and releasing whole batches.
                self._limit = 1
                unsent = [task for each in bundles[place:] for task in each]
                with self._database.autocommit() as connection:
                    tasks.unsend(connection, unsent)
                raise
            self._limit = SEND_LIMIT
            failpoints.reach("relay.after_send")


def _bundles(claimed: Sequence[Task], most: int) -> list[list[Task]]:
    """The tasks in lists of at most `most` tasks, each of one actor."""
    by_actor: dict[str, list[Task]] = {}
    for task in claimed:
        by_actor.setdefault(task.actor, []).append(task)
    return [
        group[first : first + most]
        for group in by_actor.values()
        for first in range(0, len(group), most)
    ]


class Publisher:
    """Numbers committed events, and enqueues the tasks they require in the same transaction."""

    def __init__(self, database: Database, clock: Clock, follow: Follow) -> None:
        self._database = database
        self._clock = clock
        self._follow = follow
        self._busy = False

    def step(self) -> bool:
        """Publish a batch. Raises what the Database raises."""
        if not self._busy:
            with self._database.autocommit() as connection:
                if not event_stream.has_unpublished(connection):
                    return False
        with self._database.transaction() as connection:
            published = event_stream.publish(connection, PUBLISH_LIMIT)
            if published:
                self._follow(connection, published, self._clock.moment())
                failpoints.reach("relay.before_publish_commit")
        metrics.events_published.inc(len(published))
        self._busy = bool(published)
        return self._busy


class Sweeper:
    """Resends or parks tasks whose leases expired, and resends all sent ones if Redis lost them."""

    def __init__(self, database: Database, lost_everything: Callable[[], bool]) -> None:
        """`lost_everything` returns whether Redis has lost its data since the last call."""
        self._database = database
        self._lost_everything = lost_everything
        self._lost = False

    def step(self) -> bool:
        """Sweep a batch. Raises what the Database raises."""
        # The broker reports a loss once, so remember it until the tasks are recalled.
        self._lost = self._lost or self._has_lost_everything()
        with self._database.autocommit() as connection:
            recalled = tasks.recall_sent(connection) if self._lost else 0
            self._lost = False
            swept = tasks.sweep(connection, SWEEP_LIMIT)
        if recalled:
            log.warning("redis_was_emptied", tasks_sent_again=recalled)
        elif swept.resent:
            log.warning("tasks_sent_again", count=swept.resent)
        for task in swept.parked:
            metrics.tasks_ended.labels(task.actor, "parked").inc()
            log.error("task_parked", task_id=task.task_id, actor=task.actor, subject=task.subject)
        return bool(swept.resent or swept.parked)

    def _has_lost_everything(self) -> bool:
        try:
            return self._lost_everything()
        except redis.RedisError:
            return False

"""The relay: what is committed goes on its way.

Loops, each in a thread of its own, each doing one small step over and over: publish events, send
tasks to the actors, sweep up what went silent, wish for what time brings. Any number of relays may
run: the publisher holds an advisory lock, the others skip the rows that another one holds.

Sending is at least once. A task is marked as sent first, in a statement that commits by itself, and
sent afterwards: so no lock is held while Redis is talked to, on which a booking would wait. A relay
killed in between leaves a task that is sent and never begun, which the sweeper finds in time.
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

SHORTEST_PAUSE_SECONDS = 0.005
LONGEST_TROUBLE_SECONDS = 2.0
PUBLISH_LIMIT = 1_000
SEND_LIMIT = 100
SWEEP_LIMIT = 500
SWEEP_SECONDS = 1.0

Follow = Callable[[Connection, Sequence[PublishedEvent], Moment], None]
"""Wishes for the work that published events entail."""

log = structlog.get_logger(__name__)


class Loop:
    """Calls `step` over and over in a thread.

    `step` returns whether there was work. While there is, it is called again at once; else after
    pauses that grow from 5 ms to `interval_seconds`. After an exception they grow to 2 s, so a
    database or a Redis that is away costs next to nothing and is found again soon.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        interval_seconds: float,
        *,
        wakes: "Loop | None" = None,
    ) -> None:
        """`wakes`: the loop that has work when this one had."""
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
        """Let the step under way be the last."""
        self._stopping = True
        self._woken.set()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def wake(self) -> None:
        """End the pause under way."""
        self._woken.set()

    def _run(self) -> None:
        pause_seconds = SHORTEST_PAUSE_SECONDS
        in_trouble = False
        while not self._stopping:
            try:
                worked = self._step()
            except Exception as error:
                if not in_trouble:
                    log.warning("relay_in_trouble", loop=self.name, error=str(error))
                    log.debug("relay_in_trouble", loop=self.name, exc_info=True)
                in_trouble = True
                pause_seconds = min(max(pause_seconds * 2, 0.05), LONGEST_TROUBLE_SECONDS)
            else:
                if in_trouble:
                    log.info("relay_recovered", loop=self.name)
                    in_trouble = False
                if worked:
                    if self._wakes is not None:
                        self._wakes.wake()
                    pause_seconds = SHORTEST_PAUSE_SECONDS
                    continue
                pause_seconds = min(pause_seconds * 2, self._interval_seconds)
            if self._woken.wait(pause_seconds) and not self._stopping:
                self._woken.clear()
                pause_seconds = SHORTEST_PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class Channel:
    """The way to the actors of one queue."""

    actors: tuple[str, ...]
    # Tasks that may be sent and not begun at a time; the rest waits in PostgreSQL.
    window: int
    # Sends tasks of one actor in one message, at most `bundle`. Raises redis.RedisError.
    send: Callable[[Sequence[Task]], None]
    bundle: int = 1


class Sender:
    """Sends due tasks on their channels."""

    def __init__(
        self, database: Database, channels: Sequence[Channel], *, timeout_seconds: float
    ) -> None:
        """`timeout_seconds`: after which the sweeper sends again what was not begun."""
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
                # One at a time feels whether Redis is back, instead of claiming and giving back
                # batch after batch.
                self._limit = 1
                unsent = [task for each in bundles[place:] for task in each]
                with self._database.autocommit() as connection:
                    tasks.unsend(connection, unsent)
                raise
            self._limit = SEND_LIMIT
            failpoints.reach("relay.after_send")


def _bundles(claimed: Sequence[Task], most: int) -> list[list[Task]]:
    """The same tasks, at most so many of one actor in each list."""
    by_actor: dict[str, list[Task]] = {}
    for task in claimed:
        by_actor.setdefault(task.actor, []).append(task)
    return [
        together[first : first + most]
        for together in by_actor.values()
        for first in range(0, len(together), most)
    ]


class Publisher:
    """Numbers committed events, and wishes in the same transaction for the work they entail."""

    def __init__(self, database: Database, clock: Clock, follow: Follow) -> None:
        self._database = database
        self._clock = clock
        self._follow = follow
        self._busy = False

    def step(self) -> bool:
        """Publish a batch. Raises what the Database raises."""
        if not self._busy:
            with self._database.autocommit() as connection:
                if not event_stream.waits(connection):
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
    """Gives up what went silent, and whatever was sent when Redis has lost it."""

    def __init__(self, database: Database, lost_everything: Callable[[], bool]) -> None:
        """`lost_everything` tells whether Redis was emptied since it was last asked."""
        self._database = database
        self._lost_everything = lost_everything
        self._lost = False

    def step(self) -> bool:
        """Sweep a batch. Raises what the Database raises."""
        # Once told so, it is true until it was acted upon.
        self._lost = self._lost or self._asked()
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

    def _asked(self) -> bool:
        try:
            return self._lost_everything()
        except redis.RedisError:
            return False

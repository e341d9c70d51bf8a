"""Dramatiq on Redis, set up as a carrier of task ids and nothing more.

No results, no retries and no delays: `credit_service.storage.tasks` does all of these. What is left
for Redis is bounded, in time and in size, and losing it loses nothing.
"""

import contextlib
import time
from typing import Any

import redis
import structlog
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, TimeLimit
from redis.backoff import NoBackoff
from redis.retry import Retry

_NAMESPACE = "credit:tasks"
_MARK = f"{_NAMESPACE}:mark"
_CONNECT_TIMEOUT_SECONDS = 1.0
_ANSWER_TIMEOUT_SECONDS = 2.0
# A message older than this was sent again long ago.
_MAX_AGE_MS = 60 * 60 * 1000
_DEAD_MESSAGE_TTL_MS = 60 * 60 * 1000
# Messages that a dead worker held come back to the queue after this silence, found with this chance
# in a million per command; their tasks were sent again by then, so they only need to be cleared.
_HEARTBEAT_TIMEOUT_MS = 60 * 1000
_MAINTENANCE_CHANCE = 10_000
_AWAY_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class CarrierBroker(RedisBroker):
    """A broker that knows no delayed messages, and to which Redis may be away at any time.

    What it cannot do then, it leaves: a message that is delivered once more finds its task gone,
    and a task whose message is lost is sent again.
    """

    _away = False

    def __init__(self, client: "redis.Redis", *, look_seconds: float, time_limit_seconds: float):
        """`look_seconds`: longest pause between two looks at an empty queue."""
        super().__init__(  # type: ignore[no-untyped-call]  # Dramatiq annotates no constructor
            client=client,
            namespace=_NAMESPACE,
            middleware=[
                AgeLimit(max_age=_MAX_AGE_MS),
                TimeLimit(time_limit=time_limit_seconds * 1000),
            ],
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
            dead_message_ttl=_DEAD_MESSAGE_TTL_MS,
            maintenance_chance=_MAINTENANCE_CHANCE,
        )
        self._look_ms = int(look_seconds * 1000)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> Consumer:
        """A consumer that looks at the queue more often than a worker wakes its other threads."""
        return super().consume(queue_name, prefetch, timeout=self._look_ms or timeout)

    def declare_queue(self, queue_name: str) -> None:
        """Declare the queue without the second one that Dramatiq polls for delayed messages."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def do_fetch(self, queue_name: str, count: int) -> Any:
        """Messages from the queue; none, after a pause, while Redis is away."""
        try:
            found = self._command("fetch", queue_name, count)
        except redis.RedisError as error:
            if not self._away:
                log.warning("redis_unavailable", queue=queue_name, error=str(error))
            self._away = True
            time.sleep(_AWAY_PAUSE_SECONDS)
            return []
        if self._away:
            log.info("redis_available", queue=queue_name)
            self._away = False
        return found

    def do_ack(self, queue_name: str, message_id: str) -> None:
        """Acknowledge, or not."""
        self._attempt("ack", queue_name, message_id)

    def do_nack(self, queue_name: str, message_id: str) -> None:
        """Bury, or not."""
        self._attempt("nack", queue_name, message_id)

    def do_requeue(self, queue_name: str, *message_ids: str) -> None:
        """Give back what was fetched and not begun, or not."""
        self._attempt("requeue", queue_name, *message_ids)

    def lost_everything(self) -> bool:
        """Whether Redis was emptied, or begun anew, since anybody last asked.

        Raises redis.RedisError when it cannot be asked.
        """
        return bool(self.client.set(_MARK, "1", nx=True))

    def _attempt(self, command: str, *arguments: str) -> None:
        with contextlib.suppress(redis.RedisError):
            self._command(command, *arguments)

    def _command(self, name: str, *arguments: object) -> Any:
        return self._dispatch(name)(*arguments)  # type: ignore[no-untyped-call]  # Dramatiq's own


def make_broker(redis_url: str, *, look_seconds: float, time_limit_seconds: float) -> CarrierBroker:
    """A broker on this Redis. Nothing connects before the first message.

    `look_seconds` is the longest pause between two looks at an empty queue; an actor that runs
    longer than `time_limit_seconds` is interrupted.
    """
    client = redis.Redis.from_url(
        redis_url,
        socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        socket_timeout=_ANSWER_TIMEOUT_SECONDS,
        # One more try on a fresh connection, for one that Redis closed while it lay idle.
        retry=Retry(NoBackoff(), 1),
    )
    return CarrierBroker(client, look_seconds=look_seconds, time_limit_seconds=time_limit_seconds)

"""Dramatiq on Redis, which only carries task ids.

No results, no retries and no delays: `credit_service.storage.tasks` does these. The data in Redis
is bounded in time and size, and its loss loses no task.
"""

import contextlib
import time
from typing import Any

import redis
import structlog
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, TimeLimit

from credit_service.cache.clients import LazyCluster, make_client
from credit_service.redis_url import RedisUrl

# In a cluster, the braces put all keys into one slot, because Dramatiq's script uses several. The
# other modes keep the name of earlier releases, so that messages survive an upgrade.
_NAMESPACE = "credit:tasks"
_CLUSTER_NAMESPACE = "{credit:tasks}"
_CONNECT_TIMEOUT_SECONDS = 1.0
_ANSWER_TIMEOUT_SECONDS = 2.0
# The sweeper resends a task long before its message has this age.
_MAX_AGE_MS = 60 * 60 * 1000
_DEAD_MESSAGE_TTL_MS = 60 * 60 * 1000
# Messages of a dead worker return to the queue after this silence, with this chance in a million
# per command. Their tasks have been sent again by then, so the messages only need to be cleared.
_HEARTBEAT_TIMEOUT_MS = 60 * 1000
_MAINTENANCE_CHANCE = 10_000
_UNREACHABLE_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class CarrierBroker(RedisBroker):
    """A broker without delayed messages that tolerates an unreachable Redis.

    It drops commands that fail: a message delivered twice finds its task gone, and the sweeper
    resends a task whose message is lost.
    """

    _is_unreachable = False

    def __init__(
        self,
        client: "redis.Redis | LazyCluster",
        *,
        namespace: str,
        poll_seconds: float,
        time_limit_seconds: float,
    ):
        """`poll_seconds` is the maximum interval between two polls of an empty queue."""
        super().__init__(  # type: ignore[no-untyped-call]  # Dramatiq annotates no constructor
            client=client,
            namespace=namespace,
            middleware=[
                AgeLimit(max_age=_MAX_AGE_MS),
                TimeLimit(time_limit=time_limit_seconds * 1000),
            ],
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
            dead_message_ttl=_DEAD_MESSAGE_TTL_MS,
            maintenance_chance=_MAINTENANCE_CHANCE,
        )
        self._poll_ms = int(poll_seconds * 1000)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 0) -> Consumer:
        """A consumer that polls the queue more often than Dramatiq wakes its worker threads."""
        return super().consume(queue_name, prefetch, timeout=self._poll_ms or timeout)

    def declare_queue(self, queue_name: str) -> None:
        """Declare the queue without the second one that Dramatiq polls for delayed messages."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def do_fetch(self, queue_name: str, count: int) -> Any:
        """Messages from the queue; none, after a pause, while Redis is unreachable."""
        try:
            found = self._command("fetch", queue_name, count)
        except redis.RedisError as error:
            if not self._is_unreachable:
                log.warning("redis_unavailable", queue=queue_name, error=str(error))
            self._is_unreachable = True
            time.sleep(_UNREACHABLE_PAUSE_SECONDS)
            return []
        if self._is_unreachable:
            log.info("redis_available", queue=queue_name)
            self._is_unreachable = False
        return found

    def do_ack(self, queue_name: str, message_id: str) -> None:
        """Acknowledge the message, if Redis is reachable."""
        self._attempt("ack", queue_name, message_id)

    def do_nack(self, queue_name: str, message_id: str) -> None:
        """Move the message to the dead-letter queue, if Redis is reachable."""
        self._attempt("nack", queue_name, message_id)

    def do_requeue(self, queue_name: str, *message_ids: str) -> None:
        """Return messages that no actor has started, if Redis is reachable."""
        self._attempt("requeue", queue_name, *message_ids)

    def lost_everything(self) -> bool:
        """Whether Redis has lost its data since any process last called this.

        Raises redis.RedisError if Redis is unreachable.
        """
        return bool(self.client.set(f"{self.namespace}:mark", "1", nx=True))

    def _attempt(self, command: str, *arguments: str) -> None:
        with contextlib.suppress(redis.RedisError):
            self._command(command, *arguments)

    def _command(self, name: str, *arguments: object) -> Any:
        return self._dispatch(name)(*arguments)  # type: ignore[no-untyped-call]  # Dramatiq's own


def make_broker(redis_url: str, *, poll_seconds: float, time_limit_seconds: float) -> CarrierBroker:
    """A broker on this Redis, which connects at the first message.

    `redis_url` has one of the forms of credit_service.redis_url. `poll_seconds` is the maximum
    interval between two polls of an empty queue. An actor that runs longer than
    `time_limit_seconds` is interrupted.
    """
    url = RedisUrl.parse(redis_url)
    client = make_client(
        url,
        connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS,
        timeout_seconds=_ANSWER_TIMEOUT_SECONDS,
        # On a new connection, after one that Redis closed while it was idle.
        retries=1,
    )
    return CarrierBroker(
        client,
        namespace=_CLUSTER_NAMESPACE if url.mode == "cluster" else _NAMESPACE,
        poll_seconds=poll_seconds,
        time_limit_seconds=time_limit_seconds,
    )

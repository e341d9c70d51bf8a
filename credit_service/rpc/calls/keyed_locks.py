"""Serialize calls by key, with queues in place of blocked threads."""

import threading
import time
from collections import deque
from enum import Enum, auto
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)


class QueuedCall(Protocol):
    """A call whose message has arrived and that holds no thread."""

    @property
    def is_cancelled(self) -> bool:
        """Whether its caller has gone."""

    def start(self) -> bool:
        """Start the call, which now holds the lock. False when it cannot start yet and acquires the
        lock again later."""

    def reject(self) -> None:
        """End the call unserved: it waited too long, or its caller has gone. Must be brief."""


class Acquisition(Enum):
    """Result of acquiring a lock."""

    ACQUIRED = auto()
    QUEUED = auto()
    FULL = auto()
    """The queue is full."""


class KeyedLocks:
    """A lock for each key, such as the id of a customer. Thread-safe.

    The database would serialize writes to one customer too, but every waiting call would hold a
    thread and a connection there. Here waiting calls hold neither.
    """

    def __init__(self, max_waiting: int, max_wait_seconds: float) -> None:
        """At most `max_waiting` calls wait, at most half of them for the same key."""
        self._max_waiting = max_waiting
        self._max_queue = max(1, max_waiting // 2)
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()
        # For each locked key the waiting calls, each with the time at which it was queued.
        self._queues: dict[int, deque[tuple[float, QueuedCall]]] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a lock."""
        return self._waiting

    def try_acquire(self, key: int) -> bool:
        """Lock the key if it is free. The holder calls `release`."""
        with self._lock:
            if key in self._queues:
                return False
            self._queues[key] = deque()
            return True

    def acquire_or_enqueue(self, key: int, call: QueuedCall) -> Acquisition:
        """Lock the key, or queue the call: `call.start` runs once it holds the lock."""
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                self._queues[key] = deque()
                return Acquisition.ACQUIRED
            if self._waiting >= self._max_waiting or len(queue) >= self._max_queue:
                return Acquisition.FULL
            queue.append((time.monotonic(), call))
            self._waiting += 1
            return Acquisition.QUEUED

    def release(self, key: int) -> None:
        """Pass the lock to the next queued call that can start, or free it."""
        while True:
            with self._lock:
                queue = self._queues[key]
                if not queue:
                    del self._queues[key]
                    return
                _, following = queue.popleft()
                self._waiting -= 1
            try:
                if following.start():
                    return
            except Exception:  # noqa: BLE001 - logged; the next call still gets the lock
                _log.exception("call_not_started")

    def expire(self, now: float) -> None:
        """Reject the calls that waited too long and those whose callers have gone; `now` in seconds
        of time.monotonic()."""
        if not self._waiting:
            return
        expired: list[QueuedCall] = []
        with self._lock:
            for key, queue in self._queues.items():
                late = {
                    id(call)
                    for since, call in queue
                    if now - since >= self._max_wait_seconds or call.is_cancelled
                }
                if late:
                    expired += [call for _, call in queue if id(call) in late]
                    self._queues[key] = deque(each for each in queue if id(each[1]) not in late)
            self._waiting -= len(expired)
        for call in expired:
            try:
                call.reject()
            except Exception:  # noqa: BLE001 - logged; the other calls are still rejected
                _log.exception("call_not_given_up")

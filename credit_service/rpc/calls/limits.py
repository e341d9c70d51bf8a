"""Limit each principal's call rate and open streams, and the server's open streams.

All counts are of one server process: a principal that calls several processes has the limit in
each.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from credit_service.domain.errors import OverloadedError
from credit_service.rpc.errors import QuotaExceededError

BURST_SECONDS = 2.0
"""A principal may save up this many seconds' worth of calls for a burst."""

_MAX_PRINCIPALS = 10_000


class RateLimiter:
    """Limits the calls per second of each principal. Thread-safe."""

    def __init__(
        self, calls_per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns seconds."""
        self._calls_per_second = calls_per_second
        self._clock = clock
        self._lock = threading.Lock()
        # A token bucket as one number for each principal: the time at which it is full again. Each
        # call moves that time on by its share; it may be at most BURST_SECONDS ahead of now.
        self._full_at: dict[str, float] = {}

    def charge(self, principal: str, calls: float) -> None:
        """Count more for a call that `take` admitted: its principal's next calls wait longer."""
        with self._lock:
            full_at = max(self._full_at.pop(principal, 0.0), self._clock())
            self._full_at[principal] = full_at + calls / self._calls_per_second

    def take(self, principal: str) -> None:
        """Count one call.

        Raises:
            QuotaExceededError: RATE_LIMITED, with the time after which the next call is admitted.
        """
        now = self._clock()
        with self._lock:
            full_at = max(self._full_at.pop(principal, now), now)
            wait_seconds = full_at - now - BURST_SECONDS
            if wait_seconds <= 0:
                full_at += 1 / self._calls_per_second
            # At the end of the dict, so that its first entry is the longest idle principal.
            self._full_at[principal] = full_at
            if len(self._full_at) > _MAX_PRINCIPALS:
                del self._full_at[next(iter(self._full_at))]
        if wait_seconds > 0:
            raise QuotaExceededError(
                "RATE_LIMITED",
                f"You exceeded the limit of {self._calls_per_second:g} calls per second; slow down "
                "and retry.",
                subject=principal,
                retry_after_seconds=wait_seconds,
                metadata={"max_calls_per_second": f"{self._calls_per_second:g}"},
            )


class StreamLimiter:
    """Limits the open streams of each principal. Thread-safe."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, principal: str) -> Iterator[None]:
        """Count one open stream of the principal.

        Raises:
            QuotaExceededError: TOO_MANY_STREAMS, the principal is at its limit.
        """
        with self._lock:
            if self._open[principal] >= self._max_streams:
                raise QuotaExceededError(
                    "TOO_MANY_STREAMS",
                    f"You have {self._max_streams} streams open on this server, the limit; close "
                    "one and retry.",
                    subject=principal,
                    retry_after_seconds=1.0,
                    metadata={"max_streams": str(self._max_streams)},
                )
            self._open[principal] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[principal] -= 1
                if not self._open[principal]:
                    del self._open[principal]


class StreamCapacity:
    """Limits the open streams of the server, with a reserve for one kind of them. Thread-safe."""

    def __init__(self, max_streams: int, reserved: int) -> None:
        """`reserved` streams beyond `max_streams` may be open, if they may use the reserve."""
        self._max_streams = max_streams
        self._reserved = reserved
        self._lock = threading.Lock()
        self._open = 0

    @property
    def open(self) -> int:
        """Open streams."""
        return self._open

    @contextmanager
    def slot(self, *, may_use_reserve: bool) -> Iterator[None]:
        """Count one open stream.

        Raises:
            OverloadedError: TOO_MANY_STREAMS, the server is at its limit.
        """
        most = self._max_streams + self._reserved * may_use_reserve
        with self._lock:
            has_room = self._open < most
            self._open += has_room
        if not has_room:
            raise OverloadedError(
                "TOO_MANY_STREAMS",
                f"The server has {most} streams of this kind open, the limit; retry shortly.",
                retry_after_seconds=1.0,
                metadata={"max_streams": str(most)},
            )
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

"""What one caller may take: calls a second, and open streams.

All counts are of one server process: a principal that is spread over several has several shares.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from credit_service.domain.errors import OverloadedError
from credit_service.rpc.errors import QuotaExceededError

BURST_SECONDS = 2.0
"""A caller that was quiet may make the calls of so many seconds at once."""

_MAX_PRINCIPALS = 10_000


class RateLimiter:
    """Calls a second of each principal. Safe to share between threads."""

    def __init__(
        self, calls_per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` tells seconds."""
        self._calls_per_second = calls_per_second
        self._clock = clock
        self._lock = threading.Lock()
        # A token bucket as one number for each principal: when its bucket will be full again. It
        # moves on by one call's share with each call, and may be BURST_SECONDS ahead of now.
        self._full_at: dict[str, float] = {}

    def take(self, principal: str) -> None:
        """Count one call.

        Raises:
            QuotaExceededError: RATE_LIMITED, the principal makes more calls than it may; with the
                time after which the next is admitted.
        """
        now = self._clock()
        with self._lock:
            full_at = max(self._full_at.pop(principal, now), now)
            wait_seconds = full_at - now - BURST_SECONDS
            if wait_seconds <= 0:
                full_at += 1 / self._calls_per_second
            # At the end of the dict: whoever is first in it has been quiet for longest.
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
    """Open streams of each principal. Safe to share between threads."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, principal: str) -> Iterator[None]:
        """Room for one stream of the principal.

        Raises:
            QuotaExceededError: TOO_MANY_STREAMS, it has as many as it may.
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


class StreamRoom:
    """Streams that are open at once, with some room kept for one kind of them. Safe to share."""

    def __init__(self, max_streams: int, kept: int) -> None:
        """`kept` streams more than `max_streams` may be open, if they are of the kind."""
        self._max_streams = max_streams
        self._kept = kept
        self._lock = threading.Lock()
        self._open = 0

    @property
    def open(self) -> int:
        """Streams that are open."""
        return self._open

    @contextmanager
    def slot(self, *, kept: bool) -> Iterator[None]:
        """Room for one stream. `kept` tells that it is of the kind that room is kept for.

        Raises:
            OverloadedError: TOO_MANY_STREAMS, there is none.
        """
        most = self._max_streams + self._kept * kept
        with self._lock:
            room = self._open < most
            self._open += room
        if not room:
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

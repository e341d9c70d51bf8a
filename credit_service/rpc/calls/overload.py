"""Shed load when more calls arrive than the server can serve."""

import math
from typing import Protocol

_WINDOW_SECONDS = 1.0
_FEW_REJECTED = 1 / 9
_LATE_FACTOR = 5
_MAX_LAGS = 256
_LONG_LAG_SECONDS = 0.001
_SHORT_LAG_SECONDS = 0.0003
_MIN_THREADS = 2


class ServingThreads(Protocol):
    """The threads that serve calls, and the queue of calls that wait for one."""

    @property
    def threads(self) -> int:
        """Number of threads."""

    @property
    def waiting(self) -> int:
        """Queued calls."""

    def longest_wait_seconds(self, now: float) -> float:
        """How long the oldest queued call has waited; `now` in seconds of time.monotonic()."""

    @property
    def start_interval_seconds(self) -> float:
        """Recent average time between the starts of two calls, while calls wait."""

    def waited_seconds(self) -> float:
        """How long the call on the current thread waited in the queue."""

    def limit(self, threads: int) -> None:
        """Let at most this many threads serve at once."""


class LoadShedder:
    """Decides when to reject calls because the server is at capacity.

    A burst may queue, up to `max_waiting`. Once even that is too little, the queue helps no call:
    every call in it waits, and the server serves no more for it. From then on the shedder rejects a
    call that would wait for more than `max_wait_seconds`. It estimates the wait from the rate at
    which calls start and from the age of the oldest queued call. It stops once it rejected only a
    few of a second's calls. (Calls arrive in bunches: at three quarters of capacity some would
    always wait longer, and to require a second without any rejection would mean rejecting for good.
    The idea is CoDel's, RFC 8289, with a count where that has a time: callers that each make one
    call at a time form a queue of constant length, which may stay up to that count.)

    While it sheds, fewer threads serve if they compete for the interpreter's lock. Under that
    competition the thread that receives all calls runs late, which `record_lag` measures, and calls
    would queue where the server cannot even reject them. Where calls wait for the database, all
    threads serve.
    """

    def __init__(
        self,
        threads: ServingThreads,
        max_waiting: int,
        max_wait_seconds: float,
        longest_wait_seconds: float = math.inf,
    ) -> None:
        """A call that waited for more than `longest_wait_seconds` is always rejected."""
        self._threads = threads
        self._longest_wait_seconds = longest_wait_seconds
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self._limit = threads.threads
        self._lags: list[float] = []
        self._window_end = 0.0
        self._calls = 0
        self._rejected = 0
        self.is_shedding = False
        """Whether the queue was full, and a recent second had more than a few rejections."""

    def should_shed(self, now: float) -> bool:
        """Whether to reject a call that arrives now; `now` in seconds of time.monotonic().

        Only the thread that receives all calls may call it.
        """
        threads = self._threads
        waiting = threads.waiting
        is_full = self.is_full
        if not self.is_shedding:
            if not is_full:
                return False
            self._start_window(now)
            self.is_shedding = True
        self._calls += 1
        if not is_full:
            if not waiting:
                return False
            wait_seconds = max(
                waiting * threads.start_interval_seconds, threads.longest_wait_seconds(now)
            )
            if wait_seconds <= self._max_wait_seconds:
                return False
        self._rejected += 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether the queue for a thread is full."""
        return self._threads.waiting >= self._max_waiting

    def waited_too_long(self) -> bool:
        """Whether the call on the current thread waited too long to be served, such as in the queue
        that grew before the shedder began to reject calls."""
        most_seconds = self._longest_wait_seconds
        if self.is_shedding:
            most_seconds = min(most_seconds, _LATE_FACTOR * self._max_wait_seconds)
        return self._threads.waited_seconds() > most_seconds

    def record_lag(self, seconds: float) -> None:
        """Record how long a call waited for its message, which usually arrives with its headers."""
        if self.is_shedding and len(self._lags) < _MAX_LAGS:
            self._lags.append(seconds)

    def adjust(self, now: float) -> None:
        """Update the state and the number of serving threads. One thread calls it many times a
        second; `now` in seconds of time.monotonic()."""
        if self.is_shedding and now >= self._window_end:
            self.is_shedding = self._rejected > _FEW_REJECTED * self._calls
            self._start_window(now)
        lags, self._lags = sorted(self._lags), []
        limit = self._threads.threads
        if self.is_shedding:
            # The lag of the quicker calls: a slow caller may send its message late.
            lag_seconds = lags[len(lags) // 4] if lags else 0.0
            limit = self._limit
            if lag_seconds > _LONG_LAG_SECONDS:
                limit = max(min(_MIN_THREADS, limit), limit // 2)
            elif lag_seconds < _SHORT_LAG_SECONDS:
                limit = min(limit + 1, self._threads.threads)
        if limit != self._limit:
            self._limit = limit
            self._threads.limit(limit)

    def _start_window(self, now: float) -> None:
        self._window_end = now + _WINDOW_SECONDS
        self._calls = self._rejected = 0

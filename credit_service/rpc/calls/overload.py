"""Tells when more calls come than the server can hold."""

import math
from typing import Protocol

_STRICT_SECONDS = 1.0
_FEW_REFUSED = 1 / 9
_LATE_FACTOR = 5
_MAX_LAGS = 256
_LONG_LAG_SECONDS = 0.001
_SHORT_LAG_SECONDS = 0.0003
_MIN_THREADS = 2


class Servers(Protocol):
    """The threads that serve calls, and the calls that wait for them."""

    @property
    def threads(self) -> int:
        """How many there are."""

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""

    def longest_wait_seconds(self, now: float) -> float:
        """How long the next call has waited; `now` in seconds of time.monotonic()."""

    @property
    def pace_seconds(self) -> float:
        """The time from one call's begin to the next one's, lately, while calls wait."""

    def waited_seconds(self) -> float:
        """How long the call that the current thread serves waited for it."""

    def limit(self, threads: int) -> None:
        """Let so many serve at once."""


class LoadShedder:
    """Tells when more calls come than the server can hold.

    A burst may queue, up to `max_waiting`. When even that is too little, a queue helps nobody: all
    in it wait, and no more are served for it. From then on a call is refused when it would wait for
    more than `max_wait_seconds`, by how quickly calls are begun and by how long the next in the
    queue has waited, until only few of a second's calls were. (Calls come in bunches: at three
    quarters of what is held some would always wait longer, and waiting for a second without any
    refusal would be to refuse them for good. The idea is CoDel's, RFC 8289, with a count where that
    has a time: callers that each make one call at a time are a queue that stands and does not grow,
    and are let be up to that count.)

    Meanwhile fewer threads serve, where it is the interpreter's lock that they compete for. Then
    the thread that all calls come in by gets its turn late, `note_lag` is told so, and calls would
    queue where they cannot even be refused. Where calls wait for the database, all threads serve.
    """

    def __init__(
        self,
        servers: Servers,
        max_waiting: int,
        max_wait_seconds: float,
        longest_wait_seconds: float = math.inf,
    ) -> None:
        """A call that has waited for `longest_wait_seconds` is too late in any case."""
        self._servers = servers
        self._longest_wait_seconds = longest_wait_seconds
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self._limit = servers.threads
        self._lags: list[float] = []
        self._judged_at = 0.0
        self._calls = 0
        self._refused = 0
        self.strict = False
        """Whether more came than could be held, lately."""

    def sheds(self, now: float) -> bool:
        """Whether a call that comes now is refused; `now` in seconds of time.monotonic().

        Called by the one thread that calls come in by.
        """
        servers = self._servers
        waiting = servers.waiting
        full = self.full
        if not self.strict:
            if not full:
                return False
            self._begin_second(now)
            self.strict = True
        self._calls += 1
        if not full:
            if not waiting:
                return False
            wait_seconds = max(waiting * servers.pace_seconds, servers.longest_wait_seconds(now))
            if wait_seconds <= self._max_wait_seconds:
                return False
        self._refused += 1
        return True

    @property
    def full(self) -> bool:
        """Whether no more calls may wait for a thread."""
        return self._servers.waiting >= self._max_waiting

    def too_late(self) -> bool:
        """Whether the call that the current thread begins waited too long to be served, such as in
        the queue that had grown before calls were refused."""
        most_seconds = self._longest_wait_seconds
        if self.strict:
            most_seconds = min(most_seconds, _LATE_FACTOR * self._max_wait_seconds)
        return self._servers.waited_seconds() > most_seconds

    def note_lag(self, seconds: float) -> None:
        """How long a call waited for its message, which as a rule had come with it."""
        if self.strict and len(self._lags) < _MAX_LAGS:
            self._lags.append(seconds)

    def adjust(self, now: float) -> None:
        """Look at how it goes; called many times a second, by one thread."""
        if self.strict and now >= self._judged_at:
            self.strict = self._refused > _FEW_REFUSED * self._calls
            self._begin_second(now)
        lags, self._lags = sorted(self._lags), []
        limit = self._servers.threads
        if self.strict:
            # Of the quicker calls: a slow caller may send its message late.
            lag_seconds = lags[len(lags) // 4] if lags else 0.0
            limit = self._limit
            if lag_seconds > _LONG_LAG_SECONDS:
                limit = max(min(_MIN_THREADS, limit), limit // 2)
            elif lag_seconds < _SHORT_LAG_SECONDS:
                limit = min(limit + 1, self._servers.threads)
        if limit != self._limit:
            self._limit = limit
            self._servers.limit(limit)

    def _begin_second(self, now: float) -> None:
        self._judged_at = now + _STRICT_SECONDS
        self._calls = self._refused = 0

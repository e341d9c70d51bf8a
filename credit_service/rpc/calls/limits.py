"""What one caller may take, and an end to what nobody waits for.

All counts are of one server process: a principal that is spread over several has several shares.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

import structlog

from credit_service.domain.errors import OverloadedError
from credit_service.rpc.errors import QuotaExceededError

BURST_SECONDS = 2.0
"""A caller that was quiet may make the calls of so many seconds at once."""

_MAX_PRINCIPALS = 10_000
_LOOK_SECONDS = 0.05
_STRICT_SECONDS = 1.0
_FEW_REFUSED = 1 / 9
_LATE_FACTOR = 5
_MAX_LAGS = 256
_LONG_LAG_SECONDS = 0.001
_SHORT_LAG_SECONDS = 0.0003
_MIN_THREADS = 2

_log = structlog.get_logger(__name__)


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


class Queued(Protocol):
    """A call whose message has arrived and that has no thread."""

    @property
    def gone(self) -> bool:
        """Whether its caller has gone."""

    def start(self) -> bool:
        """Start it: its turn has come. False when it cannot start now and asks for a turn again
        later."""

    def give_up(self) -> None:
        """End it unserved: it has waited for too long, or its caller has gone. Must be brief."""


class Turn(Enum):
    """What became of a call that asked for its turn."""

    TAKEN = auto()
    AWAITED = auto()
    FULL = auto()
    """Too many calls wait already."""


class Turns:
    """Calls take turns where only one at a time can go on, as those that write to one customer: the
    database would let the others wait, each with a thread and a connection. Here they have neither.
    Safe to share by threads.
    """

    def __init__(self, max_waiting: int, max_wait_seconds: float) -> None:
        """`max_waiting` calls wait at most, half of them for the same turn."""
        self._max_waiting = max_waiting
        self._max_line = max(1, max_waiting // 2)
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()
        # Of each key whose turn a call has: those that wait for it, with when they came.
        self._lines: dict[int, deque[tuple[float, Queued]]] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return self._waiting

    def take(self, key: int) -> bool:
        """Take the turn of the key if no call has it. Who has a turn calls `end`."""
        with self._lock:
            if key in self._lines:
                return False
            self._lines[key] = deque()
            return True

    def begin(self, key: int, call: Queued) -> Turn:
        """Take the turn of the key, or wait for it: `call.start` is called when it has come."""
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = deque()
                return Turn.TAKEN
            if self._waiting >= self._max_waiting or len(line) >= self._max_line:
                return Turn.FULL
            line.append((time.monotonic(), call))
            self._waiting += 1
            return Turn.AWAITED

    def end(self, key: int) -> None:
        """Pass the turn on."""
        while True:
            with self._lock:
                line = self._lines[key]
                if not line:
                    del self._lines[key]
                    return
                _, following = line.popleft()
                self._waiting -= 1
            try:
                if following.start():
                    return
            except Exception:  # noqa: BLE001 - logged; the others wait for the turn
                _log.exception("call_not_started")

    def expire(self, now: float) -> None:
        """Give up the calls that have waited for too long, and those whose callers have gone; `now`
        in seconds of time.monotonic()."""
        if not self._waiting:
            return
        over: list[Queued] = []
        with self._lock:
            for key, line in self._lines.items():
                late = {
                    id(call)
                    for since, call in line
                    if now - since >= self._max_wait_seconds or call.gone
                }
                if late:
                    over += [call for _, call in line if id(call) in late]
                    self._lines[key] = deque(each for each in line if id(each[1]) not in late)
            self._waiting -= len(over)
        for call in over:
            try:
                call.give_up()
            except Exception:  # noqa: BLE001 - logged; the others are given up all the same
                _log.exception("call_not_given_up")


class Held:
    """A call that counts among those of its principal, from its headers to its end."""

    __slots__ = ("principal", "resume", "writes")

    def __init__(self, principal: str, *, writes: bool) -> None:
        self.principal = principal
        self.writes = writes
        self.resume: Callable[[], None] | None = None


@dataclass(slots=True)
class _Share:
    """The calls of one principal: all, those at work, and those that wait for a place at work."""

    held: int = 0
    held_writes: int = 0
    at_work: int = 0
    writes_at_work: int = 0
    waiting: deque[Held] = field(default_factory=deque)


class CallShares:
    """Calls at work of each principal, so that none takes all threads. Safe to share by threads.

    A principal's calls beyond `max_at_work` wait in a line of its own, where they take neither a
    thread nor a place from calls of others. Calls that write may wait for what others have locked:
    they leave a quarter of the principal's places, and of what it may hold, to its reads.
    """

    def __init__(self, max_at_work: int, max_held: int) -> None:
        """`max_held` counts every call of a principal from its headers to its end."""
        self._max_at_work = max_at_work
        self._max_writes_at_work = max(1, max_at_work * 3 // 4)
        self.max_held = max_held
        self._max_held_writes = max(1, max_held * 3 // 4)
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    def hold(self, principal: str, *, writes: bool) -> Held | None:
        """Count one more call of the principal; None when it has as many as it may."""
        with self._lock:
            share = self._shares.get(principal)
            if share is None:
                share = self._shares[principal] = _Share()
            if share.held >= self.max_held:
                return None
            if writes:
                if share.held_writes >= self._max_held_writes:
                    return None
                share.held_writes += 1
            share.held += 1
        return Held(principal, writes=writes)

    def enter(self, call: Held, resume: Callable[[], None]) -> bool:
        """Take a place at work. False when none is free: `resume` is called when the call has been
        given one."""
        with self._lock:
            share = self._shares[call.principal]
            if self._take_place(share, call):
                return True
            call.resume = resume
            share.waiting.append(call)
            return False

    def leave(self, call: Held) -> None:
        """Give the place at work back; the call is held still."""
        with self._lock:
            share = self._shares[call.principal]
            following = self._give_place(share, call)
        _resume(following)

    def end(self, call: Held) -> None:
        """Forget a call that was at work."""
        with self._lock:
            share = self._shares[call.principal]
            following = self._give_place(share, call)
            self._let_go(share, call)
        _resume(following)

    def release(self, call: Held) -> None:
        """Forget a call that has no place at work and will not begin."""
        with self._lock:
            self._let_go(self._shares[call.principal], call)

    def _take_place(self, share: _Share, call: Held) -> bool:
        if share.at_work >= self._max_at_work:
            return False
        if call.writes:
            if share.writes_at_work >= self._max_writes_at_work:
                return False
            share.writes_at_work += 1
        share.at_work += 1
        return True

    def _give_place(self, share: _Share, call: Held) -> Held | None:
        """The call that has the place now."""
        share.at_work -= 1
        share.writes_at_work -= call.writes
        for each in share.waiting:
            if self._take_place(share, each):
                share.waiting.remove(each)
                return each
        return None

    def _let_go(self, share: _Share, call: Held) -> None:
        share.held -= 1
        share.held_writes -= call.writes
        if not share.held:
            del self._shares[call.principal]


def _resume(call: Held | None) -> None:
    if call is not None and call.resume is not None:
        call.resume()


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


class Watched(Protocol):
    """A call at work, as the warden sees it."""

    def unwanted(self, now: float) -> bool:
        """Whether nobody waits for its result any more; `now` in seconds of time.monotonic()."""

    def stop(self) -> None:
        """End what it does at this moment. Asked for again until the call has ended."""


class Warden:
    """Stops calls at work whose caller has gone, or whose time is over.

    It looks at all of them many times a second, which costs a call next to nothing. grpc's own
    callbacks run on the thread that all calls come in by, must not wait, and know nothing of the
    deadline that the server sets where the caller has none.
    """

    def __init__(self, also: Callable[[float], None]) -> None:
        """`also` is called at each look, with the seconds of time.monotonic()."""
        self._also = also
        self._calls: dict[int, Watched] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_after_calls, name="warden", daemon=True)
        self._thread.start()

    def watch(self, call: Watched) -> None:
        """Look after the call from now on."""
        self._calls[id(call)] = call

    def release(self, call: Watched) -> None:
        """The call has ended."""
        self._calls.pop(id(call), None)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        self._thread.join()

    def _look_after_calls(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            try:
                self._also(now)
            except Exception:  # noqa: BLE001 - logged; the calls are looked after all the same
                _log.exception("limits_not_applied")
            for call in list(self._calls.values()):
                try:
                    if call.unwanted(now):
                        call.stop()
                except Exception:  # noqa: BLE001 - logged; the others are looked after all the same
                    _log.exception("call_not_stopped")

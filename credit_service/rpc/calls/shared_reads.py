"""Reads that calls of one method share: a call that reads also reads for those that wait.

Calls whose message has arrived wait for a thread. The first of them that gets one and reads, reads
what the others name too, in the same statement or the same request to Redis. When they get a
thread, their data are there. A call that no other one waits behind reads exactly as without this
module, and no call waits for others to arrive.

A call uses a read only if it began after the call's message arrived, so the call sees every write
that ended before the call began. It waits at most PATIENCE_SECONDS for another call's read. Then,
and if the read fails or has nothing for it, the call reads by itself. So its errors, its deadline
and its cancellation are its own.
"""

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import date
from typing import Any, Generic, TypeVar

import structlog
from google.protobuf.message import DecodeError

from credit_service.clock import Moment
from credit_service.domain.errors import OverloadedError, RetryLaterError, UnavailableError
from credit_service.observability import metrics, tracing
from credit_service.storage.cancellation import ScopeCancelledError

LARGEST = 16
"""Most calls of one read, with the one that reads."""
PATIENCE_SECONDS = 0.05
"""Longest wait for another call's read, which usually takes some milliseconds."""
_MAX_MESSAGE_BYTES = 4096
"""Longer messages are padded: no other call parses them."""

# As if the reading call were alone: the connection, the server, or its own cancellation.
_OWN_FAILURES = (UnavailableError, OverloadedError, RetryLaterError, ScopeCancelledError)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_log = structlog.get_logger(__name__)


class _Read:
    """One read for several calls. Thread-safe."""

    __slots__ = ("_has_ended", "_lock", "_signals", "_values", "day", "link", "owner")

    def __init__(self, owner: object, day: date) -> None:
        self.owner = owner
        self.day = day
        self.link = tracing.current_link()
        self._values: dict[Any, Any] = {}
        self._has_ended = False
        self._lock = threading.Lock()
        self._signals: list[threading.Lock] = []

    def give(self, values: Mapping[Any, Any], *, has_ended: bool = False) -> None:
        """Hand these values to the calls that wait for them."""
        with self._lock:
            self._values.update(values)
            self._has_ended = self._has_ended or has_ended
            signals, self._signals = self._signals, []
        for each in signals:
            each.release()

    def value(self, key: Hashable) -> Any:
        """Return the value, None if the read has none. Raises TimeoutError after
        PATIENCE_SECONDS."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            with self._lock:
                if key in self._values or self._has_ended:
                    return self._values.get(key)
                # A lock costs less than an event.
                signal = threading.Lock()
                signal.acquire()
                self._signals.append(signal)
            if not signal.acquire(timeout=max(0.0, until - time.monotonic())):
                raise TimeoutError


class Arrival:
    """A call whose message has arrived."""

    __slots__ = ("arrivals", "data", "read")

    def __init__(self, arrivals: "Arrivals", data: bytes) -> None:
        self.arrivals = arrivals
        self.data = data
        self.read: _Read | None = None
        """The read of another call that is for this one too."""

    def leave(self) -> None:
        """Wait no longer: the call has ended."""
        self.arrivals.remove(self)


class Arrivals:
    """The calls of one method that have arrived, and for which no call reads. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[Arrival, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes | None) -> Arrival | None:
        """Add a call with this message; None for a call that shares no read."""
        if data is None or len(data) > _MAX_MESSAGE_BYTES:
            return None
        arrival = Arrival(self, data)
        with self._lock:
            self._waiting[arrival] = None
        return arrival

    def remove(self, arrival: Arrival) -> None:
        """Remove a call, if it is still here."""
        with self._lock:
            self._waiting.pop(arrival, None)

    def claim(self, own: Arrival, read: _Read, limit: int) -> list[Arrival]:
        """Remove the own call and at most `limit` others, the oldest first, for which the read is
        now, and return the others; none if another call reads for the own one already."""
        claimed: list[Arrival] = []
        with self._lock:
            if own.read is not None:
                return claimed
            self._waiting.pop(own, None)
            while self._waiting and len(claimed) < limit:
                each = next(iter(self._waiting))
                del self._waiting[each]
                each.read = read
                claimed.append(each)
        return claimed


class SharedReads(Generic[Key, Value]):
    """The reads of one method of a servicer. Thread-safe."""

    def __init__(
        self,
        name: str,
        key_of: Callable[[bytes], Key | None],
        read: Callable[[Collection[Key], Moment], Iterable[Mapping[Key, Value]]],
        *,
        largest: int = LARGEST,
    ) -> None:
        """`key_of` names what the call with this message reads, None if it reads by itself.

        `read` yields values by key in several steps, as they are found. It continues only until the
        reading call has its own, so that no call waits for what only others need. A call whose key
        is missing reads by itself. `name` is the label of the metrics.
        """
        self._key_of = key_of
        self._read = read
        self._others = largest - 1
        self._sizes = metrics.group_sizes.labels(name)
        self._late, self._failed = (
            metrics.group_exits.labels(name, reason) for reason in ("late", "failed")
        )

    def get(
        self, arrival: Arrival | None, key: Key, moment: Moment, alone: Callable[[], Value]
    ) -> Value:
        """Return the value of the key: another call's read has it, or this call reads now, for
        others too. `arrival` is this call's. `alone` reads for this call alone, and raises its
        errors."""
        if arrival is None:
            return alone()
        if arrival.read is None:
            read = _Read(self, moment.today)
            others = arrival.arrivals.claim(arrival, read, self._others)
            if others:
                found = self._read_with(others, read, key, moment)
                return alone() if found is None else found
        if arrival.read is None:
            self._sizes.observe(1)
            return alone()
        found = self._found(arrival.read, key, moment.today)
        return alone() if found is None else found

    def _read_with(
        self, others: Collection[Arrival], read: _Read, key: Key, moment: Moment
    ) -> Value | None:
        """Read for this call and these others; None where this call must read by itself."""
        self._sizes.observe(len(others) + 1)
        try:
            keys = {key}
            keys.update(each for each in map(self._key_in, others) if each is not None)
            for values in self._read(keys, moment):
                read.give(values)
                if key in values:
                    return values[key]
        except _OWN_FAILURES:
            raise
        except Exception as error:  # noqa: BLE001 - logged; no call must fail for another one
            self._failed.inc()
            _log.warning("shared_read_failed", calls=len(keys), error=type(error).__name__)
        finally:
            read.give({}, has_ended=True)
        return None

    def _key_in(self, arrival: Arrival) -> Key | None:
        try:
            return self._key_of(arrival.data)
        except DecodeError:  # its own call raises it
            return None

    def _found(self, read: _Read, key: Key, today: date) -> Value | None:
        """Return what another call has read for this one; None where this call must read by
        itself."""
        if read.owner is not self or read.day != today:
            return None
        try:
            found: Value | None = read.value(key)
        except TimeoutError:
            self._late.inc()
            return None
        if found is not None:
            tracing.add_link(read.link)
        return found

"""Limit the concurrent calls of each principal, so that no principal takes all threads."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


class Reservation:
    """One call counted against its principal's limits, from its headers to its end."""

    __slots__ = ("principal", "resume", "writes")

    def __init__(self, principal: str, *, writes: bool) -> None:
        self.principal = principal
        self.writes = writes
        self.resume: Callable[[], None] | None = None


@dataclass(slots=True)
class _Usage:
    """Calls of one principal: reserved (all of them), running, and waiting for a running slot."""

    reserved: int = 0
    reserved_writes: int = 0
    running: int = 0
    running_writes: int = 0
    waiting: deque[Reservation] = field(default_factory=deque)


class ConcurrencyLimiter:
    """Limits how many calls of each principal run at once. Thread-safe.

    Calls beyond `max_running` wait in their principal's own queue, without a thread and without
    delaying other principals. Writes may block on row locks, so a quarter of a principal's running
    slots and of its reservations is kept for reads.
    """

    def __init__(self, max_running: int, max_reserved: int) -> None:
        """`max_reserved` bounds a principal's calls, running or not, from headers to end."""
        self._max_running = max_running
        self._max_running_writes = max(1, max_running * 3 // 4)
        self.max_reserved = max_reserved
        self._max_reserved_writes = max(1, max_reserved * 3 // 4)
        self._lock = threading.Lock()
        self._usage: dict[str, _Usage] = {}

    def reserve(self, principal: str, *, writes: bool) -> Reservation | None:
        """Count one more call of the principal; None when the principal is at its limit."""
        with self._lock:
            usage = self._usage.get(principal)
            if usage is None:
                usage = self._usage[principal] = _Usage()
            if usage.reserved >= self.max_reserved:
                return None
            if writes:
                if usage.reserved_writes >= self._max_reserved_writes:
                    return None
                usage.reserved_writes += 1
            usage.reserved += 1
        return Reservation(principal, writes=writes)

    def acquire_slot(self, call: Reservation, resume: Callable[[], None]) -> bool:
        """Take a running slot, or queue for one and return False.

        `resume` runs once the queued call has its slot.
        """
        with self._lock:
            usage = self._usage[call.principal]
            if self._take_slot(usage, call):
                return True
            call.resume = resume
            usage.waiting.append(call)
            return False

    def release_slot(self, call: Reservation) -> None:
        """Return the running slot and keep the reservation."""
        with self._lock:
            usage = self._usage[call.principal]
            following = self._free_slot(usage, call)
        _resume(following)

    def finish(self, call: Reservation) -> None:
        """Return the running slot and the reservation."""
        with self._lock:
            usage = self._usage[call.principal]
            following = self._free_slot(usage, call)
            self._unreserve(usage, call)
        _resume(following)

    def cancel(self, call: Reservation) -> None:
        """Return the reservation of a call that has no running slot and will not run."""
        with self._lock:
            self._unreserve(self._usage[call.principal], call)

    def _take_slot(self, usage: _Usage, call: Reservation) -> bool:
        if usage.running >= self._max_running:
            return False
        if call.writes:
            if usage.running_writes >= self._max_running_writes:
                return False
            usage.running_writes += 1
        usage.running += 1
        return True

    def _free_slot(self, usage: _Usage, call: Reservation) -> Reservation | None:
        """Free the slot; return the queued call that now holds it, if any."""
        usage.running -= 1
        usage.running_writes -= call.writes
        for each in usage.waiting:
            if self._take_slot(usage, each):
                usage.waiting.remove(each)
                return each
        return None

    def _unreserve(self, usage: _Usage, call: Reservation) -> None:
        usage.reserved -= 1
        usage.reserved_writes -= call.writes
        if not usage.reserved:
            del self._usage[call.principal]


def _resume(call: Reservation | None) -> None:
    if call is not None and call.resume is not None:
        call.resume()

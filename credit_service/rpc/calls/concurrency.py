"""Calls at work of each principal, so that none takes all threads."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


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

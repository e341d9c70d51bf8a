"""Calls take turns where only one at a time can go on."""

import threading
import time
from collections import deque
from enum import Enum, auto
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)


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

"""SIGTERM and SIGINT as a flag to poll."""

import math
import signal
import threading
import time
from types import FrameType

POLL_SECONDS = 0.1


class Termination:
    """Whether a signal asked this process to stop. Created and polled in the main thread.

    The handler sets a flag and nothing else. It runs in the main thread between any two of its
    steps, and the thread that it interrupts may hold the lock of an Event it waits for. For the
    same reason every wait is bounded: a signal just before a wait does not end it.
    """

    def __init__(self, *, second_kills: bool = False) -> None:
        """With `second_kills` a second signal ends the process at once."""
        self.requested = False
        self._second_kills = second_kills
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._second_kills:
            signal.signal(number, signal.SIG_DFL)

    def wait(
        self, other: threading.Event | None = None, *, timeout_seconds: float = math.inf
    ) -> None:
        """Wait until a signal asks this process to stop, until `other` is set, or for that time."""
        until = time.monotonic() + timeout_seconds
        while not self.requested and time.monotonic() < until:
            if other is None:
                time.sleep(POLL_SECONDS)
            elif other.wait(POLL_SECONDS):
                return

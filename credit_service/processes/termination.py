"""SIGTERM and SIGINT as a flag to look at."""

import signal
import threading
import time
from types import FrameType

LOOK_SECONDS = 0.1


class Termination:
    """Whether this process was told to stop. Made, and looked at, in the main thread.

    The handler sets a flag and nothing else: it runs in the main thread between any two of its
    steps, and an Event that is being waited for may be locked by the very thread that it
    interrupts. For the same reason nobody waits without end: a signal that comes just before a
    wait begins does not end it.
    """

    def __init__(self, *, second_kills: bool = False) -> None:
        """With `second_kills` a second signal ends the process at once."""
        self.told = False
        self._second_kills = second_kills
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        self.told = True
        if self._second_kills:
            signal.signal(number, signal.SIG_DFL)

    def wait(self, other: threading.Event | None = None) -> None:
        """Wait until told to stop, or until the other sign is given."""
        while not self.told:
            if other is None:
                time.sleep(LOOK_SECONDS)
            elif other.wait(LOOK_SECONDS):
                return

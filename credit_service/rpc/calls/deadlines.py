"""An end to what nobody waits for."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

_LOOK_SECONDS = 0.05

_log = structlog.get_logger(__name__)


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

    def start(self) -> None:
        """Look after calls from now on."""
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

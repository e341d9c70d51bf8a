"""Stop calls whose caller has gone or whose deadline has passed."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

_POLL_SECONDS = 0.05

_log = structlog.get_logger(__name__)


class WatchedCall(Protocol):
    """A running call, as the watcher sees it."""

    def is_cancelled(self, now: float) -> bool:
        """Whether the caller has gone or the deadline has passed; `now` in seconds of
        time.monotonic()."""

    def stop(self) -> None:
        """Interrupt what the call does at this moment. The watcher repeats it until the call
        ends."""


class DeadlineWatcher:
    """Stops running calls whose caller has gone or whose deadline has passed.

    One thread polls all calls many times a second, at next to no cost for a call. grpc's own
    callbacks run on the thread that receives all calls, must not block, and do not know the
    deadline that the server sets where the caller sets none.
    """

    def __init__(self, on_poll: Callable[[float], None]) -> None:
        """`on_poll` runs at each poll, with the seconds of time.monotonic()."""
        self._on_poll = on_poll
        self._calls: dict[int, WatchedCall] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deadline-watcher", daemon=True)

    def start(self) -> None:
        """Start to poll."""
        self._thread.start()

    def watch(self, call: WatchedCall) -> None:
        """Watch the call until `release`."""
        self._calls[id(call)] = call

    def release(self, call: WatchedCall) -> None:
        """Stop watching a call that has ended. Repeated calls have no effect."""
        self._calls.pop(id(call), None)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            now = time.monotonic()
            try:
                self._on_poll(now)
            except Exception:  # noqa: BLE001 - logged; the calls are still polled
                _log.exception("limits_not_applied")
            for call in list(self._calls.values()):
                try:
                    if call.is_cancelled(now):
                        call.stop()
                except Exception:  # noqa: BLE001 - logged; the other calls are still polled
                    _log.exception("call_not_stopped")

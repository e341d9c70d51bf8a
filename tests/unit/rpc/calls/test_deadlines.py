"""Calls whose caller has gone, without a server."""

import time

import pytest

from credit_service.rpc.calls import deadlines
from credit_service.rpc.calls.deadlines import DeadlineWatcher


class WatchedCall:
    """A call that the deadline watcher watches."""

    def __init__(self, *, fails: bool = False) -> None:
        self.has_gone = False
        self.stops = 0
        self._fails = fails

    def is_cancelled(self, now: float) -> bool:
        assert abs(now - time.monotonic()) < 60
        if self._fails:
            raise RuntimeError("a defect")
        return self.has_gone

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> DeadlineWatcher:
    monkeypatch.setattr(deadlines, "_POLL_SECONDS", 0.005)
    started = DeadlineWatcher(lambda _now: None)
    started.start()
    return started


def test_calls_without_a_caller_are_stopped(watcher: DeadlineWatcher) -> None:
    awaited, abandoned, defective = WatchedCall(), WatchedCall(), WatchedCall(fails=True)
    for call in (defective, awaited, abandoned):
        watcher.watch(call)
    time.sleep(0.05)
    assert abandoned.stops == 0
    abandoned.has_gone = True
    deadline = time.monotonic() + 5
    while abandoned.stops < 2:  # repeated, as a statement may have started just after
        assert time.monotonic() < deadline
        time.sleep(0.005)
    watcher.release(abandoned)
    time.sleep(0.02)
    stops = abandoned.stops
    time.sleep(0.05)
    assert abandoned.stops == stops
    assert awaited.stops == 0
    watcher.close()
    assert not watcher._thread.is_alive()
    watcher.release(abandoned)  # twice is harmless

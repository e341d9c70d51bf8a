"""Calls that nobody waits for, without a server."""

import time

import pytest

from credit_service.rpc.calls import deadlines
from credit_service.rpc.calls.deadlines import Warden


class Watched:
    """A call that the warden looks after."""

    def __init__(self, *, fails: bool = False) -> None:
        self.gone = False
        self.stops = 0
        self._fails = fails

    def unwanted(self, now: float) -> bool:
        assert abs(now - time.monotonic()) < 60
        if self._fails:
            raise RuntimeError("a defect")
        return self.gone

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def warden(monkeypatch: pytest.MonkeyPatch) -> Warden:
    monkeypatch.setattr(deadlines, "_LOOK_SECONDS", 0.005)
    started = Warden(lambda _now: None)
    started.start()
    return started


def test_the_warden_stops_what_nobody_waits_for(warden: Warden) -> None:
    wanted, unwanted, defective = Watched(), Watched(), Watched(fails=True)
    for call in (defective, wanted, unwanted):
        warden.watch(call)
    time.sleep(0.05)
    assert unwanted.stops == 0
    unwanted.gone = True
    deadline = time.monotonic() + 5
    while unwanted.stops < 2:  # asked for again, as a statement may have begun just after
        assert time.monotonic() < deadline
        time.sleep(0.005)
    warden.release(unwanted)
    time.sleep(0.02)
    stops = unwanted.stops
    time.sleep(0.05)
    assert unwanted.stops == stops
    assert wanted.stops == 0
    warden.close()
    assert not warden._thread.is_alive()
    warden.release(unwanted)  # twice is harmless

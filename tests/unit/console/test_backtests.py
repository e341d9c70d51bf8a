"""Backtests of the console: their number, their owners and their end."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from credit_service.console import backtests
from credit_service.console.backtests import (
    MAX_KEPT,
    MAX_RUNNING,
    Backtest,
    Backtests,
    TooManyBacktestsError,
)
from credit_service.v1.scorecard_pb2 import BacktestResult
from credit_service.v1.scorecard_service_pb2 import BacktestScorecardRequest


def test_backtests_are_bounded_and_the_oldest_ended_ones_go() -> None:
    released = threading.Event()

    class Waiting:
        def backtest(self, _request: object, on_opened: Any) -> Iterator[object]:
            on_opened(released.set)
            released.wait(10)
            yield from ()

    kept = Backtests()
    service: Any = Waiting()
    first, *_ = [kept.start(service, "me", BacktestScorecardRequest()) for _ in range(MAX_RUNNING)]
    with pytest.raises(TooManyBacktestsError):
        kept.start(service, "me", BacktestScorecardRequest())
    assert kept.find(first.backtest_id, "me") == first
    assert kept.find(first.backtest_id, "you") is None
    until = time.monotonic() + 10
    while not first.has_ended:
        kept.close()
        assert time.monotonic() < until
        time.sleep(0.01)
    for _ in range(MAX_KEPT):
        later = kept.start(service, "me", BacktestScorecardRequest())
        while not later.has_ended:
            time.sleep(0.001)
    assert kept.find(first.backtest_id, "me") is None
    assert kept.find(later.backtest_id, "me") == later


class _EndsAfterItsResultIsRead(Backtest):
    """A backtest that ends right after its result was read, while there was none."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "result" and value is None:
            self.result, self.seconds = BacktestResult(customers=1), 0.1
        return value


def test_a_backtest_that_ends_while_it_is_read_has_its_result_at_the_next_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backtests, "Backtest", _EndsAfterItsResultIsRead)
    monkeypatch.setattr(Backtests, "_run", lambda *_: None)
    kept = Backtests()
    service: Any = None
    started = kept.start(service, "me", BacktestScorecardRequest())
    running = kept.find(started.backtest_id, "me")
    assert running is not None
    # A page of an ended backtest without a result would wait for one without end.
    assert not running.has_ended
    ended = kept.find(started.backtest_id, "me")
    assert ended is not None
    assert ended.has_ended
    assert ended.result == BacktestResult(customers=1)

"""Backtests of the console: their number, their owners and their end."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from credit_service.console.backtests import (
    MAX_KEPT,
    MAX_RUNNING,
    Backtests,
    TooManyBacktestsError,
)
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
    assert kept.find(first.backtest_id, "me") is first
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
    assert kept.find(later.backtest_id, "me") is later

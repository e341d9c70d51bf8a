"""Backtests that run while their page is open or not, in threads of the console."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from credit_service.console.service import Service
from credit_service.v1.scorecard_pb2 import BacktestProgress, BacktestResult
from credit_service.v1.scorecard_service_pb2 import BacktestScorecardRequest
from credit_service_client.errors import ServiceError

MAX_RUNNING = 4
MAX_KEPT = 20


@dataclass
class Backtest:
    """A backtest and its state. Only the session that started it sees it."""

    backtest_id: str
    owner: str
    request: BacktestScorecardRequest
    started_at: float
    """In seconds of time.monotonic()."""
    progress: BacktestProgress = field(default_factory=BacktestProgress)
    result: BacktestResult | None = None
    error: ServiceError | None = None
    seconds: float | None = None
    """Its duration once it has ended."""
    cancel: Callable[[], Any] = lambda: None

    @property
    def has_ended(self) -> bool:
        return self.seconds is not None


class TooManyBacktestsError(Exception):
    """MAX_RUNNING backtests already run."""


class Backtests:
    """The backtests of a console, at most MAX_RUNNING at a time. Thread-safe.

    The results of the last MAX_KEPT are kept in memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, Backtest] = {}  # the oldest first

    def start(self, service: Service, owner: str, request: BacktestScorecardRequest) -> Backtest:
        """Start a backtest. Raises TooManyBacktestsError."""
        started = Backtest(str(uuid4()), owner, request, time.monotonic())
        with self._lock:
            ended = [key for key, each in self._kept.items() if each.has_ended]
            if len(self._kept) - len(ended) >= MAX_RUNNING:
                raise TooManyBacktestsError
            for key in ended[: max(0, len(self._kept) + 1 - MAX_KEPT)]:
                del self._kept[key]
            self._kept[started.backtest_id] = started
        threading.Thread(
            target=self._run, args=(service, started), name="backtest", daemon=True
        ).start()
        return started

    def find(self, backtest_id: str, owner: str) -> Backtest | None:
        """Return a copy of the owner's backtest, or None. One that has ended has its result or its
        error."""
        with self._lock:
            found = self._kept.get(backtest_id)
        if found is None or found.owner != owner:
            return None
        # The duration is set last and read first: it may end between the two reads.
        seconds = found.seconds
        return replace(found, seconds=seconds)

    def close(self) -> None:
        """Cancel the running backtests."""
        with self._lock:
            running = [each for each in self._kept.values() if not each.has_ended]
        for each in running:
            each.cancel()

    @staticmethod
    def _run(service: Service, backtest: Backtest) -> None:
        def set_cancel(cancel: Callable[[], Any]) -> None:
            backtest.cancel = cancel

        try:
            for response in service.backtest(backtest.request, set_cancel):
                if response.HasField("progress"):
                    backtest.progress = response.progress
                else:
                    backtest.result = response.result
        except ServiceError as error:
            backtest.error = error
        finally:
            backtest.seconds = time.monotonic() - backtest.started_at

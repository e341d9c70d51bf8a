"""Lanes of groups: a group that runs for long loses its lane, to the first call that waits."""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from credit_service.storage.cancellation import CancelScope
from tests.unit.commands.groups import (
    PATIENCE_SECONDS,
    Work,
    grouping,
    queued,
    results,
    submit_in,
    until,
)


def test_a_lane_that_is_held_up_does_not_stop_the_calls(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", 0.0)
    work = Work()
    groups = grouping(work)
    held_up = threads.submit(groups.submit, 1)
    work.await_start()
    later = threads.submit(groups.submit, 2)
    work.await_start()
    assert not held_up.done()
    work.release(2)
    assert results([held_up, later]) == [10, 20]


class PollingScope(CancelScope):
    """Counts how often its call has checked for its cancellation."""

    def __init__(self) -> None:
        self.polls = 0
        super().__init__(math.inf)

    @property
    def is_cancelled(self) -> bool:
        self.polls += 1
        return False

    @is_cancelled.setter
    def is_cancelled(self, _: bool) -> None: ...

    def await_polls(self) -> None:
        """Wait until the call has polled once more, the whole poll from now on."""
        before = self.polls
        until(lambda: self.polls >= before + 2)


class UnpolledSignal:
    """A lock whose acquisition takes no notice of a short timeout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = self._lock.release

    def acquire(self, timeout: float = -1) -> bool:  # noqa: ARG002 - as of a lock
        return self._lock.acquire(timeout=PATIENCE_SECONDS)


def test_a_group_keeps_its_lane_for_a_while(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", 60.0)
    monkeypatch.setattr("credit_service.commands.grouping._POLL_SECONDS", 0.001)
    work, scope = Work(), PollingScope()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    calls.append(threads.submit(submit_in, scope, groups, 2))
    until(lambda: groups.waiting == 1)
    scope.await_polls()
    assert work.groups == [[1]]
    work.release(2)
    assert results(calls) == [10, 20]


def test_only_the_first_call_takes_the_lane_of_a_late_group(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, scope = Work(), PollingScope()
    groups = grouping(work)
    calls = [threads.submit(groups.submit, 1)]
    work.await_start()
    # The first call in the queue does not poll, the second does.
    monkeypatch.setattr("credit_service.commands.grouping._POLL_SECONDS", 0.001)
    with monkeypatch.context() as first:
        unpolled = SimpleNamespace(Lock=UnpolledSignal)
        first.setattr("credit_service.commands.grouping.threading", unpolled)
        calls += queued(threads, groups, [2])
    calls.append(threads.submit(submit_in, scope, groups, 3))
    until(lambda: groups.waiting == 2)
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", 0.0)
    scope.await_polls()
    assert work.groups == [[1]]
    # Or the next group loses its lane at once, to the second call.
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", math.inf)
    work.release(2)
    assert results(calls) == [10, 20, 30]
    assert work.groups == [[1], [2, 3]]


def test_a_group_that_lost_its_lane_passes_none_on(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", 0.0)
    work = Work()
    groups = grouping(work)
    may_end = threading.Event()

    def answer(members: Sequence[int]) -> Sequence[int | BaseException]:
        if members == [2]:
            assert may_end.wait(PATIENCE_SECONDS)
        return members

    work.answer = answer
    late = threads.submit(groups.submit, 1)
    work.await_start()
    running = threads.submit(groups.submit, 2)
    work.await_start()
    monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", math.inf)
    waiting = queued(threads, groups, [3])
    work.release(3)
    assert results([late]) == [1]
    assert groups.waiting == 1
    may_end.set()
    assert results([running, *waiting]) == [2, 3]

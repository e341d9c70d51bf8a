"""Groups of calls whose work waits until a test releases it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from credit_service.commands.grouping import Grouping
from credit_service.storage.cancellation import CancelScope, current_scope

PATIENCE_SECONDS = 10.0


class Work:
    """A `run` whose groups wait for `release`; it records the groups. Members are numbers."""

    def __init__(self) -> None:
        self.groups: list[Sequence[int]] = []
        self.scopes: list[CancelScope | None] = []
        self.started = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self.answer: Callable[[Sequence[int]], Sequence[int | BaseException]] = lambda members: [
            10 * each for each in members
        ]

    def __call__(self, members: Sequence[int]) -> Sequence[int | BaseException]:
        self.groups.append(list(members))
        self.scopes.append(current_scope.get())
        self.started.release()
        assert self.released.acquire(timeout=PATIENCE_SECONDS)
        return self.answer(members)

    def release(self, groups: int = 1) -> None:
        """Let that many groups end."""
        self.released.release(groups)

    def await_start(self) -> None:
        """Wait until another group has started."""
        assert self.started.acquire(timeout=PATIENCE_SECONDS)


def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def grouping(
    work: Work, *, lanes: int = 1, largest: int = 8, key: Callable[[int], int] = lambda each: each
) -> Grouping[int, int]:
    return Grouping("test", work, lanes=lanes, largest=largest, key=key)


def queued(
    threads: ThreadPoolExecutor, groups: Grouping[int, int], members: Sequence[int]
) -> list[Future[int]]:
    """Submit the members one after the other, each once the one before waits."""
    calls = []
    for each in members:
        before = groups.waiting
        calls.append(threads.submit(groups.submit, each))
        until(lambda before=before: groups.waiting == before + 1)  # type: ignore[misc]  # bound
    return calls


def results(calls: Sequence[Future[int]]) -> list[int | BaseException | None]:
    return [each.exception(PATIENCE_SECONDS) or each.result() for each in calls]


@contextmanager
def in_scope(scope: CancelScope) -> Iterator[None]:
    token = current_scope.set(scope)
    try:
        yield
    finally:
        current_scope.reset(token)


def submit_in(scope: CancelScope, groups: Grouping[int, int], member: int) -> int:
    with in_scope(scope):
        return groups.submit(member)

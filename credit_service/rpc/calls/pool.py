"""The threads that serve calls.

grpc hands every call to an executor. `ThreadPoolExecutor`, the usual one, makes an unused Future
for each call: a sixth of the cost of an empty call, measured. The pool here makes none, and reports
how many calls wait, so that the pipeline can reject calls before they queue.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any

import structlog

_log = structlog.get_logger(__name__)

_INTERVAL_WEIGHT = 0.05
"""Weight of the newest sample: the average covers about the last twenty."""

_Task = tuple[Callable[..., Any], tuple[Any, ...]]


class _IgnoredFuture:
    """Stands in for a Future. grpc only adds a callback, for a limit that is not used here."""

    __slots__ = ()

    def add_done_callback(self, _callback: Callable[..., Any]) -> None:
        """Do nothing."""


DONE = _IgnoredFuture()


class InlineExecutor(futures.ThreadPoolExecutor):
    """Runs each task on the submitting thread, for tasks of microseconds."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # it starts none: `submit` is replaced

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        """Run `fn(*args)` and discard its result."""
        fn(*args)
        return DONE


class OnExecutor:
    """A behavior with the attributes by which grpc chooses its executor."""

    def __init__(self, behavior: Callable[..., Any], executor: futures.ThreadPoolExecutor) -> None:
        self._behavior = behavior
        self.experimental_thread_pool = executor
        self.experimental_non_blocking = getattr(behavior, "experimental_non_blocking", False)

    def __call__(self, *arguments: Any) -> Any:
        return self._behavior(*arguments)


class ServingPool(futures.ThreadPoolExecutor):
    """A fixed number of threads that serve one queue."""

    def __init__(self, threads: int) -> None:
        super().__init__(max_workers=1)  # it starts none: `submit` is replaced
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._arrivals: deque[float] = (
            deque()
        )  # of the queued tasks, in seconds of time.monotonic()
        self._started_at = 0.0  # start of the latest call, in seconds of time.monotonic()
        self._start_interval_seconds = 0.0
        self._busy = [False] * threads
        self._current = threading.local()
        self._limit_lock = threading.Lock()
        self._parked = 0  # threads that wait until the limit is raised
        self._to_park = 0  # threads to park after their current call
        self._resume: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._serving = [
            threading.Thread(target=self._serve, args=(number,), name=f"call-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._serving:
            thread.start()

    @property
    def threads(self) -> int:
        """Number of threads."""
        return len(self._serving)

    @property
    def waiting(self) -> int:
        """Queued calls."""
        return self._tasks.qsize()

    def longest_wait_seconds(self, now: float) -> float:
        """How long the oldest queued call has waited; `now` in seconds of time.monotonic()."""
        try:
            return now - self._arrivals[0]
        except IndexError:
            return 0.0

    @property
    def start_interval_seconds(self) -> float:
        """Recent average time between the starts of two calls, while calls wait."""
        return self._start_interval_seconds

    def waited_seconds(self) -> float:
        """How long the call on the current thread waited in the queue."""
        waited: float = getattr(self._current, "waited_seconds", 0.0)
        return waited

    @property
    def busy(self) -> int:
        """Threads that serve a call now."""
        return sum(self._busy)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        """Run `fn(*args)` on the next free thread and discard its result."""
        self._arrivals.append(time.monotonic())
        self._tasks.put((fn, args))
        return DONE

    def limit(self, threads: int) -> None:
        """Let at most this many threads serve; the others park after their current call."""
        with self._limit_lock:
            more = self.threads - threads - self._parked - self._to_park
            while more > 0:
                self._to_park += 1
                more -= 1
            while more < 0:
                if self._to_park:
                    self._to_park -= 1
                else:
                    self._parked -= 1
                    self._resume.put(None)
                more += 1

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until no call waits or runs; False on timeout."""
        deadline = time.monotonic() + timeout_seconds
        idle_checks = 0
        # Twice in a row: for a moment a call is neither in the queue nor marked as busy.
        while idle_checks < 2:
            idle_checks = 0 if self._tasks.qsize() or any(self._busy) else idle_checks + 1
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the queued calls. `cancel_futures` has no effect."""
        self.limit(self.threads)
        for _ in self._serving:
            self._tasks.put(None)
        if wait:
            for thread in self._serving:
                thread.join()
        super().shutdown(wait=wait, cancel_futures=cancel_futures)

    def _serve(self, number: int) -> None:
        busy = self._busy
        while (task := self._tasks.get()) is not None:
            busy[number] = True
            self._record_start(time.monotonic(), self._arrivals.popleft())
            try:
                task[0](*task[1])
            except Exception:  # noqa: BLE001 - logged
                # grpc catches what a call raises; anything else must not end the thread.
                _log.exception("call_thread_failed")
            # Release the call before waiting for the next one.
            del task
            busy[number] = False
            if self._to_park:
                self._park()

    def _record_start(self, now: float, arrived_at: float) -> None:
        self._current.waited_seconds = now - arrived_at
        if arrived_at < self._started_at:
            # It was queued before the previous call started, so no thread was free. Threads that
            # update this at the same time lose only a sample.
            self._start_interval_seconds += _INTERVAL_WEIGHT * (
                now - self._started_at - self._start_interval_seconds
            )
        self._started_at = now

    def _park(self) -> None:
        """Wait until the limit is raised, unless it already was."""
        with self._limit_lock:
            if not self._to_park:
                return
            self._to_park -= 1
            self._parked += 1
        self._resume.get()

"""The threads that serve calls.

grpc hands every call to an executor. Its usual one, `ThreadPoolExecutor`, makes a Future for each
call, which nobody reads: measured, a sixth of what an empty call costs. This one makes none, and
tells how many calls wait, so that the pipeline can refuse more before they queue.
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

_PACE_WEIGHT = 0.05
"""How much the newest sample counts: the pace is about that of the last twenty."""

_Task = tuple[Callable[..., Any], tuple[Any, ...]]


class _Done:
    """What grpc is given for a future. It only asks to be told when a call has ended, for a limit
    that is not used here."""

    __slots__ = ()

    def add_done_callback(self, _callback: Callable[..., Any]) -> None:
        """Nobody is told."""


DONE = _Done()


class InlineExecutor(futures.ThreadPoolExecutor):
    """Runs what it is given at once, on the thread that gives it: for what takes microseconds."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # never started: `submit` is replaced

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        """Run `fn(*args)`. The result goes nowhere."""
        fn(*args)
        return DONE


class OnExecutor:
    """A behavior with the attributes by which grpc chooses the threads that it runs on."""

    def __init__(self, behavior: Callable[..., Any], threads: futures.ThreadPoolExecutor) -> None:
        self._behavior = behavior
        self.experimental_thread_pool = threads
        self.experimental_non_blocking = getattr(behavior, "experimental_non_blocking", False)

    def __call__(self, *arguments: Any) -> Any:
        return self._behavior(*arguments)


class ServingPool(futures.ThreadPoolExecutor):
    """A fixed number of threads in front of a queue whose length anyone may read."""

    def __init__(self, threads: int) -> None:
        super().__init__(max_workers=1)  # of its own it never starts one: `submit` is replaced
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._arrivals: deque[float] = deque()  # of the tasks, in seconds of time.monotonic()
        self._begun_at = 0.0  # when the last call was begun, in seconds of time.monotonic()
        self._pace_seconds = 0.0
        self._busy = [False] * threads
        self._current = threading.local()
        self._limit_lock = threading.Lock()
        self._parked = 0  # threads that rest until the limit is raised
        self._to_park = 0  # threads that will after the call that they serve
        self._resume: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._serving = [
            threading.Thread(target=self._serve, args=(number,), name=f"call-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._serving:
            thread.start()

    @property
    def threads(self) -> int:
        """How many there are."""
        return len(self._serving)

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._tasks.qsize()

    def longest_wait_seconds(self, now: float) -> float:
        """How long the call that is next has waited; `now` in seconds of time.monotonic()."""
        try:
            return now - self._arrivals[0]
        except IndexError:
            return 0.0

    @property
    def pace_seconds(self) -> float:
        """The time from one call's begin to the next one's, lately, while calls wait."""
        return self._pace_seconds

    def waited_seconds(self) -> float:
        """How long the call that the current thread serves waited for it."""
        waited: float = getattr(self._current, "waited_seconds", 0.0)
        return waited

    @property
    def busy(self) -> int:
        """Threads that serve a call."""
        return sum(self._busy)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        """Run `fn(*args)` on the next free thread. The result goes nowhere."""
        self._arrivals.append(time.monotonic())
        self._tasks.put((fn, args))
        return DONE

    def limit(self, threads: int) -> None:
        """Let so many threads serve at once, the others rest after the call that they serve."""
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
        """Wait until no call waits or runs; False when the time was over before."""
        deadline = time.monotonic() + timeout_seconds
        quiet_looks = 0
        # Twice in a row: between the queue and a thread's mark a call is in neither.
        while quiet_looks < 2:
            quiet_looks = 0 if self._tasks.qsize() or any(self._busy) else quiet_looks + 1
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the calls that are queued. `cancel_futures` has no effect."""
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
            self._note_begin(time.monotonic(), self._arrivals.popleft())
            try:
                task[0](*task[1])
            except Exception:  # noqa: BLE001 - logged
                # grpc catches what a call raises; a thread outlives whatever slips through.
                _log.exception("call_thread_failed")
            # Nothing of a call stays alive while the thread waits for the next one.
            del task
            busy[number] = False
            if self._to_park:
                self._rest()

    def _note_begin(self, now: float, arrived_at: float) -> None:
        self._current.waited_seconds = now - arrived_at
        if arrived_at < self._begun_at:
            # It was there when the one before it was begun: no thread was free. Several threads
            # that write this at once lose a sample, no more.
            self._pace_seconds += _PACE_WEIGHT * (now - self._begun_at - self._pace_seconds)
        self._begun_at = now

    def _rest(self) -> None:
        """Wait until the limit is raised, where it is still too low for this thread."""
        with self._limit_lock:
            if not self._to_park:
                return
            self._to_park -= 1
            self._parked += 1
        self._resume.get()

"""The threads that serve calls, without a server."""

import threading
import time

from credit_service.rpc.calls.pool import InlineExecutor, ServingPool


def test_the_start_interval_covers_calls_that_waited() -> None:
    pool = ServingPool(1)
    for _ in range(3):
        pool.submit(lambda: None)
        assert pool.wait_until_idle(5)
    assert pool.start_interval_seconds == 0.0  # a thread was free for each
    for _ in range(40):
        pool.submit(time.sleep, 0.005)
    assert pool.wait_until_idle(20)
    # The average has come at least four fifths of the way.
    assert pool.start_interval_seconds > 0.8 * 0.005
    pool.shutdown()


def test_threads_park_and_resume() -> None:
    pool = ServingPool(6)
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def task() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()

    def most_at_once(tasks: int) -> int:
        most.clear()
        for _ in range(tasks):
            pool.submit(task)
        assert pool.wait_until_idle(10)
        return max(most)

    assert most_at_once(60) == 6
    pool.limit(2)
    most_at_once(12)  # each thread may serve one more call
    assert most_at_once(30) == 2
    pool.limit(4)
    assert most_at_once(60) == 4
    for limit in (1, 6, 3, 5, 2, 6):
        pool.limit(limit)
    most_at_once(12)
    assert most_at_once(60) == 6
    pool.limit(1)
    most_at_once(12)
    pool.shutdown()  # wakes parked threads
    assert not any(thread.is_alive() for thread in pool._serving)


def test_the_pool_reports_how_long_calls_wait() -> None:
    pool = ServingPool(1)
    release = threading.Event()
    waited: list[float] = []
    assert pool.longest_wait_seconds(time.monotonic()) == 0.0
    pool.submit(release.wait, 10)
    pool.submit(lambda: waited.append(pool.waited_seconds()))
    time.sleep(0.1)
    assert pool.waiting == 1
    assert 0.05 < pool.longest_wait_seconds(time.monotonic()) < 5
    release.set()
    assert pool.wait_until_idle(5)
    assert 0.05 < waited[0] < 5
    assert pool.longest_wait_seconds(time.monotonic()) == 0.0
    pool.shutdown()


def test_the_inline_executor_runs_on_the_submitting_thread() -> None:
    ran: list[int] = []
    InlineExecutor().submit(lambda number: ran.append(threading.get_ident() + number), 0)
    assert ran == [threading.get_ident()]

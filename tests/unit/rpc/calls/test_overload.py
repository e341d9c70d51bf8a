"""More calls than the server can serve, without a server."""

from credit_service.rpc.calls.overload import LoadShedder


class ServingThreads:
    """Threads and their queue, with values set by a test."""

    threads = 16

    def __init__(self) -> None:
        self.waiting = 0
        self.wait_seconds = 0.0
        self.start_interval_seconds = 0.0
        self.waited = 0.0
        self.limits: list[int] = []

    def longest_wait_seconds(self, now: float) -> float:  # noqa: ARG002 - a test sets the value
        return self.wait_seconds

    def waited_seconds(self) -> float:
        return self.waited

    def limit(self, threads: int) -> None:
        self.limits.append(threads)


def test_a_burst_and_a_standing_queue_are_not_shed() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(threads, max_waiting=100, max_wait_seconds=0.002)
    threads.wait_seconds = threads.waited = 5.0
    for waiting in range(100):
        threads.waiting = waiting
        assert not shedder.should_shed(1000.0)
    assert not shedder.waited_too_long()


def test_after_a_full_queue_long_waits_are_shed() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(threads, max_waiting=100, max_wait_seconds=0.002)
    threads.waiting, threads.wait_seconds = 100, 0.05
    assert shedder.should_shed(1000.0)
    # Below the limit again, but the wait is still too long.
    threads.waiting = 30
    assert shedder.should_shed(1000.1)
    # Calls that waited in the full queue are rejected late; later calls are served.
    threads.waited = 0.05
    assert shedder.waited_too_long()
    threads.waited = 0.009
    assert not shedder.waited_too_long()
    threads.wait_seconds = 0.001
    assert not shedder.should_shed(1000.2)
    # The oldest call has not waited long, but a new one would, behind so many.
    threads.start_interval_seconds = 0.0001
    assert shedder.should_shed(1000.3)
    threads.waiting = 20
    assert not shedder.should_shed(1000.3)
    # The queue is empty; its last call is just starting.
    threads.waiting, threads.wait_seconds = 0, 0.05
    assert not shedder.should_shed(1000.3)


def test_some_waits_are_too_long_even_without_overload() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(
        threads, max_waiting=100, max_wait_seconds=0.002, longest_wait_seconds=3.0
    )
    threads.waited = 2.9
    assert not shedder.waited_too_long()
    threads.waited = 3.1
    assert shedder.waited_too_long()


def test_calls_may_queue_again_after_a_second_with_few_rejections() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(threads, max_waiting=100, max_wait_seconds=0.002)
    threads.waiting, threads.wait_seconds = 100, 0.05
    assert shedder.should_shed(1000.0)
    shedder.adjust(1001.0)

    def second(number: int, calls: int) -> None:
        """Two of the second's calls are rejected."""
        threads.waiting = 30
        assert [shedder.should_shed(number + 0.1) for _ in range(2)] == [True, True]
        threads.waiting = 0
        assert not any(shedder.should_shed(number + 0.2) for _ in range(calls - 2))
        shedder.adjust(number + 0.9)
        assert shedder.is_shedding
        shedder.adjust(number + 1.0)

    # Two of seventeen are too many, twice; two of eighteen are a ninth.
    second(1001, 17)
    second(1002, 17)
    second(1003, 18)
    assert not shedder.is_shedding
    threads.waiting = 30
    assert not shedder.should_shed(1004.1)


def test_fewer_threads_serve_while_messages_arrive_late() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(threads, max_waiting=1, max_wait_seconds=0.002)
    shedder.record_lag(0.5)  # ignored before calls are shed
    shedder.adjust(1000.0)
    threads.waiting = 1
    assert shedder.should_shed(1000.0)
    for _ in range(4):
        for lag in (0.004, 0.003, 0.002, 9.0):
            shedder.record_lag(lag)
        shedder.adjust(1000.1)
    assert threads.limits == [8, 4, 2]
    # Most callers send their message late: the server does not lag.
    for lag in (0.0001, 9.0, 9.0, 9.0, 0.0001):
        shedder.record_lag(lag)
    shedder.adjust(1000.2)
    assert threads.limits[-1] == 3
    shedder.adjust(1001.5)
    shedder.adjust(1002.5)  # a second without a call
    assert threads.limits[-1] == 16


def test_lags_are_bounded() -> None:
    threads = ServingThreads()
    shedder = LoadShedder(threads, max_waiting=1, max_wait_seconds=0.002)
    threads.waiting = 1
    shedder.should_shed(1000.0)
    for _ in range(10_000):
        shedder.record_lag(0.1)
    assert len(shedder._lags) <= 256

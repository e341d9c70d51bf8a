"""More calls than the server can hold, without a server."""

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

    def longest_wait_seconds(self, now: float) -> float:  # noqa: ARG002 - a test says it
        return self.wait_seconds

    def waited_seconds(self) -> float:
        return self.waited

    def limit(self, threads: int) -> None:
        self.limits.append(threads)


def test_a_burst_and_a_standing_queue_are_let_be() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.wait_seconds = servers.waited = 5.0
    for waiting in range(100):
        servers.waiting = waiting
        assert not shedder.should_shed(1000.0)
    assert not shedder.waited_too_long()


def test_a_queue_that_outgrew_its_place_is_kept_short() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.waiting, servers.wait_seconds = 100, 0.05
    assert shedder.should_shed(1000.0)
    # Drained below the count, and still too long.
    servers.waiting = 30
    assert shedder.should_shed(1000.1)
    # Those that stood in it are refused late, those that came since are served.
    servers.waited = 0.05
    assert shedder.waited_too_long()
    servers.waited = 0.009
    assert not shedder.waited_too_long()
    servers.wait_seconds = 0.001
    assert not shedder.should_shed(1000.2)
    # The next one has not waited long, and a new one would, so many as there are.
    servers.start_interval_seconds = 0.0001
    assert shedder.should_shed(1000.3)
    servers.waiting = 20
    assert not shedder.should_shed(1000.3)
    # Nobody waits; the one that did is just being begun.
    servers.waiting, servers.wait_seconds = 0, 0.05
    assert not shedder.should_shed(1000.3)


def test_some_waits_are_too_long_also_without_a_crowd() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(
        servers, max_waiting=100, max_wait_seconds=0.002, longest_wait_seconds=3.0
    )
    servers.waited = 2.9
    assert not shedder.waited_too_long()
    servers.waited = 3.1
    assert shedder.waited_too_long()


def test_calls_may_queue_again_when_few_of_a_second_were_refused() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.waiting, servers.wait_seconds = 100, 0.05
    assert shedder.should_shed(1000.0)
    shedder.adjust(1001.0)

    def second(number: int, calls: int) -> None:
        """Two of a second's calls are refused."""
        servers.waiting = 30
        assert [shedder.should_shed(number + 0.1) for _ in range(2)] == [True, True]
        servers.waiting = 0
        assert not any(shedder.should_shed(number + 0.2) for _ in range(calls - 2))
        shedder.adjust(number + 0.9)
        assert shedder.is_shedding
        shedder.adjust(number + 1.0)

    # Of seventeen too many, also a second time; of eighteen a ninth.
    second(1001, 17)
    second(1002, 17)
    second(1003, 18)
    assert not shedder.is_shedding
    servers.waiting = 30
    assert not shedder.should_shed(1004.1)


def test_fewer_threads_serve_while_calls_come_in_late() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(servers, max_waiting=1, max_wait_seconds=0.002)
    shedder.record_lag(0.5)  # of no interest before calls are refused
    shedder.adjust(1000.0)
    servers.waiting = 1
    assert shedder.should_shed(1000.0)
    for _ in range(4):
        for lag in (0.004, 0.003, 0.002, 9.0):
            shedder.record_lag(lag)
        shedder.adjust(1000.1)
    assert servers.limits == [8, 4, 2]
    # Most callers send their message late: that is no lag of ours.
    for lag in (0.0001, 9.0, 9.0, 9.0, 0.0001):
        shedder.record_lag(lag)
    shedder.adjust(1000.2)
    assert servers.limits[-1] == 3
    shedder.adjust(1001.5)
    shedder.adjust(1002.5)  # a second without a call
    assert servers.limits[-1] == 16


def test_lags_are_bounded() -> None:
    servers = ServingThreads()
    shedder = LoadShedder(servers, max_waiting=1, max_wait_seconds=0.002)
    servers.waiting = 1
    shedder.should_shed(1000.0)
    for _ in range(10_000):
        shedder.record_lag(0.1)
    assert len(shedder._lags) <= 256

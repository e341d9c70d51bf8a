"""Rates, streams and the warden, without a server."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from credit_service.rpc.calls import limits
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.limits import (
    CallShares,
    LoadShedder,
    RateLimiter,
    StreamLimiter,
    Turns,
    Warden,
)
from credit_service.rpc.calls.pipeline import _Arrived
from credit_service.rpc.calls.pool import InlineExecutor, ServingPool
from credit_service.rpc.errors import QuotaExceededError


class Stopwatch:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limiter: RateLimiter, principal: str, tries: int) -> int:
    """How many of so many calls are admitted."""
    admitted = 0
    for _ in range(tries):
        try:
            limiter.take(principal)
        except QuotaExceededError:
            continue
        admitted += 1
    return admitted


def test_a_principal_has_its_rate_and_a_burst() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(8.0, clock=watch)
    assert taken(limiter, "a", 100) == 17  # two seconds' worth, and the one that fills it
    assert taken(limiter, "b", 5) == 5  # another's share is untouched
    watch.now += 1.0
    assert taken(limiter, "a", 100) == 8
    watch.now += 0.0625
    assert taken(limiter, "a", 100) == 0
    watch.now += 3600
    assert taken(limiter, "a", 100) == 17  # quiet hours are not saved up


def test_a_rate_below_one_a_second_admits_the_first_call() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(0.1, clock=watch)
    assert taken(limiter, "a", 3) == 1
    watch.now += 8.1
    assert taken(limiter, "a", 3) == 1


def test_whoever_is_refused_is_told_when_to_come_again() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(2.0, clock=watch)
    taken(limiter, "a", 100)
    with pytest.raises(QuotaExceededError) as caught:
        limiter.take("a")
    refusal = caught.value
    assert (refusal.reason, refusal.subject) == ("RATE_LIMITED", "a")
    assert refusal.metadata == {"max_calls_per_second": "2"}
    watch.now += refusal.retry_after_seconds
    limiter.take("a")


def test_refused_calls_do_not_postpone_the_next() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(10.0, clock=watch)
    taken(limiter, "a", 100_000)
    watch.now += 0.1001
    limiter.take("a")


def test_principals_are_bounded_and_the_quietest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_PRINCIPALS", 3)
    limiter = RateLimiter(1.0, clock=Stopwatch())
    for principal in ("a", "b", "c", "a", "d"):
        limiter.take(principal)
    assert list(limiter._full_at) == ["c", "a", "d"]


def test_threads_share_one_count() -> None:
    limiter = RateLimiter(1024.0, clock=Stopwatch())
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(taken(limiter, "a", 1000))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 2049


def test_streams_are_counted_by_principal() -> None:
    limiter = StreamLimiter(2)
    with limiter.slot("a"), limiter.slot("b"), limiter.slot("a"):
        with pytest.raises(QuotaExceededError) as caught, limiter.slot("a"):
            pass
        assert (caught.value.reason, caught.value.subject) == ("TOO_MANY_STREAMS", "a")
        assert caught.value.metadata == {"max_streams": "2"}
        assert caught.value.retry_after_seconds > 0
    assert not limiter._open
    with pytest.raises(RuntimeError), limiter.slot("a"):
        raise RuntimeError
    assert not limiter._open


def test_writes_leave_places_to_reads_of_their_principal() -> None:
    shares = CallShares(max_at_work=8, max_held=16)
    resumed: list[str] = []
    writes = [shares.hold("p", writes=True) for _ in range(13)]
    assert [each is not None for each in writes] == [True] * 12 + [False]
    held = [each for each in writes if each is not None]
    entered = [shares.enter(each, partial(resumed.append, "write")) for each in held]
    assert entered == [True] * 6 + [False] * 6
    reads = [each for _ in range(4) if (each := shares.hold("p", writes=False)) is not None]
    assert shares.hold("p", writes=False) is None
    entered = [shares.enter(each, partial(resumed.append, "read")) for each in reads]
    assert entered == [True] * 2 + [False] * 2
    # A write's place goes to the next write, which came before the reads; a read's to a read.
    shares.end(held[0])
    assert resumed == ["write"]
    shares.leave(reads[0])
    assert resumed == ["write", "read"]


class Pool:
    """Threads that begin what they are told to."""

    def __init__(self) -> None:
        self.submitted: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        self.submitted.append(work)


class Call:
    """A call whose message has arrived."""

    gone = False

    def __init__(self) -> None:
        self.served: list[Message] = []

    def serve(self, message: Message) -> None:
        self.served.append(message)


def arrived(
    pool: Pool, shares: CallShares, turns: Turns, principal: str, customer_id: int
) -> tuple[Call, _Arrived]:
    held = shares.hold(principal, writes=True)
    assert held is not None
    call, message = Call(), Message(b"")
    given: Any = (call, message, pool, shares, held, turns, customer_id)
    return call, _Arrived(*given)


def test_a_call_without_a_place_keeps_no_turn_from_others() -> None:
    pool, shares, turns = Pool(), CallShares(max_at_work=1, max_held=16), Turns(8, 3.0)
    _, slow = arrived(pool, shares, turns, "careless", 1)
    parked_call, parked = arrived(pool, shares, turns, "careless", 2)
    other_call, other = arrived(pool, shares, turns, "other", 2)
    slow.begin()
    parked.begin()
    other.begin()
    assert len(pool.submitted) == 2
    pool.submitted[1]()
    assert other_call.served
    assert not parked_call.served
    pool.submitted[0]()
    pool.submitted[2]()
    assert parked_call.served
    assert (turns.waiting, shares._shares, turns._lines) == (0, {}, {})


def test_a_turn_passes_over_a_call_whose_principal_has_no_place() -> None:
    pool, shares, turns = Pool(), CallShares(max_at_work=1, max_held=16), Turns(8, 3.0)
    _, first = arrived(pool, shares, turns, "first", 2)
    parked_call, parked = arrived(pool, shares, turns, "careless", 2)
    _, slow = arrived(pool, shares, turns, "careless", 1)
    third_call, third = arrived(pool, shares, turns, "third", 2)
    for each in (first, parked, slow, third):
        each.begin()
    # The first and the slow one have threads; the two others wait for the first one's turn.
    assert (len(pool.submitted), turns.waiting) == (2, 2)
    pool.submitted[0]()
    pool.submitted[2]()
    assert third_call.served
    pool.submitted[1]()
    pool.submitted[3]()
    assert parked_call.served
    assert (turns.waiting, shares._shares, turns._lines) == (0, {}, {})


def test_calls_that_wait_too_long_for_their_turn_are_given_up() -> None:
    pool, shares, turns = Pool(), CallShares(max_at_work=4, max_held=16), Turns(8, 3.0)
    _, first = arrived(pool, shares, turns, "p", 1)
    late_call, late = arrived(pool, shares, turns, "p", 1)
    first.begin()
    late.begin()
    turns.expire(time.monotonic())
    assert not late_call.served
    turns.expire(time.monotonic() + 3.0)
    assert late_call.served[0].refusal is not None
    pool.submitted[0]()
    assert (turns.waiting, shares._shares, turns._lines) == (0, {}, {})


def test_a_refusal_comes_back_from_its_dict() -> None:
    refusal = QuotaExceededError("RATE_LIMITED", "Too much.", "a", 1.5, {"x": "y"})
    again = QuotaExceededError.from_dict(refusal.to_dict())
    assert again == refusal
    assert isinstance(again, QuotaExceededError)
    assert again.subject == "a"


class Watched:
    """A call that the warden looks after."""

    def __init__(self, *, fails: bool = False) -> None:
        self.gone = False
        self.stops = 0
        self._fails = fails

    def unwanted(self, now: float) -> bool:
        assert abs(now - time.monotonic()) < 60
        if self._fails:
            raise RuntimeError("a defect")
        return self.gone

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def warden(monkeypatch: pytest.MonkeyPatch) -> Warden:
    monkeypatch.setattr(limits, "_LOOK_SECONDS", 0.005)
    return Warden(lambda _now: None)


def test_the_warden_stops_what_nobody_waits_for(warden: Warden) -> None:
    wanted, unwanted, defective = Watched(), Watched(), Watched(fails=True)
    for call in (defective, wanted, unwanted):
        warden.watch(call)
    time.sleep(0.05)
    assert unwanted.stops == 0
    unwanted.gone = True
    deadline = time.monotonic() + 5
    while unwanted.stops < 2:  # asked for again, as a statement may have begun just after
        assert time.monotonic() < deadline
        time.sleep(0.005)
    warden.release(unwanted)
    time.sleep(0.02)
    stops = unwanted.stops
    time.sleep(0.05)
    assert unwanted.stops == stops
    assert wanted.stops == 0
    warden.close()
    assert not warden._thread.is_alive()
    warden.release(unwanted)  # twice is harmless


# More than the server can hold


class Servers:
    """Threads and their queue, as a test says they are."""

    threads = 16

    def __init__(self) -> None:
        self.waiting = 0
        self.wait_seconds = 0.0
        self.pace_seconds = 0.0
        self.waited = 0.0
        self.limits: list[int] = []

    def longest_wait_seconds(self, now: float) -> float:  # noqa: ARG002 - a test says it
        return self.wait_seconds

    def waited_seconds(self) -> float:
        return self.waited

    def limit(self, threads: int) -> None:
        self.limits.append(threads)


def test_a_burst_and_a_standing_queue_are_let_be() -> None:
    servers = Servers()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.wait_seconds = servers.waited = 5.0
    for waiting in range(100):
        servers.waiting = waiting
        assert not shedder.sheds(1000.0)
    assert not shedder.too_late()


def test_a_queue_that_outgrew_its_place_is_kept_short() -> None:
    servers = Servers()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.waiting, servers.wait_seconds = 100, 0.05
    assert shedder.sheds(1000.0)
    # Drained below the count, and still too long.
    servers.waiting = 30
    assert shedder.sheds(1000.1)
    # Those that stood in it are refused late, those that came since are served.
    servers.waited = 0.05
    assert shedder.too_late()
    servers.waited = 0.009
    assert not shedder.too_late()
    servers.wait_seconds = 0.001
    assert not shedder.sheds(1000.2)
    # The next one has not waited long, and a new one would, so many as there are.
    servers.pace_seconds = 0.0001
    assert shedder.sheds(1000.3)
    servers.waiting = 20
    assert not shedder.sheds(1000.3)
    # Nobody waits; the one that did is just being begun.
    servers.waiting, servers.wait_seconds = 0, 0.05
    assert not shedder.sheds(1000.3)


def test_some_waits_are_too_long_also_without_a_crowd() -> None:
    servers = Servers()
    shedder = LoadShedder(
        servers, max_waiting=100, max_wait_seconds=0.002, longest_wait_seconds=3.0
    )
    servers.waited = 2.9
    assert not shedder.too_late()
    servers.waited = 3.1
    assert shedder.too_late()


def test_calls_may_queue_again_when_few_of_a_second_were_refused() -> None:
    servers = Servers()
    shedder = LoadShedder(servers, max_waiting=100, max_wait_seconds=0.002)
    servers.waiting, servers.wait_seconds = 100, 0.05
    assert shedder.sheds(1000.0)
    shedder.adjust(1001.0)

    def second(number: int, calls: int) -> None:
        """Two of a second's calls are refused."""
        servers.waiting = 30
        assert [shedder.sheds(number + 0.1) for _ in range(2)] == [True, True]
        servers.waiting = 0
        assert not any(shedder.sheds(number + 0.2) for _ in range(calls - 2))
        shedder.adjust(number + 0.9)
        assert shedder.strict
        shedder.adjust(number + 1.0)

    # Of seventeen too many, also a second time; of eighteen a ninth.
    second(1001, 17)
    second(1002, 17)
    second(1003, 18)
    assert not shedder.strict
    servers.waiting = 30
    assert not shedder.sheds(1004.1)


def test_fewer_threads_serve_while_calls_come_in_late() -> None:
    servers = Servers()
    shedder = LoadShedder(servers, max_waiting=1, max_wait_seconds=0.002)
    shedder.note_lag(0.5)  # of no interest before calls are refused
    shedder.adjust(1000.0)
    servers.waiting = 1
    assert shedder.sheds(1000.0)
    for _ in range(4):
        for lag in (0.004, 0.003, 0.002, 9.0):
            shedder.note_lag(lag)
        shedder.adjust(1000.1)
    assert servers.limits == [8, 4, 2]
    # Most callers send their message late: that is no lag of ours.
    for lag in (0.0001, 9.0, 9.0, 9.0, 0.0001):
        shedder.note_lag(lag)
    shedder.adjust(1000.2)
    assert servers.limits[-1] == 3
    shedder.adjust(1001.5)
    shedder.adjust(1002.5)  # a second without a call
    assert servers.limits[-1] == 16


def test_lags_are_bounded() -> None:
    servers = Servers()
    shedder = LoadShedder(servers, max_waiting=1, max_wait_seconds=0.002)
    servers.waiting = 1
    shedder.sheds(1000.0)
    for _ in range(10_000):
        shedder.note_lag(0.1)
    assert len(shedder._lags) <= 256


# The threads


def test_the_pace_is_that_of_calls_that_waited() -> None:
    pool = ServingPool(1)
    for _ in range(3):
        pool.submit(lambda: None)
        assert pool.wait_until_idle(5)
    assert pool.pace_seconds == 0.0  # a thread was free for each
    for _ in range(40):
        pool.submit(time.sleep, 0.005)
    assert pool.wait_until_idle(20)
    # Four fifths of the way to what it is, or further.
    assert pool.pace_seconds > 0.8 * 0.005
    pool.shutdown()


def test_threads_rest_and_resume() -> None:
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
    most_at_once(12)  # each thread may serve one call more
    assert most_at_once(30) == 2
    pool.limit(4)
    assert most_at_once(60) == 4
    for limit in (1, 6, 3, 5, 2, 6):
        pool.limit(limit)
    most_at_once(12)
    assert most_at_once(60) == 6
    pool.limit(1)
    most_at_once(12)
    pool.shutdown()  # wakes those that rest
    assert not any(thread.is_alive() for thread in pool._serving)


def test_the_pool_tells_how_long_calls_wait() -> None:
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


def test_the_inline_executor_runs_on_the_thread_that_asks() -> None:
    ran: list[int] = []
    InlineExecutor().submit(lambda number: ran.append(threading.get_ident() + number), 0)
    assert ran == [threading.get_ident()]

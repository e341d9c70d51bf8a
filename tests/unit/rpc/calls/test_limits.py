"""Rates and streams of principals, without a server."""

import threading

import pytest

from credit_service.rpc.calls import limits
from credit_service.rpc.calls.limits import RateLimiter, StreamLimiter
from credit_service.rpc.errors import QuotaExceededError


class Stopwatch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limiter: RateLimiter, principal: str, tries: int) -> int:
    """How many of the calls are admitted."""
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
    assert taken(limiter, "a", 100) == 17  # two seconds' worth, and the call that fills it
    assert taken(limiter, "b", 5) == 5  # another principal's limit is untouched
    watch.now += 1.0
    assert taken(limiter, "a", 100) == 8
    watch.now += 0.0625
    assert taken(limiter, "a", 100) == 0
    watch.now += 3600
    assert taken(limiter, "a", 100) == 17  # an idle hour saves up no more than a burst


def test_a_rate_below_one_per_second_admits_the_first_call() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(0.1, clock=watch)
    assert taken(limiter, "a", 3) == 1
    watch.now += 8.1
    assert taken(limiter, "a", 3) == 1


def test_a_rejected_call_gets_the_delay_before_a_retry() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(2.0, clock=watch)
    taken(limiter, "a", 100)
    with pytest.raises(QuotaExceededError) as caught:
        limiter.take("a")
    error = caught.value
    assert (error.reason, error.subject) == ("RATE_LIMITED", "a")
    assert error.metadata == {"max_calls_per_second": "2"}
    watch.now += error.retry_after_seconds
    limiter.take("a")


def test_rejected_calls_do_not_postpone_the_next() -> None:
    watch = Stopwatch()
    limiter = RateLimiter(10.0, clock=watch)
    taken(limiter, "a", 100_000)
    watch.now += 0.1001
    limiter.take("a")


def test_principals_are_bounded_and_the_longest_idle_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_an_error_is_restored_from_its_dict() -> None:
    error = QuotaExceededError("RATE_LIMITED", "Too much.", "a", 1.5, {"x": "y"})
    again = QuotaExceededError.from_dict(error.to_dict())
    assert again == error
    assert isinstance(again, QuotaExceededError)
    assert again.subject == "a"

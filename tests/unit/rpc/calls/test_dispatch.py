"""Calls that wait for a running slot and for the customer's lock, without a server."""

import time
from collections.abc import Callable
from typing import Any

from credit_service.rpc.calls.concurrency import ConcurrencyLimiter
from credit_service.rpc.calls.dispatch import ArrivedCall
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.keyed_locks import KeyedLocks
from credit_service.rpc.calls.shared_reads import Arrivals


class Pool:
    """Records submitted tasks; a test runs them."""

    def __init__(self) -> None:
        self.submitted: list[Callable[[], None]] = []

    def submit(self, task: Callable[[], None]) -> None:
        self.submitted.append(task)


class Call:
    """A call whose message has arrived."""

    is_cancelled = False

    def __init__(self) -> None:
        self.served: list[Message] = []

    def serve(self, message: Message) -> None:
        self.served.append(message)


def arrived(
    pool: Pool, limiter: ConcurrencyLimiter, locks: KeyedLocks, principal: str, customer_id: int
) -> tuple[Call, ArrivedCall]:
    reservation = limiter.reserve(principal, writes=True)
    assert reservation is not None
    call, message = Call(), Message(b"")
    given: Any = (call, message, pool, limiter, reservation, locks, customer_id)
    return call, ArrivedCall(*given)


def test_a_call_without_a_slot_holds_no_lock() -> None:
    pool, limiter, locks = (
        Pool(),
        ConcurrencyLimiter(max_running=1, max_reserved=16),
        KeyedLocks(8, 3.0),
    )
    _, slow = arrived(pool, limiter, locks, "careless", 1)
    waiting_call, waiting = arrived(pool, limiter, locks, "careless", 2)
    other_call, other = arrived(pool, limiter, locks, "other", 2)
    slow.submit()
    waiting.submit()
    other.submit()
    assert len(pool.submitted) == 2
    pool.submitted[1]()
    assert other_call.served
    assert not waiting_call.served
    pool.submitted[0]()
    pool.submitted[2]()
    assert waiting_call.served
    assert (locks.waiting, limiter._usage, locks._queues) == (0, {}, {})


def test_a_lock_skips_a_call_whose_principal_has_no_slot() -> None:
    pool, limiter, locks = (
        Pool(),
        ConcurrencyLimiter(max_running=1, max_reserved=16),
        KeyedLocks(8, 3.0),
    )
    _, first = arrived(pool, limiter, locks, "first", 2)
    waiting_call, waiting = arrived(pool, limiter, locks, "careless", 2)
    _, slow = arrived(pool, limiter, locks, "careless", 1)
    third_call, third = arrived(pool, limiter, locks, "third", 2)
    for each in (first, waiting, slow, third):
        each.submit()
    # The first and the slow call have threads; the other two wait for the first one's lock.
    assert (len(pool.submitted), locks.waiting) == (2, 2)
    pool.submitted[0]()
    pool.submitted[2]()
    assert third_call.served
    pool.submitted[1]()
    pool.submitted[3]()
    assert waiting_call.served
    assert (locks.waiting, limiter._usage, locks._queues) == (0, {}, {})


def test_calls_that_wait_too_long_for_a_lock_are_rejected() -> None:
    pool, limiter, locks = (
        Pool(),
        ConcurrencyLimiter(max_running=4, max_reserved=16),
        KeyedLocks(8, 3.0),
    )
    _, first = arrived(pool, limiter, locks, "p", 1)
    late_call, late = arrived(pool, limiter, locks, "p", 1)
    first.submit()
    late.submit()
    locks.expire(time.monotonic())
    assert not late_call.served
    locks.expire(time.monotonic() + 3.0)
    assert late_call.served[0].rejection is not None
    pool.submitted[0]()
    assert (locks.waiting, limiter._usage, locks._queues) == (0, {}, {})


def test_a_call_can_be_read_for_from_its_place_in_the_queue_until_it_ends() -> None:
    pool, arrivals, waiting = Pool(), Arrivals(), []

    class Reading(Call):
        def serve(self, message: Message) -> None:
            waiting.append((len(arrivals), message.arrival is not None))

    given: Any = (Reading(), Message(b"1"), pool, None, None, KeyedLocks(8, 3.0), 0, arrivals)
    ArrivedCall(*given).submit()
    assert len(arrivals) == 1
    pool.submitted[0]()
    assert waiting == [(1, True)]
    assert len(arrivals) == 0

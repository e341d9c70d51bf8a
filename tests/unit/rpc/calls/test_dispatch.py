"""Calls that wait for a place and for their turn, without a server."""

import time
from collections.abc import Callable
from typing import Any

from credit_service.rpc.calls.concurrency import CallShares
from credit_service.rpc.calls.dispatch import Arrived
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.keyed_locks import Turns


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
) -> tuple[Call, Arrived]:
    held = shares.hold(principal, writes=True)
    assert held is not None
    call, message = Call(), Message(b"")
    given: Any = (call, message, pool, shares, held, turns, customer_id)
    return call, Arrived(*given)


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

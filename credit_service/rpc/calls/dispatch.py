"""From a message that has arrived to a thread: places, turns, and how many may wait."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from credit_service.rpc.calls.concurrency import CallShares, Held
from credit_service.rpc.calls.incoming import Incoming, Message
from credit_service.rpc.calls.keyed_locks import Turn, Turns
from credit_service.rpc.calls.overload import LoadShedder
from credit_service.rpc.calls.pool import ServingPool
from credit_service.rpc.calls.rejections import PreparedStatus, Rejections
from credit_service.storage.database import in_progress

BeginCall = Callable[[Incoming, Message, Held | None], None]
"""Gives a call a thread: its message, and its place among the calls of its principal."""


class Lane(NamedTuple):
    """Threads that serve calls, and what keeps more from them than they can serve."""

    pool: ServingPool
    shedder: LoadShedder


class Dispatch:
    """Gives threads to calls whose message has arrived. Safe to share between threads."""

    def __init__(
        self,
        shares: CallShares,
        customers: Turns,
        rejections: Rejections,
        overloads: Sequence[PreparedStatus],
    ) -> None:
        """`customers` are the turns to write to one; `overloads` reject what has no room."""
        self._shares = shares
        self._customers = customers
        self._rejections = rejections
        self._overloads = overloads

    def begin_answers(
        self, pool: ServingPool, incoming: Incoming, message: Message, held: Held | None
    ) -> None:
        """Give a thread to a call that a stream of answers is for."""
        if held is not None:
            self._shares.release(held)
        pool.submit(incoming.serve, message)

    def begin_unary(
        self,
        method: str,
        lane: Lane,
        customer_of: Callable[[bytes], int] | None,
        incoming: Incoming,
        message: Message,
        held: Held | None,
    ) -> None:
        """Give a thread to a call of one answer, when it is its turn. `customer_of` finds whom it
        writes to."""
        lane.shedder.note_lag(time.monotonic() - incoming.arrived_at)
        if lane.shedder.full:
            if held is not None:
                self._shares.release(held)
            incoming.serve(message, self._rejections.behavior(method, self._overloads))
            return
        customer_id = customer_of(message.data or b"") if customer_of is not None else 0
        Arrived(
            incoming, message, lane.pool, self._shares, held, self._customers, customer_id
        ).begin()


class Arrived:
    """A call whose message has arrived and that has no thread. It takes a place among those of its
    principal first, and then its turn: a call that waits for a place has no turn that others could
    use."""

    __slots__ = ("_customer_id", "_held", "_incoming", "_message", "_pool", "_shares", "_turns")

    def __init__(
        self,
        incoming: Incoming,
        message: Message,
        pool: ServingPool,
        shares: CallShares,
        held: Held | None,
        turns: Turns,
        customer_id: int,
    ) -> None:
        """`customer_id` is whom it writes to; 0 for none."""
        self._incoming = incoming
        self._message = message
        self._pool = pool
        self._shares = shares
        self._held = held
        self._turns = turns
        self._customer_id = customer_id

    @property
    def gone(self) -> bool:
        """Whether its caller has gone."""
        return self._incoming.gone

    def begin(self) -> None:
        """Serve it on a thread, when its principal has a place for it and it is its turn."""
        if self._held is None or self._shares.enter(self._held, self._take_turn):
            self._take_turn()

    def start(self) -> bool:
        """Serve it, as its turn has come; False where it waits for a place first."""
        if self._held is not None and not self._shares.enter(self._held, self._take_turn):
            return False
        self._pool.submit(self._serve)
        return True

    def give_up(self) -> None:
        """Refuse it, on the current thread, which takes next to no time."""
        if self._held is not None:
            self._shares.release(self._held)
        self._message.refusal = in_progress()
        self._incoming.serve(self._message)

    def _take_turn(self) -> None:
        """Of a call that has a place."""
        if not self._customer_id or self._turns.take(self._customer_id):
            self._pool.submit(self._serve)
            return
        # It waits without a place. From `begin` on it may be started or given up by other threads.
        if self._held is not None:
            self._shares.leave(self._held)
        turn = self._turns.begin(self._customer_id, self)
        if turn is Turn.FULL:
            self.give_up()
        elif turn is Turn.TAKEN and not self.start():
            self._turns.end(self._customer_id)

    def _serve(self) -> None:
        try:
            self._incoming.serve(self._message)
        finally:
            if self._held is not None:
                self._shares.end(self._held)
            if self._customer_id:
                self._turns.end(self._customer_id)

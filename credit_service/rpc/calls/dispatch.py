"""Start calls whose message has arrived: check capacity, take a slot and a lock, get a thread."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from credit_service.rpc.calls.concurrency import ConcurrencyLimiter, Reservation
from credit_service.rpc.calls.incoming import Incoming, Message
from credit_service.rpc.calls.keyed_locks import Acquisition, KeyedLocks
from credit_service.rpc.calls.overload import LoadShedder
from credit_service.rpc.calls.pool import ServingPool
from credit_service.rpc.calls.rejections import PreparedStatus, Rejections
from credit_service.rpc.calls.shared_reads import Arrivals
from credit_service.storage.database import in_progress

StartCall = Callable[[Incoming, Message, Reservation | None], None]
"""Starts a call with its message and its reservation among its principal's calls."""


class Lane(NamedTuple):
    """A thread pool and the load shedder in front of it."""

    pool: ServingPool
    shedder: LoadShedder


class Dispatch:
    """Gives threads to calls whose message has arrived. Thread-safe."""

    def __init__(
        self,
        concurrency: ConcurrencyLimiter,
        customer_locks: KeyedLocks,
        rejections: Rejections,
        overloads: Sequence[PreparedStatus],
    ) -> None:
        """`customer_locks` serialize writes to one customer; `overloads` are the statuses of calls
        rejected at capacity."""
        self._concurrency = concurrency
        self._customer_locks = customer_locks
        self._rejections = rejections
        self._overloads = overloads

    def start_stream(
        self,
        pool: ServingPool,
        incoming: Incoming,
        message: Message,
        reservation: Reservation | None,
    ) -> None:
        """Start a call that answers with a stream."""
        if reservation is not None:
            self._concurrency.cancel(reservation)
        pool.submit(incoming.serve, message)

    def start_unary(
        self,
        method: str,
        lane: Lane,
        customer_of: Callable[[bytes], int] | None,
        arrivals: Arrivals | None,
        incoming: Incoming,
        message: Message,
        reservation: Reservation | None,
    ) -> None:
        """Start a call of one request and one response, once it has a slot and its lock.

        `customer_of` reads the id of the customer that the message writes to.
        """
        lane.shedder.record_lag(time.monotonic() - incoming.arrived_at)
        if lane.shedder.is_full:
            if reservation is not None:
                self._concurrency.cancel(reservation)
            incoming.serve(message, self._rejections.behavior(method, self._overloads))
            return
        customer_id = customer_of(message.data or b"") if customer_of is not None else 0
        ArrivedCall(
            incoming,
            message,
            lane.pool,
            self._concurrency,
            reservation,
            self._customer_locks,
            customer_id,
            arrivals,
        ).submit()


class ArrivedCall:
    """A call whose message has arrived and that holds no thread.

    It takes a running slot of its principal first and the customer's lock second: a call that waits
    for a slot holds no lock that others could use.
    """

    __slots__ = (
        "_arrivals",
        "_concurrency",
        "_customer_id",
        "_incoming",
        "_locks",
        "_message",
        "_pool",
        "_reservation",
    )

    def __init__(
        self,
        incoming: Incoming,
        message: Message,
        pool: ServingPool,
        concurrency: ConcurrencyLimiter,
        reservation: Reservation | None,
        locks: KeyedLocks,
        customer_id: int,
        arrivals: Arrivals | None = None,
    ) -> None:
        """`customer_id` is the customer that the call writes to; 0 for none."""
        self._incoming = incoming
        self._message = message
        self._pool = pool
        self._concurrency = concurrency
        self._reservation = reservation
        self._locks = locks
        self._customer_id = customer_id
        self._arrivals = arrivals

    @property
    def is_cancelled(self) -> bool:
        """Whether its caller has gone."""
        return self._incoming.is_cancelled

    def submit(self) -> None:
        """Serve the call on a thread once it has a slot and the lock."""
        if self._acquire_slot():
            self._acquire_lock()

    def start(self) -> bool:
        """Serve the call, which holds the lock; False where it must wait for a slot first."""
        if not self._acquire_slot():
            return False
        self._pool.submit(self._serve)
        return True

    def reject(self) -> None:
        """Reject the call on the current thread, in microseconds."""
        if self._reservation is not None:
            self._concurrency.cancel(self._reservation)
        self._message.rejection = in_progress()
        self._incoming.serve(self._message)

    def _acquire_slot(self) -> bool:
        """Whether the call may run now; otherwise `_acquire_lock` runs once it has a slot."""
        return self._reservation is None or self._concurrency.acquire_slot(
            self._reservation, self._acquire_lock
        )

    def _acquire_lock(self) -> None:
        """Take the lock and start. The call holds a slot."""
        if not self._customer_id or self._locks.try_acquire(self._customer_id):
            if self._arrivals is not None:
                self._message.arrival = self._arrivals.add(self._message.data)
            self._pool.submit(self._serve)
            return
        # It waits without a slot. After it is queued, other threads may start or reject it.
        if self._reservation is not None:
            self._concurrency.release_slot(self._reservation)
        acquisition = self._locks.acquire_or_enqueue(self._customer_id, self)
        if acquisition is Acquisition.FULL:
            self.reject()
        elif acquisition is Acquisition.ACQUIRED and not self.start():
            self._locks.release(self._customer_id)

    def _serve(self) -> None:
        try:
            self._incoming.serve(self._message)
        finally:
            if self._message.arrival is not None:
                self._message.arrival.leave()
            if self._reservation is not None:
                self._concurrency.finish(self._reservation)
            if self._customer_id:
                self._locks.release(self._customer_id)

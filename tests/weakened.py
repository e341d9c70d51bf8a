"""`python -m tests.weakened [descriptors=N] [without=GUARD,…]`: a server with fewer file
descriptors, or without some of its guards, to show that tests and campaigns detect a missing guard.
"""

import resource
import sys
from collections.abc import Callable
from typing import Any

_given = dict(each.partition("=")[::2] for each in sys.argv[1:])
del sys.argv[1:]
if "descriptors" in _given:
    # Before any import, as if the process had been started with this limit.
    _limit = int(_given["descriptors"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (_limit, _limit))

from credit_service.rpc import batch, server  # noqa: E402
from credit_service.rpc.__main__ import main  # noqa: E402
from credit_service.rpc.calls import (  # noqa: E402
    bounds,
    concurrency,
    connections,
    incoming,
    keyed_locks,
    limits,
    methods,
)

_UNLIMITED = 1_000_000


def _let_threads_wait_for_messages() -> None:
    _replace(incoming, "is_supported", lambda: False)


def _remove_limits_of_principals() -> None:
    def reserve(
        limiter: concurrency.ConcurrencyLimiter, principal: str, *, writes: bool
    ) -> concurrency.Reservation:
        reservation = concurrency.Reservation(principal, writes=writes)
        with limiter._lock:
            usage = limiter._usage.setdefault(principal, concurrency._Usage())
            usage.reserved += 1
            usage.reserved_writes += writes
        return reservation

    _replace(server, "_max_running_calls", lambda _settings: _UNLIMITED)
    _replace(concurrency.ConcurrencyLimiter, "reserve", reserve)


def _let_writers_of_one_customer_wait_in_the_database() -> None:
    _replace(keyed_locks.KeyedLocks, "try_acquire", lambda _locks, _key: True)
    _replace(keyed_locks.KeyedLocks, "release", lambda _locks, _key: None)


def _remove_reserve_of_streams() -> None:
    original = limits.StreamCapacity.__init__

    def without_reserve(capacity: limits.StreamCapacity, max_streams: int, _reserved: int) -> None:
        original(capacity, max_streams, 0)

    _replace(limits.StreamCapacity, "__init__", without_reserve)
    _replace(methods, "REFLECTION_METHODS", ())


def _let_connections_use_up_descriptors() -> None:
    _replace(connections.ConnectionGuard, "check", lambda _guard: 0)


def _let_many_batches_compute_at_once() -> None:
    _replace(bounds, "BATCH_THREADS", 16)
    _replace(bounds, "MAX_WAITING_BATCHES", _UNLIMITED)
    _replace(bounds, "ASKS_PER_CALL", _UNLIMITED)
    _replace(batch, "_SWITCH_SECONDS", batch._USUAL_SWITCH_SECONDS)


def _replace(place: Any, name: str, value: Any) -> None:
    setattr(place, name, value)


GUARDS: dict[str, Callable[[], None]] = {
    "messages": _let_threads_wait_for_messages,
    "shares": _remove_limits_of_principals,
    "turns": _let_writers_of_one_customer_wait_in_the_database,
    "streams": _remove_reserve_of_streams,
    "connections": _let_connections_use_up_descriptors,
    "batches": _let_many_batches_compute_at_once,
}

if __name__ == "__main__":
    for guard in filter(None, _given.get("without", "").split(",")):
        GUARDS[guard]()
    sys.exit(main())

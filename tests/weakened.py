"""`python -m tests.weakened [descriptors=N] [without=GUARD,…]`: a server with fewer descriptors, or
without some of its guards. It shows that tests and campaigns notice when a guard is missing.
"""

import resource
import sys
from collections.abc import Callable
from typing import Any

_given = dict(each.partition("=")[::2] for each in sys.argv[1:])
del sys.argv[1:]
if "descriptors" in _given:
    # Before anything is imported: as if it had been started so.
    _limit = int(_given["descriptors"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (_limit, _limit))

from credit_service.rpc import server  # noqa: E402
from credit_service.rpc.__main__ import main  # noqa: E402
from credit_service.rpc.calls import (  # noqa: E402
    concurrency,
    connections,
    incoming,
    keyed_locks,
    limits,
    methods,
)

_UNLIMITED = 1_000_000


def _let_threads_wait_for_messages() -> None:
    _replace(incoming, "supported", lambda: False)


def _give_principals_no_shares() -> None:
    def hold(shares: concurrency.CallShares, principal: str, *, writes: bool) -> concurrency.Held:
        held = concurrency.Held(principal, writes=writes)
        with shares._lock:
            share = shares._shares.setdefault(principal, concurrency._Share())
            share.held += 1
            share.held_writes += writes
        return held

    _replace(server, "_calls_at_work", lambda _settings: _UNLIMITED)
    _replace(concurrency.CallShares, "hold", hold)


def _let_writers_of_one_customer_wait_in_the_database() -> None:
    _replace(keyed_locks.Turns, "take", lambda _turns, _key: True)
    _replace(keyed_locks.Turns, "end", lambda _turns, _key: None)


def _let_streams_share_their_room() -> None:
    original = limits.StreamRoom.__init__

    def without_kept(room: limits.StreamRoom, max_streams: int, _kept: int) -> None:
        original(room, max_streams, 0)

    _replace(limits.StreamRoom, "__init__", without_kept)
    _replace(methods, "REFLECTION_METHODS", ())


def _let_connections_use_up_descriptors() -> None:
    _replace(connections.ConnectionGuard, "check", lambda _guard: 0)


def _replace(place: Any, name: str, value: Any) -> None:
    setattr(place, name, value)


GUARDS: dict[str, Callable[[], None]] = {
    "messages": _let_threads_wait_for_messages,
    "shares": _give_principals_no_shares,
    "turns": _let_writers_of_one_customer_wait_in_the_database,
    "streams": _let_streams_share_their_room,
    "connections": _let_connections_use_up_descriptors,
}

if __name__ == "__main__":
    for guard in filter(None, _given.get("without", "").split(",")):
        GUARDS[guard]()
    sys.exit(main())

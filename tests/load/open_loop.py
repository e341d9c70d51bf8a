"""Calls at a constant rate, regardless of the server's speed, with the benchmarks' generator.

As a separate process, `python -m tests.load.open_loop` reads a pickled `Order` from standard input
and writes a pickled `Outcome` to standard output.
"""

import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.load import LoadError, _Connection, ordered, serve_one

_PATIENCE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Order:
    """`calls_per_second` for `seconds`, over `channels` connections, with these bodies in turn."""

    port: int
    method: str
    bodies: Sequence[bytes]
    calls_per_second: float
    seconds: float
    channels: int = 4
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Outcome:
    """Latencies in seconds, from sending to the end, ordered by the end."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    answers: set[bytes] = field(default_factory=set)
    refusals: set[bytes] = field(default_factory=set)
    # The maximum delay of the generator itself.
    late_seconds: float = 0.0
    # Time in seconds from the start after which no call was rejected.
    last_refusal_at: float = 0.0


def run(order: Order) -> Outcome:
    """Load the server. Raises LoadError if it does not answer."""
    connections = [
        _Connection(order.port, order.method, order.metadata) for _ in range(order.channels)
    ]
    bodies, outcome = cycle(order.bodies), Outcome()
    began = time.perf_counter()
    until, sent, ended = began + order.seconds, 0, 0
    with selectors.DefaultSelector() as selector:
        for each in connections:
            each.flush()
            selector.register(each.socket, selectors.EVENT_READ, each)
        while True:
            now = time.perf_counter()
            due = int((min(now, until) - began) * order.calls_per_second)
            while sent < due:
                outcome.late_seconds = max(
                    outcome.late_seconds,
                    time.perf_counter() - began - (sent + 1) / order.calls_per_second,
                )
                connections[sent % order.channels].call(next(bodies))
                sent += 1
            for each in connections:
                each.flush()
            if now >= until and ended == sent:
                break
            if now > until + _PATIENCE_SECONDS:
                raise LoadError(f"{sent - ended} calls had no response")
            next_due = began + (sent + 1) / order.calls_per_second
            wait_seconds = max(0.0, next_due - time.perf_counter()) if now < until else 0.05
            for key, _ in selector.select(wait_seconds):
                connection: _Connection = key.data
                for seconds, answer in connection.receive():
                    ended += 1
                    _note(outcome, seconds, answer, time.perf_counter() - began)
                    if answer is None:
                        outcome.refusals.add(connection.failure)
    for each in connections:
        each.socket.close()
    return outcome


def _note(outcome: Outcome, seconds: float, answer: bytes | None, at_seconds: float) -> None:
    if answer is None:
        outcome.refused.append(seconds)
        outcome.last_refusal_at = at_seconds
    else:
        outcome.accepted.append(seconds)
        outcome.answers.add(answer)


def run_apart(order: Order) -> Outcome:
    """`run` in a separate process, on the processors of this one. Raises the same errors."""
    (outcome,) = ordered("tests.load.open_loop", [order])
    assert isinstance(outcome, Outcome)
    return outcome


if __name__ == "__main__":
    # Under its importable name, so that pickled objects can be loaded.
    from tests.load import open_loop

    serve_one(open_loop.run)

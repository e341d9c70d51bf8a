"""Twice a server's capacity: admitted calls are fast, other calls are rejected immediately, and
afterwards the server recovers.

This must hold behind the load balancer of deploy/, which rejects calls at a tenth of the cost for a
server. The server without a load balancer is measured too.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil
from typing import Any, Self

import grpc

from benchmarks import bed, load
from benchmarks.bed import Bed, Server
from benchmarks.calls import SERVICE, check_body, create_body
from credit_service.settings import Settings
from credit_service.v1 import credit_service_pb2 as pb
from tests.balancer import balancing, free_port
from tests.load import open_loop
from tests.load.callers import ended
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 200
_LOANS = 20
_BOOKING_CUSTOMERS = 20_000
_SECONDS = 10.0
_UNLOADED_SHARE = 0.25
_BUSY_SHARE = 0.6
_SOON_SECONDS = 2.5
_MOST_WINDOWS = 3
_MOST_GROWTH_BYTES = 24 * 2**20


@dataclass(frozen=True, slots=True)
class _Work:
    """A method, its requests, and the check of a response."""

    method: str
    request: type[Any]
    # The number of bodies, regenerated for each run: a repeated request id would only return its
    # stored response.
    bodies: Callable[[int], list[bytes]]
    right: Callable[[bytes], bool]


def run(test_bed: Bed) -> Report:
    """Run this part on a separate database."""
    report = Report("overload")
    url = test_bed.database("overload")
    bed.fill(url, 1, _CUSTOMERS, 3)
    bed.fill(url, _CUSTOMERS + 1, 2 * _CUSTOMERS, _LOANS)
    listed = range(_CUSTOMERS + 1, 2 * _CUSTOMERS + 1)
    booking = range(2 * _CUSTOMERS + 1, 2 * _CUSTOMERS + _BOOKING_CUSTOMERS + 1)
    bed.fill(url, booking[0], booking[-1], 3)
    works = (
        _Work(
            "CreateLoan",
            pb.CreateLoanRequest,
            lambda count: [create_body(each) for each in islice(cycle(booking), count)],
            _booked,
        ),
        _Work(
            "ListLoans",
            pb.ListLoansRequest,
            _same([pb.ListLoansRequest(customer_id=each).SerializeToString() for each in listed]),
            _listed,
        ),
        # The cheapest method: rejecting it costs almost half as much as serving it.
        _Work(
            "CheckEligibility",
            pb.CheckEligibilityRequest,
            _same([check_body(each) for each in range(1, _CUSTOMERS + 1)]),
            _eligible,
        ),
    )
    limit = Settings.model_fields["max_wait_seconds"].default
    for work in works:
        with ExitStack() as running:
            ready_port = free_port()
            server = running.enter_context(
                bed.server(
                    url,
                    test_bed.redis_url,
                    test_bed.serving,
                    max_wait_seconds=limit,
                    metrics_listen=f"127.0.0.1:{ready_port}",
                )
            )
            with bed.on(test_bed.loading):
                target = f"127.0.0.1:{server.port}", ready_port
                port = running.enter_context(balancing([target], ready=1))
            _measure(report, test_bed, replace(server, port=port), work, url, balanced=True)
            _measure(report, test_bed, server, work, url, balanced=False)
    return report


def _measure(
    report: Report, test_bed: Bed, server: Server, work: _Work, url: str, *, balanced: bool
) -> None:
    method = f"{SERVICE}{work.method}"
    name = work.method if balanced else f"{work.method} without a balancer"

    def at(rate: float, seconds: float = _SECONDS) -> open_loop.Outcome:
        bodies = work.bodies(ceil(rate * seconds))
        with bed.on(test_bed.loading):
            return open_loop.run_apart(open_loop.Order(server.port, method, bodies, rate, seconds))

    def warm() -> float:
        """The capacity: calls per second with 32 callers in a closed loop."""
        bodies = work.bodies(_BOOKING_CUSTOMERS)
        with bed.on(test_bed.loading):
            order = load.Order(server.port, method, bodies, 4.0, callers=32)
            return load.run_apart(order).calls_per_second

    warm()
    held = warm()
    bed.settle(url)
    unloaded = at(held * _UNLOADED_SHARE)
    p99 = percentile(unloaded.accepted, 0.99)
    report.note(
        f"{name}: capacity {held:,.0f} calls per second; at a quarter of it p99 {ms(p99)},"
        f" {len(unloaded.refused)} rejected"
    )
    at(2 * held, 3.0)  # fills the queue, so that memory reaches its maximum
    before = server.process.memory_info().rss
    with _Probe(server, work) as probe:
        loaded = at(2 * held)
    grown = server.process.memory_info().rss - before
    busy = at(held * _BUSY_SHARE, 5.0)
    # Other work can slow down a window; a server that has not recovered is slow in all.
    for _ in range(_MOST_WINDOWS):
        after = at(held * _UNLOADED_SHARE, 5.0)
        after_p99 = percentile(after.accepted, 0.99)
        if recovered := after_p99 <= 3 * p99 and not after.refused:
            break

    accepted_p99 = percentile(loaded.accepted, 0.99)
    refused_p99 = percentile(loaded.refused, 0.99)
    total = len(loaded.accepted) + len(loaded.refused)
    report.note(
        f"at twice the capacity, {total / _SECONDS:,.0f}/s: {len(loaded.accepted):,} served (p50"
        f" {ms(percentile(loaded.accepted, 0.5))}, p99 {ms(accepted_p99)}), {len(loaded.refused):,}"
        f" rejected (p50 {ms(percentile(loaded.refused, 0.5))}, p99 {ms(refused_p99)}); the"
        f" generator was at most {ms(loaded.late_seconds)} late"
    )
    if balanced:
        report.expect(
            accepted_p99 <= 3 * p99, f"served p99 {ms(accepted_p99)}, at most 3 times {ms(p99)}"
        )
        report.expect(refused_p99 <= max(accepted_p99, 3 * p99), f"rejected p99 {ms(refused_p99)}")
        report.expect(
            set(probe.found) <= {"OK", "RESOURCE_EXHAUSTED OVERLOADED with RetryInfo"},
            f"statuses {dict(probe.found)}",
        )
    else:
        report.note(f"statuses {dict(probe.found)}")
    report.expect(
        all(map(work.right, loaded.answers)), f"no wrong answer among {len(loaded.accepted):,}"
    )
    report.expect(grown <= _MOST_GROWTH_BYTES, f"memory grew by {grown / 2**20:.1f} MiB")
    report.expect(
        busy.last_refusal_at <= _SOON_SECONDS,
        f"right afterwards at {_BUSY_SHARE:.0%}: {len(busy.refused)} rejected,"
        f" the last after {busy.last_refusal_at:.1f} s",
    )
    report.expect(
        recovered,
        f"then at a quarter: p99 {ms(after_p99)}, {len(after.refused)} rejected",
    )


def _same(bodies: list[bytes]) -> Callable[[int], list[bytes]]:
    """The same bodies for every run, for reads."""
    return lambda _count: bodies


def _booked(answer: bytes) -> bool:
    booked = pb.CreateLoanResponse.FromString(answer)
    return booked.approved and booked.loan.monthly_installment.units == 4730


def _listed(answer: bytes) -> bool:
    """Whether a response has all loans of one of these customers."""
    return len({loan.loan_id for loan in pb.ListLoansResponse.FromString(answer).loans}) == _LOANS


def _eligible(answer: bytes) -> bool:
    """Whether it equals the response for these identical customers."""
    answered = pb.CheckEligibilityResponse.FromString(answer)
    return (
        answered.approved
        and answered.interest_rate.value == "12.5"
        and answered.monthly_installment.units == 4730
    )


class _Probe:
    """A regular client that records the ends of its calls during the load."""

    def __init__(self, server: Server, work: _Work) -> None:
        self.found: Counter[str] = Counter()
        self._work = work
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        with ExitStack() as running:
            stub = self._server.stub(running)
            while not self._done.wait(random.uniform(0.01, 0.03)):  # noqa: S311 - no secret
                request = self._work.request.FromString(self._work.bodies(7)[6])
                try:
                    getattr(stub, self._work.method)(request, timeout=10)
                    self.found["OK"] += 1
                except grpc.RpcError as error:
                    self.found[ended(error)] += 1

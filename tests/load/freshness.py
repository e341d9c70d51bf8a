"""200 events per second: time from the commit of a loan or payment to score and cache."""

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import grpc
import psycopg

from benchmarks import bed
from benchmarks.bed import TODAY, Bed
from credit_service.cache.positions import PositionCache
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.balancer import free_port
from tests.load.callers import booking, drained, payment
from tests.load.report import Report, ms, percentile

_EVENTS_PER_SECOND = 200
_SECONDS = 20
_WARM_EVENTS = 3 * _EVENTS_PER_SECOND
_CUSTOMERS = _EVENTS_PER_SECOND * _SECONDS + _WARM_EVENTS
_LIMIT_SECONDS = 1.0
_POLL_SECONDS = 0.02


def run(test_bed: Bed) -> Report:
    """Run this part on a separate database, with a server and a worker.

    Each customer has one event, so the version of its score identifies the event.
    """
    report = Report("freshness")
    url = test_bed.database("freshness")
    bed.fill(url, 1, _CUSTOMERS, 3)
    with ExitStack() as running:
        ports = free_port(), free_port()
        server_metrics, worker_metrics = (f"127.0.0.1:{port}" for port in ports)
        server = running.enter_context(
            bed.server(
                url, test_bed.redis_url, test_bed.all_processors, metrics_listen=server_metrics
            )
        )
        worker = running.enter_context(
            bed.worker(url, test_bed.redis_url, worker_metrics_listen=worker_metrics)
        )
        channel = running.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}"))
        cache = running.enter_context(
            closing(PositionCache(test_bed.redis_url, timeout_seconds=1.0))
        )
        sent: dict[int, float] = {}
        answered: dict[int, float] = {}
        observer = _Observer(url, cache, sent)
        observer.start()
        observer.ready.wait(10)
        _load(CreditServiceStub(channel), report, sent, answered)
        report.expect(not drained(url), "all tasks are done at the end")
        observer.stop()
        unwritten = [_unwritten(each) for each in (server_metrics, worker_metrics)]
        used = worker.cpu_times()
        report.note(
            f"CPU time per event: {server.cpu_seconds() / _CUSTOMERS * 1000:.1f} ms in the server,"
            f" {(used.user + used.system) / _CUSTOMERS * 1000:.1f} ms in the worker"
        )
    # The commit is between the two times, so they bound the delay.
    measured = [each for each in observer.seen if each > _WARM_EVENTS]
    from_sending = [observer.seen[each] - sent[each] for each in measured]
    from_answer = [max(0.0, observer.seen[each] - answered[each]) for each in measured]
    report.note(
        f"{len(measured):,} events; after the response p50 {ms(percentile(from_answer, 0.5))},"
        f" p99 {ms(percentile(from_answer, 0.99))}"
    )
    worst_p99 = percentile(from_sending, 0.99)
    report.expect(
        worst_p99 < _LIMIT_SECONDS,
        f"after the request, before the commit: p50 {ms(percentile(from_sending, 0.5))}, p99"
        f" {ms(worst_p99)}, at most 1 s",
    )
    report.note(
        f"cache: {unwritten[0]} entries not written by the server and {unwritten[1]} by the worker"
        " because Redis did not answer in time"
    )
    absent = [each for each in observer.cache_absent if each > _WARM_EVENTS]
    report.expect(
        observer.cache_behind == 0 and len(absent) <= len(measured) // 100,
        f"cache: {observer.cache_behind} entries behind the table, {len(absent)} absent"
        f" (and {len(observer.cache_absent) - len(absent)} of the first {_WARM_EVENTS})",
    )
    return report


def _load(
    stub: CreditServiceStub, report: Report, sent: dict[int, float], answered: dict[int, float]
) -> None:
    """Send loans and payments alternately at a constant rate; records the times of sending and
    response."""
    calls: list[Any] = []

    def answer_to(customer_id: int) -> Callable[[object], None]:
        return lambda _: answered.__setitem__(customer_id, time.monotonic())

    began = time.monotonic()
    for customer_id in range(1, _CUSTOMERS + 1):
        pause = began + customer_id / _EVENTS_PER_SECOND - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        sent[customer_id] = time.monotonic()
        call: Any
        if customer_id % 2:
            call = stub.CreateLoan.future(booking(customer_id), timeout=20)
        else:
            call = stub.RecordPayment.future(payment(customer_id), timeout=20)
        call.add_done_callback(answer_to(customer_id))
        calls.append(call)
    refused = sum(call.exception() is not None for call in calls)
    seconds = time.monotonic() - began
    report.expect(not refused, f"{refused} calls rejected")
    report.note(f"{_CUSTOMERS / seconds:,.0f} events a second for {seconds:.0f} s")


def _unwritten(address: str) -> int:
    """How many entries a process could not write or remove when it tried."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    failures = re.findall(
        r'^credit_cache_writes_total\{[^}]*outcome="failure"[^}]*\} (\S+)$', text, re.MULTILINE
    )
    return sum(int(float(each)) for each in failures)


class _Observer(threading.Thread):
    """Observes when each customer's score is computed for the version of its event."""

    def __init__(self, url: str, cache: PositionCache, sent: Mapping[int, float]) -> None:
        """`sent` has the customers to observe; it grows during the run."""
        super().__init__(daemon=True)
        self.seen: dict[int, float] = {}
        self.cache_behind = 0
        self.cache_absent: list[int] = []
        self._url, self._cache, self._sent = url, cache, sent
        self.ready, self._done = threading.Event(), threading.Event()

    def stop(self) -> None:
        """Poll once more, and stop."""
        time.sleep(0.5)
        self._done.set()
        self.join()

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            # Customers without an event so far.
            (before,) = connection.execute("SELECT max(version) FROM customers").fetchone() or (0,)
            self.ready.set()
            while not self._done.wait(_POLL_SECONDS):
                rows = connection.execute(
                    """SELECT s.customer_id, s.customer_version
                    FROM credit_scores s JOIN customers c ON c.customer_id = s.customer_id
                    WHERE s.customer_version = c.version AND c.version > %s
                        AND s.customer_id = ANY(%s)""",
                    (
                        before,
                        [each for each in list(self._sent) if each not in self.seen],
                    ),
                ).fetchall()
                now = time.monotonic()
                for customer_id, version in rows:
                    self.seen[customer_id] = now
                    entry = self._cache.get(customer_id, TODAY)
                    if entry is None:
                        self.cache_absent.append(customer_id)
                    self.cache_behind += entry is not None and entry.position.version < version

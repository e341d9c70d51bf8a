"""PostgreSQL down for ten seconds under load."""

import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import Self

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import bed
from benchmarks.bed import Bed
from tests.load.callers import Callers, drained, ended
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 500
_AWAY_SECONDS = 10.0
_READY_SECONDS = 5.0


def run(test_bed: Bed) -> Report:
    """Run this part on separate servers, one of which is stopped."""
    report = Report("outage")
    url = test_bed.database("outage")
    bed.fill(url, 1, _CUSTOMERS, 3)
    with ExitStack() as running:
        server = running.enter_context(
            bed.server(url, test_bed.redis_url, test_bed.all_processors, max_wait_seconds=0.5)
        )
        running.enter_context(bed.worker(url, test_bed.redis_url))
        target = f"127.0.0.1:{server.port}"
        health = running.enter_context(_Health(target))
        # No retry policy, so that every rejection is visible.
        with Callers(lambda: grpc.insecure_channel(target), _CUSTOMERS) as callers:
            time.sleep(3.0)
            stopped_at = time.monotonic()
            # A fast shutdown, as by an administrator.
            psutil.Process(test_bed.database_pid).send_signal(signal.SIGINT)
            time.sleep(_AWAY_SECONDS)
            test_bed._stack.revive()
            back_at = time.monotonic()
            time.sleep(6.0)
        _judge(report, callers, health, stopped_at, back_at)
        left = callers.settle()
        account = callers.account(url) or "nothing lost, nothing duplicated"
        report.expect(
            left == 0 and account.startswith("nothing"),
            f"{len(callers.asked):,} writes, {left} without a response: {account}",
        )
        left_to_do = drained(url)
        report.expect(not left_to_do, f"outbox: {left_to_do or 'empty'}")
    return report


def _judge(
    report: Report, callers: Callers, health: "_Health", stopped_at: float, back_at: float
) -> None:
    found: Counter[str] = Counter()
    late = 0.0
    for at, error in callers.failures:
        found[ended(error)] += 1
        late = max(late, at - back_at)
    report.expect(
        set(found) == {"UNAVAILABLE DATABASE_UNAVAILABLE with RetryInfo"},
        f"{sum(callers.calls.values()):,} calls; rejections {dict(found)}",
    )
    report.expect(late <= _READY_SECONDS, f"the last rejection {late:+.1f} s after the restart")
    report.note(f"successful calls: p99 {ms(percentile(callers.latencies, 0.99))}")
    down = [at for at, serving in health.turns if not serving and at > stopped_at]
    up = [at for at, serving in health.turns if serving and at > back_at]
    down_after = down[0] - stopped_at if down else float("inf")
    up_after = up[0] - back_at if up else float("inf")
    report.expect(
        down_after <= _READY_SECONDS and up_after <= _READY_SECONDS,
        f"NOT_SERVING after {down_after:.1f} s, SERVING {up_after:.1f} s after the restart",
    )


class _Health:
    """Follows the server's health."""

    def __init__(self, target: str) -> None:
        self.turns: list[tuple[float, bool]] = []
        self._channel = grpc.insecure_channel(target)
        self._watch = health_pb2_grpc.HealthStub(self._channel).Watch(
            health_pb2.HealthCheckRequest()
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self._thread.join()
        self._channel.close()

    def _follow(self) -> None:
        try:
            for status in self._watch:
                serving = status.status == health_pb2.HealthCheckResponse.SERVING
                self.turns.append((time.monotonic(), serving))
        except grpc.RpcError:
            return  # cancelled above

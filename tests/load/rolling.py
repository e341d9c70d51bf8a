"""Two servers restarted in turn under load, with clients that use the documented retry policy."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import bed
from benchmarks.bed import Bed
from credit_service.client.channel import open_channel
from credit_service_client.channel import SERVICE_CONFIG
from tests.balancer import balancing, free_port
from tests.load.callers import Callers, ended
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 500
_ROUNDS = 2
# As in docker-compose.yml: the time in which a load balancer notices a stopping server.
_BALANCED_DELAY_SECONDS = 3.0


def run(test_bed: Bed) -> Report:
    """Clients with two addresses, as fallback and with round robin, and with one load balancer as
    in docker-compose.yml."""
    report = Report("rolling")
    for name, reach, delay_seconds in (
        ("addresses in order", _in_order, 0.0),
        ("round robin", _round_robin, 0.0),
        ("behind the balancer", _balanced, _BALANCED_DELAY_SECONDS),
    ):
        url = test_bed.database("rolling")
        bed.fill(url, 1, _CUSTOMERS, 3)
        with ExitStack() as running:
            servers = [
                running.enter_context(_Restartable(test_bed, url, delay_seconds)) for _ in range(2)
            ]
            channel = reach(running, servers)
            _roll(report, url, name, channel, servers)
    return report


_OpenChannel = Callable[[], grpc.Channel]


def _in_order(_running: ExitStack, servers: "list[_Restartable]") -> _OpenChannel:
    targets = ",".join(server.target for server in servers)
    return lambda: open_channel(f"ipv4:{targets}")


def _round_robin(_running: ExitStack, servers: "list[_Restartable]") -> _OpenChannel:
    targets = ",".join(server.target for server in servers)
    config = {**SERVICE_CONFIG, "loadBalancingConfig": [{"round_robin": {}}]}
    options = [("grpc.service_config", json.dumps(config))]
    return lambda: grpc.insecure_channel(f"ipv4:{targets}", options)


def _balanced(running: ExitStack, servers: "list[_Restartable]") -> _OpenChannel:
    targets = [(server.target, server.ready_port) for server in servers]
    port = running.enter_context(balancing(targets, ready=2))
    return lambda: open_channel(f"127.0.0.1:{port}")


def _roll(
    report: Report,
    url: str,
    name: str,
    channel: _OpenChannel,
    servers: "list[_Restartable]",
) -> None:
    with Callers(channel, _CUSTOMERS) as callers:
        time.sleep(2.0)
        for _ in range(_ROUNDS):
            for server in servers:
                server.restart()
                # Includes the next check of a load balancer.
                time.sleep(2.0)
    codes = [ended(error) for _, error in callers.failures]
    report.expect(
        not callers.failures,
        f"{name}: {sum(callers.calls.values()):,} calls over {2 * _ROUNDS} restarts,"
        f" {len(callers.failures)} failed {sorted(set(codes)) or ''}",
    )
    report.note(
        f"{name}: p99 {ms(percentile(callers.latencies, 0.99))}, maximum"
        f" {ms(max(callers.latencies))}"
    )
    account = callers.account(url) or "nothing lost, nothing duplicated"
    report.expect(account.startswith("nothing"), f"{name}: {account}")
    report.expect(not callers.wrong, f"{name}: {len(callers.wrong)} wrong answers")


class _Restartable:
    """A server on a separate port."""

    def __init__(self, test_bed: Bed, url: str, delay_seconds: float) -> None:
        self._test_bed, self._url, self._delay_seconds = test_bed, url, delay_seconds
        self.target, self.ready_port = f"127.0.0.1:{free_port()}", free_port()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def restart(self) -> None:
        """Stop it cleanly, start it, and wait until its health is SERVING."""
        self._running.close()
        self._start()

    def _start(self) -> None:
        self._running.enter_context(
            bed.server(
                self._url,
                self._test_bed.redis_url,
                self._test_bed.all_processors,
                listen=self.target,
                metrics_listen=f"127.0.0.1:{self.ready_port}",
                shutdown_delay_seconds=self._delay_seconds,
            )
        )
        with grpc.insecure_channel(self.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=30
            )
            for status in watch:
                if status.status == health_pb2.HealthCheckResponse.SERVING:
                    return

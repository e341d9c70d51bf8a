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
from credit_service.client.channel import SERVICE_CONFIG, open_channel
from tests.balancer import balancing, free_port
from tests.load.callers import Callers, ended
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 500
_ROUNDS = 2
# As in docker-compose.yml: until a load balancer has noticed that a server is stopping.
_BALANCED_DELAY_SECONDS = 3.0


def run(laid: Bed) -> Report:
    """Clients with two addresses, as fallback and with round robin, and with one load balancer as
    in docker-compose.yml."""
    report = Report("rolling")
    for name, reach, delay_seconds in (
        ("one address after the other", _one_after_the_other, 0.0),
        ("round robin", _by_turns, 0.0),
        ("behind the balancer", _balanced, _BALANCED_DELAY_SECONDS),
    ):
        url = laid.database("rolling")
        bed.fill(url, 1, _CUSTOMERS, 3)
        with ExitStack() as running:
            servers = [
                running.enter_context(_Restartable(laid, url, delay_seconds)) for _ in range(2)
            ]
            channel = reach(running, servers)
            _roll(report, url, name, channel, servers)
    return report


_OpenChannel = Callable[[], grpc.Channel]


def _one_after_the_other(_running: ExitStack, servers: "list[_Restartable]") -> _OpenChannel:
    targets = ",".join(server.target for server in servers)
    return lambda: open_channel(f"ipv4:{targets}")


def _by_turns(_running: ExitStack, servers: "list[_Restartable]") -> _OpenChannel:
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
                # Also until the next check of a load balancer.
                time.sleep(2.0)
    codes = [ended(error) for _, error in callers.failures]
    report.expect(
        not callers.failures,
        f"{name}: {sum(callers.calls.values()):,} calls over {2 * _ROUNDS} restarts,"
        f" {len(callers.failures)} failed {sorted(set(codes)) or ''}",
    )
    report.note(
        f"{name}: p99 {ms(percentile(callers.latencies, 0.99))}, at worst"
        f" {ms(max(callers.latencies))}"
    )
    account = callers.account(url) or "nothing lost, nothing doubled"
    report.expect(account.startswith("nothing"), f"{name}: {account}")
    report.expect(not callers.wrong, f"{name}: {len(callers.wrong)} wrong answers")


class _Restartable:
    """A server on a separate port."""

    def __init__(self, laid: Bed, url: str, delay_seconds: float) -> None:
        self._laid, self._url, self._delay_seconds = laid, url, delay_seconds
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
                self._laid.redis_url,
                self._laid.all_processors,
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

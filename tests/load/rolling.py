"""Two servers restarted one after the other, under load, by clients with the documented policy."""

import json
import socket
import time
from contextlib import ExitStack
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import bed
from benchmarks.bed import Bed
from credit_service.client.channel import SERVICE_CONFIG, open_channel
from tests.load.callers import Callers, ended
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 500
_ROUNDS = 2


def run(laid: Bed) -> Report:
    """Both ways in which clients use two addresses: one after the other, and by turns."""
    report = Report("rolling")
    for name, by_turns in (("one address after the other", False), ("round robin", True)):
        url = laid.database("rolling")
        bed.fill(url, 1, _CUSTOMERS, 3)
        _roll(report, laid, url, name, by_turns=by_turns)
    return report


def _roll(report: Report, laid: Bed, url: str, name: str, *, by_turns: bool) -> None:
    ports = [_free_port(), _free_port()]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)

    def channel() -> grpc.Channel:
        if not by_turns:
            return open_channel(target)
        config = {**SERVICE_CONFIG, "loadBalancingConfig": [{"round_robin": {}}]}
        return grpc.insecure_channel(target, [("grpc.service_config", json.dumps(config))])

    with ExitStack() as running:
        servers = [running.enter_context(_Restartable(laid, url, port)) for port in ports]
        with Callers(channel, _CUSTOMERS) as callers:
            time.sleep(2.0)
            for _ in range(_ROUNDS):
                for server in servers:
                    server.restart()
                    time.sleep(1.0)
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
    """A server at a port of its own."""

    def __init__(self, laid: Bed, url: str, port: int) -> None:
        self._laid, self._url, self._port = laid, url, port
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def restart(self) -> None:
        """Stop it in order, start it, and wait until its health says that it serves."""
        self._running.close()
        self._start()

    def _start(self) -> None:
        self._running.enter_context(
            bed.server(
                self._url,
                self._laid.redis_url,
                self._laid.all_processors,
                listen=f"127.0.0.1:{self._port}",
            )
        )
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=30
            )
            for status in watch:
                if status.status == health_pb2.HealthCheckResponse.SERVING:
                    return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port

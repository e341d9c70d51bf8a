"""Redis delayed by two seconds, then down: checks still succeed."""

import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import Self

import grpc

from benchmarks import bed
from benchmarks.bed import Bed
from benchmarks.calls import check_body
from credit_service.v1 import credit_service_pb2 as pb
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 300
_DELAY_SECONDS = 2.0
_MORE_SECONDS = 0.05
_ROUND_SECONDS = 10.0
_CALLERS = 4


def run(test_bed: Bed) -> Report:
    """Run this part on a separate database."""
    report = Report("slow cache")
    url = test_bed.database("slow_cache")
    bed.fill(url, 1, _CUSTOMERS, 3)
    with ExitStack() as running:
        proxy = running.enter_context(_Proxy(test_bed.redis_url))
        server = running.enter_context(bed.server(url, proxy.url, test_bed.all_processors))
        bare = running.enter_context(bed.server(url, None, test_bed.all_processors))
        _check(bare.port, 2.0)
        _check(server.port, 2.0)
        without = _check(bare.port, _ROUND_SECONDS)
        p99, worst = percentile(without, 0.99), max(without)
        report.note(f"without a cache: p99 {ms(p99)}, maximum {ms(worst)}")
        well = _check(server.port, _ROUND_SECONDS)
        report.note(f"with a cache: p99 {ms(percentile(well, 0.99))}, maximum {ms(max(well))}")
        for name, fail in (("delayed by 2 s", proxy.slow_down), ("down", proxy.close)):
            fail()
            found = _check(server.port, _ROUND_SECONDS)
            found_p99 = percentile(found, 0.99)
            report.expect(
                found_p99 <= p99 + _MORE_SECONDS,
                f"{name}: {len(found):,} checks, p99 {ms(found_p99)}, at most 50 ms more than"
                f" {ms(p99)}; maximum {ms(max(found))}",
            )
    return report


def _check(port: int, seconds: float) -> list[float]:
    """Latencies of CheckEligibility from some callers over some time. Raises if a call fails."""
    latencies: list[float] = []
    errors: list[Exception] = []
    until = time.monotonic() + seconds

    def call(number: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub

            stub = CreditServiceStub(channel)
            customer_id = number
            while time.monotonic() < until:
                customer_id = customer_id % _CUSTOMERS + 1
                request = pb.CheckEligibilityRequest.FromString(check_body(customer_id))
                began = time.monotonic()
                try:
                    answer = stub.CheckEligibility(request, timeout=10)
                    assert answer.approved
                except (grpc.RpcError, AssertionError) as error:
                    errors.append(error)
                    return
                latencies.append(time.monotonic() - began)
                time.sleep(0.005)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(_CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return latencies


class _Proxy:
    """A proxy between the server and Valkey that can delay data and disconnect."""

    def __init__(self, redis_url: str) -> None:
        self._path = redis_url.removeprefix("unix://").partition("?")[0]
        self._delay_seconds = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def slow_down(self) -> None:
        """Delay all data from now on."""
        self._delay_seconds = _DELAY_SECONDS

    def close(self) -> None:
        """Disconnect."""
        # Otherwise `accept` would continue in its thread and accept one more connection.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self._delay_seconds:
                    time.sleep(self._delay_seconds)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

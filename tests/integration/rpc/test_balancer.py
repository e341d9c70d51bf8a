"""Calls through HAProxy with the configuration of deploy/, to a real server and to stand-ins."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from credit_service.observability.metrics_http import MetricsEndpoint
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from tests import balancer
from tests.contract_files import contract_files
from tests.frames import Connection
from tests.integration.conftest import Edge, Refusal, code_of, refusal_of
from tests.integration.lending import register

PATH = "/credit_service.v1.CreditService/GetCustomer"
UNKNOWN = pb.GetCustomerRequest(customer_id=404)


@contextmanager
def through(
    *targets: tuple[str, int], ready: int = 1, inside: bool = False, **settings: int
) -> Iterator[grpc.Channel]:
    """A channel to the balancer of these servers."""
    with (
        balancer.balancing(targets, ready=ready, inside=inside, **settings) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal_of(raised.value)


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def served(server: Edge) -> Iterator[tuple[str, int]]:
    """A real server's address, and the port of its `/ready`."""
    with closing(MetricsEndpoint("127.0.0.1:0")) as endpoint:
        yield server.target, endpoint.address.port


def test_calls_and_streams_reach_the_servers(served: tuple[str, int]) -> None:
    with through(served) as channel:
        credit, ingestion = CreditServiceStub(channel), IngestionServiceStub(channel)
        customer_id = register(credit, "9876543210")
        found = credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer_id), timeout=20)
        assert found.customer.customer_id == customer_id
        assert refused(lambda: credit.GetCustomer(UNKNOWN)).reason == "CUSTOMER_NOT_FOUND"
        watched = credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), timeout=20)
        next(iter(watched))
        ended = refused(lambda: ingestion.IngestRows(iter(()), timeout=20))
        assert ended.reason == "STREAM_ORDER_INVALID"
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert "credit_service.v1.CreditService" in services


def test_calls_beyond_the_capacity_of_the_servers_are_rejected(served: tuple[str, int]) -> None:
    with through(served, inside=True, calls_at_most=0) as channel:
        credit = CreditServiceStub(channel)
        refusal = refused(lambda: credit.GetCustomer(UNKNOWN, timeout=20))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert refusal.message == "The servers are at capacity; retry shortly."
        assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() == 300
        # Streams and health checks do not count as queued calls.
        watched = credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), timeout=20)
        next(iter(watched))
        health = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_external_callers_cannot_read_the_health(served: tuple[str, int]) -> None:
    with through(served) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
        assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_without_its_message_does_not_count_as_running(running: ExitStack) -> None:
    """Three calls are too many, and calls with only headers do not count."""
    server = Standin(running)
    server.let_go(1000)
    port = running.enter_context(
        balancer.balancing([server.target], ready=1, calls_held=1, calls_at_most=3)
    )
    with Connection(f"127.0.0.1:{port}") as stranger:
        for _ in range(12):
            stranger.begin(PATH)
        time.sleep(0.2)
        channel = running.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        for _ in range(5):
            assert not Callers(channel).refused()


def test_connections_per_address_are_limited(served: tuple[str, int]) -> None:
    """Excess connections are closed, and each ended connection frees a place."""
    with balancer.balancing([served], ready=1, connections_per_source=3) as port:
        target = f"127.0.0.1:{port}"
        idle: list[Connection] = []
        for _ in range(12):
            with suppress(ConnectionError):  # closed immediately
                idle.append(Connection(target))
        _until(lambda: sum(not each.is_closed for each in idle) == 3)
        for each in idle:
            each.close()

        def served_again() -> bool:
            with grpc.insecure_channel(target) as channel:
                call: Any = CreditServiceStub(channel).GetCustomer.future(UNKNOWN, timeout=5)
                return call.code() is grpc.StatusCode.NOT_FOUND

        _until(served_again)


class Standin:
    """A server with one method, whose calls end when released, and whose readiness can be set."""

    def __init__(self, running: ExitStack) -> None:
        self._entered = threading.Semaphore(0)
        self._leave = threading.Semaphore(0)
        self._ready = True
        server = grpc.server(futures.ThreadPoolExecutor(32))
        handlers = {"GetCustomer": grpc.unary_unary_rpc_method_handler(self._serve)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("credit_service.v1.CreditService", handlers),)
        )
        endpoint = running.enter_context(
            closing(MetricsEndpoint("127.0.0.1:0", is_ready=lambda: self._ready))
        )
        port = server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{port}", endpoint.address.port
        server.start()
        running.callback(lambda: server.stop(0).wait())
        running.callback(self.let_go, 1000)

    def be(self, *, ready: bool) -> None:
        self._ready = ready

    def await_calls(self, count: int) -> None:
        """Wait until `count` more calls are in progress."""
        for _ in range(count):
            assert self._entered.acquire(timeout=10)

    def let_go(self, count: int) -> None:
        self._leave.release(count)

    def _serve(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self._entered.release()
        self._leave.acquire(timeout=30)
        return b""


class Callers:
    """Concurrent calls of one caller through a load balancer."""

    def __init__(self, channel: grpc.Channel, token: str = "") -> None:
        self._call: Any = channel.unary_unary(PATH, bytes, bytes)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def begin(self, count: int = 1) -> list[Any]:
        return [self._call.future(b"", timeout=60, metadata=self._metadata) for _ in range(count)]

    def refused(self) -> bool:
        """Whether one more call is rejected; otherwise it is in progress, or has ended."""
        try:
            self._call(b"", timeout=1, metadata=self._metadata)
        except grpc.RpcError as error:
            if code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
                return False
            return refusal_of(error).reason == "OVERLOADED"
        return False


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.slow
def test_a_burst_may_queue_and_later_calls_may_not(running: ExitStack) -> None:
    """The capacity is one call, and three in a burst."""
    server = Standin(running)
    channel = running.enter_context(through(server.target, calls_held=1, calls_at_most=3))
    callers = Callers(channel)
    burst = callers.begin(3)
    server.await_calls(3)
    assert callers.refused()
    server.let_go(3)
    assert [each.result() for each in burst] == [b""] * 3
    # One call at a time still succeeds, and a second concurrent one is rejected as long as most
    # calls are.
    (first,) = callers.begin()
    server.await_calls(1)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert callers.refused()
    server.let_go(1)
    assert first.result() == b""
    # After some seconds without a rejection, three calls may queue again.
    time.sleep(2.5)
    burst = callers.begin(3)
    server.await_calls(3)
    server.let_go(3)
    assert [each.result() for each in burst] == [b""] * 3


def test_a_caller_with_few_calls_is_served_while_those_of_another_wait(running: ExitStack) -> None:
    server = Standin(running)
    channel = running.enter_context(through(server.target, calls_held=1, calls_at_most=4))
    many, few = Callers(channel, "many"), Callers(channel, "few")
    waiting = many.begin(4)
    server.await_calls(4)
    assert many.refused()
    server.let_go(2)
    _until(lambda: sum(each.done() for each in waiting) == 2)
    (call,) = few.begin()
    server.await_calls(1)
    assert not call.done()
    assert few.refused()
    assert many.refused()


@pytest.mark.slow
def test_queueing_is_probed_from_time_to_time(running: ExitStack) -> None:
    """Long waiting calls exceed the capacity without being overload."""
    server = Standin(running)
    channel = through(server.target, calls_held=1, calls_at_most=3, strict_seconds=3)
    callers = Callers(running.enter_context(channel))
    burst = callers.begin(3)
    server.await_calls(3)
    assert callers.refused()
    server.let_go(2)
    _until(lambda: sum(each.done() for each in burst) == 2)
    # One is in progress, and another one is retried repeatedly.
    until = time.monotonic() + 10
    while callers.refused():
        assert time.monotonic() < until
    server.await_calls(1)


@pytest.fixture
def both(running: ExitStack) -> tuple[Standin, Standin, Callers, list[Any]]:
    """Two servers with a capacity of one call each, two in a burst, after a burst that was too
    large."""
    first, second = Standin(running), Standin(running)
    port = running.enter_context(
        balancer.balancing([first.target, second.target], ready=2, calls_held=1, calls_at_most=2)
    )
    callers = Callers(running.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")))
    burst = callers.begin(4)
    for server in (first, second):
        server.await_calls(2)
    assert callers.refused()
    return first, second, callers, burst


def test_two_servers_have_twice_the_capacity(
    both: tuple[Standin, Standin, Callers, list[Any]],
) -> None:
    first, second, callers, burst = both
    for server in (first, second):
        server.let_go(2)
    assert [each.result() for each in burst] == [b""] * 4
    begun = callers.begin(2)
    for server in (first, second):
        server.await_calls(1)
    assert callers.refused()
    assert not any(each.done() for each in begun)


def test_calls_at_a_hung_server_do_not_block_the_other_one(
    both: tuple[Standin, Standin, Callers, list[Any]],
) -> None:
    first, second, callers, burst = both
    first.be(ready=False)
    second.let_go(1000)
    _until(lambda: not callers.refused())
    assert sum(each.done() for each in burst) == 2


def test_calls_without_a_ready_server_do_not_count_as_a_burst(running: ExitStack) -> None:
    server = Standin(running)
    server.let_go(1000)
    server.be(ready=False)
    callers = Callers(running.enter_context(through(server.target, ready=0, calls_held=1)))

    def served() -> bool:
        (call,) = callers.begin()
        error = call.exception()
        assert error is None or refusal_of(error).reason == "DATABASE_UNAVAILABLE"
        return error is None

    assert not served()
    server.be(ready=True)
    _until(served)
    assert [each.result() for each in callers.begin(30)] == [b""] * 30


def test_a_call_rejected_while_sending_gets_its_status(running: ExitStack) -> None:
    server = Standin(running)
    channel = running.enter_context(through(server.target, calls_at_most=0))
    call: Any = channel.unary_unary(PATH, bytes, bytes)
    for _ in range(3):
        refusal = refused(lambda: call(bytes(2 * 2**20), timeout=20))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


def test_one_connection_can_exceed_the_capacity(running: ExitStack) -> None:
    """More than HTTP/2's usual 100 calls on a connection, so that the excess is rejected.

    How many are rejected differs: calls whose messages arrive together are counted late.
    """
    server = Standin(running)
    callers = Callers(running.enter_context(through(server.target, calls_at_most=150)))
    begun = callers.begin(400)
    _until(lambda: any(each.done() for each in begun))
    assert {refusal_of(each.exception()).reason for each in begun if each.done()} == {"OVERLOADED"}


def test_without_a_ready_server_callers_get_a_retry_delay() -> None:
    with through(ready=0) as channel:
        for ask in (
            lambda: CreditServiceStub(channel).GetCustomer(UNKNOWN, timeout=20),
            lambda: IngestionServiceStub(channel).ListIngestions(
                ingestion_pb.ListIngestionsRequest(), timeout=20
            ),
            lambda: list(
                CreditServiceStub(channel).WatchCreditEvents(
                    pb.WatchCreditEventsRequest(), timeout=20
                )
            ),
            lambda: IngestionServiceStub(channel).UploadSpreadsheet(
                iter([ingestion_pb.UploadSpreadsheetRequest(chunk=bytes(2**20))] * 8), timeout=20
            ),
        ):
            refusal = refused(ask)
            assert refusal.code == grpc.StatusCode.UNAVAILABLE
            assert refusal.reason == "DATABASE_UNAVAILABLE"
            assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000


def test_a_strict_client_reads_the_balancers_responses(running: ExitStack, tmp_path: Path) -> None:
    """buf curl, which requires HTTP status 200 and the content type of gRPC."""
    server = Standin(running)
    for target, ready, code in (
        (server.target, 1, "resource_exhausted"),
        (("127.0.0.1:1", 1), 0, "unavailable"),
    ):
        port = running.enter_context(balancer.balancing([target], ready=ready, calls_at_most=0))
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc"),
                *("--http2-prior-knowledge", "--schema", str(contract_files(tmp_path))),
                *("--data", "{}"),
                f"http://127.0.0.1:{port}{PATH}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        shown = json.loads(done.stderr)
        assert shown["code"] == code
        assert [each["type"] for each in shown["details"]] == [
            "google.rpc.ErrorInfo",
            "google.rpc.RetryInfo",
        ]

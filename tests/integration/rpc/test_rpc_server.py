"""The server around the services: reflection, health, limits, stopping, several processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psutil
import psycopg
import pytest
from google.protobuf import descriptor_pb2
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.cli import doctor
from credit_service.client.channel import open_channel
from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.observability import metrics
from credit_service.processes import cores
from credit_service.processes.address import AddressRefusedError, parse_address
from credit_service.processes.sizing import Sizing
from credit_service.processes.supervisor import MAX_QUICK_DEATHS, ChildFailedError, environment_of
from credit_service.rpc.server import MAX_MESSAGE_BYTES, CreditServer
from credit_service.rpc.server_group import ServerGroup, size_of
from credit_service.settings import Settings
from credit_service.storage import migrate, readiness, schema
from credit_service.storage.customer_search import CustomersPage
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration import portfolio
from tests.integration.conftest import Edge, code_of, refusal_of

SERVICES = [
    "credit_service.v1.CreditService",
    "credit_service.v1.IngestionService",
    "credit_service.v1.OperationsService",
    "credit_service.v1.ScorecardService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def raw(server: Edge, path: str) -> Callable[..., bytes]:
    """A unary call that sends and returns bytes."""
    return server.channel.unary_unary(path, None, None)


def raw_stream(server: Edge, path: str) -> Callable[[Iterator[bytes]], Any]:
    """A bidirectional stream of bytes."""
    return server.channel.stream_stream(path, None, None)


def eventually(condition: Callable[[], bool], timeout_seconds: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


class TestConnectionAge:
    """Clients open another connection after this time, and so find new servers."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_connection_age_seconds": 1.0})

    def test_calls_move_to_a_new_connection_and_streams_continue(self, server: Edge) -> None:
        events: Any = server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), timeout=60)
        assert next(iter(events)).HasField("heartbeat")
        port = server.server.address.port
        clients: set[int] = set()

        def is_replaced() -> bool:
            # None of them fails, without any retry policy.
            server.credit.ListCustomers(pb.ListCustomersRequest(page_size=1), timeout=10)
            clients.update(
                each.raddr.port
                for each in psutil.Process().net_connections("tcp")
                if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
            )
            return len(clients) >= 3

        eventually(is_replaced, timeout_seconds=60)
        assert events.is_active()
        events.cancel()


# Reflection.


@pytest.fixture(params=["v1", "v1alpha"])
def reflect(request: pytest.FixtureRequest, server: Edge) -> Callable[..., Any]:
    """A function that sends one request to reflection and returns the response."""
    ask = server.channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    def send(**question: Any) -> Any:
        (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(host="h", **question)]))
        assert answer.original_request == reflection_pb2.ServerReflectionRequest(
            host="h", **question
        )
        return answer

    return send


def test_reflection_lists_every_service(reflect: Callable[..., Any]) -> None:
    listed = reflect(list_services="").list_services_response.service
    assert [each.name for each in listed] == SERVICES


def test_reflection_returns_whole_files_with_comments(reflect: Callable[..., Any]) -> None:
    for symbol in (
        *SERVICES,
        "credit_service.v1.CreditService.CheckEligibility",
        "credit_service.v1.LoanRow.loan_amount",
        "credit_service.v1.LOAN_STATE_ACTIVE",
        "credit_service.v1.scope",
        "google.rpc.ErrorInfo",
    ):
        answer = reflect(file_containing_symbol=symbol).file_descriptor_response
        found = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_proto
        ]
        names = {file.name for file in found}
        assert all(imported in names for file in found for imported in file.dependency)
        first = found[0]
        assert first.package
        assert symbol.startswith(first.package)
        if first.package == "credit_service.v1":
            comments = " ".join(
                location.leading_comments for location in first.source_code_info.location
            )
            assert len(comments) > 400


def test_reflection_finds_extensions_and_reports_unknown_names(
    reflect: Callable[..., Any],
) -> None:
    options = "google.protobuf.MethodOptions"
    numbers = reflect(all_extension_numbers_of_type=options).all_extension_numbers_response
    assert list(numbers.extension_number) == [50271]
    wanted = reflection_pb2.ExtensionRequest(containing_type=options, extension_number=50271)
    files = reflect(file_containing_extension=wanted).file_descriptor_response
    first = descriptor_pb2.FileDescriptorProto.FromString(files.file_descriptor_proto[0])
    assert first.name == "credit_service/v1/options.proto"
    for question in (
        {"file_containing_symbol": "no.such.Thing"},
        {"file_by_filename": "no/such.proto"},
        {"all_extension_numbers_of_type": "no.such.Thing"},
    ):
        assert reflect(**question).error_response.error_code == 5
    assert reflect().error_response.error_code == 3


# Health.


def test_health_is_reported_per_service_and_follows_the_database(
    server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def health_of(service: str) -> Any:
        return server.health.Check(health_pb2.HealthCheckRequest(service=service)).status

    known = ["", *SERVICES[:4]]
    assert [health_of(service) for service in known] == [SERVING] * 5
    listed = server.health.List(health_pb2.HealthListRequest()).statuses
    assert {name: status.status for name, status in listed.items()} == dict.fromkeys(known, SERVING)
    with pytest.raises(grpc.RpcError) as caught:
        health_of("unknown")
    assert code_of(caught.value) is grpc.StatusCode.NOT_FOUND

    seen: list[int] = []
    watch = server.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
    reader = threading.Thread(target=lambda: seen.extend(_until_cancelled(watch)))
    reader.start()
    eventually(lambda: seen == [SERVING])

    def out_of_reach(_database: Database) -> None:
        raise UnavailableError("DATABASE_UNAVAILABLE", "gone", 1.0)

    with monkeypatch.context() as patched:
        patched.setattr(schema, "require", out_of_reach)
        eventually(lambda: seen == [SERVING, NOT_SERVING])
        assert [health_of(service) for service in known] == [NOT_SERVING] * 5
    eventually(lambda: seen == [SERVING, NOT_SERVING, SERVING])
    watch.cancel()
    reader.join()


def test_a_release_needs_its_newest_migration() -> None:
    """The server knows the newest revision without loading Alembic."""
    assert schema._needed() == migrate.head_revision()


@pytest.mark.slow
def test_a_server_is_not_ready_before_the_database_is_migrated(
    server: Edge, database: Database
) -> None:
    def status() -> int:
        found: int = server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
        return found

    def change(statement: str) -> None:
        with database.transaction() as connection:
            connection.execute(text(statement))

    change("UPDATE alembic_version SET version_num = '0001'")
    eventually(lambda: status() == NOT_SERVING)
    # A revision of a later release, as after a rollback.
    change("UPDATE alembic_version SET version_num = '9999'")
    eventually(lambda: status() == SERVING)
    change("DELETE FROM alembic_version")
    eventually(lambda: status() == NOT_SERVING)
    change("INSERT INTO alembic_version VALUES ('9999')")
    eventually(lambda: status() == SERVING)
    change("DROP TABLE alembic_version")
    eventually(lambda: status() == NOT_SERVING)


def _until_cancelled(watch: Any) -> Iterator[int]:
    try:
        for answer in watch:
            yield answer.status
    except grpc.RpcError:
        return


# The pipeline.


def test_a_call_keeps_its_request_id_or_gets_a_new_one(server: Edge) -> None:
    def call_id_of(metadata: tuple[tuple[str, str], ...]) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=1), metadata=metadata)
        refusal_of(caught.value)
        call: Any = caught.value
        return dict(call.trailing_metadata())["x-request-id"]

    assert call_id_of((("x-request-id", "order-7/a.B:c"),)) == "order-7/a.B:c"
    made = {call_id_of(()) for _ in range(5)}
    assert len(made) == 5
    for unfit in ("x" * 65, "two words", "semi;colon"):
        assert call_id_of((("x-request-id", unfit),)) != unfit
    _, call = server.credit.ListCustomers.with_call(pb.ListCustomersRequest())
    assert "x-request-id" in dict(call.trailing_metadata())


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x05abc", b"\x12\x02\xff\xfe", b"\x00" * 50], ids=repr
)
def test_bytes_that_are_no_message_are_an_invalid_argument(server: Edge, data: bytes) -> None:
    for method in ("RegisterCustomer", "CheckEligibility"):
        with pytest.raises(grpc.RpcError) as caught:
            raw(server, f"/credit_service.v1.CreditService/{method}")(data)
        found = refusal_of(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.parametrize(
    "path", ["/credit_service.v1.CreditService/Nope", "/nope.Nope/Nope", "/x", "//"]
)
def test_unknown_methods_are_unimplemented(server: Edge, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw(server, path)(b"")
    found = refusal_of(caught.value)
    assert found.code is grpc.StatusCode.UNIMPLEMENTED
    assert found.metadata == {"method": path.removeprefix("/")}


def test_messages_and_metadata_are_bounded(server: Edge) -> None:
    path = "/credit_service.v1.CreditService/ListCustomers"
    for size, metadata in (
        (MAX_MESSAGE_BYTES + 1, ()),
        (0, (("x-much", "x" * 9000),)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            raw(server, path)(b"x" * size, metadata=metadata)
        assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert raw(server, path)(b"", metadata=(("x-some", "x" * 4000),)) == b""


def test_a_defect_is_logged_with_the_call_id_and_hidden_from_the_caller(
    server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("SELECT secret")

    monkeypatch.setattr("credit_service.rpc.credit.list_customers", broken)
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "credit_service.rpc.errors._log.error",
        lambda event, **fields: logged.append({"event": event, **fields}),
    )
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.ListCustomers(
            pb.ListCustomersRequest(), metadata=(("x-request-id", "find-me"),)
        )
    found = refusal_of(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert found.metadata == {"call_id": "find-me"}
    assert "secret" not in found.message
    assert [each["call_id"] for each in logged] == ["find-me"]
    assert isinstance(logged[0]["exc_info"], ZeroDivisionError)


def test_an_unreachable_database_means_unavailable(
    server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sqlalchemy.engine.Engine.connect", lambda _engine: (_ for _ in ()).throw(_broken())
    )
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=1))
    found = refusal_of(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert found.details["RetryInfo"].retry_delay.seconds >= 1


def _broken() -> Exception:
    import psycopg

    return psycopg.OperationalError("connection refused")


def test_a_call_past_its_deadline_does_no_work(
    server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call waits for a thread until its deadline."""
    begun: list[str] = []
    release = threading.Event()

    def slow(_database: Database, query: str, *_rest: object) -> CustomersPage:
        begun.append(query)
        release.wait(10)
        return CustomersPage([])

    monkeypatch.setattr("credit_service.rpc.credit.list_customers", slow)
    busy = [
        server.credit.ListCustomers.future(pb.ListCustomersRequest(query="busy")) for _ in range(12)
    ]
    eventually(lambda: len(begun) == 12)
    late = server.credit.ListCustomers.future(pb.ListCustomersRequest(query="late"), timeout=0.2)
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # Health is served meanwhile: it has its own threads.
    assert server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
    release.set()
    for call in busy:
        call.result()
    server.credit.ListCustomers(pb.ListCustomersRequest(query="next"))
    assert begun == ["busy"] * 12 + ["next"]


class TestOverload:
    """More calls than threads and queue places."""

    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return Settings(
            database_url=SecretStr(database_url),
            redis_url=None,
            listen="127.0.0.1:0",
            threads=2,
            max_streams=1,
            reflection_streams=1,
            max_concurrent_calls=4,
            max_wait_seconds=30,
        )

    def test_calls_beyond_capacity_are_rejected_at_once(
        self, server: Edge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun: list[None] = []
        release = threading.Event()

        def slow(*_arguments: object) -> CustomersPage:
            begun.append(None)
            release.wait(20)
            return CustomersPage([])

        monkeypatch.setattr("credit_service.rpc.credit.list_customers", slow)
        send = server.credit.ListCustomers.future
        calls = [send(pb.ListCustomersRequest()) for _ in range(2)]
        eventually(lambda: len(begun) == 2)
        # Two more calls may wait.
        calls += [send(pb.ListCustomersRequest()) for _ in range(8)]
        eventually(lambda: sum(call.done() for call in calls) == 6)
        refusals = []
        for call in calls:
            if call.done():
                error = call.exception()
                assert isinstance(error, grpc.RpcError)
                refusals.append(refusal_of(error))
        assert {each.reason for each in refusals} == {"OVERLOADED"}
        assert {each.code for each in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all("RetryInfo" in each.details for each in refusals)
        assert server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        release.set()
        assert sum(call.exception() is None for call in calls) == 4
        server.credit.ListCustomers(pb.ListCustomersRequest())

    def test_streams_are_limited_and_leave_threads_to_other_calls(self, server: Edge) -> None:
        ask = raw_stream(server, REFLECTION)
        done = threading.Event()

        def hold() -> Iterator[bytes]:
            yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            done.wait(20)

        stream = ask(hold())
        next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(ask(iter([b""])))
        found = refusal_of(caught.value)
        assert found.reason == "TOO_MANY_STREAMS"
        assert found.metadata == {"max_streams": "1"}
        assert {"RetryInfo", "QuotaFailure"} <= set(found.details)
        server.credit.ListCustomers(pb.ListCustomersRequest())
        stream.cancel()
        done.set()

        def is_accepted() -> bool:
            try:
                next(ask(iter([b""])))
            except grpc.RpcError:
                return False
            return True

        eventually(is_accepted)


class TestIdleStream:
    """A stream whose client sends nothing."""

    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return Settings(
            database_url=SecretStr(database_url),
            redis_url=None,
            listen="127.0.0.1:0",
            stream_idle_seconds=0.3,
        )

    def test_it_times_out(self, server: Edge) -> None:
        ask = raw_stream(server, REFLECTION)
        done = threading.Event()

        def silent() -> Iterator[bytes]:
            done.wait(20)
            yield b""

        with pytest.raises(grpc.RpcError) as caught:
            list(ask(silent()))
        done.set()
        found = refusal_of(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE")
        eventually(lambda: not _threads("stream-reader"))


def _threads(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]


def test_cancelled_streams_release_their_places_and_threads(server: Edge) -> None:
    ask = raw_stream(server, REFLECTION)
    question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    refusals: set[str] = set()
    for _ in range(40):
        release = threading.Event()

        def hold(release: threading.Event = release) -> Iterator[bytes]:
            yield question
            release.wait(20)

        stream = ask(hold())
        try:
            next(stream)
        except grpc.RpcError as error:
            refusals.add(refusal_of(error).reason)
        stream.cancel()
        release.set()
    # A stream may arrive before the previous one is released.
    assert refusals <= {"TOO_MANY_STREAMS"}
    eventually(lambda: not _threads("stream-reader"))
    eventually(lambda: server.server._pipeline.open_streams == 0)


# Stopping.


def test_a_stop_finishes_running_calls_and_accepts_no_new_ones(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    begun = threading.Event()

    def slow(*_arguments: object) -> CustomersPage:
        begun.set()
        release.wait(10)
        return CustomersPage([])

    monkeypatch.setattr("credit_service.rpc.credit.list_customers", slow)
    running = CreditServer(settings, database)
    running.start()
    with grpc.insecure_channel(str(running.address)) as channel:
        stub = CreditServiceStub(channel)
        under_way = stub.ListCustomers.future(pb.ListCustomersRequest(), wait_for_ready=True)
        assert begun.wait(10)
        seen: list[int] = []
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        reader = threading.Thread(target=lambda: seen.extend(_until_cancelled(watch)))
        reader.start()
        eventually(lambda: seen[-1:] == [SERVING])
        stopped = threading.Thread(target=running.stop)
        began = time.monotonic()
        stopped.start()
        eventually(lambda: seen[-1:] == [NOT_SERVING])
        with pytest.raises(grpc.RpcError), grpc.insecure_channel(str(running.address)) as late:
            CreditServiceStub(late).ListCustomers(pb.ListCustomersRequest(), timeout=3)
        release.set()
        under_way.result(timeout=10)
        stopped.join(timeout=10)
        reader.join(timeout=10)
        assert not reader.is_alive()
        # The endless watch of the health does not delay the stop.
        assert time.monotonic() - began < 5
    assert not [each for each in threading.enumerate() if each.name.startswith("call-")]


def test_a_stopping_server_serves_during_the_shutdown_delay(
    settings: Settings, database: Database
) -> None:
    running = CreditServer(settings.model_copy(update={"shutdown_delay_seconds": 2.0}), database)
    running.start()
    with grpc.insecure_channel(str(running.address)) as channel:
        stub, health = CreditServiceStub(channel), health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            found: int = health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
            return found

        eventually(lambda: status() == SERVING)
        stopped = threading.Thread(target=running.stop)
        stopped.start()
        eventually(lambda: status() == NOT_SERVING)
        with grpc.insecure_channel(str(running.address)) as another:
            CreditServiceStub(another).ListCustomers(pb.ListCustomersRequest(), timeout=5)
        stub.ListCustomers(pb.ListCustomersRequest(), timeout=5)
        stopped.join(timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.ListCustomers(pb.ListCustomersRequest(), timeout=2)


@pytest.mark.slow
def test_no_call_with_the_retry_policy_fails_during_restarts(
    settings: Settings, database: Database
) -> None:
    """Includes calls that arrive at the moment when the server starts to stop."""
    failures: list[object] = []
    answered: list[None] = []
    done = threading.Event()

    def call(target: str) -> None:
        with open_channel(target) as channel:
            stub = CreditServiceStub(channel)
            while not done.is_set():
                try:
                    stub.ListCustomers(pb.ListCustomersRequest(), timeout=20)
                    answered.append(None)
                except grpc.RpcError as error:
                    failures.append(error)

    running = CreditServer(settings, database)
    running.start()
    listen = str(running.address)
    callers = [threading.Thread(target=call, args=(f"ipv4:{listen}",)) for _ in range(12)]
    for caller in callers:
        caller.start()
    for _ in range(8):
        time.sleep(0.3)
        running.stop(grace_seconds=10)
        running = CreditServer(settings.model_copy(update={"listen": listen}), database)
        running.start()
    done.set()
    for caller in callers:
        caller.join()
    running.stop(grace_seconds=5)
    assert failures == []
    assert len(answered) > 100


def test_a_stop_cancels_calls_that_outlast_the_grace_period(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(*_arguments: object) -> CustomersPage:
        begun.set()
        time.sleep(1.5)
        return CustomersPage([])

    monkeypatch.setattr("credit_service.rpc.credit.list_customers", slow)
    running = CreditServer(settings, database)
    running.start()
    with grpc.insecure_channel(str(running.address)) as channel:
        call = CreditServiceStub(channel).ListCustomers.future(
            pb.ListCustomersRequest(), wait_for_ready=True
        )
        assert begun.wait(10)
        running.stop(grace_seconds=0.2)
        assert call.code() is grpc.StatusCode.CANCELLED or call.code() is (
            grpc.StatusCode.UNAVAILABLE
        )


# Addresses.


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.9.9.9:50051", "[::1]:50051", "localhost:50051"]
)
def test_loopback_is_served_without_credentials(listen: str) -> None:
    assert parse_address(listen, insecure=False).host


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051"])
def test_other_addresses_require_explicit_insecurity(listen: str) -> None:
    with pytest.raises(AddressRefusedError, match="CREDIT_INSECURE"):
        parse_address(listen, insecure=False)
    assert parse_address(listen, insecure=True).port == 50051


@pytest.mark.parametrize(
    "listen",
    ["", "50051", ":50051", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1"],
)
def test_an_invalid_address_is_rejected(listen: str) -> None:
    with pytest.raises(AddressRefusedError):
        parse_address(listen, insecure=False)


def test_a_port_in_use_is_an_error(settings: Settings, database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        own = settings.model_copy(update={"listen": listen})
        before = set(threading.enumerate())
        with pytest.raises(AddressRefusedError):
            CreditServer(own, database)
        assert not set(threading.enumerate()) - before
        assert metrics.REGISTRY.get_sample_value("credit_server_threads") is None
        with pytest.raises(AddressRefusedError):
            ServerGroup(own)


# Several processes.


@pytest.fixture
def group(settings: Settings) -> Iterator[ServerGroup]:
    running = ServerGroup(
        settings.model_copy(update={"processes": 2, "threads": 4, "max_streams": 2})
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


def answers(target: str) -> bool:
    """Whether a call over a new connection succeeds."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            CreditServiceStub(channel).ListCustomers(pb.ListCustomersRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True


def connections_of(pid: int, port: int) -> int:
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process(pid).net_connections("tcp")
    )


def test_processes_share_the_port_and_a_killed_one_is_restarted(group: ServerGroup) -> None:
    target = str(group.address)
    pids = group.pids
    # Otherwise memory grows with each thread that received a large message.
    assert {psutil.Process(pid).environ()["MALLOC_ARENA_MAX"] for pid in pids} == {"2"}
    assert len(set(pids)) == 2
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.insecure_channel(target, options=options) for _ in range(24)]
    for channel in channels:
        CreditServiceStub(channel).ListCustomers(pb.ListCustomersRequest(), timeout=10)
    assert all(connections_of(pid, group.address.port) > 0 for pid in pids)
    for channel in channels:
        channel.close()

    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: len(set(group.pids) - {pids[0]}) == 2, timeout_seconds=30)
    eventually(lambda: all(answers(target) for _ in range(8)), timeout_seconds=30)
    assert pids[1] in group.pids
    group.stop()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    with pytest.raises(grpc.RpcError), grpc.insecure_channel(target) as channel:
        CreditServiceStub(channel).ListCustomers(pb.ListCustomersRequest(), timeout=2)


def cores_of(pid: int) -> list[set[int]]:
    """The cores on which each thread of a process may run."""
    threads = [each.id for each in psutil.Process(pid).threads()]
    return [os.sched_getaffinity(each) for each in threads]


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
def test_each_process_keeps_to_a_core_and_a_restarted_one_to_the_same(group: ServerGroup) -> None:
    first, second = group.pids
    (core,), (other,) = cores_of(first)[0], cores_of(second)[0]
    assert core != other
    # Every thread, also those that grpc starts.
    answers(str(group.address))
    assert all(found == {core} for found in cores_of(first))
    assert all(found == {other} for found in cores_of(second))

    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(set(group.pids) - {first}) == 2, timeout_seconds=30)
    (restarted,) = set(group.pids) - {second}
    eventually(lambda: cores_of(restarted)[0] == {core}, timeout_seconds=30)


@pytest.mark.slow
def test_processes_may_run_on_all_cores(settings: Settings) -> None:
    running = ServerGroup(settings.model_copy(update={"processes": 1, "pin_processes": False}))
    try:
        running.start()
        (pid,) = running.pids
        assert all(found == os.sched_getaffinity(0) for found in cores_of(pid))
    finally:
        running.stop()


def test_the_number_of_processes_follows_the_connections_of_the_database(
    settings: Settings,
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: list(range(64)))
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        (most,) = connection.execute("SHOW max_connections").fetchone() or ("",)
        assert readiness.connection_limit(database, "none") == int(most)
        assert readiness.connection_limit(database, "transaction") is None
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 80").format(name))
    # Half of the connections, for pools of twelve and one readiness check each.
    assert size_of(settings) == Sizing(3, "connections that the database allows: 80")
    assert size_of(settings.model_copy(update={"processes": 7})).count == 7
    unreachable = SecretStr("postgresql://user@127.0.0.1:1/none")
    assert size_of(settings.model_copy(update={"database_url": unreachable})).count == 3


def test_the_limit_of_a_role_counts(database: Database) -> None:
    with database.transaction() as connection:
        rolled_back = connection.begin_nested()
        connection.execute(text("CREATE ROLE limited CONNECTION LIMIT 7"))
        connection.execute(text("SET LOCAL ROLE limited"))
        assert readiness._CONNECTION_LIMIT.row(connection, {}) == (7,)
        rolled_back.rollback()


def test_the_doctor_compares_the_connections_of_all_processes_with_those_allowed(
    settings: Settings, database_url: str
) -> None:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 80").format(name))

    def finding(**changed: object) -> doctor.Finding:
        (found,) = [
            each
            for each in doctor._database(settings.model_copy(update=changed))
            if each.name == "processes"
        ]
        return found

    good = finding(processes=2)
    assert good.ok
    assert "serving processes here: 2 (CREDIT_PROCESSES)" in good.found
    assert "up to 42 of 80 database connections" in good.found
    bad = finding(processes=7)
    assert not bad.ok
    assert "up to 107 of 80 database connections" in bad.found
    assert "lower CREDIT_PROCESSES" in bad.fix


def test_fifty_loans_over_two_processes_exceed_no_limit(
    group: ServerGroup, database: Database
) -> None:
    moment = Clock().moment()
    customer_id = portfolio.a_good_customer(database, moment)
    options = (("grpc.use_local_subchannel_pool", 1),)
    target = str(group.address)
    channels = [grpc.insecure_channel(target, options=options) for _ in range(16)]
    start = threading.Barrier(50)
    approved: list[bool] = []

    def ask(number: int) -> None:
        stub = CreditServiceStub(channels[number % 16])
        request = pb.CreateLoanRequest(
            request_id=str(uuid4()),
            customer_id=customer_id,
            loan_amount=Money(units=5_00_000),
            interest_rate=Decimal(value="12"),
            tenure_months=480,
        )
        start.wait()
        while True:
            try:
                approved.append(stub.CreateLoan(request, timeout=60).approved)
            except grpc.RpcError as error:
                # The customer is locked or the server is at capacity: retry, as the contract says.
                delay = refusal_of(error).details["RetryInfo"].retry_delay
                time.sleep(delay.seconds + delay.nanos / 1e9)
            else:
                return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for channel in channels:
        channel.close()
    # A limit of 36 lakh allows seven loans of 5 lakh.
    assert len(approved) == 50
    assert sum(approved) == 7


@pytest.mark.slow
def test_a_process_that_cannot_be_started_is_retried(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = subprocess.Popen, [OSError(12, "Cannot allocate memory")]

    def popen(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return start(*arguments, **options)

    monkeypatch.setattr("credit_service.processes.supervisor.subprocess.Popen", popen)
    running = ServerGroup(settings.model_copy(update={"processes": 1}))
    try:
        running.start()
        assert not refusals
        assert len(running.pids) == 1
    finally:
        running.stop()


@pytest.mark.slow
def test_a_process_that_keeps_dying_is_restarted_and_does_not_affect_others(
    group: ServerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, doomed = subprocess.Popen, list(range(MAX_QUICK_DEATHS + 2))

    def popen(arguments: list[str], **options: Any) -> Any:
        # One start fails with invalid settings, such as a certificate replaced by an invalid one.
        status = 2 if len(doomed) == MAX_QUICK_DEATHS else 1
        if doomed:
            doomed.pop()
            arguments = [sys.executable, "-c", f"raise SystemExit({status})"]
        return start(arguments, **options)

    monkeypatch.setattr("credit_service.processes.supervisor.subprocess.Popen", popen)
    monkeypatch.setattr("credit_service.processes.supervisor.MAX_PAUSE_SECONDS", 0.01)
    dying, living = group.pids
    os.kill(dying, signal.SIGKILL)
    eventually(lambda: not doomed, timeout_seconds=60)
    assert living in group.pids
    eventually(lambda: len(set(group.pids) - {dying}) == 2, timeout_seconds=30)
    target = str(group.address)
    eventually(lambda: all(answers(target) for _ in range(8)), timeout_seconds=30)


def test_a_process_that_cannot_start_is_an_error(settings: Settings) -> None:
    # Only the children validate this setting.
    wrong = settings.model_copy(update={"threads": 1, "processes": 1})
    with pytest.raises(ChildFailedError):
        ServerGroup(wrong).start()


@pytest.mark.slow
def test_servers_stop_when_their_supervisor_is_killed(settings: Settings) -> None:
    program = (
        "from credit_service.observability.logs import configure_logging\n"
        "from credit_service.rpc.server_group import run\n"
        "from credit_service.settings import Settings\n"
        "configure_logging(Settings())\n"
        "run(Settings(), lambda address: print(address, flush=True))\n"
    )
    environment = environment_of(settings.model_copy(update={"processes": 2}))
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("127.0.0.1:")
        children = [each.pid for each in psutil.Process(parent.pid).children()]
        assert len(children) == 2
        parent.kill()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in children))


def test_a_single_process_prints_its_address_and_exits_with_0(settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "credit_service.rpc"],
        env=environment_of(settings),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("Serving on 127.0.0.1:")
        assert answers(said.split()[-1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_ready_server_imports_pandas_before_the_first_stream(settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "credit_service.rpc"],
        env=environment_of(settings),
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            maps = Path(f"/proc/{process.pid}/maps")
            eventually(lambda: "/pandas/_libs/" in maps.read_text(), timeout_seconds=60)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_server_without_a_database_url_names_the_setting(settings: Settings) -> None:
    environment = environment_of(settings.model_copy(update={"database_url": None}))
    finished = subprocess.run(
        [sys.executable, "-m", "credit_service.rpc"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert "DATABASE_URL" in finished.stderr


def test_a_child_inherits_its_parents_settings(settings: Settings) -> None:
    environment = environment_of(settings)
    with pytest.MonkeyPatch.context() as patched:
        for name in list(os.environ):
            patched.delenv(name)
        for name, value in environment.items():
            patched.setenv(name, value)
        assert Settings() == settings

"""Callers that send partial calls, read nothing, or exceed their limits."""

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from joserfc import jwt
from joserfc.jwk import ECKey

from benchmarks import bed
from credit_service.observability import metrics
from credit_service.rpc import watch
from credit_service.rpc.calls import bounds, incoming
from credit_service.rpc.calls.connections import ConnectionGuard, raise_descriptor_limit
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.frames import Connection, Pairs, authorized
from tests.integration import portfolio
from tests.integration.conftest import Edge, refusal_of
from tests.integration.rpc.test_limits import (
    MOMENT,
    eventually,
    incomplete_calls,
    loan_request,
    locked,
    refused,
)

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
READ = "/credit_service.v1.CreditService/GetCustomer"
EVENTS = "/credit_service.v1.CreditService/WatchCreditEvents"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
KEY = ECKey.generate_key("P-256")


def token(principal: str) -> str:
    claims = {
        "iss": "https://id.example",
        "aud": "credit-service",
        "sub": principal,
        "scope": "credit.read credit.write ingest",
        "exp": int(time.time()) + 600,
    }
    return jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY)


def bearer(principal: str) -> Pairs:
    return authorized(token(principal))


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k"}]}))
    return settings.model_copy(
        update={
            "token_keys": keys,
            "token_issuer": "https://id.example",
            "max_calls_per_principal": 32,
            "max_connection_idle_seconds": 1.0,
        }
    )


def health_of(server: Edge) -> int:
    status: int = server.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    return status


def read(server: Edge, principal: str, timeout: float = 5) -> Any:
    return server.credit.ListCustomers(
        pb.ListCustomersRequest(page_size=1), timeout=timeout, metadata=bearer(principal)
    )


def test_open_watches_are_limited(server: Edge) -> None:
    server.server._health._max_watches = 3
    with Connection(server.target) as stranger:
        for _ in range(5):
            stranger.send(stranger.begin(WATCH), b"")
        eventually(lambda: server.server._health.watches == 3)
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(server.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
        call: Any = caught.value
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestCallsWithoutAMessage:
    """They are awaited for longer than the others have patience, so that these would fail if they
    waited for them."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(bounds, "MESSAGE_SECONDS", 600.0)
        monkeypatch.setattr(bounds, "HEALTH_MESSAGE_SECONDS", 600.0)
        return settings

    def test_incomplete_health_checks_use_no_thread(self, server: Edge) -> None:
        edge = server.server._pipeline
        with Connection(server.target) as stranger:
            for _ in range(90):
                stranger.begin(CHECK)
            eventually(lambda: edge.pending_messages == bounds.MAX_HEALTH_PENDING)
            assert [health_of(server) for _ in range(6)] == [SERVING] * 6
            listed = server.health.List(health_pb2.HealthListRequest(), timeout=20)
            assert listed.statuses[""].status == SERVING
            assert edge.pending_messages >= bounds.MAX_HEALTH_PENDING - 1
            assert edge._health._fallback_pool.busy + edge._health._fallback_pool.waiting == 0
        eventually(lambda: edge.pending_messages == 0)

    def test_incomplete_calls_use_no_thread_or_place_of_others(self, server: Edge) -> None:
        edge = server.server._pipeline
        read(server, "ordinary")
        with Connection(server.target) as careless:
            mine = authorized(token("careless"))
            for _ in range(32):
                careless.begin(READ, mine)
            eventually(lambda: edge.pending_messages == 32)
            assert edge._reads.pool.busy + edge._reads.pool.waiting == 0
            for _ in range(3):
                read(server, "ordinary", timeout=20)
            refusal = refused(lambda: read(server, "careless"))
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_CALLS",
            )
            assert refusal.metadata == {"max_calls": "32"}
            assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() == 500
            assert refusal.details["QuotaFailure"].violations[0].subject == "careless"
        eventually(lambda: edge._concurrency._usage == {})
        # Also with a token that was verified before.
        with Connection(server.target) as careless:
            for _ in range(32):
                careless.begin(READ, mine)
            eventually(lambda: edge.pending_messages == 32)
            stub = server.channel.unary_unary(READ, bytes, bytes)
            assert refused(lambda: stub(b"", timeout=20, metadata=mine)).reason == "TOO_MANY_CALLS"
        eventually(lambda: edge.pending_messages == 0)
        read(server, "careless")


def test_watchers_that_read_nothing_do_not_block_others(server: Edge) -> None:
    followed: list[int] = []

    def follow() -> None:
        for response in server.health.Watch(health_pb2.HealthCheckRequest(), timeout=20):
            followed.append(response.status)
            if response.status == NOT_SERVING:
                return

    with Connection(server.target, window_bytes=0) as stranger:
        for _ in range(12):
            stranger.send(stranger.begin(WATCH), b"")
        eventually(lambda: server.server._health.watches >= 12)
        assert health_of(server) == SERVING
        follower = threading.Thread(target=follow)
        follower.start()
        eventually(lambda: followed == [SERVING])
        server.server._set_health(serving=False)
        assert health_of(server) in {NOT_SERVING, SERVING}  # the readiness thread may set it again
        follower.join(5)
        assert followed == [SERVING, NOT_SERVING]
    eventually(lambda: server.server._health.watches == 0)


def test_watches_per_address_are_limited(server: Edge) -> None:
    with Connection(server.target) as stranger:
        for _ in range(40):
            stranger.send(stranger.begin(WATCH), b"")
        eventually(lambda: server.server._health.watches == 32)
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(server.health.Watch(health_pb2.HealthCheckRequest(), timeout=5)))
        call: Any = caught.value
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestMessagesThatNeverCome:
    """They are awaited for so long, and no longer."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(bounds, "MESSAGE_SECONDS", 0.5)
        monkeypatch.setattr(bounds, "HEALTH_MESSAGE_SECONDS", 0.5)
        return settings

    def test_calls_without_a_message_are_cancelled(self, server: Edge) -> None:
        read(server, "careless")
        cancelled = metrics.calls_without_message._value
        with Connection(server.target) as careless:
            for path in (CHECK, READ):
                expected = cancelled.get() + 3
                for _ in range(3):
                    careless.begin(path, authorized(token("careless")))
                eventually(partial(lambda count: cancelled.get() == count, expected))
        eventually(lambda: server.server._pipeline._concurrency._usage == {})


def test_unauthenticated_calls_are_rejected_before_their_message(server: Edge) -> None:
    call = server.channel.stream_unary(READ, bytes, bytes)
    released = threading.Event()

    def nothing() -> Iterator[bytes]:
        released.wait(20)
        yield from ()

    assert refused(lambda: call(nothing(), timeout=3)).reason == "UNAUTHENTICATED"
    released.set()
    assert server.server._pipeline.pending_messages == 0


@pytest.mark.one_server("counts the statements that wait on this server")
def test_one_principal_never_has_all_threads(
    server: Edge, settings: Settings, database: Database, database_url: str
) -> None:
    customer_ids = [portfolio.a_good_customer(database, MOMENT) for _ in range(20)]
    read(server, "ordinary")
    with locked(database_url, *customer_ids) as waiting:
        bookings: list[Any] = [
            server.credit.CreateLoan.future(
                loan_request(each), timeout=20, metadata=bearer("careless")
            )
            for each in customer_ids
        ]
        most = settings.max_calls_at_work_per_principal * 3 // 4
        eventually(lambda: waiting() == most)
        for _ in range(3):
            read(server, "ordinary", timeout=2)
            read(server, "careless", timeout=2)  # its writes leave places to its reads
        assert waiting() == most
        assert not any(each.done() for each in bookings)
    # All the others had their turn.
    for each in bookings:
        error = each.exception()
        assert error is None or refusal_of(error).reason != "TOO_MANY_CALLS"
    eventually(lambda: server.server._pipeline._concurrency._usage == {})


def ask_and_stay(stranger: Connection) -> None:
    """Send one reflection request and leave the stream open."""
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    stranger.send(stranger.begin(REFLECTION), request, end=False)


def test_reflection_and_watchers_leave_room_for_ingestion(server: Edge, settings: Settings) -> None:
    edge = server.server._pipeline
    with ExitStack() as held:
        stranger = held.enter_context(Connection(server.target))
        for _ in range(6):
            ask_and_stay(stranger)
        eventually(lambda: edge._reflection_streams.open == settings.reflection_streams)
        for principal in ("first", "second"):
            for _ in range(4):
                stream: Any = server.credit.WatchCreditEvents(
                    pb.WatchCreditEventsRequest(), timeout=20, metadata=bearer(principal)
                )
                held.callback(stream.cancel)
                next(stream)
        third: Any = server.credit.WatchCreditEvents(
            pb.WatchCreditEventsRequest(), timeout=20, metadata=bearer("third")
        )
        assert refused(lambda: next(third)).reason == "TOO_MANY_STREAMS"
        ended = refused(
            lambda: server.ingestion.IngestRows(iter(()), timeout=5, metadata=bearer("third"))
        )
        assert ended.reason == "STREAM_ORDER_INVALID"  # it was admitted, and sent no message
    eventually(lambda: edge.open_streams == 0)


@pytest.mark.parametrize("limit", ["REFLECTION_IDLE_SECONDS", "REFLECTION_LIFETIME_SECONDS"])
def test_reflection_ends_soon(server: Edge, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    for name in ("REFLECTION_IDLE_SECONDS", "REFLECTION_LIFETIME_SECONDS"):
        monkeypatch.setattr(bounds, name, 0.3 if name == limit else 600.0)
    edge = server.server._pipeline
    with Connection(server.target) as stranger:
        ask_and_stay(stranger)
        eventually(lambda: edge._reflection_streams.open == 1)
        eventually(lambda: edge._reflection_streams.open == 0)


class TestLifetimes:
    """Streams that would never end."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(watch, "_HEARTBEAT_SECONDS", 0.1)
        return settings.model_copy(update={"stream_lifetime_seconds": 0.5})

    def test_a_watch_ends_with_where_to_continue(self, server: Edge, database: Database) -> None:
        portfolio.a_good_customer(database, MOMENT)
        stream: Any = server.credit.WatchCreditEvents(
            pb.WatchCreditEventsRequest(), timeout=20, metadata=bearer("watcher")
        )
        seen: list[pb.WatchCreditEventsResponse] = []
        refusal = refused(lambda: seen.extend(stream))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "STREAM_LIFETIME_OVER"
        assert refusal.metadata["lifetime_seconds"] == "0.5"
        assert int(refusal.metadata["last_event_id"]) >= 0

    def test_an_ingestion_at_its_maximum_lifetime_can_be_resumed(self, server: Edge) -> None:
        done = threading.Event()

        def silent() -> Iterator[ingestion_pb.IngestRowsRequest]:
            done.wait(10)
            yield from ()

        refusal = refused(
            lambda: server.ingestion.IngestRows(silent(), timeout=5, metadata=bearer("ingester"))
        )
        done.set()
        assert refusal.reason == "STREAM_LIFETIME_OVER"

    def test_a_stream_without_a_reader_is_cancelled(
        self, server: Edge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "LAST_SECONDS", 0.2)
        edge = server.server._pipeline
        with Connection(server.target, window_bytes=0) as slow:
            slow.send(slow.begin(EVENTS, authorized(token("slow"))), b"")
            eventually(lambda: edge.open_streams == 1)
            eventually(lambda: edge.open_streams == 0)


def test_idle_connections_end_and_others_do_not(server: Edge) -> None:
    with Connection(server.target) as idle, Connection(server.target, window_bytes=0) as watching:
        watching.send(watching.begin(WATCH), b"")
        eventually(lambda: idle.is_closed)
        assert not watching.is_closed
    read(server, "ordinary")


def test_the_address_with_most_connections_loses_idle_ones() -> None:
    """Those of another address, and one that was heard of last, stay."""
    with ExitStack() as held:
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listening.getsockname()[1]

        def connect(source: str) -> socket.socket:
            connection = held.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
            )
            held.enter_context(listening.accept()[0])
            return connection

        other = [connect("127.0.0.2") for _ in range(3)]
        many = [connect("127.0.0.3") for _ in range(12)]
        time.sleep(0.01)
        many[5].sendall(b"x")
        eventually(lambda: ConnectionGuard(port, max_connections=9).check() == 6)
        ended = [each for each in (*other, *many) if _has_ended(each)]
        assert len(ended) == 6
        assert set(ended) <= set(many) - {many[5]}
        assert ConnectionGuard(port, max_connections=9).check() == 0


def _has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


@pytest.mark.slow
def test_idle_connections_do_not_use_up_the_descriptors(database_url: str) -> None:
    """A process with 160 file descriptors, and 200 connections from one address."""
    with bed.server(
        database_url.replace("+psycopg", "", 1),
        None,
        frozenset(os.sched_getaffinity(0)),
        module=("tests.weakened", "descriptors=160"),
    ) as serving:
        target = f"127.0.0.1:{serving.port}"
        with ExitStack() as held:
            for _ in range(200):
                with suppress(OSError):
                    held.enter_context(Connection(target))
            with grpc.insecure_channel(target) as channel:
                found = CreditServiceStub(channel).ListCustomers(
                    pb.ListCustomersRequest(), timeout=10, wait_for_ready=True
                )
            assert found is not None
            assert serving.process.num_fds() < 160


def test_the_soft_limit_of_descriptors_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert raise_descriptor_limit() == 4096
    assert raised == [(4096, 4096)]


class TestWithoutIncoming:
    """Where the private parts of grpc are others than `incoming` knows."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr(incoming, "is_supported", lambda: False)
        monkeypatch.setattr(bounds, "MESSAGE_SECONDS", 0.5)
        return settings.model_copy(update={"token_keys": None, "token_issuer": None})

    def test_threads_wait_for_messages_only_briefly(self, server: Edge, settings: Settings) -> None:
        half, released = incomplete_calls(server, READ, settings.threads)
        checks, let_go = incomplete_calls(server, CHECK, 16)
        time.sleep(0.2)
        server.credit.ListCustomers(pb.ListCustomersRequest(), timeout=5)
        assert health_of(server) == SERVING
        ended = {call.code() for call in (*half, *checks)}
        assert ended == {grpc.StatusCode.CANCELLED}
        released.set()
        let_go.set()


def test_the_private_parts_of_grpc_are_as_expected() -> None:
    assert incoming.private_api_matches()


def test_changed_private_parts_of_grpc_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming._private, "_RECEIVE_MESSAGE_TOKEN", "another")
    assert not incoming.private_api_matches()
    monkeypatch.undo()
    monkeypatch.delattr(incoming._private, "_status")
    assert not incoming.private_api_matches()

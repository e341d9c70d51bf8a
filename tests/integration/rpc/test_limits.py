"""Limits and cancellation, with the real database and the real server."""

import gc
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2
from joserfc import jwt
from joserfc.jwk import ECKey
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.call import Call
from credit_service.settings import Settings
from credit_service.storage import schema
from credit_service.storage.cancellation import (
    CancelScope,
    ScopeCancelledError,
    current_scope,
    is_cancelled,
    shielded,
)
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import portfolio
from tests.integration.conftest import Edge, Refusal, refusal_of

# Cancel scopes: the database work of one call


class Statement(threading.Thread):
    """A thread that runs a statement in the scope of a call."""

    def __init__(self, database: Database, scope: CancelScope, statement: str) -> None:
        super().__init__(daemon=True)
        self._database, self._scope, self._statement = database, scope, statement
        self.running = threading.Event()
        self.error: Exception | None = None
        self.seconds = 0.0

    def run(self) -> None:
        current_scope.set(self._scope)
        begun = time.monotonic()
        try:
            with self._database.transaction() as connection:
                self.running.set()
                connection.execute(text(self._statement))
        except Exception as error:  # noqa: BLE001 - checked by the test
            self.error = error
        self.seconds = time.monotonic() - begun


def forever() -> CancelScope:
    return CancelScope(float("inf"))


def test_a_running_statement_is_cancelled_from_another_thread(database: Database) -> None:
    scope = forever()
    statement = Statement(database, scope, "SELECT pg_sleep(8)")
    statement.start()
    statement.running.wait(5)
    time.sleep(0.2)
    scope.cancel()
    statement.join(5)
    assert statement.seconds < 3
    assert isinstance(statement.error, UnavailableError)
    assert database.pool_use()[0] == 0
    schema.require(database)


def test_a_cancelled_scope_starts_no_statement(database: Database) -> None:
    scope = forever()
    scope.cancel()
    statement = Statement(database, scope, "SELECT 1")
    statement.start()
    statement.join(5)
    assert isinstance(statement.error, ScopeCancelledError)
    assert database.pool_use()[0] == 0


@pytest.mark.slow
def test_a_cancellation_never_hits_the_next_user(database_url: str) -> None:
    """One connection alternates between a call cancelled at any moment and one that is not."""
    database = Database(database_url, pool_size=1)
    done = threading.Event()
    stopped = 0
    failures: list[Exception] = []

    def bystander() -> None:
        while not done.wait(0.0005):  # leaves the connection to the other call
            try:
                with database.autocommit() as connection:
                    connection.execute(text("SELECT pg_sleep(0.0005)"))
            except Exception as error:  # noqa: BLE001 - checked by the test
                failures.append(error)

    thread = threading.Thread(target=bystander)
    thread.start()
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        scope = forever()
        statement = Statement(database, scope, "SELECT pg_sleep(0.002)")
        statement.start()
        statement.running.wait(5)
        time.sleep(stopped % 40 / 10_000)
        scope.cancel()
        statement.join(5)
        stopped += 1
    done.set()
    thread.join()
    database.dispose()
    assert stopped > 50
    assert failures == []


def test_waiting_for_a_connection_ends_at_the_deadline(database_url: str) -> None:
    database = Database(database_url, pool_size=1, pool_timeout_seconds=5.0)
    with database.autocommit():
        scope = CancelScope(time.monotonic() + 0.2)
        statement = Statement(database, scope, "SELECT 1")
        statement.start()
        statement.join(4)
    assert isinstance(statement.error, UnavailableError)
    assert 0.15 < statement.seconds < 1.5
    schema.require(database)
    database.dispose()


def test_shielded_cleanup_runs_after_a_cancellation(database: Database) -> None:
    scope = forever()
    token = current_scope.set(scope)
    try:
        scope.cancel()
        assert is_cancelled()
        with pytest.raises(ScopeCancelledError):
            schema.require(database)
        with shielded():
            schema.require(database)
        assert current_scope.get() is scope
    finally:
        current_scope.reset(token)
    assert not is_cancelled()


def test_cancelling_a_broken_connection_fails_silently(database: Database) -> None:
    scope = forever()
    with database.autocommit() as connection:
        driver = connection.connection.driver_connection
        with scope.using(driver):  # type: ignore[arg-type]  # a psycopg connection
            connection.invalidate()
            driver.close()  # type: ignore[union-attr]  # not None
            scope.cancel()
    schema.require(database)


def test_the_test_above_detects_a_stray_cancellation(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock of `using`, a cancellation hits another call."""
    database = Database(database_url, pool_size=1)
    with database.autocommit() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
    caught = threading.Event()

    def bystander() -> None:
        try:
            with database.autocommit() as connection:
                connection.execute(text("SELECT pg_sleep(3)"))
        except UnavailableError:
            caught.set()

    thread = threading.Thread(target=bystander)
    thread.start()
    time.sleep(0.3)
    driver.cancel_safe(timeout=2.0)
    thread.join()
    database.dispose()
    assert caught.is_set()


# The server

MOMENT = Clock().moment()
OK = grpc.StatusCode.OK


def eventually(condition: Callable[[], bool], timeout_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


def code_of(call: Any) -> grpc.StatusCode:
    """Wait for the end of a call; return its status."""
    code: grpc.StatusCode = call.code()
    return code


def refused(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return refusal_of(caught.value)


def loan_request(customer_id: int) -> pb.CreateLoanRequest:
    return pb.CreateLoanRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=Money(currency_code="INR", units=1_00_000),
        interest_rate=Decimal(value="12.5"),
        tenure_months=12,
    )


@contextmanager
def locked(database_url: str, *customer_ids: int) -> Iterator[Callable[[], int]]:
    """Lock customers' rows; yield a function that returns how many statements wait for locks."""
    url = database_url.replace("+psycopg", "", 1)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as observer:
        holder.execute(
            "SELECT 1 FROM customers WHERE customer_id = ANY(%s) FOR UPDATE", [list(customer_ids)]
        )

        def waiting() -> int:
            (count,) = observer.execute(
                """SELECT count(*) FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND datname = current_database()"""
            ).fetchone() or (0,)
            return int(count)

        yield waiting


@pytest.mark.one_server("counts the statements that wait on this server")
def test_a_cancelled_call_stops_its_statement(
    server: Edge, database: Database, database_url: str
) -> None:
    customer_ids = [portfolio.a_good_customer(database, MOMENT) for _ in range(4)]
    with locked(database_url, *customer_ids) as waiting:
        calls: list[Any] = [
            server.credit.CreateLoan.future(loan_request(each), timeout=30) for each in customer_ids
        ]
        eventually(lambda: waiting() == 4)
        begun = time.monotonic()
        for call in calls:
            call.cancel()
        eventually(lambda: waiting() == 0)
        eventually(lambda: database.pool_use()[0] == 0)
        # The lock timeout ends them only after three seconds.
        assert time.monotonic() - begun < 2.7
    for customer_id in customer_ids:
        listed = server.credit.ListLoans(pb.ListLoansRequest(customer_id=customer_id), timeout=5)
        assert not [loan for loan in listed.loans if loan.loan_id >= 1_000_000]


def test_a_statement_ends_at_the_callers_deadline(
    server: Edge, database: Database, database_url: str
) -> None:
    customer_id = portfolio.a_good_customer(database, MOMENT)
    with locked(database_url, customer_id) as waiting:
        call: Any = server.credit.CreateLoan.future(loan_request(customer_id), timeout=0.5)
        assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: waiting() == 0 and database.pool_use()[0] == 0, timeout_seconds=1.5)


class TestDefaultDeadline:
    """Calls without a deadline."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"default_deadline_seconds": 0.5})

    def test_it_ends_the_call_and_its_statement(
        self, server: Edge, database: Database, database_url: str
    ) -> None:
        customer_id = portfolio.a_good_customer(database, MOMENT)
        with locked(database_url, customer_id):
            refusal = refused(lambda: server.credit.CreateLoan(loan_request(customer_id)))
            assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert refusal.reason == "DEADLINE_EXCEEDED"
            assert refusal.metadata == {"timeout_seconds": "0.5"}


def incomplete_calls(server: Edge, path: str, count: int) -> tuple[list[Any], threading.Event]:
    """Calls that send no message, and the event that ends them."""
    released = threading.Event()

    def nothing() -> Iterator[bytes]:
        released.wait(20)
        yield from ()

    call = server.channel.stream_unary(path, bytes, bytes)
    return [call.future(nothing()) for _ in range(count)], released


@pytest.mark.slow
def test_calls_without_a_message_are_cancelled_and_free_their_threads(
    server: Edge, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MESSAGE_SECONDS", 1.0)
    path = "/credit_service.v1.CreditService/GetCustomer"
    incomplete, released = incomplete_calls(server, path, settings.threads)
    time.sleep(0.3)
    server.credit.ListCustomers(pb.ListCustomersRequest(), timeout=5)
    assert {code_of(call) for call in incomplete} == {grpc.StatusCode.CANCELLED}
    released.set()


def test_health_is_served_despite_calls_without_a_message(server: Edge) -> None:
    incomplete, released = incomplete_calls(server, "/grpc.health.v1.Health/Check", 16)
    time.sleep(0.1)
    answer = server.health.Check(health_pb2.HealthCheckRequest(), timeout=4)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert {code_of(call) for call in incomplete} == {grpc.StatusCode.CANCELLED}
    released.set()


def test_a_call_that_ends_without_a_message_is_rejected(server: Edge) -> None:
    call = server.channel.stream_unary("/credit_service.v1.CreditService/GetCustomer", bytes, bytes)
    refusal = refused(lambda: call(iter(()), timeout=5))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_the_health_service_rejects_bytes_that_are_no_message(server: Edge) -> None:
    check = server.channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\xff\xff", timeout=5)
    call: Any = caught.value
    assert code_of(call) is grpc.StatusCode.INVALID_ARGUMENT


def calls_in_memory() -> int:
    """The number of calls in memory. A thread may keep its last one until it serves the next."""
    gc.collect()
    return sum(isinstance(each, Call) for each in gc.get_objects())


@pytest.mark.slow
def test_cancelled_calls_release_all_resources(
    server: Edge, database: Database, settings: Settings
) -> None:
    customer_id = portfolio.a_good_customer(database, MOMENT)
    request = pb.GetCustomerRequest(customer_id=customer_id)
    server.credit.GetCustomer(request, timeout=5)
    threads = threading.active_count()
    for batch in range(50):
        calls: list[Any] = [server.credit.GetCustomer.future(request) for _ in range(100)]
        time.sleep(batch % 5 / 1000)  # cancelled at different moments
        for call in calls:
            call.cancel()
    eventually(lambda: calls_in_memory() <= settings.threads)
    eventually(lambda: database.pool_use()[0] == 0)
    eventually(lambda: threading.active_count() <= threads)

    def is_served() -> bool:
        # The server sheds load for a moment after so many calls.
        try:
            found = server.credit.GetCustomer(request, timeout=5).customer
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
            return False
        return found.customer_id == customer_id

    eventually(is_served)


@pytest.mark.slow
def test_cancelled_streams_release_all_resources(
    server: Edge, database: Database, settings: Settings
) -> None:
    edge = server.server._pipeline
    server.credit.ListCustomers(pb.ListCustomersRequest(), timeout=5)
    threads = threading.active_count()
    opened = 0
    for batch in range(63):
        streams: list[Any] = [
            server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest()) for _ in range(8)
        ]
        if batch % 2:  # cancelled after they began, or before
            eventually(lambda: edge.open_streams > 0)
        opened += len(streams)
        for stream in streams:
            stream.cancel()
        eventually(lambda: edge.open_streams == 0)
    assert opened >= 500
    eventually(lambda: calls_in_memory() <= settings.threads + settings.ingestion_streams)
    eventually(lambda: database.pool_use()[0] == 0)
    eventually(lambda: threading.active_count() <= threads)


def test_cancelled_watchers_do_not_wait_for_the_next_event(server: Edge) -> None:
    """Also while another watcher polls for events on their behalf."""
    edge = server.server._pipeline
    streams: list[Any] = [
        server.credit.WatchCreditEvents(pb.WatchCreditEventsRequest()) for _ in range(8)
    ]
    for stream in streams:
        next(stream)  # the first heartbeat; the next comes in ten seconds
    time.sleep(0.2)
    begun = time.monotonic()
    for stream in streams[1:]:
        stream.cancel()
    eventually(lambda: edge.open_streams == 1)
    assert time.monotonic() - begun < 5
    streams[0].cancel()


class TestShares:
    """The limits of each principal."""

    key = ECKey.generate_key("P-256")

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        keys = tmp_path / "jwks.json"
        keys.write_text(json.dumps({"keys": [{**self.key.as_dict(private=False), "kid": "k"}]}))
        return settings.model_copy(
            update={
                "token_keys": keys,
                "token_issuer": "https://id.example",
                "max_calls_per_second": 4.0,
                "max_streams_per_principal": 2,
            }
        )

    def metadata(self, principal: str) -> tuple[tuple[str, str], ...]:
        claims = {
            "iss": "https://id.example",
            "aud": "credit-service",
            "sub": principal,
            "scope": "credit.read",
            "exp": int(time.time()) + 60,
        }
        return (
            (
                "authorization",
                "Bearer " + jwt.encode({"alg": "ES256", "kid": "k"}, claims, self.key),
            ),
        )

    def test_calls_per_second_are_limited(self, server: Edge) -> None:
        def read(principal: str) -> Any:
            return server.credit.ListCustomers(
                pb.ListCustomersRequest(), timeout=5, metadata=self.metadata(principal)
            )

        refusals = []
        for _ in range(40):
            try:
                read("busy")
            except grpc.RpcError as error:
                refusals.append(refusal_of(error))
        assert 20 <= len(refusals) <= 31
        refusal = refusals[-1]
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "RATE_LIMITED"
        assert refusal.metadata == {"max_calls_per_second": "4"}
        assert refusal.details["QuotaFailure"].violations[0].subject == "busy"
        delay = refusal.details["RetryInfo"].retry_delay
        read("quiet")
        time.sleep(delay.seconds + delay.nanos / 1e9 + 0.01)
        read("busy")

    def test_open_streams_are_limited(self, server: Edge) -> None:
        def watch(principal: str) -> Any:
            stream: Any = server.credit.WatchCreditEvents(
                pb.WatchCreditEventsRequest(), timeout=20, metadata=self.metadata(principal)
            )
            next(stream)  # the first heartbeat
            return stream

        first, second = watch("busy"), watch("busy")
        refusal = refused(lambda: watch("busy"))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_STREAMS",
        )
        assert refusal.metadata == {"max_streams": "2"}
        assert refusal.details["QuotaFailure"].violations[0].subject == "busy"
        other = watch("quiet")
        first.cancel()
        eventually(lambda: server.server._pipeline.open_streams == 2)
        watch("busy").cancel()
        for stream in (second, other):
            stream.cancel()

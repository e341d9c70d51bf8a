"""Calls through HAProxy with the configuration of deploy/, to real servers."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from sqlalchemy import text

from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from tests import balancer
from tests.integration.conftest import Edge, Refusal, refusal_of
from tests.integration.lending import register

NOBODY = pb.GetCustomerRequest(customer_id=404)


@pytest.fixture(autouse=True)
def _installed() -> None:
    if balancer.program() is None:
        reason = "haproxy is not installed: see docs/contributing.md"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def through(*targets: str, ready: int = 1, **settings: int) -> Iterator[grpc.Channel]:
    """A channel to the balancer of these servers."""
    with (
        balancer.balancing(targets, ready=ready, **settings) as (port, _),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal_of(raised.value)


def test_calls_and_streams_reach_the_servers(server: Edge) -> None:
    with through(server.target) as channel:
        credit, ingestion = CreditServiceStub(channel), IngestionServiceStub(channel)
        customer_id = register(credit, "9876543210")
        told = credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer_id), timeout=20)
        assert told.customer.customer_id == customer_id
        assert refused(lambda: credit.GetCustomer(NOBODY)).reason == "CUSTOMER_NOT_FOUND"
        watched = credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), timeout=20)
        next(iter(watched))
        ended = refused(lambda: ingestion.IngestRows(iter(()), timeout=20))
        assert ended.reason == "STREAM_ORDER_INVALID"
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert "credit_service.v1.CreditService" in services


def test_more_than_the_servers_hold_is_refused(server: Edge) -> None:
    with through(server.target, calls_at_most=0) as channel:
        credit = CreditServiceStub(channel)
        told = refused(lambda: credit.GetCustomer(NOBODY, timeout=20))
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert told.message == (
            "The servers have as many calls as they can hold; come again shortly."
        )
        assert told.details["RetryInfo"].retry_delay.ToMilliseconds() == 300
        # Streams and health are no calls that queue.
        watched = credit.WatchCreditEvents(pb.WatchCreditEventsRequest(), timeout=20)
        next(iter(watched))
        health = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_a_burst_may_queue_and_after_it_nothing_does(server: Edge, database: Database) -> None:
    """Held are one call, and two in a burst; all wait for a table that is locked."""
    with (
        through(server.target, calls_held=1, calls_at_most=2) as channel,
        ThreadPoolExecutor(4) as callers,
    ):
        credit = CreditServiceStub(channel)

        def call() -> str:
            return refused(lambda: credit.GetCustomer(NOBODY, timeout=20)).reason

        assert call() == "CUSTOMER_NOT_FOUND"
        with database.transaction() as connection:
            connection.execute(text("LOCK TABLE customers"))
            burst = [callers.submit(call), callers.submit(call)]
            _wait_for_waiting(database, 2)
            assert call() == "OVERLOADED"
        assert [each.result() for each in burst] == ["CUSTOMER_NOT_FOUND"] * 2
        # One call at a time goes on as before, and a second beside it must come again.
        assert call() == "CUSTOMER_NOT_FOUND"
        with database.transaction() as connection:
            connection.execute(text("LOCK TABLE customers"))
            first = callers.submit(call)
            _wait_for_waiting(database, 1)
            assert call() == "OVERLOADED"
        assert first.result() == "CUSTOMER_NOT_FOUND"
        # Some seconds without a refusal, and two may wait again.
        time.sleep(2.5)
        with database.transaction() as connection:
            connection.execute(text("LOCK TABLE customers"))
            burst = [callers.submit(call), callers.submit(call)]
            _wait_for_waiting(database, 2)
        assert [each.result() for each in burst] == ["CUSTOMER_NOT_FOUND"] * 2


def _wait_for_waiting(database: Database, count: int) -> None:
    """Wait until so many sessions of the database wait for a lock."""
    until = time.monotonic() + 10
    found = 0
    while found < count:
        assert time.monotonic() < until, f"{found} calls wait, not {count}"
        with database.transaction() as connection:
            found = connection.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            ).scalar_one()


def test_without_a_server_that_is_ready_callers_are_told_to_come_again() -> None:
    with through(ready=0) as channel:
        for ask in (
            lambda: CreditServiceStub(channel).GetCustomer(NOBODY, timeout=20),
            lambda: IngestionServiceStub(channel).ListIngestions(
                ingestion_pb.ListIngestionsRequest(), timeout=20
            ),
            lambda: list(
                CreditServiceStub(channel).WatchCreditEvents(
                    pb.WatchCreditEventsRequest(), timeout=20
                )
            ),
        ):
            told = refused(ask)
            assert told.code == grpc.StatusCode.UNAVAILABLE
            assert told.reason == "DATABASE_UNAVAILABLE"
            assert told.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000

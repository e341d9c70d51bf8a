"""Calls that wait for locked customers leave threads and connections to other calls."""

from collections.abc import Iterator
from time import monotonic as _now
from typing import Any

import grpc
import pytest

from credit_service.settings import Settings
from credit_service.storage.database import Database, write_share
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration import portfolio
from tests.integration.conftest import Edge, refusal_of
from tests.integration.rpc.test_limits import MOMENT, eventually, loan_request, locked

pytestmark = pytest.mark.one_server("counts the statements that wait on this server")

BOOKERS = 20
PATIENCE_SECONDS = 60.0


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(
        database_url,
        lock_timeout_seconds=PATIENCE_SECONDS,
        statement_timeout_seconds=PATIENCE_SECONDS,
        pool_timeout_seconds=PATIENCE_SECONDS,
    )
    yield opened
    opened.dispose()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lock_timeout_seconds": PATIENCE_SECONDS})


def book(server: Edge, customer_id: int) -> Any:
    return server.credit.CreateLoan.future(loan_request(customer_id), timeout=PATIENCE_SECONDS)


def read(server: Edge, customer_id: int) -> None:
    found = server.credit.ListLoans(pb.ListLoansRequest(customer_id=customer_id), timeout=20)
    assert len(found.loans) >= 0


def test_bookings_of_a_locked_customer_wait_without_a_thread_or_connection(
    server: Edge, database: Database, database_url: str
) -> None:
    customer_id, other_id = (portfolio.a_good_customer(database, MOMENT) for _ in range(2))
    edge = server.server
    with locked(database_url, customer_id) as waiting:
        bookings = [book(server, customer_id) for _ in range(BOOKERS)]
        eventually(lambda: waiting() + edge._pipeline.awaiting_customer_locks == BOOKERS)
        assert waiting() == 1
        assert database.pool_use()[0] == edge._write_pool.busy == 1
        assert edge._pool.busy == 0
        for _ in range(5):
            read(server, customer_id)
        assert book(server, other_id).result().approved
        assert not any(each.done() for each in bookings)
    assert all(each.result().decision_id for each in bookings)
    eventually(lambda: edge._pipeline._customer_locks._queues == {})


def test_bookings_of_many_locked_customers_leave_connections_to_reads(
    server: Edge, database: Database, database_url: str
) -> None:
    customer_ids = [portfolio.a_good_customer(database, MOMENT) for _ in range(BOOKERS)]
    edge = server.server
    pool_size = database.pool_use()[1]
    most = write_share(pool_size)
    with locked(database_url, *customer_ids) as waiting:
        bookings = [book(server, each) for each in customer_ids]
        eventually(lambda: waiting() == most)
        eventually(lambda: edge._write_pool.busy + edge._write_pool.waiting == BOOKERS)
        assert waiting() == most < pool_size
        assert edge._pool.busy == 0
        for _ in range(5):
            read(server, customer_ids[0])
        assert waiting() == most
    assert all(each.result().decision_id for each in bookings)


class TestPatience:
    """How long calls wait for their turn."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"lock_timeout_seconds": 0.5})

    def test_a_call_that_waits_too_long_is_rejected_with_a_retry_delay(
        self, server: Edge, database: Database, database_url: str
    ) -> None:
        customer_id = portfolio.a_good_customer(database, MOMENT)
        with locked(database_url, customer_id) as waiting:
            first = book(server, customer_id)
            eventually(lambda: waiting() == 1)
            others = [book(server, customer_id) for _ in range(BOOKERS - 1)]
            for each in others:
                refusal = refusal_of(each.exception())
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.ABORTED,
                    "REQUEST_IN_PROGRESS",
                )
                assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() == 500
            assert not first.done()
        assert first.result().decision_id

    def test_a_cancelled_call_leaves_the_queue(
        self, server: Edge, database: Database, database_url: str
    ) -> None:
        customer_id = portfolio.a_good_customer(database, MOMENT)
        edge = server.server._pipeline
        edge._customer_locks._max_wait_seconds = PATIENCE_SECONDS
        with locked(database_url, customer_id) as waiting:
            first = book(server, customer_id)
            eventually(lambda: waiting() == 1)
            others = [book(server, customer_id) for _ in range(BOOKERS - 1)]
            eventually(lambda: edge.awaiting_customer_locks == len(others))
            for each in others:
                each.cancel()
            eventually(lambda: edge.awaiting_customer_locks == 0)
            assert waiting() == 1
        assert first.result().decision_id

    def test_a_call_that_waits_too_long_for_a_thread_is_shed(
        self, server: Edge, database: Database, database_url: str
    ) -> None:
        customer_ids = [portfolio.a_good_customer(database, MOMENT) for _ in range(BOOKERS)]
        edge = server.server
        threads = edge._write_pool.threads
        with locked(database_url, *customer_ids) as waiting:
            bookings = []
            for each in customer_ids[:threads]:
                bookings.append(book(server, each))
                eventually(lambda: edge._write_pool.busy == len(bookings))
            bookings += [book(server, each) for each in customer_ids[threads:]]
            eventually(lambda: waiting() == write_share(database.pool_use()[1]))
            eventually(
                lambda: (
                    edge._write_pool.waiting + sum(each.done() for each in bookings)
                    == BOOKERS - threads
                )
            )
            arrived_at = _now()
            eventually(lambda: _now() - arrived_at > 0.6)
        errors = [each.exception() for each in bookings]
        refusals = [refusal_of(each) for each in errors if each is not None]
        assert len(refusals) == BOOKERS - threads
        assert {each.reason for each in refusals} == {"OVERLOADED"}
        assert all("RetryInfo" in each.details for each in refusals)


def test_waiting_calls_of_one_customer_are_bounded(
    server: Edge, database: Database, database_url: str
) -> None:
    customer_id = portfolio.a_good_customer(database, MOMENT)
    turns = server.server._pipeline._customer_locks
    turns._max_queue = 3
    with locked(database_url, customer_id) as waiting:
        bookings = [book(server, customer_id) for _ in range(BOOKERS)]
        eventually(lambda: sum(each.done() for each in bookings) == BOOKERS - 4)
        eventually(lambda: (waiting(), turns.waiting) == (1, 3))
        refused = [refusal_of(each.exception()) for each in bookings if each.done()]
        assert {each.reason for each in refused} == {"REQUEST_IN_PROGRESS"}
    assert sum(each.exception() is None for each in bookings) == 4

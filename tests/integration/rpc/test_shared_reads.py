"""Calls that share a read get what each would read by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.domain.eligibility import Ask
from credit_service.observability import metrics
from credit_service.queries.credit import CreditQueries, CreditSnapshot
from credit_service.queries.loans import get_loan, get_loans
from credit_service.settings import Settings
from credit_service.storage import cluster
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration.conftest import Edge, code_of
from tests.integration.portfolio import LAKH, a_good_customer
from tests.integration.rpc.test_limits import eventually, loan_request

MOMENT = Clock().moment()
UNKNOWN = 987_654_321


def booked(database: Database, customer_id: int) -> tuple[int, int]:
    """The key of a new loan."""
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24))
    stored = create_loan(database, command, MOMENT, "tests")
    assert stored.loan_id is not None
    return customer_id, stored.loan_id


@pytest.mark.one_server("a cluster reads for each call by itself")
def test_snapshots_for_several_calls_are_those_of_each(database: Database, redis_url: str) -> None:
    cache = PositionCache(redis_url, timeout_seconds=1.0)
    ids = [a_good_customer(database, MOMENT) for _ in range(3)]
    alone = {each: CreditQueries(database).snapshot(each, MOMENT) for each in ids}
    queries = CreditQueries(database, cache)

    def shared() -> list[dict[int, CreditSnapshot]]:
        return [each for each in queries.shared_snapshots([*ids, UNKNOWN], MOMENT) if each]

    queries.snapshot(ids[0], MOMENT)
    eventually(lambda: cache.get(ids[0], MOMENT.today) is not None)
    # The cache first, so that no call waits for PostgreSQL that does not need it.
    assert shared() == [
        {ids[0]: alone[ids[0]]},
        {each: alone[each] for each in ids[1:]},
    ]
    # What was missing is in the cache now.
    eventually(lambda: all(cache.get(each, MOMENT.today) for each in ids))
    assert shared() == [alone]
    cache.close()


@pytest.mark.one_server("a cluster reads for each call by itself")
def test_loans_for_several_calls_are_those_of_each(database: Database) -> None:
    keys = [booked(database, a_good_customer(database, MOMENT)) for _ in range(3)]
    keys.append(booked(database, keys[0][0]))
    alone = {key: get_loan(database, key[1], key[0], MOMENT.today) for key in keys}
    unknown = [(UNKNOWN, keys[0][1]), (keys[1][0], keys[0][1])]
    assert get_loans(database, [*keys, *unknown], MOMENT.today) == alone
    # A customer whose arrears must be computed first: no other call waits for that.
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE customers SET arrears_version = version - 1 WHERE customer_id = :id"),
            {"id": keys[1][0]},
        )
    del alone[keys[1]]
    assert get_loans(database, keys, MOMENT.today) == alone


def test_a_cluster_reads_the_rows_of_each_call_by_themselves(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = booked(database, a_good_customer(database, MOMENT))
    monkeypatch.setattr(cluster, "is_distributed", lambda _connection: True)
    assert get_loans(database, [key], MOMENT.today) == {}
    assert list(CreditQueries(database).shared_snapshots([key[0]], MOMENT)) == []


class TestServer:
    """One thread, so that calls queue."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"threads": 1})

    def test_queued_calls_share_a_read(
        self, server: Edge, database: Database, database_url: str
    ) -> None:
        keys = [booked(database, a_good_customer(database, MOMENT)) for _ in range(4)]
        wrong = keys[0][0], keys[1][1]
        with reads_blocked(database_url):
            first = get(server, keys[0])
            eventually(lambda: server.server._pool.busy == 1)
            loans = [get(server, each) for each in keys]
            checks = [check(server, each[0]) for each in keys]
            missing, impatient = get(server, wrong), get(server, keys[3], timeout=0.5)
            unknown = check(server, UNKNOWN)
            cancelled = get(server, keys[2])
            eventually(lambda: server.server._pool.waiting == 12)
            cancelled.cancel()
            assert code_of(impatient.exception()) is grpc.StatusCode.DEADLINE_EXCEEDED
            before = {name: sizes(name) for name in ("loan", "check")}
        for key, call in zip([keys[0], *keys], [first, *loans], strict=True):
            loan = call.result().loan
            assert (loan.customer_id, loan.loan_id) == key
        for (customer_id, _), checked in zip(keys, checks, strict=True):
            assert checked.result().customer_id == customer_id
        for call in (missing, unknown):
            assert code_of(call.exception()) is grpc.StatusCode.NOT_FOUND
        # Neither method read once for each of its calls.
        for name, (reads, calls) in before.items():
            after = sizes(name)
            assert after[0] - reads < after[1] - calls

    def test_a_call_sees_a_booking_that_was_answered_before(
        self, server: Edge, database: Database
    ) -> None:
        customer_id = a_good_customer(database, MOMENT)
        for _ in range(5):
            loan = server.credit.CreateLoan(loan_request(customer_id), timeout=20).loan
            calls = [get(server, (customer_id, loan.loan_id)) for _ in range(5)]
            assert {each.result().loan.loan_id for each in calls} == {loan.loan_id}


def get(server: Edge, key: tuple[int, int], timeout: float = 20.0) -> Any:
    request = pb.GetLoanRequest(customer_id=key[0], loan_id=key[1])
    return server.credit.GetLoan.future(request, timeout=timeout)


def check(server: Edge, customer_id: int) -> Any:
    ask = loan_request(customer_id)
    request = pb.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=ask.loan_amount,
        interest_rate=ask.interest_rate,
        tenure_months=ask.tenure_months,
    )
    return server.credit.CheckEligibility.future(request, timeout=20)


@contextmanager
def reads_blocked(database_url: str) -> Iterator[None]:
    """No statement can read customers inside."""
    with psycopg.connect(database_url.replace("+psycopg", "", 1)) as holder:
        holder.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        yield


def sizes(name: str) -> tuple[float, float]:
    """How many reads of the method there were, and for how many calls."""
    names = ("credit_group_calls_count", "credit_group_calls_sum")
    count, total = (
        metrics.REGISTRY.get_sample_value(each, {"command": name}) or 0.0 for each in names
    )
    return count, total

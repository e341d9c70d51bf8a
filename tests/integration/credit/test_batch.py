"""BatchCheckEligibility answers as single calls do, byte for byte: BATCH_ASKS of them.

`make batch` compares 10,000.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
import redis
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from grpc_status import rpc_status
from pydantic import SecretStr
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.domain.calendar import add_months
from credit_service.domain.errors import RetryLaterError
from credit_service.domain.loans import Ask
from credit_service.domain.scorecard import STANDARD, prudent
from credit_service.queries.credit import CreditQueries, CreditSnapshots
from credit_service.rpc import batch
from credit_service.rpc.calls import bounds
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage import policy_facts, positions
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration.conftest import refusal_of
from tests.integration.policies import activated
from tests.integration.portfolio import LAKH, a_good_customer, on

ASKS = int(os.environ.get("BATCH_ASKS", "300"))
CUSTOMERS = 120
MOMENT = Clock().moment()
TODAY = MOMENT.today
INVALID_ARGUMENT, NOT_FOUND = 3, 5
REFERRED = decision_pb2.DECISION_OUTCOME_REFERRED
_CUSTOMER = text(
    """INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
        phone_number, approved_limit_paise, imported, created_at, position_as_of,
        position_valid_until)
    VALUES (:customer_id, 'Asha', 'Rao', 30, :income, '+91' || (7000000000 + :customer_id), :limit,
        true, now(), :today, CAST(:today AS date) + 1)"""
)
_LOAN = text(
    """INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
        installment_paise, start_date, end_date, imported, settled_at_import, emis_paid_on_time,
        installments_settled, closed_on)
    VALUES (:customer_id, :loan_id, :principal, 1200, 12, :installment, :start, :end, true,
        :settled, :on_time, :settled, :closed_on)"""
)


class StoppedClock(Clock):
    """A clock that always shows the same moment."""

    def moment(self) -> Moment:
        return MOMENT


@pytest.fixture
def credit(database: Database, database_url: str, redis_url: str) -> Iterator[CreditServiceStub]:
    """A server with a cache, whose clock is stopped."""
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        listen="127.0.0.1:0",
    )
    server = CreditServer(settings, database, StoppedClock())
    server.start()
    with grpc.insecure_channel(str(server.address)) as channel:
        yield CreditServiceStub(channel)
    server.stop(grace_seconds=5)


def fill(database: Database) -> None:
    """Customers 1 … CUSTOMERS with up to four loans. The positions of a third are outdated."""
    chance = random.Random(1)  # noqa: S311 - no secret
    with database.transaction() as connection:
        for customer_id in range(1, CUSTOMERS + 1):
            income = chance.choice([1, 3, 10]) * LAKH // 10
            connection.execute(
                _CUSTOMER,
                {
                    "customer_id": customer_id,
                    "income": income,
                    "limit": chance.choice([LAKH // 2, 36 * income]),
                    "today": TODAY,
                },
            )
            for number in range(chance.randint(0, 4)):
                start = TODAY - timedelta(days=chance.randint(1, 1_500))
                settled = chance.choice([12, 12, chance.randint(0, 11)])
                end = add_months(start, 12)
                connection.execute(
                    _LOAN,
                    {
                        "customer_id": customer_id,
                        "loan_id": 10 * customer_id + number,
                        "principal": chance.choice([1, 5]) * LAKH,
                        "installment": chance.choice([1, 5]) * 888_488,
                        "start": start,
                        "end": end,
                        "settled": settled,
                        "on_time": chance.choice([0, settled, chance.randint(0, settled)]),
                        "closed_on": min(end, TODAY) if settled == 12 else None,
                    },
                )
        ids = list(range(1, CUSTOMERS + 1))
        positions.refresh(connection, [each for each in ids if each % 3], TODAY)
        positions.refresh(
            connection, [each for each in ids if not each % 3], TODAY - timedelta(days=45)
        )


def a_late_customer(database: Database) -> int:
    """A good customer with a loan booked here, whose first installment is 9 to 12 days overdue."""
    moment = on(TODAY - timedelta(days=40))
    customer_id = a_good_customer(database, moment)
    command = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    assert create_loan(database, command, moment, "tests").approved
    return customer_id


def rupees(amount: int) -> Money:
    return Money(currency_code="INR", units=amount)


_BAD_FIELDS: tuple[dict[str, Any], ...] = (
    {"customer_id": 0},
    {"customer_id": -5, "tenure_months": 0},
    {"loan_amount": None},
    {"loan_amount": Money(units=-1)},
    {"loan_amount": Money(units=1, nanos=1)},
    {"loan_amount": Money(currency_code="USD", units=1)},
    {"interest_rate": None, "loan_amount": None, "tenure_months": 481, "customer_id": 0},
    {"interest_rate": Decimal(value="a lot")},
    {"interest_rate": Decimal(value="1e900")},
    {"tenure_months": 480, "loan_amount": rupees(10)},
)


def asks(count: int) -> list[pb.CheckEligibilityRequest]:
    """Asks that are approved, declined for each reason, of unknown customers, and invalid."""
    chance = random.Random(2)  # noqa: S311 - no secret
    made = []
    for number in range(count):
        values: dict[str, Any] = {
            # A tenth of them are unknown.
            "customer_id": chance.randint(1, CUSTOMERS * 10 // 9),
            "loan_amount": rupees(chance.choice([100, 5_000, 1_00_000, 20_00_000])),
            "interest_rate": Decimal(value=chance.choice(["0", "8.5", "12", "16.25", "100"])),
            "tenure_months": chance.choice([1, 6, 24, 240]),
        }
        if number % 8 == 0:
            values |= chance.choice(_BAD_FIELDS)
        made.append(pb.CheckEligibilityRequest(**values))
    return made


def single(credit: CreditServiceStub, ask: pb.CheckEligibilityRequest) -> pb.EligibilityResult:
    """The result that a single call gives."""
    try:
        return pb.EligibilityResult(eligibility=credit.CheckEligibility(ask, timeout=10))
    except grpc.RpcError as error:
        call: Any = error
        return pb.EligibilityResult(error=rpc_status.from_call(call))


def batched(
    credit: CreditServiceStub, asked: list[pb.CheckEligibilityRequest]
) -> list[pb.EligibilityResult]:
    found: list[pb.EligibilityResult] = []
    for start in range(0, len(asked), bounds.MAX_ASKS):
        request = pb.BatchCheckEligibilityRequest(asks=asked[start : start + bounds.MAX_ASKS])
        found += credit.BatchCheckEligibility(request, timeout=30).results
    return found


def in_bytes(results: list[Any]) -> list[bytes]:
    return [each.SerializeToString(deterministic=True) for each in results]


def refused(credit: CreditServiceStub, request: pb.BatchCheckEligibilityRequest) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        credit.BatchCheckEligibility(request, timeout=10)
    return refusal_of(caught.value)


@pytest.mark.parametrize(
    ("version", "reasons"),
    [("standard-1", {1, 2, 3, 4, 5}), ("prudent-1", {2, 4, 5, 7, 8})],
)
def test_answers_are_those_of_single_calls(
    database: Database,
    credit: CreditServiceStub,
    redis_url: str,
    version: str,
    reasons: set[int],
) -> None:
    fill(database)
    if version != STANDARD.version:
        activated(database, prudent(), MOMENT)
    asked, late = asks(ASKS), a_late_customer(database)
    for each in asked[1::10]:
        each.customer_id = late
    cold = in_bytes(batched(credit, asked))
    singles = [single(credit, each) for each in asked]
    assert cold == in_bytes(singles)
    with redis.Redis.from_url(redis_url) as client:
        known = {each.eligibility.customer_id for each in singles if each.HasField("eligibility")}
        deadline = time.monotonic() + 20
        while len(client.keys("credit:position:*")) < len(known):
            assert time.monotonic() < deadline, "the cache was not filled"
            time.sleep(0.01)
    assert in_bytes(batched(credit, asked)) == cold
    # All kinds of answers were compared.
    answered = [each.eligibility for each in singles if each.HasField("eligibility")]
    codes = {each.error.code for each in singles if each.HasField("error")}
    assert codes == {INVALID_ARGUMENT, NOT_FOUND}
    assert any(each.approved for each in answered)
    assert {reason.code for each in answered for reason in each.reasons} >= reasons
    assert any(each.HasField("counter_offer") for each in answered)
    assert any(each.outcome == REFERRED for each in answered) == (version == "prudent-1")


def test_a_customer_may_occur_several_times(database: Database, credit: CreditServiceStub) -> None:
    customer_id = a_good_customer(database, MOMENT)
    ask = pb.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=rupees(20_00_000),
        interest_rate=Decimal(value="12"),
        tenure_months=60,
    )
    results = batched(credit, [ask] * 3)
    assert results == [single(credit, ask)] * 3
    assert results[0].eligibility.approved


@pytest.mark.parametrize(("count", "reason"), [(0, "REQUIRED"), (1_001, "OUT_OF_RANGE")])
def test_a_batch_has_1_to_1000_asks(credit: CreditServiceStub, count: int, reason: str) -> None:
    request = pb.BatchCheckEligibilityRequest(asks=[pb.CheckEligibilityRequest()] * count)
    found = refused(credit, request)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    violation = found.details["BadRequest"].field_violations[0]
    assert (violation.field, violation.reason) == ("asks", reason)


def test_answers_that_exceed_the_message_limit_are_rejected(
    credit: CreditServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MAX_RESPONSE_BYTES", 10_000)
    found = refused(credit, pb.BatchCheckEligibilityRequest(asks=asks(100)))
    assert (found.reason, found.fields) == ("INVALID_FIELD", {"asks"})


def test_a_batch_ends_when_its_caller_has_gone(
    database: Database, credit: CreditServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    decided, started, gone = [], threading.Event(), threading.Event()
    original = CreditSnapshots.decide

    def decide_slowly(*arguments: Any) -> Any:
        decided.append(arguments)
        started.set()
        assert gone.wait(20)
        time.sleep(0.002)
        return original(*arguments)

    monkeypatch.setattr(CreditSnapshots, "decide", decide_slowly)
    ask = pb.CheckEligibilityRequest(
        customer_id=1,
        loan_amount=rupees(5_000),
        interest_rate=Decimal(value="12"),
        tenure_months=6,
    )
    call: Any = credit.BatchCheckEligibility.future(
        pb.BatchCheckEligibilityRequest(asks=[ask] * bounds.MAX_ASKS), timeout=30
    )
    assert started.wait(20)
    call.cancel()
    gone.set()
    # The next batch runs on the same thread, after the cancelled one has ended.
    before = len(decided)
    assert len(batched(credit, [ask])) == 1
    assert before < len(decided) < bounds.MAX_ASKS


def test_single_calls_are_served_while_a_batch_runs(
    database: Database, credit: CreditServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    started, finish = threading.Event(), threading.Event()
    original = CreditQueries.snapshots

    def wait(queries: CreditQueries, *arguments: Any) -> Any:
        started.set()
        assert finish.wait(30)
        return original(queries, *arguments)

    monkeypatch.setattr(CreditQueries, "snapshots", wait)
    asked = asks(8)
    request = pb.BatchCheckEligibilityRequest(asks=asked)
    # More batches than a server has threads for reads.
    calls: list[Any] = [credit.BatchCheckEligibility.future(request, timeout=30) for _ in range(40)]
    assert started.wait(20)
    assert len([single(credit, each) for each in asked]) == len(asked)
    finish.set()
    ended = [each.exception() for each in calls]
    assert any(each is None for each in ended)
    # The others were rejected instead of queued.
    rejected = [refusal_of(each).reason for each in ended if each is not None]
    assert set(rejected) == {"OVERLOADED"}


def test_cached_positions_are_read_together(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PostgreSQL once all customers are cached, under the active scorecard only."""
    fill(database)
    cache = PositionCache(redis_url, timeout_seconds=5.0)
    queries, ids = CreditQueries(database, cache), range(1, CUSTOMERS + 1)
    moment = on(TODAY)
    found = queries.snapshots([*ids, 10_000], moment)
    fresh = {each: CreditQueries(database).snapshot(each, moment) for each in ids}
    assert found.positions == {each: snapshot.position for each, snapshot in fresh.items()}
    assert found.scorecard == fresh[1].scorecard
    deadline = time.monotonic() + 20
    while len(cache.get_many(ids, TODAY)) < CUSTOMERS:
        assert time.monotonic() < deadline, "the cache was not filled"
        time.sleep(0.01)
    with monkeypatch.context() as patched:
        patched.setattr(queries, "_read_many", None)
        # On a busy machine, more than a second may have passed.
        queries._note_active_version("standard-1", moment)
        assert queries.snapshots(ids, moment) == found
    # One that the cache lacks is read from PostgreSQL.
    cache.drop([7])
    assert queries.snapshots(ids, moment) == found
    cache.close()


def test_a_customer_that_keeps_changing_has_an_error_of_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where facts and position cannot be read at one version. The other asks are answered."""
    fill(database)
    activated(database, prudent(), MOMENT)
    moment, changing = on(TODAY), 1
    original = policy_facts.read_versioned

    def changed(*arguments: Any) -> Any:
        return original(*arguments)._replace(version=-1)

    def change_one(*arguments: Any) -> Any:
        found = read_many(*arguments)
        found[changing] = found[changing]._replace(version=-1)
        return found

    read_many = policy_facts.read_many_versioned
    monkeypatch.setattr(policy_facts, "read_many_versioned", change_one)
    queries, ask = CreditQueries(database), Ask(LAKH, 1200, 12)
    # A customer that changed once is read again.
    once = queries.snapshots([changing, 2], moment)
    assert once.decide(changing, ask) == queries.check_eligibility(changing, ask, moment)[1]
    monkeypatch.setattr(policy_facts, "read_versioned", changed)
    always = queries.snapshots([changing, 2], moment)
    with pytest.raises(RetryLaterError):
        always.decide(changing, ask)
    assert always.decide(2, ask) == once.decide(2, ask)


def test_held_credit_counts_where_the_stored_position_is_outdated(database: Database) -> None:
    moment = on(TODAY)
    customer_id = a_good_customer(database, moment)
    offer = CreateLoanOffer(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    assert create_loan_offer(database, offer, moment, "tests")[0].approved
    with database.transaction() as connection:
        connection.execute(
            text(
                """UPDATE customers SET position_as_of = CAST(:today AS date) - 40,
                position_valid_until = CAST(:today AS date) - 10"""
            ),
            {"today": TODAY},
        )
    queries = CreditQueries(database)
    position = queries.snapshots([customer_id], moment).positions[customer_id]
    assert position == queries.snapshot(customer_id, moment).position
    assert position.held_principal_paise == LAKH


def test_all_answers_are_under_one_scorecard(database: Database, redis_url: str) -> None:
    """A scorecard that becomes active between two reads applies to the whole batch."""
    fill(database)
    cache = PositionCache(redis_url, timeout_seconds=1.0)
    queries, moment = CreditQueries(database, cache), on(TODAY)
    cached = [1, 2]
    queries.snapshots(cached, moment)
    deadline = time.monotonic() + 20
    while len(cache.get_many(cached, TODAY)) < len(cached):
        assert time.monotonic() < deadline, "the cache was not filled"
        time.sleep(0.01)
    with database.transaction() as connection:
        for statement in (
            "UPDATE scorecards SET state = 'INACTIVE'",
            """INSERT INTO scorecards (version, document, state, added_at, activated_at)
            SELECT 'other-1', jsonb_set(document::jsonb, '{version}', '"other-1"')::json, 'ACTIVE',
                now(), now() FROM scorecards WHERE version = 'standard-1'""",
        ):
            connection.execute(text(statement))
    # As if the active version had been confirmed just before.
    queries._note_active_version("standard-1", moment)
    found = queries.snapshots([*cached, 4], moment)
    assert found.scorecard is not None
    assert found.scorecard.version == "other-1"
    assert found.positions.keys() == {*cached, 4}
    cache.close()

"""Reading methods on a streaming standby: same answers, bounded age, and the primary otherwise."""

import itertools
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type import money_pb2
from pydantic import SecretStr

from credit_service.cli import doctor
from credit_service.observability import metrics
from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import REPLICA_METHODS, Settings
from credit_service.storage import migrate
from credit_service.storage.database import Database
from credit_service.storage.readiness import UnsuitableDatabaseError
from credit_service.storage.standby import StandbyAge
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import customer_pb2, scorecard_service_pb2
from tests.faults import pair
from tests.faults.pair import Pair
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.database.test_database_read_only import health
from tests.integration.rpc.test_rpc_server import SERVING, eventually

PATIENCE_SECONDS = 60.0
phones = itertools.count(9_850_000_000)


@pytest.fixture(scope="module")
def all_servers() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="credit-service-replica-") as folder:
        Path(folder).chmod(0o711)
        # A commit does not wait for the standby, which some tests stop.
        with pair.running(Path(folder) / "data", synchronous=False) as running:
            migrate.upgrade(sqlalchemy(running.primary_url))
            yield running


@pytest.fixture
def replicated(all_servers: Pair) -> Iterator[Pair]:
    """A migrated primary with its standby."""
    yield all_servers
    if not is_following(all_servers):
        all_servers.rebuild()


def sqlalchemy(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def is_following(replicated: Pair) -> bool:
    streaming = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
    return replicated._primary.run(streaming) == [(True,)]


def of_standby(replicated: Pair, statement: str) -> object:
    return replicated._standby.run(statement)[0][0]


def settings_of(replicated: Pair, **others: object) -> Settings:
    given = {
        "database_url": SecretStr(replicated.primary_url),
        "replica_url": SecretStr(replicated.standby_url),
        "replica_methods": ", ".join(REPLICA_METHODS),
        # Longer than a test: only the tests about the age of the data have less.
        "replica_max_lag_seconds": 600.0,
        "redis_url": None,
        "listen": "127.0.0.1:0",
    }
    return Settings.model_validate(given | others)


@contextmanager
def serving(settings: Settings) -> Iterator[Edge]:
    database = open_database(settings)
    server = CreditServer(settings, database)
    server.start()
    try:
        with grpc.insecure_channel(str(server.address)) as channel:
            edge = Edge.of(server, channel)
            eventually(lambda: health(edge) == SERVING, PATIENCE_SECONDS)
            if settings.replica_method_names:
                eventually(lambda: is_used(edge), PATIENCE_SECONDS)
            yield edge
    finally:
        server.stop(grace_seconds=1)
        database.dispose()


def is_used(edge: Edge) -> bool:
    readings = {name: value for name, _, value in edge.server._readings()}
    return readings["credit_replica_usable"] == 1.0


def answers_by(server: str) -> float:
    value: float = metrics.replica_reads.labels(server)._value.get()
    return value


@contextmanager
def answered_by(server: str, calls: int = 1) -> Iterator[None]:
    """Check that so many calls of the block are answered by that server, and none by the other."""
    others = {"standby", "primary"} - {server}
    before = answers_by(server), [answers_by(each) for each in others]
    yield
    assert (answers_by(server) - calls, [answers_by(each) for each in others]) == before


def catch_up(replicated: Pair) -> None:
    """Wait until the standby has replayed what the primary has written."""
    written = replicated._primary.run("SELECT pg_current_wal_flush_lsn()")[0][0]
    eventually(
        lambda: of_standby(replicated, f"SELECT pg_last_wal_replay_lsn() >= '{written}'") is True,
        PATIENCE_SECONDS,
    )


def new_customer(edge: Edge) -> int:
    return lending.register(edge.credit, f"+91{next(phones)}")


def age_of(edge: Edge, customer_id: int) -> int:
    request = pb.GetCustomerRequest(customer_id=customer_id)
    age: int = edge.credit.GetCustomer(request, timeout=PATIENCE_SECONDS).customer.age
    return age


def set_age(edge: Edge, customer_id: int, age: int) -> None:
    edge.credit.UpdateCustomer(
        pb.UpdateCustomerRequest(
            request_id=str(uuid.uuid4()),
            customer=customer_pb2.Customer(customer_id=customer_id, age=age),
            update_mask=FieldMask(paths=["age"]),
        )
    )


# The answers.


@pytest.fixture
def requests(all_servers: Pair) -> dict[str, Message]:
    """A request for something that exists, for each method that a standby may serve."""
    with serving(settings_of(all_servers, replica_url=None)) as edge:
        credit = edge.credit
        customer_id = new_customer(edge)
        lending.import_loans(edge, customer_id, 3)
        set_age(edge, customer_id, 41)
        loan = credit.CreateLoan(lending.ask(customer_id))
        assert loan.approved
        offer_ask = lending.ask(customer_id)
        offer = credit.CreateLoanOffer(
            pb.CreateLoanOfferRequest(
                request_id=offer_ask.request_id,
                customer_id=customer_id,
                loan_amount=offer_ask.loan_amount,
                interest_rate=offer_ask.interest_rate,
                tenure_months=offer_ask.tenure_months,
            )
        ).offer
        loan_id = loan.loan.loan_id
        credit.RecordPayment(
            pb.RecordPaymentRequest(
                request_id=str(uuid.uuid4()),
                customer_id=customer_id,
                loan_id=loan_id,
                amount=money_pb2.Money(currency_code="INR", units=1_000),
            )
        )
        scorecards = edge.scorecards
        active = scorecards.GetScorecard(scorecard_service_pb2.GetScorecardRequest())
        version = f"trial-{uuid.uuid4().hex[:8]}"
        document = json.loads(active.scorecard.document) | {"version": version}
        scorecards.CreateScorecard(
            scorecard_service_pb2.CreateScorecardRequest(
                request_id=str(uuid.uuid4()), document=json.dumps(document)
            )
        )
        scorecards.SetTrialScorecard(
            scorecard_service_pb2.SetTrialScorecardRequest(
                request_id=str(uuid.uuid4()), version=version
            )
        )
        decision = credit.ListDecisions(pb.ListDecisionsRequest(customer_id=customer_id))
    found: dict[str, Message] = {
        "GetCustomer": pb.GetCustomerRequest(customer_id=customer_id),
        "ListCustomers": pb.ListCustomersRequest(query="Asha"),
        "ListCustomerChanges": pb.ListCustomerChangesRequest(customer_id=customer_id),
        "GetLoan": pb.GetLoanRequest(customer_id=customer_id, loan_id=loan_id),
        "ListLoans": pb.ListLoansRequest(customer_id=customer_id),
        "GetRepaymentSchedule": pb.GetRepaymentScheduleRequest(
            customer_id=customer_id, loan_id=loan_id
        ),
        "GetKeyFactsStatement": pb.GetKeyFactsStatementRequest(offer_id=offer.offer_id),
        "ListPayments": pb.ListPaymentsRequest(customer_id=customer_id, loan_id=loan_id),
        "GetDelinquency": pb.GetDelinquencyRequest(customer_id=customer_id),
        "ListDelinquentLoans": pb.ListDelinquentLoansRequest(),
        "GetLoanOffer": pb.GetLoanOfferRequest(offer_id=offer.offer_id),
        "ListLoanOffers": pb.ListLoanOffersRequest(customer_id=customer_id),
        "GetDecision": pb.GetDecisionRequest(decision_id=decision.decisions[0].decision_id),
        "ListDecisions": pb.ListDecisionsRequest(customer_id=customer_id),
        "GetTrialResults": scorecard_service_pb2.GetTrialResultsRequest(version=version),
    }
    assert set(found) == set(REPLICA_METHODS)
    return found


def call(edge: Edge, method: str, request: Message) -> Message:
    stub = edge.credit if hasattr(edge.credit, method) else edge.scorecards
    response: Message = getattr(stub, method)(request, timeout=PATIENCE_SECONDS)
    return response


def test_the_standby_answers_as_the_primary_does(
    replicated: Pair, requests: dict[str, Message]
) -> None:
    with (
        serving(settings_of(replicated, replica_url=None)) as on_primary,
        serving(settings_of(replicated)) as on_standby,
    ):
        catch_up(replicated)
        for method, request in requests.items():
            expected = call(on_primary, method, request)
            with answered_by("standby"):
                assert call(on_standby, method, request) == expected, method


def test_only_the_named_methods_use_the_standby(
    replicated: Pair, requests: dict[str, Message]
) -> None:
    with serving(settings_of(replicated, replica_methods="GetLoan")) as edge:
        catch_up(replicated)
        with answered_by("standby"):
            for method, request in requests.items():
                call(edge, method, request)


# The age of the data.


def test_the_standby_is_not_asked_for_what_it_lacks(replicated: Pair) -> None:
    with serving(settings_of(replicated)) as edge:
        customer_id = new_customer(edge)
        catch_up(replicated)
        of_standby(replicated, "SELECT pg_wal_replay_pause()")
        try:
            set_age(edge, customer_id, 52)
            with answered_by("standby"):
                assert age_of(edge, customer_id) == 30
            newer = new_customer(edge)
            with answered_by("primary"):
                assert age_of(edge, newer) == 30
        finally:
            of_standby(replicated, "SELECT pg_wal_replay_resume()")


def test_old_data_are_not_used(replicated: Pair) -> None:
    with serving(settings_of(replicated, replica_max_lag_seconds=3.0)) as edge:
        customer_id = new_customer(edge)
        of_standby(replicated, "SELECT pg_wal_replay_pause()")
        try:
            set_age(edge, customer_id, 53)
            eventually(lambda: not is_used(edge), PATIENCE_SECONDS)
            with answered_by("primary"):
                assert age_of(edge, customer_id) == 53
        finally:
            of_standby(replicated, "SELECT pg_wal_replay_resume()")
        eventually(lambda: is_used(edge), PATIENCE_SECONDS)
        assert age_of(edge, customer_id) == 53


# Failures.


def test_calls_succeed_while_the_standby_is_down(replicated: Pair) -> None:
    with serving(settings_of(replicated)) as edge:
        customer_id = new_customer(edge)
        catch_up(replicated)
        assert age_of(edge, customer_id) == 30
        replicated._standby.stop()
        for _ in range(5):
            with answered_by("primary"):
                assert age_of(edge, customer_id) == 30
        eventually(lambda: not is_used(edge), PATIENCE_SECONDS)
        replicated._standby.start()
        eventually(lambda: is_used(edge), PATIENCE_SECONDS)
        with answered_by("standby"):
            assert age_of(edge, customer_id) == 30


def test_a_promoted_standby_is_not_used(replicated: Pair) -> None:
    with serving(settings_of(replicated)) as edge:
        of_standby(replicated, "SELECT pg_promote()")
        eventually(lambda: not is_used(edge), PATIENCE_SECONDS)
        customer_id = new_customer(edge)
        with answered_by("primary"):
            assert age_of(edge, customer_id) == 30


def test_a_standby_of_another_server_is_not_used(replicated: Pair, database: Database) -> None:
    standby = Database(sqlalchemy(replicated.standby_url), pool_size=1)
    try:
        with pytest.raises(UnsuitableDatabaseError, match="another database server"):
            StandbyAge(database, standby).measure()
    finally:
        standby.dispose()


# The doctor.


def test_the_doctor_checks_the_standby(replicated: Pair) -> None:
    settings = settings_of(replicated, replica_max_lag_seconds=3.0, replica_methods="GetLoan")
    good = doctor._replica(settings)
    assert good.ok, good.found
    assert "s behind at most; for GetLoan" in good.found
    none = doctor._replica(settings.model_copy(update={"replica_methods": ""}))
    assert "serves no method" in none.found
    of_standby(replicated, "SELECT pg_wal_replay_pause()")
    with psycopg.connect(replicated.primary_url, autocommit=True) as connection:
        connection.execute("SELECT pg_logical_emit_message(true, 'tests', '')")
    assert "is more than 3 s behind" in doctor._replica(settings).found
    of_standby(replicated, "SELECT pg_wal_replay_resume()")
    itself = settings_of(replicated, replica_url=SecretStr(replicated.primary_url))
    assert "is not a standby" in doctor._replica(itself).found
    replicated._standby.stop()
    bad = doctor._replica(settings)
    assert "unreachable" in bad.found
    assert "start the standby" in bad.fix

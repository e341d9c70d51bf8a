"""Servers of the previous release and of this one serve the same customers from one database.

The previous release is taken from the history of the repository, so a shallow clone skips these
tests. It runs with the packages of this release.
"""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.type import decimal_pb2, money_pb2
from pydantic import SecretStr

from credit_service.clock import Clock
from credit_service.commands.announce_classes import announce_classes
from credit_service.commands.recompute_scores import recompute_scores
from credit_service.commands.reconcile import reconcile
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration import lending
from tests.integration.conftest import Edge, refusal_of
from tests.integration.imported import scalar
from tests.system.up import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.one_server("the previous release does not know distributed tables"),
]

_ROOT = Path(__file__).parents[3]
_SERVING = re.compile(rb"Serving on (127\.0\.0\.1:\d+)")


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, check=True)  # noqa: S607
    return done.stdout


@pytest.fixture(scope="module")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of release 0.1.0: of the last commit before the changelog, which begins with the
    changes since."""
    try:
        added = _git("log", "--diff-filter=A", "--format=%H", "--", "CHANGELOG.md").decode().split()
        files = _git("archive", f"{added[-1]}^", "credit_service", "pyproject.toml")
    except (OSError, subprocess.CalledProcessError, IndexError):
        pytest.skip("the history of the repository has no release 0.1.0")
    folder = tmp_path_factory.mktemp("release")
    subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)  # noqa: S607
    return folder


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        listen="127.0.0.1:0",
        threads=12,
    )


@pytest.fixture
def previous(release_folder: Path, server: Edge, settings: Settings) -> Iterator[CreditServiceStub]:
    """A server of release 0.1.0 beside `server`."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    env = environment(
        DATABASE_URL=settings.database_url.get_secret_value(),
        REDIS_URL=settings.redis_url.get_secret_value(),
        CREDIT_LISTEN="127.0.0.1:0",
        PYTHONPATH=str(release_folder),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "credit_service.rpc"],
        cwd=release_folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        serving = next((each for line in process.stdout if (each := _SERVING.match(line))), None)
        assert serving is not None, "the server of release 0.1.0 did not start"
        with grpc.insecure_channel(serving[1].decode()) as channel:
            yield CreditServiceStub(channel)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_calls_in_turn_leave_every_customer_as_the_facts_say(
    server: Edge, previous: CreditServiceStub, database: Database
) -> None:
    clock = Clock()
    turns = [previous, server.credit]
    ids = []
    for number in range(6):
        customer_id = lending.register(turns[number % 2], f"+9198765100{number:02}")
        ids.append(customer_id)
        lending.import_loans(server, customer_id, 3 + number)
    for number in range(36):
        here, there = turns[number % 2], turns[1 - number % 2]
        customer_id = ids[number % 5]
        ask = lending.ask(customer_id, rupees=10_000 + number)
        made = here.CreateLoan(ask, timeout=10)
        assert made.approved, made.reasons
        # A retry reaches the other release.
        assert there.CreateLoan(ask, timeout=10).loan.loan_id == made.loan.loan_id
        payment = pb.RecordPaymentRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            loan_id=made.loan.loan_id,
            amount=money_pb2.Money(currency_code="INR", units=100 * (number + 1)),
        )
        paid = there.RecordPayment(payment, timeout=10)
        again = here.RecordPayment(payment, timeout=10)
        assert again.payment.payment_id == paid.payment.payment_id
        assert again.loan.outstanding == paid.loan.outstanding
        _assert_same(here, there, customer_id)
    _assert_reconciled(database, clock)
    assert scalar(database, "SELECT count(*) FROM loans WHERE NOT imported") == 36
    assert scalar(database, "SELECT count(*) FROM payments") == 36


def test_a_loan_of_the_previous_release_is_prepaid_and_a_payment_of_it_reversed(
    server: Edge, previous: CreditServiceStub, database: Database
) -> None:
    customer_id = lending.register(previous, "+919876520001")
    lending.import_loans(server, customer_id, 5)
    made = previous.CreateLoan(lending.ask(customer_id), timeout=10).loan
    payment = pb.RecordPaymentRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_id=made.loan_id,
        amount=made.monthly_installment,
    )
    paid = previous.RecordPayment(payment, timeout=10).payment
    prepayment = pb.RecordPaymentRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_id=made.loan_id,
        amount=money_pb2.Money(currency_code="INR", units=20_000),
        purpose=loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT,
    )
    shorter = server.credit.RecordPayment(prepayment, timeout=10).loan
    assert shorter.tenure_months < made.tenure_months
    server.credit.ReversePayment(
        pb.ReversePaymentRequest(
            request_id=str(uuid.uuid4()),
            payment_id=paid.payment_id,
            reason=loan_pb2.PAYMENT_REVERSAL_REASON_BOUNCED,
        ),
        timeout=10,
    )
    # The changelog: the previous release records no payment towards a prepaid loan.
    payment.request_id = str(uuid.uuid4())
    with pytest.raises(grpc.RpcError) as refused:
        previous.RecordPayment(payment, timeout=10)
    assert refusal_of(refused.value).code is grpc.StatusCode.ABORTED
    _assert_same(previous, server.credit, customer_id)
    _assert_reconciled(database, Clock())


def _assert_same(one: CreditServiceStub, other: CreditServiceStub, customer_id: int) -> None:
    """Assert that both releases say the same about a customer."""
    of_customer = pb.GetCustomerRequest(customer_id=customer_id)
    known = [each.GetCustomer(of_customer, timeout=10).customer for each in (one, other)]
    for name in ("current_debt", "current_installments", "available_credit", "approved_limit"):
        assert getattr(known[0], name) == getattr(known[1], name), name
    of_score = pb.GetCreditScoreRequest(customer_id=customer_id)
    scores = [each.GetCreditScore(of_score, timeout=10).credit_score for each in (one, other)]
    points = [[(each.component, each.points) for each in found.components] for found in scores]
    assert (scores[0].score, points[0]) == (scores[1].score, points[1])
    check = pb.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=money_pb2.Money(currency_code="INR", units=50_000),
        interest_rate=decimal_pb2.Decimal(value="9"),
        tenure_months=24,
    )
    answers = [each.CheckEligibility(check, timeout=10) for each in (one, other)]
    for name in ("approved", "corrected_interest_rate", "monthly_installment"):
        assert getattr(answers[0], name) == getattr(answers[1], name), name


def _assert_reconciled(database: Database, clock: Clock) -> None:
    """Assert that loans, positions and arrears are what the facts say."""
    moment = clock.moment()
    with database.transaction() as connection:
        ids = scalar(database, "SELECT array_agg(customer_id) FROM customers")
        recompute_scores(connection, ids, moment)
    announce_classes(database, moment)
    assert scalar(database, "SELECT count(*) FROM customers WHERE arrears_version <> version") == 0
    found = reconcile(database, moment, sample=1_000)
    assert (found.compared, found.discrepancies) == (len(ids), 0)

"""A repeated request whose first call ended between its commit and its write to the cache.

The process was killed, the connection broke during the commit, or the caller's deadline passed. The
repeat returns the first result, and no check after it may use the position from before.
"""

import time
from collections.abc import Callable, Iterator
from datetime import date
from uuid import uuid4

import pytest

from credit_service.cache.positions import PositionCache
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.offers import (
    AcceptLoanOffer,
    WithdrawLoanOffer,
    accept_loan_offer,
    withdraw_loan_offer,
)
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.commands.review_decision import ReviewDecision, review_decision
from credit_service.commands.update_customer import UpdateCustomer, update_customer
from credit_service.domain.customers import CustomerChange
from credit_service.domain.eligibility import Ask, Outcome
from credit_service.domain.payments import ReversalReason
from credit_service.domain.referrals import Verdict
from credit_service.queries.credit import CreditQueries
from credit_service.storage.database import Database
from tests.integration.credit.test_referrals import activate_referring
from tests.integration.portfolio import LAKH, a_good_customer, on

TODAY = on(date(2026, 6, 10))
ASK = Ask(LAKH, 1200, 24)

Call = Callable[[PositionCache | None], object]
"""Makes the same request each time."""


@pytest.fixture
def cache(redis_url: str) -> Iterator[PositionCache]:
    opened = PositionCache(redis_url, timeout_seconds=1.0)
    yield opened
    opened.close()


def booking(database: Database, customer_id: int) -> Call:
    command = CreateLoan(uuid4(), customer_id, ASK)
    return lambda cache: create_loan(database, command, TODAY, "tests", cache=cache)


def offer(database: Database, customer_id: int) -> Call:
    command = CreateLoanOffer(uuid4(), customer_id, ASK)
    return lambda cache: create_loan_offer(database, command, TODAY, "tests", cache=cache)


def _offer_id(database: Database, customer_id: int) -> int:
    command = CreateLoanOffer(uuid4(), customer_id, ASK)
    _, made = create_loan_offer(database, command, TODAY, "tests")
    assert made is not None
    return made.offer_id


def acceptance(database: Database, customer_id: int) -> Call:
    command = AcceptLoanOffer(uuid4(), _offer_id(database, customer_id))
    return lambda cache: accept_loan_offer(database, command, TODAY, "tests", cache=cache)


def withdrawal(database: Database, customer_id: int) -> Call:
    command = WithdrawLoanOffer(uuid4(), _offer_id(database, customer_id))
    return lambda cache: withdraw_loan_offer(database, command, TODAY, "tests", cache=cache)


def _loan_id(database: Database, customer_id: int) -> int:
    stored = create_loan(database, CreateLoan(uuid4(), customer_id, ASK), TODAY, "tests")
    assert stored.loan_id is not None
    return stored.loan_id


def payment(database: Database, customer_id: int) -> Call:
    loan_id = _loan_id(database, customer_id)
    command = RecordPayment(uuid4(), customer_id, loan_id, 470_735, None)
    return lambda cache: record_payment(database, command, TODAY, "tests", cache=cache)


def reversal(database: Database, customer_id: int) -> Call:
    loan_id = _loan_id(database, customer_id)
    paid = RecordPayment(uuid4(), customer_id, loan_id, 470_735, None)
    recorded = record_payment(database, paid, TODAY, "tests")
    command = ReversePayment(uuid4(), recorded.payment.payment_id, ReversalReason.BOUNCED)
    return lambda cache: reverse_payment(database, command, TODAY, "tests", cache=cache)


def change(database: Database, customer_id: int) -> Call:
    command = UpdateCustomer(uuid4(), customer_id, CustomerChange(monthly_income_paise=2 * LAKH))
    return lambda cache: update_customer(database, command, TODAY, "tests", cache=cache)


def approval(database: Database, customer_id: int) -> Call:
    activate_referring(database)
    long = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 61))
    asked = create_loan(database, long, TODAY, "maker")
    assert asked.outcome.outcome is Outcome.REFERRED
    command = ReviewDecision(uuid4(), asked.decision_id, Verdict.APPROVE, "A good customer.")
    return lambda cache: review_decision(database, command, TODAY, "checker", cache=cache)


@pytest.mark.parametrize(
    "request_of", [booking, offer, acceptance, withdrawal, payment, reversal, change, approval]
)
def test_a_check_after_the_repeat_has_its_effect(
    database: Database, cache: PositionCache, request_of: Callable[[Database, int], Call]
) -> None:
    customer_id = a_good_customer(database, TODAY)
    call = request_of(database, customer_id)
    queries = CreditQueries(database, cache)
    found = queries.snapshot(customer_id, TODAY)
    cache.put([found.position], found.scorecard.version, TODAY, read_at=time.monotonic())
    call(None)
    before = cache.get(customer_id, TODAY.today)
    now = CreditQueries(database).snapshot(customer_id, TODAY)
    assert before is not None
    assert before.position.version < now.position.version
    call(cache)
    assert queries.snapshot(customer_id, TODAY) == now

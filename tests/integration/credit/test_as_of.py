"""Positions and scores as of earlier days, read from the real database."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoanOffer, create_loan_offer
from credit_service.commands.offers import WithdrawLoanOffer, withdraw_loan_offer
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.reverse_payment import ReversePayment, reverse_payment
from credit_service.domain.as_of import CreditAsOf, UnknownFact
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import NotFoundError
from credit_service.domain.payments import ReversalReason
from credit_service.queries.as_of import credit_of, score_of
from credit_service.queries.credit import CreditQueries
from credit_service.queries.delinquency import delinquency_as_of, get_delinquency
from credit_service.rpc.convert.delinquency import write_delinquency
from credit_service.storage import policy_facts
from credit_service.storage.database import Database
from credit_service.v1 import as_of_pb2
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration.conftest import Edge
from tests.integration.credit.test_record_payment import START, a_loan, pay
from tests.integration.credit.test_rpc_credit import refused
from tests.integration.imported import CustomerRow, LoanRow, ingest
from tests.integration.lending import register
from tests.integration.portfolio import LAKH, on

TODAY = on(date(2026, 9, 10))


def as_of(database: Database, customer_id: int, day: date) -> CreditAsOf:
    return credit_of(database, customer_id, day, TODAY)


@pytest.fixture
def customers(database: Database) -> list[int]:
    """Customers with booked loans paid on time, late and in part, with imported loans, a foreclosed
    loan, a reversed payment and an open offer."""
    late = a_loan(database, 12)
    emi = late.installment_paise
    pay(database, late, emi, date(2026, 2, 28))
    pay(database, late, emi // 2, date(2026, 7, 1))
    bounced = pay(database, late, emi, date(2026, 8, 20))
    reversal = ReversePayment(uuid4(), bounced.payment.payment_id, ReversalReason.BOUNCED)
    reverse_payment(database, reversal, on(date(2026, 8, 25)), "tests")
    ahead = a_loan(database, 3)
    pay(database, ahead, 2 * ahead.installment_paise, date(2026, 2, 10))
    offered = CreateLoanOffer(uuid4(), ahead.customer_id, Ask(LAKH, 1200, 12))
    create_loan_offer(database, offered, on(date(2026, 9, 9)), "tests", referral_days=1)
    ingest(database, [CustomerRow(40)], on(date(2026, 3, 5)))
    rows = [
        LoanRow(40, 1, start=date(2025, 9, 30), emis_paid_on_time=9),
        LoanRow(40, 2, start=date(2025, 11, 30), emis_paid_on_time=1),
        LoanRow(40, 3, start=date(2024, 11, 30), emis_paid_on_time=11),
    ]
    ingest(database, rows, on(date(2026, 3, 6)))
    payment = RecordPayment(uuid4(), 40, 2, 888_500, date(2026, 4, 2))
    record_payment(database, payment, on(date(2026, 4, 3)), "tests")
    return [late.customer_id, ahead.customer_id, 40]


def test_as_of_today_is_the_current_answer(database: Database, customers: list[int]) -> None:
    queries = CreditQueries(database)
    for customer_id in customers:
        found = as_of(database, customer_id, TODAY.today)
        current = queries.snapshot(customer_id, TODAY).position
        # It may have been computed on an earlier day, and is valid until today.
        assert replace(found.position, arrears=None) == replace(
            current, as_of=TODAY.today, arrears=None
        )
        assert found.unknown == ()
        with database.autocommit() as connection:
            assert found.facts == policy_facts.read(connection, customer_id, TODAY.today)
        late = get_delinquency(database, customer_id, TODAY.today)
        same = delinquency_as_of(database, customer_id, TODAY.today, TODAY)
        assert write_delinquency(same) == write_delinquency(late)
        _, score = queries.credit_score(customer_id, TODAY)
        assert score_of(database, customer_id, TODAY.today, TODAY) == (score, found)


def test_a_reversed_payment_counts_on_no_day(database: Database) -> None:
    loan = a_loan(database, 3)
    paid = pay(database, loan, loan.installment_paise, date(2026, 2, 20)).payment
    day = date(2026, 3, 1)
    before = as_of(database, loan.customer_id, day)
    reversal = ReversePayment(uuid4(), paid.payment_id, ReversalReason.BOUNCED)
    reverse_payment(database, reversal, on(date(2026, 3, 5)), "tests")
    after = as_of(database, loan.customer_id, day)
    assert before.position.emis_on_time - after.position.emis_on_time == 1
    assert (before.facts.days_past_due, after.facts.days_past_due) == (0, 2)


def test_a_payment_counts_from_its_day_whenever_it_was_recorded(database: Database) -> None:
    loan = a_loan(database, 3)
    day = date(2026, 2, 20)
    command = RecordPayment(
        uuid4(), loan.customer_id, loan.loan_id, loan.installment_paise, paid_on=day
    )
    record_payment(database, command, on(date(2026, 6, 1)), "tests")
    on_time = [
        as_of(database, loan.customer_id, each).position.emis_on_time
        for each in (day - timedelta(days=1), day)
    ]
    assert on_time[1] - on_time[0] == 1


def test_changed_facts_of_the_customer_are_those_of_the_day(database: Database) -> None:
    ingest(database, [CustomerRow(7, limit_rupees=300_000, age=30)], on(date(2026, 3, 5)))
    row = CustomerRow(7, limit_rupees=400_000, age=31, income_rupees=60_000)
    ingest(database, [row], on(date(2026, 5, 6)), on_existing="UPDATE")
    facts = {}
    for day in (date(2026, 3, 4), date(2026, 5, 5), date(2026, 5, 6)):
        then = as_of(database, 7, day)
        limit_paise = then.position.approved_limit_paise
        facts[day] = (limit_paise, then.customer.age, then.facts.age, then.unknown)
    assert facts == {
        date(2026, 3, 4): (30_000_000, 30, 30, (UnknownFact.CUSTOMER,)),
        date(2026, 5, 5): (30_000_000, 30, 30, ()),
        date(2026, 5, 6): (40_000_000, 31, 31, ()),
    }


def test_a_withdrawn_offer_held_credit_before(database: Database) -> None:
    loan = a_loan(database, 3)
    asked = CreateLoanOffer(uuid4(), loan.customer_id, Ask(LAKH, 1200, 12))
    _, offer = create_loan_offer(database, asked, on(date(2026, 3, 2)), "tests", referral_days=1)
    assert offer is not None
    ended = WithdrawLoanOffer(uuid4(), offer.offer_id, "")
    withdraw_loan_offer(database, ended, on(date(2026, 3, 4)), "tests")
    held = {
        day: as_of(database, loan.customer_id, date(2026, 3, day)).position.held_principal_paise
        for day in range(1, 6)
    }
    assert held == {1: 0, 2: LAKH, 3: LAKH, 4: 0, 5: 0}


def test_an_unknown_customer_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError):
        as_of(database, 404, START.today)


def test_the_day_and_what_is_unknown_are_in_the_answers(server: Edge) -> None:
    customer_id = register(server.credit, "9876500001")
    today = Clock().moment().today

    def asked(day: date) -> dict[str, Any]:
        given = {"year": day.year, "month": day.month, "day": day.day}
        return {"customer_id": customer_id, "as_of": given}

    day = today - timedelta(days=1)
    found = server.credit.GetCustomer(pb.GetCustomerRequest(**asked(day))).customer
    score = server.credit.GetCreditScore(pb.GetCreditScoreRequest(**asked(day))).credit_score
    for answer in (found.as_of, score.as_of):
        assert (answer.day.year, answer.day.month, answer.day.day) == day.timetuple()[:3]
        assert answer.unknown_facts == [as_of_pb2.UNKNOWN_FACT_CUSTOMER]
    now = pb.GetCustomerRequest(phone_number="9876500001", as_of=asked(today)["as_of"])
    current = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer_id)).customer
    assert not current.HasField("as_of")
    same = server.credit.GetCustomer(now).customer
    same.ClearField("as_of")
    assert same == current
    for call, request in (
        (server.credit.GetCustomer, pb.GetCustomerRequest),
        (server.credit.GetCreditScore, pb.GetCreditScoreRequest),
    ):
        refusal = refused(call, request(**asked(today + timedelta(days=1))))
        assert (refusal.reason, refusal.fields) == ("AS_OF_OUT_OF_RANGE", {"as_of"})
        broken = request(customer_id=customer_id, as_of={"year": 2026})
        assert refused(call, broken).reason == "INVALID_FIELD"

"""Charges, the cost of credit and key facts statements, against a real server and database."""

import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.type import decimal_pb2, money_pb2
from sqlalchemy import text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.review_decision import ReviewDecision, review_decision
from credit_service.domain.charges import Charge, ChargePayee
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.loans import Ask
from credit_service.domain.referrals import ReferralKind, Verdict
from credit_service.domain.scorecard import STANDARD_DOCUMENT, parse_scorecard
from credit_service.queries.key_facts import loan_statement
from credit_service.queries.loans import get_loan
from credit_service.storage import loans
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import offer_pb2
from tests.integration.conftest import Edge, Refusal, refusal_of
from tests.integration.credit.test_referrals import TODAY, a_late_customer, activate_referring
from tests.integration.lending import import_loans, register
from tests.integration.policies import activated
from tests.integration.portfolio import LAKH, a_good_customer

CHARGES = (
    Charge("processing fee", ChargePayee.LENDER, 160_00),
    Charge("insurance", ChargePayee.THIRD_PARTY, 200_00, 40_00),
)


def rupees(units: int) -> Any:
    return money_pb2.Money(currency_code="INR", units=units)


def lent(kind: str, payee: Any, amount: int, tax: int = 0) -> offer_pb2.LoanCharge:
    return offer_pb2.LoanCharge(type=kind, payee=payee, amount=rupees(amount), tax=rupees(tax))


WIRE_CHARGES = [
    lent("processing fee", offer_pb2.CHARGE_PAYEE_LENDER, 160),
    lent("insurance", offer_pb2.CHARGE_PAYEE_THIRD_PARTY, 200, 40),
]


@pytest.fixture
def customer_id(server: Edge) -> int:
    customer = register(server.credit, "9876500777")
    import_loans(server, customer, 10)
    return customer


def refused(call: Any, request: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return refusal_of(caught.value)


def ask(customer_id: int, **chosen: Any) -> dict[str, Any]:
    """The terms of RBI's illustration."""
    return {
        "customer_id": customer_id,
        "loan_amount": rupees(20_000),
        "interest_rate": decimal_pb2.Decimal(value="15"),
        "tenure_months": 24,
        "charges": WIRE_CHARGES,
        **chosen,
    }


def booked(server: Edge, customer_id: int, **chosen: Any) -> pb.CreateLoanResponse:
    request = pb.CreateLoanRequest(request_id=str(uuid.uuid4()), **ask(customer_id, **chosen))
    first = server.credit.CreateLoan(request)
    assert server.credit.CreateLoan(request) == first
    return first


def test_every_answer_has_the_same_cost(server: Edge, customer_id: int) -> None:
    checked = server.credit.CheckEligibility(pb.CheckEligibilityRequest(**ask(customer_id)))
    cost = checked.cost_of_credit
    assert cost.annual_percentage_rate.value == "17.07"
    assert cost.net_disbursed == rupees(19_600)
    assert (cost.lender_charges, cost.third_party_charges) == (rupees(160), rupees(240))
    created = booked(server, customer_id)
    assert created.cost_of_credit == cost
    assert created.loan.cost_of_credit == cost
    request = pb.CreateLoanOfferRequest(request_id=str(uuid.uuid4()), **ask(customer_id))
    assert server.credit.CreateLoanOffer(request).offer.cost_of_credit == cost


def test_charges_do_not_change_a_decision(server: Edge, customer_id: int) -> None:
    with_charges = server.credit.CheckEligibility(pb.CheckEligibilityRequest(**ask(customer_id)))
    without = server.credit.CheckEligibility(
        pb.CheckEligibilityRequest(**ask(customer_id, charges=[]))
    )
    assert not without.HasField("cost_of_credit")
    for each in (with_charges, without):
        each.ClearField("cost_of_credit")
        each.credit_score.ClearField("computed_time")
    assert with_charges == without


def test_a_decline_has_no_cost(server: Edge, customer_id: int) -> None:
    too_much = {"loan_amount": rupees(99_00_000)}
    checked = server.credit.CheckEligibility(
        pb.CheckEligibilityRequest(**ask(customer_id, **too_much))
    )
    created = booked(server, customer_id, **too_much)
    assert not checked.approved
    assert not checked.HasField("cost_of_credit")
    assert not created.HasField("cost_of_credit")


def test_a_batch_answers_charges_as_single_checks_do(server: Edge, customer_id: int) -> None:
    asks = [
        pb.CheckEligibilityRequest(**ask(customer_id)),
        pb.CheckEligibilityRequest(**ask(customer_id, charges=[])),
        pb.CheckEligibilityRequest(**ask(customer_id, charges=[*WIRE_CHARGES] * 11)),
    ]
    answer = server.credit.BatchCheckEligibility(pb.BatchCheckEligibilityRequest(asks=asks))
    rates = [
        each.eligibility.cost_of_credit.annual_percentage_rate.value for each in answer.results[:2]
    ]
    assert rates == ["17.07", ""]
    assert "charges must have at most 20 entries" in answer.results[2].error.message


@pytest.mark.parametrize(
    ("charges", "fields"),
    [
        ([lent("fee", offer_pb2.CHARGE_PAYEE_LENDER, 20_000)], {"charges"}),
        ([lent("fee", offer_pb2.CHARGE_PAYEE_LENDER, 19_999, 1)], {"charges"}),
        ([lent("", 0, 0)], {"charges[0].type", "charges[0].payee", "charges[0].amount"}),
        ([lent("fee", offer_pb2.CHARGE_PAYEE_LENDER, 1)] * 21, {"charges"}),
    ],
)
def test_charges_have_the_same_rules_everywhere(
    server: Edge, customer_id: int, charges: list[offer_pb2.LoanCharge], fields: set[str]
) -> None:
    key = str(uuid.uuid4())
    terms = ask(customer_id, charges=charges)
    for call, request in (
        (server.credit.CheckEligibility, pb.CheckEligibilityRequest(**terms)),
        (server.credit.CreateLoan, pb.CreateLoanRequest(request_id=key, **terms)),
        (server.credit.CreateLoanOffer, pb.CreateLoanOfferRequest(request_id=key, **terms)),
    ):
        found = refused(call, request)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert found.fields == fields


def test_bad_charges_are_named_with_the_other_bad_fields(server: Edge) -> None:
    terms = ask(0, charges=[lent("fee", offer_pb2.CHARGE_PAYEE_LENDER, 20_000)])
    found = refused(server.credit.CheckEligibility, pb.CheckEligibilityRequest(**terms))
    assert found.fields == {"customer_id", "charges"}
    # Without a valid amount there is nothing to compare them with.
    terms["interest_rate"] = decimal_pb2.Decimal(value="101")
    found = refused(server.credit.CheckEligibility, pb.CheckEligibilityRequest(**terms))
    assert found.fields == {"customer_id", "interest_rate"}


def test_a_loan_keeps_its_charges(server: Edge, customer_id: int) -> None:
    created = booked(server, customer_id)
    assert [each.type for each in created.loan.charges] == ["processing fee", "insurance"]
    assert created.loan.charges[1].tax == rupees(40)
    request = pb.GetLoanRequest(loan_id=created.loan.loan_id, customer_id=customer_id)
    assert server.credit.GetLoan(request).loan == created.loan
    listed = server.credit.ListLoans(pb.ListLoansRequest(customer_id=customer_id)).loans
    assert listed[-1] == created.loan
    # Those that were imported have no known charges.
    assert not listed[0].HasField("cost_of_credit")
    paid = server.credit.RecordPayment(
        pb.RecordPaymentRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            loan_id=created.loan.loan_id,
            amount=created.loan.monthly_installment,
        )
    ).loan
    assert paid.charges == created.loan.charges
    assert paid.cost_of_credit == created.loan.cost_of_credit


def test_the_event_of_a_loan_has_its_charges_and_without_them_only_earlier_fields(
    database: Database,
) -> None:
    customer = a_good_customer(database, TODAY)
    for charges in ((), CHARGES):
        command = CreateLoan(uuid.uuid4(), customer, Ask(LAKH, 1200, 12), charges)
        assert create_loan(database, command, TODAY, "tests").approved
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT payload FROM events WHERE kind = 'loan_created' ORDER BY event_seq")
        )
        payloads = [row.payload["loan"] for row in rows]
        without, with_charges = payloads
        read = [loans.loan_of_event(each) for each in payloads]
        assert read == loans.all_of(connection, customer)[-2:]
        stored = connection.execute(text("SELECT charges FROM loans WHERE NOT imported"))
        assert sorted(row.charges is None for row in stored) == [False, True]
    assert set(with_charges) - set(without) == {"charges"}
    assert len(without) == 16


def test_charges_that_leave_nothing_to_disburse_are_refused_below_the_wire_too(
    database: Database,
) -> None:
    customer = a_good_customer(database, TODAY)
    charges = (Charge("fee", ChargePayee.LENDER, LAKH),)
    command = CreateLoan(uuid.uuid4(), customer, Ask(LAKH, 1200, 12), charges)
    with pytest.raises(InvalidFieldsError, match="charges must be less than the loan"):
        create_loan(database, command, TODAY, "tests")


def test_the_loan_of_an_offer_has_its_charges(server: Edge, customer_id: int) -> None:
    request = pb.CreateLoanOfferRequest(request_id=str(uuid.uuid4()), **ask(customer_id))
    offer = server.credit.CreateLoanOffer(request).offer
    accepted = server.credit.AcceptLoanOffer(
        pb.AcceptLoanOfferRequest(
            request_id=str(uuid.uuid4()), offer_id=offer.offer_id, loan_amount=rupees(10_000)
        )
    ).loan
    assert accepted.charges == offer.charges
    assert accepted.cost_of_credit.net_disbursed == rupees(9_600)
    found = pb.GetLoanRequest(loan_id=accepted.loan_id, customer_id=customer_id)
    assert server.credit.GetLoan(found).loan == accepted


def test_a_reviewed_loan_has_the_charges_of_its_request(database: Database) -> None:
    activate_referring(database)
    customer = a_late_customer(database)
    command = CreateLoan(uuid.uuid4(), customer, Ask(LAKH, 1200, 12), CHARGES)
    referred = create_loan(database, command, TODAY, "maker")
    assert referred.referral is not None
    assert referred.referral.kind is ReferralKind.LOAN
    approval = ReviewDecision(
        uuid.uuid4(), referred.decision_id, Verdict.APPROVE, "Known for years."
    )
    done = review_decision(database, approval, TODAY, "checker")
    assert done.loan is not None
    assert done.loan.charges == CHARGES
    assert review_decision(database, approval, TODAY, "checker") == done
    loan, _ = get_loan(database, done.loan.loan_id, customer)
    assert loan == done.loan


def test_a_statement_is_of_an_offer_or_of_a_loan(server: Edge, customer_id: int) -> None:
    request = pb.CreateLoanOfferRequest(request_id=str(uuid.uuid4()), **ask(customer_id))
    offer = server.credit.CreateLoanOffer(request).offer
    facts = server.credit.GetKeyFactsStatement(
        pb.GetKeyFactsStatementRequest(offer_id=offer.offer_id)
    ).key_facts
    assert (facts.customer_name, facts.offer_id, facts.loan_id) == ("Asha Rao", offer.offer_id, 0)
    assert facts.cost_of_credit == offer.cost_of_credit
    assert facts.charges == offer.charges
    assert facts.valid_until == offer.valid_until
    assert facts.offer_state == offer.state
    assert len(facts.installments) == facts.tenure_months == 24
    assert facts.installments[-1].payment == facts.last_installment
    assert facts.installments[-1].balance == rupees(0)
    assert facts.prepayment_charge.value == "0"

    loan = booked(server, customer_id).loan
    found = server.credit.GetKeyFactsStatement(
        pb.GetKeyFactsStatementRequest(customer_id=customer_id, loan_id=loan.loan_id)
    ).key_facts
    assert (found.offer_id, found.loan_id) == (0, loan.loan_id)
    assert not found.HasField("valid_until")
    assert found.cost_of_credit == loan.cost_of_credit
    schedule = server.credit.GetRepaymentSchedule(
        pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan.loan_id)
    )
    assert [(each.due_date, each.balance) for each in found.installments] == [
        (each.due_date, each.balance) for each in schedule.installments
    ]


@pytest.mark.parametrize(
    ("chosen", "reason", "fields"),
    [
        ({}, "INVALID_FIELD", {"offer_id"}),
        ({"offer_id": -1}, "INVALID_FIELD", {"offer_id"}),
        ({"offer_id": 1, "loan_id": 2}, "INVALID_FIELD", {"loan_id"}),
        ({"customer_id": 1}, "INVALID_FIELD", {"loan_id"}),
        ({"loan_id": 1}, "INVALID_FIELD", {"customer_id"}),
        ({"offer_id": 4242}, "OFFER_NOT_FOUND", None),
        ({"customer_id": 1, "loan_id": 4242}, "LOAN_NOT_FOUND", None),
    ],
)
def test_a_request_for_a_statement_is_checked(
    server: Edge, chosen: dict[str, int], reason: str, fields: set[str] | None
) -> None:
    found = refused(server.credit.GetKeyFactsStatement, pb.GetKeyFactsStatementRequest(**chosen))
    assert found.reason == reason
    assert fields is None or found.fields == fields


def test_an_imported_loan_has_no_statement(server: Edge, customer_id: int) -> None:
    request = pb.GetKeyFactsStatementRequest(customer_id=customer_id, loan_id=10_000)
    found = refused(server.credit.GetKeyFactsStatement, request)
    assert (found.code, found.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "KEY_FACTS_UNKNOWN",
    )


def test_a_statement_has_the_charges_of_the_scorecard_that_decided(database: Database) -> None:
    customer = a_good_customer(database, TODAY)
    late = {"type": "late payment", "sentence": "₹500 for each installment paid late."}
    document = {
        **STANDARD_DOCUMENT,
        "version": "charging-1",
        "prepayment_charge_bps": 200,
        "contingent_charges": [late],
    }
    booked_ids = []
    for version in (None, parse_scorecard(document)):
        if version is not None:
            activated(database, version, TODAY)
        command = CreateLoan(uuid.uuid4(), customer, Ask(LAKH, 1200, 12))
        booked_ids.append(create_loan(database, command, TODAY, "tests").loan_id or 0)
    later = TODAY.today + timedelta(days=400)
    before, after = (
        loan_statement(database, customer, each, later).scorecard for each in booked_ids
    )
    assert (before.version, before.prepayment_charge_bps) == ("standard-1", 0)
    assert (after.version, after.prepayment_charge_bps) == ("charging-1", 200)
    assert [each.type for each in after.contingent_charges] == ["late payment"]

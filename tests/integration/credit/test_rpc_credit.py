"""CreditService as callers see it: responses, rejections and concurrent calls."""

import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from credit_service.clock import Clock
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, loan_pb2, score_pb2
from tests.integration import portfolio
from tests.integration.conftest import Edge, Refusal, refusal_of

MOMENT = Clock().moment()


def rupees(amount: int, paise: int = 0) -> Money:
    return Money(currency_code="INR", units=amount, nanos=paise * 10_000_000)


def percent(text: str) -> Decimal:
    return Decimal(value=text)


def paise_of(money: Any) -> int:
    assert money.currency_code == "INR"
    units, nanos = int(money.units), int(money.nanos)
    assert nanos % 10_000_000 == 0
    return units * 100 + nanos // 10_000_000


def good_customer(database: Database) -> int:
    """A customer with an income of 1 lakh, a limit of 36 lakh and a good score."""
    return portfolio.a_good_customer(database, MOMENT)


def loan_request(customer_id: int, **other: Any) -> pb.CreateLoanRequest:
    values: dict[str, Any] = {
        "request_id": str(uuid4()),
        "customer_id": customer_id,
        "loan_amount": rupees(1_00_000),
        "interest_rate": percent("12.5"),
        "tenure_months": 12,
    }
    return pb.CreateLoanRequest(**{**values, **other})


def refused(call: Callable[[Any], Any], request: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return refusal_of(caught.value)


def registration(**other: Any) -> pb.RegisterCustomerRequest:
    values: dict[str, Any] = {
        "request_id": str(uuid4()),
        "first_name": "Asha",
        "last_name": "Rao",
        "age": 30,
        "monthly_income": rupees(50_000),
        "phone_number": "+91 98765 98765",
    }
    return pb.RegisterCustomerRequest(**{**values, **other})


# Responses.


def test_a_customer_is_registered_once_and_found_by_id_and_phone_number(server: Edge) -> None:
    request = registration()
    customer = server.credit.RegisterCustomer(request).customer
    assert paise_of(customer.approved_limit) == 18_00_000_00
    assert paise_of(customer.available_credit) == 18_00_000_00
    assert customer.phone_number == "+919876598765"
    assert server.credit.RegisterCustomer(request).customer == customer
    by_id = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer.customer_id))
    by_phone = server.credit.GetCustomer(pb.GetCustomerRequest(phone_number="098765 98765"))
    assert by_id.customer == by_phone.customer == customer

    again = refused(server.credit.RegisterCustomer, registration())
    assert (again.code, again.reason) == (grpc.StatusCode.ALREADY_EXISTS, "PHONE_NUMBER_TAKEN")
    assert again.details["ResourceInfo"].resource_type == "customer"
    other_content = registration(request_id=request.request_id, age=31)
    reused = refused(server.credit.RegisterCustomer, other_content)
    assert (reused.code, reused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
    )
    assert reused.metadata == {"request_id": request.request_id}


def test_customers_are_listed_in_pages_and_searched(server: Edge) -> None:
    ids = [
        server.credit.RegisterCustomer(
            registration(first_name=name, phone_number=f"98765 0000{number}")
        ).customer.customer_id
        for number, name in enumerate(["Asha", "Asif", "Bela", "Asha"])
    ]
    first = server.credit.ListCustomers(pb.ListCustomersRequest(page_size=3))
    assert [each.customer_id for each in first.customers] == ids[:3]
    second = server.credit.ListCustomers(
        pb.ListCustomersRequest(page_size=3, page_token=first.next_page_token)
    )
    assert [each.customer_id for each in second.customers] == ids[3:]
    assert not second.next_page_token
    found = server.credit.ListCustomers(pb.ListCustomersRequest(query="asha r"))
    assert [each.customer_id for each in found.customers] == [ids[0], ids[3]]
    none = server.credit.ListCustomers(pb.ListCustomersRequest(query="%"))
    assert not none.customers


def test_a_score_explains_its_components(server: Edge, database: Database) -> None:
    customer_id = good_customer(database)
    request = pb.GetCreditScoreRequest(customer_id=customer_id)
    score = server.credit.GetCreditScore(request).credit_score
    # Three loans of 5 lakh repaid on time, none this year: 35 + 25 + 6 + 0.
    assert score.score == 66
    assert [each.points.value for each in score.components] == ["35", "25", "6", "0"]
    assert [each.max_points.value for each in score.components] == ["35", "25", "20", "20"]
    assert all(each.explanation for each in score.components)
    assert score.override == score_pb2.SCORE_OVERRIDE_UNSPECIFIED
    assert score.valid_until == Date(year=MOMENT.today.year + 1, month=1, day=1)
    assert score.computed_time.ToDatetime().year >= MOMENT.today.year


def test_a_check_returns_what_the_loan_would_and_writes_nothing(
    server: Edge, database: Database
) -> None:
    customer_id = good_customer(database)
    check = pb.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=rupees(1_00_000),
        interest_rate=percent("12"),
        tenure_months=12,
    )
    answer = server.credit.CheckEligibility(check)
    assert answer.approved
    assert answer.customer_id == customer_id
    assert paise_of(answer.monthly_installment) == 8_884_88
    assert answer.corrected_interest_rate.value == answer.interest_rate.value == "12"
    assert answer.credit_score.score == 66
    assert not answer.HasField("counter_offer")
    listed = pb.ListDecisionsRequest(customer_id=customer_id)
    assert not server.credit.ListDecisions(listed).decisions

    declined = server.credit.CheckEligibility(
        pb.CheckEligibilityRequest(
            customer_id=customer_id,
            loan_amount=rupees(50_00_000),
            interest_rate=percent("1.2E1"),
            tenure_months=12,
        )
    )
    assert not declined.approved
    assert [reason.code for reason in declined.reasons] == [
        decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH,
        decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED,
    ]
    assert all(each.message and each.found and each.threshold for each in declined.reasons)
    offer = declined.counter_offer
    check.loan_amount.CopyFrom(offer.max_loan_amount)
    assert server.credit.CheckEligibility(check).approved
    check.loan_amount.units += 1
    assert not server.credit.CheckEligibility(check).approved


def test_a_loan_is_booked_once_and_every_method_returns_it(
    server: Edge, database: Database
) -> None:
    customer_id = good_customer(database)
    request = loan_request(customer_id, interest_rate=percent("12"))
    answer = server.credit.CreateLoan(request)
    assert answer.approved
    assert "₹1,00,000.00" in answer.message
    loan = answer.loan
    assert (loan.state, loan.source) == (loan_pb2.LOAN_STATE_ACTIVE, loan_pb2.LOAN_SOURCE_BOOKED)
    assert paise_of(loan.monthly_installment) == 8_884_88
    assert paise_of(loan.outstanding) == 11 * 8_884_88 + 8_884_85
    assert loan.repayments_left == 12
    assert server.credit.CreateLoan(request) == answer

    key = pb.GetLoanRequest(loan_id=loan.loan_id)
    found = server.credit.GetLoan(key)
    assert found.loan == loan
    assert paise_of(found.customer.current_debt) == 1_00_000_00
    mine = server.credit.ListLoans(
        pb.ListLoansRequest(customer_id=customer_id, state=loan_pb2.LOAN_STATE_ACTIVE)
    )
    assert list(mine.loans) == [loan]
    closed = server.credit.ListLoans(
        pb.ListLoansRequest(customer_id=customer_id, state=loan_pb2.LOAN_STATE_CLOSED)
    )
    assert [each.repayments_left for each in closed.loans] == [0, 0, 0]

    schedule = server.credit.GetRepaymentSchedule(
        pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan.loan_id)
    )
    assert [each.number for each in schedule.installments] == list(range(1, 13))
    assert paise_of(schedule.installments[-1].payment) == 8_884_85
    assert paise_of(schedule.installments[-1].balance) == 0
    assert paise_of(schedule.totals.interest) == 6_618_53
    assert {each.state for each in schedule.installments} == {loan_pb2.INSTALLMENT_STATE_UPCOMING}

    decision = server.credit.GetDecision(
        pb.GetDecisionRequest(decision_id=answer.decision_id)
    ).decision
    assert decision.loan_id == loan.loan_id
    assert decision.request_id == request.request_id
    assert decision.principal == ""
    assert decision.inputs.loan_count == 3
    assert decision.credit_score.score == 66
    assert decision.ask.loan_amount == rupees(1_00_000)


def test_a_declined_loan_is_a_response_that_is_stored(server: Edge) -> None:
    customer = server.credit.RegisterCustomer(registration()).customer
    request = loan_request(customer.customer_id)
    answer = server.credit.CreateLoan(request)
    assert not answer.approved
    assert not answer.HasField("loan")
    assert [each.code for each in answer.reasons] == [
        decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY
    ]
    assert answer.message.startswith("Declined. ")
    assert server.credit.CreateLoan(request) == answer
    other = loan_request(customer.customer_id, request_id=request.request_id, tenure_months=13)
    reused = refused(server.credit.CreateLoan, other)
    assert (reused.code, reused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
    )


def test_decisions_are_listed_latest_first_in_pages(server: Edge, database: Database) -> None:
    customer_id = good_customer(database)
    ids = [server.credit.CreateLoan(loan_request(customer_id)).decision_id for _ in range(5)]
    request = pb.ListDecisionsRequest(customer_id=customer_id, page_size=2)
    listed: list[int] = []
    while True:
        page = server.credit.ListDecisions(request)
        listed += [each.decision_id for each in page.decisions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == sorted(ids, reverse=True)


def test_a_page_of_decisions_fits_into_a_message(
    server: Edge, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = good_customer(database)
    for _ in range(4):
        server.credit.CreateLoan(loan_request(customer_id))
    everything = server.credit.ListDecisions(pb.ListDecisionsRequest(customer_id=customer_id))
    assert len(everything.decisions) == 4
    room = everything.decisions[0].ByteSize() * 2 + 100
    monkeypatch.setattr("credit_service.rpc.credit._MAX_PAGE_BYTES", room)
    first = server.credit.ListDecisions(pb.ListDecisionsRequest(customer_id=customer_id))
    assert len(first.decisions) == 2
    rest = server.credit.ListDecisions(
        pb.ListDecisionsRequest(customer_id=customer_id, page_token=first.next_page_token)
    )
    assert [*first.decisions, *rest.decisions] == list(everything.decisions)


def test_a_loan_id_of_several_customers_requires_the_customer_id(
    server: Edge, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers = []
    for _ in range(2):
        monkeypatch.setattr(portfolio, "_loan_ids", iter([1003]))
        customers.append(portfolio.a_customer(database, MOMENT))
        start = date(MOMENT.today.year - 3, 1, 15)
        portfolio.a_repaid_loan(database, customers[-1], start, MOMENT)
    ambiguous = refused(server.credit.GetLoan, pb.GetLoanRequest(loan_id=1003))
    assert ambiguous.code is grpc.StatusCode.FAILED_PRECONDITION
    assert ambiguous.reason == "LOAN_ID_AMBIGUOUS"
    assert ambiguous.metadata["customer_ids"] == ",".join(str(each) for each in customers)
    for customer_id in customers:
        one = pb.GetLoanRequest(loan_id=1003, customer_id=customer_id)
        assert server.credit.GetLoan(one).customer.customer_id == customer_id


# Rejections.


def check_request(**other: Any) -> pb.CheckEligibilityRequest:
    values: dict[str, Any] = {
        "customer_id": 1,
        "loan_amount": rupees(1_00_000),
        "interest_rate": percent("12"),
        "tenure_months": 12,
    }
    return pb.CheckEligibilityRequest(**{**values, **other})


HUGE = 2**63 - 1
REQUIRED_FIELDS = {
    "RegisterCustomer": (
        pb.RegisterCustomerRequest(),
        {"request_id", "first_name", "last_name", "age", "monthly_income", "phone_number"},
    ),
    "GetCustomer": (pb.GetCustomerRequest(), {"key"}),
    "GetCreditScore": (pb.GetCreditScoreRequest(), {"customer_id"}),
    "CheckEligibility": (
        pb.CheckEligibilityRequest(),
        {"customer_id", "loan_amount", "interest_rate", "tenure_months"},
    ),
    "CreateLoan": (
        pb.CreateLoanRequest(),
        {"request_id", "customer_id", "loan_amount", "interest_rate", "tenure_months"},
    ),
    "RecordPayment": (
        pb.RecordPaymentRequest(),
        {"request_id", "customer_id", "loan_id", "amount"},
    ),
    "ReversePayment": (pb.ReversePaymentRequest(), {"request_id", "payment_id", "reason"}),
    "ListPayments": (pb.ListPaymentsRequest(), {"customer_id", "loan_id"}),
    "GetForeclosureQuote": (pb.GetForeclosureQuoteRequest(), {"customer_id", "loan_id"}),
    "GetLoan": (pb.GetLoanRequest(), {"loan_id"}),
    "ListLoans": (pb.ListLoansRequest(), {"customer_id"}),
    "GetRepaymentSchedule": (pb.GetRepaymentScheduleRequest(), {"customer_id", "loan_id"}),
    "GetDecision": (pb.GetDecisionRequest(), {"decision_id"}),
}
INVALID_REQUESTS = [
    (
        "RegisterCustomer",
        pb.RegisterCustomerRequest(
            request_id="1",
            first_name="\x00",
            last_name="x" * 51,
            age=17,
            monthly_income=rupees(-1),
            phone_number="12",
        ),
        {"request_id", "first_name", "last_name", "age", "monthly_income", "phone_number"},
    ),
    (
        "CreateLoan",
        pb.CreateLoanRequest(
            request_id="{0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20}",
            customer_id=-1,
            loan_amount=Money(currency_code="USD", units=5),
            interest_rate=percent("abc"),
            tenure_months=481,
        ),
        {"request_id", "customer_id", "loan_amount", "interest_rate", "tenure_months"},
    ),
    ("GetCustomer", pb.GetCustomerRequest(customer_id=0), {"customer_id"}),
    ("GetCustomer", pb.GetCustomerRequest(phone_number="call me"), {"phone_number"}),
    ("GetLoan", pb.GetLoanRequest(loan_id=-5, customer_id=0), {"loan_id", "customer_id"}),
    (
        "ListCustomers",
        pb.ListCustomersRequest(query="x" * 101, page_size=-1),
        {"query", "page_size"},
    ),
    (
        "ListCustomers",
        pb.ListCustomersRequest(query="a\x00b", page_size=1001),
        {"query", "page_size"},
    ),
    (
        "ListLoans",
        pb.ListLoansRequest(customer_id=0, state=9, page_size=1001),  # type: ignore[arg-type]  # not in the enum
        {"customer_id", "state", "page_size"},
    ),
    (
        "ListDecisions",
        pb.ListDecisionsRequest(customer_id=0, page_size=-1),
        {"customer_id", "page_size"},
    ),
]
BAD_AMOUNTS = {
    "negative": rupees(-1),
    "zero": rupees(0),
    "a paisa too much": rupees(100_00_00_000, 1),
    "huge": Money(units=HUGE),
    "hugely negative": Money(units=-HUGE - 1, nanos=-990_000_000),
    "finer than a paisa": Money(units=1, nanos=5),
    "mixed signs": Money(units=1, nanos=-10_000_000),
    "nanos of a rupee": Money(nanos=1_000_000_000),
    "foreign": Money(currency_code="EUR", units=1),
    "lower case": Money(currency_code="inr", units=1),
}
BAD_RATES = [
    "-1", "-0.01", "100.01", "101", "12.345", "0.001", "abc", "NaN", "-Infinity", "1e400",
    "1e-400", "0x10", "1_0", "\uff11", " 12", "12 %", "12,5", "1" * 41, ".", "e5", "--1", "12\x00",
]  # fmt: skip


@pytest.mark.parametrize("method", REQUIRED_FIELDS)
def test_all_missing_fields_are_reported_together(server: Edge, method: str) -> None:
    request, fields = REQUIRED_FIELDS[method]
    found = refused(getattr(server.credit, method), request)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert found.fields == fields
    assert set(found.metadata["fields"].split(",")) == fields


@pytest.mark.parametrize(("method", "request_", "fields"), INVALID_REQUESTS)
def test_all_invalid_fields_are_reported_together(
    server: Edge, method: str, request_: Any, fields: set[str]
) -> None:
    found = refused(getattr(server.credit, method), request_)
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert found.fields == fields
    for violation in found.details["BadRequest"].field_violations:
        assert violation.description.startswith(violation.field)
        assert violation.reason in {"REQUIRED", "OUT_OF_RANGE", "INVALID_FORMAT"}


@pytest.mark.parametrize("method", ["CheckEligibility", "CreateLoan"])
def test_amounts_rates_and_tenures_are_bounded(server: Edge, method: str) -> None:
    call = getattr(server.credit, method)
    make = check_request if method == "CheckEligibility" else lambda **o: loan_request(1, **o)
    for amount in BAD_AMOUNTS.values():
        found = refused(call, make(loan_amount=amount))
        assert found.fields == {"loan_amount"}, amount
    for rate in BAD_RATES:
        found = refused(call, make(interest_rate=percent(rate)))
        assert found.fields == {"interest_rate"}, rate
    for tenure in (-1, 0, 481, 2**31 - 1):
        assert refused(call, make(tenure_months=tenure)).fields == {"tenure_months"}


def repays(amount: Money, rate: str) -> bool:
    """Whether installments in whole paise can repay the amount over 480 months."""
    return amount.units > 1 and rate in {"0", "00.00", "1.5E+1", "-0"}


def test_the_bounds_of_each_range_are_accepted(server: Edge, database: Database) -> None:
    customer_id = good_customer(database)
    for amount in (rupees(100_00_00_000), rupees(0, 1), Money(units=1)):
        for rate in ("0", "100", "1e2", "00.00", "99.99", "1.5E+1", "-0"):
            for tenure in (1, 480) if repays(amount, rate) else (1,):
                server.credit.CheckEligibility(
                    check_request(
                        customer_id=customer_id,
                        loan_amount=amount,
                        interest_rate=percent(rate),
                        tenure_months=tenure,
                    )
                )


@pytest.mark.parametrize(
    ("amount", "rate", "tenure", "fields"),
    [
        (rupees(0, 49), "12", 480, {"loan_amount", "tenure_months"}),
        (rupees(1), "12", 480, {"loan_amount", "tenure_months"}),
        (rupees(1), "0", 480, {"loan_amount", "tenure_months"}),
        (rupees(100_000), "36", 480, {"loan_amount", "tenure_months"}),
        (rupees(100_00_00_000), "100", 480, {"tenure_months"}),
    ],
)
def test_an_ask_that_whole_paise_cannot_repay_is_rejected_by_both_methods(
    server: Edge, database: Database, amount: Money, rate: str, tenure: int, fields: set[str]
) -> None:
    customer_id = good_customer(database)
    terms = {"loan_amount": amount, "interest_rate": percent(rate), "tenure_months": tenure}
    checked = refused(
        server.credit.CheckEligibility, check_request(customer_id=customer_id, **terms)
    )
    created = refused(server.credit.CreateLoan, loan_request(customer_id, **terms))
    for found in (checked, created):
        assert found.reason == "INVALID_FIELD"
        assert found.fields == fields
    assert list(server.credit.ListDecisions(pb.ListDecisionsRequest()).decisions) == []


def test_the_last_installment_is_in_every_response(server: Edge, database: Database) -> None:
    customer_id = good_customer(database)
    terms = {"loan_amount": rupees(100_000), "interest_rate": percent("0"), "tenure_months": 3}
    checked = server.credit.CheckEligibility(check_request(customer_id=customer_id, **terms))
    created = server.credit.CreateLoan(loan_request(customer_id, **terms))
    decision = server.credit.GetDecision(
        pb.GetDecisionRequest(decision_id=created.decision_id)
    ).decision
    loan = server.credit.GetLoan(pb.GetLoanRequest(loan_id=created.loan.loan_id)).loan
    for answer in (checked, created, created.loan, decision, loan):
        assert answer.monthly_installment == rupees(33_333, 33)
        assert answer.last_installment == rupees(33_333, 34)
    assert "₹33,333.33 a month, the last ₹33,333.34." in created.message


RESERVED = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
]


@pytest.mark.parametrize("text", RESERVED)
def test_the_nil_and_max_uuid_are_rejected_as_request_ids(
    server: Edge, database: Database, text: str
) -> None:
    customer_id = good_customer(database)
    payment = pb.RecordPaymentRequest(
        request_id=text, customer_id=customer_id, loan_id=1, amount=rupees(1)
    )
    for method, request in (
        (server.credit.RegisterCustomer, registration(request_id=text)),
        (server.credit.CreateLoan, loan_request(customer_id, request_id=text)),
        (server.credit.RecordPayment, payment),
    ):
        found = refused(method, request)
        assert (found.reason, found.fields) == ("INVALID_FIELD", {"request_id"})
        assert "generate a random one" in found.message


UNKNOWN = [
    ("GetCustomer", pb.GetCustomerRequest(customer_id=HUGE), "CUSTOMER_NOT_FOUND"),
    ("GetCustomer", pb.GetCustomerRequest(phone_number="9876598765"), "CUSTOMER_NOT_FOUND"),
    ("GetCreditScore", pb.GetCreditScoreRequest(customer_id=77), "CUSTOMER_NOT_FOUND"),
    ("CheckEligibility", check_request(customer_id=77), "CUSTOMER_NOT_FOUND"),
    ("CreateLoan", loan_request(77), "CUSTOMER_NOT_FOUND"),
    ("ListLoans", pb.ListLoansRequest(customer_id=77), "CUSTOMER_NOT_FOUND"),
    ("ListDecisions", pb.ListDecisionsRequest(customer_id=77), "CUSTOMER_NOT_FOUND"),
    ("GetLoan", pb.GetLoanRequest(loan_id=77), "LOAN_NOT_FOUND"),
    ("GetLoan", pb.GetLoanRequest(loan_id=77, customer_id=77), "LOAN_NOT_FOUND"),
    (
        "GetRepaymentSchedule",
        pb.GetRepaymentScheduleRequest(customer_id=77, loan_id=77),
        "LOAN_NOT_FOUND",
    ),
    ("GetDecision", pb.GetDecisionRequest(decision_id=HUGE), "DECISION_NOT_FOUND"),
    ("ListPayments", pb.ListPaymentsRequest(customer_id=77, loan_id=77), "LOAN_NOT_FOUND"),
    (
        "GetForeclosureQuote",
        pb.GetForeclosureQuoteRequest(customer_id=77, loan_id=77),
        "LOAN_NOT_FOUND",
    ),
    (
        "ReversePayment",
        pb.ReversePaymentRequest(
            request_id=str(uuid4()),
            payment_id=HUGE,
            reason=loan_pb2.PAYMENT_REVERSAL_REASON_BOUNCED,
        ),
        "PAYMENT_NOT_FOUND",
    ),
]


def test_unknown_ids_are_not_found(server: Edge) -> None:
    for method, request, reason in UNKNOWN:
        found = refused(getattr(server.credit, method), request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, reason), method
        kinds = {"customer", "loan", "decision", "payment"}
        assert found.details["ResourceInfo"].resource_type in kinds
        assert found.message
        names = {*(f"{each}_id" for each in kinds), "lookup"}
        assert found.metadata
        assert set(found.metadata) <= names


def test_a_page_token_is_valid_for_its_method_and_filters_only(
    server: Edge, database: Database
) -> None:
    customer_id = good_customer(database)
    other_id = good_customer(database)
    page = server.credit.ListLoans(pb.ListLoansRequest(customer_id=customer_id, page_size=1))
    token = page.next_page_token
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for request in (
        pb.ListLoansRequest(customer_id=other_id, page_token=token),
        pb.ListLoansRequest(
            customer_id=customer_id, state=loan_pb2.LOAN_STATE_CLOSED, page_token=token
        ),
        pb.ListLoansRequest(customer_id=customer_id, page_token=flipped),
        pb.ListLoansRequest(customer_id=customer_id, page_token="A" * 5000),
        pb.ListLoansRequest(customer_id=customer_id, page_token="é"),
        pb.ListLoansRequest(customer_id=customer_id, page_token="!!"),
    ):
        found = refused(server.credit.ListLoans, request)
        assert (found.code, found.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )
        assert found.fields == {"page_token"}
    crossed = pb.ListDecisionsRequest(customer_id=customer_id, page_token=token)
    assert refused(server.credit.ListDecisions, crossed).reason == "PAGE_TOKEN_INVALID"


# Concurrent calls.


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The result of each call; all start at the same moment."""
    results: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(index: int) -> None:
        start.wait()
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def create_loan(server: Edge, request: pb.CreateLoanRequest) -> pb.CreateLoanResponse:
    """The response; retried after RetryInfo while the customer is locked or the server is full."""
    while True:
        try:
            return server.credit.CreateLoan(request)
        except grpc.RpcError as error:
            delay = refusal_of(error).details["RetryInfo"].retry_delay
            time.sleep(delay.seconds + delay.nanos / 1e9)


def test_one_request_id_in_twenty_concurrent_calls_books_once(
    server: Edge, database: Database
) -> None:
    customer_id = good_customer(database)
    request = loan_request(customer_id)
    answers = at_once([lambda: create_loan(server, request)] * 20)
    assert all(answer == answers[0] for answer in answers)
    loans = server.credit.ListLoans(
        pb.ListLoansRequest(customer_id=customer_id, state=loan_pb2.LOAN_STATE_ACTIVE)
    )
    assert [loan.loan_id for loan in loans.loans] == [answers[0].loan.loan_id]


def test_fifty_concurrent_loans_exceed_neither_limit_nor_income_share(
    server: Edge, database: Database
) -> None:
    by_limit = good_customer(database)
    answers = at_once(
        [
            lambda: create_loan(
                server, loan_request(by_limit, loan_amount=rupees(5_00_000), tenure_months=480)
            )
        ]
        * 50
    )
    # A limit of 36 lakh allows seven loans of 5 lakh.
    assert sum(answer.approved for answer in answers) == 7
    by_income = good_customer(database)
    answers = at_once(
        [
            lambda: create_loan(
                server,
                loan_request(by_income, loan_amount=rupees(1_00_000), interest_rate=percent("12")),
            )
        ]
        * 50
    )
    # 50,000 a month allow five installments of 8,884.88.
    assert sum(answer.approved for answer in answers) == 5
    for customer_id in (by_limit, by_income):
        customer = server.credit.GetCustomer(
            pb.GetCustomerRequest(customer_id=customer_id)
        ).customer
        assert paise_of(customer.current_debt) <= paise_of(customer.approved_limit)
        assert paise_of(customer.current_installments) * 2 <= paise_of(customer.monthly_income)

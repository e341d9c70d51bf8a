"""The forms of all methods, and typed values as messages and back."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.console import formats, leaves, method_form
from credit_service.console.calling import RequestJsonError, requests_of
from credit_service.console.method_form import NotAFormError, inputs, parts, read, written
from credit_service.console.methods import METHODS, Method
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2, offer_pb2
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from credit_service.v1.customer_pb2 import Customer

ALL = [pytest.param(each, id=each.name) for each in METHODS.values()]
CREATE = pb.CreateLoanRequest.DESCRIPTOR
CHARGE = offer_pb2.LoanCharge(
    type="fee", payee=offer_pb2.CHARGE_PAYEE_LENDER, amount=formats.money_of(50_050)
)
TYPED = {
    "request_id": "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
    "customer_id": "7",
    "loan_amount": "₹1,25,000.50",
    "interest_rate": "12.5",
    "tenure_months": "12",
    "#charges": "1",
    "charges[0].type": "fee",
    "charges[0].payee": "CHARGE_PAYEE_LENDER",
    "charges[0].amount": "500.50",
}


def leaf_paths(descriptor: Any, prefix: str = "") -> Iterator[str]:
    """The leaves of a message with one entry in each list."""
    for field in descriptor.fields:
        if leaves.is_leaf(field):
            yield prefix + field.name
        else:
            entry = "[0]." if field.is_repeated else "."
            yield from leaf_paths(field.message_type, prefix + field.name + entry)


class OneOfEach(dict[str, str]):
    """Values in which every list has one entry."""

    def get(self, key: str, default: Any = None) -> Any:
        return "1" if key.startswith("#") else default


@pytest.mark.parametrize("method", ALL)
def test_a_form_has_one_commented_field_for_each_leaf(method: Method) -> None:
    descriptor = method.descriptor.input_type
    made = list(inputs(parts(descriptor, OneOfEach())))
    assert [each.name for each in made] == list(leaf_paths(descriptor))
    assert all(each.about for each in made)
    assert method.about[0]
    assert method.scope
    # All writes of the contract carry an id that makes a repeat safe; streams have their own.
    assert method.is_write == method.has_request_id or method.descriptor.client_streaming


def test_typed_values_are_the_message_and_the_message_gives_them_back() -> None:
    message, problems = read(CREATE, TYPED)
    assert problems == {}
    wanted = pb.CreateLoanRequest(
        request_id=TYPED["request_id"],
        customer_id=7,
        loan_amount=formats.money_of(12_500_050),
        interest_rate=DecimalMessage(value="12.5"),
        tenure_months=12,
        charges=[CHARGE],
    )
    assert message == wanted
    assert written(wanted) == TYPED | {"loan_amount": "125000.50"}
    assert read(CREATE, written(wanted))[0] == wanted


@pytest.mark.parametrize(
    "message",
    [
        pb.GetCustomerRequest(phone_number="98765", as_of=Date(year=2026, month=2, day=28)),
        pb.GetCustomerRequest(customer_id=0),
        pb.UpdateCustomerRequest(
            customer=Customer(customer_id=3, first_name=" A "),
            update_mask=FieldMask(paths=["first_name", "age"]),
        ),
        pb.WatchCreditEventsRequest(
            event_types=[
                event_pb2.CREDIT_EVENT_TYPE_CUSTOMER_REGISTERED,
                event_pb2.CREDIT_EVENT_TYPE_LOAN_CREATED,
            ],
            customer_id=2,
        ),
        pb.BatchCheckEligibilityRequest(
            asks=[
                pb.CheckEligibilityRequest(customer_id=1, charges=[CHARGE, CHARGE]),
                pb.CheckEligibilityRequest(),
            ]
        ),
        scorecard_pb.CreateScorecardRequest(document='{\n  "a": 1}\n', validate_only=True),
        scorecard_pb.SetTrialScorecardRequest(end=False),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_a_request_of_each_kind_survives_the_form(message: Any) -> None:
    assert read(message.DESCRIPTOR, written(message)) == (message, {})


@pytest.mark.parametrize(
    "message",
    [
        pb.CreateLoanRequest(loan_amount=Money(currency_code="USD", units=1)),
        pb.CreateLoanRequest(loan_amount=Money(currency_code="INR", nanos=1)),
        pb.UpdateCustomerRequest(customer=Customer()),
        pb.RegisterCustomerRequest(first_name="two\nlines"),
        pb.GetCustomerRequest(phone_number=""),
        pb.GetCustomerRequest(as_of=Date(month=2)),
        pb.BatchCheckEligibilityRequest(asks=[pb.CheckEligibilityRequest()] * 21),
        pb.ListDecisionsRequest(outcome=99),  # type: ignore[arg-type]  # of a later contract
    ],
    ids=lambda message: str(message).replace("\n", " "),
)
def test_what_a_form_cannot_express_stays_json(message: Any) -> None:
    with pytest.raises(NotAFormError):
        written(message)


@pytest.mark.parametrize(
    ("name", "typed", "problem"),
    [
        ("customer_id", "x", "Enter a whole number."),
        ("customer_id", str(2**63), "This number is too large."),
        ("tenure_months", str(2**31), "This number is too large."),
        ("loan_amount", "1.234", "Enter rupees, such as 5,00,000 or 8884.88."),
        ("charges[0].payee", "X_LENDER", "“X_LENDER” is not a value of ChargePayee."),
    ],
)
def test_a_value_of_another_type_is_a_problem_of_its_field(
    name: str, typed: str, problem: str
) -> None:
    message, problems = read(CREATE, {**TYPED, name: typed})
    assert problems == {name: problem}
    assert message.ByteSize() > 0


def test_a_request_has_one_field_of_a_oneof() -> None:
    typed = {"customer_id": "1", "phone_number": "98"}
    _, problems = read(pb.GetCustomerRequest.DESCRIPTOR, typed)
    assert problems == {"phone_number": "Fill in either this field or customer_id."}


def test_entries_are_added_and_removed_with_what_is_typed_in_the_others() -> None:
    batch = pb.BatchCheckEligibilityRequest.DESCRIPTOR
    values: dict[str, str] = {}
    for number in range(3):
        values, problem = method_form.with_entry(batch, values, "asks")
        assert problem == ""
        values[f"asks[{number}].customer_id"] = str(number)
    values, _ = method_form.with_entry(batch, values, "asks[2].charges")
    values["asks[2].charges[0].type"] = "fee"
    values = method_form.without_entry(values, "asks[1]")
    message: Any = read(batch, values)[0]
    assert [each.customer_id for each in message.asks] == [0, 2]
    assert [each.type for each in message.asks[1].charges] == ["fee"]
    assert method_form.without_entry(values, "nonsense") == values
    for _ in range(method_form.MAX_ENTRIES):
        values, problem = method_form.with_entry(batch, values, "asks")
    assert "no room" in problem
    assert values["#asks"] == str(method_form.MAX_ENTRIES)
    most = method_form.MAX_INPUTS
    while not (found := method_form.with_entry(batch, values, "asks[0].charges"))[1]:
        values = found[0]
    for index in range(1, method_form.MAX_ENTRIES):
        values[f"#asks[{index}].charges"] = "20"
    assert len(list(inputs(parts(batch, values)))) > most
    with pytest.raises(NotAFormError):
        written(read(batch, values)[0])


def test_violations_stand_beside_their_fields() -> None:
    made = parts(CREATE, TYPED)
    found, others = method_form.beside(
        made,
        [
            ("charges[0].amount.units", "one"),
            ("charges[0].amount", "two"),
            ("charges[7].type", "three"),
        ],
    )
    assert found == {"charges[0].amount": "one two"}
    assert others == [("charges[7].type", "three")]
    customer = parts(pb.GetCustomerRequest.DESCRIPTOR, {})
    assert method_form.beside(customer, [("key", "set one")])[0] == {"customer_id": "set one"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", "{} {}", '{"x": 1}', '{"loan_amount": 5}', "[" * 100_000],
)
def test_a_text_that_is_no_request_is_reported(text: str) -> None:
    with pytest.raises(RequestJsonError):
        requests_of(METHODS["CreditService", "CreateLoan"], text)


def test_a_stream_has_several_requests() -> None:
    rows = METHODS["IngestionService", "IngestRows"]
    header = {"header": {"ingestion_id": str(uuid4())}}
    text = f' {{"batch": {{}}}}\n{str(header).replace(chr(39), chr(34))} '
    batch, second = requests_of(rows, text)
    assert batch.WhichOneof("payload") == "batch"
    assert second == ParseDict(header, type(batch)())

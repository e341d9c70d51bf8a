"""JSON and CSV: which commands have them, and what a message of the contract is as CSV."""

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cyclopts import App
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from credit_service.cli import app, call, events
from credit_service.cli.common import Format
from credit_service.cli.ingestions import row_errors_table
from credit_service.cli.output import print_data, records
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import (
    customer_pb2,
    decision_pb2,
    event_pb2,
    ingestion_pb2,
    loan_pb2,
    score_pb2,
)

# Commands that run, start or save something, or print a text for another program.
_WITHOUT_DATA = {
    "up", "serve", "worker", "console", "demo", "backup", "restore", "probe", "certificates",
    "completion", "parked retry", "parked discard", "personal-data export", "profiles use",
    "profiles remove", "token", "token key", "scorecard check",
}  # fmt: skip
# Their result is a file, or one object that is no message of the contract.
_WITH_JSON_ONLY = {
    "migrate", "login", "ingest", "annotated", "check-file", "sample-data", "replay",
    "personal-data erase",
}  # fmt: skip


def _commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    if app.default_command is not None:
        yield " ".join(path), app
    for name in app:
        if not name.startswith("-"):
            yield from _commands(app[name], (*path, name))


def test_every_command_that_prints_data_has_json_and_csv() -> None:
    found = {}
    for name, command in _commands(app.app):
        options = {each for one in command.assemble_argument_collection() for each in one.names}
        found[name] = {"--json", "--csv"} & options
    assert {each for each, options in found.items() if not options} == _WITHOUT_DATA
    assert {each for each, options in found.items() if options == {"--json"}} == _WITH_JSON_ONLY
    assert "--csv" in found["template"]


def _printed(response: Any, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert print_data(Format(csv=True), response)
    return list(csv.DictReader(capsys.readouterr().out.splitlines(keepends=True)))


def _customer(customer_id: int, name: str) -> customer_pb2.Customer:
    return customer_pb2.Customer(
        customer_id=customer_id,
        first_name=name,
        monthly_income=Money(currency_code="INR", units=50_000, nanos=500_000_000),
        available_credit=Money(currency_code="INR", units=-7),
        created_time=Timestamp(seconds=1_800_000_000),
        asset_class=decision_pb2.ASSET_CLASS_SMA_1,
        asset_class_since=Date(year=2026, month=1, day=31),
        approved_limit_set=True,
    )


def test_a_response_of_one_message_is_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    response = pb.GetCustomerResponse(customer=_customer(7, "=1+1"))
    (record,) = _printed(response, capsys)
    assert [*record] == [
        each if each != "as_of" else "as_of.day"
        for each in customer_pb2.Customer.DESCRIPTOR.fields_by_name
        for each in ((each, "as_of.unknown_facts") if each == "as_of" else (each,))
    ]
    assert record["customer_id"] == "7"
    assert record["first_name"] == "'=1+1"
    assert record["monthly_income"] == "50000.50"
    assert record["available_credit"] == "-7.00"
    assert record["current_debt"] == record["as_of.day"] == record["last_name"] == ""
    assert record["created_time"] == "2027-01-15T08:00:00Z"
    assert record["asset_class"] == "SMA_1"
    assert record["asset_class_since"] == "2026-01-31"
    assert record["approved_limit_set"] == "true"


def test_a_page_of_a_list_is_a_record_for_each_item(capsys: pytest.CaptureFixture[str]) -> None:
    customers = [_customer(7, "Asha"), _customer(8, "Ravi")]
    page = pb.ListCustomersResponse(customers=customers, next_page_token="abc")
    assert [each["customer_id"] for each in _printed(page, capsys)] == ["7", "8"]
    assert _printed(pb.ListCustomersResponse(), capsys) == []


def test_messages_in_a_message_are_columns_and_lists_are_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reason = decision_pb2.DeclineReason(
        code=decision_pb2.DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW, message="low, \n too"
    )
    response = pb.CheckEligibilityResponse(
        customer_id=1,
        credit_score=score_pb2.CreditScore(score=48),
        corrected_interest_rate=Decimal(value="10.5"),
        reasons=[reason],
    )
    (record,) = _printed(response, capsys)
    assert (record["customer_id"], record["credit_score.score"]) == ("1", "48")
    assert (record["approved"], record["corrected_interest_rate"]) == ("false", "10.5")
    assert json.loads(record["reasons"]) == [
        {"code": "DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW", "message": "low, \n too"}
    ]
    assert record["rule_results"] == record["outcome"] == ""
    payment = pb.RecordPaymentResponse(payment=loan_pb2.Payment(payment_id=3))
    (record,) = _printed(payment, capsys)
    assert (record["payment.payment_id"], record["loan.loan_id"]) == ("3", "")


@pytest.mark.parametrize("method", call.METHODS, ids=lambda each: each.name)
def test_every_response_of_the_contract_has_columns_of_its_own(method: Any) -> None:
    (header, *_) = records(GetMessageClass(method.output_type)()).lines(None)
    names = header[0].split("\t")
    assert len(set(names)) == len(names) > 0


def test_json_is_the_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    response = pb.GetCustomerResponse(customer=_customer(7, "Asha"))
    assert print_data(Format(json=True), response)
    document = json.loads(capsys.readouterr().out)
    assert document["customer"]["monthly_income"] == {
        "currency_code": "INR", "units": "50000", "nanos": 500_000_000,
    }  # fmt: skip
    assert not print_data(Format(), response)
    assert capsys.readouterr().out == ""


def test_an_event_is_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    registered = event_pb2.CustomerRegistered(approved_limit=Money(currency_code="INR", units=5))
    event = event_pb2.CreditEvent(event_id=9, customer_id=7, customer_registered=registered)
    events._record().print_csv()
    events._show(event, Format(csv=True))
    (record,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert record == {
        "event": "9", "time": "1970-01-01T00:00:00Z", "type": "customer_registered",
        "customer": "7", "title": "Customer 7 registered", "detail": "limit ₹5", "origin": "",
    }  # fmt: skip


def test_a_table_of_row_errors_says_once_what_is_expected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    repeated = ingestion_pb2.RowError(
        row_number=2,
        column="age",
        code=ingestion_pb2.ROW_ERROR_CODE_OUT_OF_RANGE,
        found="=200",
        expected="18 to 120",
        message="age is '=200'; expected 18 to 120.",
    )
    other = ingestion_pb2.RowError(row_number=3, expected="as many values", message="=Too long.")
    table = row_errors_table([repeated, other])
    (_, (first, _), (second, _)) = table.lines(None)
    assert first.split("\t") == ["2", "age", "OUT_OF_RANGE", "=200", "18 to 120", ""]
    assert second.split("\t")[-2:] == ["as many values", "=Too long."]
    table.print_csv()
    records = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert records[0]["message"] == "age is '=200'; expected 18 to 120."
    assert (records[0]["found"], records[1]["message"]) == ("'=200", "'=Too long.")

"""Ids of requests and responses, as the access log has them."""

from typing import Any

import pytest
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from credit_service.rpc.calls import record_ids
from credit_service.rpc.calls.record_ids import Ids, collect_ids
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import (
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)

UUID = "0199d5c4-0000-7000-8000-0000000000aa"


def ids_of(*messages: Message, lists: bool = True) -> dict[str, list[int | str]]:
    ids: Ids = {}
    for message in messages:
        collect_ids(message, ids, lists=lists)
    return {name: list(found) for name, found in ids.items()}


def test_ids_are_read_from_requests_and_responses_by_field_name() -> None:
    request = pb.CreateLoanRequest(request_id=UUID, customer_id=7)
    answer = pb.CreateLoanResponse()
    answer.loan.loan_id, answer.loan.customer_id, answer.loan.decision_id = 31, 7, 41
    assert ids_of(request, answer) == {
        "request_ids": [UUID],
        "customer_ids": [7],
        "loan_ids": [31],
        "decision_ids": [41],
    }


def test_list_responses_name_each_record_once() -> None:
    answer = pb.ListCustomersResponse()
    for number in (3, 1, 2, 1):
        answer.customers.add(customer_id=number, first_name="Asha", phone_number="+919876543210")
    assert ids_of(answer) == {"customer_ids": [3, 1, 2]}


def test_events_name_records_and_not_their_position_in_the_stream() -> None:
    answer = pb.WatchCreditEventsResponse()
    answer.event.event_id, answer.event.customer_id = 99, 5
    assert ids_of(answer) == {"customer_ids": [5]}
    assert ids_of(pb.WatchCreditEventsRequest(after_event_id=4)) == {}


def test_a_batch_of_rows_is_logged_by_its_ingestion_id() -> None:
    first = ingestion_service_pb2.IngestRowsRequest()
    first.header.ingestion_id = UUID
    second = ingestion_service_pb2.IngestRowsRequest()
    second.batch.customers.rows.add(customer_id=1)
    assert ids_of(first, second, lists=False) == {"ingestion_ids": [UUID]}


@pytest.mark.parametrize("text", ["Asha Rao", "+919876543210", "x" * 5_000, '"},{', UUID + " "])
def test_a_text_that_is_no_id_is_omitted(text: str) -> None:
    assert ids_of(pb.CreateLoanRequest(request_id=text, customer_id=7)) == {"customer_ids": [7]}


def test_objects_other_than_messages_of_the_contract_have_no_ids() -> None:
    ids: Ids = {}
    for each in (Money(units=5), b"bytes", None):
        collect_ids(each, ids)
    assert ids == {}


def test_every_id_of_the_contract_is_found() -> None:
    """Every int64 or string field named …_id in the requests and responses, except positions in the
    stream of events."""

    def named(descriptor: Any, above: tuple[str, ...] = ()) -> set[str]:
        if descriptor.full_name in above or not descriptor.full_name.startswith("credit_service"):
            return set()
        found: set[str] = set()
        for field in descriptor.fields:
            if field.message_type is not None:
                found |= named(field.message_type, (*above, descriptor.full_name))
            elif field.name.endswith("_id") and not field.name.endswith("event_id"):
                found.add(f"{field.name}s")
        return found

    def planned(plan: record_ids._Plan) -> set[str]:
        below = [each for _, each in (*plan.messages, *plan.lists)]
        return {name for name, _ in plan.fields}.union(*map(planned, below))

    files = (
        *(pb.DESCRIPTOR, ingestion_service_pb2.DESCRIPTOR),
        *(operations_service_pb2.DESCRIPTOR, scorecard_service_pb2.DESCRIPTOR),
    )
    for file in files:
        for message in file.message_types_by_name.values():
            assert planned(record_ids._plan(message, ())) == named(message)

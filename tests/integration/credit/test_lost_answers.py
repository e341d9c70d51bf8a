"""The published retry policy repeats a write whose response is lost after the commit."""

import json
import re
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from credit_service import failpoints
from credit_service.cli import app
from credit_service.client.channel import open_channel
from credit_service.clock import Clock
from credit_service.domain.errors import UnavailableError
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.storage.database import Database
from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service.v1.operations_service_pb2_grpc import OperationsServiceStub
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from tests.integration import portfolio
from tests.integration.conftest import Edge, refusal_of

WRITES = {
    method.name: method
    for file in (
        *(credit_service_pb2, ingestion_service_pb2),
        *(operations_service_pb2, scorecard_service_pb2),
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    # A stream has an ingestion_id, and the policy does not retry it.
    and not method.client_streaming
}
"""The methods that write and that the retry policy may send twice."""

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "RegisterCustomer": {
        "first_name": "Asha",
        "last_name": "Rao",
        "age": 30,
        "monthly_income": {"units": 50_000},
        "phone_number": "9876598765",
    },
    "UpdateCustomer": {"customer": {"customer_id": 1, "age": 31}, "update_mask": "age"},
    "CreateLoan": {
        "customer_id": 1,
        "loan_amount": {"units": 100_000},
        "interest_rate": {"value": "12.5"},
        "tenure_months": 12,
    },
    "RecordPayment": {"customer_id": 1, "loan_id": 1, "amount": {"units": 10}},
    "ReversePayment": {"payment_id": 1, "reason": "PAYMENT_REVERSAL_REASON_BOUNCED"},
    "CreateLoanOffer": {
        "customer_id": 1,
        "loan_amount": {"units": 100_000},
        "interest_rate": {"value": "12.5"},
        "tenure_months": 12,
    },
    "AcceptLoanOffer": {"offer_id": 1},
    "WithdrawLoanOffer": {"offer_id": 1},
    "ReviewDecision": {"decision_id": 1, "verdict": "REVIEW_VERDICT_APPROVE", "reason": "good"},
    "CreateScorecard": {"document": json.dumps({**STANDARD_DOCUMENT, "version": "strict-1"})},
    "ActivateScorecard": {"version": "strict-1"},
    "SetTrialScorecard": {"version": "strict-1"},
    "RetireScorecard": {"version": "strict-1"},
    "CancelIngestion": {"ingestion_id": "5b0c1f0e-6f0a-4c55-9a57-2f4f0c1d7a02"},
    "RetryParkedTask": {"task_id": 1},
    "DiscardParkedTask": {"task_id": 1},
    "RevertIngestion": {"ingestion_id": "5b0c1f0e-6f0a-4c55-9a57-2f4f0c1d7a02"},
}
"""A request of each writing method, complete except for its request id."""


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lose the first response after each commit; return the failpoints of the lost ones.

    The caller gets UNAVAILABLE, as from a server that dies there.
    """
    lost: list[str] = []

    def lose(point: str) -> None:
        if point.endswith(".after_commit") and point not in lost:
            lost.append(point)
            raise UnavailableError("SHUTTING_DOWN", "The response was lost.", 0.0)

    monkeypatch.setattr(failpoints, "reach", lose)
    return lost


def stored(database: Database) -> dict[str, int]:
    """The number of rows in each table that the methods write."""
    with database.autocommit() as connection:
        return {
            table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608 - one of these
            for table in (
                *("customers", "decisions", "payments", "requests", "events"),
                *("loan_offers", "referrals", "scorecards", "scorecard_changes"),
                "task_actions",
            )
        }


def test_a_write_without_a_request_id_is_rejected_before_it_writes(
    server: Edge, database: Database, losses: list[str]
) -> None:
    customer_id = portfolio.a_good_customer(database, Clock().moment())
    before = stored(database)
    assert SAMPLES.keys() == WRITES.keys()
    with open_channel(server.target) as channel:
        stubs = {
            "CreditService": CreditServiceStub(channel),
            "IngestionService": IngestionServiceStub(channel),
            "ScorecardService": ScorecardServiceStub(channel),
            "OperationsService": OperationsServiceStub(channel),
        }
        for name, method in WRITES.items():
            stub = stubs[method.containing_service.name]
            values = {**SAMPLES[name]}
            if "customer_id" in values:
                values["customer_id"] = customer_id
            request = ParseDict(values, GetMessageClass(method.input_type)())
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, name)(request, timeout=20)
            refusal = refusal_of(caught.value)
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
            )
            assert refusal.fields == {"request_id"}
            assert "a random UUID for each intended write" in refusal.message
    assert stored(database) == before
    assert not losses


def test_the_command_line_generates_a_request_id_and_retries_with_it(
    server: Edge,
    database: Database,
    losses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)
    customer_id = portfolio.a_good_customer(database, Clock().moment())

    def called(method: str, **values: Any) -> tuple[dict[str, Any], list[str]]:
        """The response and the generated ids."""
        capsys.readouterr()
        request = {**SAMPLES[method], "customer_id": customer_id, **values}
        assert app.run(["call", method, json.dumps(request)]) == 0
        printed = capsys.readouterr()
        # The server in this process also logs to standard error.
        generated = re.findall(r"Generated request_id ([0-9a-f-]{36})", printed.err)
        return json.loads(printed.out), generated

    booked, (request_id,) = called("CreateLoan")
    paid, _ = called("RecordPayment", loan_id=booked["loan"]["loan_id"])
    assert losses == ["create_loan.after_commit", "record_payment.after_commit"]
    found = stored(database)
    assert (found["decisions"], found["payments"]) == (1, 1)

    # A given id is used as it is.
    assert called("CreateLoan", request_id=request_id) == (booked, [])
    payment_id, loan_id = paid["payment"]["request_id"], booked["loan"]["loan_id"]
    assert called("RecordPayment", requestId=payment_id, loan_id=loan_id) == (paid, [])
    assert stored(database) == found

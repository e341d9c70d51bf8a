"""A client of the credit service: connect, book once, offer and accept, check in batches, handle
errors, stream rows, follow events.

    CREDIT_ADDRESS=127.0.0.1:50051 python credit_client.py

CREDIT_SERVER_CA names a PEM file of the authorities to trust, CREDIT_TOKEN_FILE a file with a
bearer token; replace it before the token expires. Needs grpcio, grpcio-status,
googleapis-common-protos, and the modules generated from the contract.
"""

import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.type import date_pb2, decimal_pb2, money_pb2
from grpc_status import rpc_status

from credit_service.v1 import (
    credit_service_pb2,
    credit_service_pb2_grpc,
    ingestion_pb2,
    ingestion_service_pb2,
    ingestion_service_pb2_grpc,
)

DEADLINE_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
BATCH_ROWS = 1_000
SERVICE_CONFIG = Path(__file__).parents[1] / "service-config.json"


# Connect.


class Bearer(grpc.AuthMetadataPlugin):
    """Sends the token from a file, which is read for each call."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, _context: object, callback: Callable[..., None]) -> None:
        try:
            token = self.file.read_text().strip()
        except OSError as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)


def connect(address: str, ca: Path | None = None, token_file: Path | None = None) -> grpc.Channel:
    """A channel with the standard retry policy; a token needs TLS."""
    options = [("grpc.service_config", json.dumps(json.loads(SERVICE_CONFIG.read_text())))]
    if ca is None:
        return grpc.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    if token_file is not None:
        bearer = grpc.metadata_call_credentials(Bearer(token_file))
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return grpc.secure_channel(address, credentials, options)


def connect_from_environment() -> grpc.Channel:
    """A channel to CREDIT_ADDRESS."""
    ca, token_file = os.environ.get("CREDIT_SERVER_CA"), os.environ.get("CREDIT_TOKEN_FILE")
    return connect(
        os.environ.get("CREDIT_ADDRESS", "127.0.0.1:50051"),
        Path(ca) if ca else None,
        Path(token_file) if token_file else None,
    )


# Handle errors.


class RefusedError(Exception):
    """A failed call: status and reason for the program, message and fields for people."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details() or ""
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.fields: dict[str, str] = {}
        self.retry_after_seconds = 0.0
        try:
            status = rpc_status.from_call(error)
        except ValueError:  # the deadline passed while the status arrived
            status = None
        for detail in status.details if status is not None else ():
            if info := _unpacked(detail, error_details_pb2.ErrorInfo()):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif bad := _unpacked(detail, error_details_pb2.BadRequest()):
                self.fields = {each.field: each.description for each in bad.field_violations}
            elif retry := _unpacked(detail, error_details_pb2.RetryInfo()):
                self.retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
        super().__init__(f"{self.code.name} ({self.reason}): {self.message}")


def _unpacked(detail, message):
    return message if detail.Unpack(message) else None


# Retry until there is a response.

# The call may have taken effect with a lost response: retrying with the same request_id is safe.
WORTH_REPEATING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def answer_of(method: Callable, request: Message) -> Message:
    """The response to a request that is safe to retry: a read, or a write with a request_id.

    Raises RefusedError for errors that a retry cannot change, and after PATIENCE_SECONDS.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    pause_seconds = 0.1
    while True:
        try:
            return method(request, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            refused = RefusedError(error)
        if refused.code not in WORTH_REPEATING or time.monotonic() > give_up_at:
            raise refused
        time.sleep(max(refused.retry_after_seconds, pause_seconds * random.uniform(0.5, 1)))
        pause_seconds = min(pause_seconds * 2, 5.0)


# Stream rows, each exactly once.


def ingest(
    service: ingestion_service_pb2_grpc.IngestionServiceStub,
    ingestion_id: str,
    kind: int,
    rows: Sequence[Message],
) -> ingestion_service_pb2.IngestRowsResponse:
    """Send rows under an id that was stored before the first row was sent.

    After a failure, continue from the service's committed_offset: no row is lost or stored twice.
    After a crash of this program, the same rows with the same id continue where they ended.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        offset = _committed_offset(service, ingestion_id)
        try:
            messages = _messages(ingestion_id, kind, rows, offset)
            return service.IngestRows(messages, timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            refused = RefusedError(error)
        again = {*WORTH_REPEATING, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.CANCELLED}
        if refused.code not in again or time.monotonic() > give_up_at:
            raise refused
        time.sleep(max(refused.retry_after_seconds, random.uniform(0.1, 0.5)))


def _committed_offset(
    service: ingestion_service_pb2_grpc.IngestionServiceStub, ingestion_id: str
) -> int:
    request = ingestion_service_pb2.GetIngestionRequest(ingestion_id=ingestion_id)
    try:
        return answer_of(service.GetIngestion, request).ingestion.committed_offset
    except RefusedError as refused:
        if refused.reason == "INGESTION_NOT_FOUND":
            return 0
        raise


def _messages(
    ingestion_id: str, kind: int, rows: Sequence[Message], offset: int
) -> Iterator[ingestion_service_pb2.IngestRowsRequest]:
    yield ingestion_service_pb2.IngestRowsRequest(
        header=ingestion_service_pb2.IngestRowsHeader(ingestion_id=ingestion_id, kind=kind)
    )
    for first in range(offset, len(rows), BATCH_ROWS):
        batch = ingestion_service_pb2.RowBatch(offset=first)
        some = rows[first : first + BATCH_ROWS]
        if kind == ingestion_pb2.INGESTION_KIND_CUSTOMERS:
            batch.customers.rows.extend(some)
        else:
            batch.loans.rows.extend(some)
        yield ingestion_service_pb2.IngestRowsRequest(batch=batch)


# Follow events.


def follow(
    service: credit_service_pb2_grpc.CreditServiceStub, after_event_id: int, customer_id: int
) -> Iterator[Message]:
    """A customer's events without end, each once and in order, across connection failures, restarts
    of the service, and token expiry if the file then has a new token.

    Store the event_id of each event in the same transaction as its effect, and start after the
    last stored one: then no event is skipped or processed twice.
    """
    while True:
        request = credit_service_pb2.WatchCreditEventsRequest(
            after_event_id=after_event_id, customer_id=customer_id
        )
        admitted = False
        try:
            for response in service.WatchCreditEvents(request):
                admitted = True
                if response.WhichOneof("message") == "event":
                    after_event_id = response.event.event_id
                    yield response.event
                else:
                    # Events that the filter excluded need not be sent again.
                    after_event_id = response.heartbeat.last_event_id
        except grpc.RpcError as error:
            refused = RefusedError(error)
            token_is_over = admitted and refused.code is grpc.StatusCode.UNAUTHENTICATED
            if refused.code not in WORTH_REPEATING and not token_is_over:
                raise refused from None
        time.sleep(random.uniform(0.1, 1))


# Usage.


def rupees(amount: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="INR", units=amount)


def main() -> None:
    channel = connect_from_environment()
    credit = credit_service_pb2_grpc.CreditServiceStub(channel)
    ingestion = ingestion_service_pb2_grpc.IngestionServiceStub(channel)

    # Generate the ids and store them with the intended write until you have the response.
    customer_id = 880_000_001
    customer = ingestion_pb2.CustomerRow(
        customer_id=customer_id,
        first_name="Asha",
        last_name="Rao",
        age=34,
        phone_number="9876598801",
        monthly_income=rupees(80_000),
    )
    loan = ingestion_pb2.LoanRow(
        customer_id=customer_id,
        loan_id=1,
        loan_amount=rupees(800_000),
        tenure_months=12,
        interest_rate=decimal_pb2.Decimal(value="10"),
        monthly_installment=rupees(70_333),
        emis_paid_on_time=12,
        start_date=date_pb2.Date(year=2022, month=5, day=31),
    )
    for kind, rows in (
        (ingestion_pb2.INGESTION_KIND_CUSTOMERS, [customer]),
        (ingestion_pb2.INGESTION_KIND_LOANS, [loan]),
    ):
        done = ingest(ingestion, str(uuid.uuid4()), kind, rows)
        print("rows read:", done.ingestion.rows_read, "rejected:", done.ingestion.rejected)
        for row_error in done.row_errors:
            print(f"  row {row_error.row_number}: {row_error.message}")

    ask = credit_service_pb2.CreateLoanRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=rupees(50_000),
        interest_rate=decimal_pb2.Decimal(value="12.5"),
        tenure_months=12,
    )
    booked = answer_of(credit.CreateLoan, ask)
    print(booked.message)
    # A decline is a response, too; its reasons and counter_offer state what would be approved.
    assert booked.approved, booked.reasons
    # A retry, as after a lost response, returns the same loan and books no second one.
    assert answer_of(credit.CreateLoan, ask).loan.loan_id == booked.loan.loan_id
    print("retried: the same loan")

    # An offer holds its credit until it is accepted or withdrawn, or its last day is over.
    sanction = credit_service_pb2.CreateLoanOfferRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=rupees(25_000),
        interest_rate=decimal_pb2.Decimal(value="12.5"),
        tenure_months=12,
    )
    offered = answer_of(credit.CreateLoanOffer, sanction)
    disbursement = credit_service_pb2.AcceptLoanOfferRequest(
        request_id=str(uuid.uuid4()),
        offer_id=offered.offer.offer_id,
        loan_amount=rupees(20_000),
    )
    accepted = answer_of(credit.AcceptLoanOffer, disbursement)
    print(f"offered ₹{offered.offer.loan_amount.units}, lent ₹{accepted.loan.loan_amount.units}")

    wrong = credit_service_pb2.CheckEligibilityRequest(customer_id=customer_id, tenure_months=481)
    try:
        answer_of(credit.CheckEligibility, wrong)
    except RefusedError as refused:
        print(f"{refused.code.name} ({refused.reason})")
        for field, problem in refused.fields.items():
            print(f"  {field}: {problem}")

    # Many checks in one call: each result is at the place of its ask.
    small = credit_service_pb2.CheckEligibilityRequest(
        customer_id=customer_id,
        loan_amount=rupees(10_000),
        interest_rate=decimal_pb2.Decimal(value="12.5"),
        tenure_months=12,
    )
    batch = credit_service_pb2.BatchCheckEligibilityRequest(asks=[small, wrong])
    for result in answer_of(credit.BatchCheckEligibility, batch).results:
        if result.HasField("error"):
            print("checked: error", result.error.code)
        else:
            print("checked:", "approved" if result.eligibility.approved else "not approved")

    for event in follow(credit, after_event_id=0, customer_id=customer_id):
        print("event:", event.WhichOneof("payload"))
        if event.HasField("loan_created") and event.loan_created.loan == booked.loan:
            break
    channel.close()


if __name__ == "__main__":
    main()

"""A customer and loans, created through a running server."""

import uuid

from google.type import date_pb2, decimal_pb2, money_pb2

from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration.conftest import Edge


def register(credit: CreditServiceStub, phone: str) -> int:
    """The id of a new customer with ₹50,000 a month."""
    request = pb.RegisterCustomerRequest(
        request_id=str(uuid.uuid4()),
        first_name="Asha",
        last_name="Rao",
        age=30,
        monthly_income=money_pb2.Money(currency_code="INR", units=50_000),
        phone_number=phone,
    )
    customer_id: int = credit.RegisterCustomer(request).customer.customer_id
    return customer_id


def ask(customer_id: int, request_id: str = "", rupees: int = 100_000) -> pb.CreateLoanRequest:
    """A loan over a year at 10 %, with a new request id by default."""
    return pb.CreateLoanRequest(
        request_id=request_id or str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=money_pb2.Money(currency_code="INR", units=rupees),
        interest_rate=decimal_pb2.Decimal(value="10"),
        tenure_months=12,
    )


def import_loans(server: Edge, customer_id: int, count: int) -> ingestion_pb2.Ingestion:
    """Import past loans, repaid on time, with a stream; with new ids in each call."""
    rows = [
        ingestion_pb2.LoanRow(
            row_number=number + 2,
            customer_id=customer_id,
            loan_id=count * 1000 + number,
            loan_amount=money_pb2.Money(currency_code="INR", units=100_000),
            tenure_months=12,
            interest_rate=decimal_pb2.Decimal(value="10"),
            monthly_installment=money_pb2.Money(currency_code="INR", units=8_792),
            emis_paid_on_time=12,
            start_date=date_pb2.Date(year=2020, month=1, day=1),
            end_date=date_pb2.Date(year=2021, month=1, day=1),
        )
        for number in range(count)
    ]
    header = ingestion_service_pb2.IngestRowsHeader(
        ingestion_id=str(uuid.uuid4()), kind=ingestion_pb2.INGESTION_KIND_LOANS
    )
    batch = ingestion_service_pb2.RowBatch(
        offset=0, loans=ingestion_service_pb2.LoanRows(rows=rows)
    )
    response = server.ingestion.IngestRows(
        iter(
            [
                ingestion_service_pb2.IngestRowsRequest(header=header),
                ingestion_service_pb2.IngestRowsRequest(batch=batch),
            ]
        ),
        timeout=30,
    )
    ingestion: ingestion_pb2.Ingestion = response.ingestion
    assert ingestion.inserted == count, response
    return ingestion

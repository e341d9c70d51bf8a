"""The data on the fuzzed server: a few customers, loans, decisions, files, and their ids."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from credit_service.clock import Clock
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.v1 import credit_service_pb2 as credit
from credit_service.v1 import ingestion_pb2, offer_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion
from credit_service.v1 import operations_service_pb2 as operations
from credit_service.v1 import scorecard_service_pb2 as scorecards
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.customer_pb2 import Customer
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from tests.fuzz.values import numbered_uuid

_LISTED = (
    ingestion_pb2.ROW_OUTCOME_REJECTED,
    ingestion_pb2.ROW_OUTCOME_SKIPPED,
    ingestion_pb2.ROW_OUTCOME_KEPT,
)

CUSTOMERS = range(1, 13)
TRIED, UNUSED = "tried-1", "unused-1"
"""Versions of stored scorecards. The standard one stays active."""
SHARED_LOAN = 77
"""A loan id shared by two customers."""
OWN_LOAN = 78
CUSTOMERS_CSV = (
    "customer_id,first_name,last_name,age,phone_number,monthly_income\n"
    "1,Asha,Rao,30,9876500001,50000\n"
)


@dataclass(frozen=True)
class World:
    """Ids and page tokens of this server."""

    loan_id: int
    decision_id: int
    offer_ids: tuple[int, ...]
    payment_ids: tuple[int, ...]
    ingestion_ids: tuple[str, ...]
    request_ids: tuple[str, ...]
    page_tokens: tuple[str, ...]

    def bases(self, method: str, fresh: str) -> list[list[Message]]:
        """Valid calls of a method with all fields set; `fresh` is an unused UUID."""
        made: list[list[Message]] = _BASES[method](self, fresh)
        return made


def money(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="INR", units=units, nanos=nanos)


def day(of: date) -> Date:
    return Date(year=of.year, month=of.month, day=of.day)


def customer_row(customer_id: int) -> ingestion_pb2.CustomerRow:
    """A valid customer."""
    return ingestion_pb2.CustomerRow(
        customer_id=customer_id,
        first_name="Asha",
        last_name="Rao",
        age=30,
        phone_number=f"+91{9_876_500_000 + customer_id}",
        monthly_income=money(90_000),
        approved_limit=money(3_200_000),
        row_number=customer_id,
    )


def loan_row(customer_id: int, loan_id: int) -> ingestion_pb2.LoanRow:
    """A fully repaid loan of a customer."""
    return ingestion_pb2.LoanRow(
        customer_id=customer_id,
        loan_id=loan_id,
        loan_amount=money(400_000),
        tenure_months=12,
        interest_rate=Decimal(value="12"),
        monthly_installment=money(35_539, 520_000_000),
        emis_paid_on_time=12,
        start_date=day(date(2020, 1, 31)),
        end_date=day(date(2021, 1, 31)),
        row_number=1,
    )


def make(channel: grpc.Channel) -> World:
    """Fill an empty server and read its ids."""
    stubs = CreditServiceStub(channel), IngestionServiceStub(channel)
    calls, rows = stubs
    ids = [numbered_uuid("world", name) for name in ("customers", "loans", "file", "open")]
    customers = ingestion.RowBatch(
        customers=ingestion.CustomerRows(rows=map(customer_row, CUSTOMERS))
    )
    loans = [loan_row(each, SHARED_LOAN) for each in CUSTOMERS[:2]]
    loans += [loan_row(each, 80 + number) for each in CUSTOMERS for number in range(3)]
    loans += [loan_row(1, 0), loan_row(1, -1), loan_row(1, 0)]
    ingest(rows, ids[0], ingestion_pb2.INGESTION_KIND_CUSTOMERS, customers)
    ingest(
        rows,
        ids[1],
        ingestion_pb2.INGESTION_KIND_LOANS,
        ingestion.RowBatch(loans=ingestion.LoanRows(rows=loans)),
    )
    rows.UploadSpreadsheet(iter(_upload(ids[2])), timeout=20)
    asks = [numbered_uuid("world", "ask", number) for number in range(2)]
    answers = [calls.CreateLoan(_ask(each), timeout=20) for each in asks]
    held = [numbered_uuid("world", "offer", number) for number in range(3)]
    offers = [calls.CreateLoanOffer(_offer(each), timeout=20).offer for each in held]
    paid = [numbered_uuid("world", "payment", number) for number in range(3)]
    loan_id = answers[0].loan.loan_id
    payments = [
        calls.RecordPayment(_payment(each, loan_id), timeout=20).payment.payment_id for each in paid
    ]
    return World(
        loan_id=loan_id,
        decision_id=answers[0].decision_id,
        offer_ids=tuple(each.offer_id for each in offers),
        payment_ids=tuple(payments),
        ingestion_ids=tuple(ids[:3]),
        request_ids=(*asks, *held, *paid),
        page_tokens=(
            *_tokens(*stubs, ids[1]),
            _scorecards(channel),
            calls.ListPayments(
                credit.ListPaymentsRequest(customer_id=1, loan_id=loan_id, page_size=1)
            ).next_page_token,
        ),
    )


def ingest(
    stub: IngestionServiceStub, ingestion_id: str, kind: Any, batch: ingestion.RowBatch
) -> None:
    """Stream a batch."""
    header = ingestion.IngestRowsHeader(ingestion_id=ingestion_id, kind=kind)
    messages = [
        ingestion.IngestRowsRequest(header=header),
        ingestion.IngestRowsRequest(batch=batch),
    ]
    stub.IngestRows(iter(messages), timeout=30)


def rejected_batch(count: int) -> ingestion.RowBatch:
    """Customers that are all rejected because of their age."""
    rows = [customer_row(1_000_000 + number) for number in range(count)]
    for row in rows:
        row.age = 17
    return ingestion.RowBatch(customers=ingestion.CustomerRows(rows=rows))


def _tokens(
    calls: CreditServiceStub, ingest: IngestionServiceStub, ingestion_id: str
) -> Iterator[str]:
    """A page token of each list."""
    yield calls.ListCustomers(credit.ListCustomersRequest(page_size=1)).next_page_token
    yield calls.ListLoans(credit.ListLoansRequest(customer_id=1, page_size=1)).next_page_token
    yield calls.ListDecisions(credit.ListDecisionsRequest(page_size=1)).next_page_token
    yield calls.ListLoanOffers(
        credit.ListLoanOffersRequest(customer_id=1, page_size=1)
    ).next_page_token
    yield ingest.ListIngestions(ingestion.ListIngestionsRequest(page_size=1)).next_page_token
    yield ingest.ListRowErrors(
        ingestion.ListRowErrorsRequest(ingestion_id=ingestion_id, page_size=1, outcomes=_LISTED)
    ).next_page_token


def _scorecards(channel: grpc.Channel) -> str:
    """Store two scorecards; return a page token of their list."""
    calls = ScorecardServiceStub(channel)
    for version in (TRIED, UNUSED):
        created = numbered_uuid("world", version)
        document = json.dumps({**STANDARD_DOCUMENT, "version": version})
        calls.CreateScorecard(
            scorecards.CreateScorecardRequest(request_id=created, document=document), timeout=20
        )
    return calls.ListScorecards(scorecards.ListScorecardsRequest(page_size=1)).next_page_token


def _ask(request_id: str) -> credit.CreateLoanRequest:
    return credit.CreateLoanRequest(
        request_id=request_id,
        customer_id=1,
        loan_amount=money(1_000, 500_000_000),
        interest_rate=Decimal(value="16.5"),
        tenure_months=12,
        charges=[_charge()],
    )


def _charge() -> offer_pb2.LoanCharge:
    return offer_pb2.LoanCharge(
        type="processing fee",
        payee=offer_pb2.CHARGE_PAYEE_LENDER,
        amount=money(20),
        tax=money(3, 600_000_000),
        timing=offer_pb2.CHARGE_TIMING_UPFRONT,
    )


def _offer(request_id: str) -> credit.CreateLoanOfferRequest:
    return credit.CreateLoanOfferRequest(
        request_id=request_id,
        customer_id=1,
        loan_amount=money(1_000, 500_000_000),
        interest_rate=Decimal(value="16.5"),
        tenure_months=12,
        charges=[_charge()],
    )


def _update(request_id: str, **facts: Any) -> credit.UpdateCustomerRequest:
    return credit.UpdateCustomerRequest(
        request_id=request_id,
        customer=Customer(customer_id=1, **facts),
        update_mask=FieldMask(paths=list(facts)),
    )


def _payment(request_id: str, loan_id: int) -> credit.RecordPaymentRequest:
    return credit.RecordPaymentRequest(
        request_id=request_id, customer_id=1, loan_id=loan_id, amount=money(0, 10_000_000)
    )


def _upload(ingestion_id: str, content: bytes = CUSTOMERS_CSV.encode()) -> list[Any]:
    header = ingestion.UploadSpreadsheetHeader(
        ingestion_id=ingestion_id,
        kind=ingestion_pb2.INGESTION_KIND_CUSTOMERS,
        filename="customers.csv",
    )
    return [
        ingestion.UploadSpreadsheetRequest(header=header),
        ingestion.UploadSpreadsheetRequest(chunk=content),
    ]


def _tomorrow() -> date:
    return Clock().moment().today + timedelta(days=1)


def _stream(ingestion_id: str, kind: Any, **rows: Any) -> list[Any]:
    header = ingestion.IngestRowsHeader(
        ingestion_id=ingestion_id,
        kind=kind,
        on_existing=ingestion_pb2.ON_EXISTING_UPDATE,
        validate_only=True,
    )
    return [
        ingestion.IngestRowsRequest(header=header),
        ingestion.IngestRowsRequest(batch=ingestion.RowBatch(offset=0, **rows)),
    ]


def _streams(_world: World, fresh: str) -> list[list[Any]]:
    loan = loan_row(3, 80)
    odd = loan_row(3, 80)
    odd.unreadable_cells.add(
        column="loan_amount", found="a lot", code=ingestion_pb2.ROW_ERROR_CODE_NOT_A_NUMBER
    )
    loans, customers = ingestion_pb2.INGESTION_KIND_LOANS, ingestion_pb2.INGESTION_KIND_CUSTOMERS
    return [
        _stream(fresh, customers, customers=ingestion.CustomerRows(rows=[customer_row(4)])),
        _stream(fresh, loans, loans=ingestion.LoanRows(rows=[loan])),
        _stream(fresh, loans, loans=ingestion.LoanRows(rows=[odd])),
    ]


_BASES: Mapping[str, Any] = {
    "RegisterCustomer": lambda _, fresh: [
        [
            credit.RegisterCustomerRequest(
                request_id=fresh,
                first_name="Asha",
                last_name="Rao",
                age=30,
                monthly_income=money(50_000),
                phone_number=f"+91{7_000_000_000 + int(fresh[:7] or '0', 16)}",
            )
        ]
    ],
    "GetCustomer": lambda _, __: [
        [credit.GetCustomerRequest(customer_id=1)],
        [credit.GetCustomerRequest(phone_number="9876500001")],
    ],
    "UpdateCustomer": lambda _, fresh: [
        [_update(fresh, age=41, phone_number=f"+91{7_100_000_000 + int(fresh[:7] or '0', 16)}")],
        [_update(fresh, monthly_income=money(60_000), approved_limit=money(500_000))],
    ],
    "ListCustomerChanges": lambda _, __: [
        [credit.ListCustomerChangesRequest(customer_id=1, page_size=2)]
    ],
    "ListCustomers": lambda world, _: [
        [credit.ListCustomersRequest(page_size=1, page_token=world.page_tokens[0])],
        [credit.ListCustomersRequest(query="a", page_size=3)],
    ],
    "GetCreditScore": lambda _, __: [[credit.GetCreditScoreRequest(customer_id=1)]],
    "CheckEligibility": lambda _, __: [
        [
            credit.CheckEligibilityRequest(
                customer_id=2,
                loan_amount=money(100_000, 500_000_000),
                interest_rate=Decimal(value="12.5"),
                tenure_months=24,
                charges=[_charge()],
            )
        ]
    ],
    "BatchCheckEligibility": lambda _, __: [
        [
            credit.BatchCheckEligibilityRequest(
                asks=[
                    credit.CheckEligibilityRequest(
                        customer_id=customer_id,
                        loan_amount=money(100_000),
                        interest_rate=Decimal(value="12.5"),
                        tenure_months=24,
                        charges=[_charge()],
                    )
                    for customer_id in (1, 2)
                ]
            )
        ]
    ],
    "CreateLoan": lambda _, fresh: [[_ask(fresh)]],
    "CreateLoanOffer": lambda _, fresh: [[_offer(fresh)]],
    "GetLoanOffer": lambda world, _: [[credit.GetLoanOfferRequest(offer_id=world.offer_ids[0])]],
    "ListLoanOffers": lambda world, _: [
        [credit.ListLoanOffersRequest(customer_id=1, page_size=1, page_token=world.page_tokens[3])],
        [credit.ListLoanOffersRequest(customer_id=1, states=[1, 4], page_size=3)],  # type: ignore[list-item]  # numbers are some
    ],
    "AcceptLoanOffer": lambda world, fresh: [
        [
            credit.AcceptLoanOfferRequest(
                request_id=fresh, offer_id=world.offer_ids[1], loan_amount=money(500)
            )
        ]
    ],
    "WithdrawLoanOffer": lambda world, fresh: [
        [
            credit.WithdrawLoanOfferRequest(
                request_id=fresh, offer_id=world.offer_ids[2], reason="changed plans"
            )
        ]
    ],
    "GetLoan": lambda _, __: [
        [credit.GetLoanRequest(loan_id=80, customer_id=1)],
        [credit.GetLoanRequest(loan_id=SHARED_LOAN)],
    ],
    "ListLoans": lambda world, _: [
        [credit.ListLoansRequest(customer_id=1, page_size=1, page_token=world.page_tokens[1])],
        [credit.ListLoansRequest(customer_id=1, state=2, page_size=3)],  # type: ignore[arg-type]  # a number is one
    ],
    "GetDelinquency": lambda _, __: [
        [credit.GetDelinquencyRequest(customer_id=1, as_of=day(date(2026, 1, 31)))]
    ],
    "ListDelinquentLoans": lambda _, __: [
        [credit.ListDelinquentLoansRequest(min_days_past_due=31, page_size=1)],
        [credit.ListDelinquentLoansRequest(asset_class=5)],  # type: ignore[arg-type]  # a number is one
    ],
    "GetKeyFactsStatement": lambda world, _: [
        [credit.GetKeyFactsStatementRequest(offer_id=world.offer_ids[0])],
        [credit.GetKeyFactsStatementRequest(customer_id=1, loan_id=world.loan_id)],
    ],
    "GetRepaymentSchedule": lambda world, _: [
        [credit.GetRepaymentScheduleRequest(customer_id=1, loan_id=world.loan_id)]
    ],
    "RecordPayment": lambda world, fresh: [
        [_payment(fresh, world.loan_id)],
        [
            credit.RecordPaymentRequest(
                request_id=fresh,
                customer_id=1,
                loan_id=world.loan_id,
                amount=money(0, 10_000_000),
                paid_on=day(date(2021, 1, 1)),
            )
        ],
        [
            credit.RecordPaymentRequest(
                request_id=fresh,
                customer_id=1,
                loan_id=world.loan_id,
                amount=money(0, 10_000_000),
                purpose=2,  # type: ignore[arg-type]  # a number is one
                prepayment_effect=2,  # type: ignore[arg-type]  # a number is one
                validate_only=True,
            )
        ],
    ],
    "ReversePayment": lambda world, fresh: [
        [
            credit.ReversePaymentRequest(
                request_id=fresh,
                payment_id=each,
                reason=1,  # type: ignore[arg-type]  # a number is one
            )
        ]
        for each in world.payment_ids
    ],
    "ListPayments": lambda world, _: [
        [
            credit.ListPaymentsRequest(
                customer_id=1,
                loan_id=world.loan_id,
                page_size=1,
                page_token=world.page_tokens[7],
            )
        ]
    ],
    "GetForeclosureQuote": lambda world, _: [
        [
            credit.GetForeclosureQuoteRequest(
                customer_id=1, loan_id=world.loan_id, paid_on=day(_tomorrow())
            )
        ]
    ],
    "GetDecision": lambda world, _: [[credit.GetDecisionRequest(decision_id=world.decision_id)]],
    "ListDecisions": lambda world, _: [
        [credit.ListDecisionsRequest(page_size=1, page_token=world.page_tokens[2])],
        [credit.ListDecisionsRequest(customer_id=1, page_size=3)],
    ],
    "ReviewDecision": lambda world, fresh: [
        [
            credit.ReviewDecisionRequest(
                request_id=fresh,
                decision_id=world.decision_id,
                verdict=2,  # type: ignore[arg-type]  # a number is one
                reason="No proof of income.",
            )
        ]
    ],
    "WatchCreditEvents": lambda _, __: [
        [credit.WatchCreditEventsRequest(customer_id=1, event_types=[1, 2])]  # type: ignore[list-item]  # numbers are some
    ],
    "IngestRows": _streams,
    "UploadSpreadsheet": lambda _, fresh: [_upload(fresh)],
    "GetIngestion": lambda world, _: [
        [ingestion.GetIngestionRequest(ingestion_id=world.ingestion_ids[0])]
    ],
    "ListIngestions": lambda world, _: [
        [ingestion.ListIngestionsRequest(page_size=1, page_token=world.page_tokens[4])]
    ],
    # Of the file: no stream and no test waits for it.
    "CancelIngestion": lambda world, fresh: [
        [ingestion.CancelIngestionRequest(request_id=fresh, ingestion_id=world.ingestion_ids[2])]
    ],
    "RevertIngestion": lambda world, fresh: [
        [ingestion.RevertIngestionRequest(request_id=fresh, ingestion_id=world.ingestion_ids[2])]
    ],
    "WatchIngestion": lambda world, _: [
        [ingestion.WatchIngestionRequest(ingestion_id=world.ingestion_ids[0])]
    ],
    "ListRowErrors": lambda world, _: [
        [
            ingestion.ListRowErrorsRequest(
                ingestion_id=world.ingestion_ids[1],
                page_size=1,
                page_token=world.page_tokens[5],
                outcomes=_LISTED,
            )
        ]
    ],
    "DownloadAnnotatedWorkbook": lambda world, _: [
        [
            ingestion.DownloadAnnotatedWorkbookRequest(
                ingestion_id=world.ingestion_ids[0], rejected_only=True
            )
        ]
    ],
    "CreateScorecard": lambda _, fresh: [
        [
            scorecards.CreateScorecardRequest(
                request_id=fresh,
                document=json.dumps({**STANDARD_DOCUMENT, "version": f"fuzz-{fresh}"}),
                validate_only=validate_only,
            )
        ]
        for validate_only in (False, True)
    ],
    "GetScorecard": lambda _, __: [[scorecards.GetScorecardRequest(version=TRIED)]],
    "ListScorecards": lambda world, _: [
        [scorecards.ListScorecardsRequest(page_size=1, page_token=world.page_tokens[6])]
    ],
    "CompareScorecards": lambda _, __: [
        [scorecards.CompareScorecardsRequest(before_version=TRIED, after_version=UNUSED)],
        [scorecards.CompareScorecardsRequest(after_document=json.dumps(STANDARD_DOCUMENT))],
    ],
    "ActivateScorecard": lambda _, fresh: [
        [
            scorecards.ActivateScorecardRequest(
                request_id=fresh,
                version=STANDARD_DOCUMENT["version"],
                effective_on=day(_tomorrow()),
            )
        ]
    ],
    "SetTrialScorecard": lambda _, fresh: [
        [scorecards.SetTrialScorecardRequest(request_id=fresh, version=TRIED)],
        [scorecards.SetTrialScorecardRequest(request_id=fresh, end=True)],
    ],
    "GetTrialResults": lambda _, __: [[scorecards.GetTrialResultsRequest(version=TRIED)]],
    "BacktestScorecard": lambda _, __: [
        [
            scorecards.BacktestScorecardRequest(
                version=TRIED,
                portfolio_ask=scorecards.PortfolioAsk(
                    loan_amount=money(100_000, 500_000_000),
                    interest_rate=Decimal(value="12.5"),
                    tenure_months=24,
                ),
            )
        ],
        [scorecards.BacktestScorecardRequest(document=json.dumps(STANDARD_DOCUMENT))],
    ],
    "ListParkedTasks": lambda _, __: [
        [operations.ListParkedTasksRequest(actor="ingest_upload", task_id=1, page_size=1)]
    ],
    "RetryParkedTask": lambda _, fresh: [
        [operations.RetryParkedTaskRequest(request_id=fresh, task_id=1)]
    ],
    "DiscardParkedTask": lambda _, fresh: [
        [operations.DiscardParkedTaskRequest(request_id=fresh, task_id=1)]
    ],
    "RetireScorecard": lambda _, fresh: [
        [scorecards.RetireScorecardRequest(request_id=fresh, version=UNUSED)]
    ],
}

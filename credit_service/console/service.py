"""The service's methods with one user's token. Each call is recorded for display."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from credit_service.console.calls import Call, full_method, request_json
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2, ingestion_pb2, loan_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1 import operations_service_pb2 as operations_pb
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.customer_pb2 import Customer
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service.v1.key_facts_pb2 import KeyFacts
from credit_service.v1.offer_pb2 import LoanOffer
from credit_service.v1.operations_service_pb2_grpc import OperationsServiceStub
from credit_service.v1.scorecard_pb2 import Scorecard
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from credit_service_client.errors import ServiceError, decoded

CALL_TIMEOUT_SECONDS = 10.0
STREAM_TIMEOUT_SECONDS = 5.0
UPLOAD_TIMEOUT_SECONDS = 120.0
CHUNK_BYTES = 1024 * 1024
MAX_KEPT_CALLS = 40
MAX_HISTORY_EVENTS = 2_000
_STREAM_TRIES = 6
_STREAM_PAUSE_SECONDS = 0.3

_TRequest = TypeVar("_TRequest", bound=Message)
_TResponse = TypeVar("_TResponse")

ENDED_STATES = frozenset(
    {
        ingestion_pb2.INGESTION_STATE_SUCCEEDED,
        ingestion_pb2.INGESTION_STATE_FAILED,
        ingestion_pb2.INGESTION_STATE_CANCELLED,
        ingestion_pb2.INGESTION_STATE_REVERTED,
    }
)
"""Final states of an ingestion."""


class Service:
    """The service's methods for one page view. Thread-safe; records its calls in order.

    Every method raises ServiceError. No call waits for a missing server: the channel's retries take
    one or two seconds, and then the page reports it.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        token: str,
        before_call: Callable[[Sequence[Message]], None] = lambda _requests: None,
    ) -> None:
        """`token` is the user's bearer token, or ''. `before_call` gets the first requests of each
        call before it is made, and prevents it by an exception."""
        self._before_call = before_call
        self._credit = CreditServiceStub(channel)
        self._ingestion = IngestionServiceStub(channel)
        self._scorecards = ScorecardServiceStub(channel)
        self._operations = OperationsServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self.channel = channel
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        """Metadata of every call."""
        self._lock = threading.Lock()
        self.calls: list[Call] = []
        """The calls so far, at most MAX_KEPT_CALLS."""

    # One customer.

    def register(self, request: pb.RegisterCustomerRequest) -> Customer:
        """RegisterCustomer."""
        return self._unary(self._credit.RegisterCustomer, request).customer

    def customer(self, customer_id: int, as_of: Any = None) -> Customer:
        """GetCustomer, today or as of a google.type.Date."""
        request = pb.GetCustomerRequest(customer_id=customer_id, as_of=as_of)
        return self._unary(self._credit.GetCustomer, request).customer

    def update_customer(self, request: pb.UpdateCustomerRequest) -> Customer:
        """UpdateCustomer."""
        return self._unary(self._credit.UpdateCustomer, request).customer

    def customer_changes(
        self, request: pb.ListCustomerChangesRequest
    ) -> pb.ListCustomerChangesResponse:
        """ListCustomerChanges."""
        return self._unary(self._credit.ListCustomerChanges, request)

    def customers(self, request: pb.ListCustomersRequest) -> pb.ListCustomersResponse:
        """ListCustomers."""
        return self._unary(self._credit.ListCustomers, request)

    def score(self, customer_id: int, as_of: Any = None) -> Any:
        """GetCreditScore, for today or as of a google.type.Date."""
        request = pb.GetCreditScoreRequest(customer_id=customer_id, as_of=as_of)
        return self._unary(self._credit.GetCreditScore, request).credit_score

    # Lending.

    def check(self, request: pb.CheckEligibilityRequest) -> pb.CheckEligibilityResponse:
        """CheckEligibility."""
        return self._unary(self._credit.CheckEligibility, request)

    def create_loan(self, request: pb.CreateLoanRequest) -> pb.CreateLoanResponse:
        """CreateLoan."""
        return self._unary(self._credit.CreateLoan, request)

    def loan(self, loan_id: int, customer_id: int | None = None) -> pb.GetLoanResponse:
        """GetLoan."""
        request = pb.GetLoanRequest(loan_id=loan_id, customer_id=customer_id)
        return self._unary(self._credit.GetLoan, request)

    def loans(self, request: pb.ListLoansRequest) -> pb.ListLoansResponse:
        """ListLoans."""
        return self._unary(self._credit.ListLoans, request)

    def schedule(self, customer_id: int, loan_id: int) -> pb.GetRepaymentScheduleResponse:
        """GetRepaymentSchedule."""
        request = pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan_id)
        return self._unary(self._credit.GetRepaymentSchedule, request)

    def key_facts(self, request: pb.GetKeyFactsStatementRequest) -> KeyFacts:
        """GetKeyFactsStatement."""
        return self._unary(self._credit.GetKeyFactsStatement, request).key_facts

    def pay(self, request: pb.RecordPaymentRequest) -> pb.RecordPaymentResponse:
        """RecordPayment."""
        return self._unary(self._credit.RecordPayment, request)

    def payments(self, request: pb.ListPaymentsRequest) -> pb.ListPaymentsResponse:
        """ListPayments."""
        return self._unary(self._credit.ListPayments, request)

    def all_payments(self, customer_id: int, loan_id: int) -> Iterator[loan_pb2.Payment]:
        """ListPayments, page by page."""
        request = pb.ListPaymentsRequest(customer_id=customer_id, loan_id=loan_id, page_size=1_000)
        while True:
            response = self.payments(request)
            yield from response.payments
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def reverse_payment(self, request: pb.ReversePaymentRequest) -> pb.ReversePaymentResponse:
        """ReversePayment."""
        return self._unary(self._credit.ReversePayment, request)

    def foreclosure_quote(
        self, request: pb.GetForeclosureQuoteRequest
    ) -> pb.GetForeclosureQuoteResponse:
        """GetForeclosureQuote."""
        return self._unary(self._credit.GetForeclosureQuote, request)

    def decision(self, decision_id: int) -> Any:
        """GetDecision."""
        request = pb.GetDecisionRequest(decision_id=decision_id)
        return self._unary(self._credit.GetDecision, request).decision

    def decisions(self, request: pb.ListDecisionsRequest) -> pb.ListDecisionsResponse:
        """ListDecisions."""
        return self._unary(self._credit.ListDecisions, request)

    def review(self, request: pb.ReviewDecisionRequest) -> pb.ReviewDecisionResponse:
        """ReviewDecision."""
        return self._unary(self._credit.ReviewDecision, request)

    def overdue_loans(
        self, request: pb.ListDelinquentLoansRequest
    ) -> pb.ListDelinquentLoansResponse:
        """ListDelinquentLoans."""
        return self._unary(self._credit.ListDelinquentLoans, request)

    # Ingestion.

    def ingestions(self, request: ingestion_pb.ListIngestionsRequest) -> Any:
        """ListIngestions."""
        return self._unary(self._ingestion.ListIngestions, request)

    def ingestion(self, ingestion_id: str) -> ingestion_pb2.Ingestion:
        """GetIngestion."""
        request = ingestion_pb.GetIngestionRequest(ingestion_id=ingestion_id)
        return self._unary(self._ingestion.GetIngestion, request).ingestion

    def cancel_ingestion(
        self, request: ingestion_pb.CancelIngestionRequest
    ) -> ingestion_pb2.Ingestion:
        """CancelIngestion."""
        return self._unary(self._ingestion.CancelIngestion, request).ingestion

    def revert_ingestion(
        self, request: ingestion_pb.RevertIngestionRequest
    ) -> ingestion_pb2.Ingestion:
        """RevertIngestion."""
        return self._unary(self._ingestion.RevertIngestion, request).ingestion

    def row_errors(
        self, request: ingestion_pb.ListRowErrorsRequest
    ) -> ingestion_pb.ListRowErrorsResponse:
        """ListRowErrors."""
        return self._unary(self._ingestion.ListRowErrors, request)

    def upload(
        self, header: ingestion_pb.UploadSpreadsheetHeader, chunks: Iterator[bytes]
    ) -> ingestion_pb2.Ingestion:
        """UploadSpreadsheet of a file in chunks of at most CHUNK_BYTES."""
        first = ingestion_pb.UploadSpreadsheetRequest(header=header)

        def requests() -> Iterator[ingestion_pb.UploadSpreadsheetRequest]:
            yield first
            for chunk in chunks:
                yield ingestion_pb.UploadSpreadsheetRequest(chunk=chunk)

        with self.recorded(first):
            return self._ingestion.UploadSpreadsheet(
                requests(),
                timeout=UPLOAD_TIMEOUT_SECONDS,
                metadata=self.metadata,
                wait_for_ready=False,
            ).ingestion

    def ingest_rows(
        self, header: ingestion_pb.IngestRowsHeader, batch: ingestion_pb.RowBatch
    ) -> ingestion_pb.IngestRowsResponse:
        """IngestRows of one batch."""
        requests = [
            ingestion_pb.IngestRowsRequest(header=header),
            ingestion_pb.IngestRowsRequest(batch=batch),
        ]
        with self.recorded(*requests):
            return self._ingestion.IngestRows(
                iter(requests),
                timeout=CALL_TIMEOUT_SECONDS,
                metadata=self.metadata,
                wait_for_ready=False,
            )

    def annotated_workbook(
        self, ingestion_id: str, *, rejected_only: bool
    ) -> tuple[ingestion_pb.AnnotatedWorkbookHeader, Iterator[bytes]]:
        """DownloadAnnotatedWorkbook: the header, and the bytes as they arrive."""
        request = ingestion_pb.DownloadAnnotatedWorkbookRequest(
            ingestion_id=ingestion_id, rejected_only=rejected_only
        )
        stream: Any = self._ingestion.DownloadAnnotatedWorkbook(
            request, timeout=UPLOAD_TIMEOUT_SECONDS, metadata=self.metadata, wait_for_ready=False
        )
        with self.recorded(request):
            first = next(stream, None)
        if first is None:
            raise ServiceError(grpc.StatusCode.INTERNAL, "The service sent no workbook.")

        def chunks() -> Iterator[bytes]:
            try:
                yield from (each.chunk for each in stream)
            finally:
                stream.cancel()

        return first.header, chunks()

    # Offers.

    def create_offer(self, request: pb.CreateLoanOfferRequest) -> pb.CreateLoanOfferResponse:
        """CreateLoanOffer."""
        return self._unary(self._credit.CreateLoanOffer, request)

    def offer(self, offer_id: int) -> LoanOffer:
        """GetLoanOffer."""
        request = pb.GetLoanOfferRequest(offer_id=offer_id)
        return self._unary(self._credit.GetLoanOffer, request).offer

    def offers(self, request: pb.ListLoanOffersRequest) -> pb.ListLoanOffersResponse:
        """ListLoanOffers."""
        return self._unary(self._credit.ListLoanOffers, request)

    def accept_offer(self, request: pb.AcceptLoanOfferRequest) -> pb.AcceptLoanOfferResponse:
        """AcceptLoanOffer."""
        return self._unary(self._credit.AcceptLoanOffer, request)

    def withdraw_offer(self, request: pb.WithdrawLoanOfferRequest) -> None:
        """WithdrawLoanOffer."""
        self._unary(self._credit.WithdrawLoanOffer, request)

    # Scorecards.

    def scorecards(self, request: scorecard_pb.ListScorecardsRequest) -> Any:
        """ListScorecards."""
        return self._unary(self._scorecards.ListScorecards, request)

    def scorecard(self, version: str) -> scorecard_pb.GetScorecardResponse:
        """GetScorecard; of the active one for an empty version."""
        request = scorecard_pb.GetScorecardRequest(version=version)
        return self._unary(self._scorecards.GetScorecard, request)

    def compare(
        self, request: scorecard_pb.CompareScorecardsRequest
    ) -> scorecard_pb.CompareScorecardsResponse:
        """CompareScorecards."""
        return self._unary(self._scorecards.CompareScorecards, request)

    def create_scorecard(self, request: scorecard_pb.CreateScorecardRequest) -> Scorecard:
        """CreateScorecard."""
        return self._unary(self._scorecards.CreateScorecard, request).scorecard

    def activate(self, request: scorecard_pb.ActivateScorecardRequest) -> Scorecard:
        """ActivateScorecard."""
        return self._unary(self._scorecards.ActivateScorecard, request).scorecard

    def set_trial(self, request: scorecard_pb.SetTrialScorecardRequest) -> None:
        """SetTrialScorecard."""
        self._unary(self._scorecards.SetTrialScorecard, request)

    def retire(self, request: scorecard_pb.RetireScorecardRequest) -> None:
        """RetireScorecard."""
        self._unary(self._scorecards.RetireScorecard, request)

    def trial_results(self, version: str) -> scorecard_pb.GetTrialResultsResponse:
        """GetTrialResults; of the present trial for an empty version."""
        request = scorecard_pb.GetTrialResultsRequest(version=version)
        return self._unary(self._scorecards.GetTrialResults, request)

    def backtest(
        self,
        request: scorecard_pb.BacktestScorecardRequest,
        on_opened: Callable[[Callable[[], object]], None],
    ) -> Iterator[scorecard_pb.BacktestScorecardResponse]:
        """BacktestScorecard, until its result. Calls `on_opened` with a function that cancels it.

        The service limits its duration.
        """
        stream: Any = self._scorecards.BacktestScorecard(
            request, metadata=self.metadata, wait_for_ready=False
        )
        on_opened(stream.cancel)
        with self.recorded(request):
            yield from stream

    # Operations.

    def parked_tasks(
        self, request: operations_pb.ListParkedTasksRequest
    ) -> operations_pb.ListParkedTasksResponse:
        """ListParkedTasks."""
        return self._unary(self._operations.ListParkedTasks, request)

    def retry_parked_task(self, request: operations_pb.RetryParkedTaskRequest) -> None:
        """RetryParkedTask."""
        self._unary(self._operations.RetryParkedTask, request)

    def discard_parked_task(self, request: operations_pb.DiscardParkedTaskRequest) -> None:
        """DiscardParkedTask."""
        self._unary(self._operations.DiscardParkedTask, request)

    # Events and health.

    def history(
        self, customer_id: int, *types: event_pb2.CreditEventType.ValueType
    ) -> list[event_pb2.CreditEvent]:
        """WatchCreditEvents: one customer's past events, the last MAX_HISTORY_EVENTS of them."""
        request = pb.WatchCreditEventsRequest(customer_id=customer_id, event_types=types)
        found: list[event_pb2.CreditEvent] = []
        with self.recorded(request), closing(self.watch(request, STREAM_TIMEOUT_SECONDS)) as stream:
            for response in stream:
                if response.WhichOneof("message") == "heartbeat":
                    break
                found.append(response.event)
                if len(found) > MAX_HISTORY_EVENTS:
                    del found[0]
        return found

    def events(
        self, request: pb.WatchCreditEventsRequest, count: int
    ) -> tuple[list[event_pb2.CreditEvent], str]:
        """WatchCreditEvents: the next `count` past events, and the id of the last one, or '' if
        there are no more."""
        found: list[event_pb2.CreditEvent] = []
        with self.recorded(request), closing(self.watch(request, STREAM_TIMEOUT_SECONDS)) as stream:
            for response in stream:
                if response.WhichOneof("message") == "heartbeat":
                    return found, ""
                if len(found) == count:
                    break
                found.append(response.event)
        return found, str(found[-1].event_id) if found else ""

    def watch(
        self,
        request: pb.WatchCreditEventsRequest,
        timeout_seconds: float | None,
        on_opened: Callable[[Callable[[], object]], None] = lambda _cancel: None,
    ) -> Generator[pb.WatchCreditEventsResponse, None, None]:
        """WatchCreditEvents, until the generator is closed. Calls `on_opened` with a function that
        cancels the stream.

        Retries for one or two seconds if the server has too many open streams, because it notices
        closed streams with a delay.
        """
        for tries_left in reversed(range(_STREAM_TRIES)):
            stream: Any = self._credit.WatchCreditEvents(
                request, timeout=timeout_seconds, metadata=self.metadata, wait_for_ready=False
            )
            on_opened(stream.cancel)
            try:
                yield from stream
            except grpc.RpcError as error:
                failure = decoded(error)
                # The server rejects the whole stream, so no event was yielded before the retry.
                if failure.reason != "TOO_MANY_STREAMS" or not tries_left:
                    raise failure from None
            else:
                return
            finally:
                stream.cancel()
            time.sleep(_STREAM_PAUSE_SECONDS)

    def health(self, service: str = "") -> str:
        """Return the health of one service, or of all: SERVING, NOT_SERVING or UNREACHABLE;
        NOT_SUPPORTED by an older server."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = self._health.Check(
                request, timeout=2.0, metadata=self.metadata, wait_for_ready=False
            )
        except grpc.RpcError as error:
            found = decoded(error)
            if found.code is grpc.StatusCode.NOT_FOUND:
                return "NOT_SUPPORTED"
            return "UNREACHABLE" if found.unavailable else found.code.name
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return name

    def _unary(
        self, method: "grpc.UnaryUnaryMultiCallable[_TRequest, _TResponse]", request: _TRequest
    ) -> _TResponse:
        with self.recorded(request):
            return method(
                request,
                timeout=CALL_TIMEOUT_SECONDS,
                metadata=self.metadata,
                wait_for_ready=False,
            )

    @contextmanager
    def recorded(self, *requests: Message) -> Iterator[None]:
        """Record a call with its status and duration, after `before_call` has allowed it."""
        self._before_call(requests)
        started = time.monotonic()
        status = grpc.StatusCode.OK.name
        try:
            yield
        except grpc.RpcError as error:
            failure = decoded(error)
            status = failure.code.name
            raise failure from None
        except ServiceError as failure:
            status = failure.code.name
            raise
        finally:
            spent = round((time.monotonic() - started) * 1000)
            text = " ".join(request_json(each) for each in requests)
            with self._lock:
                if len(self.calls) < MAX_KEPT_CALLS:
                    self.calls.append(Call(full_method(requests[0]), text, status, spent))

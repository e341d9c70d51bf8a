"""One object for all calls of the service."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar
from uuid import UUID, uuid4

import grpc
from google.protobuf.message import Message

from credit_service.v1 import event_pb2, ingestion_service_pb2
from credit_service.v1.credit_service_pb2 import WatchCreditEventsRequest
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_pb2 import CustomerRow, LoanRow
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service.v1.operations_service_pb2_grpc import OperationsServiceStub
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from credit_service_client.channel import (
    TokenFile,
    TokenSource,
    is_local,
    open_channel,
    require_ready,
)
from credit_service_client.ingestion import IngestionClient, Listener, Request
from credit_service_client.retrying import Patience, RetryingMethod
from credit_service_client.sources import Rows, RowSource
from credit_service_client.tls import ClientTls
from credit_service_client.watching import watch

_Stub = TypeVar("_Stub")
_Request = TypeVar("_Request", bound=Message)
_Page_co = TypeVar("_Page_co", bound="_Page", covariant=True)


class _Page(Protocol):
    """A response of a list."""

    @property
    def next_page_token(self) -> str: ...


class CreditClient:
    """Calls of the credit service over one connection. Thread-safe.

    `credit`, `scorecards`, `ingestions` and `operations` have the methods of the contract, with its
    messages and their types. A call returns its response or raises `ServiceError`; it is retried,
    and a write gets a request id, as `RetryingMethod` says. Methods with streams are those of gRPC.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ClientTls | None = None,
        token: TokenSource | Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Connect to `address`, host:port, with the first call.

        `token` is a bearer token, a file with one that is read for every call, or a function that
        returns one. Raises ValueError for a token without TLS, unless the service is on this
        machine; TlsFileError for an unusable file of certificates or keys.
        """
        if token is not None and tls is None and not is_local(address):
            raise ValueError(f"a token needs TLS: anyone between here and {address} could read it")
        source = TokenFile(token) if isinstance(token, Path) else token
        self.patience = patience or Patience()
        self.channel = open_channel(address, token=source, tls=tls)
        self._address, self._tls = address, tls
        self._renews_token = callable(source)
        self.credit = self._retrying(CreditServiceStub(self.channel))
        self.scorecards = self._retrying(ScorecardServiceStub(self.channel))
        self.ingestions = self._retrying(IngestionServiceStub(self.channel))
        self.operations = self._retrying(OperationsServiceStub(self.channel))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls that run end with CANCELLED."""
        self.channel.close()

    def require_ready(self, timeout_seconds: float = 5.0) -> None:
        """Wait until the service responds. Raises ServiceError, which says why it does not."""
        require_ready(self.channel, self._address, timeout_seconds, self._tls)

    def pages(
        self, method: Callable[[_Request], _Page_co], request: _Request
    ) -> Iterator[_Page_co]:
        """Yield the pages of a list, which is read as far as the caller iterates:

        for page in client.pages(client.credit.ListLoans, ListLoansRequest(customer_id=7)):
            for loan in page.loans: ...
        """
        following = type(request)()
        following.CopyFrom(request)
        while True:
            page = method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token  # type: ignore[attr-defined]

    def watch(
        self,
        after_event_id: int = 0,
        *,
        customer_id: int | None = None,
        event_types: Sequence[event_pb2.CreditEventType.ValueType] = (),
    ) -> Iterator[event_pb2.CreditEvent]:
        """Yield the events after `after_event_id` without end, every one once and in order.

        Lost connections and restarts are resumed. Store the id of each event together with its
        effect, and start after the last stored one. Raises ServiceError: EVENTS_EXPIRED names the
        oldest event that is kept.
        """
        request = WatchCreditEventsRequest(
            after_event_id=after_event_id, customer_id=customer_id, event_types=event_types
        )
        responses = watch(self.credit, request, self.patience, renews_token=self._renews_token)
        for response in responses:
            if response.HasField("event"):
                yield response.event

    def ingest(
        self,
        rows: RowSource | Sequence[CustomerRow] | Sequence[LoanRow],
        *,
        ingestion_id: UUID | None = None,
        update_existing: bool = False,
        validate_only: bool = False,
        listener: Listener | None = None,
    ) -> ingestion_service_pb2.IngestRowsResponse:
        """Send rows, each stored exactly once; return the ended ingestion and its first errors.

        A lost connection is resumed after the committed rows. To go on after a crash of this
        program, choose `ingestion_id` and send the same rows again. `listener` gets the progress.

        Raises:
            ServiceError: the service rejects the ingestion, or patience ends.
            SourceError: the rows cannot be read.
        """
        source = Rows(rows) if isinstance(rows, Sequence) else rows
        request = Request(ingestion_id or uuid4(), update_existing, validate_only)
        return IngestionClient(self.channel, self.patience).stream(source, request, listener)

    def _retrying(self, stub: _Stub) -> _Stub:
        for name, method in vars(stub).items():
            if isinstance(method, grpc.UnaryUnaryMultiCallable):
                setattr(stub, name, RetryingMethod(method, self.patience))
        return stub

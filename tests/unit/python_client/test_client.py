"""CreditClient with a server that fails, is busy, or loses connections."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2, loan_pb2
from credit_service.v1.credit_service_pb2_grpc import add_CreditServiceServicer_to_server
from credit_service.v1.event_pb2 import CreditEvent
from credit_service.v1.ingestion_service_pb2_grpc import add_IngestionServiceServicer_to_server
from credit_service_client import ClientTls, CreditClient, Patience, ServiceError, TokenFile
from credit_service_client.channel import TokenSource, open_channel, require_ready
from credit_service_client.retrying import with_request_id

PATIENCE = Patience(
    give_up_seconds=30,
    first_pause_seconds=0.01,
    longest_pause_seconds=0.02,
    call_timeout_seconds=10,
)
Handler = Callable[[Any, grpc.ServicerContext], Any]


class _Servicer:
    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def __getattr__(self, method: str) -> Handler:
        if method in self._handlers:
            return self._handlers[method]
        return lambda _request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, method)


@contextmanager
def serving(**handlers: Handler) -> Iterator[str]:
    """The address of a server with these methods."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    servicer: Any = _Servicer(handlers)
    add_CreditServiceServicer_to_server(servicer, server)
    add_IngestionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def client(patience: Patience = PATIENCE, **handlers: Handler) -> Iterator[CreditClient]:
    with serving(**handlers) as address, CreditClient(address, patience=patience) as opened:
        yield opened


class Failing:
    """CreateLoan that fails at first."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self._code = code
        self._left = times
        self.request_ids: list[str] = []

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.request_ids.append(request.request_id)
        if self._left:
            self._left -= 1
            context.abort(self._code, "not now")
        return pb.CreateLoanResponse(message="booked")


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_a_write_is_repeated_with_one_request_id(code: grpc.StatusCode) -> None:
    failing = Failing(code, 3)
    request = pb.CreateLoanRequest(customer_id=7)
    with client(CreateLoan=failing) as opened:
        assert opened.credit.CreateLoan(request).message == "booked"
    assert len(failing.request_ids) == 4
    (request_id,) = set(failing.request_ids)
    assert UUID(request_id).version == 4
    assert not request.request_id, "the caller's request was changed"


def test_a_request_id_of_the_caller_is_kept() -> None:
    failing = Failing(grpc.StatusCode.ABORTED, 1)
    with client(CreateLoan=failing) as opened:
        opened.credit.CreateLoan(pb.CreateLoanRequest(request_id="chosen"))
    assert failing.request_ids == ["chosen", "chosen"]


def test_a_read_has_no_request_id() -> None:
    request = pb.GetLoanRequest(loan_id=1)
    assert with_request_id(request) is request


def test_a_rejection_is_not_repeated() -> None:
    failing = Failing(grpc.StatusCode.FAILED_PRECONDITION, 1)
    with client(CreateLoan=failing) as opened, pytest.raises(ServiceError) as raised:
        opened.credit.CreateLoan(pb.CreateLoanRequest())
    assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert len(failing.request_ids) == 1


def test_a_call_ends_within_its_timeout() -> None:
    failing = Failing(grpc.StatusCode.ABORTED, 1_000_000)
    with client(CreateLoan=failing) as opened, pytest.raises(ServiceError) as raised:
        opened.credit.CreateLoan(pb.CreateLoanRequest(), timeout=0.5)
    assert raised.value.code in {grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert len(failing.request_ids) > 1


def test_one_attempt_that_hangs_is_repeated() -> None:
    first = threading.Event()

    def hangs_once(_request: Any, context: grpc.ServicerContext) -> Any:
        if not first.is_set():
            first.set()
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait(30)
        return pb.GetLoanResponse()

    patience = Patience(give_up_seconds=60, call_timeout_seconds=0.3, first_pause_seconds=0.01)
    with client(patience, GetLoan=hangs_once) as opened:
        assert opened.credit.GetLoan(pb.GetLoanRequest()) == pb.GetLoanResponse()


def test_pages_follow_each_other() -> None:
    asked: list[tuple[int, str]] = []

    def lists(request: Any, _context: grpc.ServicerContext) -> Any:
        asked.append((request.customer_id, request.page_token))
        number = int(request.page_token or "1")
        following = str(number + 1) if number < 3 else ""
        return pb.ListLoansResponse(
            loans=[loan_pb2.Loan(loan_id=number)], next_page_token=following
        )

    request = pb.ListLoansRequest(customer_id=7)
    with client(ListLoans=lists) as opened:
        pages = opened.pages(opened.credit.ListLoans, request)
        assert [loan.loan_id for page in pages for loan in page.loans] == [1, 2, 3]
    assert asked == [(7, ""), (7, "2"), (7, "3")]
    assert not request.page_token


def test_a_watch_resumes_after_the_last_event() -> None:
    starts: list[int] = []

    def watches(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        starts.append(request.after_event_id)
        first = request.after_event_id + 1
        if len(starts) == 2:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        yield pb.WatchCreditEventsResponse(event=CreditEvent(event_id=first))
        # Other events up to this one do not match the filter.
        yield pb.WatchCreditEventsResponse(heartbeat=pb.WatchHeartbeat(last_event_id=first + 9))
        if len(starts) == 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    with (
        serving(WatchCreditEvents=watches) as address,
        CreditClient(address, token=lambda: "new", patience=PATIENCE) as opened,
    ):
        events = list(islice(opened.watch(4), 3))
    assert [event.event_id for event in events] == [5, 15, 25]
    assert starts[:4] == [4, 14, 14, 24]


@pytest.mark.parametrize("token", ["always the same", lambda: "not accepted"])
def test_a_rejected_token_ends_a_watch(token: TokenSource) -> None:
    calls: list[int] = []

    def refuses(_request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        calls.append(1)
        if isinstance(token, str):
            # It has expired since.
            yield pb.WatchCreditEventsResponse(event=CreditEvent(event_id=1))
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    with (
        serving(WatchCreditEvents=refuses) as address,
        CreditClient(address, token=token, patience=PATIENCE) as opened,
        pytest.raises(ServiceError) as raised,
    ):
        list(opened.watch())
    assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert len(calls) == 1


def test_a_watch_gives_up_without_a_server() -> None:
    patience = Patience(give_up_seconds=0.3, first_pause_seconds=0.01, longest_pause_seconds=0.05)
    with (
        CreditClient("127.0.0.1:1", patience=patience) as opened,
        pytest.raises(ServiceError) as raised,
    ):
        next(opened.watch())
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE


def test_rows_are_resumed_after_the_committed_ones() -> None:
    stored: list[int] = []

    def ingests(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        header = next(requests).header
        assert header.kind == ingestion_pb2.INGESTION_KIND_LOANS
        for request in requests:
            assert request.batch.offset == len(stored)
            stored.extend(row.loan_id for row in request.batch.loans.rows)
            if len(stored) == 2_000:
                context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        return ingestion_service_pb2.IngestRowsResponse(
            ingestion=ingestion_pb2.Ingestion(rows_read=len(stored))
        )

    def gets(_request: Any, _context: grpc.ServicerContext) -> Any:
        return ingestion_service_pb2.GetIngestionResponse(
            ingestion=ingestion_pb2.Ingestion(committed_offset=len(stored))
        )

    rows = [ingestion_pb2.LoanRow(loan_id=number) for number in range(3_500)]
    with client(IngestRows=ingests, GetIngestion=gets) as opened:
        assert opened.ingest(rows).ingestion.rows_read == 3_500
    assert stored == list(range(3_500))


@pytest.mark.parametrize("address", ["credit.example:443", "10.0.0.7:50051", "dns:///credit"])
def test_a_token_without_tls_stays_on_this_machine(address: str) -> None:
    with pytest.raises(ValueError, match="a token needs TLS"):
        CreditClient(address, token="secret")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "localhost:50051", "[::1]:50051", "unix:/run/credit.sock"]
)
def test_a_token_is_allowed_on_this_machine(address: str) -> None:
    CreditClient(address, token="secret").close()


def test_a_token_file_is_read_for_every_call(tmp_path: Path) -> None:
    seen: list[Any] = []

    def gets(_request: Any, context: grpc.ServicerContext) -> Any:
        seen.append(dict(context.invocation_metadata())["authorization"])
        return pb.GetLoanResponse()

    file = tmp_path / "token"
    file.write_text("first\n")
    with serving(GetLoan=gets) as address, CreditClient(address, token=file) as opened:
        opened.credit.GetLoan(pb.GetLoanRequest())
        file.write_text("second\n")
        opened.credit.GetLoan(pb.GetLoanRequest())
        file.unlink()
        opened.credit.GetLoan(pb.GetLoanRequest())
    assert seen == ["Bearer first", "Bearer second", "Bearer second"]


def test_a_token_file_must_exist_at_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TokenFile(tmp_path / "none")()


def test_without_a_service_the_error_says_so(tmp_path: Path) -> None:
    with (
        CreditClient("127.0.0.1:1") as opened,
        pytest.raises(ServiceError, match=r"127\.0\.0\.1:1"),
    ):
        opened.require_ready(0.2)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ValueError, match="not a PEM file"):
        CreditClient("127.0.0.1:1", tls=ClientTls(tmp_path / "ca.pem"))


def test_a_channel_that_is_ready_closes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's watch of a connection delays the close by up to 0.2 s, which every command waits."""
    with serving() as address, open_channel(address) as channel:
        watches: list[Any] = []
        monkeypatch.setattr(channel, "subscribe", lambda *given, **_options: watches.append(given))
        require_ready(channel, address, 5.0)
        assert not watches


def test_a_server_that_answers_with_an_error_is_there() -> None:
    """The call that follows reports what is wrong, with the details of the server."""

    class Rejecting(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # no types at run time
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                lambda _request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            )

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Rejecting()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open_channel(f"127.0.0.1:{port}") as channel:
        require_ready(channel, f"127.0.0.1:{port}", 5.0)
    server.stop(None).wait()


def test_an_error_says_everything_once() -> None:
    error = ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "age must be 18 to 120 years, found 3.",
        "INVALID_FIELD",
        violations=[("age", "age must be 18 to 120 years, found 3."), ("phone", "is missing.")],
    )
    assert error.lines() == [
        "INVALID_ARGUMENT (INVALID_FIELD): age must be 18 to 120 years, found 3.",
        "  phone: is missing.",
    ]
    denied = ServiceError(grpc.StatusCode.PERMISSION_DENIED, "Missing scope.", "PERMISSION_DENIED")
    assert denied.lines() == ["PERMISSION_DENIED: Missing scope."]

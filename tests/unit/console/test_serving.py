"""Serving the console, also with a service that fails or rejects calls."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from credit_service.client.channel import open_channel
from credit_service.console.calls import SERVICES
from credit_service.console.security import SESSION_COOKIE
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.event_pb2 import CreditEvent
from credit_service_client.errors import ServiceError
from tests.consoles import Visitor, console

FORM = "application/x-www-form-urlencoded"
INGESTION_ID = "5f0c5d6e-4f1c-4a52-9a3f-0c5b7a1e2d3f"
CHUNKS = [b"PK" + bytes(1000), b"x" * 70_000, b"end"]


Stream = Callable[[Any, grpc.ServicerContext], Iterator[Any]]


def downloads(_request: Any, _context: grpc.ServicerContext) -> Iterator[Any]:
    """DownloadAnnotatedWorkbook as in the contract."""
    header = ingestion_pb.AnnotatedWorkbookHeader(
        filename='loans é "x"\r\n.xlsx', size_bytes=sum(map(len, CHUNKS))
    )
    yield ingestion_pb.DownloadAnnotatedWorkbookResponse(header=header)
    for chunk in CHUNKS:
        yield ingestion_pb.DownloadAnnotatedWorkbookResponse(chunk=chunk)


def full_at_first(refusals: int) -> Stream:
    """WatchCreditEvents of a server with too many streams."""
    left = [refusals]

    def watch(_request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if left[0]:
            left[0] -= 1
            _refuse_for_streams(context)
        yield pb.WatchCreditEventsResponse(event=CreditEvent(event_id=3))
        yield pb.WatchCreditEventsResponse(heartbeat=pb.WatchHeartbeat(last_event_id=3))
        time.sleep(0.5)

    return watch


def one_event_after_another(
    request: pb.WatchCreditEventsRequest, context: grpc.ServicerContext
) -> Iterator[Any]:
    """WatchCreditEvents with five events a second."""
    event_id = request.after_event_id
    yield pb.WatchCreditEventsResponse(heartbeat=pb.WatchHeartbeat(last_event_id=event_id))
    while context.is_active():
        event_id += 1
        yield pb.WatchCreditEventsResponse(event=CreditEvent(event_id=event_id))
        time.sleep(0.2)


def _refuse_for_streams(context: grpc.ServicerContext) -> None:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason="TOO_MANY_STREAMS", domain="credit_service"))
    status = status_pb2.Status(code=8, message="full", details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


@contextlib.contextmanager
def serving(**streams: Stream) -> Iterator[str]:
    """Run a gRPC server with only these methods; yield its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    for service in SERVICES:
        handlers = {
            method.name: grpc.unary_stream_rpc_method_handler(
                streams[method.name],
                GetMessageClass(method.input_type).FromString,
                GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
            if method.name in streams
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service.full_name, handlers),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def ask(place: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    answer = Visitor(place).ask(path)
    return answer.status, answer.headers, answer.body


def test_an_annotated_workbook_is_passed_on_unchanged() -> None:
    with serving(DownloadAnnotatedWorkbook=downloads) as address, console(address) as place:
        status, headers, body = ask(place, f"/qa/ingestions/{INGESTION_ID}/annotated")
    assert status == 200
    assert body == b"".join(CHUNKS)
    disposition = headers["content-disposition"]
    assert disposition == ("attachment; filename*=UTF-8''loans%20%C3%A9%20%22x%22%0D%0A.xlsx")
    assert headers["content-type"].endswith("spreadsheetml.sheet")


def test_an_unknown_method_is_reported_in_words() -> None:
    with serving() as address, console(address) as place:
        status, _, body = ask(place, f"/qa/ingestions/{INGESTION_ID}/annotated")
        home_status, _, home = ask(place, "/qa/")
        # A service that a server of the previous release does not have.
        parked_status, _, parked = ask(place, "/qa/parked-tasks")
    assert parked_status == 501
    assert b"older than this console" in parked
    assert status == 501
    assert b"UNIMPLEMENTED" in body
    assert b"older than this console" in body
    assert home_status == 200
    assert b"cannot be shown" in home


def test_a_stream_is_retried_if_the_server_is_at_capacity() -> None:
    with serving(WatchCreditEvents=full_at_first(2)) as address, open_channel(address) as channel:
        service = Service(channel, "")
        assert [each.event_id for each in service.history(1)] == [3]
        assert [call.status for call in service.calls] == ["OK"]


def test_a_server_that_stays_at_capacity_is_reported() -> None:
    with serving(WatchCreditEvents=full_at_first(99)) as address, open_channel(address) as channel:
        service = Service(channel, "")
        with pytest.raises(ServiceError, match="full"):
            service.history(1)
        assert [call.status for call in service.calls] == ["RESOURCE_EXHAUSTED"]


def test_the_console_stops_while_a_page_listens() -> None:
    with serving(WatchCreditEvents=full_at_first(0)) as address:
        with console(address) as place:
            _, headers, _ = ask(place, "/qa/login")
            cookie = headers["set-cookie"].partition(";")[0]
            listening = http.client.HTTPConnection(place, timeout=10)
            listening.request("GET", "/qa/events", headers={"cookie": cookie})
            response = listening.getresponse()
            assert response.getheader("content-type", "").startswith("text/event-stream")
            assert response.readline().startswith(b"retry:")
            began = time.monotonic()
        assert time.monotonic() - began < 4
        listening.close()


def no_decisions(_request: Any, _context: grpc.ServicerContext) -> Iterator[Any]:
    """ListDecisions, which the console calls to check whether the service accepts a token."""
    yield pb.ListDecisionsResponse()


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    """A visitor of a console whose service accepts every token."""
    methods = {"ListDecisions": no_decisions, "WatchCreditEvents": one_event_after_another}
    with serving(**methods) as address, console(address) as place:
        yield Visitor(place)


def sign_in(visitor: Visitor) -> dict[str, str]:
    """Sign in and return the browser's cookies."""
    assert visitor.send("/qa/login", token="a-token", next="/qa/decisions").status == 303
    assert "Sign out" in visitor.ask("/qa/decisions").text
    return dict(visitor.cookies)


def test_signing_out_ends_the_session_for_copies_of_its_cookie(visitor: Visitor) -> None:
    copy = Visitor(visitor.place, sign_in(visitor))
    csrf_token = copy.csrf_token("/qa/login")
    assert visitor.send("/qa/login", "/qa/logout").status == 303
    assert "Sign out" not in visitor.ask("/qa/decisions").text
    assert copy.ask("/qa/events").status == 403
    form = urlencode({"csrf_token": csrf_token, "token": "a-token"}).encode()
    assert copy.ask("/qa/login", form, FORM).status == 403
    assert "Sign out" not in copy.ask("/qa/decisions").text


def test_signing_in_creates_a_new_session_and_ends_the_previous_one(visitor: Visitor) -> None:
    # An attacker's session, put into the browser before the user signs in.
    visitor.ask("/qa/login")
    stranger = Visitor(visitor.place, dict(visitor.cookies))
    first = sign_in(visitor)
    assert first[SESSION_COOKIE] != stranger.cookies[SESSION_COOKIE]
    assert "Sign out" not in stranger.ask("/qa/decisions").text
    second = sign_in(visitor)
    assert second[SESSION_COOKIE] != first[SESSION_COOKIE]
    assert "Sign out" not in Visitor(visitor.place, first).ask("/qa/decisions").text


def test_signing_out_ends_the_feeds_of_the_session(visitor: Visitor) -> None:
    cookies = sign_in(visitor)
    listening = http.client.HTTPConnection(visitor.place, timeout=30)
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    listening.request("GET", "/qa/events", headers={"cookie": cookie})
    response = listening.getresponse()
    assert response.readline().startswith(b"retry:")
    assert visitor.send("/qa/login", "/qa/logout").status == 303
    lines = list(islice(iter(response.readline, b""), 500))
    assert len(lines) < 500  # the feed has ended
    listening.close()


def test_the_feed_reports_the_return_of_the_service() -> None:
    is_down = threading.Event()
    is_down.set()

    def watch(request: pb.WatchCreditEventsRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        if is_down.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        yield from one_event_after_another(request, context)

    with serving(WatchCreditEvents=watch) as address, console(address) as place:
        _, headers, _ = ask(place, "/qa/login")
        listening = http.client.HTTPConnection(place, timeout=30)
        cookie = headers["set-cookie"].partition(";")[0]
        listening.request("GET", "/qa/events", headers={"cookie": cookie})
        lines = islice(iter(listening.getresponse().readline, b""), 500)
        assert b"event: trouble\n" in lines
        is_down.clear()
        assert b"event: recovered\n" in lines
        assert b"event: line\n" in lines
        listening.close()


def test_the_feed_requires_a_session() -> None:
    with serving() as address, console(address) as place:
        assert ask(place, "/qa/events")[0] == 403

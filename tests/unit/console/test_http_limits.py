"""Requests that do not arrive completely, and the capacity left for others."""

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from credit_service.console import http_limits
from credit_service.console.http_limits import (
    MAX_AWAITED_BODIES,
    MAX_AWAITED_HEADS,
    MIN_BODY_BYTES,
    LimitedH11Protocol,
)
from tests.consoles import Visitor, console

WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = WHOLE[:-2]
POST = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"


class Clock:
    """A fake event loop. Its timers run when the test advances the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[SimpleNamespace] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> SimpleNamespace:
        timer = SimpleNamespace(at=self.now + seconds, callback=callback)
        timer.cancel = lambda: self._timers.remove(timer) if timer in self._timers else None
        self._timers.append(timer)
        return timer

    def create_task(self, coroutine: Any) -> MagicMock:
        coroutine.close()
        return MagicMock()

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for timer in [each for each in self._timers if each.at <= self.now]:
            timer.cancel()
            timer.callback()


class Connections:
    """Connections of a server without a network."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._config = uvicorn.Config(MagicMock(), log_config=None, timeout_keep_alive=30)
        self._state = ServerState()

    def open(self, address: str = "192.0.2.1") -> LimitedH11Protocol:
        transport = MagicMock()
        transport.get_extra_info.side_effect = {"peername": (address, 1)}.get
        transport.is_closing.return_value = False
        loop: Any = self.clock
        protocol = LimitedH11Protocol(self._config, self._state, {}, loop)
        transport.abort.side_effect = lambda: protocol.connection_lost(None)
        protocol.connection_made(transport)
        return protocol

    @property
    def count(self) -> int:
        return len(self._state.connections)

    def is_open(self, connection: LimitedH11Protocol) -> bool:
        return connection in self._state.connections


@pytest.fixture
def connections() -> Connections:
    return Connections()


def answer(connection: LimitedH11Protocol) -> None:
    """Act like uvicorn after the application's response."""
    connection.conn.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    connection.conn.send(h11.EndOfMessage())
    connection.on_response_complete()


def test_the_whole_head_has_a_timeout(connections: Connections) -> None:
    silent, trickling, whole = connections.open(), connections.open(), connections.open()
    whole.data_received(WHOLE)
    for each in range(9):
        trickling.data_received(HALF[each : each + 1])
        connections.clock.pass_(1)
    assert connections.is_open(silent)
    assert connections.is_open(trickling)
    connections.clock.pass_(1)
    assert not connections.is_open(silent)
    assert not connections.is_open(trickling)
    assert connections.is_open(whole)


def test_the_next_head_of_a_connection_has_a_timeout_from_its_first_byte(
    connections: Connections,
) -> None:
    connection = connections.open()
    for _ in range(2):
        connection.data_received(WHOLE)
        connections.clock.pass_(60)  # the application is slow
        answer(connection)
        connections.clock.pass_(25)
        assert connections.is_open(connection)
    connection.data_received(HALF[:1])
    connections.clock.pass_(9)
    connection.data_received(HALF[1:])
    assert connections.is_open(connection)
    connections.clock.pass_(1)
    assert not connections.is_open(connection)


def test_a_body_has_a_minimum_rate(connections: Connections) -> None:
    steady, slow = connections.open(), connections.open()
    for each in (steady, slow):
        each.data_received(POST)
    for _ in range(5):
        steady.data_received(b"x" * MIN_BODY_BYTES)
        steady.cycle.body.clear()
        connections.clock.pass_(10)
    assert connections.is_open(steady)
    assert not connections.is_open(slow)
    connections.clock.pass_(10)
    assert not connections.is_open(steady)


def test_a_body_that_the_console_does_not_read_has_no_timeout(connections: Connections) -> None:
    connection = connections.open()
    connection.data_received(POST)
    connection.data_received(b"x" * 100_000)
    for _ in range(5):
        connections.clock.pass_(10)
    assert connections.is_open(connection)
    connection.flow.resume_reading()
    connections.clock.pass_(10)
    connections.clock.pass_(10)
    assert not connections.is_open(connection)


def test_the_address_with_most_connections_loses_the_oldest(connections: Connections) -> None:
    upload = connections.open()
    upload.data_received(POST)
    others = [connections.open(f"192.0.2.{each}") for each in (2, 3)]
    many = []
    for _ in range(MAX_AWAITED_HEADS):
        connections.clock.pass_(0.01)
        many.append(connections.open())
    assert [each for each in many if not connections.is_open(each)] == many[:2]
    assert all(map(connections.is_open, [upload, *others]))


def test_among_addresses_with_equal_counts_the_oldest_connection_is_closed(
    connections: Connections,
) -> None:
    many = []
    for each in range(MAX_AWAITED_HEADS + 1):
        connections.clock.pass_(0.01)
        many.append(connections.open(f"192.0.2.{each}"))
    assert [each for each in many if not connections.is_open(each)] == many[:1]


def test_idle_connections_count_and_those_with_a_pending_response_do_not(
    connections: Connections,
) -> None:
    answered = [connections.open() for _ in range(MAX_AWAITED_HEADS)]
    for each in answered:
        each.data_received(WHOLE)
    silent = [connections.open() for _ in range(MAX_AWAITED_HEADS)]
    assert all(map(connections.is_open, [*answered, *silent]))
    connections.clock.pass_(0.01)
    answer(answered[0])
    assert connections.is_open(answered[0])
    assert sum(map(connections.is_open, silent)) == MAX_AWAITED_HEADS - 1


def test_closed_connections_stop_counting_immediately(connections: Connections) -> None:
    for _ in range(3 * MAX_AWAITED_HEADS):
        connections.clock.pass_(0.001)
        # A real event loop calls connection_lost later.
        transport: Any = connections.open().transport
        transport.abort.side_effect = None
    assert connections.count == MAX_AWAITED_HEADS


def test_bodies_are_bounded_too(connections: Connections) -> None:
    uploads = []
    for _ in range(MAX_AWAITED_BODIES + 1):
        connections.clock.pass_(0.01)
        uploads.append(connections.open())
        uploads[-1].data_received(POST)
    assert [each for each in uploads if not connections.is_open(each)] == uploads[:1]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A console that closes no connection because of its age."""
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 600.0)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", 600.0)
    with console("127.0.0.1:1") as found:
        yield found


@pytest.mark.parametrize(
    ("sent", "kept"), [(HALF, MAX_AWAITED_HEADS), (POST, MAX_AWAITED_BODIES)], ids=["head", "body"]
)
def test_300_incomplete_requests_do_not_block_a_complete_one(
    place: str, sent: bytes, kept: int
) -> None:
    host, _, port = place.partition(":")
    with ExitStack() as opened:
        halves = []
        for _ in range(300):
            half = opened.enter_context(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(OSError):  # it can be closed before it sends anything
                half.sendall(sent)
            halves.append(half)
        assert Visitor(place).ask("/qa/login").status == 200
        eventually(lambda: sum(map(is_closed, halves)) >= 300 - kept)
        if sent == HALF:
            # The last one is still open, and gets a response once it is complete.
            halves[-1].sendall(WHOLE[len(HALF) :])
            response = http.client.HTTPResponse(halves[-1])
            response.begin()
            assert response.status == 200


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it, possibly after a rejection."""
    connection.settimeout(0)
    try:
        while connection.recv(4_096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    else:
        return True
    finally:
        connection.settimeout(10)


def eventually(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_an_incomplete_request_is_closed_after_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.2)
    with console("127.0.0.1:1") as place:
        host, _, port = place.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as half:
            half.sendall(HALF)
            eventually(lambda: is_closed(half))

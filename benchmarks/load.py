"""A closed loop of unary gRPC calls that needs little CPU time itself.

A Python grpc client takes as much CPU time per call as the server, and load generators in C send
the same body every time. This one implements the part of HTTP/2 that unary calls need: it sends
prepared bodies, each as a HEADERS and a DATA frame, and reads the frame headers of the responses.
This costs about 15 µs of CPU time per call. It has no TLS, no retries and no streams.

As a separate process, `python -m benchmarks.load` reads a pickled `Order` from standard input and
writes a pickled `Outcome` to standard output.
"""

import pickle
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import Any

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_INITIAL_WINDOW_SIZE = 4
_MAX_FRAME_BYTES = 16_384
_RECEIVE_BYTES = 256 * 1024
_SAMPLES = 50
_PATIENCE_SECONDS = 30.0
_READY, _BEGIN = b"r", b"b"

_Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """`callers` callers over `channels` connections, each with one call at a time.

    Free callers take the bodies in order. With `once` each body is used once, and it is an error if
    they run out; otherwise they repeat.
    """

    port: int
    method: str
    bodies: Sequence[bytes]
    seconds: float
    callers: int = 32
    channels: int = 4
    once: bool = False
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result. `failed` counts calls with a status other than OK; `calls` excludes them."""

    calls: int
    failed: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float
    # A sample of serialized responses, for checks by the caller.
    samples: list[bytes]
    # The readable part of a failed call's trailers; empty without failures.
    failure: str

    @property
    def calls_per_second(self) -> float:
        """Calls per second that ended with OK."""
        return self.calls / self.seconds


class LoadError(RuntimeError):
    """The server exited or sent unexpected data."""


class _Connection:
    """One HTTP/2 connection and its calls in progress."""

    def __init__(self, port: int, method: str, metadata: _Metadata = ()) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = _request_headers(port, method, metadata)
        self._next_stream = 1
        self._received = bytearray()
        self._unacknowledged = 0
        self._send_window = _FIRST_WINDOW
        self._begun: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self.failure = b""
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW)
        self.out = bytearray(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _FIRST_WINDOW))
        )

    def call(self, body: bytes) -> None:
        """Start a call; `flush` sends it."""
        stream = self._next_stream
        self._next_stream += 2
        self._begun[stream] = time.perf_counter()
        message = b"\0" + struct.pack(">I", len(body)) + body
        self._send_window -= len(message)
        if self._send_window < 0:
            raise LoadError("the server's flow-control window is full")
        self.out += _frame(_HEADERS, _END_HEADERS, stream, next(self._headers))
        for start in range(0, len(message), _MAX_FRAME_BYTES):
            part = message[start : start + _MAX_FRAME_BYTES]
            is_last = start + _MAX_FRAME_BYTES >= len(message)
            self.out += _frame(_DATA, _END_STREAM * is_last, stream, part)

    def flush(self) -> None:
        """Send the buffered frames."""
        if self.out:
            self.socket.sendall(self.out)
            self.out.clear()

    def receive(self) -> list[tuple[float, bytes | None]]:
        """Read from the socket; yields the latency in seconds and the response of each ended call,
        None if it failed."""
        chunk = self.socket.recv(_RECEIVE_BYTES)
        if not chunk:
            raise LoadError("the server closed the connection")
        received = self._received
        received += chunk
        ended: list[tuple[float, bytes | None]] = []
        at, size = 0, len(received)
        while size - at >= 9:
            length = int.from_bytes(received[at : at + 3])
            if size - at < 9 + length:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9])
            if kind == _DATA:
                self._unacknowledged += length
                # A message has a header of 5 bytes. Messages of several frames are joined.
                payload = bytes(received[at + 9 : at + 9 + length])
                self._answers[stream] = self._answers.get(stream, b"") + payload
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    if stream not in self._answers:
                        self.failure = bytes(received[at + 9 : at + 9 + length])
                    ended.append(self._end(stream))
            elif kind == _RST_STREAM:
                self._answers.pop(stream, None)
                # For a call rejected before its message was read, it follows the trailers.
                if stream in self._begun:
                    ended.append(self._end(stream))
            else:
                self._control(kind, flags, stream, bytes(received[at + 9 : at + 9 + length]))
            at += 9 + length
        del received[:at]
        if self._unacknowledged > _WINDOW // 2:
            increment = struct.pack(">I", self._unacknowledged)
            self.out += _frame(_WINDOW_UPDATE, 0, 0, increment)
            self._unacknowledged = 0
        return ended

    def _end(self, stream: int) -> tuple[float, bytes | None]:
        # A failed call has a status and no message.
        answer = self._answers.pop(stream, None)
        return time.perf_counter() - self._begun.pop(stream), answer and answer[5:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self.out += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(payload)
        elif kind == _GOAWAY:
            raise LoadError("the server is closing the connection")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _request_headers(port: int, method: str, metadata: _Metadata) -> Iterator[bytes]:
    """The header blocks of a connection's requests (RFC 7541).

    The first one adds the common headers to the dynamic table, the others refer to its entries, as
    a grpc client does.
    """
    named: tuple[tuple[int | str, str], ...] = (
        # The index of the name in the static table, or the name; the newest entry has index 62.
        (4, method),
        (1, f"127.0.0.1:{port}"),
        (31, "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "10S"),
        ("user-agent", "credit-service-benchmarks"),
        *metadata,
    )
    post, http = b"\x83", b"\x86"
    first = post + http
    for name, value in named:
        first += bytes([0x40 | name]) if isinstance(name, int) else b"\x40" + _text(name)
        first += _text(value)
    yield first
    later = post + http + bytes(0x80 | (62 + place) for place in reversed(range(len(named))))
    while True:
        yield later


def _text(value: str) -> bytes:
    length = len(value)
    if length < 127:
        return bytes([length]) + value.encode("ascii")
    if length >= 127 + 128 * 128:
        raise ValueError(f"too long for this generator: {value}")
    rest = length - 127
    more = bytes([rest]) if rest < 128 else bytes([rest & 127 | 128, rest >> 7])
    return b"\x7f" + more + value.encode("ascii")


def _legible(trailers: bytes) -> str:
    return "".join(
        char if char.isprintable() else " " for char in trailers.decode("ascii", "replace")
    )


def run(order: Order) -> Outcome:
    """Load the server.

    Raises:
        LoadError: the server does not answer, or the bodies ran out.
    """
    connections = [
        _Connection(order.port, order.method, order.metadata) for _ in range(order.channels)
    ]
    bodies = iter(order.bodies) if order.once else cycle(order.bodies)
    with selectors.DefaultSelector() as selector:
        for each in connections:
            selector.register(each.socket, selectors.EVENT_READ, each)
        began, cpu_began = time.perf_counter(), time.process_time()
        try:
            latencies, samples, failed = _loop(order, connections, bodies, selector)
        except StopIteration:
            raise LoadError(f"all {len(order.bodies):,} bodies were used") from None
        except TimeoutError as error:
            raise LoadError("the server does not answer") from error
        finally:
            for each in connections:
                each.socket.close()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    latencies.sort()
    count = len(latencies)
    return Outcome(
        calls=count - failed,
        failed=failed,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        p50_ms=latencies[count // 2] * 1000 if count else 0.0,
        p99_ms=latencies[count * 99 // 100] * 1000 if count else 0.0,
        samples=samples,
        failure=_legible(b"".join(each.failure for each in connections)),
    )


def _loop(
    order: Order,
    connections: Sequence[_Connection],
    bodies: Iterator[bytes],
    selector: selectors.BaseSelector,
) -> tuple[list[float], list[bytes], int]:
    until = time.perf_counter() + order.seconds
    under_way = failed = 0
    latencies: list[float] = []
    samples: list[bytes] = []
    for number in range(order.callers):
        connections[number % len(connections)].call(next(bodies))
        under_way += 1
    for each in connections:
        each.flush()
    while under_way:
        ready = selector.select(_PATIENCE_SECONDS)
        if not ready:
            raise LoadError("the server does not answer")
        more = time.perf_counter() < until
        for key, _ in ready:
            connection: _Connection = key.data
            for seconds, answer in connection.receive():
                latencies.append(seconds)
                if answer is None:
                    failed += 1
                elif len(samples) < _SAMPLES:
                    samples.append(answer)
                if more:
                    connection.call(next(bodies))
                else:
                    under_way -= 1
            connection.flush()
    return latencies, samples, failed


def run_apart(order: Order) -> Outcome:
    """`run` in a separate process, on the processors of this one. Raises the same errors."""
    return run_together([order])


def run_together(orders: Sequence[Order]) -> Outcome:
    """`run` of each order in a process of its own, all at the same time; returns the sum.

    The latencies are the median of the processes' p50 and the highest p99. Raises the same errors.
    """
    outcomes = ordered("benchmarks.load", orders)
    return Outcome(
        calls=sum(each.calls for each in outcomes),
        failed=sum(each.failed for each in outcomes),
        seconds=max(each.seconds for each in outcomes),
        cpu_seconds=sum(each.cpu_seconds for each in outcomes),
        p50_ms=statistics.median(each.p50_ms for each in outcomes),
        p99_ms=max(each.p99_ms for each in outcomes),
        samples=[sample for each in outcomes for sample in each.samples],
        failure=" ".join(each.failure for each in outcomes if each.failure),
    )


def ordered(module: str, orders: Sequence[object]) -> list[Any]:
    """The outcomes of orders, each executed in a separate process by a module with `serve_one`.

    The processes begin once all of them have their orders.

    Raises: LoadError: raised by the module. RuntimeError: a process died.
    """
    with ExitStack() as running:
        processes = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for _ in orders
        ]
        for process in processes:
            # Does nothing to a process that has ended.
            running.callback(process.kill)
        try:
            return _outcomes(processes, orders)
        except (OSError, EOFError) as error:
            raise RuntimeError(f"a process of {module} died") from error


def _outcomes(
    processes: "Sequence[subprocess.Popen[bytes]]", orders: Sequence[object]
) -> list[Any]:
    pipes = []
    for process, order in zip(processes, orders, strict=True):
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(order, process.stdin)
        process.stdin.flush()
        pipes.append((process.stdin, process.stdout))
    for _, answers in pipes:
        if answers.read(1) != _READY:
            raise EOFError
    for commands, _ in pipes:
        commands.write(_BEGIN)
        commands.flush()
    outcomes = [pickle.load(answers) for _, answers in pipes]  # noqa: S301 - from `serve_one`
    for outcome in outcomes:
        if isinstance(outcome, LoadError):
            raise outcome
    return outcomes


def serve_one(run_order: Callable[[Any], object]) -> None:
    """Serve one order of `ordered`: from standard input, the outcome to standard output."""
    order = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by `ordered`
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.read(1) != _BEGIN:
        return
    result: object
    try:
        result = run_order(order)
    except LoadError as error:
        result = error
    pickle.dump(result, sys.stdout.buffer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    # Under its importable name, so that pickled objects can be loaded.
    from benchmarks.load import run as _run
    from benchmarks.load import serve_one as _serve_one

    _serve_one(_run)

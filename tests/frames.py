"""HTTP/2 frame by frame, for input that client libraries do not send: a call with headers only, a
client that reads nothing, an idle connection."""

import socket
import struct
from contextlib import suppress
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4

Pairs = tuple[tuple[str, str], ...]


def authorized(token: str) -> Pairs:
    """The metadata of a call with a bearer token."""
    return (("authorization", f"Bearer {token}"),)


class Connection:
    """A connection with control over every frame."""

    def __init__(self, target: str, *, window_bytes: int = 65_535, source: str = "") -> None:
        """`target` is host:port. The server may send `window_bytes` on each stream. `source` is the
        address to connect from."""
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 10, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._next_stream = 1
        setting = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window_bytes)
        try:
            self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, setting))
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.close()

    def begin(self, path: str, metadata: Pairs = ()) -> int:
        """Send only the headers of a call. Returns the number of its stream."""
        number, self._next_stream = self._next_stream, self._next_stream + 2
        block = b"".join(
            _literal(name, value)
            for name, value in (
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                *metadata,
            )
        )
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, number, block))
        return number

    def send(self, stream: int, message: bytes, *, end: bool = True) -> None:
        """Send a message of a call, in one frame."""
        data = b"\0" + struct.pack(">I", len(message)) + message
        self.send_raw(stream, data, end=end)

    def send_raw(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send raw bytes of a call's body."""
        self._socket.sendall(_frame(_DATA, _END_STREAM if end else 0, stream, data))

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._socket.sendall(_frame(_RESET, 0, stream, struct.pack(">I", 8)))

    def drain(self) -> None:
        """Read and discard received data."""
        self._socket.settimeout(0.0)
        with suppress(BlockingIOError):
            while self._socket.recv(1 << 16):
                pass
        self._socket.settimeout(10)

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection; reads and discards earlier data."""
        self._socket.settimeout(0.0)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(10)
        return True


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header as an HPACK literal without indexing."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def _string(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, encoded = len(data) - 127, bytearray([127])
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded) + data

"""Counts round trips to PostgreSQL; pipelined messages count once."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

_CHUNK_BYTES = 64 * 1024
_SOCKET_NAME = ".s.PGSQL.5432"


class Counter:
    """A relay on a Unix socket in front of PostgreSQL's."""

    def __init__(self, folder: Path, target: str) -> None:
        self.round_trips = 0
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / _SOCKET_NAME))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; existing ones end with either side."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                server.connect(self._target)
                relay = _Relay(self)
                for source, sink, asks in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=relay.forward, args=(source, sink, asks), daemon=True
                    ).start()


class _Relay:
    """Relays one connection. A round trip starts when the client sends after the server."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._asking = False

    def forward(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if asks and not self._asking:
                    self._counter.round_trips += 1
                self._asking = asks
                sink.sendall(chunk)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def counted(url: str, folder: Path) -> Iterator[tuple[str, Counter]]:
    """A URL of the same database through a counter, for one caller at a time."""
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    counter = Counter(folder, f"{host}/{_SOCKET_NAME}")
    try:
        yield parts._replace(query=f"host={quote(str(folder), safe='')}").geturl(), counter
    finally:
        counter.close()

"""Descriptors for connections: as many as the system allows, and never all for one address.

grpc accepts every connection and offers no hook before that. When connections have taken half of
the process's descriptors, the address that has most of them loses those that have been silent for
longest, so that others can connect, and the database, Redis and the log keep theirs.
"""

import errno
import heapq
import os
import resource
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from credit_service.observability import metrics

_POLL_SECONDS = 0.25
_SHARE = 0.5
_MOST_DESCRIPTORS = 1_048_576
_DESCRIPTORS = Path("/proc/self/fd")
# struct tcp_info of Linux: eight bytes, the first of them the state, then numbers of 32 bits, of
# which the twelfth is the milliseconds since something was received.
_TCP_INFO = struct.Struct("=B7x12I")
_ESTABLISHED = 1

_log = structlog.get_logger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one. Returns the soft limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _log.warning("descriptor_limit_not_raised", soft=soft, hard=hard, reason=str(error))
            return soft
        return wanted
    return soft


class ConnectionGuard:
    """Closes connections of the address that has most, while all of them are too many.

    It needs Linux's /proc and does nothing elsewhere.
    """

    def __init__(self, port: int, most: int | None = None) -> None:
        """`port` is the server's own. At `most` connections (by default half of the descriptors
        that the process may have) some are closed."""
        self._port = port
        self._most = most
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        if _DESCRIPTORS.is_dir():
            self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            try:
                self.check()
            except OSError as error:
                _log.warning("connections_not_checked", reason=str(error))

    def check(self) -> int:
        """Close what is too much. Returns how many connections were closed."""
        most = self._most
        if most is None:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = int((_MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) * _SHARE)
        # All descriptors are at least as many as the connections, and quickly counted.
        numbers = _numbers()
        if len(numbers) <= most:
            return 0
        silent = _by_address(self._port, numbers)
        excess = sum(map(len, silent.values())) - most
        if excess <= 0:
            return 0
        chosen: list[int] = []
        largest = [(-len(each), address) for address, each in silent.items()]
        heapq.heapify(largest)
        while len(chosen) < excess:
            size, address = heapq.heappop(largest)
            chosen.append(silent[address].pop()[1])
            heapq.heappush(largest, (size + 1, address))
        closed = sum(_shut(number, self._port) for number in chosen)
        metrics.connections_closed.inc(closed)
        _log.warning("connections_closed", count=closed, most=most)
        return closed


def _numbers() -> Sequence[int]:
    """The descriptors of this process; all that there may be, where none is left to look with."""
    try:
        return [int(each.name) for each in _DESCRIPTORS.iterdir()]
    except OSError:
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _by_address(port: int, numbers: Sequence[int]) -> dict[str, list[tuple[int, int]]]:
    """The connections at the port by their peer's address: milliseconds of silence, and the
    descriptor. Those that have been silent for longest come last."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number in numbers:
        with _held(number) as connection:
            address = _peer(connection, port)
            if connection is not None and address is not None:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
                state, *_, silent_ms = _TCP_INFO.unpack(info)
                if state == _ESTABLISHED:
                    found[address].append((silent_ms, number))
    for each in found.values():
        each.sort()
    return found


def _shut(number: int, port: int) -> bool:
    """Shut the connection down that the descriptor is, if it is one still."""
    with _held(number) as connection:
        if connection is None or _peer(connection, port) is None:
            return False
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        return True


@contextmanager
def _held(number: int) -> Iterator[socket.socket | None]:
    """A descriptor of this process as a socket; None where it is no socket, or closed by now.

    A copy stays what it is meanwhile. Where no descriptor is left for one, it is the number itself.
    """
    try:
        copy = os.dup(number)
    except OSError as error:
        copy = number if error.errno == errno.EMFILE else -1
    try:
        held = None if copy < 0 else socket.socket(fileno=copy)
    except OSError:
        held = None
        if copy != number:
            os.close(copy)
    try:
        yield held
    finally:
        if held is not None:
            if copy == number:
                held.detach()
            held.close()


def _peer(connection: socket.socket | None, port: int) -> str | None:
    """The address that connected to the port; None for anything else."""
    try:
        if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if connection.getsockname()[1] != port:
            return None
        address: str = connection.getpeername()[0]
    except OSError:
        return None  # it listens, or has ended
    return address

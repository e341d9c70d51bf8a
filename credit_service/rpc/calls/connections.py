"""Keep file descriptors free: raise their limit, close idle connections of the busiest address.

grpc accepts every connection and offers no hook before that. When connections take half of the
process's descriptors, the guard closes connections of the address that has most, the longest idle
first. Others can still connect, and the database, Redis and the log keep their descriptors.
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
# struct tcp_info of Linux: eight bytes, the first of them the state, then 32-bit numbers, of which
# the twelfth is the milliseconds since data was last received.
_TCP_INFO = struct.Struct("=B7x12I")
_ESTABLISHED = 1

_log = structlog.get_logger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard limit; return the new soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError) as error:
            _log.warning("descriptor_limit_not_raised", soft=soft, hard=hard, reason=str(error))
            return soft
        return target
    return soft


class ConnectionGuard:
    """Closes connections of the address that has most, while the process has too many.

    It needs Linux's /proc and does nothing on other systems.
    """

    def __init__(self, port: int, max_connections: int | None = None) -> None:
        """`port` is the server's own. Beyond `max_connections` (by default half of the process's
        descriptor limit) the guard closes connections."""
        self._port = port
        self._max_connections = max_connections
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)

    def start(self) -> None:
        """Start to check."""
        if _DESCRIPTORS.is_dir():
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
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
        """Close the excess connections; return how many were closed."""
        limit = self._max_connections
        if limit is None:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit = int((_MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) * _SHARE)
        # There are at least as many descriptors as connections, and they are quick to count.
        numbers = _descriptors()
        if len(numbers) <= limit:
            return 0
        idle = _by_address(self._port, numbers)
        excess = sum(map(len, idle.values())) - limit
        if excess <= 0:
            return 0
        chosen: list[int] = []
        largest = [(-len(each), address) for address, each in idle.items()]
        heapq.heapify(largest)
        while len(chosen) < excess:
            size, address = heapq.heappop(largest)
            chosen.append(idle[address].pop()[1])
            heapq.heappush(largest, (size + 1, address))
        closed = sum(_shut_down(number, self._port) for number in chosen)
        metrics.connections_closed.inc(closed)
        _log.warning("connections_closed", count=closed, most=limit)
        return closed


def _descriptors() -> Sequence[int]:
    """The descriptors of this process; all possible numbers where none is left to list them."""
    try:
        return [int(each.name) for each in _DESCRIPTORS.iterdir()]
    except OSError:
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _by_address(port: int, numbers: Sequence[int]) -> dict[str, list[tuple[int, int]]]:
    """Established connections to the port, by peer address: (idle milliseconds, descriptor), the
    longest idle last."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number in numbers:
        with _socket_of(number) as connection:
            address = _peer(connection, port)
            if connection is not None and address is not None:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
                state, *_, idle_ms = _TCP_INFO.unpack(info)
                if state == _ESTABLISHED:
                    found[address].append((idle_ms, number))
    for each in found.values():
        each.sort()
    return found


def _shut_down(number: int, port: int) -> bool:
    """Shut down the connection of the descriptor; False where it is no longer one."""
    with _socket_of(number) as connection:
        if connection is None or _peer(connection, port) is None:
            return False
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        return True


@contextmanager
def _socket_of(number: int) -> Iterator[socket.socket | None]:
    """A descriptor of this process as a socket; None where it is no socket or already closed.

    The socket is of a duplicate, which stays open meanwhile; of the descriptor itself where none is
    left for a duplicate.
    """
    try:
        copy = os.dup(number)
    except OSError as error:
        copy = number if error.errno == errno.EMFILE else -1
    try:
        duplicate = None if copy < 0 else socket.socket(fileno=copy)
    except OSError:
        duplicate = None
        if copy != number:
            os.close(copy)
    try:
        yield duplicate
    finally:
        if duplicate is not None:
            if copy == number:
                duplicate.detach()
            duplicate.close()


def _peer(connection: socket.socket | None, port: int) -> str | None:
    """The peer address of a connection to the port; None for other descriptors."""
    try:
        if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if connection.getsockname()[1] != port:
            return None
        address: str = connection.getpeername()[0]
    except OSError:
        return None  # it listens, or is closed
    return address

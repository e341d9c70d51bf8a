"""Reading a client's stream without waiting for it for ever."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from credit_service.domain.errors import Unavailable
from credit_service.rpc.errors import DeadlineExceeded

T = TypeVar("T")

_CLOSE_LOOKS = 3
_LOOK_SECONDS = 0.25
"""How often a silent stream looks whether the server is stopping."""


class _End:
    """Marks the end of a stream in its inbox, by the exception that ended it where there is one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


@contextmanager
def read_ahead(
    requests: Iterator[bytes],
    parse: Callable[[bytes], T],
    idle_seconds: float,
    stopping: threading.Event,
) -> Iterator[Iterator[T]]:
    """The messages of a client stream, the next one read and parsed while this one is worked on.

    grpc offers no way to wait for a message for a while only, so a thread does the waiting. It ends
    with the call. At most three messages are in memory: one worked on, one waiting, one being read.

    The iterator raises:
        DeadlineExceeded: STREAM_IDLE, no message came for `idle_seconds`.
        Unavailable: SHUTTING_DOWN, `stopping` was set before all messages were here.
        grpc.RpcError: the caller has gone.
    """
    inbox: queue.Queue[T | _End] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def pump() -> None:
        error: Exception | None = None
        try:
            for data in requests:
                inbox.put(parse(data))
                if closed.is_set():
                    return
            _ensure_closed_by_caller(requests)
        except Exception as caught:  # noqa: BLE001 - raised where the messages are awaited
            error = caught
        inbox.put(_End(error))

    threading.Thread(target=pump, name="stream-reader", daemon=True).start()
    try:
        yield _messages(inbox, idle_seconds, stopping)
    finally:
        closed.set()
        _make_room(inbox)


def _ensure_closed_by_caller(requests: Iterator[bytes]) -> None:
    """Tell a stream that its caller closed from one that broke.

    grpc ends the iterator alike for both when the news of the break comes in behind the end of the
    messages (measured: for one broken stream in ten), and a broken upload must not count as a
    complete one. Asking for one more message goes through the same queue, behind that news.

    Raises:
        grpc.RpcError: it broke.
    """
    for _ in range(_CLOSE_LOOKS):
        next(requests, None)
        time.sleep(0.001)


def _messages(
    inbox: "queue.Queue[T | _End]", idle_seconds: float, stopping: threading.Event
) -> Iterator[T]:
    silent_since = time.monotonic()
    while True:
        try:
            message = inbox.get(timeout=min(_LOOK_SECONDS, idle_seconds))
        except queue.Empty:
            if stopping.is_set():
                raise shutting_down() from None
            if time.monotonic() - silent_since >= idle_seconds:
                raise DeadlineExceeded(
                    "STREAM_IDLE",
                    f"No message came for {idle_seconds:g} seconds; resume where you were.",
                    {"idle_seconds": f"{idle_seconds:g}"},
                ) from None
            continue
        if isinstance(message, _End):
            if message.error is not None:
                raise message.error
            return
        if stopping.is_set():
            raise shutting_down()
        yield message
        silent_since = time.monotonic()


def _make_room(inbox: "queue.Queue[T | _End]") -> None:
    """Let a reader that waits to hand its message over go on, and so end."""
    try:
        inbox.get_nowait()
    except queue.Empty:
        return


def shutting_down() -> Unavailable:
    """What a stream ends with when the server stops."""
    return Unavailable(
        "SHUTTING_DOWN",
        "This server is shutting down; call again, another one answers.",
        retry_after_seconds=0.5,
    )

"""Reading a client's stream without waiting for it for ever."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from credit_service.domain.errors import UnavailableError
from credit_service.rpc.errors import DeadlineExceededError

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., object])

_PREPARE = "prepare_message"
_WAITING = 4
_CLOSE_LOOKS = 3
_LOOK_SECONDS = 0.25
"""How often a silent stream looks whether the server is stopping."""


class _End:
    """Marks the end of a stream in its inbox, by the exception that ended it where there is one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Messages(Iterator[T]):
    """The messages of a stream, waited for one by one, and those that are here already."""

    def __init__(
        self,
        inbox: "queue.Queue[T | _End]",
        idle_seconds: float,
        stopping: threading.Event,
        ensure_lasting: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._idle_seconds = idle_seconds
        self._stopping = stopping
        self._ensure_lasting = ensure_lasting
        # Taken from the inbox before its turn.
        self._next: list[T | _End] = []

    def __next__(self) -> T:
        message = self._next.pop() if self._next else self._awaited()
        if isinstance(message, _End):
            self._next.append(message)
            if message.error is not None:
                raise message.error
            raise StopIteration
        if self._stopping.is_set():
            raise shutting_down()
        self._ensure_lasting()
        return message

    def _awaited(self) -> "T | _End":
        silent_since = time.monotonic()
        while True:
            try:
                return self._inbox.get(timeout=min(_LOOK_SECONDS, self._idle_seconds))
            except queue.Empty:
                if self._stopping.is_set():
                    raise shutting_down() from None
                self._ensure_lasting()
                if time.monotonic() - silent_since >= self._idle_seconds:
                    raise DeadlineExceededError(
                        "STREAM_IDLE",
                        f"The stream received no message for {self._idle_seconds:g} seconds; open "
                        "it again and resume.",
                        {"idle_seconds": f"{self._idle_seconds:g}"},
                    ) from None

    def next_if(self, wanted: Callable[[T], bool]) -> T | None:
        """The next message where it is here already and wanted; None where it is not."""
        if not self._next:
            try:
                self._next.append(self._inbox.get_nowait())
            except queue.Empty:
                return None
        message = self._next[-1]
        if isinstance(message, _End) or not wanted(message):
            return None
        self._next.pop()
        return message


def messages_through(prepare: Callable[[T], object]) -> Callable[[Method], Method]:
    """Marks a method that takes a stream: it is given what `prepare` makes of each message.

    That is done where messages are read ahead, while the method still works on the one before.
    What `prepare` raises is raised where the method comes to that message.
    """

    def mark(method: Method) -> Method:
        vars(method)[_PREPARE] = prepare
        return method

    return mark


def reader_of(behavior: object, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """What makes of a message's bytes what the behavior is to be given."""
    prepare = getattr(behavior, _PREPARE, None)
    if prepare is None:
        return parse
    return lambda data: prepare(parse(data))


@contextmanager
def read_ahead(
    requests: Iterator[bytes],
    parse: Callable[[bytes], T],
    idle_seconds: float,
    stopping: threading.Event,
    ensure_lasting: Callable[[], None] = lambda: None,
) -> Iterator[Messages[T]]:
    """The messages of a client stream, the next ones read and parsed while this one is worked on.

    grpc offers no way to wait for a message for a while only, so a thread does the waiting. It ends
    with the call. Beside those that are worked on, at most five messages are in memory: four that
    wait, and one being read. `ensure_lasting` raises when the stream has lasted for long enough.

    The iterator raises:
        DeadlineExceededError: STREAM_IDLE, no message came for `idle_seconds`.
        UnavailableError: SHUTTING_DOWN, `stopping` was set before all messages were here.
        grpc.RpcError: the caller has gone.
    """
    inbox: queue.Queue[T | _End] = queue.Queue(maxsize=_WAITING)
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
        yield Messages(inbox, idle_seconds, stopping, ensure_lasting)
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


def _make_room(inbox: "queue.Queue[T | _End]") -> None:
    """Let a reader that waits to hand its message over go on, and so end."""
    try:
        while True:
            inbox.get_nowait()
    except queue.Empty:
        return


def shutting_down() -> UnavailableError:
    """What a stream ends with when the server stops."""
    return UnavailableError(
        "SHUTTING_DOWN",
        "This server is shutting down; retry to reach another one.",
        retry_after_seconds=0.5,
    )


def stream_over(lifetime_seconds: float, **resume_at: object) -> UnavailableError:
    """What a stream ends with that has lasted as long as one may; `resume_at` is where its caller
    continues."""
    return UnavailableError(
        "STREAM_LIFETIME_OVER",
        f"The stream reached its lifetime of {lifetime_seconds:g} seconds; open it again and "
        "resume.",
        retry_after_seconds=0.1,
        metadata={
            "lifetime_seconds": f"{lifetime_seconds:g}",
            **{key: str(value) for key, value in resume_at.items()},
        },
    )

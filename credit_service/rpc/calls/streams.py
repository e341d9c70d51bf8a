"""Read a client's stream ahead, with a time limit for each message."""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from credit_service.domain.errors import UnavailableError
from credit_service.rpc.errors import DeadlineExceededError

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., object])

_PREPARE = "prepare_message"
_MAX_READ_AHEAD = 4
_CLOSE_CHECKS = 3
_POLL_SECONDS = 0.25
"""How often an idle stream checks whether the server is stopping."""


class _End:
    """Marks the end of a stream in its inbox, with the exception that ended it, if any."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Messages(Iterator[T]):
    """The messages of a stream, in order. `next_if` takes one only if it is already here."""

    def __init__(
        self,
        inbox: "queue.Queue[T | _End]",
        idle_seconds: float,
        stopping: threading.Event,
        raise_if_expired: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._idle_seconds = idle_seconds
        self._stopping = stopping
        self._raise_if_expired = raise_if_expired
        # Taken from the inbox by `next_if` and not wanted.
        self._next: list[T | _End] = []

    def __next__(self) -> T:
        message = self._next.pop() if self._next else self._wait_for_message()
        if isinstance(message, _End):
            self._next.append(message)
            if message.error is not None:
                raise message.error
            raise StopIteration
        if self._stopping.is_set():
            raise shutting_down()
        self._raise_if_expired()
        return message

    def _wait_for_message(self) -> "T | _End":
        idle_since = time.monotonic()
        while True:
            try:
                return self._inbox.get(timeout=min(_POLL_SECONDS, self._idle_seconds))
            except queue.Empty:
                if self._stopping.is_set():
                    raise shutting_down() from None
                self._raise_if_expired()
                if time.monotonic() - idle_since >= self._idle_seconds:
                    raise DeadlineExceededError(
                        "STREAM_IDLE",
                        f"The stream received no message for {self._idle_seconds:g} seconds; open "
                        "it again and resume.",
                        {"idle_seconds": f"{self._idle_seconds:g}"},
                    ) from None

    def next_if(self, is_wanted: Callable[[T], bool]) -> T | None:
        """The next message if it is already here and wanted; else None."""
        if not self._next:
            try:
                self._next.append(self._inbox.get_nowait())
            except queue.Empty:
                return None
        message = self._next[-1]
        if isinstance(message, _End) or not is_wanted(message):
            return None
        self._next.pop()
        return message

    def close(self) -> None:
        """Forget the error that ended the stream. Its traceback refers to this object and to the
        frames of the call, which otherwise keep each other until the next garbage collection."""
        for message in self._next:
            if isinstance(message, _End):
                message.error = None


def prepare_messages(prepare: Callable[[T], object]) -> Callable[[Method], Method]:
    """Decorate a method that takes a stream: it gets `prepare(message)` for each message.

    The reading thread prepares messages ahead, while the method works on earlier ones. An exception
    of `prepare` is raised when the method reaches that message.
    """

    def mark(method: Method) -> Method:
        vars(method)[_PREPARE] = prepare
        return method

    return mark


def message_reader(behavior: object, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A function from a message's bytes to what the behavior gets."""
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
    raise_if_expired: Callable[[], None] = lambda: None,
) -> Iterator[Messages[T]]:
    """The messages of a client stream, read and parsed ahead of their use.

    grpc cannot wait for a message with a timeout, so a thread waits. The thread ends with the call.
    Apart from the message in use, at most five are in memory: four queued and one being read.
    `raise_if_expired` raises once the stream's lifetime is over.

    The iterator raises:
        DeadlineExceededError: STREAM_IDLE, no message arrived for `idle_seconds`.
        UnavailableError: SHUTTING_DOWN, `stopping` was set before all messages arrived.
        grpc.RpcError: the caller has gone.
    """
    inbox: queue.Queue[T | _End] = queue.Queue(maxsize=_MAX_READ_AHEAD)
    closed = threading.Event()

    def pump() -> None:
        try:
            for data in requests:
                inbox.put(parse(data))
                if closed.is_set():
                    return
            _raise_if_broken(requests)
        except Exception as error:  # noqa: BLE001 - raised to the reader of the messages
            # Its traceback would keep the message, which takes 50 times its size when parsed.
            traceback.clear_frames(error.__traceback__)
            inbox.put(_End(error))
        else:
            inbox.put(_End(None))
        if closed.is_set():
            _make_room(inbox)

    threading.Thread(target=pump, name="stream-reader", daemon=True).start()
    messages = Messages(inbox, idle_seconds, stopping, raise_if_expired)
    try:
        yield messages
    finally:
        closed.set()
        messages.close()
        _make_room(inbox)


def _raise_if_broken(requests: Iterator[bytes]) -> None:
    """Raise if the stream broke, rather than was closed by its caller.

    grpc ends the iterator the same way for both when it learns of the break after the end of the
    messages (measured: for one broken stream in ten). A broken upload must not count as complete.
    A further request for a message goes through the same queue, behind the news of the break.

    Raises:
        grpc.RpcError: the stream broke.
    """
    for _ in range(_CLOSE_CHECKS):
        next(requests, None)
        time.sleep(0.001)


def _make_room(inbox: "queue.Queue[T | _End]") -> None:
    """Empty the inbox of a stream that no method reads any more: a reading thread that waits for
    room ends, and an error whose traceback refers to the inbox is freed."""
    try:
        while True:
            inbox.get_nowait()
    except queue.Empty:
        return


def shutting_down() -> UnavailableError:
    """SHUTTING_DOWN: ends a stream when the server stops."""
    return UnavailableError(
        "SHUTTING_DOWN",
        "This server is shutting down; retry to reach another one.",
        retry_after_seconds=0.5,
    )


def stream_expired(lifetime_seconds: float, **resume_at: object) -> UnavailableError:
    """STREAM_LIFETIME_OVER: ends a stream at the end of its lifetime. `resume_at` says where the
    caller resumes."""
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

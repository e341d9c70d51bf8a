"""Reading a stream ahead: the order of messages, and those that have arrived."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import pytest

from credit_service.domain.errors import UnavailableError
from credit_service.rpc.calls.streams import Messages, message_reader, prepare_messages, read_ahead
from credit_service.rpc.errors import DeadlineExceededError

PATIENCE_SECONDS = 10.0


def reading(
    requests: Iterable[bytes],
    *,
    idle_seconds: float = PATIENCE_SECONDS,
    stopping: threading.Event | None = None,
) -> AbstractContextManager[Messages[int]]:
    return read_ahead(iter(requests), int, idle_seconds, stopping or threading.Event())


def awaited(messages: Messages[int]) -> int:
    """Wait until the next message has arrived, and take it with `next_if`."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := messages.next_if(lambda _message: True)) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return found


def test_next_if_takes_a_waiting_message_only_if_wanted() -> None:
    with reading([b"1", b"2", b"3"]) as messages:
        assert next(messages) == 1
        assert awaited(messages) == 2
        until = time.monotonic() + PATIENCE_SECONDS
        looked_at: set[int] = set()

        def is_seen_and_not_wanted(message: int) -> bool:
            looked_at.add(message)
            return False

        while not looked_at:
            assert messages.next_if(is_seen_and_not_wanted) is None
            assert time.monotonic() < until
        assert looked_at == {3}
        # An unwanted message is still the next one.
        assert next(messages) == 3
        assert list(messages) == []
        assert messages.next_if(lambda _message: True) is None
        assert list(messages) == []


def test_next_if_does_not_wait() -> None:
    more = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        more.wait(PATIENCE_SECONDS)
        yield b"2"

    with reading(requests()) as messages:
        assert next(messages) == 1
        assert messages.next_if(lambda _message: True) is None
        more.set()
        assert list(messages) == [2]


def test_an_invalid_message_raises_in_its_order() -> None:
    with reading([b"1", b"2", b"three", b"4"]) as messages:
        assert next(messages) == 1
        assert awaited(messages) == 2
        time.sleep(0.05)
        for _ in range(2):
            assert messages.next_if(lambda _message: True) is None
            with pytest.raises(ValueError, match="three"):
                next(messages)


def test_an_idle_stream_and_one_of_a_stopping_server_end() -> None:
    silent = threading.Event()

    def requests() -> Iterator[bytes]:
        silent.wait(PATIENCE_SECONDS)
        yield from ()

    with reading(requests(), idle_seconds=0.05) as messages, pytest.raises(DeadlineExceededError):
        next(messages)
    stopping = threading.Event()
    with reading(requests(), stopping=stopping) as messages:
        stopping.set()
        with pytest.raises(UnavailableError):
            next(messages)
    silent.set()


def test_a_reading_thread_without_a_consumer_ends() -> None:
    taken = 0

    def requests() -> Iterator[bytes]:
        nonlocal taken
        while taken < 1_000:
            taken += 1
            yield b"7"

    with reading(requests()) as messages:
        assert next(messages) == 7
    until = time.monotonic() + PATIENCE_SECONDS
    while any(thread.name == "stream-reader" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.005)
    assert taken < 20


class _Service:
    def plain(self) -> None: ...

    @prepare_messages(abs)
    def prepared(self) -> None: ...


def test_a_method_gets_its_prepared_messages() -> None:
    assert message_reader(_Service().plain, int)(b"-41") == -41
    assert message_reader(_Service().prepared, int)(b"-41") == 41

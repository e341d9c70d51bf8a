"""Reading a stream ahead: what comes when, and what is here already."""

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
    """The next message, once it is here, taken as one that may be joined to others."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := messages.next_if(lambda _message: True)) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return found


def test_what_waits_is_taken_without_waiting_and_only_where_it_is_wanted() -> None:
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
        # What was not wanted is still the next one.
        assert next(messages) == 3
        assert list(messages) == []
        assert messages.next_if(lambda _message: True) is None
        assert list(messages) == []


def test_nothing_is_waited_for_that_is_not_here() -> None:
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


def test_what_is_wrong_with_a_message_is_raised_in_its_turn() -> None:
    with reading([b"1", b"2", b"three", b"4"]) as messages:
        assert next(messages) == 1
        assert awaited(messages) == 2
        time.sleep(0.05)
        for _ in range(2):
            assert messages.next_if(lambda _message: True) is None
            with pytest.raises(ValueError, match="three"):
                next(messages)


def test_silence_ends_and_so_does_a_server_that_stops() -> None:
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


def test_a_reader_that_nobody_listens_to_ends() -> None:
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


def test_a_method_is_given_what_it_asks_for() -> None:
    assert message_reader(_Service().plain, int)(b"-41") == -41
    assert message_reader(_Service().prepared, int)(b"-41") == 41

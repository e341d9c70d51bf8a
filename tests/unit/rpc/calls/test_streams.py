"""Reading a stream ahead: the order of messages, and those that have arrived."""

import gc
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress

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


class _LateError(Exception):
    """Raised by the reading thread after the end of the method."""


class _Parsed:
    """Stands for a message that is large when parsed."""


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_garbage_collection")
def test_a_rejected_message_is_freed_while_its_error_waits() -> None:
    parsed: list[weakref.ref[_Parsed]] = []

    def parse(_data: bytes) -> int:
        message = _Parsed()
        parsed.append(weakref.ref(message))
        raise ValueError("rejected")

    with read_ahead(iter([b"1"]), parse, PATIENCE_SECONDS, threading.Event()) as messages:
        until = time.monotonic() + PATIENCE_SECONDS
        while not parsed or parsed[0]() is not None:
            assert time.monotonic() < until
            time.sleep(0.001)
        with pytest.raises(ValueError, match="rejected") as raised:
            next(messages)
        # The log still shows where it was raised.
        assert raised.traceback[-1].name == "parse"


@pytest.mark.usefixtures("without_garbage_collection")
def test_a_stream_that_ends_with_an_error_is_freed_at_its_end() -> None:
    def consumed() -> weakref.ref[Messages[int]]:
        with suppress(ValueError), reading([b"1", b"two"]) as messages:
            stream = weakref.ref(messages)
            try:
                list(messages)
            finally:
                del messages
        return stream

    stream = consumed()
    until = time.monotonic() + PATIENCE_SECONDS
    # The reading thread may still be about to end.
    while stream() is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.usefixtures("without_garbage_collection")
def test_an_error_that_comes_after_the_end_is_freed() -> None:
    errors: list[weakref.ref[_LateError]] = []
    has_ended = threading.Event()

    def parse(_data: bytes) -> int:
        has_ended.wait(PATIENCE_SECONDS)
        error = _LateError()
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    with read_ahead(iter([b"1"]), parse, PATIENCE_SECONDS, threading.Event()):
        pass
    has_ended.set()
    until = time.monotonic() + PATIENCE_SECONDS
    while not errors or errors[0]() is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


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

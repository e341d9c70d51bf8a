"""Receive a call's only message before the call takes a thread.

grpc gives each call a thread when its headers arrive, and the thread waits for the message. A
caller that sends headers alone holds that thread. Here grpc's own event thread receives the
message, and the call takes a thread when the message has arrived.

This is the only module that uses private parts of grpc (`grpc._server`, `grpc._cython.cygrpc`).
`is_supported()` checks that they are those that this module was written for. Where they differ,
calls are served as grpc serves them: a thread waits for the message, for a few seconds.
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import cache
from typing import Any

import grpc
import structlog
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # grpc publishes no types for it

from credit_service.rpc.calls.pool import DONE
from credit_service.rpc.calls.shared_reads import Arrival

_NO_FLAGS = 0
_MESSAGE_TOKEN = "receive_message"  # noqa: S105 - grpc's name for the operation
_SEND_TOKEN = "send_message"  # noqa: S105 - as above
_TASK_ARGUMENTS = (
    "rpc_event",
    "state",
    "behavior",
    "argument_thunk",
    "request_deserializer",
    "response_serializer",
)

_log = structlog.get_logger(__name__)

# grpc publishes no types for them.
_private: Any = _server
_cygrpc: Any = cygrpc


@cache
def is_supported() -> bool:
    """Whether this module supports the installed grpc. Logs a warning where it does not."""
    matches = private_api_matches()
    if not matches:
        _log.warning("messages_await_threads", grpc_version=grpc.__version__)
    return matches


def private_api_matches() -> bool:
    """Whether the private parts of grpc are those that this module was written for."""
    try:
        tasks = (_private._unary_response_in_pool, _private._stream_response_in_pool)  # noqa: SLF001
        return (
            all(tuple(inspect.signature(task).parameters) == _TASK_ARGUMENTS for task in tasks)
            and _parameters(_private._receive_message)  # noqa: SLF001
            == ("state", "call", "request_deserializer")
            and _parameters(_private._status) == ("rpc_event", "state", "serialized_response")  # noqa: SLF001
            and _parameters(_private._possibly_finish_call) == ("state", "token")  # noqa: SLF001
            and _parameters(_private._get_initial_metadata_operation) == ("state", "metadata")  # noqa: SLF001
            and _parameters(_private._Context) == ("rpc_event", "state", "request_deserializer")  # noqa: SLF001
            and _private._RECEIVE_MESSAGE_TOKEN == _MESSAGE_TOKEN  # noqa: SLF001
            and callable(_cygrpc.ReceiveMessageOperation)
            and callable(_cygrpc.SendMessageOperation)
            and {"due", "request", "client", "condition", "initial_metadata_allowed"}
            <= vars(_private._RPCState()).keys()  # noqa: SLF001
        )
    except (AttributeError, TypeError, ValueError):
        return False


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


class Message(Iterator[bytes]):
    """The requests of a behavior: the call's only message, if it has one.

    `error` is set where the call was rejected before its message arrived; the behavior raises it.
    `principal` is the caller where it is already authenticated. `rejection` is set where the call
    was rejected later; the behavior raises it after it has recorded the caller and the request's
    ids.
    """

    __slots__ = ("arrival", "data", "error", "principal", "rejection")

    def __init__(
        self, data: bytes | None, *, principal: Any = None, error: Exception | None = None
    ) -> None:
        self.data = data
        self.principal = principal
        self.error = error
        self.rejection: Exception | None = None
        self.arrival: Arrival | None = None

    def __next__(self) -> bytes:
        data, self.data = self.data, None
        if data is None:
            raise StopIteration
        return data


class Incoming:
    """A call whose headers have arrived and that holds no thread."""

    __slots__ = ("_arguments", "_cancelled", "_event", "_run", "_state", "_task", "arrived_at")

    def __init__(self, run: Callable[..., Any], task: Any, arguments: tuple[Any, ...]) -> None:
        self._run, self._task = run, task
        self._event, self._state, *rest = arguments
        self._arguments = tuple(rest)
        self._cancelled = False
        self.arrived_at = time.monotonic()
        """Arrival of the headers, in seconds of time.monotonic()."""

    @property
    def metadata(self) -> Any:
        """The call's metadata: pairs of a key and a value."""
        return self._event.invocation_metadata

    @property
    def context(self) -> grpc.ServicerContext:
        """A context of the call, like the one that its behavior gets."""
        context: grpc.ServicerContext = _private._Context(self._event, self._state, None)  # noqa: SLF001
        return context

    def receive(self, on_message: Callable[["Incoming", bytes | None], None]) -> bool:
        """Receive the message. `on_message` gets it on grpc's thread; it gets None when the caller
        sends none, the caller has gone, or `cancel` was called.

        Return False when the call has already ended; `on_message` does not run then.
        """
        state = self._state
        finish = _private._receive_message(state, self._event.call, None)  # noqa: SLF001

        def received(event: Any) -> Any:
            with state.condition:
                ended = finish(event)
                data, state.request = state.request, None
            try:
                on_message(self, data)
            except Exception:  # noqa: BLE001 - logged; grpc's thread must continue
                _log.exception("call_not_begun")
                self.cancel()
            return ended

        with state.condition:
            if not _private._is_rpc_state_active(state):  # noqa: SLF001
                return False
            self._event.call.start_server_batch(
                (_cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received
            )
            state.due.add(_MESSAGE_TOKEN)
        return True

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has gone, or the server has cancelled the call."""
        return self._cancelled or not _private._is_rpc_state_active(self._state)  # noqa: SLF001

    def cancel(self) -> None:
        """End the call with CANCELLED. Thread-safe."""
        self._cancelled = True
        self._event.call.cancel()

    def serve(self, message: Message, behavior: Callable[..., Any] | None = None) -> None:
        """Run the behavior with the message on this thread and send its result. `behavior` replaces
        the method's own."""
        own, _, deserializer, serializer = self._arguments
        self._run(
            self._task,
            self._event,
            self._state,
            behavior or own,
            lambda: message,
            deserializer,
            serializer,
        )

    def send(self, data: bytes, on_sent: Callable[[], None]) -> bool:
        """Start to send one message of a response stream. `on_sent` runs on grpc's thread when the
        message has left or the call has ended. Return False when the call has already ended."""
        state = self._state

        def done(_event: Any) -> Any:
            with state.condition:
                ended = _private._possibly_finish_call(state, _SEND_TOKEN)  # noqa: SLF001
            on_sent()
            return ended

        with state.condition:
            if not _private._is_rpc_state_active(state):  # noqa: SLF001
                return False
            operations = [_cygrpc.SendMessageOperation(data, _NO_FLAGS)]
            if state.initial_metadata_allowed:
                operations.insert(0, _private._get_initial_metadata_operation(state, None))  # noqa: SLF001
                state.initial_metadata_allowed = False
            self._event.call.start_server_batch(tuple(operations), done)
            state.due.add(_SEND_TOKEN)
        return True


class MessageFirstExecutor(futures.ThreadPoolExecutor):
    """The executor of methods that take one message: it receives the message first."""

    def __init__(
        self, on_call: Callable[[Incoming], None], fallback: futures.ThreadPoolExecutor
    ) -> None:
        """`on_call` gets each call on grpc's thread and must not block. `fallback` serves calls
        that grpc does not hand over in the known way."""
        super().__init__(max_workers=1)  # it starts none: `submit` is replaced
        self._on_call = on_call
        self._fallback = fallback
        self._is_supported = is_supported()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Any:
        """Hand the call to `on_call`."""
        if self._is_supported and len(args) == len(_TASK_ARGUMENTS) + 1:
            self._on_call(Incoming(fn, args[0], args[1:]))
        else:
            self._fallback.submit(fn, *args)
        return DONE


class PendingMessages:
    """Calls whose message has not arrived, bounded in number and time. Thread-safe.

    Beyond `limit` calls the oldest is cancelled: a message usually follows its headers at once, so
    the oldest is the most likely to be held back by its caller.
    """

    def __init__(self, limit: int, seconds: float, on_cancel: Callable[[], None]) -> None:
        """`seconds` is the longest wait for a message. `on_cancel` runs for each call that is
        cancelled here."""
        self._limit = limit
        self._seconds = seconds
        self._on_cancel = on_cancel
        self._calls: dict[Incoming, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Incoming) -> None:
        """Add a call before its message is received."""
        with self._lock:
            self._calls[call] = None
            oldest = next(iter(self._calls)) if len(self._calls) > self._limit else None
            if oldest is not None:
                del self._calls[oldest]
        if oldest is not None:
            self._cancel(oldest)

    def remove(self, call: Incoming) -> None:
        """Remove a call whose message has arrived or will not arrive."""
        with self._lock:
            self._calls.pop(call, None)

    def expire(self, now: float) -> None:
        """Cancel the calls that waited too long; `now` in seconds of time.monotonic()."""
        while True:
            with self._lock:
                oldest = next(iter(self._calls), None)
                if oldest is None or now - oldest.arrived_at < self._seconds:
                    return
                del self._calls[oldest]
            self._cancel(oldest)

    def _cancel(self, call: Incoming) -> None:
        self._on_cancel()
        call.cancel()

"""Serve the health service without threads, so that checks never wait behind other calls."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from credit_service.domain.errors import InvalidRequestError
from credit_service.observability import metrics
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.deadlines import DeadlineWatcher
from credit_service.rpc.calls.incoming import (
    Incoming,
    Message,
    MessageFirstExecutor,
    PendingMessages,
)
from credit_service.rpc.calls.methods import (
    HEALTH_WATCH,
    Handler,
    kind_and_behavior,
    request_parser,
    stream_handler_factory,
)
from credit_service.rpc.calls.pool import OnExecutor, ServingPool


class HealthCalls:
    """Serves health checks and watches on grpc's own thread. Thread-safe."""

    def __init__(
        self, serve_watch: Callable[[Incoming, bytes], None], watcher: DeadlineWatcher
    ) -> None:
        """`serve_watch` serves a `Watch` with the bytes of its message."""
        self._serve_watch = serve_watch
        self._watcher = watcher
        self.pending_messages = PendingMessages(
            bounds.MAX_HEALTH_PENDING,
            bounds.HEALTH_MESSAGE_SECONDS,
            metrics.calls_without_message.inc,
        )
        # Idle where `incoming` supports the grpc release.
        self._fallback_pool = ServingPool(bounds.HEALTH_THREADS)

    def close(self) -> None:
        """End the threads."""
        self._fallback_pool.shutdown()

    def should_shed(self, _now: float) -> bool:
        """Whether too many health checks wait for a thread."""
        return self._fallback_pool.waiting >= bounds.MAX_HEALTH_WAITING

    def handler(self, method: str, handler: Handler) -> Handler:
        """A handler that serves the method of `handler` without a thread.

        Any caller may call it, so it waits for the request message only briefly.
        """
        _, behavior = kind_and_behavior(handler)
        parse = request_parser(handler.request_deserializer)

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext, *send: Any) -> Any:
            # Where `incoming` cannot receive the message, a thread waits for it.
            pending = _PendingMessage(context, time.monotonic() + bounds.HEALTH_MESSAGE_SECONDS)
            self._watcher.watch(pending)
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            finally:
                self._watcher.release(pending)
            return behavior(request, context, *send)

        def check(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            return behavior(request, context)

        def on_message(incoming: Incoming, data: bytes | None) -> None:
            self.pending_messages.remove(incoming)
            if incoming.is_cancelled:
                return
            if method == HEALTH_WATCH:
                self._serve_watch(incoming, data or b"")
            else:
                incoming.serve(Message(data), check)

        def on_call(incoming: Incoming) -> None:
            self.pending_messages.add(incoming)
            if not incoming.receive(on_message):
                self.pending_messages.remove(incoming)

        # grpc calls the behavior of a health watch back and holds no thread for it.
        not_blocking = getattr(behavior, "experimental_non_blocking", False)
        answer.experimental_non_blocking = not_blocking  # type: ignore[attr-defined]  # for grpc
        executor = MessageFirstExecutor(on_call, self._fallback_pool)
        serving = OnExecutor(answer, executor)
        return stream_handler_factory(handler)(serving, None, handler.response_serializer)


class _PendingMessage:
    """A call whose message has not arrived, as the deadline watcher sees it."""

    def __init__(self, context: grpc.ServicerContext, deadline: float) -> None:
        self._context = context
        self._deadline = deadline

    def is_cancelled(self, now: float) -> bool:
        """Whether the wait has timed out; `now` in seconds of time.monotonic()."""
        return now >= self._deadline

    def stop(self) -> None:
        """Cancel the call."""
        self._context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out

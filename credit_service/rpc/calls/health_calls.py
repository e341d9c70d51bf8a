"""Calls of the health service, which take no thread and wait for none."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from credit_service.domain.errors import InvalidRequestError
from credit_service.observability import metrics
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.deadlines import Warden
from credit_service.rpc.calls.incoming import Incoming, Message, MessageFirst, Waiting
from credit_service.rpc.calls.methods import (
    HEALTH_WATCH,
    Handler,
    parser,
    taken_apart,
    taking_streams,
)
from credit_service.rpc.calls.pool import OnExecutor, ServingPool


class HealthCalls:
    """Health checks never wait behind the calls that they are about. Safe to share."""

    def __init__(self, watch_health: Callable[[Incoming, bytes], None], warden: Warden) -> None:
        """`watch_health` serves a watch of the health."""
        self._watch_health = watch_health
        self._warden = warden
        self.awaiting = Waiting(
            bounds.MAX_HEALTH_AWAITED,
            bounds.HEALTH_MESSAGE_SECONDS,
            metrics.calls_without_message.inc,
        )
        # As a rule grpc's thread answers them, and these threads start none.
        self._aside = ServingPool(bounds.HEALTH_THREADS)

    def close(self) -> None:
        """End the threads."""
        self._aside.shutdown()

    def sheds(self, _now: float) -> bool:
        """Whether more health checks wait for a thread than there should be."""
        return self._aside.waiting >= bounds.MAX_HEALTH_WAITING

    def handler(self, method: str, handler: Handler) -> Handler:
        """The same handler of the health service, which takes no thread and waits for none.

        Anyone may call it, so it has little patience with callers that do not send their message.
        """
        _, behavior = taken_apart(handler)
        parse = parser(handler.request_deserializer)

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext, *send: Any) -> Any:
            # Where `incoming` cannot receive the message, a thread waits for it.
            awaited = _Awaited(context, time.monotonic() + bounds.HEALTH_MESSAGE_SECONDS)
            self._warden.watch(awaited)
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            finally:
                self._warden.release(awaited)
            return behavior(request, context, *send)

        def check(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            try:
                request = parse(next(requests, b""))
            except InvalidRequestError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            return behavior(request, context)

        def arrived(incoming: Incoming, data: bytes | None) -> None:
            self.awaiting.remove(incoming)
            if incoming.gone:
                return
            if method == HEALTH_WATCH:
                self._watch_health(incoming, data or b"")
            else:
                incoming.serve(Message(data), check)

        def enter(incoming: Incoming) -> None:
            self.awaiting.add(incoming)
            if not incoming.receive(arrived):
                self.awaiting.remove(incoming)

        # A watch of the health takes no thread: it is called back.
        not_blocking = getattr(behavior, "experimental_non_blocking", False)
        answer.experimental_non_blocking = not_blocking  # type: ignore[attr-defined]  # for grpc
        aside = OnExecutor(answer, MessageFirst(enter, self._aside))
        return taking_streams(handler)(aside, None, handler.response_serializer)


class _Awaited:
    """A call that has not sent its message yet, as the warden sees it."""

    def __init__(self, context: grpc.ServicerContext, until: float) -> None:
        self._context = context
        self._until = until

    def unwanted(self, now: float) -> bool:
        """Whether it has been awaited for long enough."""
        return now >= self._until

    def stop(self) -> None:
        """Wait for it no longer."""
        self._context.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out

"""Serve calls of the four kinds on a thread: admit, parse, run the method, send."""

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import grpc

from credit_service.observability.metrics import MethodMetrics
from credit_service.rpc.calls import bounds
from credit_service.rpc.calls.access_log import AccessLog
from credit_service.rpc.calls.admission import Admission
from credit_service.rpc.calls.call import Call, read_call_id
from credit_service.rpc.calls.deadlines import DeadlineWatcher
from credit_service.rpc.calls.dispatch import Lane
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.limits import StreamCapacity
from credit_service.rpc.calls.methods import BATCHES, KINDS, Behavior, Parse, is_reflection
from credit_service.rpc.calls.rejections import UNKNOWN_METHOD, overloaded
from credit_service.rpc.calls.streams import Messages, message_reader, read_ahead


class Serving:
    """Runs servicer methods inside a `Call`. Thread-safe."""

    def __init__(
        self,
        admission: Admission,
        metrics_by_method: Mapping[str, MethodMetrics],
        watcher: DeadlineWatcher,
        access_log: AccessLog | None,
        *,
        streams: StreamCapacity,
        reflection_streams: StreamCapacity,
        max_concurrent_calls: int,
        default_deadline_seconds: float,
        stream_idle_seconds: float,
        stream_lifetime_seconds: float,
        stopping: threading.Event,
    ) -> None:
        """Idle streams end with SHUTTING_DOWN when `stopping` is set."""
        self._admission = admission
        self._metrics = metrics_by_method
        self._watcher = watcher
        self._access_log = access_log
        self._streams = streams
        self._reflection_streams = reflection_streams
        self._max_concurrent_calls = max_concurrent_calls
        self._default_deadline_seconds = default_deadline_seconds
        self._stream_idle_seconds = stream_idle_seconds
        self._stream_lifetime_seconds = stream_lifetime_seconds
        self._stopping = stopping

    def unary_unary(
        self,
        lane: Lane,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Any:
        with self._call(method, context, self._default_deadline_seconds) as call:
            if lane.shedder.waited_too_long():
                raise overloaded(self._max_concurrent_calls, random.uniform(0.1, 0.5))  # noqa: S311 - no secret
            self._admission.admit(call, requests)
            data = call.request_bytes(requests)
            request = call.record_ids(parse(data))
            if isinstance(requests, Message):
                if requests.rejection is not None:
                    raise requests.rejection
                call.arrival = requests.arrival
            if method not in BATCHES:
                return call.record_ids(behavior(request, context))
            self._admission.charge(
                call, min(len(request.asks), bounds.MAX_ASKS) / bounds.ASKS_PER_CALL
            )
            # The response names the records of the request.
            return behavior(request, context)

    def unary_stream(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._stream_call(method, context) as call:
            self._admission.admit(call, requests)
            data = call.request_bytes(requests)
            with self._admission.stream_slot(call, self._streams):
                request = call.record_received(parse(data))
                yield from call.recorded_sent(behavior(request, context))
                call.raise_if_stopped()

    def stream_unary(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Any:
        with self._stream_call(method, context) as call:
            self._admission.admit(call, requests)
            with (
                self._admission.stream_slot(call, self._streams, may_use_reserve=True),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                return call.record_ids(behavior(messages, context))

    def stream_stream(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._stream_call(method, context) as call:
            self._admission.admit(call, requests)
            reflects = is_reflection(method)
            capacity = self._reflection_streams if reflects else self._streams
            with (
                self._admission.stream_slot(call, capacity, may_use_reserve=not reflects),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                yield from call.recorded_sent(behavior(messages, context))
                call.raise_if_stopped()

    def _call(self, method: str, context: grpc.ServicerContext, default_seconds: float) -> Call:
        """The `Call` of an incoming call. Never fails."""
        call_id, traceparent = read_call_id(context)
        # grpc reports centuries where the caller set no deadline.
        timeout_seconds = context.time_remaining()
        if timeout_seconds > bounds.NO_LIMIT_SECONDS:
            timeout_seconds = default_seconds
        return Call(
            method,
            call_id,
            timeout_seconds,
            context,
            self._metrics.get(method, UNKNOWN_METHOD),
            self._watcher,
            traceparent,
            self._access_log,
            KINDS.get(method, "read"),
        )

    def _stream_call(self, method: str, context: grpc.ServicerContext) -> Call:
        call = self._call(method, context, bounds.NO_LIMIT_SECONDS)
        call.lifetime_seconds = self._stream_lifetime_seconds
        if is_reflection(method):
            call.lifetime_seconds = min(call.lifetime_seconds, bounds.REFLECTION_LIFETIME_SECONDS)
        return call

    def _messages(
        self, requests: Iterator[bytes], parse: Parse, behavior: Behavior, call: Call
    ) -> AbstractContextManager[Messages[Any]]:
        call.messages_received, call.messages_sent = 0, 0
        read = message_reader(behavior, lambda data: call.record_received(parse(data)))
        idle_seconds = self._stream_idle_seconds
        if is_reflection(call.method):
            idle_seconds = min(idle_seconds, bounds.REFLECTION_IDLE_SECONDS)
        return read_ahead(requests, read, idle_seconds, self._stopping, call.raise_if_expired)

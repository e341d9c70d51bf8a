"""Serves calls of the four kinds on a thread: admission, request, work, answer."""

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
from credit_service.rpc.calls.call import Call, named
from credit_service.rpc.calls.deadlines import Warden
from credit_service.rpc.calls.dispatch import Lane
from credit_service.rpc.calls.incoming import Message
from credit_service.rpc.calls.limits import StreamRoom
from credit_service.rpc.calls.methods import KINDS, Behavior, Parse, is_reflection
from credit_service.rpc.calls.rejections import UNKNOWN_METHOD, overloaded
from credit_service.rpc.calls.streams import Messages, read_ahead, reader_of


class Serving:
    """The work around a servicer's method. Safe to share between threads."""

    def __init__(
        self,
        admission: Admission,
        counters: Mapping[str, MethodMetrics],
        warden: Warden,
        access: AccessLog | None,
        *,
        streams: StreamRoom,
        reflection_streams: StreamRoom,
        max_concurrent_calls: int,
        default_deadline_seconds: float,
        stream_idle_seconds: float,
        stream_lifetime_seconds: float,
        stopping: threading.Event,
    ) -> None:
        """`counters` are the metrics of methods by path. When `stopping` is set, silent streams end
        with SHUTTING_DOWN."""
        self._admission = admission
        self._metrics = counters
        self._warden = warden
        self._access = access
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
        with self._begin(method, context, self._default_deadline_seconds) as call:
            if lane.shedder.too_late():
                raise overloaded(self._max_concurrent_calls, random.uniform(0.1, 0.5))  # noqa: S311 - no secret
            self._admission.admit(call, requests)
            data = call.only_message(requests)
            request = call.note(parse(data))
            if isinstance(requests, Message) and requests.refusal is not None:
                raise requests.refusal
            return call.note(behavior(request, context))

    def unary_stream(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._begin_stream(method, context) as call:
            self._admission.admit(call, requests)
            data = call.only_message(requests)
            with self._admission.stream_slot(call, self._streams):
                request = call.note_received(parse(data))
                yield from call.noted_sent(behavior(request, context))
                call.ensure_not_stopped()

    def stream_unary(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Any:
        with self._begin_stream(method, context) as call:
            self._admission.admit(call, requests)
            with (
                self._admission.stream_slot(call, self._streams, kept=True),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                return call.note(behavior(messages, context))

    def stream_stream(
        self,
        method: str,
        behavior: Behavior,
        parse: Parse,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[Any]:
        with self._begin_stream(method, context) as call:
            self._admission.admit(call, requests)
            reflects = is_reflection(method)
            room = self._reflection_streams if reflects else self._streams
            with (
                self._admission.stream_slot(call, room, kept=not reflects),
                self._messages(requests, parse, behavior, call) as messages,
            ):
                yield from call.noted_sent(behavior(messages, context))
                call.ensure_not_stopped()

    def _begin(self, method: str, context: grpc.ServicerContext, default_seconds: float) -> Call:
        """The call as it comes in. Never fails."""
        call_id, caller = named(context)
        # Without a deadline of the caller's grpc tells one of centuries.
        timeout_seconds = context.time_remaining()
        if timeout_seconds > bounds.NO_LIMIT_SECONDS:
            timeout_seconds = default_seconds
        return Call(
            method,
            call_id,
            timeout_seconds,
            context,
            self._metrics.get(method, UNKNOWN_METHOD),
            self._warden,
            caller,
            self._access,
            KINDS.get(method, "read"),
        )

    def _begin_stream(self, method: str, context: grpc.ServicerContext) -> Call:
        call = self._begin(method, context, bounds.NO_LIMIT_SECONDS)
        call.lifetime_seconds = self._stream_lifetime_seconds
        if is_reflection(method):
            call.lifetime_seconds = min(call.lifetime_seconds, bounds.REFLECTION_LIFETIME_SECONDS)
        return call

    def _messages(
        self, requests: Iterator[bytes], parse: Parse, behavior: Behavior, call: Call
    ) -> AbstractContextManager[Messages[Any]]:
        call.messages_received, call.messages_sent = 0, 0
        read = reader_of(behavior, lambda data: call.note_received(parse(data)))
        idle_seconds = self._stream_idle_seconds
        if is_reflection(call.method):
            idle_seconds = min(idle_seconds, bounds.REFLECTION_IDLE_SECONDS)
        return read_ahead(requests, read, idle_seconds, self._stopping, call.ensure_lasting)

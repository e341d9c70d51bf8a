"""Retries of calls: which failures are worth a retry, how long, and with which pauses."""

import random
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from credit_service_client.errors import ServiceError, decoded

WORTH_REPEATING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
"""Statuses of a lost connection, a stopping server and a busy server. The call may have taken
effect: a repeat with the same request id returns the stored response."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts and retries of a transfer.

    It gives up `give_up_seconds` after the first failure since the last committed row. The pause
    between retries doubles from `first_pause_seconds` up to `longest_pause_seconds`. A stream that
    accepts no message for `stall_seconds` counts as broken. A unary call times out after
    `call_timeout_seconds`, a download after `download_timeout_seconds`.
    """

    give_up_seconds: float = 60.0
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 5.0
    stall_seconds: float = 60.0
    call_timeout_seconds: float = 10.0
    download_timeout_seconds: float = 600.0

    def pause(self, attempt: int, error: ServiceError) -> float:
        """Return the seconds to wait after consecutive failure number `attempt`, from 0."""
        backoff = min(self.first_pause_seconds * 2.0**attempt, self.longest_pause_seconds)
        spread: float = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - a pause, no secret
        return max(spread, min(error.retry_after_seconds or 0.0, self.longest_pause_seconds))


class RetryingMethod:
    """A method that returns its response, or raises ServiceError.

    It gives a write without a request id a random one, and repeats a call that failed for a reason
    of WORTH_REPEATING, always with the same id, until `timeout` seconds are over: by default
    `patience.give_up_seconds`. One attempt takes at most `patience.call_timeout_seconds`.

    To find the effect of a write after a crash of this program, choose the id yourself and store it
    before the call.
    """

    def __init__(self, method: Any, patience: Patience) -> None:
        self._method = method
        self._patience = patience

    def __call__(self, request: Any, timeout: float | None = None, **options: Any) -> Any:
        """Return the response. Raises ServiceError."""
        request = with_request_id(request)
        patience = self._patience
        ends = time.monotonic() + (patience.give_up_seconds if timeout is None else timeout)
        failures = 0
        while True:
            left = max(0.0, ends - time.monotonic())
            try:
                return self._method(
                    request,
                    timeout=min(left, patience.call_timeout_seconds),
                    **options,
                )
            except grpc.RpcError as failed:
                error = decoded(failed)
            pause_seconds = patience.pause(failures, error)
            if error.code not in WORTH_REPEATING or time.monotonic() + pause_seconds >= ends:
                raise error
            failures += 1
            time.sleep(pause_seconds)

    def with_call(self, request: Any, **options: Any) -> Any:
        """Call once, without retries: return the response and its call. Raises grpc.RpcError."""
        return self._method.with_call(with_request_id(request), **options)

    def future(self, request: Any, **options: Any) -> Any:
        """Call once, without retries: return a future of the response."""
        return self._method.future(with_request_id(request), **options)


def with_request_id(request: Message) -> Message:
    """Return the request; a copy with a random id if it has an empty `request_id`."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request.request_id:  # type: ignore[attr-defined]
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid4())  # type: ignore[attr-defined]
    return copy

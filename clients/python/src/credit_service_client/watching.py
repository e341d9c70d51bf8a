"""Events as they happen, across lost connections, restarts of the service and new tokens."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from credit_service.v1.credit_service_pb2 import WatchCreditEventsRequest, WatchCreditEventsResponse
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError, decoded_errors
from credit_service_client.retrying import Patience

# After this time the stream is reopened: a connection can be dead without either side noticing.
_WATCH_SECONDS = 300.0

Resuming = Callable[[ServiceError, int, float], object]
"""Called before a pause with the failure, the last event id reached, and the pause in seconds."""


def watch(
    service: CreditServiceStub,
    request: WatchCreditEventsRequest,
    patience: Patience,
    resuming: Resuming = lambda _error, _event_id, _pause: None,
    *,
    renews_token: bool = False,
) -> Iterator[WatchCreditEventsResponse]:
    """Yield events and heartbeats without end, every event once and in order.

    After a failure, the stream starts again after the last event or heartbeat. It ends only with
    ServiceError: for a rejection, and after `patience.give_up_seconds` without any message. With
    `renews_token`, an expired token counts as a lost connection: the next call can carry a new one.
    """
    position = WatchCreditEventsRequest()
    position.CopyFrom(request)
    failures, give_up_at = 0, 0.0
    admitted = False
    while True:
        received = False
        try:
            for response in _stream(service, position):
                received = admitted = True
                if response.HasField("heartbeat"):
                    # Events that the filter left out need not be sent again.
                    reached = max(position.after_event_id, response.heartbeat.last_event_id)
                    position.after_event_id = reached
                else:
                    position.after_event_id = response.event.event_id
                yield response
            # A stopping server ends its streams without an error.
            error = ServiceError(grpc.StatusCode.UNAVAILABLE, "The server closed the stream.")
        except ServiceError as failed:
            error = failed
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and received:
            continue
        unauthenticated = error.code is grpc.StatusCode.UNAUTHENTICATED
        expired = renews_token and admitted and unauthenticated
        if not (error.unavailable or expired):
            raise error
        if received or not failures:
            failures, give_up_at = 0, time.monotonic() + patience.give_up_seconds
        if time.monotonic() >= give_up_at:
            raise error
        pause_seconds = patience.pause(failures, error)
        failures += 1
        resuming(error, position.after_event_id, pause_seconds)
        time.sleep(pause_seconds)


def _stream(
    service: CreditServiceStub, request: WatchCreditEventsRequest
) -> Iterator[WatchCreditEventsResponse]:
    with decoded_errors():
        # Without a server it fails at once, instead of waiting for one until its timeout.
        call: Any = service.WatchCreditEvents(request, timeout=_WATCH_SECONDS, wait_for_ready=False)
        try:
            yield from call
        finally:
            call.cancel()

"""`events` prints events as they happen, and resumes after a lost connection or expired token."""

import json
import time
from dataclasses import dataclass
from typing import Any

import grpc
from rich.text import Text

from credit_service.cli.common import ExitCode, Target
from credit_service.cli.connection import (
    CONNECT_TIMEOUT_SECONDS,
    await_ready,
    opened,
    reads_token_file,
)
from credit_service.cli.output import as_dict, instant, note, out
from credit_service.client.channel import ServiceError, decoded_errors
from credit_service.client.event_text import describe
from credit_service.client.ingestion import Patience
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import event_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub

# After this time the stream is reopened: a connection can be dead without either side noticing.
_WATCH_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class EventOptions:
    """Options of `events`. Without `follow` it ends after the last stored event."""

    after_event_id: int
    customer_id: int | None
    types: tuple[str, ...]
    follow: bool


def follow(
    target: Target, options: EventOptions, *, as_json: bool, patience: Patience | None = None
) -> int:
    """Print events as they happen. Resume after the last printed event if the connection is lost,
    or if the token expires and the token file has a new one.

    Raises ServiceError if the service rejects the call, or if for as long as `patience` allows no
    server responds or the token file has no valid token.
    """
    patience = patience or Patience()
    tail = _Tail(options, as_json=as_json)
    failures, give_up_at = 0, 0.0
    channel = opened(target)
    try:
        await_ready(channel, target, CONNECT_TIMEOUT_SECONDS)
        while True:
            before = tail.messages
            try:
                tail.follow(channel)
            except ServiceError as error:
                if error.reason == "EVENTS_EXPIRED":
                    oldest = int(error.metadata["oldest_event_id"])
                    note(
                        f"Events {tail.last_event_id + 1} to {oldest - 1} are no longer kept. "
                        f"Continue after them with --after {oldest - 1}"
                    )
                if error.code == grpc.StatusCode.DEADLINE_EXCEEDED and tail.messages > before:
                    continue
                token_is_over = (
                    error.code == grpc.StatusCode.UNAUTHENTICATED
                    and tail.messages > 0
                    and reads_token_file(target)
                )
                if not error.unavailable and not token_is_over:
                    raise
                if tail.messages > before or not failures:
                    failures, give_up_at = 0, time.monotonic() + patience.give_up_seconds
                if time.monotonic() >= give_up_at:
                    note(f"Resume later with --after {tail.last_event_id}")
                    raise
                pause_seconds = patience.pause(failures, error)
                failures += 1
                note(
                    f"Connection lost ({error.lines()[0]}). Resuming after event "
                    f"{tail.last_event_id} in {pause_seconds:.1f} s …"
                )
            else:
                return ExitCode.GOOD
            time.sleep(pause_seconds)
            if token_is_over:
                channel.close()
                # The file can be missing for a moment while it is replaced.
                channel = opened(target, without_token_file=True)
            await_ready(channel, target, max(0.1, give_up_at - time.monotonic()))
    finally:
        channel.close()


class _Tail:
    """Reads one stream after the other. Each starts after the last event of the one before."""

    def __init__(self, options: EventOptions, *, as_json: bool) -> None:
        self._options = options
        self._as_json = as_json
        self.last_event_id = options.after_event_id
        self.messages = 0
        values = event_pb2.CreditEventType.Value
        self._types = [values(f"CREDIT_EVENT_TYPE_{each}") for each in options.types]

    def follow(self, channel: grpc.Channel) -> None:
        """Print all requested events. Raises ServiceError if the stream ends."""
        request = pb.WatchCreditEventsRequest(
            after_event_id=self.last_event_id,
            customer_id=self._options.customer_id,
            event_types=self._types,
        )
        stub = CreditServiceStub(channel)
        with decoded_errors():
            call: Any = stub.WatchCreditEvents(request, timeout=_WATCH_SECONDS)
            try:
                for response in call:
                    self.messages += 1
                    if response.HasField("heartbeat"):
                        reached = response.heartbeat.last_event_id
                        self.last_event_id = max(self.last_event_id, reached)
                        if not self._options.follow:
                            return
                    else:
                        self._show(response.event)
                        self.last_event_id = response.event.event_id
            finally:
                call.cancel()
        # A stopping server ends its streams without an error.
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, "The server closed the stream.")

    def _show(self, event: event_pb2.CreditEvent) -> None:
        if self._as_json:
            # One event per line, so that a program can read the stream.
            out.print(Text(json.dumps(as_dict(event), ensure_ascii=False)), soft_wrap=True)
            return
        kind = event.WhichOneof("payload") or "unknown"
        text = describe(event)
        detail = f": {text.detail}" if text.detail else ""
        origin = f" ({text.origin})" if text.origin else ""
        out.print(
            Text.assemble(
                (f"{event.event_id:>8}  ", "dim"),
                f"{instant(event.time)}  ",
                (f"{kind:20}", "bold"),
                f" {text.title}{detail}{origin}",
            ),
            soft_wrap=True,
        )

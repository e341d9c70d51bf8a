"""`events` prints events as they happen, and resumes after a lost connection or expired token."""

from dataclasses import dataclass

from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import (
    CONNECT_TIMEOUT_SECONDS,
    await_ready,
    opened,
    reads_token_file,
)
from credit_service.cli.output import Listing, as_dict, instant, note, out, print_json_line
from credit_service.client.event_text import describe
from credit_service.v1 import event_pb2
from credit_service.v1.credit_service_pb2 import WatchCreditEventsRequest
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError
from credit_service_client.retrying import Patience
from credit_service_client.watching import watch


@dataclass(frozen=True, slots=True)
class EventOptions:
    """Options of `events`. Without `follow` it ends after the last stored event."""

    after_event_id: int
    customer_id: int | None
    types: tuple[str, ...]
    follow: bool


def follow(
    target: Target, options: EventOptions, form: Format, *, patience: Patience | None = None
) -> int:
    """Print events as they happen. Resume after the last printed event if the connection is lost,
    or if the token expires and the token file has a new one.

    Raises ServiceError if the service rejects the call, or if for as long as `patience` allows no
    server responds or the token file has no valid token.
    """
    values = event_pb2.CreditEventType.Value
    request = WatchCreditEventsRequest(
        after_event_id=options.after_event_id,
        customer_id=options.customer_id,
        event_types=[values(f"CREDIT_EVENT_TYPE_{each}") for each in options.types],
    )
    reached = options.after_event_id
    if form.csv:
        _record().print_csv()
    with opened(target) as channel:
        await_ready(channel, target, CONNECT_TIMEOUT_SECONDS)
        responses = watch(
            CreditServiceStub(channel),
            request,
            patience or Patience(),
            _resuming,
            renews_token=reads_token_file(target),
        )
        try:
            for response in responses:
                if response.HasField("event"):
                    reached = response.event.event_id
                    _show(response.event, form)
                elif options.follow:
                    reached = max(reached, response.heartbeat.last_event_id)
                else:
                    return ExitCode.GOOD
        except ServiceError as error:
            if error.reason == "EVENTS_EXPIRED":
                oldest = int(error.metadata["oldest_event_id"])
                note(
                    f"Events {reached + 1} to {oldest - 1} are no longer kept. "
                    f"Continue after them with --after {oldest - 1}"
                )
            elif error.unavailable:
                note(f"Resume later with --after {reached}")
            raise
    return ExitCode.GOOD


def _resuming(error: ServiceError, event_id: int, pause_seconds: float) -> None:
    note(
        f"Connection lost ({error.lines()[0]}). Resuming after event {event_id} in "
        f"{pause_seconds:.1f} s …"
    )


def _record(*cells: str) -> Listing:
    """Return an event as a record, or none without cells."""
    table = Listing("event", "time", "type", "customer", "title", "detail", "origin")
    if cells:
        table.add(*cells)
    return table


def _show(event: event_pb2.CreditEvent, form: Format) -> None:
    if form.json:
        print_json_line(as_dict(event))
        return
    kind = event.WhichOneof("payload") or "unknown"
    text = describe(event)
    if form.csv:
        customer = str(event.customer_id or "")
        record = _record(
            str(event.event_id), event.time.ToJsonString(), kind, customer,
            text.title, text.detail, text.origin,
        )  # fmt: skip
        record.print_csv(names=False)
        return
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

"""Events as lines of the live feed."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from credit_service.client import event_text
from credit_service.v1 import event_pb2

_TONES = {"loan_created": "approved", "loan_declined": "declined"}


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as a line of the feed."""

    event_id: int
    time: Any
    tone: str
    title: str
    detail: str
    href: str


def describe(event: event_pb2.CreditEvent) -> EventLine:
    """Return an event in words, with its tone and the page that it leads to ('' for none)."""
    text = event_text.describe(event)
    tone = _TONES.get(event.WhichOneof("payload") or "", "neutral")
    return EventLine(event.event_id, event.time, tone, text.title, text.detail, _href(event))


_OF_DECISIONS = frozenset(
    {"loan_created", "loan_declined", "decision_referred", "decision_reviewed"}
)


def _href(event: event_pb2.CreditEvent) -> str:
    customer = f"/qa/customers/{event.customer_id}"
    match event.WhichOneof("payload"):
        case "customer_registered" | "score_changed" | "asset_class_changed":
            return customer
        case str(payload) if payload in _OF_DECISIONS:
            return f"/qa/decisions/{getattr(event, payload).decision_id}"
        case "loan_offer_created":
            return f"/qa/offers/{event.loan_offer_created.offer.offer_id}"
        case "loan_offer_ended":
            return f"/qa/offers/{event.loan_offer_ended.offer_id}"
        case "payment_recorded":
            return f"{customer}/loans/{event.payment_recorded.payment.loan_id}"
        case "loan_closed" | "payment_reversed" | "loan_prepaid" as payload:
            return f"{customer}/loans/{getattr(event, payload).loan_id}"
        case "rows_ingested":
            return f"/qa/ingestions/{event.rows_ingested.ingestion_id}"
        case "customer_updated" if event.customer_updated.ingestion_id:
            return f"/qa/ingestions/{event.customer_updated.ingestion_id}"
        case "customer_updated":
            return customer
        case "loan_updated":
            return f"/qa/ingestions/{event.loan_updated.ingestion_id}"
        case "scorecard_changed":
            version = event.scorecard_changed.change.version
            return f"/qa/scorecards/{quote(version, safe='')}" if version else "/qa/scorecards"
    return ""

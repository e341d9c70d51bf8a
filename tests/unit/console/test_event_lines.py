"""Events as lines of the feed: tone and link."""

import pytest

from credit_service.console.event_lines import describe
from credit_service.v1 import event_pb2
from credit_service.v1.event_pb2 import CreditEvent


@pytest.mark.parametrize(
    ("payload", "tone", "href"),
    [
        ({"customer_registered": {}}, "neutral", "/qa/customers/101"),
        ({"loan_created": {"decision_id": 5}}, "approved", "/qa/decisions/5"),
        ({"loan_declined": {"decision_id": 6}}, "declined", "/qa/decisions/6"),
        ({"payment_recorded": {"payment": {"loan_id": 9}}}, "neutral", "/qa/customers/101/loans/9"),
        ({"loan_closed": {"loan_id": 9}}, "neutral", "/qa/customers/101/loans/9"),
        ({"payment_reversed": {"loan_id": 9}}, "neutral", "/qa/customers/101/loans/9"),
        ({"loan_prepaid": {"loan_id": 9}}, "neutral", "/qa/customers/101/loans/9"),
        ({"score_changed": {}}, "neutral", "/qa/customers/101"),
        ({"rows_ingested": {"ingestion_id": "id"}}, "neutral", "/qa/ingestions/id"),
        ({"customer_updated": {"ingestion_id": "id"}}, "neutral", "/qa/ingestions/id"),
        ({"customer_updated": {}}, "neutral", "/qa/customers/101"),
        ({"loan_updated": {"ingestion_id": "id"}}, "neutral", "/qa/ingestions/id"),
        ({"loan_offer_created": {"offer": {"offer_id": 8}}}, "neutral", "/qa/offers/8"),
        ({"loan_offer_ended": {"offer_id": 8}}, "neutral", "/qa/offers/8"),
        (
            {"scorecard_changed": {"change": {"version": "a-1"}}},
            "neutral",
            "/qa/scorecards/a-1",
        ),
        ({}, "neutral", ""),
    ],
)
def test_an_event_has_a_tone_and_links_to_its_page(
    payload: dict[str, object], tone: str, href: str
) -> None:
    event = CreditEvent(event_id=7, customer_id=101, **payload)  # type: ignore[arg-type]
    line = describe(event)
    assert (line.event_id, line.tone, line.href) == (7, tone, href)
    assert line.title


def test_every_type_of_event_leads_to_a_page() -> None:
    payloads = CreditEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    for field in payloads:
        event = CreditEvent(event_id=7, customer_id=101)
        getattr(event, field.name).SetInParent()
        assert describe(event).href, field.name
    assert len(payloads) == len(event_pb2.CreditEventType.values()) - 1

"""Events as lines of the feed."""

import pytest

from credit_service.console import formats
from credit_service.console.feed import describe
from credit_service.v1 import decision_pb2, event_pb2, ingestion_pb2
from credit_service.v1.event_pb2 import CreditEvent

MONEY = formats.money_of(10_000_000)


def event(payload: dict[str, object]) -> CreditEvent:
    return CreditEvent(event_id=7, customer_id=101, **payload)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("payload", "tone", "title", "detail", "href"),
    [
        (
            {"customer_registered": {"approved_limit": MONEY}},
            "neutral",
            "Customer 101 registered",
            "limit ₹1,00,000",
            "/qa/customers/101",
        ),
        (
            {
                "loan_created": {
                    "decision_id": 5,
                    "loan": {
                        "loan_id": 9,
                        "loan_amount": MONEY,
                        "tenure_months": 12,
                        "interest_rate": {"value": "12"},
                    },
                }
            },
            "approved",
            "Loan 9 booked for customer 101",
            "₹1,00,000 over 12 months at 12 %",
            "/qa/decisions/5",
        ),
        (
            {
                "loan_declined": {
                    "decision_id": 6,
                    "ask": {"loan_amount": MONEY},
                    "reason_codes": [decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY],
                }
            },
            "declined",
            "Customer 101 declined",
            "₹1,00,000: No credit history",
            "/qa/decisions/6",
        ),
        (
            {
                "payment_recorded": {
                    "payment": {"loan_id": 9, "amount": MONEY},
                    "installments_settled": 1,
                }
            },
            "neutral",
            "₹1,00,000 paid by customer 101",
            "loan 9, 1 installment settled",
            "/qa/customers/101/loans/9",
        ),
        (
            {"loan_closed": {"loan_id": 9}},
            "neutral",
            "Loan 9 of customer 101 closed",
            "",
            "/qa/customers/101/loans/9",
        ),
        (
            {"score_changed": {"credit_score": {"score": 52}, "previous_score": 38}},
            "neutral",
            "Score of customer 101: 52",
            "was 38",
            "/qa/customers/101",
        ),
        (
            {
                "rows_ingested": {
                    "ingestion_id": "id",
                    "kind": ingestion_pb2.INGESTION_KIND_LOANS,
                    "inserted": 123_456,
                    "updated": 4,
                }
            },
            "neutral",
            "1,23,460 loans stored",
            "1,23,456 new, 4 updated",
            "/qa/ingestions/id",
        ),
        (
            {
                "customer_updated": {
                    "ingestion_id": "id",
                    "changes": [
                        {"field": "phone_number"},
                        {"field": "approved_limit", "previous": "1.00", "current": "2.00"},
                    ],
                }
            },
            "neutral",
            "Customer 101 changed by an import",
            "Phone number, Approved limit 1.00 → 2.00",
            "/qa/ingestions/id",
        ),
        (
            {
                "loan_updated": {
                    "loan_id": 9,
                    "ingestion_id": "id",
                    "changes": [{"field": "closed_on", "current": "2025-06-15"}],
                }
            },
            "neutral",
            "Loan 9 of customer 101 changed by an import",
            "Closed on none → 2025-06-15",
            "/qa/ingestions/id",
        ),
    ],
)
def test_what_happened_is_told_in_words(
    payload: dict[str, object], tone: str, title: str, detail: str, href: str
) -> None:
    line = describe(event(payload))
    assert (line.tone, line.title, line.detail, line.href) == (tone, title, detail, href)
    assert line.event_id == 7


def test_every_kind_of_event_is_told_and_an_unknown_one_too() -> None:
    payloads = CreditEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    for field in payloads:
        found = CreditEvent(event_id=7)
        getattr(found, field.name).SetInParent()
        assert "unknown" not in describe(found).detail
    assert len(payloads) == len(event_pb2.CreditEventType.values()) - 1
    assert "unknown event type" in describe(CreditEvent(event_id=7)).detail

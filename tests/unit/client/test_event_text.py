"""Events in words."""

import pytest

from credit_service.client.event_text import EventText, describe
from credit_service.v1 import (
    decision_pb2,
    event_pb2,
    ingestion_pb2,
    loan_pb2,
    offer_pb2,
    scorecard_pb2,
)
from credit_service.v1.event_pb2 import CreditEvent

MONEY = {"units": 1_00_000}


def event(payload: dict[str, object]) -> CreditEvent:
    return CreditEvent(event_id=7, customer_id=101, **payload)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            {"customer_registered": {"approved_limit": MONEY}},
            EventText("Customer 101 registered", "limit ₹1,00,000"),
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
            EventText(
                "Loan 9 booked for customer 101", "₹1,00,000 over 12 months at 12 %", "decision 5"
            ),
        ),
        (
            {
                "loan_declined": {
                    "decision_id": 6,
                    "ask": {"loan_amount": MONEY},
                    "reason_codes": [decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY],
                }
            },
            EventText(
                "Loan declined for customer 101", "₹1,00,000: No credit history", "decision 6"
            ),
        ),
        (
            {
                "payment_recorded": {
                    "payment": {"loan_id": 9, "amount": MONEY},
                    "installments_settled": 1,
                    "outstanding": {"units": 23_000},
                }
            },
            EventText(
                "₹1,00,000 paid by customer 101",
                "loan 9, 1 installment settled, ₹23,000 outstanding",
            ),
        ),
        (
            {
                "loan_offer_created": {
                    "decision_id": 7,
                    "offer": {
                        "offer_id": 8,
                        "loan_amount": MONEY,
                        "tenure_months": 12,
                        "interest_rate": {"value": "12"},
                    },
                }
            },
            EventText(
                "Offer 8 made to customer 101", "₹1,00,000 over 12 months at 12 %", "decision 7"
            ),
        ),
        (
            {
                "loan_offer_ended": {
                    "offer_id": 8,
                    "state": offer_pb2.LOAN_OFFER_STATE_ACCEPTED,
                    "loan_id": 9,
                    "accepted_amount": {"units": 60_000},
                    "released_amount": {"units": 40_000},
                }
            },
            EventText("Offer 8 of customer 101 accepted", "₹60,000 lent, ₹40,000 released"),
        ),
        (
            {
                "loan_offer_ended": {
                    "offer_id": 8,
                    "state": offer_pb2.LOAN_OFFER_STATE_EXPIRED,
                    "released_amount": MONEY,
                }
            },
            EventText("Offer 8 of customer 101 expired", "₹1,00,000 released"),
        ),
        (
            {
                "scorecard_changed": {
                    "change": {
                        "type": scorecard_pb2.SCORECARD_CHANGE_TYPE_SCHEDULED,
                        "version": "strict-1",
                        "previous_version": "standard-1",
                        "effective_on": {"year": 2027, "month": 4, "day": 1},
                        "principal": "asha@example",
                    }
                }
            },
            EventText(
                "Scorecard strict-1 scheduled",
                "from 2027-04-01, replaces standard-1, by asha@example",
            ),
        ),
        (
            {"loan_closed": {"loan_id": 9}},
            EventText("Loan 9 of customer 101 closed", ""),
        ),
        (
            {
                "payment_reversed": {
                    "loan_id": 9,
                    "reason": loan_pb2.PAYMENT_REVERSAL_REASON_WRONG_LOAN,
                    "amount": MONEY,
                    "outstanding": {"units": 23_000},
                    "reopened": True,
                }
            },
            EventText(
                "Payment of ₹1,00,000 by customer 101 reversed",
                "wrong loan: loan 9, ₹23,000 outstanding, loan reopened",
            ),
        ),
        (
            {
                "loan_prepaid": {
                    "loan_id": 9,
                    "prepaid_principal": MONEY,
                    "tenure_months": 10,
                    "monthly_installment": {"units": 8_884},
                    "outstanding": {"units": 23_000},
                }
            },
            EventText(
                "₹1,00,000 of loan 9 prepaid by customer 101",
                "now 10 months of ₹8,884, ₹23,000 outstanding",
            ),
        ),
        (
            {"score_changed": {"credit_score": {"score": 52}, "previous_score": 38}},
            EventText("Score of customer 101: 52", "previous score: 38"),
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
            EventText("1,23,460 loans stored", "1,23,456 new, 4 updated", "ingestion id"),
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
            EventText(
                "Customer 101 changed by an import",
                "Phone number, Approved limit 1.00 → 2.00",
                "ingestion id",
            ),
        ),
        (
            {
                "customer_updated": {
                    "principal": "meera",
                    "changes": [
                        {"field": "monthly_income"},
                        {"field": "approved_limit_set", "previous": "true", "current": "false"},
                    ],
                }
            },
            EventText(
                "Customer 101 changed by meera",
                "Monthly income, Approved limit set true → false",
            ),
        ),
        (
            {"customer_updated": {"changes": [{"field": "age"}]}},
            EventText("Customer 101 changed", "Age"),
        ),
        (
            {
                "loan_updated": {
                    "loan_id": 9,
                    "ingestion_id": "id",
                    "changes": [{"field": "closed_on", "current": "2025-06-15"}],
                }
            },
            EventText(
                "Loan 9 of customer 101 changed by an import",
                "Closed on none → 2025-06-15",
                "ingestion id",
            ),
        ),
        (
            {
                "decision_referred": {
                    "decision_id": 5,
                    "kind": 1,
                    "ask": {"loan_amount": {"units": 100_000}},
                    "rule_codes": ["LATE"],
                    "last_day": {"year": 2026, "month": 6, "day": 17},
                }
            },
            EventText(
                "Loan referred to a reviewer for customer 101",
                "₹1,00,000: LATE, to review by 2026-06-17",
                "decision 5",
            ),
        ),
        (
            {"decision_reviewed": {"decision_id": 5, "verdict": 1, "result_decision_id": 6}},
            EventText(
                "Referral of customer 101 approved by a reviewer", "new decision 6", "decision 5"
            ),
        ),
        (
            {"decision_reviewed": {"decision_id": 5, "verdict": 2}},
            EventText("Referral of customer 101 declined by a reviewer", "", "decision 5"),
        ),
    ],
)
def test_an_event_is_described_in_words(payload: dict[str, object], text: EventText) -> None:
    assert describe(event(payload)) == text


def test_every_type_of_event_is_described_and_an_unknown_one_too() -> None:
    payloads = CreditEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    for field in payloads:
        found = CreditEvent(event_id=7)
        getattr(found, field.name).SetInParent()
        assert "unknown" not in describe(found).detail
    assert len(payloads) == len(event_pb2.CreditEventType.values()) - 1
    assert describe(CreditEvent(event_id=7)) == EventText("Event 7", "unknown event type")

"""Convert events."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from credit_service.domain.decisions import score_from_document
from credit_service.domain.errors import OUT_OF_RANGE
from credit_service.domain.money import format_hundredths
from credit_service.rpc.convert import (
    customers,
    decisions,
    fields,
    loans,
    offers,
    payments,
    referrals,
    scores,
)
from credit_service.rpc.convert import scorecards as convert_scorecards
from credit_service.rpc.convert.fields import Violations
from credit_service.storage import loans as stored_loans
from credit_service.storage import offers as stored_offers
from credit_service.storage.event_stream import StoredEvent
from credit_service.storage.fact_changes import StoredChange
from credit_service.v1 import credit_service_pb2, decision_pb2, event_pb2, ingestion_pb2

MAX_EVENT_TYPES = 100


def read_event_kinds(numbers: Sequence[int], field: str, violations: Violations) -> frozenset[str]:
    """The event kinds of a filter; an empty set means all kinds."""
    if len(numbers) > MAX_EVENT_TYPES:
        # Do not check entries one by one: a message has room for millions.
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {MAX_EVENT_TYPES} entries, found {len(numbers):,}.",
        )
        return frozenset()
    kinds = set()
    for number in numbers:
        kind = _KIND_OF_TYPE.get(number)
        if kind is None:
            violations.add(field, OUT_OF_RANGE, f"must list known event types, found {number}.")
        else:
            kinds.add(kind)
    return frozenset(kinds)


def write_event(event: StoredEvent) -> event_pb2.CreditEvent | None:
    """An event of the stream; None for a kind of a later release.

    Fields that a later release added to a payload are ignored.
    """
    write = _WRITE.get(event.kind)
    if write is None:
        return None
    message = event_pb2.CreditEvent(
        event_id=event.event_id,
        time=fields.write_time(event.occurred_at),
        customer_id=event.customer_id,
        customer_version=event.customer_version,
    )
    write(message, event)
    return message


def _customer_registered(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    limit = fields.write_money(event.payload["approved_limit_paise"])
    message.customer_registered.approved_limit.CopyFrom(limit)


def _loan_created(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    message.loan_created.decision_id = event.payload["decision_id"]
    loan = stored_loans.loan_of_event(event.payload["loan"])
    message.loan_created.loan.CopyFrom(loans.write_loan(loan, loan.start_date))
    message.loan_created.offer_id = event.payload.get("offer_id") or 0


def _loan_offer_created(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    offer = stored_offers.offer_of_event(
        event.customer_id, event.payload["offer"], event.occurred_at
    )
    message.loan_offer_created.decision_id = event.payload["decision_id"]
    message.loan_offer_created.offer.CopyFrom(offers.write_offer(offer, offer.created_on))


def _loan_offer_ended(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    ended, facts = message.loan_offer_ended, event.payload
    ended.offer_id = facts["offer_id"]
    ended.state = offers.offer_state(facts["state"])
    ended.loan_id = facts["loan_id"] or 0
    ended.accepted_amount.CopyFrom(fields.write_money(facts["accepted_paise"]))
    ended.released_amount.CopyFrom(fields.write_money(facts["released_paise"]))


def _loan_declined(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    declined = message.loan_declined
    declined.decision_id = event.payload["decision_id"]
    _fill_ask(declined.ask, event.payload["ask"])
    declined.reason_codes.extend(decisions.reason_code(code) for code in event.payload["reasons"])


def _fill_ask(message: decision_pb2.LoanAsk, ask: dict[str, Any]) -> None:
    message.loan_amount.CopyFrom(fields.write_money(ask["principal_paise"]))
    message.interest_rate.CopyFrom(fields.write_hundredths(ask["annual_rate_bps"]))
    message.tenure_months = ask["tenure_months"]


def _payment_recorded(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    facts, recorded = event.payload, message.payment_recorded
    recorded.payment.payment_id = facts["payment_id"]
    recorded.payment.customer_id = event.customer_id
    recorded.payment.loan_id = facts["loan_id"]
    recorded.payment.amount.CopyFrom(fields.write_money(facts["amount_paise"]))
    paid_on = fields.write_date(date.fromisoformat(facts["paid_on"]))
    recorded.payment.paid_on.CopyFrom(paid_on)
    recorded.payment.recorded_time.CopyFrom(message.time)
    payments.fill_purpose(recorded.payment, facts)
    recorded.installments_settled = facts["settled_count"]
    recorded.installments_on_time = facts["on_time_count"]
    recorded.outstanding.CopyFrom(fields.write_money(facts["outstanding_paise"]))


def _loan_closed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    message.loan_closed.loan_id = event.payload["loan_id"]
    message.loan_closed.payment_id = event.payload["payment_id"]
    closed_on = fields.write_date(date.fromisoformat(event.payload["closed_on"]))
    message.loan_closed.closed_on.CopyFrom(closed_on)


def _payment_reversed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    facts, reversal = event.payload, message.payment_reversed
    reversal.payment_id = facts["payment_id"]
    reversal.loan_id = facts["loan_id"]
    reversal.reason = payments.reason_number(facts["reason"])
    fields.fill_money(reversal.amount, facts["amount_paise"])
    fields.fill_date(reversal.paid_on, date.fromisoformat(facts["paid_on"]))
    fields.fill_money(reversal.outstanding, facts["outstanding_paise"])
    reversal.reopened = facts["reopened"]


def _loan_prepaid(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    facts, prepaid = event.payload, message.loan_prepaid
    prepaid.payment_id = facts["payment_id"]
    prepaid.loan_id = facts["loan_id"]
    prepaid.prepayment_effect = payments.effect_number(facts["effect"])
    fields.fill_money(prepaid.prepaid_principal, facts["prepaid_principal_paise"])
    prepaid.tenure_months = facts["tenure_months"]
    fields.fill_money(prepaid.monthly_installment, facts["installment_paise"])
    fields.fill_money(prepaid.outstanding, facts["outstanding_paise"])


def _score_changed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    changed, payload = message.score_changed, event.payload
    scores.fill_score(
        changed.credit_score, score_from_document(payload["score"]), event.occurred_at
    )
    if payload["previous_score"] is not None:
        changed.previous_score = payload["previous_score"]
    changed.cause_event_id = payload["cause_event_id"]


def _rows_ingested(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    ingested = message.rows_ingested
    ingested.ingestion_id = event.payload["ingestion_id"]
    kind = f"INGESTION_KIND_{event.payload['kind']}"
    if kind in ingestion_pb2.IngestionKind.keys():  # noqa: SIM118 - no mapping
        ingested.kind = ingestion_pb2.IngestionKind.Value(kind)
    ingested.inserted = event.payload["inserted"]
    ingested.updated = event.payload["updated"]
    ingested.removed = event.payload.get("removed", 0)
    ingested.restored = event.payload.get("restored", 0)


def _customer_updated(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    updated, payload = message.customer_updated, event.payload
    updated.ingestion_id = payload["ingestion_id"]
    updated.changes.extend(map(_change, payload["changes"]))
    updated.principal = fields.write_principal(payload.get("principal", ""))
    updated.reverted = payload.get("reverted", False)


def fill_customer_change(message: credit_service_pb2.CustomerChange, change: StoredChange) -> None:
    """Fill an empty message with a stored change of facts."""
    fields.fill_time(message.time, change.changed_at)
    message.principal = fields.write_principal(change.principal)
    message.ingestion_id = "" if change.ingestion_id is None else str(change.ingestion_id)
    message.loan_id = change.loan_id or 0
    message.facts.extend(_change(each._asdict()) for each in change.facts)


def _loan_updated(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    message.loan_updated.loan_id = event.payload["loan_id"]
    message.loan_updated.ingestion_id = event.payload["ingestion_id"]
    message.loan_updated.changes.extend(map(_change, event.payload["changes"]))
    message.loan_updated.reverted = event.payload.get("reverted", False)


def _scorecard_changed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    change = convert_scorecards.change_from_payload(event.payload)
    message.scorecard_changed.change.CopyFrom(convert_scorecards.write_change(change))


# Columns whose name in the contract differs.
_FIELDS = {
    "monthly_income_paise": "monthly_income",
    "approved_limit_paise": "approved_limit",
    "limit_set": "approved_limit_set",
    "principal_paise": "loan_amount",
    "annual_rate_bps": "interest_rate",
    "installment_paise": "monthly_installment",
}


def _change(change: dict[str, Any]) -> event_pb2.FactChange:
    fact = change["fact"]
    return event_pb2.FactChange(
        field=_FIELDS.get(fact, fact),
        previous=_fact_text(fact, change["old"]),
        current=_fact_text(fact, change["new"]),
    )


def _fact_text(fact: str, value: str | None) -> str:
    if value is None:
        return ""
    if fact.endswith("_paise"):
        return f"{int(value) // 100}.{int(value) % 100:02}"
    return format_hundredths(int(value)) if fact.endswith("_bps") else value


def _decision_referred(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    referred, payload = message.decision_referred, event.payload
    referred.decision_id = payload["decision_id"]
    referred.kind = referrals.KINDS[payload["kind"]]
    _fill_ask(referred.ask, payload["ask"])
    referred.rule_codes.extend(payload["rule_codes"])
    referred.last_day.CopyFrom(fields.write_date(date.fromisoformat(payload["last_day"])))


def _decision_reviewed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    reviewed, payload = message.decision_reviewed, event.payload
    reviewed.decision_id = payload["decision_id"]
    reviewed.verdict = referrals.VERDICTS[payload["verdict"]]
    reviewed.result_decision_id = payload["result_decision_id"] or 0


def _asset_class_changed(message: event_pb2.CreditEvent, event: StoredEvent) -> None:
    changed, payload = message.asset_class_changed, event.payload
    changed.previous_class = customers.asset_class(payload["previous_class"])
    changed.asset_class = customers.asset_class(payload["asset_class"])
    changed.since.CopyFrom(fields.write_date(date.fromisoformat(payload["since"])))
    changed.days_past_due = payload["days_past_due"]


_WRITE: dict[str, Callable[[event_pb2.CreditEvent, StoredEvent], None]] = {
    "customer_registered": _customer_registered,
    "loan_created": _loan_created,
    "loan_declined": _loan_declined,
    "payment_recorded": _payment_recorded,
    "loan_closed": _loan_closed,
    "score_changed": _score_changed,
    "rows_ingested": _rows_ingested,
    "customer_updated": _customer_updated,
    "loan_updated": _loan_updated,
    "loan_offer_created": _loan_offer_created,
    "loan_offer_ended": _loan_offer_ended,
    "scorecard_changed": _scorecard_changed,
    "decision_referred": _decision_referred,
    "decision_reviewed": _decision_reviewed,
    "payment_reversed": _payment_reversed,
    "loan_prepaid": _loan_prepaid,
    "asset_class_changed": _asset_class_changed,
}
_KIND_OF_TYPE: dict[int, str] = {
    event_pb2.CreditEventType.Value(f"CREDIT_EVENT_TYPE_{kind.upper()}"): kind for kind in _WRITE
}

"""Events in words, for the command line and the console."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from credit_service.client.display import enum_name, inr_short, words
from credit_service.rupees import group_digits
from credit_service.v1 import (
    decision_pb2,
    event_pb2,
    ingestion_pb2,
    loan_pb2,
    offer_pb2,
    referral_pb2,
    scorecard_pb2,
)


@dataclass(frozen=True, slots=True)
class EventText:
    """What happened, its figures, and the stored record that caused it. The last two can be ''."""

    title: str
    detail: str = ""
    origin: str = ""
    """Such as 'decision 5' or 'ingestion 0d6f…'."""


def describe(event: event_pb2.CreditEvent) -> EventText:
    """Return an event in words, also one of a type that this program does not know."""
    return _DESCRIBERS.get(event.WhichOneof("payload") or "", _unknown)(event)


def _registered(event: event_pb2.CreditEvent) -> EventText:
    limit = inr_short(event.customer_registered.approved_limit)
    return EventText(f"Customer {event.customer_id} registered", f"limit {limit}")


def _created(event: event_pb2.CreditEvent) -> EventText:
    created = event.loan_created
    loan = created.loan
    return EventText(
        f"Loan {loan.loan_id} booked for customer {event.customer_id}",
        f"{inr_short(loan.loan_amount)} over {loan.tenure_months} months "
        f"at {loan.interest_rate.value} %",
        f"decision {created.decision_id}",
    )


def _offered(event: event_pb2.CreditEvent) -> EventText:
    created = event.loan_offer_created
    offer = created.offer
    return EventText(
        f"Offer {offer.offer_id} made to customer {event.customer_id}",
        f"{inr_short(offer.loan_amount)} over {offer.tenure_months} months "
        f"at {offer.interest_rate.value} %",
        f"decision {created.decision_id}",
    )


def _offer_ended(event: event_pb2.CreditEvent) -> EventText:
    ended = event.loan_offer_ended
    state = enum_name(ended.state, offer_pb2.LoanOfferState).lower()
    lent = f"{inr_short(ended.accepted_amount)} lent, " if ended.loan_id else ""
    return EventText(
        f"Offer {ended.offer_id} of customer {event.customer_id} {state}",
        f"{lent}{inr_short(ended.released_amount)} released",
    )


def _declined(event: event_pb2.CreditEvent) -> EventText:
    declined = event.loan_declined
    reasons = [
        words(enum_name(code, decision_pb2.DeclineReasonCode)) for code in declined.reason_codes
    ]
    amount = inr_short(declined.ask.loan_amount)
    return EventText(
        f"Loan declined for customer {event.customer_id}",
        f"{amount}: {', '.join(reasons)}" if reasons else amount,
        f"decision {declined.decision_id}",
    )


def _paid(event: event_pb2.CreditEvent) -> EventText:
    recorded = event.payment_recorded
    payment, count = recorded.payment, recorded.installments_settled
    settled = f", {count} installment{'' if count == 1 else 's'} settled" if count else ""
    return EventText(
        f"{inr_short(payment.amount)} paid by customer {event.customer_id}",
        f"loan {payment.loan_id}{settled}, {inr_short(recorded.outstanding)} outstanding",
    )


def _closed(event: event_pb2.CreditEvent) -> EventText:
    return EventText(f"Loan {event.loan_closed.loan_id} of customer {event.customer_id} closed")


def _reversed(event: event_pb2.CreditEvent) -> EventText:
    reversal = event.payment_reversed
    reason = words(enum_name(reversal.reason, loan_pb2.PaymentReversalReason)).lower()
    reopened = ", loan reopened" if reversal.reopened else ""
    return EventText(
        f"Payment of {inr_short(reversal.amount)} by customer {event.customer_id} reversed",
        f"{reason}: loan {reversal.loan_id}, {inr_short(reversal.outstanding)} outstanding"
        f"{reopened}",
    )


def _prepaid(event: event_pb2.CreditEvent) -> EventText:
    prepaid = event.loan_prepaid
    return EventText(
        f"{inr_short(prepaid.prepaid_principal)} of loan {prepaid.loan_id} prepaid by customer "
        f"{event.customer_id}",
        f"now {prepaid.tenure_months} months of {inr_short(prepaid.monthly_installment)}, "
        f"{inr_short(prepaid.outstanding)} outstanding",
    )


def _scored(event: event_pb2.CreditEvent) -> EventText:
    changed = event.score_changed
    previous = changed.previous_score if changed.HasField("previous_score") else "none"
    return EventText(
        f"Score of customer {event.customer_id}: {changed.credit_score.score}",
        f"previous score: {previous}",
    )


def _rows_ingested(event: event_pb2.CreditEvent) -> EventText:
    rows = event.rows_ingested
    kind = enum_name(rows.kind, ingestion_pb2.IngestionKind).lower()
    changed = rows.removed + rows.restored
    if changed:
        return EventText(
            f"{group_digits(changed)} {kind.removesuffix('s') if changed == 1 else kind} reverted",
            f"{group_digits(rows.removed)} removed, {group_digits(rows.restored)} restored",
            f"ingestion {rows.ingestion_id}",
        )
    changed = rows.inserted + rows.updated
    return EventText(
        f"{group_digits(changed)} {kind.removesuffix('s') if changed == 1 else kind} stored",
        f"{group_digits(rows.inserted)} new, {group_digits(rows.updated)} updated",
        f"ingestion {rows.ingestion_id}",
    )


def _customer_updated(event: event_pb2.CreditEvent) -> EventText:
    updated = event.customer_updated
    changes = _changes(updated.changes)
    if not updated.ingestion_id:
        by = f" by {updated.principal}" if updated.principal else ""
        return EventText(f"Customer {event.customer_id} changed{by}", changes)
    return EventText(
        f"Customer {event.customer_id} {_by_import(updated)}",
        changes,
        f"ingestion {updated.ingestion_id}",
    )


def _loan_updated(event: event_pb2.CreditEvent) -> EventText:
    updated = event.loan_updated
    return EventText(
        f"Loan {updated.loan_id} of customer {event.customer_id} {_by_import(updated)}",
        _changes(updated.changes),
        f"ingestion {updated.ingestion_id}",
    )


def _by_import(updated: event_pb2.CustomerUpdated | event_pb2.LoanUpdated) -> str:
    return "restored by a revert" if updated.reverted else "changed by an import"


_SCORECARD_CHANGES = {
    scorecard_pb2.SCORECARD_CHANGE_TYPE_CREATED: "stored",
    scorecard_pb2.SCORECARD_CHANGE_TYPE_SCHEDULED: "scheduled",
    scorecard_pb2.SCORECARD_CHANGE_TYPE_ACTIVATED: "is active",
    scorecard_pb2.SCORECARD_CHANGE_TYPE_TRIAL_STARTED: "is the trial",
    scorecard_pb2.SCORECARD_CHANGE_TYPE_TRIAL_ENDED: "is no longer the trial",
    scorecard_pb2.SCORECARD_CHANGE_TYPE_RETIRED: "retired",
}


def _scorecard_changed(event: event_pb2.CreditEvent) -> EventText:
    change = event.scorecard_changed.change
    details = []
    if change.HasField("effective_on"):
        day = change.effective_on
        details.append(f"from {day.year}-{day.month:02}-{day.day:02}")
    if change.previous_version:
        details.append(f"replaces {change.previous_version}")
    if change.principal:
        details.append(f"by {change.principal}")
    happened = _SCORECARD_CHANGES.get(change.type, "changed")
    return EventText(f"Scorecard {change.version} {happened}", ", ".join(details))


def _referred(event: event_pb2.CreditEvent) -> EventText:
    referred = event.decision_referred
    amount, day = inr_short(referred.ask.loan_amount), referred.last_day
    kind = "Offer" if referred.kind == referral_pb2.REFERRAL_KIND_OFFER else "Loan"
    return EventText(
        f"{kind} referred to a reviewer for customer {event.customer_id}",
        f"{amount}: {', '.join(referred.rule_codes)}, to review by "
        f"{day.year:04}-{day.month:02}-{day.day:02}",
        f"decision {referred.decision_id}",
    )


def _reviewed(event: event_pb2.CreditEvent) -> EventText:
    reviewed = event.decision_reviewed
    approved = reviewed.verdict == referral_pb2.REVIEW_VERDICT_APPROVE
    return EventText(
        f"Referral of customer {event.customer_id} "
        f"{'approved' if approved else 'declined'} by a reviewer",
        f"new decision {reviewed.result_decision_id}" if approved else "",
        f"decision {reviewed.decision_id}",
    )


def _class_changed(event: event_pb2.CreditEvent) -> EventText:
    changed = event.asset_class_changed
    previous, current = (
        enum_name(each, decision_pb2.AssetClass)
        for each in (changed.previous_class, changed.asset_class)
    )
    days, since = changed.days_past_due, changed.since
    return EventText(
        f"Asset class of customer {event.customer_id}: {current}",
        f"previous class: {previous}, {days} day{'' if days == 1 else 's'} past due on "
        f"{since.year:04}-{since.month:02}-{since.day:02}",
    )


def _changes(changes: Iterable[event_pb2.FactChange]) -> str:
    """Return 'Tenure months 12 → 24, Age', with values where the event has them."""
    return ", ".join(
        f"{words(each.field)} {each.previous or 'none'} → {each.current or 'none'}"
        if each.previous or each.current
        else words(each.field)
        for each in changes
    )


def _unknown(event: event_pb2.CreditEvent) -> EventText:
    return EventText(f"Event {event.event_id}", "unknown event type")


_DESCRIBERS: dict[str, Callable[[event_pb2.CreditEvent], EventText]] = {
    "customer_registered": _registered,
    "loan_created": _created,
    "loan_declined": _declined,
    "loan_offer_created": _offered,
    "loan_offer_ended": _offer_ended,
    "payment_recorded": _paid,
    "loan_closed": _closed,
    "payment_reversed": _reversed,
    "loan_prepaid": _prepaid,
    "score_changed": _scored,
    "rows_ingested": _rows_ingested,
    "customer_updated": _customer_updated,
    "loan_updated": _loan_updated,
    "scorecard_changed": _scorecard_changed,
    "decision_referred": _referred,
    "decision_reviewed": _reviewed,
    "asset_class_changed": _class_changed,
}

"""Referrals: each changes once, from PENDING."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.referrals import Referral, ReferralKind, ReferralState
from credit_service.observability import tracing
from credit_service.storage.statements import Statement

COLUMNS = """f.customer_id, f.decision_id, f.kind, f.requested_by, f.last_day, f.state, f.reviewer,
    f.reason, f.reviewed_at, f.result_decision_id, f.offer::text"""
"""The columns that `referral` reads, in its order, of a table aliased f."""

COLUMN_COUNT = 11

MOST_COUNTED = 10_000
"""Upper bound of a count, so that the query stays cheap for the longest queue."""
_STEP_ROWS = 1_000

INSERT = """
        INSERT INTO referrals (customer_id, decision_id, kind, offer, requested_by, referred_at,
            last_day)
        SELECT customer_id, :decision_id, :referral_kind, CAST(:referral_offer AS json),
            :requested_by, :now, :last_day
        FROM c"""
"""The part of a statement that stores a referral about the customer of a table c."""


def values(referral: Referral) -> dict[str, Any]:
    """Return the parameters of INSERT besides those of the decision."""
    return {
        "referral_kind": referral.kind,
        "referral_offer": referral.offer,
        "requested_by": referral.requested_by,
        "last_day": referral.last_day,
    }


def referral(row: Any) -> Referral | None:
    """Return the referral from a row of COLUMNS; None if an outer join found none."""
    if row[0] is None:
        return None
    customer_id, decision_id, kind, requested_by, last_day, state, *review = row
    return Referral(
        customer_id,
        decision_id,
        ReferralKind(kind),
        requested_by,
        last_day,
        ReferralState(state),
        *review,
    )


def condition(state: ReferralState) -> str:
    """Return the condition that a referral, aliased f, has that state on the day :today."""
    if state is ReferralState.PENDING:
        return "f.state = 'PENDING' AND f.last_day >= :today"
    if state is ReferralState.EXPIRED:
        return "f.state IN ('EXPIRED', 'PENDING') AND (f.state = 'EXPIRED' OR f.last_day < :today)"
    return f"f.state = '{state}'"


@dataclass(frozen=True, slots=True)
class ReviewWrite:
    """A review to store. `result_decision_id` is that of an approval."""

    customer_id: int
    decision_id: int
    state: ReferralState
    reviewer: str
    reason: str
    result_decision_id: int | None
    event_json: str


_REVIEW = """
    WITH f AS (
        UPDATE referrals SET state = :state, reviewer = :reviewer, reason = :reason,
            reviewed_at = :now, result_decision_id = CAST(:result_decision_id AS bigint)
        WHERE customer_id = :customer_id AND decision_id = :decision_id AND state = 'PENDING'
            AND last_day >= :today
        RETURNING customer_id
    ), c AS (
        UPDATE customers SET event_seq = event_seq + 1 FROM f
        WHERE customers.customer_id = f.customer_id AND customers.customer_id = :customer_id
        RETURNING customers.customer_id, version, event_seq
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'decision_reviewed', version, :now, CAST(:event AS json),
            CAST(:traceparent AS text)
        FROM c
    )"""
_COUNT = "SELECT count(*) FROM c"
APPROVE = Statement(f"{_REVIEW} {_COUNT}")
DECLINE = Statement(
    f"""{_REVIEW}, r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, decision_id,
            created_at, principal)
        SELECT :request_id, 'ReviewDecision', :fingerprint, customer_id, :decision_id, :now,
            :reviewer
        FROM c
    )
    {_COUNT}"""
)


def approve(connection: Connection, review: ReviewWrite, moment: Moment) -> bool:
    """Store the approval; return False if the referral is no longer PENDING.

    The decision that it made, with the request's record, is stored in the same transaction.
    """
    return APPROVE.row(connection, _values(review, moment)) == (1,)


def decline(
    connection: Connection, review: ReviewWrite, request_id: UUID, content: bytes, moment: Moment
) -> bool:
    """Store the decline with the request's record; return False if the referral is no longer
    PENDING. Raises IntegrityError if a concurrent request used the request id."""
    request = {"request_id": request_id, "fingerprint": content}
    return DECLINE.row(connection, _values(review, moment) | request) == (1,)


def _values(review: ReviewWrite, moment: Moment) -> dict[str, Any]:
    return {
        "customer_id": review.customer_id,
        "decision_id": review.decision_id,
        "state": review.state,
        "reviewer": review.reviewer,
        "reason": review.reason,
        "result_decision_id": review.result_decision_id,
        "event": review.event_json,
        "traceparent": tracing.traceparent(),
        "now": moment.now,
        "today": moment.today,
    }


_OVERDUE = Statement(
    """SELECT customer_id, decision_id FROM referrals
    WHERE state = 'PENDING' AND last_day < :today ORDER BY decision_id LIMIT :limit"""
)
_EXPIRE = text(
    """UPDATE referrals SET state = 'EXPIRED'
    FROM unnest(CAST(:customer_ids AS bigint[]), CAST(:decision_ids AS bigint[]))
        AS overdue (customer_id, decision_id)
    WHERE referrals.customer_id = overdue.customer_id
        AND referrals.decision_id = overdue.decision_id AND referrals.state = 'PENDING'"""
)


def expire(connection: Connection, day: date, limit: int = _STEP_ROWS) -> int:
    """Store that referrals whose last day has passed are EXPIRED, at most `limit`; return their
    number. Readers take them for EXPIRED before."""
    rows = _OVERDUE.rows(connection, {"today": day, "limit": limit})
    if not rows:
        return 0
    customer_ids, decision_ids = zip(*rows, strict=True)
    values = {"customer_ids": list(customer_ids), "decision_ids": list(decision_ids)}
    return connection.execute(_EXPIRE, values).rowcount


_PENDING = Statement(
    """
    SELECT count(*), min(referred_at) FROM (
        SELECT referred_at FROM referrals WHERE state = 'PENDING' AND last_day >= :today
        ORDER BY decision_id LIMIT :most
    ) AS pending
    """
)


@dataclass(frozen=True, slots=True)
class Queue:
    """The referrals that wait for a reviewer: their number, up to MOST_COUNTED, and the age of the
    oldest in seconds, 0.0 without one."""

    pending: int
    oldest_age_seconds: float


def queue(connection: Connection, moment: Moment) -> Queue:
    """Return the queue at this moment."""
    count, oldest = _PENDING.rows(connection, {"today": moment.today, "most": MOST_COUNTED})[0]
    age_seconds = 0.0 if oldest is None else (moment.now - oldest).total_seconds()
    return Queue(count, max(0.0, age_seconds))

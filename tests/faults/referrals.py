"""The check of referrals: each is reviewed at most once, in time, and books what was requested."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, text

from credit_service.clock import INDIA
from credit_service.domain.decisions import decode_inputs

_REFERRALS = text(
    """SELECT f.decision_id, f.kind, f.state, f.last_day, f.reviewed_at, f.result_decision_id,
        d.inputs::text AS inputs
    FROM decisions d LEFT JOIN referrals f USING (customer_id, decision_id) WHERE d.referred"""
)
_REVIEWS = text(
    """SELECT customer_id, CAST(payload ->> 'decision_id' AS bigint) AS decision_id,
        payload ->> 'verdict' AS verdict,
        CAST(payload ->> 'result_decision_id' AS bigint) AS result_id, occurred_at
    FROM events WHERE kind = 'decision_reviewed'"""
)
_AGAIN = text(
    """SELECT d.decision_id, d.loan_id, d.offer_id, d.approved, d.inputs::text AS inputs,
        coalesce(l.principal_paise, o.principal_paise) AS principal_paise
    FROM decisions d
    LEFT JOIN loans l USING (customer_id, loan_id)
    LEFT JOIN loan_offers o ON o.customer_id = d.customer_id AND o.offer_id = d.offer_id
    WHERE d.inputs -> 'waived' IS NOT NULL"""
)


def check_referrals(
    connection: Connection, find: Callable[[str, str], None], checked: dict[str, int]
) -> None:
    """Report each referral that was reviewed twice or too late, and each decision after a review
    that is not the result of one approval or differs from its request. `find` takes a kind and a
    text, `checked` gets the number of referrals in each state."""
    referrals = {row.decision_id: row for row in connection.execute(_REFERRALS)}
    reviews: dict[int, list[Any]] = {}
    for review in connection.execute(_REVIEWS):
        reviews.setdefault(review.decision_id, []).append(review)
    again = {row.decision_id: row for row in connection.execute(_AGAIN)}
    right = {"PENDING": [], "EXPIRED": [], "APPROVED": ["APPROVE"], "DECLINED": ["DECLINE"]}
    results: set[int] = set()
    for decision_id, referral in referrals.items():
        of_it = reviews.pop(decision_id, [])
        verdicts = [each.verdict for each in of_it]
        if verdicts != right.get(referral.state):
            find("referral", f"{decision_id} is {referral.state} after the reviews {verdicts}")
        for each in of_it:
            if each.occurred_at.astimezone(INDIA).date() > referral.last_day:
                find("referral", f"{decision_id} was reviewed after {referral.last_day}")
            if each.result_id is None:
                continue
            results.add(each.result_id)
            problem = _difference(referral, again.get(each.result_id))
            if problem:
                find("referral", f"{decision_id} led to decision {each.result_id}: {problem}")
    for decision_id in again.keys() - results:
        find("referral", f"decision {decision_id} waived rules without an approval")
    for decision_id in reviews:
        find("referral", f"{decision_id} was reviewed and is not referred")
    states = Counter(referral.state for referral in referrals.values())
    checked.update({f"referrals {state}": count for state, count in states.items()})
    checked["referrals approved and booked"] = sum(row.approved for row in again.values())


def _difference(referral: Any, result: Any) -> str:
    """How the decision that an approval made differs from the request; "" if it does not."""
    if result is None:
        return "it is missing, or waived no rule"
    if decode_inputs(result.inputs).ask != decode_inputs(referral.inputs).ask:
        return "its request differs"
    if not result.approved:
        return ""
    made = "LOAN" if result.loan_id is not None else "OFFER"
    if made != referral.kind:
        return f"it made a {made}, not a {referral.kind}"
    if result.principal_paise != decode_inputs(referral.inputs).ask.principal_paise:
        return f"it made one of {result.principal_paise} paise"
    return ""

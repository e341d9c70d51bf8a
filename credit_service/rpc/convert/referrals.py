"""Convert messages of referrals."""

from dataclasses import replace
from datetime import date

from credit_service.domain.errors import OUT_OF_RANGE
from credit_service.domain.referrals import (
    Referral,
    ReferralKind,
    ReferralState,
    Verdict,
)
from credit_service.rpc.convert.fields import (
    Violations,
    write_date,
    write_principal,
    write_time,
)
from credit_service.v1 import referral_pb2

KINDS = {
    each: referral_pb2.ReferralKind.Value(f"REFERRAL_KIND_{each.name}") for each in ReferralKind
}
VERDICTS = {each: referral_pb2.ReviewVerdict.Value(f"REVIEW_VERDICT_{each}") for each in Verdict}
_STATES = {
    each: referral_pb2.ReferralState.Value(f"REFERRAL_STATE_{each.name}") for each in ReferralState
}
_STATE_FILTERS: dict[int, ReferralState | None] = {
    referral_pb2.REFERRAL_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _STATES.items()},
}


def read_referral_state(number: int, field: str, violations: Violations) -> ReferralState | None:
    """The state to filter by; None for all decisions."""
    if number not in _STATE_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a ReferralState, found {number}.")
        return None
    return _STATE_FILTERS[number]


def write_referral(referral: Referral, day: date) -> referral_pb2.Referral:
    """A referral with its state on `day`."""
    return referral_pb2.Referral(
        kind=KINDS[referral.kind],
        state=_STATES[referral.state_on(day)],
        last_day=write_date(referral.last_day),
        reviewer="" if referral.reviewer is None else write_principal(referral.reviewer),
        reason=referral.reason or "",
        reviewed_time=None if referral.reviewed_at is None else write_time(referral.reviewed_at),
        result_decision_id=referral.result_decision_id or 0,
    )


def write_new_referral(referral: Referral) -> referral_pb2.Referral:
    """A referral as it was when the decision was made: the same on every retry."""
    unreviewed = replace(
        referral,
        stored_state=ReferralState.PENDING,
        reviewer=None,
        reason=None,
        reviewed_at=None,
        result_decision_id=None,
    )
    return write_referral(unreviewed, referral.last_day)

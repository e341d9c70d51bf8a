"""Referrals: decisions that wait for a reviewer."""

import unicodedata
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from credit_service.domain.eligibility import Decision
from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    CreditError,
    FieldViolation,
    InvalidFieldsError,
    PreconditionFailedError,
)
from credit_service.domain.policy import refers
from credit_service.domain.principals import is_known_same

DEFAULT_REVIEW_DAYS = 7
"""Days from a referred decision to its last day."""
MAX_REASON_CHARACTERS = 500
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs"})
_LINE_BREAKS = frozenset("\n\r\t")


class ReferralKind(StrEnum):
    """What a referred request asks for."""

    LOAN = "LOAN"
    OFFER = "OFFER"


class ReferralState(StrEnum):
    """PENDING until it is reviewed or its last day has passed; then it never changes."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"


class Verdict(StrEnum):
    """What a reviewer decides."""

    APPROVE = "APPROVE"
    DECLINE = "DECLINE"


class SelfReviewError(CreditError):
    """The reviewer is the principal who made the request."""


@dataclass(frozen=True, slots=True)
class Referral:
    """The review of the decision with that id, as stored.

    `requested_by` is the principal of the request. `reviewer`, `reason` and `reviewed_at` are None
    without a review; `result_decision_id` is that of the decision that an approval made. `offer` is
    what an offer, or a loan with charges, needs besides its terms, as JSON; None for another loan.
    """

    customer_id: int
    decision_id: int
    kind: ReferralKind
    requested_by: str
    last_day: date
    stored_state: ReferralState
    reviewer: str | None = None
    reason: str | None = None
    reviewed_at: datetime | None = None
    result_decision_id: int | None = None
    offer: str | None = None

    def state_on(self, day: date) -> ReferralState:
        """The state on a day: EXPIRED after the last day, whether or not that is stored yet."""
        if self.stored_state is ReferralState.PENDING and day > self.last_day:
            return ReferralState.EXPIRED
        return self.stored_state


def referring_rules(decision: Decision, waived: frozenset[str]) -> tuple[str, ...]:
    """The codes of the rules that referred a request, in their order: those that apply, and those
    without a result, unless they were waived."""
    return tuple([each.code for each in decision.rules if refers(each, waived)])


def last_day(referred_on: date, review_days: int) -> date:
    """The last day on which a decision of `referred_on` can be reviewed."""
    return referred_on + timedelta(days=review_days)


def validate_reason(text: str) -> str:
    """The trimmed reason: 1 to 500 characters, no control characters except line breaks and tabs.

    Raises InvalidFieldsError.
    """
    reason = text.strip()
    if not reason:
        violation = FieldViolation("reason", REQUIRED, "reason is required: give the reason.")
        raise InvalidFieldsError([violation])
    if len(reason) > MAX_REASON_CHARACTERS:
        message = (
            f"reason must have at most {MAX_REASON_CHARACTERS} characters, found {len(reason)}."
        )
        raise InvalidFieldsError([FieldViolation("reason", OUT_OF_RANGE, message)])
    for char in reason:
        if char not in _LINE_BREAKS and unicodedata.category(char) in _FORBIDDEN_CATEGORIES:
            message = f"reason must not contain control characters, found U+{ord(char):04X}."
            raise InvalidFieldsError([FieldViolation("reason", INVALID_FORMAT, message)])
    return reason


def require_reviewable(referral: Referral, reviewer: str, day: date) -> None:
    """Raise when this principal cannot review the referral on `day`.

    The reviewer is not the principal who made the request. A caller without credentials is not
    known to be the same, so a server without authentication allows every review.

    Raises:
        SelfReviewError: REVIEWER_IS_REQUESTER.
        PreconditionFailedError: REFERRAL_ALREADY_REVIEWED or REFERRAL_EXPIRED.
    """
    decision_id, state = referral.decision_id, referral.state_on(day)
    if state is ReferralState.EXPIRED:
        raise PreconditionFailedError(
            "REFERRAL_EXPIRED",
            f"Decision {decision_id} could be reviewed until {referral.last_day}; make the request "
            "again.",
            subject=f"decisions/{decision_id}",
            metadata={"decision_id": str(decision_id), "last_day": str(referral.last_day)},
        )
    if state is not ReferralState.PENDING:
        raise PreconditionFailedError(
            "REFERRAL_ALREADY_REVIEWED",
            f"Decision {decision_id} was reviewed before: {state.lower()}.",
            subject=f"decisions/{decision_id}",
            metadata={"decision_id": str(decision_id), "state": state},
        )
    if is_known_same(reviewer, referral.requested_by):
        raise SelfReviewError(
            "REVIEWER_IS_REQUESTER",
            f"You made the request of decision {decision_id}; another principal must review it.",
            {"decision_id": str(decision_id)},
        )


def not_referred(decision_id: int) -> PreconditionFailedError:
    """DECISION_NOT_REFERRED: there is nothing to review."""
    return PreconditionFailedError(
        "DECISION_NOT_REFERRED",
        f"Decision {decision_id} is not referred; there is nothing to review.",
        subject=f"decisions/{decision_id}",
        metadata={"decision_id": str(decision_id)},
    )

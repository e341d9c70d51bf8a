"""Who may review a referral, when, and with which reason."""

from dataclasses import replace
from datetime import date

import pytest

from credit_service.domain.errors import InvalidFieldsError, PreconditionFailedError
from credit_service.domain.principals import ANONYMOUS
from credit_service.domain.referrals import (
    Referral,
    ReferralKind,
    ReferralState,
    SelfReviewError,
    last_day,
    require_reviewable,
    validate_reason,
)

LAST = date(2026, 3, 8)
REFERRAL = Referral(101, 7, ReferralKind.LOAN, "maker", LAST, ReferralState.PENDING)


def test_a_referral_expires_after_its_last_day() -> None:
    assert last_day(date(2026, 3, 1), 7) == LAST
    assert REFERRAL.state_on(LAST) is ReferralState.PENDING
    assert REFERRAL.state_on(date(2026, 3, 9)) is ReferralState.EXPIRED
    reviewed = replace(REFERRAL, stored_state=ReferralState.DECLINED)
    assert reviewed.state_on(date(2027, 1, 1)) is ReferralState.DECLINED


def test_another_principal_reviews_up_to_the_last_day() -> None:
    require_reviewable(REFERRAL, "checker", LAST)
    with pytest.raises(PreconditionFailedError, match="could be reviewed until 2026-03-08") as late:
        require_reviewable(REFERRAL, "checker", date(2026, 3, 9))
    assert late.value.reason == "REFERRAL_EXPIRED"


def test_the_principal_of_the_request_does_not_review_it() -> None:
    with pytest.raises(SelfReviewError, match="another principal must review it") as own:
        require_reviewable(REFERRAL, "maker", LAST)
    assert own.value.reason == "REVIEWER_IS_REQUESTER"


def test_callers_without_credentials_are_not_known_to_be_the_same() -> None:
    require_reviewable(replace(REFERRAL, requested_by=ANONYMOUS), ANONYMOUS, LAST)


@pytest.mark.parametrize("state", [ReferralState.APPROVED, ReferralState.DECLINED])
def test_a_referral_is_reviewed_once(state: ReferralState) -> None:
    with pytest.raises(PreconditionFailedError, match=f"was reviewed before: {state.lower()}"):
        require_reviewable(replace(REFERRAL, stored_state=state), "checker", LAST)


def test_reasons_are_trimmed_and_may_have_lines() -> None:
    assert validate_reason("  Salary slip seen.\nकॉल किया ") == "Salary slip seen.\nकॉल किया"
    assert validate_reason("x" * 500) == "x" * 500


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is required"),
        (" \n ", "is required"),
        ("x" * 501, "at most 500 characters, found 501"),
        ("a\x00b", "control characters, found U\\+0000"),
        ("a\ud800b", "control characters, found U\\+D800"),
    ],
)
def test_other_reasons_are_rejected(text: str, problem: str) -> None:
    with pytest.raises(InvalidFieldsError, match=problem):
        validate_reason(text)

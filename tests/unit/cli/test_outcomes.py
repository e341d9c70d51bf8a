"""Decisions as the command line shows them."""

import pytest
from google.type.date_pb2 import Date

from credit_service.cli import decisions, outcomes
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, referral_pb2

OVERDUE = decision_pb2.RuleResult(
    code="OVERDUE",
    condition="days_past_due > 30 || asset_class == 4",
    values=[
        decision_pb2.RuleValue(name="days_past_due", value=31),
        decision_pb2.RuleValue(name="asset_class", value=2),
    ],
    outcome=decision_pb2.RULE_OUTCOME_MIN_RATE,
    applied=True,
)


def test_rules_are_shown_with_the_values_used(capsys: pytest.CaptureFixture[str]) -> None:
    broken = decision_pb2.RuleResult(code="BROKEN", condition="1 / age > 1", error="division by 0")
    outcomes.show_rules([OVERDUE, broken])
    _, overdue, failed = capsys.readouterr().out.splitlines()
    for text in ("OVERDUE", "Min rate", "yes", "days_past_due 31, asset_class 2"):
        assert text in overdue
    assert overdue.endswith(OVERDUE.condition)
    assert "division by 0" in failed
    outcomes.show_rules([])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("approved", "outcome", "expected"),
    [
        (True, decision_pb2.DECISION_OUTCOME_APPROVED, "approved"),
        (False, decision_pb2.DECISION_OUTCOME_DECLINED, "declined"),
        (False, decision_pb2.DECISION_OUTCOME_REFERRED, "referred"),
        # A server of release 0.1.0.
        (True, decision_pb2.DECISION_OUTCOME_UNSPECIFIED, "approved"),
        (False, decision_pb2.DECISION_OUTCOME_UNSPECIFIED, "declined"),
    ],
)
def test_a_referral_is_neither_approved_nor_declined(
    approved: bool, outcome: decision_pb2.DecisionOutcome.ValueType, expected: str
) -> None:
    response = pb.CheckEligibilityResponse(approved=approved, outcome=outcome)
    assert outcomes.outcome_name(response) == expected


def test_the_review_of_a_referred_decision_is_shown() -> None:
    waiting = decision_pb2.Decision(
        referral=referral_pb2.Referral(
            state=referral_pb2.REFERRAL_STATE_PENDING, last_day=Date(year=2026, month=6, day=17)
        )
    )
    assert decisions._review_facts(waiting) == [("referral", "pending, last day 2026-06-17")]
    waiting.referral.state = referral_pb2.REFERRAL_STATE_APPROVED
    waiting.referral.reviewer = "checker"
    waiting.referral.reason = "Income checked."
    waiting.referral.result_decision_id = 8
    waiting.referral.reviewed_time.FromJsonString("2026-06-12T06:30:00Z")
    ((name, text),) = decisions._review_facts(waiting)
    assert name == "referral"
    assert text.startswith("approved ")
    assert text.endswith(" by checker, new decision 8: Income checked.")
    again = decision_pb2.Decision(reviewed_decision_id=7)
    assert decisions._review_facts(again) == [("reviewed", "decision 7")]


def test_an_approval_names_the_loan_or_the_offer() -> None:
    assert decisions.made(decision_pb2.Decision(approved=True, loan_id=7)) == "loan 7"
    assert decisions.made(decision_pb2.Decision(approved=True, offer_id=9)) == "offer 9"

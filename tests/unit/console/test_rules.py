"""Rules and score components as table lines, from the service's messages and figures."""

from credit_service.console import formats
from credit_service.console.rules import (
    Ask,
    Position,
    component_lines,
    override_sentence,
    policy_lines,
    rule_lines,
)
from credit_service.v1 import decision_pb2, score_pb2
from credit_service.v1.customer_pb2 import Customer
from credit_service.v1.decision_pb2 import DeclineReason

LAKH = 10_000_000
POSITION = Position(10_000_000, 36 * LAKH, LAKH, 500_000)
ASK = Ask(LAKH, "8", "12", 888_488)


def test_an_approval_passes_all_three_rules_with_the_figures_of_the_position() -> None:
    score, burden, limit = rule_lines(ASK, POSITION, 38, [])
    assert all(each.passed and not each.decided for each in (score, burden, limit))
    assert (score.found, score.note) == ("38", "The rate is corrected from 8 % to 12 %.")
    assert (burden.found, burden.note) == ("₹13,884.88", "13.8 % of the monthly income.")
    assert (limit.found, limit.threshold) == ("₹2,00,000.00", "at most ₹36,00,000.00")
    assert limit.note == "₹34,00,000.00 of the limit remain available."


def test_equal_rates_with_other_digits_are_not_a_correction() -> None:
    ask = Ask(LAKH, "12.00", "12", 888_488)
    assert rule_lines(ask, POSITION, 60, [])[0].note == "The requested rate applies."


def test_a_decline_shows_the_services_reasons_and_marks_the_main_one() -> None:
    reasons = [
        DeclineReason(
            code=decision_pb2.DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW,
            message="The score is too low.",
            found="3",
            threshold="11",
        ),
        DeclineReason(
            code=decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED,
            message="Too much.",
            found="3700000.00",
            threshold="3600000.00",
        ),
    ]
    score, burden, limit = rule_lines(ASK, POSITION, 3, reasons)
    assert (score.decided, score.found, score.threshold) == (True, "3", "at least 11")
    assert burden.passed
    assert not limit.passed
    assert not limit.decided
    assert (limit.found, limit.threshold) == ("₹37,00,000.00", "at most ₹36,00,000.00")
    assert (limit.code, limit.note) == ("APPROVED_LIMIT_EXCEEDED", "Too much.")


def test_an_unknown_reason_of_a_newer_service_is_shown() -> None:
    reason = DeclineReason(code=99, message="New.", found="1", threshold="2")  # type: ignore[arg-type]
    lines = rule_lines(ASK, POSITION, 60, [reason])
    assert (lines[3].code, lines[3].note, lines[3].decided) == ("UNKNOWN_99", "New.", True)


def test_every_reason_of_a_policy_is_shown() -> None:
    reasons = [
        DeclineReason(
            code=decision_pb2.DECLINE_REASON_CODE_POLICY_RULE,
            rule_code=code,
            message="Overdue.",
            found="days_past_due 45",
            threshold=condition,
        )
        for code, condition in (("OVERDUE", "days_past_due > 30"), ("SMA", "asset_class > 1"))
    ]
    *_, first, second = rule_lines(ASK, POSITION, 60, reasons)
    assert (first.code, first.decided) == ("POLICY_RULE OVERDUE", True)
    assert (first.found, first.threshold) == ("days_past_due 45", "days_past_due > 30")
    assert (second.code, second.decided) == ("POLICY_RULE SMA", False)


def test_held_credit_counts_in_the_figures_of_a_decision() -> None:
    inputs = decision_pb2.DecisionInputs(
        monthly_income=formats.money_of(10_000_000),
        approved_limit=formats.money_of(36 * LAKH),
        current_debt=formats.money_of(LAKH),
        current_installments=formats.money_of(500_000),
        held_principal=formats.money_of(2 * LAKH),
        held_installments=formats.money_of(100_000),
    )
    _, burden, limit = rule_lines(ASK, Position.of_inputs(inputs), 60, [])
    assert (burden.found, limit.found) == ("₹14,884.88", "₹4,00,000.00")
    # Under a policy, the principal outstanding may count instead.
    inputs.policy_facts.active_loans = 1
    _, _, limit = rule_lines(ASK, Position.of_inputs(inputs), 60, [])
    assert (limit.found, limit.passed) == ("—", True)


def test_a_policy_rule_shows_its_values_its_effect_and_an_error() -> None:
    applied = decision_pb2.RuleResult(
        code="BIG",
        condition="loan_amount > 100 && score < 50",
        values=[
            decision_pb2.RuleValue(name="loan_amount", value=LAKH),
            decision_pb2.RuleValue(name="score", value=38),
        ],
        outcome=decision_pb2.RULE_OUTCOME_REFER,
        applied=True,
    )
    broken = decision_pb2.RuleResult(code="B", condition="1 / score > 0", error="division by 0")
    first, second = policy_lines([applied, broken])
    assert first.values == [("loan_amount", "₹1,00,000.00"), ("score", "38")]
    assert (first.effect, first.tone, first.applied) == ("Refer", "warn", True)
    assert (second.error, second.applied) == ("division by 0", False)


def test_a_position_is_read_from_a_customer() -> None:
    customer = Customer(
        monthly_income=formats.money_of(1),
        approved_limit=formats.money_of(2),
        current_debt=formats.money_of(3),
        current_installments=formats.money_of(4),
        held_credit=formats.money_of(5),
        held_installments=formats.money_of(6),
    )
    assert Position.of(customer) == Position(1, 2, 3, 4, 5, 6)


def test_components_add_up_from_line_to_line() -> None:
    score = score_pb2.CreditScore(
        score=64,
        components=[
            score_pb2.CreditScoreComponent(
                component=score_pb2.SCORE_COMPONENT_REPAYMENT_HISTORY,
                points={"value": "29.17"},
                max_points={"value": "35"},
            ),
            score_pb2.CreditScoreComponent(
                component=score_pb2.SCORE_COMPONENT_LOAN_COUNT,
                points={"value": "6"},
                max_points={"value": "20"},
            ),
        ],
    )
    first, second = component_lines(score)
    assert (first.name, first.start_hundredths, first.points_hundredths) == (
        "Repayment history",
        0,
        2917,
    )
    assert (second.name, second.start_hundredths) == ("Loan count", 2917)


def test_only_overrides_are_described() -> None:
    for override in score_pb2.ScoreOverride.values():
        text = override_sentence(score_pb2.CreditScore(override=override))
        assert bool(text) is (override != score_pb2.SCORE_OVERRIDE_UNSPECIFIED)

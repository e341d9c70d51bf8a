"""The results of the rules as table lines, with the found value and the threshold.

A failed rule shows the service's own reason. A passed rule shows figures of the customer's position
from the contract; a page shows no figure that the contract does not have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from credit_service.client import display
from credit_service.console import formats
from credit_service.rupees import format_inr
from credit_service.v1 import decision_pb2, score_pb2

_SCORE_CODES = frozenset(
    {
        decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY,
        decision_pb2.DECLINE_REASON_CODE_DEBT_EXCEEDS_APPROVED_LIMIT,
        decision_pb2.DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW,
    }
)
_IN_RUPEES = frozenset(
    {
        decision_pb2.DECLINE_REASON_CODE_NEW_TO_CREDIT_AMOUNT_EXCEEDED,
        decision_pb2.DECLINE_REASON_CODE_POLICY_AMOUNT_EXCEEDED,
        decision_pb2.DECLINE_REASON_CODE_DEBT_EXCEEDS_APPROVED_LIMIT,
        decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH,
        decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED,
    }
)
_NAMES: Mapping[int, str] = {
    decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH: "Installments fit the income",
    decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED: "Debt stays within the limit",
}
_OTHER_NAMES: Mapping[int, str] = {
    decision_pb2.DECLINE_REASON_CODE_NEW_TO_CREDIT_AMOUNT_EXCEEDED: "Amount of a first loan",
    decision_pb2.DECLINE_REASON_CODE_LOAN_AMOUNT_TOO_SMALL: "Amount can be repaid",
    decision_pb2.DECLINE_REASON_CODE_POLICY_RULE: "Policy rule",
    decision_pb2.DECLINE_REASON_CODE_POLICY_AMOUNT_EXCEEDED: "Amount that a policy rule allows",
}
_SCORE_RULE = "Score allows a loan"


@dataclass(frozen=True, slots=True)
class Ask:
    """The requested loan and its result, in paise and in percent as text. The installment is the
    largest, last one included, because the income rule uses it."""

    principal_paise: int
    requested_rate: str
    corrected_rate: str
    installment_paise: int


@dataclass(frozen=True, slots=True)
class Position:
    """The money of a customer's position, in paise."""

    monthly_income_paise: int
    approved_limit_paise: int
    current_debt_paise: int
    current_installments_paise: int
    held_principal_paise: int = 0
    held_installments_paise: int = 0
    debt_is_known: bool = True
    """False if a policy can count another debt than the principal of active loans."""

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Position":
        """Return the position of a decision's inputs."""
        is_known = not inputs.HasField("policy_facts")
        return cls._of(inputs, inputs.held_principal, debt_is_known=is_known)

    @classmethod
    def of(cls, message: Any) -> "Position":
        """Return the position of a Customer."""
        return cls._of(message, message.held_credit)

    @classmethod
    def _of(cls, message: Any, held: Any, *, debt_is_known: bool = True) -> "Position":
        """A Customer and a decision's inputs share most field names."""
        return cls(
            display.paise(message.monthly_income),
            display.paise(message.approved_limit),
            display.paise(message.current_debt),
            display.paise(message.current_installments),
            display.paise(held),
            display.paise(message.held_installments),
            debt_is_known,
        )


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule: the found value, its threshold, and whether it passed."""

    name: str
    code: str
    found: str
    threshold: str
    passed: bool
    decided: bool
    note: str


def rule_lines(ask: Ask, position: Position, score: int, reasons: Sequence[Any]) -> list[RuleLine]:
    """Return the three rules in order, then any failed rules that this console does not know.
    `decided` marks the failed rule with the highest precedence."""
    by_code = {reason.code: reason for reason in reversed(reasons)}
    weightiest = _key(reasons[0]) if reasons else None
    score_reason = next((each for each in reasons if each.code in _SCORE_CODES), None)
    lines = [
        _declined(_SCORE_RULE, score_reason, weightiest)
        if score_reason is not None
        else _score_passed(ask, score)
    ]
    burden = by_code.get(decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH)
    limit = by_code.get(decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED)
    lines.append(
        _burden_passed(ask, position)
        if burden is None
        else _declined(_NAMES[burden.code], burden, weightiest)
    )
    lines.append(
        _limit_passed(ask, position)
        if limit is None
        else _declined(_NAMES[limit.code], limit, weightiest)
    )
    shown = _SCORE_CODES | _NAMES.keys()
    others = [each for each in reasons if each.code not in shown]
    return lines + [
        _declined(_OTHER_NAMES.get(each.code, "Another rule"), each, weightiest) for each in others
    ]


def _key(reason: Any) -> tuple[int, str]:
    """Several rules of a policy share a code."""
    return reason.code, reason.rule_code


def _declined(name: str, reason: Any, weightiest: tuple[int, str] | None) -> RuleLine:
    code = display.enum_name(reason.code, decision_pb2.DeclineReasonCode)
    show = formats.figure if reason.code in _IN_RUPEES else str
    sign = "at most " if reason.code in _IN_RUPEES else "at least "
    if reason.code == decision_pb2.DECLINE_REASON_CODE_POLICY_RULE:
        sign = ""
    return RuleLine(
        name,
        f"{code} {reason.rule_code}".strip(),
        show(reason.found),
        f"{sign}{show(reason.threshold)}",
        passed=False,
        decided=_key(reason) == weightiest,
        note=reason.message,
    )


def _score_passed(ask: Ask, score: int) -> RuleLine:
    note = "The requested rate applies."
    if formats.to_hundredths(ask.requested_rate) != formats.to_hundredths(ask.corrected_rate):
        note = f"The rate is corrected from {ask.requested_rate} % to {ask.corrected_rate} %."
    return RuleLine(_SCORE_RULE, "", str(score), "", passed=True, decided=False, note=note)


def _burden_passed(ask: Ask, position: Position) -> RuleLine:
    held = position.held_installments_paise
    burden = position.current_installments_paise + held + ask.installment_paise
    note = ""
    if position.monthly_income_paise:
        tenths = burden * 1000 // position.monthly_income_paise
        note = f"{tenths // 10}.{tenths % 10} % of the monthly income."
    name = _NAMES[decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH]
    return RuleLine(name, "", format_inr(burden), "", passed=True, decided=False, note=note)


def _limit_passed(ask: Ask, position: Position) -> RuleLine:
    debt = position.current_debt_paise + position.held_principal_paise + ask.principal_paise
    limit = position.approved_limit_paise
    name = _NAMES[decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED]
    if not position.debt_is_known:
        note = "The scorecard's policy says which debt counts."
        found, most = "—", f"at most {format_inr(limit)}"
        return RuleLine(name, "", found, most, passed=True, decided=False, note=note)
    return RuleLine(
        name,
        "",
        format_inr(debt),
        f"at most {format_inr(limit)}",
        passed=True,
        decided=False,
        note=f"{format_inr(limit - debt)} of the limit remain available.",
    )


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A rule of a scorecard's policy, as it was evaluated. Values are names with figures."""

    code: str
    condition: str
    values: list[tuple[str, str]]
    effect: str
    tone: str
    applied: bool
    error: str


_MONEY_NAMES = frozenset({"loan_amount", "principal_outstanding", "held", "monthly_income"})
_TONES: Mapping[int, str] = {
    decision_pb2.RULE_OUTCOME_DECLINE: "declined",
    decision_pb2.RULE_OUTCOME_REFER: "warn",
}


def policy_lines(results: Iterable[Any]) -> list[PolicyLine]:
    """Return the rules of the policy of a decision, in its order."""
    return [
        PolicyLine(
            each.code,
            each.condition,
            [
                (one.name, format_inr(one.value) if one.name in _MONEY_NAMES else str(one.value))
                for one in each.values
            ],
            display.words(display.enum_name(each.outcome, decision_pb2.RuleOutcome)),
            _TONES.get(each.outcome, "accent"),
            each.applied,
            each.error,
        )
        for each in results
    ]


@dataclass(frozen=True, slots=True)
class ComponentLine:
    """A component of a score. Points in hundredths; `start` is the sum of the components before."""

    name: str
    points: str
    max_points: str
    points_hundredths: int
    max_hundredths: int
    start_hundredths: int
    explanation: str


def component_lines(score: Any) -> list[ComponentLine]:
    """Return the components of a CreditScore, in its order."""
    lines = []
    start = 0
    for each in score.components:
        points = formats.to_hundredths(each.points.value) or 0
        name = display.words(display.enum_name(each.component, score_pb2.ScoreComponent))
        lines.append(
            ComponentLine(
                name,
                each.points.value,
                each.max_points.value,
                points,
                formats.to_hundredths(each.max_points.value) or 0,
                start,
                each.explanation,
            )
        )
        start += points
    return lines


_OVERRIDES: Mapping[int, str] = {
    score_pb2.SCORE_OVERRIDE_NO_CREDIT_HISTORY: "The customer never had a loan: the score is 0.",
    score_pb2.SCORE_OVERRIDE_DEBT_EXCEEDS_APPROVED_LIMIT: (
        "The debt exceeds the approved limit: the score is 0."
    ),
}


def override_sentence(score: Any) -> str:
    """Return which rule set the score to 0, or '' for none."""
    if score.override == score_pb2.SCORE_OVERRIDE_UNSPECIFIED:
        return ""
    return _OVERRIDES.get(score.override, "A rule set the score to 0.")

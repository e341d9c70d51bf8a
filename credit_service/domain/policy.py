"""The policy of a scorecard: what a document may add to weights, slabs and limits.

A policy is optional, and so is each part of it. docs/rules.md explains the parts.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from credit_service.domain.conditions import (
    MAX_CONDITION_LENGTH,
    Condition,
    ConditionError,
    EvaluationError,
    check_condition,
)
from credit_service.domain.document_reader import DocumentReader
from credit_service.domain.errors import INVALID_FORMAT, OUT_OF_RANGE, REQUIRED
from credit_service.domain.loans import MAX_ANNUAL_RATE_BPS, MAX_PRINCIPAL_PAISE

MAX_RULES = 50
MAX_MESSAGE_LENGTH = 500


class OnTimeCounts(StrEnum):
    """When an EMI that was paid on time begins to count in the score."""

    WHEN_PAID = "WHEN_PAID"
    """On the day on which it is paid, even ahead of its due date."""
    WHEN_DUE = "WHEN_DUE"
    """On its due date: EMIs paid ahead of it do not count yet."""


class DebtBasis(StrEnum):
    """The debt of ACTIVE loans that counts against the approved limit."""

    ORIGINAL_PRINCIPAL = "ORIGINAL_PRINCIPAL"
    """The principal as lent, until the loan is closed."""
    PRINCIPAL_OUTSTANDING = "PRINCIPAL_OUTSTANDING"
    """The principal that is not repaid yet."""


class RuleOutcome(StrEnum):
    """The effect of a rule whose condition holds."""

    DECLINE = "DECLINE"
    """The loan is declined."""
    REFER = "REFER"
    """A person reviews the request, unless something declines it."""
    MIN_RATE = "MIN_RATE"
    """The rate is at least `min_rate_bps`."""
    MAX_AMOUNT = "MAX_AMOUNT"
    """The principal is at most `max_principal_paise`."""


@dataclass(frozen=True, slots=True)
class NewToCredit:
    """The terms for a customer who never had a loan, instead of a decline."""

    max_principal_paise: int
    min_rate_bps: int


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule: if its condition holds, its outcome applies. `message` is a sentence for a person.

    `min_rate_bps` is set for MIN_RATE only, `max_principal_paise` for MAX_AMOUNT only.
    """

    code: str
    condition: Condition
    outcome: RuleOutcome
    message: str
    min_rate_bps: int | None = None
    max_principal_paise: int | None = None


@dataclass(frozen=True, slots=True)
class RuleResult:
    """A rule as it was evaluated for a decision: `applied` if its condition held.

    `values` are the names of the condition with the values used, in order of their first use.
    `error` says why the condition had no result; '' if it had one.
    """

    code: str
    condition: str
    # A RuleOutcome; in a stored decision of a later release, perhaps another name.
    outcome: str
    values: tuple[tuple[str, int], ...]
    applied: bool
    error: str = ""

    @property
    def found(self) -> str:
        """The names and values used: 'days_past_due 349, asset_class 4'."""
        return ", ".join(f"{name} {value}" for name, value in self.values)


def evaluate(rule: PolicyRule, values: Mapping[str, int]) -> RuleResult:
    """The result of the rule for the values of all names. Never raises for them."""
    applied, problem = False, ""
    try:
        applied = rule.condition.holds(values)
    except EvaluationError as error:
        problem = str(error)
    used = tuple([(name, values[name]) for name in rule.condition.names])
    return RuleResult(rule.code, rule.condition.text, rule.outcome, used, applied, problem)


def refers(result: RuleResult, waived: AbstractSet[str]) -> bool:
    """Whether the rule refers the request: it is a rule of REFER that applied, or it has no result,
    and it was not waived."""
    is_referring = result.applied and result.outcome == RuleOutcome.REFER
    return result.code not in waived and (is_referring or result.error != "")


KEYS: Final = frozenset({"new_to_credit", "on_time_counts", "debt_basis", "rules"})
"""The optional keys of a document."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_RULE_KEYS = frozenset({"code", "condition", "outcome", "message"})
_AMOUNTS = {
    RuleOutcome.MIN_RATE: ("min_rate_bps", MAX_ANNUAL_RATE_BPS),
    RuleOutcome.MAX_AMOUNT: ("max_principal_paise", MAX_PRINCIPAL_PAISE),
}
"""The key that an outcome needs, and its largest value."""

Choice = TypeVar("Choice", bound=StrEnum)


def read_choice(
    reader: DocumentReader, document: Mapping[str, Any], key: str, default: Choice
) -> Choice:
    """The choice of a key; the default if the document has no such key."""
    return _choice(reader, document.get(key, str(default)), key, default)


def read_new_to_credit(reader: DocumentReader, document: Mapping[str, Any]) -> NewToCredit | None:
    """The terms for customers without loans; None if the document has none."""
    path = "new_to_credit"
    if path not in document:
        return None
    fields = reader.mapping(document[path], path, {"max_principal_paise", "min_rate_bps"})
    return NewToCredit(
        reader.integer(fields, "max_principal_paise", path, 1, MAX_PRINCIPAL_PAISE),
        reader.integer(fields, "min_rate_bps", path, 0, MAX_ANNUAL_RATE_BPS),
    )


def read_rules(reader: DocumentReader, document: Mapping[str, Any]) -> tuple[PolicyRule, ...]:
    """The rules in their order; those with violations are left out."""
    value = document.get("rules", [])
    if not isinstance(value, list | tuple):
        reader.add("rules", INVALID_FORMAT, "must be a list of rules")
        return ()
    if len(value) > MAX_RULES:
        reader.add("rules", OUT_OF_RANGE, f"must be at most {MAX_RULES}, found {len(value)}")
        return ()
    rules: list[PolicyRule] = []
    first: dict[str, int] = {}
    for index, each in enumerate(value):
        path = f"rules[{index}]"
        rule = _read_rule(reader, each, path)
        if rule is None:
            continue
        if rule.code in first:
            problem = f"must be unique, but rules[{first[rule.code]}] is also {rule.code}"
            reader.add(f"{path}.code", INVALID_FORMAT, problem)
        first.setdefault(rule.code, index)
        rules.append(rule)
    return tuple(rules)


def _read_rule(reader: DocumentReader, value: object, path: str) -> PolicyRule | None:
    """The rule; None if it has a violation."""
    before = len(reader.violations)
    if not isinstance(value, Mapping):
        reader.mapping(value, path, _RULE_KEYS)
        return None
    outcome = _read_outcome(reader, value, path)
    key, largest = _AMOUNTS.get(outcome, ("", 0)) if outcome else ("", 0)
    fields = reader.mapping(value, path, _RULE_KEYS | _amount_keys(outcome))
    code = reader.text(fields, "code", path, 64)
    if code and not _CODE.fullmatch(code):
        problem = "must be capital letters, digits and '_', and start with a letter"
        reader.add(f"{path}.code", INVALID_FORMAT, problem)
    condition = _read_condition(reader, fields, path)
    message = reader.text(fields, "message", path, MAX_MESSAGE_LENGTH)
    least = 1 if outcome is RuleOutcome.MAX_AMOUNT else 0
    amount = reader.integer(fields, key, path, least, largest) if key else None
    if len(reader.violations) > before or condition is None or outcome is None:
        return None
    return PolicyRule(
        code,
        condition,
        outcome,
        message,
        amount if outcome is RuleOutcome.MIN_RATE else None,
        amount if outcome is RuleOutcome.MAX_AMOUNT else None,
    )


def _amount_keys(outcome: RuleOutcome | None) -> set[str]:
    """The keys that the outcome needs besides those of all rules; for no outcome, those of all."""
    return {key for each, (key, _) in _AMOUNTS.items() if outcome in (each, None)}


def _read_outcome(
    reader: DocumentReader, fields: Mapping[str, Any], path: str
) -> RuleOutcome | None:
    where = f"{path}.outcome"
    if "outcome" not in fields:
        reader.add(where, REQUIRED, "is missing")
        return None
    before = len(reader.violations)
    outcome = _choice(reader, fields["outcome"], where, RuleOutcome.DECLINE)
    return outcome if len(reader.violations) == before else None


def _choice(reader: DocumentReader, value: object, path: str, default: Choice) -> Choice:
    choices = type(default)
    if isinstance(value, str) and value in list(choices):
        return choices(value)
    reader.add(path, INVALID_FORMAT, f"must be one of {', '.join(choices)}, found {value!r}")
    return default


def _read_condition(
    reader: DocumentReader, fields: Mapping[str, Any], path: str
) -> Condition | None:
    text = reader.text(fields, "condition", path, MAX_CONDITION_LENGTH)
    if not text:
        return None
    try:
        return check_condition(text)
    except ConditionError as error:
        reader.add(f"{path}.condition", INVALID_FORMAT, str(error))
        return None


def policy_document(
    new_to_credit: NewToCredit | None,
    on_time_counts: OnTimeCounts,
    debt_basis: DebtBasis,
    rules: tuple[PolicyRule, ...],
) -> dict[str, Any]:
    """The keys of a document for a policy. Keys with default values are left out."""
    document: dict[str, Any] = {}
    if new_to_credit is not None:
        document["new_to_credit"] = {
            "max_principal_paise": new_to_credit.max_principal_paise,
            "min_rate_bps": new_to_credit.min_rate_bps,
        }
    if on_time_counts is not OnTimeCounts.WHEN_PAID:
        document["on_time_counts"] = str(on_time_counts)
    if debt_basis is not DebtBasis.ORIGINAL_PRINCIPAL:
        document["debt_basis"] = str(debt_basis)
    if rules:
        document["rules"] = [_rule_document(rule) for rule in rules]
    return document


def _rule_document(rule: PolicyRule) -> dict[str, Any]:
    document: dict[str, Any] = {
        "code": rule.code,
        "condition": rule.condition.text,
        "outcome": str(rule.outcome),
        "message": rule.message,
    }
    if rule.min_rate_bps is not None:
        document["min_rate_bps"] = rule.min_rate_bps
    if rule.max_principal_paise is not None:
        document["max_principal_paise"] = rule.max_principal_paise
    return document

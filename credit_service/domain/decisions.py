"""Stored decisions: inputs and outcome as canonical JSON, and their replay byte for byte.

Canonical: keys sorted, no spaces, integers and strings only (a decision contains no float), dates
as ISO strings, text as UTF-8. Store it as text or json; jsonb would not keep the bytes.

A later release may add fields, reason codes and components. They are ignored here and stay in the
stored text. Inputs that a later release added affect its decision, so this release can read such a
decision but not replay it.
"""

import json
from collections.abc import Collection
from datetime import date
from enum import StrEnum
from typing import Any, NamedTuple

from credit_service.domain.counter_offers import CounterOffer
from credit_service.domain.documents import field_names, from_document
from credit_service.domain.eligibility import Ask, Decision, Outcome, decide
from credit_service.domain.policy import RuleOutcome, RuleResult
from credit_service.domain.policy_facts import AssetClass, PolicyFacts
from credit_service.domain.positions import CreditPosition
from credit_service.domain.reasons import Reason, ReasonCode, Rules, current_rules
from credit_service.domain.scorecard import Component, Scorecard
from credit_service.domain.scoring import CreditScore, Override, ScoreComponent

FORMAT = 1
"""Raised when the shape changes other than by additions; older documents stay readable. The release
before must already read the format that a release writes."""

_INPUTS = frozenset(
    {"format", "rules", "ask", "day", "position", "scorecard_version", "facts", "waived"}
)
_POSITION = frozenset(field_names(CreditPosition))
_FACTS = frozenset(field_names(PolicyFacts))
_ASK = frozenset(field_names(Ask))
_RULES = frozenset(Rules)

_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


class DecisionInputs(NamedTuple):
    """The inputs of a decision."""

    position: CreditPosition
    ask: Ask
    day: date
    scorecard_version: str
    # None: an edition of a later release.
    rules: Rules | None
    # Names of inputs that a later release added; their values are in the stored text.
    unknown: tuple[str, ...]
    # None: no scorecard needed them when the decision was made.
    facts: PolicyFacts | None = None
    # Codes of the rules that a reviewer waived.
    waived: frozenset[str] = frozenset()


class LaterReleaseError(ValueError):
    """A decision depends on inputs of a later release."""


class MissingFactsError(ValueError):
    """A scorecard needs facts that the stored decision does not contain."""


def encode_inputs(
    position: CreditPosition,
    ask: Ask,
    day: date,
    scorecard: Scorecard,
    *,
    facts: PolicyFacts | None = None,
    waived: Collection[str] = (),
) -> str:
    """The inputs of a decision by the scorecard's current rules, as canonical JSON. Held credit of
    0, facts of None and an empty `waived` are left out."""
    held = {
        "held_principal_paise": position.held_principal_paise,
        "held_installments_paise": position.held_installments_paise,
    }
    document: dict[str, Any] = {
        "format": FORMAT,
        "rules": current_rules(scorecard),
        "ask": {
            "principal_paise": ask.principal_paise,
            "annual_rate_bps": ask.annual_rate_bps,
            "tenure_months": ask.tenure_months,
        },
        "day": day.isoformat(),
        "position": {
            "customer_id": position.customer_id,
            "version": position.version,
            "monthly_income_paise": position.monthly_income_paise,
            "approved_limit_paise": position.approved_limit_paise,
            "current_debt_paise": position.current_debt_paise,
            "current_installments_paise": position.current_installments_paise,
            "loan_count": position.loan_count,
            "total_principal_paise": position.total_principal_paise,
            "emis_on_time": position.emis_on_time,
            "emis_due": position.emis_due,
            "current_year_loans": position.current_year_loans,
            "as_of": position.as_of.isoformat(),
            "valid_until": position.valid_until.isoformat(),
            **{name: paise for name, paise in held.items() if paise},
        },
        "scorecard_version": scorecard.version,
    }
    if facts is not None:
        document["facts"] = _facts_document(facts)
    if waived:
        document["waived"] = sorted(waived)
    return _encode(document)


def decode_inputs(text: str) -> DecisionInputs:
    """The inputs of `encode_inputs`, or of a later release. Raises ValueError otherwise.

    Inputs without rules are from before there was a second edition of the rules.
    """
    try:
        document = _decode(text)
        position, rules = document["position"], document.get("rules", Rules.FIRST)
        facts = document.get("facts")
        unknown = [
            *sorted(document.keys() - _INPUTS),
            *sorted(f"position.{name}" for name in position if name not in _POSITION),
            *sorted(f"ask.{name}" for name in document["ask"] if name not in _ASK),
            *sorted(f"facts.{name}" for name in facts or () if name not in _FACTS),
        ]
        if rules not in _RULES:
            unknown.append(f"rules {rules}")
        return DecisionInputs(
            from_document(
                CreditPosition,
                position,
                as_of=date.fromisoformat(position["as_of"]),
                valid_until=date.fromisoformat(position["valid_until"]),
            ),
            from_document(Ask, document["ask"]),
            date.fromisoformat(document["day"]),
            str(document["scorecard_version"]),
            Rules(rules) if rules in _RULES else None,
            tuple(unknown),
            None if facts is None else _facts(facts),
            frozenset(map(str, document.get("waived", ()))),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the inputs of a decision: {error!r}") from error


def _facts_document(facts: PolicyFacts) -> dict[str, Any]:
    """The facts as a JSON-able dict, without a next due date of None."""
    document = {name: getattr(facts, name) for name in field_names(PolicyFacts)}
    next_due = document.pop("next_due_of_repaid")
    return document if next_due is None else document | {"next_due_of_repaid": next_due.isoformat()}


def _facts(document: dict[str, Any]) -> PolicyFacts:
    next_due = document.get("next_due_of_repaid")
    return from_document(
        PolicyFacts,
        document,
        asset_class=AssetClass(document["asset_class"]),
        next_due_of_repaid=None if next_due is None else date.fromisoformat(next_due),
    )


def encode_outcome(decision: Decision) -> str:
    """A decision as canonical JSON. Last installments of None, and what only scorecards with a
    policy give, are left out."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "approved": decision.approved,
        "requested_rate_bps": decision.requested_rate_bps,
        "corrected_rate_bps": decision.corrected_rate_bps,
        "installment_paise": decision.installment_paise,
        "score": score_document(decision.score),
        "reasons": [_reason_document(each) for each in decision.reasons],
        "counter_offer": None,
    }
    if decision.referred:
        document["outcome"] = decision.outcome
    if decision.rules:
        document["rules"] = [_result_document(each) for each in decision.rules]
    if decision.last_installment_paise is not None:
        document["last_installment_paise"] = decision.last_installment_paise
    if decision.counter_offer is not None:
        document["counter_offer"] = _offer_document(decision.counter_offer)
    return _encode(document)


def _reason_document(reason: Reason) -> dict[str, Any]:
    document: dict[str, Any] = {
        "code": reason.code,
        "message": reason.message,
        "found": reason.found,
        "threshold": reason.threshold,
        "components": reason.components,
    }
    if reason.rule_code:
        document["rule_code"] = reason.rule_code
    return document


def _result_document(result: RuleResult) -> dict[str, Any]:
    document: dict[str, Any] = {
        "code": result.code,
        "condition": result.condition,
        "outcome": result.outcome,
        # Pairs keep the order in which the condition uses the names.
        "values": result.values,
        "applied": result.applied,
    }
    if result.error:
        document["error"] = result.error
    return document


def _offer_document(offer: CounterOffer) -> dict[str, int | None]:
    document = {
        "max_principal_paise": offer.max_principal_paise,
        "max_principal_installment_paise": offer.max_principal_installment_paise,
        "min_tenure_months": offer.min_tenure_months,
        "min_tenure_installment_paise": offer.min_tenure_installment_paise,
    }
    if offer.max_principal_last_installment_paise is not None:
        last = offer.max_principal_last_installment_paise
        document["max_principal_last_installment_paise"] = last
    if offer.min_tenure_last_installment_paise is not None:
        last = offer.min_tenure_last_installment_paise
        document["min_tenure_last_installment_paise"] = last
    return document


def score_document(score: CreditScore) -> dict[str, Any]:
    """A score as a JSON-able dict; `score_from_document` restores an equal one."""
    return {
        "score": score.score,
        "components": [
            {
                "component": each.component,
                "points_hundredths": each.points_hundredths,
                "max_points_hundredths": each.max_points_hundredths,
                "found": each.found,
                "full_at": each.full_at,
            }
            for each in score.components
        ],
        "override": score.override,
        "scorecard_version": score.scorecard_version,
        "customer_version": score.customer_version,
        "valid_until": score.valid_until.isoformat(),
    }


def decode_outcome(text: str) -> Decision:
    """The decision of `encode_outcome`, or of a later release. Raises ValueError otherwise."""
    try:
        document = _decode(text)
        offer = document["counter_offer"]
        return Decision(
            approved=document["approved"],
            requested_rate_bps=document["requested_rate_bps"],
            corrected_rate_bps=document["corrected_rate_bps"],
            installment_paise=document["installment_paise"],
            score=score_from_document(document["score"]),
            reasons=tuple(
                Reason(
                    _known(ReasonCode, each["code"]),
                    each["message"],
                    each["found"],
                    each["threshold"],
                    tuple(_known(Component, name) for name in each["components"]),
                    each.get("rule_code", ""),
                )
                for each in document["reasons"]
            ),
            counter_offer=None if offer is None else from_document(CounterOffer, offer),
            last_installment_paise=document.get("last_installment_paise"),
            referred=document.get("outcome") == Outcome.REFERRED,
            rules=tuple(_result(each) for each in document.get("rules", ())),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the outcome of a decision: {error!r}") from error


def _result(document: dict[str, Any]) -> RuleResult:
    return RuleResult(
        document["code"],
        document["condition"],
        _known(RuleOutcome, document["outcome"]),
        tuple((name, value) for name, value in document["values"]),
        document["applied"],
        document.get("error", ""),
    )


def score_from_document(document: dict[str, Any]) -> CreditScore:
    """The score of `score_document`, or of a later release.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    override = document["override"]
    return CreditScore(
        score=document["score"],
        components=tuple(
            from_document(ScoreComponent, each, component=_known(Component, each["component"]))
            for each in document["components"]
        ),
        override=None if override is None else _known(Override, override),
        scorecard_version=document["scorecard_version"],
        customer_version=document["customer_version"],
        valid_until=date.fromisoformat(document["valid_until"]),
    )


def _known(names: type[StrEnum], text: str) -> str:
    """The member of that name; the text itself for a name of a later release."""
    try:
        return names(text)
    except ValueError:
        return str(text)


def _decode(text: str) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not a stored decision of format {FORMAT}")
    return document


def replay(inputs_json: str, scorecard: Scorecard) -> str:
    """The outcome of stored inputs under a scorecard, as canonical JSON.

    Under the scorecard that the inputs name, it uses the rules that they name, and the result
    equals the stored outcome byte for byte, texts of reasons included. Under another scorecard it
    is what that scorecard would have decided, by its current rules unless the inputs name the first
    ones.

    Raises:
        LaterReleaseError: a later release decided, by inputs or rules unknown here.
        MissingFactsError: the scorecard needs facts that are not stored with the decision, because
            no scorecard needed them when it was made.
    """
    return encode_outcome(redecide(inputs_json, scorecard))


def redecide(inputs_json: str, scorecard: Scorecard) -> Decision:
    """The decision of stored inputs under a scorecard. Raises as `replay` does."""
    inputs = decode_inputs(inputs_json)
    if inputs.rules is None or inputs.unknown:
        raise LaterReleaseError(
            f"A later release made the decision and also used {', '.join(inputs.unknown)}; "
            "replay it with that release."
        )
    if inputs.facts is None and scorecard.needs_facts:
        raise MissingFactsError(
            f"The decision was made without the facts that scorecard {scorecard.version} needs."
        )
    rules = inputs.rules
    if rules is not Rules.FIRST and scorecard.version != inputs.scorecard_version:
        rules = current_rules(scorecard)
    return decide(
        inputs.position,
        inputs.ask,
        scorecard,
        inputs.day,
        rules,
        facts=inputs.facts,
        waived=inputs.waived,
    )

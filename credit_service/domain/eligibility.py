"""Eligibility: the decision on an ask."""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import date
from enum import StrEnum
from typing import NamedTuple

from credit_service.domain.counter_offers import (
    CounterOffer,
    Limits,
    counter_offer_of,
    counter_offer_within,
    largest_principal_below,
    shortest_tenure_above,
)
from credit_service.domain.loans import Ask, LoanTerms
from credit_service.domain.money import divide_half_up
from credit_service.domain.policy import PolicyRule, RuleOutcome, RuleResult, evaluate, refers
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, require_valid_on
from credit_service.domain.reasons import (
    MAX_REASONS,
    Case,
    Reason,
    Rules,
    amount_reason,
    burden_reason,
    capped_reason,
    current_rules,
    income_share_paise,
    limit_reason,
    new_to_credit_held_paise,
    new_to_credit_reason,
    rule_reason,
    score_reason,
)
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import CreditScore, Override, score

__all__ = ["Ask", "Decision", "Outcome", "RuleResult", "decide"]

_OF_PRINCIPAL = frozenset({"loan_amount", "installment_share_bps"})
_OF_TENURE = frozenset({"tenure_months", "installment_share_bps"})
"""The names of conditions whose values depend on the principal, and on the tenure, of an ask."""


class Outcome(StrEnum):
    """The outcome of a decision."""

    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    REFERRED = "REFERRED"
    """A person must review the request; nothing is booked."""


class Decision(NamedTuple):
    """The decision on an ask. `installment_paise` is at the corrected rate.

    When the score declines, the corrected rate is the requested one. `reasons` is empty exactly
    when approved. `last_installment_paise` balances the schedule; None by `Rules.FIRST`, which does
    not include it. `rules` has a result for each rule of the scorecard's policy, in its order.
    """

    approved: bool
    requested_rate_bps: int
    corrected_rate_bps: int
    installment_paise: int
    score: CreditScore
    reasons: tuple[Reason, ...]
    counter_offer: CounterOffer | None
    last_installment_paise: int | None = None
    referred: bool = False
    rules: tuple[RuleResult, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """APPROVED, DECLINED, or REFERRED to a person."""
        if self.approved:
            return Outcome.APPROVED
        return Outcome.REFERRED if self.referred else Outcome.DECLINED


def decide(
    position: CreditPosition,
    ask: Ask,
    scorecard: Scorecard,
    day: date,
    rules: Rules | None = None,
    *,
    facts: PolicyFacts | None = None,
    waived: frozenset[str] = frozenset(),
) -> Decision:
    """The decision on an ask made on `day`. Pure: the same inputs always give the same decision.

    `facts` are those of the same day and the same version of the customer; only scorecards with a
    policy use them. `waived` are codes of rules that no longer refer the request, because a
    reviewer approved it. `rules` is the edition of the rules, by default the scorecard's current
    one.

    Raises ValueError when the position is not valid on `day`, or when the scorecard needs facts and
    there are none.
    """
    require_valid_on(position, day)
    if facts is None and scorecard.needs_facts:
        raise ValueError(f"scorecard {scorecard.version} needs the facts of its policy")
    credit_score = score(position, scorecard, facts)
    new_to_credit = None
    min_rate_bps = scorecard.slab(credit_score.score).min_rate_bps
    if credit_score.override is Override.NO_CREDIT_HISTORY and scorecard.new_to_credit is not None:
        new_to_credit = scorecard.new_to_credit
        min_rate_bps = new_to_credit.min_rate_bps
    edition = current_rules(scorecard) if rules is None else rules
    case = Case(
        position, scorecard, edition, facts, waived, credit_score, new_to_credit, min_rate_bps
    )
    decision, limits = _decide(case, ask)
    if decision.approved or decision.referred or min_rate_bps is None:
        return decision
    counter_offer = counter_offer_within(limits, ask)
    if counter_offer is not None and scorecard.rules:
        counter_offer = _within_rules(counter_offer, limits, case, ask)
    return decision if counter_offer is None else decision._replace(counter_offer=counter_offer)


def _decide(case: Case, ask: Ask) -> tuple[Decision, Limits]:
    """The decision without a counter-offer, and the limits that one must keep."""
    position, scorecard = case.position, case.scorecard
    rate_bps = max(ask.annual_rate_bps, case.min_rate_bps or 0)
    terms = LoanTerms(ask.principal_paise, rate_bps, ask.tenure_months)
    installment, last, largest = case.installments(terms)
    results: tuple[RuleResult, ...] = ()
    if scorecard.rules:
        values = _values(case, ask, largest)
        results = tuple([evaluate(rule, values) for rule in scorecard.rules])
        raised = _raised_rate(case, results, rate_bps)
        if raised > rate_bps:
            rate_bps = raised
            terms = LoanTerms(ask.principal_paise, rate_bps, ask.tenure_months)
            installment, last, largest = case.installments(terms)
    # The first two limits may be negative.
    limits = Limits(
        max_installment_paise=income_share_paise(position, scorecard)
        - position.current_installments_paise
        - position.held_installments_paise,
        max_principal_paise=position.approved_limit_paise
        - case.debt_paise
        - position.held_principal_paise,
        least_principal_paise=scorecard.min_principal_paise,
        rate_bps=rate_bps,
        rules=case.edition,
    )
    reasons = _declines(case, ask, terms, limits, (installment, largest), results)
    referring = [] if reasons else _referrals(case, results)
    decision = Decision(
        approved=not reasons and not referring,
        requested_rate_bps=ask.annual_rate_bps,
        corrected_rate_bps=rate_bps,
        installment_paise=installment,
        score=case.score,
        reasons=tuple([*reasons, *referring][:MAX_REASONS]),
        counter_offer=None,
        last_installment_paise=last,
        referred=bool(referring),
        rules=results,
    )
    return decision, _capped(limits, case, results)


def _declines(
    case: Case,
    ask: Ask,
    terms: LoanTerms,
    limits: Limits,
    installments: tuple[int, int],
    results: tuple[RuleResult, ...],
) -> list[Reason]:
    """All reasons to decline, by weight. `installments` are the monthly and the largest one."""
    installment, largest = installments
    found = []
    if case.min_rate_bps is None:
        found.append(score_reason(case))
    if results:
        found += [
            rule_reason(rule, result)
            for rule, result in zip(case.scorecard.rules, results, strict=True)
            if result.applied and rule.outcome is RuleOutcome.DECLINE
        ]
    if largest > limits.max_installment_paise:
        # Name the last installment only where the monthly one would fit.
        too_high = installment if installment > limits.max_installment_paise else largest
        found.append(burden_reason(case.position, case.scorecard, installment, too_high))
    if ask.principal_paise > limits.max_principal_paise:
        found.append(limit_reason(case, ask))
    new_to_credit = case.new_to_credit
    if (
        new_to_credit is not None
        and new_to_credit_held_paise(case) + ask.principal_paise > new_to_credit.max_principal_paise
    ):
        found.append(new_to_credit_reason(case, new_to_credit, ask))
    capping = _capping(case, results)
    if capping is not None and ask.principal_paise > (capping.max_principal_paise or 0):
        found.append(capped_reason(capping, ask))
    if not limits.is_large_enough(terms):
        found.append(amount_reason(terms, case.scorecard))
    return found


def _values(case: Case, ask: Ask, largest: int) -> dict[str, int]:
    """The values of all names that a condition may use.

    `installment_share_bps` regards all installments, those of open offers and the largest one of
    the new loan included, at the rate before rules raise it, as a share of the income, half up.
    """
    position, facts = case.position, case.facts
    if facts is None:
        raise ValueError("rules need facts")
    installments = position.current_installments_paise + position.held_installments_paise + largest
    return {
        "score": case.score.score,
        "days_past_due": facts.days_past_due,
        "asset_class": int(facts.asset_class),
        "active_loans": facts.active_loans,
        "loan_count": position.loan_count,
        "principal_outstanding": facts.principal_outstanding_paise,
        "held": position.held_principal_paise,
        "age": facts.age,
        "monthly_income": position.monthly_income_paise,
        "installment_share_bps": divide_half_up(
            installments * 10_000, position.monthly_income_paise
        ),
        "loan_amount": ask.principal_paise,
        "tenure_months": ask.tenure_months,
        "months_as_customer": facts.months_as_customer,
    }


def _raised_rate(case: Case, results: tuple[RuleResult, ...], rate_bps: int) -> int:
    """The rate after the rules of MIN_RATE; unchanged when the score declines."""
    if case.min_rate_bps is None:
        return rate_bps
    return max(
        [rate_bps]
        + [
            rule.min_rate_bps
            for rule, result in zip(case.scorecard.rules, results, strict=True)
            if result.applied and rule.min_rate_bps is not None
        ]
    )


def _capping(case: Case, results: tuple[RuleResult, ...]) -> PolicyRule | None:
    """The rule of MAX_AMOUNT with the lowest maximum whose condition holds; None without any."""
    capping: PolicyRule | None = None
    if not results:
        return None
    for rule, result in zip(case.scorecard.rules, results, strict=True):
        most = rule.max_principal_paise
        if most is None or not result.applied:
            continue
        if capping is None or most < (capping.max_principal_paise or 0):
            capping = rule
    return capping


def _capped(limits: Limits, case: Case, results: tuple[RuleResult, ...]) -> Limits:
    """The limits with the maxima of new-to-credit terms and of rules."""
    caps = []
    if case.new_to_credit is not None:
        caps.append(case.new_to_credit.max_principal_paise - new_to_credit_held_paise(case))
    if case.edition >= Rules.POLICY_WITH_HOLDS:
        # Whether the others apply depends on the terms: `_within_rules` decides on each.
        results = tuple(
            [
                replace(each, applied=False) if _uses(each, _OF_PRINCIPAL | _OF_TENURE) else each
                for each in results
            ]
        )
    capping = _capping(case, results)
    if capping is not None and capping.max_principal_paise is not None:
        caps.append(capping.max_principal_paise)
    if not caps:
        return limits
    return limits._replace(max_principal_paise=min(limits.max_principal_paise, *caps))


def _referrals(case: Case, results: tuple[RuleResult, ...]) -> list[Reason]:
    """The reasons to refer: rules of REFER that apply and rules without a result, unless waived."""
    if not results:
        return []
    return [
        rule_reason(rule, result)
        for rule, result in zip(case.scorecard.rules, results, strict=True)
        if refers(result, case.waived)
    ]


def _within_rules(offer: CounterOffer, limits: Limits, case: Case, ask: Ask) -> CounterOffer | None:
    """The offer with bounds that the rules approve at its rate; None without both.

    The limits alone know nothing of rules, whose values depend on the terms. Where the rules do not
    approve a bound, the next one that they approve replaces it, since Rules.POLICY_WITH_HOLDS.
    """
    rate = ask.annual_rate_bps

    def decided(principal_paise: int, tenure_months: int) -> Decision:
        return _decide(case, Ask(principal_paise, rate, tenure_months))[0]

    def passes(decision: Decision) -> bool:
        return decision.approved and decision.corrected_rate_bps == limits.rate_bps

    def may_pass(decision: Decision, names: AbstractSet[str]) -> bool:
        return case.edition >= Rules.POLICY_WITH_HOLDS and all(
            _uses(each, names) for each in _stopping(decision, case.waived)
        )

    principal, tenure = offer.max_principal_paise, offer.min_tenure_months
    if principal is not None:
        found = decided(principal, ask.tenure_months)
        if not passes(found):
            principal = (
                largest_principal_below(
                    principal,
                    limits,
                    ask.tenure_months,
                    lambda paise: passes(decided(paise, ask.tenure_months)),
                )
                if may_pass(found, _OF_PRINCIPAL)
                else None
            )
    if tenure is not None:
        found = decided(ask.principal_paise, tenure)
        if not passes(found):
            tenure = (
                shortest_tenure_above(
                    tenure, lambda months: passes(decided(ask.principal_paise, months))
                )
                if may_pass(found, _OF_TENURE)
                else None
            )
    return counter_offer_of(limits, ask, principal, tenure)


def _uses(result: RuleResult, names: AbstractSet[str]) -> bool:
    return not names.isdisjoint([name for name, _ in result.values])


def _stopping(decision: Decision, waived: frozenset[str]) -> list[RuleResult]:
    """The rules that decline the request, and those that refer it unless they are waived."""
    return [
        each
        for each in decision.rules
        if (each.applied and each.outcome == RuleOutcome.DECLINE) or refers(each, waived)
    ]

"""Eligibility: the decision on an ask, and counter-offers.

The texts of reasons are stored with a decision, and a replay compares the stored bytes. Changing a
text therefore takes a new edition of the rules.
"""

from dataclasses import dataclass, replace
from datetime import date
from enum import IntEnum, StrEnum
from typing import NamedTuple

from credit_service.domain.loans import (
    MAX_PRINCIPAL_PAISE,
    MAX_TENURE_MONTHS,
    MIN_TENURE_MONTHS,
    Ask,
    LoanTerms,
    installment_paise,
    is_repayable,
    largest_principal_paise,
    last_installment_paise,
    least_principal_paise,
    longest_repayable_tenure,
)
from credit_service.domain.money import divide_half_up, format_hundredths, format_rate
from credit_service.domain.policy import (
    DebtBasis,
    NewToCredit,
    PolicyRule,
    RuleOutcome,
    RuleResult,
    evaluate,
)
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, require_valid_on
from credit_service.domain.scorecard import MAX_SCORE, Component, Scorecard
from credit_service.domain.scoring import CreditScore, Override, debt_paise, score
from credit_service.rupees import RUPEE_PAISE, format_inr, format_rupees

__all__ = [
    "Ask",
    "CounterOffer",
    "Decision",
    "Outcome",
    "Reason",
    "ReasonCode",
    "RuleResult",
    "Rules",
    "decide",
]

MAX_REASONS = 4
_COSTLIEST_NAMED = 2


class Rules(IntEnum):
    """The edition of the rules. A replay uses the stored decision's own edition, so that it gives
    the same bytes."""

    FIRST = 1
    """The income test checks only the monthly installment; any principal over any tenure."""
    LARGEST_INSTALLMENT = 2
    """The income test checks the largest installment, the last one included; installments of whole
    paise must repay the loan; a decision includes its last installment."""


CURRENT_RULES = Rules.LARGEST_INSTALLMENT


class Outcome(StrEnum):
    """The outcome of a decision."""

    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    REFERRED = "REFERRED"
    """A person must review the request; nothing is booked."""


class ReasonCode(StrEnum):
    """Reasons for a decline or a referral, the most important first."""

    NO_CREDIT_HISTORY = "NO_CREDIT_HISTORY"
    DEBT_EXCEEDS_APPROVED_LIMIT = "DEBT_EXCEEDS_APPROVED_LIMIT"
    CREDIT_SCORE_TOO_LOW = "CREDIT_SCORE_TOO_LOW"
    POLICY_RULE = "POLICY_RULE"
    EMI_BURDEN_TOO_HIGH = "EMI_BURDEN_TOO_HIGH"
    APPROVED_LIMIT_EXCEEDED = "APPROVED_LIMIT_EXCEEDED"
    NEW_TO_CREDIT_AMOUNT_EXCEEDED = "NEW_TO_CREDIT_AMOUNT_EXCEEDED"
    POLICY_AMOUNT_EXCEEDED = "POLICY_AMOUNT_EXCEEDED"
    LOAN_AMOUNT_TOO_SMALL = "LOAN_AMOUNT_TOO_SMALL"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a decline or a referral: a sentence for a person, and its two figures.

    `found` and `threshold` are loans for NO_CREDIT_HISTORY, points for CREDIT_SCORE_TOO_LOW, and
    rupees such as '32884.88' otherwise. For these two and for LOAN_AMOUNT_TOO_SMALL the threshold
    is the minimum that passes, otherwise the maximum. For POLICY_RULE, `found` is the names and
    values that the rule used, and `threshold` its condition. `components` lists the components that
    lost most points, the largest loss first, for CREDIT_SCORE_TOO_LOW only. `rule_code` is the code
    of the policy's rule for POLICY_RULE and POLICY_AMOUNT_EXCEEDED.
    """

    # A ReasonCode; in a stored decision of a later release, perhaps another name.
    code: str
    message: str
    found: str
    threshold: str
    # Of Component, or other names likewise.
    components: tuple[str, ...] = ()
    rule_code: str = ""


@dataclass(frozen=True, slots=True)
class CounterOffer:
    """The exact bounds of what would be approved on the same day: one rupee more or one month less
    would not. Under a scorecard with rules, both bounds are approved, but may not be exact.

    `max_principal_paise` is in whole rupees for the requested tenure, None when no amount would be
    approved; `min_tenure_months` is for the requested principal, None when no tenure up to 480
    would be. At least one of the two is set. Installments are at the corrected rate. The last
    installments are None by `Rules.FIRST`, which does not include them.
    """

    max_principal_paise: int | None
    max_principal_installment_paise: int | None
    min_tenure_months: int | None
    min_tenure_installment_paise: int | None
    max_principal_last_installment_paise: int | None = None
    min_tenure_last_installment_paise: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
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
    rules: Rules = CURRENT_RULES,
    *,
    facts: PolicyFacts | None = None,
    waived: frozenset[str] = frozenset(),
) -> Decision:
    """The decision on an ask made on `day`. Pure: the same inputs always give the same decision.

    `facts` are those of the same day and the same version of the customer; only scorecards with a
    policy use them. `waived` are codes of rules that no longer refer the request, because a
    reviewer approved it.

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
    case = _Case(
        position, scorecard, rules, facts, waived, credit_score, new_to_credit, min_rate_bps
    )
    decision, limits = _decide(case, ask)
    if decision.outcome is not Outcome.DECLINED or min_rate_bps is None:
        return decision
    counter_offer = _counter_offer(limits, ask)
    if counter_offer is not None and scorecard.rules:
        counter_offer = _confirmed(counter_offer, limits, case, ask)
    return decision if counter_offer is None else replace(decision, counter_offer=counter_offer)


class _Case(NamedTuple):
    """What a decision depends on besides the ask. `min_rate_bps` is None when the score declines;
    `new_to_credit` is set when its terms replace that decline."""

    position: CreditPosition
    scorecard: Scorecard
    edition: Rules
    facts: PolicyFacts | None
    waived: frozenset[str]
    score: CreditScore
    new_to_credit: NewToCredit | None
    min_rate_bps: int | None

    @property
    def debt_paise(self) -> int:
        return debt_paise(self.position, self.scorecard, self.facts)

    def installments(self, terms: LoanTerms) -> tuple[int, int | None, int]:
        """(monthly, last, largest) installment; None for the last by `Rules.FIRST`."""
        installment = installment_paise(terms)
        if self.edition < Rules.LARGEST_INSTALLMENT:
            return installment, None, installment
        last = last_installment_paise(terms, installment)
        return installment, last, max(installment, last)


def _decide(case: _Case, ask: Ask) -> tuple[Decision, "_Limits"]:
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
    limits = _Limits(
        max_installment_paise=_income_share_paise(position, scorecard)
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
    case: _Case,
    ask: Ask,
    terms: LoanTerms,
    limits: "_Limits",
    installments: tuple[int, int],
    results: tuple[RuleResult, ...],
) -> list[Reason]:
    """All reasons to decline, by weight. `installments` are the monthly and the largest one."""
    installment, largest = installments
    found = []
    if case.min_rate_bps is None:
        found.append(_score_reason(case))
    if results:
        found += [
            _rule_reason(rule, result)
            for rule, result in zip(case.scorecard.rules, results, strict=True)
            if result.applied and rule.outcome is RuleOutcome.DECLINE
        ]
    if largest > limits.max_installment_paise:
        # Name the last installment only where the monthly one would fit.
        too_high = installment if installment > limits.max_installment_paise else largest
        found.append(_burden_reason(case.position, case.scorecard, installment, too_high))
    if ask.principal_paise > limits.max_principal_paise:
        found.append(_limit_reason(case, ask))
    new_to_credit = case.new_to_credit
    if new_to_credit is not None and ask.principal_paise > new_to_credit.max_principal_paise:
        found.append(_new_to_credit_reason(new_to_credit, ask))
    capping = _capping(case, results)
    if capping is not None and ask.principal_paise > (capping.max_principal_paise or 0):
        found.append(_capped_reason(capping, ask))
    if not limits.is_large_enough(terms):
        found.append(_amount_reason(terms, case.scorecard))
    return found


def _values(case: _Case, ask: Ask, largest: int) -> dict[str, int]:
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


def _raised_rate(case: _Case, results: tuple[RuleResult, ...], rate_bps: int) -> int:
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


def _capping(case: _Case, results: tuple[RuleResult, ...]) -> PolicyRule | None:
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


def _capped(limits: "_Limits", case: _Case, results: tuple[RuleResult, ...]) -> "_Limits":
    """The limits with the maxima of new-to-credit terms and of rules."""
    caps = [] if case.new_to_credit is None else [case.new_to_credit.max_principal_paise]
    capping = _capping(case, results)
    if capping is not None and capping.max_principal_paise is not None:
        caps.append(capping.max_principal_paise)
    if not caps:
        return limits
    return limits._replace(max_principal_paise=min(limits.max_principal_paise, *caps))


def _referrals(case: _Case, results: tuple[RuleResult, ...]) -> list[Reason]:
    """The reasons to refer: rules of REFER that apply and rules without a result, unless waived."""
    if not results:
        return []
    return [
        _rule_reason(rule, result)
        for rule, result in zip(case.scorecard.rules, results, strict=True)
        if rule.code not in case.waived
        and (result.error or (result.applied and rule.outcome is RuleOutcome.REFER))
    ]


class _Limits(NamedTuple):
    """Limits of an approved loan, at the corrected rate."""

    max_installment_paise: int
    max_principal_paise: int
    least_principal_paise: int
    rate_bps: int
    rules: Rules

    def is_large_enough(self, terms: LoanTerms) -> bool:
        """Whether the principal reaches the scorecard's minimum and whole paise repay it."""
        if terms.principal_paise < self.least_principal_paise:
            return False
        return self.rules < Rules.LARGEST_INSTALLMENT or is_repayable(terms)

    def installments(self, principal_paise: int, tenure_months: int) -> tuple[int, int | None]:
        """(monthly, last) installment; None for the last by `Rules.FIRST`."""
        terms = LoanTerms(principal_paise, self.rate_bps, tenure_months)
        installment = installment_paise(terms)
        if self.rules < Rules.LARGEST_INSTALLMENT:
            return installment, None
        return installment, last_installment_paise(terms, installment)

    def fits(self, principal_paise: int, tenure_months: int) -> bool:
        """Whether every installment is within the limit."""
        installment, last = self.installments(principal_paise, tenure_months)
        return max(installment, last or 0) <= self.max_installment_paise


def _income_share_paise(position: CreditPosition, scorecard: Scorecard) -> int:
    """The limit of all installments together. They are whole paise, so rounding down decides the
    same as the exact share."""
    return position.monthly_income_paise * scorecard.income_share_bps // 10_000


def _counter_offer(limits: _Limits, ask: Ask) -> CounterOffer | None:
    """The largest principal at the tenure and the shortest tenure for the principal, or None."""
    principal = _largest_principal(limits, ask.tenure_months)
    tenure = _shortest_tenure(limits, ask.principal_paise)
    if principal is None and tenure is None:
        return None
    by_principal: tuple[int | None, int | None] = (None, None)
    by_tenure: tuple[int | None, int | None] = (None, None)
    if principal is not None:
        by_principal = limits.installments(principal, ask.tenure_months)
    if tenure is not None:
        by_tenure = limits.installments(ask.principal_paise, tenure)
    return CounterOffer(
        principal, by_principal[0], tenure, by_tenure[0], by_principal[1], by_tenure[1]
    )


def _confirmed(
    offer: CounterOffer, limits: "_Limits", case: _Case, ask: Ask
) -> CounterOffer | None:
    """The offer without the half that the rules would not approve at its rate; None without both.

    The limits alone know nothing of rules, whose values depend on the terms.
    """

    def is_approved(principal_paise: int | None, tenure_months: int | None) -> bool:
        if principal_paise is None or tenure_months is None:
            return False
        other = Ask(principal_paise, ask.annual_rate_bps, tenure_months)
        decision, _ = _decide(case, other)
        return decision.approved and decision.corrected_rate_bps == limits.rate_bps

    if not is_approved(offer.max_principal_paise, ask.tenure_months):
        offer = replace(
            offer,
            max_principal_paise=None,
            max_principal_installment_paise=None,
            max_principal_last_installment_paise=None,
        )
    if not is_approved(ask.principal_paise, offer.min_tenure_months):
        offer = replace(
            offer,
            min_tenure_months=None,
            min_tenure_installment_paise=None,
            min_tenure_last_installment_paise=None,
        )
    if offer.max_principal_paise is None and offer.min_tenure_months is None:
        return None
    return offer


def _largest_principal(limits: _Limits, tenure_months: int) -> int | None:
    """The largest principal in whole rupees that would be approved, or None.

    The search counts down from the largest principal whose monthly installment fits; every larger
    one exceeds the limit, so the first that fits is the answer. It tries few: the last installment
    is below the monthly one for about every other principal, and for every principal once the
    monthly one leaves room for the rounding.
    """
    least = max(limits.least_principal_paise, 1)
    if limits.rules >= Rules.LARGEST_INSTALLMENT:
        least = max(least, least_principal_paise(limits.rate_bps, tenure_months))
    principal = min(
        largest_principal_paise(limits.max_installment_paise, limits.rate_bps, tenure_months),
        limits.max_principal_paise,
        MAX_PRINCIPAL_PAISE,
    )
    principal -= principal % RUPEE_PAISE
    while principal >= least:
        if limits.fits(principal, tenure_months):
            return principal
        principal -= RUPEE_PAISE
    return None


def _shortest_tenure(limits: _Limits, principal_paise: int) -> int | None:
    """The fewest months over which the principal would be approved, or None.

    The monthly installment never rises with the tenure, so it fits from some tenure on. The answer
    is the first tenure from there on whose last installment fits. The search doubles the range
    before it halves it, because installments over few months are quicker to compute.
    """
    if not limits.least_principal_paise <= principal_paise <= limits.max_principal_paise:
        return None
    longest = MAX_TENURE_MONTHS
    if limits.rules >= Rules.LARGEST_INSTALLMENT:
        longest = longest_repayable_tenure(principal_paise, limits.rate_bps)

    def monthly_fits(tenure_months: int) -> bool:
        terms = LoanTerms(principal_paise, limits.rate_bps, tenure_months)
        return installment_paise(terms) <= limits.max_installment_paise

    too_short, fitting = MIN_TENURE_MONTHS - 1, MIN_TENURE_MONTHS
    while not monthly_fits(fitting):
        if fitting == longest:
            return None
        too_short = fitting
        fitting = min(2 * fitting, longest)
    while fitting - too_short > 1:
        middle = (too_short + fitting) // 2
        if monthly_fits(middle):
            fitting = middle
        else:
            too_short = middle
    for tenure in range(fitting, longest + 1):
        if limits.fits(principal_paise, tenure):
            return tenure
    return None


_NAMES: dict[str, str] = {
    Component.REPAYMENT_HISTORY: "repayment history",
    Component.LOAN_VOLUME: "loan volume",
    Component.LOAN_COUNT: "number of loans",
    Component.CURRENT_YEAR_ACTIVITY: "activity in this calendar year",
}


def _score_reason(case: _Case) -> Reason:
    """Why the score declines: the override, if any, else the largest losses."""
    credit_score, scorecard = case.score, case.scorecard
    if credit_score.override is Override.NO_CREDIT_HISTORY:
        message = "There is no loan on record to judge by."
        return Reason(ReasonCode.NO_CREDIT_HISTORY, message, "0", "1")
    if credit_score.override is Override.DEBT_EXCEEDS_APPROVED_LIMIT:
        debt, limit = case.debt_paise, case.position.approved_limit_paise
        return Reason(
            ReasonCode.DEBT_EXCEEDS_APPROVED_LIMIT,
            f"The {_debt_name(scorecard)} of {format_inr(debt)} is already more than the approved "
            f"limit of {format_inr(limit)}.",
            format_rupees(debt),
            format_rupees(limit),
        )
    costliest = sorted(
        [each for each in credit_score.components if each.lost_hundredths > 0],
        key=lambda each: -each.lost_hundredths,
    )[:_COSTLIEST_NAMED]
    named = " and ".join(
        f"{_NAMES[each.component]} ({format_hundredths(each.points_hundredths)} of "
        f"{format_hundredths(each.max_points_hundredths)} points)"
        for each in costliest
    )
    needed = _lowest_approved_score(scorecard)
    return Reason(
        ReasonCode.CREDIT_SCORE_TOO_LOW,
        f"The credit score of {credit_score.score} is below {needed}; what cost most: {named}.",
        str(credit_score.score),
        str(needed),
        tuple([each.component for each in costliest]),
    )


def _lowest_approved_score(scorecard: Scorecard) -> int:
    """The lowest score that is not declined; 101 when every score is."""
    for slab in scorecard.rate_slabs:
        if slab.min_rate_bps is not None:
            return slab.min_score
    return MAX_SCORE + 1


def _burden_reason(
    position: CreditPosition, scorecard: Scorecard, installment: int, too_high: int
) -> Reason:
    """`too_high` is the installment that does not fit: the monthly one, or the last."""
    held = position.held_installments_paise
    burden = position.current_installments_paise + held + too_high
    also = f", held installments of {format_inr(held)}" if held else ""
    new = f"one of {format_inr(installment)}"
    if too_high > installment:
        new = f"loan's last one of {format_inr(too_high)}"
    return Reason(
        ReasonCode.EMI_BURDEN_TOO_HIGH,
        f"Current installments of {format_inr(position.current_installments_paise)}{also} and the "
        f"new {new} come to {format_inr(burden)} a month, more than "
        f"{format_rate(scorecard.income_share_bps)} of the monthly income of "
        f"{format_inr(position.monthly_income_paise)}.",
        format_rupees(burden),
        format_rupees(_income_share_paise(position, scorecard)),
    )


def _debt_name(scorecard: Scorecard) -> str:
    if scorecard.debt_basis is DebtBasis.ORIGINAL_PRINCIPAL:
        return "current debt"
    return "principal outstanding"


def _limit_reason(case: _Case, ask: Ask) -> Reason:
    limit = case.position.approved_limit_paise
    held = case.position.held_principal_paise
    debt = case.debt_paise + held + ask.principal_paise
    also = f", held credit of {format_inr(held)}" if held else ""
    return Reason(
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
        f"The {_debt_name(case.scorecard)} of {format_inr(case.debt_paise)}{also} and the loan of "
        f"{format_inr(ask.principal_paise)} come to {format_inr(debt)}, more than the approved "
        f"limit of {format_inr(limit)}.",
        format_rupees(debt),
        format_rupees(limit),
    )


def _new_to_credit_reason(new_to_credit: NewToCredit, ask: Ask) -> Reason:
    most = new_to_credit.max_principal_paise
    return Reason(
        ReasonCode.NEW_TO_CREDIT_AMOUNT_EXCEEDED,
        f"The loan of {format_inr(ask.principal_paise)} is more than {format_inr(most)}, the most "
        "that is lent to a customer without any loan on record.",
        format_rupees(ask.principal_paise),
        format_rupees(most),
    )


def _capped_reason(rule: PolicyRule, ask: Ask) -> Reason:
    most = rule.max_principal_paise or 0
    return Reason(
        ReasonCode.POLICY_AMOUNT_EXCEEDED,
        f"The loan of {format_inr(ask.principal_paise)} is more than {format_inr(most)}. "
        f"{rule.message}",
        format_rupees(ask.principal_paise),
        format_rupees(most),
        rule_code=rule.code,
    )


def _rule_reason(rule: PolicyRule, result: RuleResult) -> Reason:
    message = rule.message
    if result.error:
        message = f"The rule {rule.code} has no result ({result.error}); a reviewer decides."
    return Reason(
        ReasonCode.POLICY_RULE, message, result.found, result.condition, rule_code=rule.code
    )


def _amount_reason(terms: LoanTerms, scorecard: Scorecard) -> Reason:
    """Why the principal is too small: by the scorecard, or for the tenure at the corrected rate."""
    principal, tenure = terms.principal_paise, terms.tenure_months
    least = scorecard.min_principal_paise
    if principal < least:
        why = f"{format_inr(least)}, the least that is lent"
    else:
        least = least_principal_paise(terms.annual_rate_bps, tenure)
        why = (
            f"{format_inr(least)}, the least that equal installments of whole paise repay over "
            f"{tenure} months at {format_rate(terms.annual_rate_bps)} a year"
        )
    return Reason(
        ReasonCode.LOAN_AMOUNT_TOO_SMALL,
        f"The loan of {format_inr(principal)} is less than {why}.",
        format_rupees(principal),
        format_rupees(least),
    )

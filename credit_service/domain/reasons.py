"""Reasons of a decision, and the editions of the rules.

The texts of reasons are stored with a decision, and a replay compares the stored bytes. Changing a
text therefore takes a new edition of the rules.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from credit_service.domain.asks import least_principal_paise
from credit_service.domain.installments import installment_paise, last_installment_paise
from credit_service.domain.loans import Ask, LoanTerms
from credit_service.domain.money import format_hundredths, format_rate
from credit_service.domain.policy import DebtBasis, NewToCredit, PolicyRule, RuleResult
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import MAX_SCORE, Component, Scorecard
from credit_service.domain.scoring import CreditScore, Override, debt_paise
from credit_service.rupees import format_inr, format_rupees

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
    POLICY_WITH_HOLDS = 3
    """The largest principal for customers without loans includes what their open offers hold;
    counter-offers are searched for within the rules of a policy. Without a policy, it decides as
    LARGEST_INSTALLMENT does."""


def current_rules(scorecard: Scorecard) -> Rules:
    """The edition by which a scorecard decides today.

    Without a policy it is the one before, so that a server of the release before can replay it.
    """
    if scorecard.rules or scorecard.new_to_credit is not None:
        return Rules.POLICY_WITH_HOLDS
    return Rules.LARGEST_INSTALLMENT


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


class Case(NamedTuple):
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


def income_share_paise(position: CreditPosition, scorecard: Scorecard) -> int:
    """The limit of all installments together. They are whole paise, so rounding down decides the
    same as the exact share."""
    return position.monthly_income_paise * scorecard.income_share_bps // 10_000


_NAMES: dict[str, str] = {
    Component.REPAYMENT_HISTORY: "repayment history",
    Component.LOAN_VOLUME: "loan volume",
    Component.LOAN_COUNT: "number of loans",
    Component.CURRENT_YEAR_ACTIVITY: "activity in this calendar year",
}


def score_reason(case: Case) -> Reason:
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


def burden_reason(
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
        format_rupees(income_share_paise(position, scorecard)),
    )


def _debt_name(scorecard: Scorecard) -> str:
    if scorecard.debt_basis is DebtBasis.ORIGINAL_PRINCIPAL:
        return "current debt"
    return "principal outstanding"


def limit_reason(case: Case, ask: Ask) -> Reason:
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


def new_to_credit_held_paise(case: Case) -> int:
    """The held principal that counts against the largest one for customers without loans."""
    if case.edition < Rules.POLICY_WITH_HOLDS:
        return 0
    return case.position.held_principal_paise


def new_to_credit_reason(case: Case, new_to_credit: NewToCredit, ask: Ask) -> Reason:
    most, held = new_to_credit.max_principal_paise, new_to_credit_held_paise(case)
    total = held + ask.principal_paise
    what = f"The loan of {format_inr(ask.principal_paise)} is"
    if held:
        what = (
            f"The held credit of {format_inr(held)} and the loan of "
            f"{format_inr(ask.principal_paise)} come to {format_inr(total)},"
        )
    return Reason(
        ReasonCode.NEW_TO_CREDIT_AMOUNT_EXCEEDED,
        f"{what} more than {format_inr(most)}, the most that is lent to a customer without any "
        "loan on record.",
        format_rupees(total),
        format_rupees(most),
    )


def capped_reason(rule: PolicyRule, ask: Ask) -> Reason:
    most = rule.max_principal_paise or 0
    return Reason(
        ReasonCode.POLICY_AMOUNT_EXCEEDED,
        f"The loan of {format_inr(ask.principal_paise)} is more than {format_inr(most)}. "
        f"{rule.message}",
        format_rupees(ask.principal_paise),
        format_rupees(most),
        rule_code=rule.code,
    )


def rule_reason(rule: PolicyRule, result: RuleResult) -> Reason:
    message = rule.message
    if result.error:
        message = f"The rule {rule.code} has no result ({result.error}); a reviewer decides."
    return Reason(
        ReasonCode.POLICY_RULE, message, result.found, result.condition, rule_code=rule.code
    )


def amount_reason(terms: LoanTerms, scorecard: Scorecard) -> Reason:
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

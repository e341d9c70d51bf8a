"""Eligibility: the decision on an ask, and counter-offers.

The texts of reasons are stored with a decision, and a replay compares the stored bytes. Changing a
text therefore takes a new edition of the rules.
"""

from dataclasses import dataclass
from datetime import date
from enum import IntEnum, StrEnum

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
from credit_service.domain.money import format_hundredths, format_rate
from credit_service.domain.positions import CreditPosition, require_valid_on
from credit_service.domain.scorecard import MAX_SCORE, Component, Scorecard
from credit_service.domain.scoring import CreditScore, Override, score
from credit_service.rupees import RUPEE_PAISE, format_inr, format_rupees

__all__ = ["Ask", "CounterOffer", "Decision", "Reason", "ReasonCode", "Rules", "decide"]

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


class ReasonCode(StrEnum):
    """Reasons for a decline, the most important first."""

    NO_CREDIT_HISTORY = "NO_CREDIT_HISTORY"
    DEBT_EXCEEDS_APPROVED_LIMIT = "DEBT_EXCEEDS_APPROVED_LIMIT"
    CREDIT_SCORE_TOO_LOW = "CREDIT_SCORE_TOO_LOW"
    EMI_BURDEN_TOO_HIGH = "EMI_BURDEN_TOO_HIGH"
    APPROVED_LIMIT_EXCEEDED = "APPROVED_LIMIT_EXCEEDED"
    LOAN_AMOUNT_TOO_SMALL = "LOAN_AMOUNT_TOO_SMALL"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a decline: a sentence for a person, and its two figures.

    `found` and `threshold` are loans for NO_CREDIT_HISTORY, points for CREDIT_SCORE_TOO_LOW, and
    rupees such as '32884.88' otherwise. For these two and for LOAN_AMOUNT_TOO_SMALL the threshold
    is the minimum that passes, otherwise the maximum. `components` lists the components that lost
    most points, the largest loss first, for CREDIT_SCORE_TOO_LOW only.
    """

    # A ReasonCode; in a stored decision of a later release, perhaps another name.
    code: str
    message: str
    found: str
    threshold: str
    # Of Component, or other names likewise.
    components: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterOffer:
    """The exact bounds of what would be approved on the same day: one rupee more or one month less
    would not.

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
    not include it.
    """

    approved: bool
    requested_rate_bps: int
    corrected_rate_bps: int
    installment_paise: int
    score: CreditScore
    reasons: tuple[Reason, ...]
    counter_offer: CounterOffer | None
    last_installment_paise: int | None = None


def decide(
    position: CreditPosition,
    ask: Ask,
    scorecard: Scorecard,
    day: date,
    rules: Rules = CURRENT_RULES,
) -> Decision:
    """The decision on an ask made on `day`. Pure: the same inputs always give the same decision.

    Raises ValueError when the position is not valid on `day`.
    """
    require_valid_on(position, day)
    credit_score = score(position, scorecard)
    min_rate_bps = scorecard.slab(credit_score.score).min_rate_bps
    rate_bps = ask.annual_rate_bps
    if min_rate_bps is not None and min_rate_bps > rate_bps:
        rate_bps = min_rate_bps
    terms = LoanTerms(ask.principal_paise, rate_bps, ask.tenure_months)
    installment = installment_paise(terms)
    last = None
    if rules >= Rules.LARGEST_INSTALLMENT:
        last = last_installment_paise(terms, installment)
    largest = installment if last is None else max(installment, last)
    # The first two limits may be negative.
    limits = _Limits(
        max_installment_paise=_income_share_paise(position, scorecard)
        - position.current_installments_paise
        - position.held_installments_paise,
        max_principal_paise=position.approved_limit_paise
        - position.current_debt_paise
        - position.held_principal_paise,
        least_principal_paise=scorecard.min_principal_paise,
        rate_bps=rate_bps,
        rules=rules,
    )
    affordable = largest <= limits.max_installment_paise
    within_limit = ask.principal_paise <= limits.max_principal_paise
    large_enough = limits.is_large_enough(terms)
    reasons: tuple[Reason, ...] = ()
    counter_offer: CounterOffer | None = None
    approved = min_rate_bps is not None and affordable and within_limit and large_enough
    if not approved:
        found = []
        if min_rate_bps is None:
            found.append(_score_reason(credit_score, position, scorecard))
        if not affordable:
            # Name the last installment only where the monthly one would fit.
            too_high = installment if installment > limits.max_installment_paise else largest
            found.append(_burden_reason(position, scorecard, installment, too_high))
        if not within_limit:
            found.append(_limit_reason(position, ask))
        if not large_enough:
            found.append(_amount_reason(terms, scorecard))
        reasons = tuple(found)
        if min_rate_bps is not None:
            counter_offer = _counter_offer(limits, ask)
    return Decision(
        approved,
        ask.annual_rate_bps,
        rate_bps,
        installment,
        credit_score,
        reasons,
        counter_offer,
        last,
    )


@dataclass(frozen=True, slots=True)
class _Limits:
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


def _score_reason(
    credit_score: CreditScore, position: CreditPosition, scorecard: Scorecard
) -> Reason:
    """Why the score declines: the override, if any, else the largest losses."""
    if credit_score.override is Override.NO_CREDIT_HISTORY:
        message = "There is no loan on record to judge by."
        return Reason(ReasonCode.NO_CREDIT_HISTORY, message, "0", "1")
    if credit_score.override is Override.DEBT_EXCEEDS_APPROVED_LIMIT:
        debt, limit = position.current_debt_paise, position.approved_limit_paise
        return Reason(
            ReasonCode.DEBT_EXCEEDS_APPROVED_LIMIT,
            f"The current debt of {format_inr(debt)} is already more than the approved limit of "
            f"{format_inr(limit)}.",
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


def _limit_reason(position: CreditPosition, ask: Ask) -> Reason:
    held = position.held_principal_paise
    debt = position.current_debt_paise + held + ask.principal_paise
    also = f", held credit of {format_inr(held)}" if held else ""
    return Reason(
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
        f"The current debt of {format_inr(position.current_debt_paise)}{also} and the loan of "
        f"{format_inr(ask.principal_paise)} come to {format_inr(debt)}, more than the approved "
        f"limit of {format_inr(position.approved_limit_paise)}.",
        format_rupees(debt),
        format_rupees(position.approved_limit_paise),
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

"""Eligibility: what is decided about an ask, and what would be approved instead."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from credit_service.domain.loans import (
    MAX_TENURE_MONTHS,
    Ask,
    LoanTerms,
    installment_paise,
    largest_principal_paise,
)
from credit_service.domain.money import (
    RUPEE_PAISE,
    format_hundredths,
    format_inr,
    format_rate,
    format_rupees,
)
from credit_service.domain.positions import CreditPosition, require_holds_on
from credit_service.domain.scorecard import MAX_SCORE, Component, Scorecard
from credit_service.domain.scoring import CreditScore, Override, score

__all__ = ["Ask", "CounterOffer", "Decision", "Reason", "ReasonCode", "decide"]

_COSTLIEST_NAMED = 2


class ReasonCode(StrEnum):
    """Why an ask is declined, by weight."""

    NO_CREDIT_HISTORY = "NO_CREDIT_HISTORY"
    DEBT_EXCEEDS_APPROVED_LIMIT = "DEBT_EXCEEDS_APPROVED_LIMIT"
    CREDIT_SCORE_TOO_LOW = "CREDIT_SCORE_TOO_LOW"
    EMI_BURDEN_TOO_HIGH = "EMI_BURDEN_TOO_HIGH"
    APPROVED_LIMIT_EXCEEDED = "APPROVED_LIMIT_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a decline: a sentence for a person, and its two figures by themselves.

    `found` and `threshold` are loans for NO_CREDIT_HISTORY, points for CREDIT_SCORE_TOO_LOW (both:
    the least that passes), and rupees such as '32884.88' otherwise (the most that passes).
    `components` are those that cost most, the costliest first, with CREDIT_SCORE_TOO_LOW only.
    """

    code: ReasonCode
    message: str
    found: str
    threshold: str
    components: tuple[Component, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterOffer:
    """What would be approved on the same day, exactly: one rupee more or one month less is not.

    `max_principal_paise` is whole rupees at the tenure asked for, None when not even ₹1 would do;
    `min_tenure_months` is for the principal asked for, None when no tenure up to 480 would do.
    Installments are at the corrected rate. At least one of the two is given.
    """

    max_principal_paise: int | None
    max_principal_installment_paise: int | None
    min_tenure_months: int | None
    min_tenure_installment_paise: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an ask. `installment_paise` is at the corrected rate.

    When the score declines there is no rate to correct to, and the corrected rate is the requested
    one. `reasons` is empty exactly when approved.
    """

    approved: bool
    requested_rate_bps: int
    corrected_rate_bps: int
    installment_paise: int
    score: CreditScore
    reasons: tuple[Reason, ...]
    counter_offer: CounterOffer | None


def decide(position: CreditPosition, ask: Ask, scorecard: Scorecard, day: date) -> Decision:
    """The decision on an ask made on `day`; pure, and the same for the same inputs for ever.

    Raises ValueError when the position does not hold on `day`.
    """
    require_holds_on(position, day)
    credit_score = score(position, scorecard)
    min_rate_bps = scorecard.slab(credit_score.score).min_rate_bps
    rate_bps = ask.annual_rate_bps
    if min_rate_bps is not None and min_rate_bps > rate_bps:
        rate_bps = min_rate_bps
    installment = installment_paise(LoanTerms(ask.principal_paise, rate_bps, ask.tenure_months))
    # Either may be negative.
    share_paise = _income_share_paise(position, scorecard)
    max_installment = share_paise - position.current_installments_paise
    max_principal = position.approved_limit_paise - position.current_debt_paise
    affordable = installment <= max_installment
    within_limit = ask.principal_paise <= max_principal
    reasons: tuple[Reason, ...] = ()
    counter_offer: CounterOffer | None = None
    approved = min_rate_bps is not None and affordable and within_limit
    if not approved:
        found = []
        if min_rate_bps is None:
            found.append(_score_reason(credit_score, position, scorecard))
        if not affordable:
            found.append(_burden_reason(position, scorecard, installment))
        if not within_limit:
            found.append(_limit_reason(position, ask))
        reasons = tuple(found)
        if min_rate_bps is not None:
            counter_offer = _counter_offer(max_installment, max_principal, ask, rate_bps)
    return Decision(
        approved,
        ask.annual_rate_bps,
        rate_bps,
        installment,
        credit_score,
        reasons,
        counter_offer,
    )


def _income_share_paise(position: CreditPosition, scorecard: Scorecard) -> int:
    """The most that all installments may come to. They are whole paise, so rounding it down
    decides as the exact share does."""
    return position.monthly_income_paise * scorecard.income_share_bps // 10_000


def _counter_offer(
    max_installment_paise: int, max_principal_paise: int, ask: Ask, rate_bps: int
) -> CounterOffer | None:
    """The largest principal at the tenure and the shortest tenure for the principal, or None."""
    principal = min(
        largest_principal_paise(max_installment_paise, rate_bps, ask.tenure_months),
        max_principal_paise,
    )
    principal -= principal % RUPEE_PAISE
    tenure: int | None = None
    if ask.principal_paise <= max_principal_paise:
        tenure = _shortest_tenure(max_installment_paise, ask, rate_bps)
    if principal <= 0 and tenure is None:
        return None
    return CounterOffer(
        principal if principal > 0 else None,
        installment_paise(LoanTerms(principal, rate_bps, ask.tenure_months))
        if principal > 0
        else None,
        tenure,
        installment_paise(LoanTerms(ask.principal_paise, rate_bps, tenure)) if tenure else None,
    )


def _shortest_tenure(max_installment_paise: int, ask: Ask, rate_bps: int) -> int | None:
    """The fewest months over which the installment fits; None when 480 are not enough.

    The installment before rounding falls with every month more, so once rounded it never rises,
    and the months that fit are those from some first one on. The range is doubled before it is
    halved, because an installment over few months is quicker to compute.
    """

    def fits(tenure_months: int) -> bool:
        terms = LoanTerms(ask.principal_paise, rate_bps, tenure_months)
        return installment_paise(terms) <= max_installment_paise

    # The tenure asked for does not fit.
    too_short = ask.tenure_months
    fitting = min(2 * too_short, MAX_TENURE_MONTHS)
    while not fits(fitting):
        if fitting == MAX_TENURE_MONTHS:
            return None
        too_short = fitting
        fitting = min(2 * fitting, MAX_TENURE_MONTHS)
    while fitting - too_short > 1:
        middle = (too_short + fitting) // 2
        if fits(middle):
            fitting = middle
        else:
            too_short = middle
    return fitting


_NAMES = {
    Component.REPAYMENT_HISTORY: "repayment history",
    Component.LOAN_VOLUME: "loan volume",
    Component.LOAN_COUNT: "number of loans",
    Component.CURRENT_YEAR_ACTIVITY: "activity in this calendar year",
}


def _score_reason(
    credit_score: CreditScore, position: CreditPosition, scorecard: Scorecard
) -> Reason:
    """Why the score declines: the override where there is one, else what cost most."""
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
    """The lowest score that is not declined; 101 when all are."""
    for slab in scorecard.rate_slabs:
        if slab.min_rate_bps is not None:
            return slab.min_score
    return MAX_SCORE + 1


def _burden_reason(position: CreditPosition, scorecard: Scorecard, installment: int) -> Reason:
    burden = position.current_installments_paise + installment
    return Reason(
        ReasonCode.EMI_BURDEN_TOO_HIGH,
        f"Current installments of {format_inr(position.current_installments_paise)} and the new "
        f"one of {format_inr(installment)} come to {format_inr(burden)} a month, more than "
        f"{format_rate(scorecard.income_share_bps)} of the monthly income of "
        f"{format_inr(position.monthly_income_paise)}.",
        format_rupees(burden),
        format_rupees(_income_share_paise(position, scorecard)),
    )


def _limit_reason(position: CreditPosition, ask: Ask) -> Reason:
    debt = position.current_debt_paise + ask.principal_paise
    return Reason(
        ReasonCode.APPROVED_LIMIT_EXCEEDED,
        f"The current debt of {format_inr(position.current_debt_paise)} and the loan of "
        f"{format_inr(ask.principal_paise)} come to {format_inr(debt)}, more than the approved "
        f"limit of {format_inr(position.approved_limit_paise)}.",
        format_rupees(debt),
        format_rupees(position.approved_limit_paise),
    )

"""The credit score: an integer 0 … 100, and its components."""

from collections.abc import Callable
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from credit_service.domain.money import divide_half_up
from credit_service.domain.policy import DebtBasis, OnTimeCounts
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import Component, Scorecard
from credit_service.rupees import format_inr


class Override(StrEnum):
    """Conditions that set the score to 0, whatever the components give."""

    NO_CREDIT_HISTORY = "NO_CREDIT_HISTORY"
    """The customer never had a loan."""
    DEBT_EXCEEDS_APPROVED_LIMIT = "DEBT_EXCEEDS_APPROVED_LIMIT"
    """The debt of ACTIVE loans, by the scorecard's debt basis, is more than the approved limit."""


class ScoreComponent(NamedTuple):
    """One component: its points and its maximum, in hundredths of a point.

    `found` and `full_at` are the figures that it was computed from: EMIs paid on time and EMIs due
    for repayment history (full points when equal), else the value and the cap for full points, in
    paise for loan volume and in loans otherwise.
    """

    # A Component; in a stored score of a later release, perhaps another name.
    component: str
    points_hundredths: int
    max_points_hundredths: int
    found: int
    full_at: int

    @property
    def lost_hundredths(self) -> int:
        """Hundredths of a point below the maximum."""
        return self.max_points_hundredths - self.points_hundredths

    @property
    def explanation(self) -> str:
        """A sentence for a person, with the figures."""
        explain = _EXPLAIN.get(self.component, _explain_unknown)
        return explain(self.found, self.full_at)


class CreditScore(NamedTuple):
    """A score with its components, valid until the day before `valid_until`.

    An override sets the score to 0; the components keep the points that they would have given.
    """

    score: int
    components: tuple[ScoreComponent, ...]
    # An Override; in a stored score of a later release, perhaps another name.
    override: str | None
    scorecard_version: str
    customer_version: int
    valid_until: date


def debt_paise(position: CreditPosition, scorecard: Scorecard, facts: PolicyFacts | None) -> int:
    """The debt that counts against the approved limit, by the scorecard's debt basis."""
    if scorecard.debt_basis is DebtBasis.ORIGINAL_PRINCIPAL:
        return position.current_debt_paise
    return _required(facts, scorecard).principal_outstanding_paise


def score(
    position: CreditPosition, scorecard: Scorecard, facts: PolicyFacts | None = None
) -> CreditScore:
    """The score of a position, from the day of the facts until the day before `valid_until`.

    Each component is rounded half up to hundredths of a point and their sum half up to an integer.
    Integer arithmetic only. Explanations are built when read. Raises ValueError without facts if
    `scorecard.score_needs_facts`.
    """
    on_time, due, valid_until = position.emis_on_time, position.emis_due, position.valid_until
    if scorecard.on_time_counts is OnTimeCounts.WHEN_DUE:
        counts = _required(facts, scorecard)
        on_time, due = counts.emis_on_time_when_due, counts.emis_fallen_due
        valid_until = min(valid_until, counts.next_due_of_repaid or valid_until)
    components = (
        _component(Component.REPAYMENT_HISTORY, scorecard.repayment_weight, on_time, due),
        _component(
            Component.LOAN_VOLUME,
            scorecard.volume_weight,
            position.total_principal_paise,
            scorecard.volume_cap_paise,
        ),
        _component(
            Component.LOAN_COUNT, scorecard.count_weight, position.loan_count, scorecard.count_cap
        ),
        _component(
            Component.CURRENT_YEAR_ACTIVITY,
            scorecard.activity_weight,
            position.current_year_loans,
            scorecard.activity_cap,
        ),
    )
    override: Override | None = None
    if position.loan_count == 0:
        override = Override.NO_CREDIT_HISTORY
    elif debt_paise(position, scorecard, facts) > position.approved_limit_paise:
        override = Override.DEBT_EXCEEDS_APPROVED_LIMIT
    total = 0
    if override is None:
        total = divide_half_up(sum([each.points_hundredths for each in components]), 100)
    return CreditScore(
        total,
        components,
        override,
        scorecard.version,
        position.version,
        valid_until,
    )


def _required(facts: PolicyFacts | None, scorecard: Scorecard) -> PolicyFacts:
    if facts is None:
        raise ValueError(f"scorecard {scorecard.version} needs the facts of its policy")
    return facts


# Cached because many customers share one.
@lru_cache(maxsize=4_096)
def _component(component: Component, weight: int, found: int, full_at: int) -> ScoreComponent:
    """min(found / full_at, 1) · weight in hundredths of a point; 0 when full_at is 0."""
    most = weight * 100
    if full_at == 0:
        points = 0
    elif found >= full_at:
        points = most
    else:
        # Half up for a numerator of 0 or more.
        points = (2 * found * most + full_at) // (2 * full_at)
    return ScoreComponent(component, points, most, found, full_at)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _explain_repayment(on_time: int, due: int) -> str:
    if due == 0:
        return "No installment has fallen due yet."
    return f"{on_time} of {_plural(due, 'installment')} due so far were paid on time."


def _explain_volume(total_paise: int, cap_paise: int) -> str:
    return f"{format_inr(total_paise)} borrowed in total; full points from {format_inr(cap_paise)}."


def _explain_count(count: int, cap: int) -> str:
    return f"{_plural(count, 'loan')} in total; full points from {cap}."


def _explain_activity(count: int, cap: int) -> str:
    return (
        f"{_plural(count, 'loan')} opened or active in this calendar year; full points from {cap}."
    )


def _explain_unknown(found: int, full_at: int) -> str:
    return f"A component of a later release: {found}; full points from {full_at}."


_EXPLAIN: dict[str, Callable[[int, int], str]] = {
    Component.REPAYMENT_HISTORY: _explain_repayment,
    Component.LOAN_VOLUME: _explain_volume,
    Component.LOAN_COUNT: _explain_count,
    Component.CURRENT_YEAR_ACTIVITY: _explain_activity,
}

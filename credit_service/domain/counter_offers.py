"""Counter-offers: what would be approved instead, within limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from credit_service.domain.asks import is_repayable, least_principal_paise, longest_repayable_tenure
from credit_service.domain.installments import (
    installment_paise,
    largest_principal_paise,
    last_installment_paise,
)
from credit_service.domain.loans import (
    MAX_PRINCIPAL_PAISE,
    MAX_TENURE_MONTHS,
    MIN_TENURE_MONTHS,
    Ask,
    LoanTerms,
)
from credit_service.domain.reasons import Rules
from credit_service.domain.searching import passing_bound
from credit_service.rupees import RUPEE_PAISE


@dataclass(frozen=True, slots=True)
class CounterOffer:
    """The exact bounds of what would be approved on the same day: one rupee more or one month less
    would not. Under a scorecard with rules, both are approved, and one rupee more or one month less
    is not at the same rate; a principal far above or a tenure far below may be.

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


class Limits(NamedTuple):
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


def counter_offer_within(limits: Limits, ask: Ask) -> CounterOffer | None:
    """The largest principal at the tenure and the shortest tenure for the principal, or None."""
    principal = _largest_principal(limits, ask.tenure_months)
    tenure = _shortest_tenure(limits, ask.principal_paise)
    return counter_offer_of(limits, ask, principal, tenure)


def counter_offer_of(
    limits: Limits, ask: Ask, principal: int | None, tenure: int | None
) -> CounterOffer | None:
    """The counter-offer of these bounds; None without both."""
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


def _largest_principal(limits: Limits, tenure_months: int) -> int | None:
    """The largest principal in whole rupees that would be approved, or None.

    The search counts down from the largest principal whose monthly installment fits; every larger
    one exceeds the limit, so the first that fits is the answer. It tries few: the last installment
    is below the monthly one for about every other principal, and for every principal once the
    monthly one leaves room for the rounding.
    """
    least = _least_principal(limits, tenure_months)
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


def _least_principal(limits: Limits, tenure_months: int) -> int:
    least = max(limits.least_principal_paise, 1)
    if limits.rules < Rules.LARGEST_INSTALLMENT:
        return least
    return max(least, least_principal_paise(limits.rate_bps, tenure_months))


def largest_principal_below(
    declined: int, limits: Limits, tenure_months: int, is_approved: Callable[[int], bool]
) -> int | None:
    """A principal in whole rupees that is approved, while one rupee more is not; below `declined`
    paise, which is in whole rupees and not approved.

    Halves the principal until one is approved, or returns None. Takes at most 80 calls.
    """
    least = -(-_least_principal(limits, tenure_months) // RUPEE_PAISE)
    too_large = declined // RUPEE_PAISE
    while too_large > least:
        fitting = max(too_large // 2, least)
        if is_approved(fitting * RUPEE_PAISE):
            rupees = passing_bound(
                fitting, too_large, lambda rupees: is_approved(rupees * RUPEE_PAISE)
            )
            return rupees * RUPEE_PAISE
        too_large = fitting
    return None


def shortest_tenure_above(declined: int, is_approved: Callable[[int], bool]) -> int | None:
    """A tenure that is approved, while one month less is not; above `declined` months, which are
    not approved.

    Doubles its steps until a tenure is approved, or returns None. Takes at most 20 calls.
    """
    too_short, step = declined, 1
    while too_short < MAX_TENURE_MONTHS:
        fitting = min(too_short + step, MAX_TENURE_MONTHS)
        if is_approved(fitting):
            return passing_bound(fitting, too_short, is_approved)
        too_short, step = fitting, 2 * step
    return None


def _shortest_tenure(limits: Limits, principal_paise: int) -> int | None:
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
    fitting = passing_bound(fitting, too_short, monthly_fits)
    for tenure in range(fitting, longest + 1):
        if limits.fits(principal_paise, tenure):
            return tenure
    return None

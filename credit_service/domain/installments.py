"""Installments on a reducing balance: their amount, and the rate that splits them."""

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache
from itertools import repeat
from math import gcd

from credit_service.domain.loans import Ask, Loan, LoanTerms
from credit_service.domain.money import divide_half_up

_MONTHLY_BPS = 120_000
"""A yearly rate of 1 basis point is 1 / 120 000 a month."""


def compound_growth(annual_rate_bps: int, tenure_months: int) -> tuple[int, int, int, int]:
    """(a, (a+b)ⁿ, bⁿ, b) for a monthly rate of a / b in lowest terms, more than 0."""
    common = gcd(annual_rate_bps, _MONTHLY_BPS)
    a = annual_rate_bps // common
    b = _MONTHLY_BPS // common
    return a, (a + b) ** tenure_months, b**tenure_months, b


# Cached: rates and tenures recur, and the numbers have up to thousands of bits.
@lru_cache(maxsize=4_096)
def installment_factor(annual_rate_bps: int, tenure_months: int) -> tuple[int, int]:
    """The installment per paisa of principal, as an exact fraction (numerator, denominator).

    r(1+r)ⁿ / ((1+r)ⁿ - 1) with r = bps / 120000, or 1 / n when r = 0. With r = a / b in lowest
    terms this is a(a+b)ⁿ / (b((a+b)ⁿ - bⁿ)).
    """
    if annual_rate_bps == 0:
        return 1, tenure_months
    a, growth, base, b = compound_growth(annual_rate_bps, tenure_months)
    return a * growth, b * (growth - base)


def installment_paise(terms: LoanTerms | Ask) -> int:
    """The EMI on a reducing balance, in paise, rounded half up.

    P·r·(1+r)ⁿ / ((1+r)ⁿ - 1) as one fraction of integers, so that the exact value is rounded: there
    is no precision to choose and no tie can fall to the wrong side. It never falls as the principal
    grows and never rises with the tenure. 0 for a few paise over many months.
    """
    numerator, denominator = installment_factor(terms.annual_rate_bps, terms.tenure_months)
    return divide_half_up(terms.principal_paise * numerator, denominator)


def reduced_installment_paise(loan: Loan, balance_paise: int, months: int) -> int:
    """The installment that repays a balance of the loan in `months`, at the rate of its interest,
    rounded half up: at least 1 paisa."""
    numerator, denominator = monthly_rate(loan)
    if numerator == 0:
        return max(divide_half_up(balance_paise, months), 1)
    common = gcd(numerator, denominator)
    a, b = numerator // common, denominator // common
    growth, base = (a + b) ** months, b**months
    return max(divide_half_up(balance_paise * a * growth, b * (growth - base)), 1)


def last_installment_paise(terms: LoanTerms | Ask, installment: int) -> int:
    """The last installment of a loan repaid at its own rate, consistent with `schedule`.

    0 when earlier installments repay the loan.
    """
    return _last_installment(
        terms.principal_paise, terms.annual_rate_bps, terms.tenure_months, installment
    )


# Each month's interest is rounded, so there is no closed form. Cached because the same terms recur:
# a check before a booking, the bounds of counter-offers, round amounts.
@lru_cache(maxsize=16_384)
def _last_installment(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> int:
    # balance + half up(balance·bps / 120000) is floor(((120000 + bps)·balance + 60000) / 120000),
    # and the payment goes into the same floor.
    divisor, half, growth = _MONTHLY_BPS, _MONTHLY_BPS // 2, _MONTHLY_BPS + annual_rate_bps
    shift = half - installment * divisor
    balance = principal_paise
    for _ in repeat(None, tenure_months - 1):
        balance = (growth * balance + shift) // divisor
    # A balance of 0 or less never rises again.
    return (growth * balance + half) // divisor if balance > 0 else 0


def largest_principal_paise(
    max_installment_paise: int, annual_rate_bps: int, tenure_months: int
) -> int:
    """The largest principal whose installment is at most `max_installment_paise`.

    Exact: one paisa more has a larger installment. Negative when even a principal of 0 exceeds it.
    """
    numerator, denominator = installment_factor(annual_rate_bps, tenure_months)
    # Half up: P·num/den rounds to E or less exactly when P·num/den < E + 1/2.
    return ((2 * max_installment_paise + 1) * denominator - 1) // (2 * numerator)


_RATE_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_RATE_DENOMINATOR = 10**20
"""Effective rates have 20 decimals: an error below 1e-9 paisa in an installment's interest on the
largest loan."""
_NEWTON_TOLERANCE = Decimal("1e-30")
_MAX_NEWTON_STEPS = 200


# Cached: a loan needs it for its plan, its balances and its schedule.
@lru_cache(maxsize=4_096)
def effective_monthly_rate(
    principal_paise: int, installment_paise: int, tenure_months: int
) -> tuple[int, int]:
    """The monthly rate at which n installments of E repay P, as (numerator, denominator).

    Solves P = E·a(i) for i ≥ 0 with a(i) = (1 - (1+i)⁻ⁿ) / i, to 20 decimals; 0 when n·E ≤ P.
    Newton's method from below: a is convex and falling, so each step stays below the root and gets
    closer. Deterministic: Decimal in a fixed context.
    """
    p, e, n = principal_paise, installment_paise, tenure_months
    if e * n <= p:
        return 0, _RATE_DENOMINATOR
    with localcontext(_RATE_CONTEXT):
        target = Decimal(p) / e
        # Both lie at or below the root: the first Newton step from 0, and n = 1, where i = E/P - 1.
        rate = max(Decimal(2 * (n * e - p)) / (e * n * (n + 1)), Decimal(e) / p - 1)
        for _ in range(_MAX_NEWTON_STEPS):
            growth = 1 + rate
            discount = growth**-n
            annuity = (1 - discount) / rate
            slope = (annuity - n * discount / growth) / rate
            step = (annuity - target) / slope
            rate += step
            if abs(step) < _NEWTON_TOLERANCE:
                break
        else:
            raise ArithmeticError(f"no rate found for P={p}, E={e}, n={n}")
        return int((rate * _RATE_DENOMINATOR).to_integral_value()), _RATE_DENOMINATOR


def agreed_monthly_rate(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> tuple[int, int]:
    """The rate that splits a loan's installments, as (numerator, denominator)."""
    if installment == installment_paise(LoanTerms(principal_paise, annual_rate_bps, tenure_months)):
        return annual_rate_bps, _MONTHLY_BPS
    return effective_monthly_rate(principal_paise, installment, tenure_months)


def monthly_rate(loan: Loan) -> tuple[int, int]:
    """The monthly rate of the loan's interest, as (numerator, denominator): by the agreed terms,
    so that a revised installment does not change it."""
    return agreed_monthly_rate(
        loan.principal_paise,
        loan.annual_rate_bps,
        loan.agreed_tenure_months,
        loan.agreed_installment_paise,
    )

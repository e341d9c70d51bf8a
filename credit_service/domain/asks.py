"""Valid asks: their ranges, and what equal installments of whole paise can repay."""

from functools import lru_cache

from credit_service.domain.errors import OUT_OF_RANGE, FieldViolation, InvalidFieldsError
from credit_service.domain.installments import compound_growth
from credit_service.domain.loans import (
    MAX_ANNUAL_RATE_BPS,
    MAX_PRINCIPAL_PAISE,
    MAX_TENURE_MONTHS,
    MIN_TENURE_MONTHS,
    Ask,
    LoanTerms,
)
from credit_service.domain.money import format_hundredths, format_rate
from credit_service.domain.searching import passing_bound
from credit_service.rupees import format_inr


def validate_ask(*, principal_paise: int, annual_rate_bps: int, tenure_months: int) -> Ask:
    """The ask, in range and repayable in whole paise at the requested rate.

    Raises InvalidFieldsError naming every bad field by its contract name; `least_principal_paise`
    says what makes an ask repayable.
    """
    violations = []
    if not 0 < principal_paise <= MAX_PRINCIPAL_PAISE:
        message = (
            f"loan_amount must be more than ₹0 and at most ₹100 crore, "
            f"found {format_inr(principal_paise)}."
        )
        violations.append(FieldViolation("loan_amount", OUT_OF_RANGE, message))
    if not 0 <= annual_rate_bps <= MAX_ANNUAL_RATE_BPS:
        message = (
            f"interest_rate must be 0 to 100 percent a year, "
            f"found {format_hundredths(annual_rate_bps)}."
        )
        violations.append(FieldViolation("interest_rate", OUT_OF_RANGE, message))
    if not MIN_TENURE_MONTHS <= tenure_months <= MAX_TENURE_MONTHS:
        message = (
            f"tenure_months must be {MIN_TENURE_MONTHS} to {MAX_TENURE_MONTHS}, "
            f"found {tenure_months}."
        )
        violations.append(FieldViolation("tenure_months", OUT_OF_RANGE, message))
    if violations:
        raise InvalidFieldsError(violations)
    ask = Ask(principal_paise, annual_rate_bps, tenure_months)
    if not is_repayable(ask):
        raise InvalidFieldsError(_not_repayable(ask))
    return ask


def _not_repayable(ask: Ask) -> list[FieldViolation]:
    """The violations of an ask that whole paise cannot repay, with the bounds that work."""
    principal, rate = format_inr(ask.principal_paise), format_rate(ask.annual_rate_bps)
    least = least_principal_paise(ask.annual_rate_bps, ask.tenure_months)
    longest = longest_repayable_tenure(ask.principal_paise, ask.annual_rate_bps)
    violations = []
    if least <= MAX_PRINCIPAL_PAISE:
        message = (
            f"loan_amount must be at least {format_inr(least)} over {ask.tenure_months} months at "
            f"{rate} a year, found {principal}: a smaller loan cannot be repaid in equal "
            f"installments of whole paise."
        )
        violations.append(FieldViolation("loan_amount", OUT_OF_RANGE, message))
    message = (
        f"tenure_months must be at most {longest} for {principal} at {rate} a year, found "
        f"{ask.tenure_months}: over more months the installments repay too little of the principal."
    )
    violations.append(FieldViolation("tenure_months", OUT_OF_RANGE, message))
    return violations


@lru_cache(maxsize=16_384)
def least_principal_paise(annual_rate_bps: int, tenure_months: int) -> int:
    """The least principal that equal installments of whole paise repay, in paise.

    An installment is rounded by at most half a paisa, and so is the interest of each month. At most
    a paisa a month in all, which with its interest grows to s = ((1+r)ⁿ - 1) / r paise by the end
    (n paise at rate 0). An installment of s paise or more before rounding repays in exactly n
    months whatever the roundings are: the last installment differs from the others by at most s,
    and is more than 0 and at most two installments. With less, a loan may end months early or
    leave most of the principal for the last month.

    The principal of an installment of s is s·(1 - (1+r)⁻ⁿ) / r, here rounded up. It grows with the
    tenure, and is 1 paisa for 1 month.
    """
    if annual_rate_bps == 0:
        return tenure_months * tenure_months
    a, growth, base, b = compound_growth(annual_rate_bps, tenure_months)
    # With (1+r)ⁿ = growth / base and r = a / b this is ((growth - base)·b / a)² / (growth·base).
    numerator = ((growth - base) * b) ** 2
    denominator = a * a * growth * base
    return -(-numerator // denominator)


def is_repayable(terms: LoanTerms | Ask) -> bool:
    """Whether equal installments of whole paise repay the loan: see `least_principal_paise`."""
    n, bps = terms.tenure_months, terms.annual_rate_bps
    # n²·(1+r)ⁿ is more than the least principal, and (1+r)ⁿ ≤ e^(n·bps/120000) < 2^(n·bps/80000).
    # Nearly every ask passes this test, without numbers of thousands of bits.
    if terms.principal_paise >= n * n << n * bps // 80_000 + 1:
        return True
    return terms.principal_paise >= least_principal_paise(bps, n)


def longest_repayable_tenure(principal_paise: int, annual_rate_bps: int) -> int:
    """The longest tenure over which the principal is repayable at that rate: 1 … 480 months."""
    return passing_bound(
        MIN_TENURE_MONTHS,
        MAX_TENURE_MONTHS + 1,
        lambda months: is_repayable(LoanTerms(principal_paise, annual_rate_bps, months)),
    )

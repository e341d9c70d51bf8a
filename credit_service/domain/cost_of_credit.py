"""The cost of credit: charges known beforehand, what is disbursed, and the annual percentage rate.

The rate is that of RBI's key facts statement (circular of 15 April 2024, annex B): twelve times the
monthly rate, not compounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from credit_service.domain.charges import Charge, ChargePayee, charges_paise
from credit_service.domain.installments import installment_paise, last_installment_paise
from credit_service.domain.loans import Loan, LoanTerms
from credit_service.domain.searching import passing_bound

_MONTHLY_BPS = 120_000
"""A yearly rate of 1 basis point is 1 / 120 000 a month."""


@dataclass(frozen=True, slots=True)
class CostOfCredit:
    """What a loan costs. `total_payable_paise` is principal and interest, without the charges."""

    apr_bps: int
    net_disbursed_paise: int
    lender_charges_paise: int
    third_party_charges_paise: int
    total_interest_paise: int
    total_payable_paise: int


def cost_of_credit(terms: LoanTerms, charges: Sequence[Charge] = ()) -> CostOfCredit:
    """The cost of a loan booked at these terms, which whole paise repay. Raises ValueError if the
    charges leave nothing to disburse."""
    monthly = installment_paise(terms)
    last = last_installment_paise(terms, monthly)
    payable = monthly * (terms.tenure_months - 1) + last
    lender = charges_paise([each for each in charges if each.payee is ChargePayee.LENDER])
    total = charges_paise(charges)
    net = terms.principal_paise - total
    if not total and last > 0 and _rate_stands(terms):
        rate_bps = terms.annual_rate_bps
    else:
        rate_bps = apr_bps(net, monthly, last, terms.tenure_months)
    return CostOfCredit(
        apr_bps=rate_bps,
        net_disbursed_paise=net,
        lender_charges_paise=lender,
        third_party_charges_paise=total - lender,
        total_interest_paise=payable - terms.principal_paise,
        total_payable_paise=payable,
    )


def agreed_terms(loan: Loan) -> LoanTerms:
    """The terms of a loan as agreed, before any prepayment."""
    return LoanTerms(loan.principal_paise, loan.annual_rate_bps, loan.agreed_tenure_months)


def _rate_stands(terms: LoanTerms) -> bool:
    """Whether the principal is so large that without charges the annual percentage rate is the
    rate of the loan. Nearly every loan passes this test, without numbers of thousands of bits.

    The interest of each month is rounded by at most half a paisa, so that at the rate r of the
    loan, the n installments are worth P ± n/2. Half a basis point, h = 1 / 240 000 a month, changes
    that by at least h / (1 + r + 2h) of it, because each installment is due in a month or later.
    So the rate rounds to that of the loan if P > n·(1 + r + 2h) / 2h + n/2.
    """
    return terms.principal_paise > terms.tenure_months * (_MONTHLY_BPS + 2 + terms.annual_rate_bps)


@lru_cache(maxsize=4_096)
def apr_bps(
    net_disbursed_paise: int, installment_paise: int, last_installment_paise: int, months: int
) -> int:
    """The annual percentage rate in basis points, rounded half up: 12 times the monthly rate at
    which the present value of the installments equals what is disbursed.

    Exact: no step rounds. Raises ValueError for no disbursement, or installments that do not repay
    it.
    """
    if net_disbursed_paise <= 0:
        raise ValueError(f"nothing is disbursed: {net_disbursed_paise} paise")
    if installment_paise * (months - 1) + last_installment_paise < net_disbursed_paise:
        raise ValueError("the installments do not repay what is disbursed")

    def reaches(rate_bps: int) -> bool:
        """Whether the rate, before rounding, is at least `rate_bps` - 0.5: then the installments
        discounted at that are worth what is disbursed, or more."""
        # The monthly rate is halves / scale; with D = scale and R = D + halves, an installment of
        # month k is worth (D/R)^k. Multiplied by halves · R^months, all terms are integers.
        scale, halves = 2 * _MONTHLY_BPS, 2 * rate_bps - 1
        base = scale + halves
        grown, discounted = base**months, scale**months
        monthly = installment_paise * (scale * grown - discounted * base)
        last = last_installment_paise * discounted * halves
        disbursed = net_disbursed_paise * halves * grown
        return bool(monthly + last >= disbursed)

    too_high = 1
    while reaches(too_high):
        too_high *= 2
    return passing_bound(too_high // 2, too_high, reaches)

"""The cost of credit: charges known beforehand, what is disbursed, and the annual percentage rate.

The rate is that of RBI's key facts statement (circular of 15 April 2024, annex B): twelve times the
monthly rate, not compounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from credit_service.domain.loans import LoanTerms, installment_paise, last_installment_paise

_MONTHLY_BPS = 120_000
"""A yearly rate of 1 basis point is 1 / 120 000 a month."""


class ChargePayee(StrEnum):
    """Who receives a charge."""

    LENDER = "LENDER"
    THIRD_PARTY = "THIRD_PARTY"


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge that is deducted from what is disbursed, with its tax. It bears no interest."""

    type: str
    payee: ChargePayee
    amount_paise: int
    tax_paise: int = 0

    @property
    def total_paise(self) -> int:
        """Amount and tax."""
        return self.amount_paise + self.tax_paise


@dataclass(frozen=True, slots=True)
class CostOfCredit:
    """What a loan costs. `total_payable_paise` is principal and interest, without the charges."""

    apr_bps: int
    net_disbursed_paise: int
    lender_charges_paise: int
    third_party_charges_paise: int
    total_interest_paise: int
    total_payable_paise: int


def charges_paise(charges: Sequence[Charge]) -> int:
    """The charges with their taxes."""
    return sum(each.total_paise for each in charges)


def cost_of_credit(terms: LoanTerms, charges: Sequence[Charge] = ()) -> CostOfCredit:
    """The cost of a loan booked at these terms. Raises ValueError if the charges leave nothing to
    disburse."""
    installment = installment_paise(terms)
    last = last_installment_paise(terms, installment)
    payable = installment * (terms.tenure_months - 1) + last
    lender = charges_paise([each for each in charges if each.payee is ChargePayee.LENDER])
    total = charges_paise(charges)
    net = terms.principal_paise - total
    return CostOfCredit(
        apr_bps=apr_bps(net, installment, last, terms.tenure_months),
        net_disbursed_paise=net,
        lender_charges_paise=lender,
        third_party_charges_paise=total - lender,
        total_interest_paise=payable - terms.principal_paise,
        total_payable_paise=payable,
    )


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
    found = too_high // 2
    while too_high - found > 1:
        middle = (found + too_high) // 2
        if reaches(middle):
            found = middle
        else:
            too_high = middle
    return found

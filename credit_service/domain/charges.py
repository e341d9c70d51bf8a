"""Charges of a loan that are known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from credit_service.domain.errors import OUT_OF_RANGE, FieldViolation, InvalidFieldsError
from credit_service.rupees import format_inr

MAX_CHARGES = 20


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


def charges_paise(charges: Sequence[Charge]) -> int:
    """The charges with their taxes."""
    return sum(each.total_paise for each in charges)


def require_disbursement(principal_paise: int, charges: Sequence[Charge]) -> None:
    """Raise InvalidFieldsError naming charges when they leave nothing to disburse."""
    total = charges_paise(charges)
    if total >= principal_paise:
        message = (
            f"charges must be less than the loan of {format_inr(principal_paise)}, "
            f"found {format_inr(total)} with tax."
        )
        raise InvalidFieldsError([FieldViolation("charges", OUT_OF_RANGE, message)])

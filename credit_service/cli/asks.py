"""A loan that is asked for: the arguments of `check`, `create-loan` and `create-offer`."""

from dataclasses import dataclass
from typing import Any

from credit_service.cli.amounts import read_money, read_rate
from credit_service.v1 import offer_pb2


@dataclass(frozen=True, slots=True)
class Ask:
    """A loan that is asked for. Amounts are in rupees, the rate is in percent a year. Charges are
    amounts with tax; None for none."""

    customer_id: int
    amount: str
    rate: str
    tenure_months: int
    lender_charges: str | None = None
    third_party_charges: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields that every request for a loan has. Raises UsageError."""
        return {
            "customer_id": self.customer_id,
            "loan_amount": read_money(self.amount),
            "interest_rate": read_rate(self.rate),
            "tenure_months": self.tenure_months,
            "charges": self._charges(),
        }

    def _charges(self) -> list[offer_pb2.LoanCharge]:
        given = (
            ("lender charges", offer_pb2.CHARGE_PAYEE_LENDER, self.lender_charges),
            ("third party charges", offer_pb2.CHARGE_PAYEE_THIRD_PARTY, self.third_party_charges),
        )
        return [
            offer_pb2.LoanCharge(type=name, payee=payee, amount=read_money(amount))
            for name, payee, amount in given
            if amount is not None
        ]

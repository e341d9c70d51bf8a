"""`check` shows whether a loan would be approved, and why."""

from dataclasses import dataclass

from rich.text import Text

from credit_service.cli.amounts import read_money, read_rate
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.outcomes import (
    a_month,
    cost,
    outcome_name,
    print_outcome,
    show_counter_offer,
    show_reasons,
    show_rules,
)
from credit_service.cli.output import out, print_data
from credit_service.cli.scores import show_score
from credit_service.cli.service import service_at
from credit_service.client.display import inr
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import offer_pb2


@dataclass(frozen=True, slots=True)
class Ask:
    """Arguments of `check`. Charges are amounts with tax; None for none."""

    customer_id: int
    amount: str
    rate: str
    tenure_months: int
    lender_charges: str | None = None
    third_party_charges: str | None = None


def check(target: Target, ask: Ask, form: Format) -> int:
    """Show whether a loan would be approved. A decline also exits with GOOD."""
    tenure = ask.tenure_months
    request = pb.CheckEligibilityRequest(
        customer_id=ask.customer_id,
        loan_amount=read_money(ask.amount),
        interest_rate=read_rate(ask.rate),
        tenure_months=tenure,
        charges=_charges(ask),
    )
    with service_at(target) as service:
        response = service.CheckEligibility(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    requested, corrected = response.interest_rate.value, response.corrected_interest_rate.value
    changed = "" if requested == corrected else f" (requested: {requested} %)"
    print_outcome(response, f"would be {outcome_name(response)}")
    out.print(
        Text(
            f"  {inr(request.loan_amount)} over {tenure} months at {corrected} % a year{changed}: "
            f"{a_month(response)}"
        ),
        soft_wrap=True,
    )
    if response.HasField("cost_of_credit"):
        out.print(Text(f"  {cost(response.cost_of_credit)}"), soft_wrap=True)
    show_reasons(response)
    if response.HasField("counter_offer"):
        show_counter_offer(response.counter_offer)
    show_rules(response.rule_results)
    show_score(response.credit_score)
    return ExitCode.GOOD


_CHARGES = (
    ("lender_charges", "lender charges", offer_pb2.CHARGE_PAYEE_LENDER),
    ("third_party_charges", "third party charges", offer_pb2.CHARGE_PAYEE_THIRD_PARTY),
)


def _charges(ask: Ask) -> list[offer_pb2.LoanCharge]:
    """Return the charges of an ask. Raises UsageError."""
    return [
        offer_pb2.LoanCharge(type=name, payee=payee, amount=read_money(amount))
        for field, name, payee in _CHARGES
        if (amount := getattr(ask, field)) is not None
    ]

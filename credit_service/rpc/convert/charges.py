"""Convert charges and the cost of credit."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from credit_service.domain.charges import (
    MAX_CHARGES,
    Charge,
    ChargePayee,
    require_disbursement,
)
from credit_service.domain.cost_of_credit import cost_of_credit
from credit_service.domain.customers import clean_name
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.domain.loans import MAX_PRINCIPAL_PAISE, LoanTerms
from credit_service.rpc.convert.fields import (
    Violations,
    decimal_text,
    fill_money,
    read_money,
    write_money,
)
from credit_service.rupees import format_inr
from credit_service.v1 import offer_pb2

_PAYEES = {
    payee: offer_pb2.ChargePayee.Value(f"CHARGE_PAYEE_{payee.name}") for payee in ChargePayee
}
# Of an invalid ask the principal is not known.
_COMPARED = frozenset({"charges", "loan_amount", "interest_rate", "tenure_months"})
_PAYEE_OF_NUMBER: dict[int, ChargePayee] = {number: payee for payee, number in _PAYEES.items()}


def read_charges(
    messages: Sequence[offer_pb2.LoanCharge], principal_paise: int, violations: Violations
) -> tuple[Charge, ...]:
    """The charges of a request for a loan of that principal, by the rules of all such requests."""
    if not messages:
        return ()
    if len(messages) > MAX_CHARGES:
        # Do not check entries one by one: a message has room for many.
        violations.add(
            "charges",
            OUT_OF_RANGE,
            f"must have at most {MAX_CHARGES} entries, found {len(messages):,}.",
        )
        return ()
    found = tuple(
        [
            _read_charge(message, f"charges[{place}]", violations)
            for place, message in enumerate(messages)
        ]
    )
    if _COMPARED.isdisjoint(each.field.partition("[")[0] for each in violations.found):
        try:
            require_disbursement(principal_paise, found)
        except InvalidFieldsError as error:
            violations.merge(error)
    return found


def _read_charge(message: offer_pb2.LoanCharge, field: str, violations: Violations) -> Charge:
    # The readers of fields name a field of the message itself.
    own = Violations()
    kind = message.type
    try:
        kind = clean_name(message.type)
    except ValueError as error:
        own.add("type", OUT_OF_RANGE if message.type.strip() else REQUIRED, f"{error}.")
    payee = _PAYEE_OF_NUMBER.get(message.payee)
    if payee is None:
        own.add("payee", REQUIRED, f"must be LENDER or THIRD_PARTY, found {message.payee}.")
    amount = read_amount(message, "amount", own, least=1)
    tax = read_amount(message, "tax", own, least=0) if message.HasField("tax") else 0
    if message.timing not in offer_pb2.ChargeTiming.values():
        own.add("timing", OUT_OF_RANGE, f"must be UPFRONT, found {message.timing}.")
    for each in own.found:
        sentence = each.message.removeprefix(f"{each.field} ")
        violations.add(f"{field}.{each.field}", each.reason, sentence)
    return Charge(kind, payee or ChargePayee.LENDER, amount, tax)


def read_amount(message: Any, field: str, violations: Violations, *, least: int) -> int:
    """Paise of an amount from `least` (0 or 1) to the largest principal."""
    paise = read_money(message, field, violations)
    if paise is None:
        return least
    if not least <= paise <= MAX_PRINCIPAL_PAISE:
        bound = "₹0 or more" if least == 0 else "more than ₹0"
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must be {bound} and at most ₹100 crore, found {format_inr(paise)}.",
        )
    return paise


def write_charges(charges: Iterable[Charge]) -> list[offer_pb2.LoanCharge]:
    """The charges in their order."""
    return [
        offer_pb2.LoanCharge(
            type=each.type,
            payee=_PAYEES[each.payee],
            amount=write_money(each.amount_paise),
            tax=write_money(each.tax_paise),
            timing=offer_pb2.CHARGE_TIMING_UPFRONT,
        )
        for each in charges
    ]


# Cached: the same terms recur, and filling a message takes longer than copying one.
@lru_cache(maxsize=16_384)
def cost_message(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, charges: tuple[Charge, ...]
) -> offer_pb2.CostOfCredit:
    """What a loan booked at these terms costs. Never change the message."""
    terms = LoanTerms(principal_paise, annual_rate_bps, tenure_months)
    cost = cost_of_credit(terms, charges)
    message = offer_pb2.CostOfCredit()
    message.annual_percentage_rate.value = decimal_text(cost.apr_bps)
    fill_money(message.net_disbursed, cost.net_disbursed_paise)
    fill_money(message.lender_charges, cost.lender_charges_paise)
    fill_money(message.third_party_charges, cost.third_party_charges_paise)
    fill_money(message.total_interest, cost.total_interest_paise)
    fill_money(message.total_payable, cost.total_payable_paise)
    return message

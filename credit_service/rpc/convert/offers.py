"""Convert messages of loan offers."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from credit_service.commands.create_loan import CreateLoanOffer
from credit_service.commands.offers import AcceptLoanOffer, WithdrawLoanOffer
from credit_service.domain.cost_of_credit import (
    Charge,
    ChargePayee,
    CostOfCredit,
    cost_of_credit,
)
from credit_service.domain.customers import clean_name
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED
from credit_service.domain.loans import (
    MAX_PRINCIPAL_PAISE,
    Ask,
    last_installment_paise,
)
from credit_service.domain.offers import MAX_CHARGES, LoanOffer, OfferState
from credit_service.rpc.convert import credit, fields
from credit_service.rpc.convert.fields import Violations, write_date, write_money
from credit_service.rpc.convert.referrals import write_new_referral
from credit_service.rupees import format_inr
from credit_service.storage.decisions import StoredDecision
from credit_service.v1 import credit_service_pb2, offer_pb2

MAX_REASON_LENGTH = 200
MAX_STATES = 100

_STATES = {
    state: offer_pb2.LoanOfferState.Value(f"LOAN_OFFER_STATE_{state.name}") for state in OfferState
}
_STATE_OF_NUMBER: dict[int, OfferState] = {number: state for state, number in _STATES.items()}
_PAYEES = {
    payee: offer_pb2.ChargePayee.Value(f"CHARGE_PAYEE_{payee.name}") for payee in ChargePayee
}
_PAYEE_OF_NUMBER: dict[int, ChargePayee] = {number: payee for payee, number in _PAYEES.items()}


def read_create_loan_offer(
    request: credit_service_pb2.CreateLoanOfferRequest,
) -> CreateLoanOffer:
    """The command of a CreateLoanOffer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    customer_id = fields.read_id(request.customer_id, "customer_id", violations)
    ask = credit.read_ask(request, violations)
    charges = _read_charges(request.charges, violations)
    last_day = fields.read_date(request, "valid_until", violations)
    violations.raise_if_any()
    return CreateLoanOffer(request_id, customer_id, ask, charges, last_day)


def _read_charges(
    messages: Sequence[offer_pb2.LoanCharge], violations: Violations
) -> tuple[Charge, ...]:
    if len(messages) > MAX_CHARGES:
        # Do not check entries one by one: a message has room for many.
        violations.add(
            "charges",
            OUT_OF_RANGE,
            f"must have at most {MAX_CHARGES} entries, found {len(messages):,}.",
        )
        return ()
    return tuple(
        _read_charge(message, f"charges[{place}]", violations)
        for place, message in enumerate(messages)
    )


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
    amount = _read_amount(message, "amount", own, least=1)
    tax = _read_amount(message, "tax", own, least=0) if message.HasField("tax") else 0
    if message.timing not in offer_pb2.ChargeTiming.values():
        own.add("timing", OUT_OF_RANGE, f"must be UPFRONT, found {message.timing}.")
    for each in own.found:
        sentence = each.message.removeprefix(f"{each.field} ")
        violations.add(f"{field}.{each.field}", each.reason, sentence)
    return Charge(kind, payee or ChargePayee.LENDER, amount, tax)


def _read_amount(message: Any, field: str, violations: Violations, *, least: int) -> int:
    paise = fields.read_money(message, field, violations)
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


def read_accept_loan_offer(
    request: credit_service_pb2.AcceptLoanOfferRequest,
) -> AcceptLoanOffer:
    """The command of an AcceptLoanOffer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    offer_id = fields.read_id(request.offer_id, "offer_id", violations)
    amount: int | None = None
    if request.HasField("loan_amount"):
        amount = _read_amount(request, "loan_amount", violations, least=1)
    disbursed_on = fields.read_date(request, "disbursed_on", violations)
    violations.raise_if_any()
    return AcceptLoanOffer(request_id, offer_id, amount, disbursed_on)


def read_withdraw_loan_offer(
    request: credit_service_pb2.WithdrawLoanOfferRequest,
) -> WithdrawLoanOffer:
    """The command of a WithdrawLoanOffer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    offer_id = fields.read_id(request.offer_id, "offer_id", violations)
    reason = fields.read_text(request.reason, "reason", MAX_REASON_LENGTH, violations)
    violations.raise_if_any()
    return WithdrawLoanOffer(request_id, offer_id, reason)


def read_states(numbers: Sequence[int], violations: Violations) -> tuple[OfferState, ...]:
    """The states to filter by, in the order of the enum; all of them for an empty filter."""
    if len(numbers) > MAX_STATES:
        violations.add(
            "states",
            OUT_OF_RANGE,
            f"must have at most {MAX_STATES} entries, found {len(numbers):,}.",
        )
        return ()
    unknown = [number for number in numbers if number not in _STATE_OF_NUMBER]
    if unknown:
        violations.add("states", OUT_OF_RANGE, f"must list states of offers, found {unknown[0]}.")
    wanted = set(numbers)
    return tuple(state for state in OfferState if not wanted or _STATES[state] in wanted)


def write_created_offer(
    stored: StoredDecision, offer: LoanOffer | None, ask: Ask
) -> credit_service_pb2.CreateLoanOfferResponse:
    """The response of CreateLoanOffer, built from stored data: the same on every retry."""
    response = credit_service_pb2.CreateLoanOfferResponse(
        decision_id=stored.decision_id, approved=stored.approved
    )
    credit.fill_outcome(response, stored, ask)
    if offer is not None:
        response.message += f" The offer is valid until {offer.last_day}."
        response.offer.CopyFrom(write_offer(offer, offer.created_on))
    if stored.referral is not None:
        response.referral.CopyFrom(write_new_referral(stored.referral))
    return response


def write_offer(offer: LoanOffer, today: date) -> offer_pb2.LoanOffer:
    """An offer in its state today."""
    state = offer.state_on(today)
    is_open = state is OfferState.OPEN
    message = offer_pb2.LoanOffer(
        offer_id=offer.offer_id,
        customer_id=offer.customer_id,
        state=_STATES[state],
        decision_id=offer.decision_id,
        loan_amount=write_money(offer.principal_paise),
        interest_rate=fields.write_hundredths(offer.annual_rate_bps),
        tenure_months=offer.tenure_months,
        monthly_installment=write_money(offer.installment_paise),
        last_installment=write_money(last_installment_paise(offer.terms, offer.installment_paise)),
        held_credit=write_money(offer.principal_paise if is_open else 0),
        held_installment=write_money(offer.installment_paise if is_open else 0),
        charges=[_write_charge(each) for each in offer.charges],
        cost_of_credit=_write_cost(cost_of_credit(offer.terms, offer.charges)),
        created_on=write_date(offer.created_on),
        valid_until=write_date(offer.last_day),
        created_time=fields.write_time(offer.created_at),
        loan_id=offer.loan_id or 0,
        withdrawal_reason=offer.reason or "",
        principal=fields.write_principal(offer.principal),
    )
    if offer.ended_at is not None:
        message.ended_time.CopyFrom(fields.write_time(offer.ended_at))
    if offer.accepted_paise is not None:
        message.accepted_amount.CopyFrom(write_money(offer.accepted_paise))
    if offer.disbursed_on is not None:
        message.disbursed_on.CopyFrom(write_date(offer.disbursed_on))
    return message


def _write_charge(charge: Charge) -> offer_pb2.LoanCharge:
    return offer_pb2.LoanCharge(
        type=charge.type,
        payee=_PAYEES[charge.payee],
        amount=write_money(charge.amount_paise),
        tax=write_money(charge.tax_paise),
        timing=offer_pb2.CHARGE_TIMING_UPFRONT,
    )


def _write_cost(cost: CostOfCredit) -> offer_pb2.CostOfCredit:
    return offer_pb2.CostOfCredit(
        annual_percentage_rate=fields.write_hundredths(cost.apr_bps),
        net_disbursed=write_money(cost.net_disbursed_paise),
        lender_charges=write_money(cost.lender_charges_paise),
        third_party_charges=write_money(cost.third_party_charges_paise),
        total_interest=write_money(cost.total_interest_paise),
        total_payable=write_money(cost.total_payable_paise),
    )


def write_accepted_offer(
    offer: LoanOffer, today: date
) -> credit_service_pb2.AcceptLoanOfferResponse:
    """The response of AcceptLoanOffer: the loan as booked, without later payments."""
    return credit_service_pb2.AcceptLoanOfferResponse(
        loan=credit.write_loan(offer.loan()), offer=write_offer(offer, today)
    )


def offer_state(name: str) -> Any:
    """The LoanOfferState of that name; UNSPECIFIED for a name of a later release."""
    return _STATES.get(name, offer_pb2.LOAN_OFFER_STATE_UNSPECIFIED)  # type: ignore[call-overload]  # names are states

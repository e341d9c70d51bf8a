"""Convert messages of loan offers."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from credit_service.commands.create_loan import CreateLoanOffer
from credit_service.commands.offers import AcceptLoanOffer, WithdrawLoanOffer
from credit_service.domain.errors import OUT_OF_RANGE
from credit_service.domain.installments import last_installment_paise
from credit_service.domain.loans import Ask
from credit_service.domain.offers import LoanOffer, OfferState
from credit_service.rpc.convert import decisions, fields, loans
from credit_service.rpc.convert.charges import (
    cost_message,
    read_amount,
    read_charges,
    write_charges,
)
from credit_service.rpc.convert.fields import Violations, write_date, write_money
from credit_service.rpc.convert.referrals import write_new_referral
from credit_service.storage.decisions import StoredDecision
from credit_service.v1 import credit_service_pb2, offer_pb2

MAX_REASON_LENGTH = 200
MAX_STATES = 100

_STATES = {
    state: offer_pb2.LoanOfferState.Value(f"LOAN_OFFER_STATE_{state.name}") for state in OfferState
}
_STATE_OF_NUMBER: dict[int, OfferState] = {number: state for state, number in _STATES.items()}


def read_create_loan_offer(
    request: credit_service_pb2.CreateLoanOfferRequest,
) -> CreateLoanOffer:
    """The command of a CreateLoanOffer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    customer_id = fields.read_id(request.customer_id, "customer_id", violations)
    ask = decisions.read_ask(request, violations)
    charges = read_charges(request.charges, ask.principal_paise, violations)
    last_day = fields.read_date(request, "valid_until", violations)
    violations.raise_if_any()
    return CreateLoanOffer(request_id, customer_id, ask, charges, last_day)


def read_accept_loan_offer(
    request: credit_service_pb2.AcceptLoanOfferRequest,
) -> AcceptLoanOffer:
    """The command of an AcceptLoanOffer request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    offer_id = fields.read_id(request.offer_id, "offer_id", violations)
    amount: int | None = None
    if request.HasField("loan_amount"):
        amount = read_amount(request, "loan_amount", violations, least=1)
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
    decisions.fill_outcome(response, stored, ask)
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
        charges=write_charges(offer.charges),
        created_on=write_date(offer.created_on),
        valid_until=write_date(offer.last_day),
        created_time=fields.write_time(offer.created_at),
        loan_id=offer.loan_id or 0,
        withdrawal_reason=offer.reason or "",
        principal=fields.write_principal(offer.principal),
    )
    message.cost_of_credit.CopyFrom(
        cost_message(
            offer.principal_paise, offer.annual_rate_bps, offer.tenure_months, offer.charges
        )
    )
    if offer.ended_at is not None:
        message.ended_time.CopyFrom(fields.write_time(offer.ended_at))
    if offer.accepted_paise is not None:
        message.accepted_amount.CopyFrom(write_money(offer.accepted_paise))
    if offer.disbursed_on is not None:
        message.disbursed_on.CopyFrom(write_date(offer.disbursed_on))
    return message


def write_accepted_offer(
    offer: LoanOffer, today: date
) -> credit_service_pb2.AcceptLoanOfferResponse:
    """The response of AcceptLoanOffer: the loan as booked, without later payments."""
    return credit_service_pb2.AcceptLoanOfferResponse(
        loan=loans.write_loan(offer.loan(), today), offer=write_offer(offer, today)
    )


def offer_state(name: str) -> Any:
    """The LoanOfferState of that name; UNSPECIFIED for a name of a later release."""
    return _STATES.get(name, offer_pb2.LOAN_OFFER_STATE_UNSPECIFIED)  # type: ignore[call-overload]  # names are states

"""Convert messages of payments, their reversals, and quotes of foreclosures."""

from datetime import date
from typing import Any

from credit_service.commands.record_payment import RecordedPayment, RecordPayment
from credit_service.commands.reverse_payment import ReversedPayment, ReversePayment
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED
from credit_service.domain.foreclosure import ForeclosureQuote
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    ReversalReason,
    installment_states,
    outstanding_paise,
    paid_in_full,
)
from credit_service.domain.schedules import schedule
from credit_service.rpc.convert import fields, loans
from credit_service.rpc.convert.fields import Violations
from credit_service.rupees import format_inr
from credit_service.storage.payments import StoredPayment
from credit_service.v1 import credit_service_pb2, loan_pb2

_PURPOSES = {
    each: loan_pb2.PaymentPurpose.Value(f"PAYMENT_PURPOSE_{each.name}") for each in PaymentPurpose
}
_PURPOSE_OF: dict[int, PaymentPurpose] = {
    loan_pb2.PAYMENT_PURPOSE_UNSPECIFIED: PaymentPurpose.INSTALLMENTS,
    **{number: each for each, number in _PURPOSES.items()},
}
_EFFECTS: dict[PrepaymentEffect | None, Any] = {
    None: loan_pb2.PREPAYMENT_EFFECT_UNSPECIFIED,
    **{
        each: loan_pb2.PrepaymentEffect.Value(f"PREPAYMENT_EFFECT_{each.name}")
        for each in PrepaymentEffect
    },
}
_EFFECT_OF: dict[int, PrepaymentEffect | None] = {number: each for each, number in _EFFECTS.items()}
_REASONS = {
    each: loan_pb2.PaymentReversalReason.Value(f"PAYMENT_REVERSAL_REASON_{each.name}")
    for each in ReversalReason
}
_REASON_OF: dict[int, ReversalReason] = {number: each for each, number in _REASONS.items()}


def read_record_payment(request: credit_service_pb2.RecordPaymentRequest) -> RecordPayment:
    """The command of a RecordPayment request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    customer_id = fields.read_id(request.customer_id, "customer_id", violations)
    loan_id = fields.read_id(request.loan_id, "loan_id", violations)
    amount = fields.read_money(request, "amount", violations)
    if amount is not None and amount <= 0:
        violations.add("amount", OUT_OF_RANGE, f"must be more than ₹0, found {format_inr(amount)}.")
    paid_on = _optional_day(request, violations)
    purpose = _PURPOSE_OF.get(request.purpose)
    if purpose is None:
        message = f"must be a PaymentPurpose, found {request.purpose}."
        violations.add("purpose", OUT_OF_RANGE, message)
    effect = _read_effect(request, purpose, violations)
    violations.raise_if_any()
    return RecordPayment(
        request_id,
        customer_id,
        loan_id,
        amount or 0,
        paid_on,
        purpose or PaymentPurpose.INSTALLMENTS,
        effect,
        request.validate_only,
    )


def _optional_day(request: Any, violations: Violations) -> date | None:
    return fields.read_date(request, "paid_on", violations) if request.HasField("paid_on") else None


def _read_effect(
    request: credit_service_pb2.RecordPaymentRequest,
    purpose: PaymentPurpose | None,
    violations: Violations,
) -> PrepaymentEffect | None:
    """The effect of a part prepayment, by default REDUCE_TENURE; None for another purpose."""
    if request.prepayment_effect not in _EFFECT_OF:
        message = f"must be a PrepaymentEffect, found {request.prepayment_effect}."
        violations.add("prepayment_effect", OUT_OF_RANGE, message)
        return None
    effect = _EFFECT_OF[request.prepayment_effect]
    if purpose is PaymentPurpose.PART_PREPAYMENT:
        return effect or PrepaymentEffect.REDUCE_TENURE
    if effect is not None and purpose is not None:
        message = f"must be unset unless purpose is PART_PREPAYMENT, found {effect}."
        violations.add("prepayment_effect", OUT_OF_RANGE, message)
    return None


def write_recorded_payment(
    recorded: RecordedPayment, today: date
) -> credit_service_pb2.RecordPaymentResponse:
    """The response of RecordPayment."""
    payment, loan, account = recorded.payment, recorded.loan, recorded.account
    response = credit_service_pb2.RecordPaymentResponse(
        payment=write_payment(payment, recorded.prepaid_principal_paise)
    )
    loans.fill_loan(response.loan, loan, today)
    settled = payment.settled_numbers
    if not settled and not recorded.has_schedule:
        return response
    lines = schedule(loan).installments if account is None else account.installments
    progress = {each.number: each for each in installment_states(loan, today)}
    response.installments.extend(
        loans.write_installment(
            line, progress.get(line.number) or paid_in_full(line), payment.paid_on
        )
        for line in lines
        if line.number in settled
    )
    if recorded.has_schedule:
        left = [line for line in lines if line.number > loan.installments_settled]
        response.schedule.extend(
            loans.write_installment(line, progress[line.number], None) for line in left
        )
        loans.fill_totals(response.totals, left, 0, outstanding_paise(loan))
    return response


def write_payment(payment: StoredPayment, prepaid_principal_paise: int) -> loan_pb2.Payment:
    """A payment as stored, with its reversal and what it prepaid."""
    message = loan_pb2.Payment(
        payment_id=payment.payment_id,
        customer_id=payment.customer_id,
        loan_id=payment.loan_id,
        amount=fields.write_money(payment.amount_paise),
        paid_on=fields.write_date(payment.paid_on),
        principal=fields.write_principal(payment.principal),
        request_id="" if payment.request_id is None else str(payment.request_id),
        purpose=_PURPOSES[payment.purpose],
    )
    if payment.purpose is PaymentPurpose.PART_PREPAYMENT:
        message.prepayment_effect = _EFFECTS[payment.effect]
        fields.fill_money(message.prepaid_principal, prepaid_principal_paise)
    elif payment.purpose is PaymentPurpose.FORECLOSURE:
        fields.fill_money(message.prepayment_charge, payment.charge_paise)
    if payment.payment_id:
        fields.fill_time(message.recorded_time, payment.recorded_at)
    reversal = payment.reversal
    if reversal is not None:
        message.reversal.reason = _REASONS[reversal.reason]
        fields.fill_time(message.reversal.reversed_time, reversal.reversed_at)
        message.reversal.principal = fields.write_principal(reversal.principal)
        message.reversal.request_id = str(reversal.request_id)
    return message


def fill_purpose(message: loan_pb2.Payment, facts: dict[str, Any]) -> None:
    """Fill the purpose of a payment from an event. Those of 0.1.0 have no purpose."""
    purpose = PaymentPurpose(facts.get("purpose", PaymentPurpose.INSTALLMENTS))
    message.purpose = _PURPOSES[purpose]
    message.prepayment_effect = effect_number(facts.get("effect"))
    if purpose is PaymentPurpose.FORECLOSURE:
        fields.fill_money(message.prepayment_charge, facts["charge_paise"])


def effect_number(name: str | None) -> Any:
    """The PrepaymentEffect of that name; UNSPECIFIED for None."""
    return _EFFECTS[None if name is None else PrepaymentEffect(name)]


def reason_number(name: str) -> Any:
    """The PaymentReversalReason of that name."""
    return _REASONS[ReversalReason(name)]


def read_reverse_payment(request: credit_service_pb2.ReversePaymentRequest) -> ReversePayment:
    """The command of a ReversePayment request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    payment_id = fields.read_id(request.payment_id, "payment_id", violations)
    reason = _REASON_OF.get(request.reason)
    named = "BOUNCED, DUPLICATE, WRONG_LOAN or ENTRY_ERROR"
    if request.reason == loan_pb2.PAYMENT_REVERSAL_REASON_UNSPECIFIED:
        violations.add("reason", REQUIRED, f"is required: {named}.")
    elif reason is None:
        violations.add("reason", OUT_OF_RANGE, f"must be {named}, found {request.reason}.")
    violations.raise_if_any()
    return ReversePayment(request_id, payment_id, reason or ReversalReason.ENTRY_ERROR)


def write_reversed_payment(
    reversed_payment: ReversedPayment, today: date
) -> credit_service_pb2.ReversePaymentResponse:
    """The response of ReversePayment."""
    return credit_service_pb2.ReversePaymentResponse(
        payment=write_payment(reversed_payment.payment, 0),
        loan=loans.write_loan(reversed_payment.loan, today),
    )


def read_foreclosure_quote(
    request: credit_service_pb2.GetForeclosureQuoteRequest,
) -> tuple[int, int, date | None]:
    """The customer, the loan and the day of a GetForeclosureQuote request. Raises
    InvalidFieldsError."""
    violations = Violations()
    customer_id = fields.read_id(request.customer_id, "customer_id", violations)
    loan_id = fields.read_id(request.loan_id, "loan_id", violations)
    paid_on = _optional_day(request, violations)
    violations.raise_if_any()
    return customer_id, loan_id, paid_on


def write_foreclosure_quote(
    customer_id: int, loan_id: int, quote: ForeclosureQuote
) -> credit_service_pb2.GetForeclosureQuoteResponse:
    """The response of GetForeclosureQuote."""
    return credit_service_pb2.GetForeclosureQuoteResponse(
        customer_id=customer_id,
        loan_id=loan_id,
        paid_on=fields.write_date(quote.day),
        principal_outstanding=fields.write_money(quote.principal_not_due_paise),
        overdue=fields.write_money(quote.overdue_paise),
        interest_accrued=fields.write_money(quote.running_interest_paise),
        charges=fields.write_money(0),
        prepayment_charge=fields.write_money(quote.charge_paise),
        total=fields.write_money(quote.total_paise),
        interest_per_day=fields.write_money(quote.interest_per_day_paise),
        paid_ahead=fields.write_money(quote.paid_ahead_paise),
        interest_saved=fields.write_money(quote.interest_saved_paise),
    )

"""`payments`, `reverse-payment`, `prepay` and `foreclosure`: what happens to a loan after it is
booked."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID, uuid4

from rich.text import Text

from credit_service.cli.amounts import read_money
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.loans import installments_table, loan_state
from credit_service.cli.output import Listing, counted, instant, money, note, out, print_data
from credit_service.cli.service import (
    date_of,
    day_text,
    list_pages,
    print_facts,
    print_list,
    repeatable,
    service_at,
)
from credit_service.client.display import enum_name, inr, paise, words
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2
from credit_service_client.errors import ServiceError


def payments(target: Target, customer_id: int, loan_id: int, limit: int, form: Format) -> int:
    """List a loan's payments in the order in which they were recorded, reversed ones included."""
    request = pb.ListPaymentsRequest(customer_id=customer_id, loan_id=loan_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListPayments, request, "payments", limit)
    table = Listing(
        ("payment", "right"), "paid on", ("amount", "right"), "purpose", "recorded", "by",
        "reversed",
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.payment_id),
            day_text(each.paid_on),
            money(each.amount),
            _purpose(each),
            instant(each.recorded_time),
            each.principal,
            _reversal(each),
        )
    return print_list(table, "payments", found, form, more=more)


def _purpose(payment: loan_pb2.Payment) -> str:
    purpose = words(enum_name(payment.purpose, loan_pb2.PaymentPurpose)).lower()
    if payment.prepayment_effect:
        effect = words(enum_name(payment.prepayment_effect, loan_pb2.PrepaymentEffect)).lower()
        return f"{purpose}, {effect}"
    if paise(payment.prepayment_charge):
        return f"{purpose}, {inr(payment.prepayment_charge)} charge"
    return purpose


def _reversal(payment: loan_pb2.Payment) -> str:
    if not payment.HasField("reversal"):
        return ""
    reason = enum_name(payment.reversal.reason, loan_pb2.PaymentReversalReason)
    return f"{words(reason).lower()}, {instant(payment.reversal.reversed_time)}"


def reverse(
    target: Target, payment_id: int, reason: str, request_id: UUID | None, form: Format
) -> int:
    """Reverse a payment for a reason such as 'bounced'; with a new request id unless one is
    given."""
    request_id = request_id or uuid4()
    name = "PAYMENT_REVERSAL_REASON_" + reason.replace("-", "_").upper()
    request = pb.ReversePaymentRequest(
        request_id=str(request_id),
        payment_id=payment_id,
        reason=loan_pb2.PaymentReversalReason.Value(name),
    )
    with repeatable(request_id, "the payment was reversed"), service_at(target) as service:
        response = service.ReversePayment(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    payment, loan = response.payment, response.loan
    out.print(
        Text(
            f"Payment {payment.payment_id} of {inr(payment.amount)}, paid on "
            f"{day_text(payment.paid_on)}, is reversed: {_reversal(payment)}"
        )
    )
    out.print(
        Text(f"  loan {loan.loan_id} {loan_state(loan)}, outstanding {inr(loan.outstanding)}")
    )
    return ExitCode.GOOD


@dataclass(frozen=True, slots=True)
class Prepayment:
    """Arguments of `prepay`; `effect` is what it reduces, 'tenure' or 'installment'."""

    customer_id: int
    loan_id: int
    amount: str
    effect: str
    paid_on: date | None
    dry_run: bool
    request_id: UUID | None


def prepay(target: Target, prepayment: Prepayment, form: Format) -> int:
    """Record a part prepayment, or with `dry_run` show its new schedule without recording it."""
    request_id = prepayment.request_id or uuid4()
    name = f"PREPAYMENT_EFFECT_REDUCE_{prepayment.effect.upper()}"
    request = pb.RecordPaymentRequest(
        request_id=str(request_id),
        customer_id=prepayment.customer_id,
        loan_id=prepayment.loan_id,
        amount=read_money(prepayment.amount),
        paid_on=None if prepayment.paid_on is None else date_of(prepayment.paid_on),
        purpose=loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT,
        prepayment_effect=loan_pb2.PrepaymentEffect.Value(name),
        validate_only=prepayment.dry_run,
    )
    with repeatable(request_id, "the payment was recorded"), service_at(target) as service:
        response = service.RecordPayment(request, timeout=CALL_TIMEOUT_SECONDS)
    table = installments_table(response.schedule)
    if print_data(form, response, table):
        return ExitCode.GOOD
    payment = response.payment
    done = "Would repay" if prepayment.dry_run else f"Payment {payment.payment_id}:"
    out.print(
        Text(f"{done} {inr(payment.prepaid_principal)} of principal on {day_text(payment.paid_on)}")
    )
    table.print()
    out.print(
        Text(
            f"{counted(len(response.schedule), 'installment')} left, with "
            f"{inr(response.totals.interest)} of interest"
        )
    )
    if prepayment.dry_run:
        note("Nothing was recorded. Repeat the command without --dry-run to record it.")
    return ExitCode.GOOD


@dataclass(frozen=True, slots=True)
class Foreclosure:
    """Arguments of `foreclosure`."""

    customer_id: int
    loan_id: int
    paid_on: date | None
    pay: bool


def foreclosure(target: Target, foreclosure: Foreclosure, form: Format) -> int:
    """Show what closes a loan on a day; with `pay`, record the payment of that amount too."""
    request = pb.GetForeclosureQuoteRequest(
        customer_id=foreclosure.customer_id,
        loan_id=foreclosure.loan_id,
        paid_on=None if foreclosure.paid_on is None else date_of(foreclosure.paid_on),
    )
    with service_at(target) as service:
        quote = service.GetForeclosureQuote(request, timeout=CALL_TIMEOUT_SECONDS)
        if not foreclosure.pay:
            return _show_quote(quote, form)
        payment = pb.RecordPaymentRequest(
            request_id=str(uuid4()),
            customer_id=quote.customer_id,
            loan_id=quote.loan_id,
            amount=quote.total,
            paid_on=quote.paid_on,
            purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
        )
        try:
            response = service.RecordPayment(payment, timeout=CALL_TIMEOUT_SECONDS)
        except (ServiceError, KeyboardInterrupt) as error:
            if not isinstance(error, ServiceError) or error.unavailable:
                note(
                    "It is unknown whether the payment was recorded. Repeat the command: it is "
                    "rejected with LOAN_CLOSED if it was."
                )
            raise
    if print_data(form, response):
        return ExitCode.GOOD
    stored = response.payment
    out.print(
        Text(
            f"Payment {stored.payment_id}: {inr(stored.amount)} paid on "
            f"{day_text(stored.paid_on)}. The loan is "
            f"{enum_name(response.loan.state, loan_pb2.LoanState).lower()}."
        )
    )
    return ExitCode.GOOD


def _show_quote(quote: pb.GetForeclosureQuoteResponse, form: Format) -> int:
    if print_data(form, quote):
        return ExitCode.GOOD
    print_facts(
        ("loan", f"{quote.loan_id} of customer {quote.customer_id}"),
        ("paid on", day_text(quote.paid_on)),
        ("principal outstanding", inr(quote.principal_outstanding)),
        ("overdue", inr(quote.overdue)),
        ("interest accrued", inr(quote.interest_accrued)),
        ("charges", inr(quote.charges)),
        ("prepayment charge", inr(quote.prepayment_charge)),
        ("paid ahead", inr(quote.paid_ahead)),
        ("total", inr(quote.total)),
        ("each further day", inr(quote.interest_per_day)),
        ("interest saved", inr(quote.interest_saved)),
    )
    return ExitCode.GOOD

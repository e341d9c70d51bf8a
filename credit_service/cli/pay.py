"""`pay` records a payment."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID, uuid4

from rich.text import Text

from credit_service.cli.amounts import read_money
from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.loans import loan_state
from credit_service.cli.output import out, print_data
from credit_service.cli.service import date_of, day_text, repeatable, service_at
from credit_service.client.display import inr
from credit_service.v1 import credit_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Payment:
    """Arguments of `pay`."""

    customer_id: int
    loan_id: int
    amount: str
    paid_on: date | None
    request_id: UUID | None


def pay(target: Target, payment: Payment, form: Format) -> int:
    """Record a payment, with a new request id unless one is given."""
    request_id = payment.request_id or uuid4()
    request = pb.RecordPaymentRequest(
        request_id=str(request_id),
        customer_id=payment.customer_id,
        loan_id=payment.loan_id,
        amount=read_money(payment.amount),
    )
    if payment.paid_on is not None:
        request.paid_on.CopyFrom(date_of(payment.paid_on))
    with repeatable(request_id, "the payment was recorded"), service_at(target) as service:
        response = service.RecordPayment(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    stored = response.payment
    out.print(
        Text(
            f"Payment {stored.payment_id}: {inr(stored.amount)} paid on {day_text(stored.paid_on)}"
        )
    )
    numbers = ", ".join(str(each.number) for each in response.installments)
    out.print(Text(f"  settled installments: {numbers or 'none'}"))
    out.print(
        Text(f"  outstanding {inr(response.loan.outstanding)}, loan {loan_state(response.loan)}")
    )
    return ExitCode.GOOD

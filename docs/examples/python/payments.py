"""Payments of a loan: record one, reverse it, prepay, foreclose; and change a customer's facts.

    CREDIT_ADDRESS=127.0.0.1:50051 python payments.py CUSTOMER_ID

Books a small loan for the customer and repays it. Uses the functions of credit_client.py, which
names the settings and packages.
"""

import sys
import uuid
from decimal import Decimal

from credit_client import answer_of, connect_from_environment, rupees
from google.protobuf import field_mask_pb2
from google.type import decimal_pb2, money_pb2

from credit_service.v1 import (
    credit_service_pb2,
    credit_service_pb2_grpc,
    customer_pb2,
    loan_pb2,
)


def new_id() -> str:
    """An id to store with the intended write until there is a response."""
    return str(uuid.uuid4())


def amount(money: money_pb2.Money) -> str:
    """Rupees with paise."""
    return f"{money.units + Decimal(money.nanos).scaleb(-9):.2f}"


def main() -> None:
    channel = connect_from_environment()
    credit = credit_service_pb2_grpc.CreditServiceStub(channel)
    customer_id = int(sys.argv[1])
    ask = credit_service_pb2.CreateLoanRequest(
        request_id=new_id(),
        customer_id=customer_id,
        loan_amount=rupees(10_000),
        interest_rate=decimal_pb2.Decimal(value="12.5"),
        tenure_months=12,
    )
    booked = answer_of(credit.CreateLoan, ask)
    assert booked.approved, booked.reasons
    loan = {"customer_id": customer_id, "loan_id": booked.loan.loan_id}

    # A payment settles installments in order. State `paid_on` if it was made on an earlier day.
    payment = credit_service_pb2.RecordPaymentRequest(
        request_id=new_id(), **loan, amount=booked.loan.monthly_installment
    )
    paid = answer_of(credit.RecordPayment, payment)
    print("paid: installments settled", paid.loan.installments_settled)

    # It bounced. The reversal is a new fact, and the loan is what it is without the payment.
    bounced = credit_service_pb2.ReversePaymentRequest(
        request_id=new_id(),
        payment_id=paid.payment.payment_id,
        reason=loan_pb2.PAYMENT_REVERSAL_REASON_BOUNCED,
    )
    reversed_ = answer_of(credit.ReversePayment, bounced)
    print("bounced: installments settled", reversed_.loan.installments_settled)

    # A prepayment repays principal at once. Show the customer its new schedule first.
    prepayment = credit_service_pb2.RecordPaymentRequest(
        request_id=new_id(),
        **loan,
        amount=rupees(4_000),
        purpose=loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT,
        prepayment_effect=loan_pb2.PREPAYMENT_EFFECT_REDUCE_TENURE,
        validate_only=True,
    )
    planned = answer_of(credit.RecordPayment, prepayment)
    print("a prepayment would leave", len(planned.schedule), "installments")
    # Nothing was stored, and the request_id is unused.
    prepayment.validate_only = False
    prepaid = answer_of(credit.RecordPayment, prepayment)
    print("prepaid: outstanding", amount(prepaid.loan.outstanding))

    # A quote holds for one day. Its total closes the loan, and a different amount is rejected.
    quote = answer_of(
        credit.GetForeclosureQuote, credit_service_pb2.GetForeclosureQuoteRequest(**loan)
    )
    foreclosure = credit_service_pb2.RecordPaymentRequest(
        request_id=new_id(),
        **loan,
        amount=quote.total,
        paid_on=quote.paid_on,
        purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
    )
    foreclosed = answer_of(credit.RecordPayment, foreclosure)
    print(f"foreclosed for {amount(quote.total)}:", loan_pb2.LoanState.Name(foreclosed.loan.state))

    # Only the fields of the mask change. The limit follows the income unless it was set.
    change = credit_service_pb2.UpdateCustomerRequest(
        request_id=new_id(),
        customer=customer_pb2.Customer(customer_id=customer_id, monthly_income=rupees(90_000)),
        update_mask=field_mask_pb2.FieldMask(paths=["monthly_income"]),
    )
    changed = answer_of(credit.UpdateCustomer, change)
    print("new limit:", amount(changed.customer.approved_limit))
    channel.close()


if __name__ == "__main__":
    main()

"""Payments of the year: on time, late, never; bounced, ahead, in full."""

import threading
from datetime import timedelta
from decimal import Decimal

from credit_service.sandbox.agenda import World, due_installments
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2
from credit_service_client.errors import ServiceError
from credit_service_client.values import as_date, in_rupees, on, rupees

_FORECLOSES = 0.004
_PREPAYS = 0.01
_PAYS_A_PART = 0.02
_BOUNCES = 0.012
_RECORDED_LATER = 0.04
_LEAST_TO_PREPAY = 20_000

LoanKey = tuple[int, int]


class Repaying:
    """Follows every active loan until it is closed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._loans: dict[LoanKey, loan_pb2.Loan] = {}

    def follow(self, loan: loan_pb2.Loan) -> None:
        """Plan the next payment of a loan as it is now."""
        key = loan.customer_id, loan.loan_id
        with self._lock:
            self._loans[key] = loan
        if loan.state != loan_pb2.LOAN_STATE_ACTIVE:
            return
        day = self._world.borrower(loan.customer_id).pays_on(as_date(loan.next_due_date))
        if day is not None:
            self._world.agenda.add(day, loan.customer_id, lambda: self._pay(key))

    def _pay(self, key: LoanKey) -> None:
        loan = self._loans[key]
        if loan.state != loan_pb2.LOAN_STATE_ACTIVE:
            return
        borrower = self._world.borrower(loan.customer_id)
        try:
            if borrower.happens(_FORECLOSES):
                loan = self._foreclose(loan)
            else:
                loan = self._pay_what_is_due(loan)
                principal = in_rupees(loan.principal_outstanding)
                if principal >= _LEAST_TO_PREPAY and borrower.happens(_PREPAYS):
                    loan = self._prepay(loan, principal)
        except ServiceError as error:
            self._world.rejected(error)
        self.follow(loan)

    def _pay_what_is_due(self, loan: loan_pb2.Loan) -> loan_pb2.Loan:
        borrower, today = self._world.borrower(loan.customer_id), self._world.agenda.today
        installment = in_rupees(loan.monthly_installment)
        amount = installment * due_installments(as_date(loan.next_due_date), today)
        if borrower.happens(_PAYS_A_PART):
            amount = (amount / 2).quantize(Decimal(1))
        request = pb.RecordPaymentRequest(
            customer_id=loan.customer_id,
            loan_id=loan.loan_id,
            amount=rupees(min(amount, in_rupees(loan.outstanding))),
        )
        yesterday = today - timedelta(days=1)
        if borrower.happens(_RECORDED_LATER) and yesterday >= as_date(loan.start_date):
            request.paid_on.CopyFrom(on(yesterday))
        response = self._world.client.credit.RecordPayment(request)
        self._world.did("payments")
        if borrower.happens(_BOUNCES):
            payment_id = response.payment.payment_id
            key = loan.customer_id, loan.loan_id
            day = today + timedelta(days=2)
            self._world.agenda.add(day, loan.customer_id, lambda: self._bounce(key, payment_id))
        return response.loan

    def _bounce(self, key: LoanKey, payment_id: int) -> None:
        request = pb.ReversePaymentRequest(
            payment_id=payment_id, reason=loan_pb2.PAYMENT_REVERSAL_REASON_BOUNCED
        )
        try:
            response = self._world.client.credit.ReversePayment(request)
        except ServiceError as error:
            self._world.rejected(error)
            return
        self._world.did("reversals")
        with self._lock:
            self._loans[key] = response.loan
        again = self._world.agenda.today + self._world.borrower(key[0]).within(3, 12)
        self._world.agenda.add(again, key[0], lambda: self._pay(key))

    def _prepay(self, loan: loan_pb2.Loan, principal: Decimal) -> loan_pb2.Loan:
        borrower = self._world.borrower(loan.customer_id)
        share = Decimal(borrower.chance.randint(10, 40)) / 100
        shorter = borrower.happens(0.5)
        request = pb.RecordPaymentRequest(
            customer_id=loan.customer_id,
            loan_id=loan.loan_id,
            amount=rupees((principal * share).quantize(Decimal(1))),
            purpose=loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT,
            prepayment_effect=loan_pb2.PREPAYMENT_EFFECT_REDUCE_TENURE
            if shorter
            else loan_pb2.PREPAYMENT_EFFECT_REDUCE_INSTALLMENT,
        )
        response = self._world.client.credit.RecordPayment(request)
        self._world.did("prepayments")
        return response.loan

    def _foreclose(self, loan: loan_pb2.Loan) -> loan_pb2.Loan:
        asked = pb.GetForeclosureQuoteRequest(customer_id=loan.customer_id, loan_id=loan.loan_id)
        quote = self._world.client.credit.GetForeclosureQuote(asked)
        request = pb.RecordPaymentRequest(
            customer_id=loan.customer_id,
            loan_id=loan.loan_id,
            amount=quote.total,
            purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
        )
        response = self._world.client.credit.RecordPayment(request)
        self._world.did("foreclosures")
        return response.loan

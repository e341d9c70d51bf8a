"""Requests of the year: loans, offers, referrals and their reviews."""

from decimal import Decimal

from credit_service.sandbox.agenda import World
from credit_service.sandbox.repaying import Repaying
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, offer_pb2, referral_pb2
from credit_service_client.errors import ServiceError
from credit_service_client.values import percent, rupees

_OFFERED = 0.3
_CHARGED = 0.5
_DECLINED_ARE_ASKED_FOR_LESS = 0.3
_ACCEPTED, _WITHDRAWN = 0.6, 0.15
_REVIEWED, _REVIEW_APPROVES = 0.85, 0.65
_TENURES = (6, 12, 12, 18, 24, 24, 36, 48, 60)
_STEP_RUPEES = 5_000
_GST = Decimal("0.18")


class Lending:
    """Lets customers ask for loans, and people answer."""

    def __init__(self, world: World, repaying: Repaying) -> None:
        self._world = world
        self._repaying = repaying

    def ask(self, customer_id: int, monthly_income: int) -> None:
        """Check a loan, then book or offer it: at the rate of the answer, or despite a decline."""
        borrower = self._world.borrower(customer_id)
        months = borrower.chance.uniform(0.3, 6)
        amount = max(_STEP_RUPEES, int(monthly_income * months) // _STEP_RUPEES * _STEP_RUPEES)
        ask = pb.CheckEligibilityRequest(
            customer_id=customer_id,
            loan_amount=rupees(amount),
            interest_rate=percent(Decimal(borrower.chance.randrange(900, 1700, 25)) / 100),
            tenure_months=borrower.chance.choice(_TENURES),
        )
        if borrower.happens(_CHARGED):
            fee = Decimal(amount) / 100
            tax = (fee * _GST).quantize(Decimal("0.01"))
            ask.charges.add(
                type="PROCESSING_FEE",
                payee=offer_pb2.CHARGE_PAYEE_LENDER,
                amount=rupees(fee),
                tax=rupees(tax),
                timing=offer_pb2.CHARGE_TIMING_UPFRONT,
            )
        try:
            answer = self._world.client.credit.CheckEligibility(ask)
            self._world.did("checks")
            if answer.outcome == decision_pb2.DECISION_OUTCOME_DECLINED:
                if not borrower.happens(_DECLINED_ARE_ASKED_FOR_LESS):
                    return
                if answer.HasField("counter_offer"):
                    ask.loan_amount.CopyFrom(answer.counter_offer.max_loan_amount)
            if answer.HasField("corrected_interest_rate"):
                ask.interest_rate.CopyFrom(answer.corrected_interest_rate)
            if borrower.happens(_OFFERED):
                self._offer(ask)
            else:
                self._book(ask)
        except ServiceError as error:
            self._world.rejected(error)

    def _book(self, ask: pb.CheckEligibilityRequest) -> None:
        request = pb.CreateLoanRequest(
            customer_id=ask.customer_id,
            loan_amount=ask.loan_amount,
            interest_rate=ask.interest_rate,
            tenure_months=ask.tenure_months,
            charges=ask.charges,
        )
        response = self._world.client.credit.CreateLoan(request)
        if response.HasField("loan"):
            self._world.did("loans")
            self._repaying.follow(response.loan)
        self._await_review(ask.customer_id, response)

    def _offer(self, ask: pb.CheckEligibilityRequest) -> None:
        request = pb.CreateLoanOfferRequest(
            customer_id=ask.customer_id,
            loan_amount=ask.loan_amount,
            interest_rate=ask.interest_rate,
            tenure_months=ask.tenure_months,
            charges=ask.charges,
        )
        response = self._world.client.credit.CreateLoanOffer(request)
        if response.HasField("offer"):
            self._await_answer(response.offer)
        self._await_review(ask.customer_id, response)

    def _await_answer(self, offer: offer_pb2.LoanOffer) -> None:
        self._world.did("offers")
        borrower = self._world.borrower(offer.customer_id)
        drawn = borrower.chance.random()
        if drawn < _ACCEPTED:
            day = self._world.agenda.today + borrower.within(1, 3)
            self._world.agenda.add(day, offer.customer_id, lambda: self._accept(offer))
        elif drawn < _ACCEPTED + _WITHDRAWN:
            day = self._world.agenda.today + borrower.within(1, 3)
            self._world.agenda.add(day, offer.customer_id, lambda: self._withdraw(offer))

    def _accept(self, offer: offer_pb2.LoanOffer) -> None:
        request = pb.AcceptLoanOfferRequest(offer_id=offer.offer_id)
        try:
            response = self._world.client.credit.AcceptLoanOffer(request)
        except ServiceError as error:
            self._world.rejected(error)
            return
        self._world.did("accepted offers")
        self._repaying.follow(response.loan)

    def _withdraw(self, offer: offer_pb2.LoanOffer) -> None:
        request = pb.WithdrawLoanOfferRequest(
            offer_id=offer.offer_id, reason="The customer chose another lender."
        )
        try:
            self._world.client.credit.WithdrawLoanOffer(request)
            self._world.did("withdrawn offers")
        except ServiceError as error:
            self._world.rejected(error)

    def _await_review(
        self, customer_id: int, response: pb.CreateLoanResponse | pb.CreateLoanOfferResponse
    ) -> None:
        if response.outcome != decision_pb2.DECISION_OUTCOME_REFERRED:
            return
        self._world.did("referrals")
        borrower = self._world.borrower(customer_id)
        if borrower.happens(_REVIEWED):
            day = self._world.agenda.today + borrower.within(1, 4)
            decision_id = response.decision_id
            self._world.agenda.add(day, customer_id, lambda: self._review(customer_id, decision_id))

    def _review(self, customer_id: int, decision_id: int) -> None:
        approves = self._world.borrower(customer_id).happens(_REVIEW_APPROVES)
        request = pb.ReviewDecisionRequest(
            decision_id=decision_id,
            verdict=referral_pb2.REVIEW_VERDICT_APPROVE
            if approves
            else referral_pb2.REVIEW_VERDICT_DECLINE,
            reason="Paid the arrears after a call; salary slips seen."
            if approves
            else "The employer does not confirm the salary.",
        )
        try:
            response = self._world.client.credit.ReviewDecision(request)
        except ServiceError as error:
            self._world.rejected(error)
            return
        self._world.did("reviews")
        if response.HasField("loan"):
            self._repaying.follow(response.loan)
        if response.HasField("offer"):
            self._await_answer(response.offer)

"""What the acknowledged calls of a campaign stored."""

from collections.abc import Iterator
from typing import Any

from credit_service.v1 import credit_service_pb2 as pb


def effects(method: str, answer: bytes) -> Iterator[tuple[str, Any]]:
    """The kind and the key of each record that an acknowledged call stored."""
    match method:
        case "CreateLoan":
            made = pb.CreateLoanResponse.FromString(answer)
            if made.approved:
                yield "loans", (made.loan.customer_id, made.loan.loan_id)
        case "AcceptLoanOffer":
            loan = pb.AcceptLoanOfferResponse.FromString(answer).loan
            yield "loans", (loan.customer_id, loan.loan_id)
        case "CreateLoanOffer":
            offered = pb.CreateLoanOfferResponse.FromString(answer)
            if offered.approved:
                yield "offers", offered.offer.offer_id
        case "WithdrawLoanOffer":
            yield "withdrawn", pb.WithdrawLoanOfferResponse.FromString(answer).offer.offer_id
        case "ReviewDecision":
            reviewed = pb.ReviewDecisionResponse.FromString(answer)
            # Of an approval the new decision, which names the referred one.
            decision = reviewed.decision
            yield "reviews", decision.reviewed_decision_id or decision.decision_id
            if reviewed.HasField("loan"):
                yield "loans", (reviewed.loan.customer_id, reviewed.loan.loan_id)
            if reviewed.HasField("offer"):
                yield "offers", reviewed.offer.offer_id
        case "UpdateCustomer":
            income = pb.UpdateCustomerResponse.FromString(answer).customer.monthly_income
            yield "updates", income.units * 100 + income.nanos // 10**7
        case "ReversePayment":
            yield "reversals", pb.ReversePaymentResponse.FromString(answer).payment.payment_id
        case _:
            yield "payments", pb.RecordPaymentResponse.FromString(answer).payment.payment_id

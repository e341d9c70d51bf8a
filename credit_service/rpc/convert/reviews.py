"""Convert messages of ReviewDecision."""

from credit_service.commands.review_decision import Review, ReviewDecision
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.domain.referrals import Verdict, validate_reason
from credit_service.rpc.convert import decisions, loans, offers
from credit_service.rpc.convert.fields import Violations, read_id, read_request_id
from credit_service.rpc.convert.referrals import VERDICTS, write_new_referral, write_referral
from credit_service.v1 import credit_service_pb2, referral_pb2

_VERDICTS_BY_NUMBER: dict[int, Verdict] = {number: each for each, number in VERDICTS.items()}


def read_review_decision(request: credit_service_pb2.ReviewDecisionRequest) -> ReviewDecision:
    """The command of a ReviewDecision request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    decision_id = read_id(request.decision_id, "decision_id", violations)
    verdict = _VERDICTS_BY_NUMBER.get(request.verdict)
    if verdict is None and request.verdict == referral_pb2.REVIEW_VERDICT_UNSPECIFIED:
        violations.add("verdict", REQUIRED, "is required: APPROVE or DECLINE.")
    elif verdict is None:
        message = f"must be APPROVE or DECLINE, found {request.verdict}."
        violations.add("verdict", OUT_OF_RANGE, message)
    reason = ""
    try:
        reason = validate_reason(request.reason)
    except InvalidFieldsError as error:
        violations.merge(error)
    violations.raise_if_any()
    return ReviewDecision(request_id, decision_id, verdict or Verdict.DECLINE, reason)


def write_review(review: Review) -> credit_service_pb2.ReviewDecisionResponse:
    """The response of ReviewDecision, built from stored data: the same on every retry."""
    decision, referral = review.decision, review.referral
    # After a review the state of a referral is the same on every day.
    day = referral.last_day
    response = credit_service_pb2.ReviewDecisionResponse(
        decision=decisions.write_decision(decision, day), referral=write_referral(referral, day)
    )
    if review.loan is not None:
        loans.fill_loan(response.loan, review.loan, review.loan.start_date)
    if review.offer is not None:
        response.offer.CopyFrom(offers.write_offer(review.offer, review.offer.created_on))
    if decision.decision_id != referral.decision_id and decision.referral is not None:
        # Referred again. The state of that referral may have changed since the first response.
        response.decision.referral.CopyFrom(write_new_referral(decision.referral))
    return response

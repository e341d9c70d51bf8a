"""Review a referred decision: approve or decline it, once."""

import json
import time
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, exc

from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.create_loan import (
    Approval,
    BookingRequest,
    CreateLoan,
    CreateLoanOffer,
    Made,
    decide_and_book,
    report,
)
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loans import Loan
from credit_service.domain.offers import LoanOffer
from credit_service.domain.referrals import (
    DEFAULT_REVIEW_DAYS,
    Referral,
    ReferralKind,
    ReferralState,
    Verdict,
    not_referred,
    referring_rules,
    require_reviewable,
)
from credit_service.storage import customers, decisions, offers, referrals, requests
from credit_service.storage.database import Database, LostRaceError, constraint_of
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.referrals import ReviewWrite

METHOD = "ReviewDecision"


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """A reviewer's verdict on a referred decision; the reason is valid."""

    request_id: UUID
    decision_id: int
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Review:
    """A stored review: the decision that an approval made, else the referred one, and the loan or
    the offer of that decision, as made."""

    decision: StoredDecision
    referral: Referral
    loan: Loan | None = None
    offer: LoanOffer | None = None


def review_decision(
    database: Database,
    command: ReviewDecision,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
    referral_days: int = DEFAULT_REVIEW_DAYS,
) -> Review:
    """Store the review. An approval decides again, and books or offers an approved loan.

    The new decision uses the customer's current position and the active scorecard, without the
    rules that referred the request. Another rule may refer it again, for `referral_days`. Reviews
    of a customer's decisions run one after the other, with the customer's row locked.

    Raises:
        NotFoundError: DECISION_NOT_FOUND.
        PreconditionFailedError: DECISION_NOT_REFERRED, REFERRAL_ALREADY_REVIEWED, REFERRAL_EXPIRED.
        SelfReviewError: REVIEWER_IS_REQUESTER.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    with database.autocommit() as connection:
        found = decisions.find(connection, command.decision_id)
    if found is None:
        raise NotFoundError("DECISION_NOT_FOUND", "decision", str(command.decision_id))
    customer_id = found.customer_id
    content = fingerprint(command)
    started_at = time.monotonic()

    def attempt(_number: int) -> tuple[Review, Made | None]:
        with database.transaction() as connection:
            customers.lock(connection, customer_id)
            record = requests.find(connection, customer_id, command.request_id)
            if used_before(connection, record, command.request_id, METHOD, content) is not None:
                review = _stored(connection, customer_id, command.decision_id)
                now = customers.find(connection, customer_id)
                version = None if now is None else now.customer.version
                return review, Made(review.decision, None, repeat_version=version)
            referred = decisions.get(connection, customer_id, command.decision_id)
            if referred.referral is None:
                raise not_referred(command.decision_id)
            require_reviewable(referred.referral, principal, moment.today)
            made = None
            if command.verdict is Verdict.APPROVE:
                made = _approve(
                    connection, command, referred, content, moment, principal, referral_days
                )
            else:
                _decline(connection, command, referred.referral, content, moment, principal)
            return _stored(connection, customer_id, command.decision_id), made

    review, made = database.retry(attempt)
    if made is not None:
        report(made, cache, moment, started_at)
    return review


def _approve(
    connection: Connection,
    command: ReviewDecision,
    referred: StoredDecision,
    content: bytes,
    moment: Moment,
    principal: str,
    referral_days: int,
) -> Made:
    """Decide again and store the approval; the new decision has the request's record."""
    referral = referred.referral
    if referral is None:
        raise not_referred(command.decision_id)
    inputs = decode_inputs(referred.inputs_json)
    waived = inputs.waived.union(referring_rules(referred.outcome, inputs.waived))
    made = decide_and_book(
        connection,
        BookingRequest(
            _request(command, referral, inputs.ask, moment.today),
            content,
            moment,
            principal,
            referral_days,
        ),
        lock=True,
        approval=Approval(METHOD, referral.requested_by, waived),
    )
    result_id = made.stored.decision_id
    review = _review(command, referral, principal, ReferralState.APPROVED, result_id)
    if not referrals.approve(connection, review, moment):
        raise LostRaceError("referral")
    return made


def _request(
    command: ReviewDecision, referral: Referral, ask: Ask, today: date
) -> CreateLoan | CreateLoanOffer:
    """Return the referred request. The last day that was requested for an offer is kept while it
    lies ahead."""
    charges, last_day = offers.read_request(referral.offer)
    if referral.kind is ReferralKind.LOAN:
        return CreateLoan(command.request_id, referral.customer_id, ask, charges)
    if last_day is not None and last_day < today:
        last_day = None
    return CreateLoanOffer(command.request_id, referral.customer_id, ask, charges, last_day)


def _decline(
    connection: Connection,
    command: ReviewDecision,
    referral: Referral,
    content: bytes,
    moment: Moment,
    principal: str,
) -> None:
    review = _review(command, referral, principal, ReferralState.DECLINED, None)
    try:
        stored = referrals.decline(connection, review, command.request_id, content, moment)
    except exc.IntegrityError as error:
        if constraint_of(error) == "requests_pkey":
            raise LostRaceError("requests_pkey") from error
        raise
    if not stored:
        raise LostRaceError("referral")


def _review(
    command: ReviewDecision,
    referral: Referral,
    principal: str,
    state: ReferralState,
    result_decision_id: int | None,
) -> ReviewWrite:
    """Return the review to store, with the payload of decision_reviewed."""
    payload = {
        "decision_id": command.decision_id,
        "verdict": command.verdict,
        "result_decision_id": result_decision_id,
    }
    return ReviewWrite(
        customer_id=referral.customer_id,
        decision_id=command.decision_id,
        state=state,
        reviewer=principal,
        reason=command.reason,
        result_decision_id=result_decision_id,
        event_json=json.dumps(payload),
    )


def _stored(connection: Connection, customer_id: int, decision_id: int) -> Review:
    """Return the review of that decision, which must exist."""
    decision = decisions.get(connection, customer_id, decision_id)
    referral = decision.referral
    if referral is None:
        raise LookupError(f"decision {decision_id} has no referral")
    if referral.result_decision_id is not None:
        decision = decisions.get(connection, customer_id, referral.result_decision_id)
    offer = None
    if decision.offer_id is not None:
        offer = offers.get(connection, customer_id, decision.offer_id).as_created()
    charges, _ = offers.read_request(referral.offer)
    return Review(decision, referral, decision.loan_as_booked(charges), offer)


def expire_referrals(database: Database, moment: Moment) -> int:
    """Store that referrals whose last day has passed are EXPIRED, a step of them; return their
    number. Safe to run concurrently."""
    with database.autocommit() as connection:
        return referrals.expire(connection, moment.today)

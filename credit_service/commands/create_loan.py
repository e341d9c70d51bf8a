"""Decide on a loan, and book or offer it, atomically, against the customer's current position.

A loan and an offer take the same path: read, decide, write.
"""

import json
import time
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.grouping import LOST_RACE, GoAloneError, Grouping
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.charges import Charge, require_disbursement
from credit_service.domain.decisions import encode_inputs, encode_outcome
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.offers import LoanOffer, last_day_of
from credit_service.domain.policy_facts import PolicyFacts
from credit_service.domain.positions import CreditPosition, with_booking, with_hold
from credit_service.domain.referrals import (
    DEFAULT_REVIEW_DAYS,
    Referral,
    ReferralKind,
    ReferralState,
    referring_rules,
)
from credit_service.domain.referrals import last_day as last_day_of_review
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scoring import debt_paise
from credit_service.observability import metrics, tracing
from credit_service.storage import (
    bookings,
    customers,
    decisions,
    loans,
    offers,
    policy_facts,
    scorecards,
)
from credit_service.storage.bookings import BookingRead, BookingWrite
from credit_service.storage.database import Database, LostRaceError, lost_race_on
from credit_service.storage.decisions import StoredDecision

_RACE_CONSTRAINTS = frozenset(
    {
        "requests_pkey",
        # An import inserted a loan with the id drawn for this one.
        "loans_pkey",
    }
)
_OFFERS = metrics.loan_offers.labels("created")


@dataclass(frozen=True, slots=True)
class CreateLoan:
    """A loan request to decide on and, if approved, to book."""

    request_id: UUID
    customer_id: int
    ask: Ask
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True, slots=True)
class CreateLoanOffer:
    """A loan request to decide on and, if approved, to offer until `last_day`: None means 3 days
    ahead."""

    request_id: UUID
    customer_id: int
    ask: Ask
    charges: tuple[Charge, ...] = ()
    last_day: date | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A reviewer's approval of a referred request, which decides it again: the method that writes,
    the principal who made the request, and the codes of the rules that no longer refer it."""

    method: str
    requested_by: str
    waived: frozenset[str]


@dataclass(frozen=True, slots=True)
class BookingRequest:
    """A command with what its call adds: the fingerprint of its content, the time, the principal,
    the days for a review, and the `traceparent` of its event in a group."""

    command: CreateLoan | CreateLoanOffer
    content: bytes
    moment: Moment
    principal: str
    referral_days: int
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A stored decision and the offer that it made. `decision` is None if an earlier request with
    the same id made it; `repeat_version` is then the customer's version now. `position_after` is
    set if this one booked a loan or made an offer. A group has written it to the cache."""

    stored: StoredDecision
    offer: LoanOffer | None
    decision: Decision | None = None
    position_after: CreditPosition | None = None
    in_group: bool = False
    repeat_version: int | None = None


BookingGroups = Grouping[BookingRequest, Made]
"""Concurrent calls that decide and write together: see `booking_groups`."""


def create_loan(
    database: Database,
    command: CreateLoan,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
    referral_days: int = DEFAULT_REVIEW_DAYS,
    groups: BookingGroups | None = None,
) -> StoredDecision:
    """Decide, store the decision and book an approved loan; return the stored decision.

    `loan_id` is set if it was approved and booked, `referral` if it was referred: then it can be
    reviewed up to `referral_days` later. Takes two round trips without concurrent writes
    to the customer: a read, and a write guarded by the version that was read. After a lost race it
    retries with the customer's row locked, so that concurrent calls queue instead of colliding.
    Writes the new position to the cache before it returns. With `groups`, which must use the same
    database and cache, concurrent calls share their statements.

    Raises:
        InvalidFieldsError: the charges leave nothing to disburse.
        NotFoundError: CUSTOMER_NOT_FOUND.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    return _create(database, command, moment, principal, cache, referral_days, groups).stored


def create_loan_offer(
    database: Database,
    command: CreateLoanOffer,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
    referral_days: int = DEFAULT_REVIEW_DAYS,
    groups: BookingGroups | None = None,
) -> tuple[StoredDecision, LoanOffer | None]:
    """Decide as `create_loan` does, store the decision, and hold the credit of an approved loan in
    an offer; return the stored decision and the offer as made.

    From this commit on the offer counts in every decision, up to its last day.

    Raises:
        InvalidFieldsError: `last_day` is not 0 to 30 days ahead.
        InvalidFieldsError, NotFoundError, RequestIdReusedError, RetryLaterError: as `create_loan`.
    """
    made = _create(database, command, moment, principal, cache, referral_days, groups)
    return made.stored, made.offer


def _create(
    database: Database,
    command: CreateLoan | CreateLoanOffer,
    moment: Moment,
    principal: str,
    cache: PositionCache | None,
    referral_days: int,
    groups: BookingGroups | None,
) -> Made:
    content = fingerprint(command)
    request = BookingRequest(
        command, content, moment, principal, referral_days, tracing.traceparent()
    )
    started_at = time.monotonic()

    def attempt(number: int) -> Made:
        if groups is not None and number == 0:
            try:
                return groups.submit(request)
            except GoAloneError as error:
                if error.reason == LOST_RACE:
                    raise LostRaceError("version") from error
        return book_alone(database, request, lock=number > 0)

    made = database.retry(attempt)
    if not made.in_group:
        failpoints.reach("create_loan.after_commit")
    report(made, None if made.in_group else cache, moment, started_at)
    return made


def book_alone(database: Database, request: BookingRequest, *, lock: bool) -> Made:
    """Decide and write in statements of this call alone; with `lock`, in a transaction that locks
    the customer. Raises as `decide_and_book`."""
    session = database.transaction() if lock else database.autocommit()
    with session as connection:
        return decide_and_book(connection, request, lock=lock)


def report(made: Made, cache: PositionCache | None, moment: Moment, started_at: float) -> None:
    """Count a new decision in the metrics, and write the new position to the cache. The data was
    read after `started_at`, in seconds of time.monotonic().

    The first call of a repeated request may have ended between its commit and its write to the
    cache: the cache must not keep the position from before.
    """
    if made.decision is not None:
        _count(made.decision)
        if made.offer is not None:
            _OFFERS.inc()
    if cache is None:
        return
    if made.position_after is not None:
        version = made.stored.scorecard_version
        cache.put([made.position_after], version, moment, read_at=started_at)
    elif made.repeat_version is not None:
        cache.outdate([(made.stored.customer_id, made.repeat_version)])


_encode = json.JSONEncoder(default=str).encode
_decisions = lru_cache(maxsize=256)(metrics.decisions.labels)


def _count(decision: Decision) -> None:
    """Count a stored decision in the metrics."""
    if decision.approved:
        stands = decision.corrected_rate_bps == decision.requested_rate_bps
        reason = "RATE_STANDS" if stands else "RATE_CORRECTED"
    else:
        reason = decision.reasons[0].code
    outcome = decision.outcome.lower()
    _decisions(outcome, reason, decision.score.scorecard_version).inc()
    metrics.decision_score.observe(decision.score.score)


def decide_and_book(
    connection: Connection,
    request: BookingRequest,
    *,
    lock: bool,
    approval: Approval | None = None,
) -> Made:
    """Decide and write, or return the result of the first request with this id. `approval` is that
    of a request that was referred before."""
    command, moment = request.command, request.moment
    customer_id = command.customer_id
    if approval is None:
        approval = approval_of(request)
    read = bookings.read(
        connection,
        customer_id,
        command.request_id,
        moment.today,
        lock=lock,
        for_offer=isinstance(command, CreateLoanOffer),
    )
    if read is None:
        raise unknown_customer(customer_id)
    record = used_before(
        connection, read.request, command.request_id, approval.method, request.content
    )
    if record is not None:
        stored = decisions.get(connection, customer_id, record.decision_id or 0)
        offer = None
        if stored.offer_id is not None:
            offer = offers.get(connection, customer_id, stored.offer_id).as_created()
        return Made(stored, offer, repeat_version=read.position.version)

    position = customers.position_on(connection, read.position, moment.today)
    read = replace(read, position=position)
    scorecard = scorecards.get(connection, read.scorecard_version)
    facts = None
    if needs_facts(connection, read, scorecard):
        # If they are of a later version than the position, the write is guarded by that of the
        # position and has no effect.
        facts = policy_facts.read(connection, customer_id, moment.today, moment.zone)
    booking, made = decided(request, read, scorecard, facts, approval)
    failpoints.reach("create_loan.before_write")
    with lost_race_on(_RACE_CONSTRAINTS):
        written = bookings.write(connection, booking, moment)
    if not written:
        raise LostRaceError("version")
    if lock:
        failpoints.reach("create_loan.before_commit")
    return made


def approval_of(request: BookingRequest) -> Approval:
    """Return the approval of a request that was not referred before."""
    return Approval(type(request.command).__name__, request.principal, frozenset())


def unknown_customer(customer_id: int) -> NotFoundError:
    """CUSTOMER_NOT_FOUND."""
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))


def decided(
    request: BookingRequest,
    read: BookingRead,
    scorecard: Scorecard,
    facts: PolicyFacts | None,
    approval: Approval,
) -> tuple[BookingWrite, Made]:
    """Decide; return what to write, and the result once it is written.

    Raises:
        InvalidFieldsError: the charges leave nothing to disburse, or an offer's last day is too far
            ahead.
    """
    command, moment = request.command, request.moment
    position, waived = read.position, approval.waived
    decision = decide(position, command.ask, scorecard, moment.today, waived=waived, facts=facts)
    loan = offer = position_after = None
    require_disbursement(command.ask.principal_paise, command.charges)
    if isinstance(command, CreateLoanOffer):
        last_day = last_day_of(command.last_day, moment.today)
        if decision.approved:
            offer = _offer(command, decision, read, moment, last_day, request.principal)
            position_after = with_hold(position, offer.hold, moment.today)
    elif decision.approved:
        loan = _loan(command, decision, read, moment)
        terms = LoanTerms(loan.principal_paise, loan.annual_rate_bps, loan.tenure_months)
        position_after = with_booking(position, terms, loan.installment_paise, moment.today)
    review_until = last_day_of_review(moment.today, request.referral_days)
    referral = _referral(command, decision, read, approval.requested_by, review_until)
    booking = BookingWrite(
        read=read,
        method=approval.method,
        request_id=command.request_id,
        fingerprint=request.content,
        inputs_json=encode_inputs(
            position, command.ask, moment.today, scorecard, waived=waived, facts=facts
        ),
        outcome_json=encode_outcome(decision),
        event_json=_event(command, decision, read.decision_id, loan, offer, referral, waived),
        principal=request.principal,
        loan=loan,
        position_after=position_after,
        offer=offer,
        referred=decision.referred,
        repaid_paise=position.current_debt_paise - debt_paise(position, scorecard, facts),
        referral=referral,
    )
    stored = _stored(booking, command, moment, decision)
    return booking, Made(stored, offer, decision, position_after)


def needs_facts(connection: Connection, read: BookingRead, scorecard: Scorecard) -> bool:
    """Return whether the policy of the active or the shadow scorecard needs facts of the customer.

    A shadow scorecard decides later from the stored inputs.
    """
    if scorecard.needs_facts:
        return True
    shadow = read.shadow_version
    return shadow is not None and scorecards.get(connection, shadow).needs_facts


def _loan(command: CreateLoan, decision: Decision, read: BookingRead, moment: Moment) -> Loan:
    ask = command.ask
    return book(
        LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months),
        decision.installment_paise,
        loan_id=read.new_id,
        customer_id=command.customer_id,
        day=moment.today,
        decision_id=read.decision_id,
        charges=command.charges,
    )


def _offer(
    command: CreateLoanOffer,
    decision: Decision,
    read: BookingRead,
    moment: Moment,
    last_day: date,
    principal: str,
) -> LoanOffer:
    return LoanOffer(
        customer_id=command.customer_id,
        offer_id=read.new_id,
        decision_id=read.decision_id,
        principal_paise=command.ask.principal_paise,
        annual_rate_bps=decision.corrected_rate_bps,
        tenure_months=command.ask.tenure_months,
        installment_paise=decision.installment_paise,
        charges=command.charges,
        created_at=moment.now,
        created_on=moment.today,
        last_day=last_day,
        principal=principal,
    )


def _referral(
    command: CreateLoan | CreateLoanOffer,
    decision: Decision,
    read: BookingRead,
    requested_by: str,
    last_day: date,
) -> Referral | None:
    """Return the review that a referred decision waits for; None for another decision."""
    if not decision.referred:
        return None
    kind, offer = ReferralKind.LOAN, None
    if isinstance(command, CreateLoanOffer):
        kind = ReferralKind.OFFER
        offer = offers.request_json(command.charges, command.last_day)
    elif command.charges:
        offer = offers.request_json(command.charges, None)
    return Referral(
        command.customer_id,
        read.decision_id,
        kind,
        requested_by,
        last_day,
        ReferralState.PENDING,
        offer=offer,
    )


def _event(
    command: CreateLoan | CreateLoanOffer,
    decision: Decision,
    decision_id: int,
    loan: Loan | None,
    offer: LoanOffer | None,
    referral: Referral | None,
    waived: frozenset[str],
) -> str:
    """Return the payload of loan_created, loan_offer_created, decision_referred or
    loan_declined."""
    payload: dict[str, object] = {"decision_id": decision_id}
    if loan is not None:
        payload["loan"] = loans.event_fields(loan)
    elif offer is not None:
        payload["offer"] = offers.event_fields(offer)
    elif referral is not None:
        payload["kind"] = referral.kind
        payload["ask"] = _ask_fields(command.ask)
        payload["rule_codes"] = referring_rules(decision, waived)
        payload["last_day"] = referral.last_day
    else:
        payload["ask"] = _ask_fields(command.ask)
        payload["reasons"] = [reason.code for reason in decision.reasons]
    return _encode(payload)


def _ask_fields(ask: Ask) -> dict[str, object]:
    return {name: getattr(ask, name) for name in ask.__slots__}


def _stored(
    booking: BookingWrite,
    command: CreateLoan | CreateLoanOffer,
    moment: Moment,
    decision: Decision,
) -> StoredDecision:
    return StoredDecision(
        customer_id=command.customer_id,
        decision_id=booking.read.decision_id,
        request_id=command.request_id,
        decided_at=moment.now,
        decided_on=moment.today,
        approved=decision.approved,
        loan_id=None if booking.loan is None else booking.loan.loan_id,
        customer_version=booking.read.position.version,
        scorecard_version=booking.read.scorecard_version,
        inputs_json=booking.inputs_json,
        outcome_json=booking.outcome_json,
        principal=booking.principal,
        offer_id=None if booking.offer is None else booking.offer.offer_id,
        referral=booking.referral,
        decided=decision,
    )

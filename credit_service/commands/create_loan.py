"""Decide on a loan and book it atomically, against the customer's current position."""

import json
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, exc

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.decisions import encode_inputs, encode_outcome
from credit_service.domain.eligibility import Ask, Decision, decide
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.positions import CreditPosition, with_booking
from credit_service.observability import metrics
from credit_service.storage import bookings, customers, decisions, scorecards
from credit_service.storage.bookings import BookingRead, BookingWrite
from credit_service.storage.database import Database, LostRaceError, constraint_of
from credit_service.storage.decisions import StoredDecision

_METHOD = "CreateLoan"
_RACE_CONSTRAINTS = frozenset(
    {
        "requests_pkey",
        # An import inserted a loan with the id drawn for this one.
        "loans_pkey",
    }
)


@dataclass(frozen=True, slots=True)
class CreateLoan:
    """A loan request to decide on and, if approved, to book."""

    request_id: UUID
    customer_id: int
    ask: Ask


def create_loan(
    database: Database,
    command: CreateLoan,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> StoredDecision:
    """Decide, store the decision and book an approved loan; return the stored decision.

    `loan_id` is set if it was approved and booked. Takes two round trips without concurrent writes
    to the customer: a read, and a write guarded by the version that was read. After a lost race it
    retries with the customer's row locked, so that concurrent calls queue instead of colliding.
    Writes the new position to the cache before it returns.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    content = fingerprint(command)
    started_at = time.monotonic()

    def attempt(number: int) -> tuple[StoredDecision, Decision | None, CreditPosition | None]:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            return _decide_and_book(
                connection, command, content, moment, principal, lock=number > 0
            )

    stored, decision, position_after = database.retry(attempt)
    failpoints.reach("create_loan.after_commit")
    if decision is not None:
        _count(decision)
    if cache is not None and position_after is not None:
        cache.put([position_after], stored.scorecard_version, moment, read_at=started_at)
    return stored


_encode = json.JSONEncoder(default=str).encode
_decisions = lru_cache(maxsize=256)(metrics.decisions.labels)


def _count(decision: Decision) -> None:
    """Count a stored decision in the metrics."""
    if decision.approved:
        stands = decision.corrected_rate_bps == decision.requested_rate_bps
        reason = "RATE_STANDS" if stands else "RATE_CORRECTED"
    else:
        reason = decision.reasons[0].code
    outcome = "approved" if decision.approved else "declined"
    _decisions(outcome, reason, decision.score.scorecard_version).inc()
    metrics.decision_score.observe(decision.score.score)


def _decide_and_book(
    connection: Connection,
    command: CreateLoan,
    content: bytes,
    moment: Moment,
    principal: str,
    *,
    lock: bool,
) -> tuple[StoredDecision, Decision | None, CreditPosition | None]:
    """Return the stored decision; for a new one also the decision, and for a booked loan the
    position after it."""
    read = bookings.read(connection, command.customer_id, command.request_id, lock=lock)
    if read is None:
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(command.customer_id))
    record = used_before(connection, read.request, command.request_id, _METHOD, content)
    if record is not None:
        stored = decisions.get(connection, command.customer_id, record.decision_id or 0)
        return stored, None, None

    position = customers.position_on(connection, read.position, moment.today)
    read = replace(read, position=position)
    scorecard = scorecards.get(connection, read.scorecard_version)
    decision = decide(position, command.ask, scorecard, moment.today)
    loan = position_after = None
    if decision.approved:
        loan = _loan(command, decision, read, moment)
        terms = LoanTerms(loan.principal_paise, loan.annual_rate_bps, loan.tenure_months)
        position_after = with_booking(position, terms, loan.installment_paise, moment.today)
    booking = BookingWrite(
        read=read,
        request_id=command.request_id,
        fingerprint=content,
        inputs_json=encode_inputs(position, command.ask, moment.today, scorecard.version),
        outcome_json=encode_outcome(decision),
        event_json=_event(command, decision, read.decision_id, loan),
        principal=principal,
        loan=loan,
        position_after=position_after,
    )
    failpoints.reach("create_loan.before_write")
    try:
        written = bookings.write(connection, booking, moment)
    except exc.IntegrityError as error:
        if constraint_of(error) in _RACE_CONSTRAINTS:
            raise LostRaceError(constraint_of(error)) from error
        raise
    if not written:
        raise LostRaceError("version")
    if lock:
        failpoints.reach("create_loan.before_commit")
    return _stored(booking, command, moment, decision), decision, position_after


def _loan(command: CreateLoan, decision: Decision, read: BookingRead, moment: Moment) -> Loan:
    ask = command.ask
    return book(
        LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months),
        decision.installment_paise,
        loan_id=read.loan_id,
        customer_id=command.customer_id,
        day=moment.today,
        decision_id=read.decision_id,
    )


def _event(command: CreateLoan, decision: Decision, decision_id: int, loan: Loan | None) -> str:
    """Return the payload of loan_created or loan_declined."""
    payload: dict[str, object] = {"decision_id": decision_id}
    if loan is not None:
        payload["loan"] = _fields(loan)
    else:
        payload["ask"] = _fields(command.ask)
        payload["reasons"] = [reason.code for reason in decision.reasons]
    return _encode(payload)


def _fields(value: Loan | Ask) -> dict[str, object]:
    """Return the fields by name. (dataclasses.asdict copies each one and takes ten times as
    long.)"""
    return {name: getattr(value, name) for name in value.__slots__}


def _stored(
    booking: BookingWrite, command: CreateLoan, moment: Moment, decision: Decision
) -> StoredDecision:
    return StoredDecision(
        customer_id=command.customer_id,
        decision_id=booking.read.decision_id,
        request_id=command.request_id,
        decided_at=moment.now,
        decided_on=moment.today,
        approved=booking.loan is not None,
        loan_id=None if booking.loan is None else booking.loan.loan_id,
        customer_version=booking.read.position.version,
        scorecard_version=booking.read.scorecard_version,
        inputs_json=booking.inputs_json,
        outcome_json=booking.outcome_json,
        principal=booking.principal,
        decided=decision,
    )

"""Record a payment on a loan: settle installments in order, and close the loan after the last."""

import time
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, exc

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loans import Loan, unknown_loan
from credit_service.domain.payments import apply_payment, outstanding_paise
from credit_service.domain.positions import CreditPosition, is_valid_on, with_loan, with_payment
from credit_service.storage import payments, positions, scorecards
from credit_service.storage.database import Database, LostRaceError, constraint_of
from credit_service.storage.payments import PaymentWrite, StoredPayment

_METHOD = "RecordPayment"
_RACE_CONSTRAINTS = frozenset({"requests_pkey", "payments_pkey"})


@dataclass(frozen=True, slots=True)
class RecordPayment:
    """A payment to record; `paid_on` None means today."""

    request_id: UUID
    customer_id: int
    loan_id: int
    amount_paise: int
    paid_on: date | None


@dataclass(frozen=True, slots=True)
class RecordedPayment:
    """The payment, and the loan right after it."""

    payment: StoredPayment
    loan: Loan


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A response; for a new payment with the position after it."""

    answer: RecordedPayment
    scorecard_version: str
    position_after: CreditPosition | None


def record_payment(
    database: Database,
    command: RecordPayment,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> RecordedPayment:
    """Store the payment and its effects atomically, guarded by the customer's version.

    Writes the new position to the cache before it returns.

    Raises:
        NotFoundError: LOAN_NOT_FOUND, CUSTOMER_NOT_FOUND.
        PreconditionFailedError: the rules of `domain.payments.apply_payment`.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    content = fingerprint(command)

    started_at = time.monotonic()

    def attempt(number: int) -> _Recorded:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            return _record(connection, command, content, moment, principal, lock=number > 0)

    recorded = database.retry(attempt)
    failpoints.reach("record_payment.after_commit")
    if cache is not None and recorded.position_after is not None:
        cache.put([recorded.position_after], recorded.scorecard_version, moment, read_at=started_at)
    return recorded.answer


def _record(
    connection: Connection,
    command: RecordPayment,
    content: bytes,
    moment: Moment,
    principal: str,
    *,
    lock: bool,
) -> _Recorded:
    """Record the payment, or return the result of the first request with this id."""
    read = payments.read(
        connection,
        command.customer_id,
        command.loan_id,
        command.request_id,
        moment.today,
        lock=lock,
    )
    if read is None:
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(command.customer_id))
    record = used_before(connection, read.request, command.request_id, _METHOD, content)
    if record is not None:
        answer = _as_recorded(connection, command, record.payment_number or 0)
        return _Recorded(answer, "", None)
    before = read.loan
    if before is None:
        raise unknown_loan(command.customer_id, command.loan_id)

    scorecard = scorecards.get(connection, read.scorecard_version)
    paid_on = command.paid_on or moment.today
    outcome = apply_payment(
        before, command.amount_paise, paid_on, moment.today, scorecard.grace_days
    )
    after = outcome.loan_after
    position = read.position
    payment = PaymentWrite(
        request_id=command.request_id,
        fingerprint=content,
        amount_paise=command.amount_paise,
        paid_on=paid_on,
        outcome=outcome,
        outstanding_paise=outstanding_paise(after),
        read_version=position.version,
        position_after=_position_after(connection, position, before, after, moment.today),
        principal=principal,
    )
    failpoints.reach("record_payment.before_write")
    try:
        stored = payments.write(connection, payment, moment)
    except exc.IntegrityError as error:
        if constraint_of(error) in _RACE_CONSTRAINTS:
            raise LostRaceError(constraint_of(error)) from error
        raise
    if stored is None:
        raise LostRaceError("version")
    if lock:
        failpoints.reach("record_payment.before_commit")
    answer = RecordedPayment(stored, after)
    return _Recorded(answer, scorecard.version, payment.position_after)


def _position_after(
    connection: Connection, position: CreditPosition, before: Loan, after: Loan, day: date
) -> CreditPosition:
    """Return the position after the payment. The cost grows with the customer's other loans only if
    the stored position is outdated, or the loan closed and its next due date was the position's
    first change."""
    if is_valid_on(position, day):
        moved = with_payment(position, before, after, day)
        if moved is not None:
            return moved
    # A concurrent write changes the customer's version, so that the guarded write fails.
    others = positions.of_other_loans(connection, position, before.loan_id, day)
    return with_loan(others, after, day)


def _as_recorded(
    connection: Connection, command: RecordPayment, payment_number: int
) -> RecordedPayment:
    """Return the first response to the payment, although the loan may have changed since."""
    loan, made = payments.with_loan(connection, command.customer_id, command.loan_id)
    until, later = made[:payment_number], made[payment_number:]
    payment = until[-1]
    then = replace(
        loan,
        installments_settled=loan.installments_settled
        - sum(len(each.settled_numbers) for each in later),
        emis_paid_on_time=loan.emis_paid_on_time - sum(each.on_time_count for each in later),
        paid_paise=sum(each.amount_paise for each in until),
        last_paid_on=payment.paid_on,
        closed_on=payment.paid_on if payment.closed_loan else None,
    )
    return RecordedPayment(payment, then)

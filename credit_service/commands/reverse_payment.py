"""Reverse a payment: the loan becomes what it would be without it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands import moved_arrears
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.commands.record_payment import position_after
from credit_service.domain.delinquency import ClassChange
from credit_service.domain.errors import NotFoundError, PreconditionFailedError
from credit_service.domain.loan_replay import LoanAccount, replay
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.payments import ReversalReason, outstanding_paise
from credit_service.domain.positions import CreditPosition
from credit_service.observability import metrics
from credit_service.storage import payments
from credit_service.storage.database import Database, LostRaceError, lost_race_on
from credit_service.storage.payments import (
    LoanWrite,
    PaymentKey,
    PaymentRead,
    ReversalWrite,
    StoredPayment,
)

_METHOD = "ReversePayment"
_RACE_CONSTRAINTS = frozenset(
    {
        "requests_pkey",
        "payment_reversals_pkey",
        "payment_reversals_customer_id_loan_id_reversal_number_key",
    }
)


@dataclass(frozen=True, slots=True)
class ReversePayment:
    """Reverse a payment."""

    request_id: UUID
    payment_id: int
    reason: ReversalReason


@dataclass(frozen=True, slots=True)
class ReversedPayment:
    """The payment with its reversal, and the loan right after it."""

    payment: StoredPayment
    loan: Loan


@dataclass(frozen=True, slots=True)
class _Reversed:
    """A response; for a new reversal with the position after it."""

    answer: ReversedPayment
    scorecard_version: str = ""
    position_after: CreditPosition | None = None
    class_changes: Sequence[ClassChange] = ()


def reverse_payment(
    database: Database,
    command: ReversePayment,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> ReversedPayment:
    """Store the reversal and its effects atomically, guarded by the customer's version.

    Writes the new position to the cache before it returns.

    Raises:
        NotFoundError: PAYMENT_NOT_FOUND.
        PreconditionFailedError: PAYMENT_ALREADY_REVERSED.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    with database.autocommit() as connection:
        key = payments.find(connection, command.payment_id)
    if key is None:
        raise NotFoundError("PAYMENT_NOT_FOUND", "payment", str(command.payment_id))
    content = fingerprint(command)
    started_at = time.monotonic()

    def attempt(number: int) -> _Reversed:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            return _reverse(connection, command, key, content, moment, principal, lock=number > 0)

    done = database.retry(attempt)
    failpoints.reach("reverse_payment.after_commit")
    for each in done.class_changes:
        metrics.asset_class_changes.labels(each.current.name).inc()
    if cache is not None and done.position_after is not None:
        cache.put([done.position_after], done.scorecard_version, moment, read_at=started_at)
    return done.answer


def _reverse(
    connection: Connection,
    command: ReversePayment,
    key: PaymentKey,
    content: bytes,
    moment: Moment,
    principal: str,
    *,
    lock: bool,
) -> _Reversed:
    """Reverse the payment, or return the result of the first request with this id."""
    read = payments.read(
        connection, key.customer_id, key.loan_id, command.request_id, moment.today, lock=lock
    )
    # If the loan has changed since the read, so has the customer's version, and the guarded write
    # fails.
    history = payments.history(connection, key.customer_id, key.loan_id)
    if read is None or history is None:
        raise NotFoundError("PAYMENT_NOT_FOUND", "payment", str(command.payment_id))
    payment = history.payment(key.payment_number)
    reversal = payment.reversal
    if used_before(connection, read.request, command.request_id, _METHOD, content):
        if reversal is None:
            # The record was read after the payments were.
            raise LostRaceError("version")
        return _Reversed(ReversedPayment(payment, history.after_reversal(reversal).loan))
    history.raise_if_used(command.request_id)
    if reversal is not None:
        raise _already_reversed(payment)
    account = replay(history.loan, history.facts_without(key.payment_number))
    after = account.loan
    effects = _effects(connection, command, content, moment, principal, read, history.loan, account)
    reversing = ReversalWrite(
        effects,
        payment,
        reversal_number=history.last_reversal_number + 1,
        last_payment_number=history.last_payment_number,
        reason=command.reason,
        reopened=history.loan.state is LoanState.CLOSED and after.state is LoanState.ACTIVE,
    )
    failpoints.reach("reverse_payment.before_write")
    with lost_race_on(_RACE_CONSTRAINTS):
        stored = payments.reverse(connection, reversing, moment)
    if stored is None:
        raise LostRaceError("version")
    if lock:
        failpoints.reach("reverse_payment.before_commit")
    return _Reversed(
        ReversedPayment(stored, after),
        read.scorecard_version,
        effects.position_after,
        effects.class_changes,
    )


def _effects(
    connection: Connection,
    command: ReversePayment,
    content: bytes,
    moment: Moment,
    principal: str,
    read: PaymentRead,
    before: Loan,
    account: LoanAccount,
) -> LoanWrite:
    after, day = account.loan, moment.today
    moved, changes = moved_arrears.moved(
        read,
        position_after(connection, read.position, before, after, day),
        moved_arrears.after_replay(connection, after, account.settlements, day),
        day,
    )
    return LoanWrite(
        request_id=command.request_id,
        fingerprint=content,
        principal=principal,
        read_version=read.position.version,
        position_after=moved,
        loan_after=after,
        outstanding_paise=outstanding_paise(after),
        announced_class=read.announced_class,
        class_changes=changes,
        is_replayed=True,
    )


def _already_reversed(payment: StoredPayment) -> PreconditionFailedError:
    """PAYMENT_ALREADY_REVERSED."""
    return PreconditionFailedError(
        "PAYMENT_ALREADY_REVERSED",
        f"Payment {payment.payment_id} was reversed before.",
        subject=f"payments/{payment.payment_id}",
        metadata={
            "customer_id": str(payment.customer_id),
            "loan_id": str(payment.loan_id),
            "payment_id": str(payment.payment_id),
        },
    )

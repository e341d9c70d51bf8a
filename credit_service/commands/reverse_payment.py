"""Reverse a payment: the loan becomes what it would be without it."""

import time
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands import loan_changes
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.commands.loan_changes import Request
from credit_service.domain.errors import NotFoundError, PreconditionFailedError
from credit_service.domain.loan_replay import LoanAccount, replay
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.payments import ReversalReason
from credit_service.observability import tracing
from credit_service.storage import arrears, payment_writes, payments
from credit_service.storage.database import Database, LostRaceError, lost_race_on
from credit_service.storage.payment_writes import LoanWrite, PaymentRead, ReversalWrite
from credit_service.storage.payments import PaymentKey, StoredPayment

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
    """A response; for a new reversal with what was written, for a repeat with the customer's
    version now."""

    answer: ReversedPayment
    written: LoanWrite | None = None
    repeat_version: int | None = None


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
    request = Request(
        command.request_id, fingerprint(command), principal, moment, tracing.traceparent()
    )
    started_at = time.monotonic()

    def attempt(number: int) -> _Reversed:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            return _reverse(connection, command, key, request, lock=number > 0)

    done = database.retry(attempt)
    failpoints.reach("reverse_payment.after_commit")
    if done.written is not None:
        loan_changes.report([done.written], cache, read_at=started_at)
    elif cache is not None and done.repeat_version is not None:
        cache.outdate([(key.customer_id, done.repeat_version)])
    return done.answer


def _reverse(
    connection: Connection,
    command: ReversePayment,
    key: PaymentKey,
    request: Request,
    *,
    lock: bool,
) -> _Reversed:
    """Reverse the payment, or return the result of the first request with this id."""
    today = request.moment.today
    read = payment_writes.read(
        connection, key.customer_id, key.loan_id, command.request_id, today, lock=lock
    )
    # If the loan has changed since the read, so has the customer's version, and the guarded write
    # fails.
    history = payments.history(connection, key.customer_id, key.loan_id)
    if read is None or history is None:
        raise NotFoundError("PAYMENT_NOT_FOUND", "payment", str(command.payment_id))
    payment = history.payment(key.payment_number)
    reversal = payment.reversal
    if used_before(connection, read.request, command.request_id, _METHOD, request.content):
        if reversal is None:
            # The record was read after the payments were.
            raise LostRaceError("version")
        first = ReversedPayment(payment, history.after_reversal(reversal).loan)
        return _Reversed(first, repeat_version=read.position.version)
    history.raise_if_used(command.request_id)
    if reversal is not None:
        raise _already_reversed(payment)
    account = replay(history.loan, history.facts_without(key.payment_number))
    after = account.loan
    written = _written(connection, request, read, history.loan, account)
    reversing = ReversalWrite(
        written,
        payment,
        reversal_number=history.last_reversal_number + 1,
        last_payment_number=history.last_payment_number,
        reason=command.reason,
        reopened=history.loan.state is LoanState.CLOSED and after.state is LoanState.ACTIVE,
    )
    failpoints.reach("reverse_payment.before_write")
    with lost_race_on(_RACE_CONSTRAINTS):
        stored = payment_writes.reverse(connection, reversing)
    if stored is None:
        raise LostRaceError("version")
    if lock:
        failpoints.reach("reverse_payment.before_commit")
    return _Reversed(ReversedPayment(stored, after), written)


def _written(
    connection: Connection, request: Request, read: PaymentRead, before: Loan, account: LoanAccount
) -> LoanWrite:
    after, day = account.loan, request.moment.today
    return loan_changes.loan_write(
        request,
        read,
        after,
        loan_changes.position_after(connection, read.position, before, after, day),
        arrears.with_loan(connection, after, day, settlements=account.settlements),
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

"""Record a payment on a loan: installments, a part prepayment or a foreclosure, on any day.

A payment for installments that is in order of the days takes two statements. Every other payment
also reads the loan's payments, and the loan is computed from all of them.
"""

import time
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands import loan_changes
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.commands.loan_changes import Request
from credit_service.domain import payment_recording
from credit_service.domain.delinquency import Arrears, Settlement
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loan_replay import LoanAccount, PaymentFact
from credit_service.domain.loans import Loan, unknown_loan
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, apply_payment
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import Scorecard
from credit_service.observability import tracing
from credit_service.storage import arrears, decisions, payment_writes, payments, scorecards
from credit_service.storage.database import Database, LostRaceError, lost_race_on
from credit_service.storage.payment_writes import LoanWrite, PaymentRead, PaymentWrite
from credit_service.storage.payments import LoanHistory, StoredPayment

_METHOD = "RecordPayment"
_RACE_CONSTRAINTS = frozenset({"requests_pkey", "payments_pkey"})


@dataclass(frozen=True, slots=True)
class RecordPayment:
    """A payment to record; `paid_on` None means today. `effect` is None unless it is a part
    prepayment. With `validate_only` nothing is stored."""

    request_id: UUID
    customer_id: int
    loan_id: int
    amount_paise: int
    paid_on: date | None
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
    effect: PrepaymentEffect | None = None
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class RecordedPayment:
    """The payment, and the loan right after it. `account` is None after a payment for installments
    in order of the days: then the loan alone says what it settled. A payment that was only
    validated has id 0. `has_schedule` says whether the caller gets the installments that are
    left."""

    payment: StoredPayment
    loan: Loan
    account: LoanAccount | None = None
    prepaid_principal_paise: int = 0
    has_schedule: bool = False


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A response; for a new payment with what was written."""

    answer: RecordedPayment
    scorecard_version: str = ""
    written: LoanWrite | None = None


@dataclass(frozen=True, slots=True)
class _Effects:
    """What a payment does: the loan after it, and what of that is its own."""

    loan_after: Loan
    settled_numbers: range
    on_time_count: int
    charge_paise: int = 0
    prepaid_principal_paise: int = 0
    account: LoanAccount | None = None

    def settlement(self, paid_on: date) -> Settlement | None:
        """What a payment of that day settled; None if it settled no installment."""
        numbers = self.settled_numbers
        return Settlement(numbers[0], len(numbers), paid_on) if numbers else None


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
        PreconditionFailedError: the rules of `domain.payments.apply_payment` and of
            `domain.payment_recording.record_payment`.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    request = Request(
        command.request_id, fingerprint(command), principal, moment, tracing.traceparent()
    )
    started_at = time.monotonic()

    def attempt(number: int) -> _Recorded:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            return _record(connection, command, request, lock=number > 0)

    recorded = database.retry(attempt)
    if command.validate_only:
        return recorded.answer
    failpoints.reach("record_payment.after_commit")
    if recorded.written is not None:
        loan_changes.report(recorded.written, recorded.scorecard_version, cache, read_at=started_at)
    return recorded.answer


def _record(
    connection: Connection, command: RecordPayment, request: Request, *, lock: bool
) -> _Recorded:
    """Record the payment, or return the result of the first request with this id."""
    today = request.moment.today
    read = payment_writes.read(
        connection, command.customer_id, command.loan_id, command.request_id, today, lock=lock
    )
    if read is None:
        raise _unknown_customer(command)
    if not command.validate_only:
        content = request.content
        record = used_before(connection, read.request, command.request_id, _METHOD, content)
        if record is not None:
            return _Recorded(_as_recorded(connection, command, record.payment_number or 0))
    before = _loan(command, read)
    scorecard = scorecards.get(connection, read.scorecard_version)
    paid_on = command.paid_on or today
    if _is_in_order(command, before, paid_on):
        effects = _applied(before, command, paid_on, today, scorecard)
        arrears_after = loan_changes.arrears_after(
            connection, read, effects.loan_after, effects.settlement(paid_on), today
        )
    else:
        # If the loan has changed since it was read, so has the customer's version, and the guarded
        # write fails.
        history = _history(connection, command.customer_id, command.loan_id)
        if not command.validate_only:
            history.raise_if_used(command.request_id)
        before = history.loan
        charge_bps = 0
        if command.purpose is PaymentPurpose.FORECLOSURE:
            charging = decisions.scorecard_of_loan(connection, before, scorecard)
            charge_bps = charging.prepayment_charge_bps
        account, effects = _replayed(
            history, command, paid_on, today, scorecard.grace_days, charge_bps
        )
        if command.validate_only:
            return _Recorded(_validated(command, paid_on, request, effects))
        arrears_after = arrears.with_loan(
            connection, account.loan, today, settlements=account.settlements
        )
    position = loan_changes.position_after(
        connection, read.position, before, effects.loan_after, today
    )
    payment = _payment_write(
        command, request, read, paid_on, effects, position, arrears_after, scorecard
    )
    failpoints.reach("record_payment.before_write")
    stored = _store(connection, payment)
    if lock:
        failpoints.reach("record_payment.before_commit")
    return _Recorded(_answer(command, stored, effects), scorecard.version, payment.effects)


def _unknown_customer(command: RecordPayment) -> NotFoundError:
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(command.customer_id))


def _loan(command: RecordPayment, read: PaymentRead) -> Loan:
    if read.loan is None:
        raise unknown_loan(command.customer_id, command.loan_id)
    return read.loan


def _is_in_order(command: RecordPayment, loan: Loan, paid_on: date) -> bool:
    """Return whether the loan after the payment follows from the loan alone."""
    return (
        command.purpose is PaymentPurpose.INSTALLMENTS
        and (loan.last_paid_on is None or paid_on >= loan.last_paid_on)
        and not command.validate_only
    )


def _applied(
    loan: Loan, command: RecordPayment, paid_on: date, today: date, scorecard: Scorecard
) -> _Effects:
    outcome = apply_payment(loan, command.amount_paise, paid_on, today, scorecard.grace_days)
    return _Effects(
        outcome.loan_after,
        range(loan.installments_settled + 1, outcome.loan_after.installments_settled + 1),
        len(outcome.on_time_numbers),
    )


def _replayed(
    history: LoanHistory,
    command: RecordPayment,
    paid_on: date,
    today: date,
    grace_days: int,
    charge_bps: int,
) -> tuple[LoanAccount, _Effects]:
    fact = PaymentFact(
        payment_number=history.last_payment_number + 1,
        amount_paise=command.amount_paise,
        paid_on=paid_on,
        purpose=command.purpose,
        effect=command.effect,
        grace_days=grace_days,
    )
    recording = payment_recording.record_payment(
        history.loan, history.facts(), fact, today, charge_bps
    )
    applied, account = recording.applied, recording.account
    return account, _Effects(
        account.loan,
        applied.settled_numbers,
        applied.on_time_count,
        applied.fact.charge_paise,
        applied.prepaid_principal_paise,
        account,
    )


def _payment_write(
    command: RecordPayment,
    request: Request,
    read: PaymentRead,
    paid_on: date,
    effects: _Effects,
    position_after: CreditPosition,
    arrears_after: Arrears,
    scorecard: Scorecard,
) -> PaymentWrite:
    written = loan_changes.loan_write(
        request,
        read,
        effects.loan_after,
        position_after,
        arrears_after,
        is_replayed=effects.account is not None,
    )
    return PaymentWrite(
        written,
        amount_paise=command.amount_paise,
        paid_on=paid_on,
        settled_numbers=effects.settled_numbers,
        on_time_count=effects.on_time_count,
        grace_days=scorecard.grace_days,
        purpose=command.purpose,
        effect=command.effect,
        charge_paise=effects.charge_paise,
        prepaid_principal_paise=effects.prepaid_principal_paise,
    )


def _store(connection: Connection, payment: PaymentWrite) -> StoredPayment:
    """Store the payment. Raises LostRaceError if a concurrent request changed the customer."""
    with lost_race_on(_RACE_CONSTRAINTS):
        stored = payment_writes.write(connection, payment)
    if stored is None:
        raise LostRaceError("version")
    return stored


def _answer(command: RecordPayment, stored: StoredPayment, effects: _Effects) -> RecordedPayment:
    return RecordedPayment(
        stored,
        effects.loan_after,
        effects.account,
        effects.prepaid_principal_paise,
        command.validate_only or command.purpose is PaymentPurpose.PART_PREPAYMENT,
    )


def _validated(
    command: RecordPayment, paid_on: date, request: Request, effects: _Effects
) -> RecordedPayment:
    """Return the response of a payment that is not stored."""
    payment = StoredPayment(
        customer_id=command.customer_id,
        loan_id=command.loan_id,
        payment_number=0,
        payment_id=0,
        request_id=command.request_id,
        amount_paise=command.amount_paise,
        paid_on=paid_on,
        recorded_at=request.moment.now,
        settled_numbers=effects.settled_numbers,
        on_time_count=effects.on_time_count,
        closed_loan=effects.loan_after.closed_on is not None,
        principal=request.principal,
        purpose=command.purpose,
        effect=command.effect,
        charge_paise=effects.charge_paise,
    )
    return _answer(command, payment, effects)


def _as_recorded(
    connection: Connection, command: RecordPayment, payment_number: int
) -> RecordedPayment:
    """Return the first response to the payment, although the loan may have changed since."""
    history = _history(connection, command.customer_id, command.loan_id)
    account = history.after_payment(payment_number)
    payment = history.payment(payment_number)
    prepaid = account.applied_payment(payment_number).prepaid_principal_paise
    effects = _Effects(
        account.loan,
        payment.settled_numbers,
        payment.on_time_count,
        payment.charge_paise,
        prepaid,
        account,
    )
    # A later reversal was not in the first response.
    return _answer(command, replace(payment, reversal=None), effects)


def _history(connection: Connection, customer_id: int, loan_id: int) -> LoanHistory:
    found = payments.history(connection, customer_id, loan_id)
    if found is None:
        raise unknown_loan(customer_id, loan_id)
    return found

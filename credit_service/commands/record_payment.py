"""Record a payment on a loan: installments, a part prepayment or a foreclosure, on any day.

A payment for installments that is in order of the days takes two statements, which concurrent ones
can share: `payment_groups`. Every other payment also reads the loan's payments, and the loan is
computed from all of them.
"""

import time
from dataclasses import dataclass, replace
from datetime import date
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands import loan_changes
from credit_service.commands.grouping import LOST_RACE, GoAloneError, Grouping
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
from credit_service.storage import (
    arrears,
    decisions,
    payment_writes,
    payments,
    scorecards,
)
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
class Recorded:
    """A response; for a new payment with what was written, unless its group has reported it; for a
    repeat with the customer's version now."""

    answer: RecordedPayment
    written: LoanWrite | None = None
    repeat_version: int | None = None


@dataclass(frozen=True, slots=True)
class Effects:
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


class PaymentCall(NamedTuple):
    """A call of RecordPayment."""

    command: RecordPayment
    request: Request

    @property
    def customer_id(self) -> int:
        """The customer whose loan is paid."""
        return self.command.customer_id

    @property
    def paid_on(self) -> date:
        """The day of the payment."""
        return self.command.paid_on or self.request.moment.today

    @property
    def may_be_in_order(self) -> bool:
        """Whether the loan after the payment may follow from the loan alone."""
        command = self.command
        return command.purpose is PaymentPurpose.INSTALLMENTS and not command.validate_only

    def is_in_order(self, loan: Loan) -> bool:
        """Whether the loan after the payment follows from the loan alone."""
        last = loan.last_paid_on
        return self.may_be_in_order and (last is None or self.paid_on >= last)


PaymentGroups = Grouping[PaymentCall, Recorded]
"""Groups of calls with payments that may be in order of the days."""


def record_payment(
    database: Database,
    command: RecordPayment,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
    groups: PaymentGroups | None = None,
) -> RecordedPayment:
    """Store the payment and its effects atomically, guarded by the customer's version.

    With `groups`, payments in order of the days share statements with concurrent ones of other
    customers. Writes the new position to the cache before it returns.

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
    call = PaymentCall(command, request)
    started_at = time.monotonic()

    def attempt(number: int) -> Recorded:
        if groups is not None and number == 0 and call.may_be_in_order:
            try:
                return groups.submit(call)
            except GoAloneError as error:
                if error.reason == LOST_RACE:
                    raise LostRaceError("version") from error
        return record_alone(database, call, lock=number > 0)

    recorded = database.retry(attempt)
    if command.validate_only:
        return recorded.answer
    failpoints.reach("record_payment.after_commit")
    if recorded.written is not None:
        loan_changes.report([recorded.written], cache, read_at=started_at)
    elif cache is not None and recorded.repeat_version is not None:
        cache.outdate([(command.customer_id, recorded.repeat_version)])
    return recorded.answer


def record_alone(database: Database, call: PaymentCall, *, lock: bool) -> Recorded:
    """Record the payment in statements of this call alone; with `lock`, in a transaction that locks
    the customer. Raises as `record_payment`, and LostRaceError."""
    session = database.transaction() if lock else database.autocommit()
    with session as connection:
        return record(connection, call, lock=lock)


def record(connection: Connection, call: PaymentCall, *, lock: bool) -> Recorded:
    """Record the payment, or return the result of the first request with this id."""
    command, request = call
    today = request.moment.today
    read = payment_writes.read(
        connection, command.customer_id, command.loan_id, command.request_id, today, lock=lock
    )
    if read is None:
        raise unknown_customer(call)
    if not command.validate_only:
        content = request.content
        earlier = used_before(connection, read.request, command.request_id, _METHOD, content)
        if earlier is not None:
            first = _as_recorded(connection, command, earlier.payment_number or 0)
            return Recorded(first, repeat_version=read.position.version)
    before = _loan(call, read)
    scorecard = scorecards.get(connection, read.scorecard_version)
    paid_on = call.paid_on
    if call.is_in_order(before):
        effects = _applied(before, call, scorecard)
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
        account, effects = _replayed(history, call, scorecard.grace_days, charge_bps)
        if command.validate_only:
            return Recorded(_validated(call, effects))
        arrears_after = arrears.with_loan(
            connection, account.loan, today, settlements=account.settlements
        )
    position = loan_changes.position_after(
        connection, read.position, before, effects.loan_after, today
    )
    payment = _payment_write(call, read, effects, position, arrears_after, scorecard)
    failpoints.reach("record_payment.before_write")
    stored = _store(connection, payment)
    if lock:
        failpoints.reach("record_payment.before_commit")
    return Recorded(answer(command, stored, effects), payment.effects)


def in_order(
    call: PaymentCall, read: PaymentRead, scorecard: Scorecard
) -> tuple[PaymentWrite, Effects] | None:
    """Return what to write for a payment in order of the days, and what it does; None where the
    customer's other loans or payments must be read.

    Raises:
        NotFoundError, PreconditionFailedError: as `record_payment`.
    """
    before, today = _loan(call, read), call.request.moment.today
    if not call.is_in_order(before):
        return None
    effects = _applied(before, call, scorecard)
    after = effects.loan_after
    position = loan_changes.known_position_after(read.position, before, after, today)
    arrears_after = loan_changes.known_arrears_after(read, after, today)
    if position is None or arrears_after is None:
        return None
    return _payment_write(call, read, effects, position, arrears_after, scorecard), effects


def unknown_customer(call: PaymentCall) -> NotFoundError:
    """CUSTOMER_NOT_FOUND."""
    return NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(call.customer_id))


def _loan(call: PaymentCall, read: PaymentRead) -> Loan:
    if read.loan is None:
        raise unknown_loan(call.customer_id, call.command.loan_id)
    return read.loan


def _applied(loan: Loan, call: PaymentCall, scorecard: Scorecard) -> Effects:
    today = call.request.moment.today
    outcome = apply_payment(
        loan, call.command.amount_paise, call.paid_on, today, scorecard.grace_days
    )
    return Effects(
        outcome.loan_after,
        range(loan.installments_settled + 1, outcome.loan_after.installments_settled + 1),
        len(outcome.on_time_numbers),
    )


def _replayed(
    history: LoanHistory, call: PaymentCall, grace_days: int, charge_bps: int
) -> tuple[LoanAccount, Effects]:
    command = call.command
    fact = PaymentFact(
        payment_number=history.last_payment_number + 1,
        amount_paise=command.amount_paise,
        paid_on=call.paid_on,
        purpose=command.purpose,
        effect=command.effect,
        grace_days=grace_days,
    )
    recording = payment_recording.record_payment(
        history.loan, history.facts(), fact, call.request.moment.today, charge_bps
    )
    applied, account = recording.applied, recording.account
    return account, Effects(
        account.loan,
        applied.settled_numbers,
        applied.on_time_count,
        applied.fact.charge_paise,
        applied.prepaid_principal_paise,
        account,
    )


def _payment_write(
    call: PaymentCall,
    read: PaymentRead,
    effects: Effects,
    position_after: CreditPosition,
    arrears_after: Arrears,
    scorecard: Scorecard,
) -> PaymentWrite:
    command = call.command
    written = loan_changes.loan_write(
        call.request,
        read,
        effects.loan_after,
        position_after,
        arrears_after,
        is_replayed=effects.account is not None,
    )
    return PaymentWrite(
        written,
        amount_paise=command.amount_paise,
        paid_on=call.paid_on,
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


def answer(command: RecordPayment, stored: StoredPayment, effects: Effects) -> RecordedPayment:
    """Return the response to a payment."""
    return RecordedPayment(
        stored,
        effects.loan_after,
        effects.account,
        effects.prepaid_principal_paise,
        command.validate_only or command.purpose is PaymentPurpose.PART_PREPAYMENT,
    )


def _validated(call: PaymentCall, effects: Effects) -> RecordedPayment:
    """Return the response of a payment that is not stored."""
    command, request = call
    payment = StoredPayment(
        customer_id=command.customer_id,
        loan_id=command.loan_id,
        payment_number=0,
        payment_id=0,
        request_id=command.request_id,
        amount_paise=command.amount_paise,
        paid_on=call.paid_on,
        recorded_at=request.moment.now,
        settled_numbers=effects.settled_numbers,
        on_time_count=effects.on_time_count,
        closed_loan=effects.loan_after.closed_on is not None,
        principal=request.principal,
        purpose=command.purpose,
        effect=command.effect,
        charge_paise=effects.charge_paise,
    )
    return answer(command, payment, effects)


def _as_recorded(
    connection: Connection, command: RecordPayment, payment_number: int
) -> RecordedPayment:
    """Return the first response to the payment, although the loan may have changed since."""
    history = _history(connection, command.customer_id, command.loan_id)
    account = history.after_payment(payment_number)
    payment = history.payment(payment_number)
    prepaid = account.applied_payment(payment_number).prepaid_principal_paise
    effects = Effects(
        account.loan,
        payment.settled_numbers,
        payment.on_time_count,
        payment.charge_paise,
        prepaid,
        account,
    )
    # A later reversal was not in the first response.
    return answer(command, replace(payment, reversal=None), effects)


def _history(connection: Connection, customer_id: int, loan_id: int) -> LoanHistory:
    found = payments.history(connection, customer_id, loan_id)
    if found is None:
        raise unknown_loan(customer_id, loan_id)
    return found

"""Removes one guard at a time, to check that the campaign detects it: tests/faults/controls.py.

The processes under test load this through PYTHONPATH and sabotage/sitecustomize.py before any
module of the service. The product contains none of it.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from credit_service import postgresql_url
from credit_service.cache import positions as cache
from credit_service.clock import Moment
from credit_service.commands import create_loan as booking_command
from credit_service.commands import loan_changes
from credit_service.commands import record_payment as payment_command
from credit_service.commands import review_decision as review_command
from credit_service.commands.record_payment import PaymentCall
from credit_service.domain.loans import Loan
from credit_service.domain.payments import PaymentPurpose
from credit_service.domain.positions import CreditPosition
from credit_service.ingestion import batches
from credit_service.ingestion.batches import OnMoved
from credit_service.ingestion.frames import Batch
from credit_service.storage import (
    bookings,
    committed_rows,
    event_stream,
    grouped_bookings,
    grouped_payments,
    payment_writes,
    referrals,
    reverts,
)
from credit_service.storage import database as storage
from credit_service.storage.bookings import BookingWrite
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.statements import Statement

_here = threading.local()


def _without(statement: Statement, part: str, instead: str = "") -> Statement:
    if part not in statement.text:
        raise ValueError(f"the statement has no {part!r}")
    return Statement(statement.text.replace(part, instead))


def _version_guard() -> None:
    """Writes no longer check the version of the position."""
    guard = " AND version = :read_version"
    bookings.WRITE_APPROVED = _without(bookings.WRITE_APPROVED, guard)
    bookings.WRITE_DECLINED = _without(bookings.WRITE_DECLINED, guard)
    payment_writes._WRITE = _without(payment_writes._WRITE, guard)
    for alias in ("g", "k"):
        of_row = f" AND version = {alias}.read_version"
        grouped_payments.WRITE = _without(grouped_payments.WRITE, of_row)
    _group_guard()


def _group_guard() -> None:
    """The write of a group of bookings no longer checks the versions of the positions."""
    guard = " AND c.version = g.read_version"
    grouped_bookings.WRITE = _without(grouped_bookings.WRITE, guard)


def _reversal_guard() -> None:
    """Prepayments, backdated payments and reversals no longer check the version of the position."""
    guard = " AND version = :read_version"
    payment_writes._REVERSE = _without(payment_writes._REVERSE, guard)
    payment_writes._WRITE_REPLAYED = _without(payment_writes._WRITE_REPLAYED, guard)


def _backdated_replay() -> None:
    """A backdated payment is recorded as if it were the last one."""

    def may_be(self: PaymentCall, loan: Loan) -> bool:
        return self.may_be_in_order

    PaymentCall.is_in_order = may_be  # type: ignore[method-assign]
    apply = payment_command.apply_payment  # type: ignore[attr-defined]  # imported there

    def apply_as_last(loan: Loan, *given: Any) -> Any:
        # It would reject a day before the last payment.
        return apply(replace(loan, last_paid_on=None), *given)

    payment_command.apply_payment = apply_as_last  # type: ignore[assignment, attr-defined]


def _prepayment_replay() -> None:
    """A part prepayment is recorded as a payment for installments."""
    _record_as_installments(PaymentPurpose.PART_PREPAYMENT)


def _foreclosure_replay() -> None:
    """A foreclosure is recorded as a payment for installments."""
    _record_as_installments(PaymentPurpose.FORECLOSURE)


def _record_as_installments(purpose: PaymentPurpose) -> None:
    original = PaymentCall.is_in_order

    def is_in_order(self: PaymentCall, loan: Loan) -> bool:
        command = self.command
        if command.purpose is purpose and not command.validate_only:
            return loan.last_paid_on is None or self.paid_on >= loan.last_paid_on
        return original(self, loan)

    PaymentCall.is_in_order = is_in_order  # type: ignore[method-assign]


def _class_events() -> None:
    """A payment or a reversal announces no change of class."""
    loan_changes.class_changes = lambda *_: []  # type: ignore[attr-defined]  # imported there


def _one_review() -> None:
    """A review no longer checks that the referral waits for one; `prepare` drops the last guard."""
    review_command.require_reviewable = lambda *_: None  # type: ignore[attr-defined]
    for name in ("APPROVE", "DECLINE"):
        guard = " AND state = 'PENDING'\n            AND last_day >= :today"
        setattr(referrals, name, _without(getattr(referrals, name), guard))


def _revert_guard() -> None:
    """A revert no longer checks whether loans were approved since."""
    guard = "AND approved GROUP"
    if guard not in reverts._LAST_APPROVALS:
        raise ValueError(f"the statement has no {guard!r}")
    reverts._LAST_APPROVALS = reverts._LAST_APPROVALS.replace(guard, "AND false GROUP")


def _request_key() -> None:
    """Request ids are no longer unique: `prepare` drops the key; the processes are unchanged."""


_LATE_EVENT = text(
    """WITH c AS (
        UPDATE customers SET event_seq = event_seq + 1 WHERE customer_id = :customer_id
        RETURNING event_seq
    )
    INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload)
    SELECT :customer_id, event_seq, :kind, :version, :now, CAST(:payload AS json) FROM c"""
)


def _outbox() -> None:
    """A booking's event is written after the booking, in a separate transaction."""

    def unannounced(statement: Statement, step: str, instead: str) -> Statement:
        silent = _without(statement, step, instead).text
        return Statement(re.sub(r"\), e AS \(.*?\), r AS \(", "), r AS (", silent, flags=re.DOTALL))

    bookings.WRITE_APPROVED = unannounced(bookings.WRITE_APPROVED, "event_seq = event_seq + 1,", "")
    bookings.WRITE_DECLINED = unannounced(
        bookings.WRITE_DECLINED, "event_seq = event_seq + 1", "event_seq = event_seq"
    )
    write, create = bookings.write, booking_command.create_loan

    def remembering(connection: Connection, booking: BookingWrite, moment: Moment) -> bool:
        written = write(connection, booking, moment)
        _here.booking = (booking, moment) if written else None
        return written

    def announcing(database: Database, *arguments: Any, **options: Any) -> Any:
        _here.booking = None
        stored = create(database, *arguments, **options)
        if _here.booking is not None:
            booking, moment = _here.booking
            approved = booking.loan is not None
            values = {
                "customer_id": booking.read.position.customer_id,
                "kind": "loan_created" if approved else "loan_declined",
                "version": booking.read.position.version + (1 if approved else 0),
                "now": moment.now,
                "payload": booking.event_json,
            }
            with database.transaction() as connection:
                connection.execute(_LATE_EVENT, values)
        return stored

    bookings.write = remembering
    booking_command.create_loan = announcing


def _offset_check() -> None:
    """Every batch is accepted, regardless of the committed offset."""
    commit, locked = batches.commit_batch, batches.locked

    def unchecked(
        database: Database,
        ingestion_id: UUID,
        offset: int,
        row_count: int,
        validated: Callable[[Ingestion], Batch],
        moment: Moment,
        on_moved: OnMoved | None,
    ) -> Ingestion:
        _here.offset = offset
        try:
            return commit(database, ingestion_id, offset, row_count, validated, moment, on_moved)
        finally:
            _here.offset = None

    def as_expected(connection: Connection, ingestion_id: UUID) -> Ingestion:
        ingestion = locked(connection, ingestion_id)
        offset = getattr(_here, "offset", None)
        return ingestion if offset is None else replace(ingestion, committed_offset=offset)

    # The batch's position is not checked either.
    committed_rows._ADD_BATCH += " ON CONFLICT DO NOTHING"
    batches.commit_batch = unchecked
    batches.locked = as_expected


def _cache_compare() -> None:
    """The cache accepts every write, regardless of its version."""
    guard = "version > tonumber(ARGV[1])"
    if guard not in cache._COMPARE_AND_SET:
        raise ValueError(f"the script has no {guard!r}")
    cache._COMPARE_AND_SET = cache._COMPARE_AND_SET.replace(guard, "false")


def _sequencer_lock() -> None:
    """Relays number events at the same time."""
    event_stream._LOCK = text("SELECT CAST(:key AS bigint) IS NOT NULL")


SYNCHRONOUS_STANDBY = "synchronous-standby"


def _held_credit() -> None:
    """Decisions leave out the credit that offers hold; `prepare` drops the last guards."""
    decide = booking_command.decide  # type: ignore[attr-defined]  # imported there

    def blind(position: CreditPosition, *given: Any, **named: Any) -> Any:
        seen = replace(position, held_principal_paise=0, held_installments_paise=0)
        return decide(seen, *given, **named)

    booking_command.decide = blind  # type: ignore[attr-defined]  # imported there


def _synchronous_standby() -> None:
    """No commit waits for the standby: `stack.running` configures that; the processes are
    unchanged."""


def _writable_server() -> None:
    """A connection to any server of the URL is good, even to one that accepts no writes."""
    original = postgresql_url.for_sqlalchemy
    guard = "&target_session_attrs=read-write"

    def any_server(url: str) -> str:
        required = original(url)
        if guard not in required:
            raise ValueError(f"the URL has no {guard!r}")
        return required.replace(guard, "")

    postgresql_url.for_sqlalchemy = any_server


def _read_only_drop() -> None:
    """A connection to a server that has become read-only stays in the pool."""
    is_fatal = storage._is_fatal
    storage._is_fatal = lambda error: error.sqlstate != "25006" and is_fatal(error)
    Database.renew = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "version-guard": _version_guard,
    "group-guard": _group_guard,
    "reversal-guard": _reversal_guard,
    "backdated-replay": _backdated_replay,
    "prepayment-replay": _prepayment_replay,
    "foreclosure-replay": _foreclosure_replay,
    "class-events": _class_events,
    "one-review": _one_review,
    "revert-guard": _revert_guard,
    "request-key": _request_key,
    "outbox": _outbox,
    "offset-check": _offset_check,
    "cache-compare": _cache_compare,
    "sequencer-lock": _sequencer_lock,
    "held-credit": _held_credit,
    SYNCHRONOUS_STANDBY: _synchronous_standby,
    "writable-server": _writable_server,
    "read-only-drop": _read_only_drop,
}
"""Functions that each remove a guard from the current process."""


def prepare(sabotage: str, database_url: str) -> None:
    """Change the database for a sabotage, before the processes start."""
    if sabotage == "request-key":
        with psycopg.connect(database_url) as connection:
            connection.execute("ALTER TABLE requests DROP CONSTRAINT requests_pkey")
            connection.execute("CREATE INDEX requests_request_id_idx ON requests (request_id)")
    if sabotage == "one-review":
        with psycopg.connect(database_url) as connection:
            connection.execute("DROP TRIGGER referrals_reviewed_once ON referrals")
    if sabotage == "held-credit":
        with psycopg.connect(database_url) as connection:
            for table, check in (
                ("loans", "loans_booked_within_limit_check"),
                ("loan_offers", "loan_offers_held_within_limit_check"),
            ):
                connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {check}")

"""The two statements of CreateLoan: one reads everything a decision needs, one writes its effects.

The write is guarded by the version that was read. It either moves the customer from that version to
the next with decision, loan, request record and event, or does nothing.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.loans import Loan
from credit_service.domain.positions import CreditPosition
from credit_service.observability import tracing
from credit_service.storage import cluster, customers, requests
from credit_service.storage.statements import Statement

_IDS = "nextval('decision_ids'), nextval('loan_ids')"


def _read(columns: str) -> Statement:
    return Statement(
        f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, s.version{columns}
    FROM customers c
    LEFT JOIN scorecards s ON s.state = 'ACTIVE'
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = :request_id
    WHERE c.customer_id = :customer_id
"""
    )


READ = _read(f", {_IDS}")
# On a cluster: the coordinator has the sequences, and another node the customer.
_READ_WITHOUT_IDS = _read("")
_DRAW_IDS = Statement(f"SELECT {_IDS}")

_REQUESTS_AT = customers.POSITION_COLUMN_COUNT
_REST_AT = _REQUESTS_AT + requests.COLUMN_COUNT


@dataclass(frozen=True, slots=True)
class BookingRead:
    """The inputs of a decision on a loan, read at one instant.

    The read draws the ids, so that the write needs no round trip for what refers to them. A decline
    or a lost race leaves a gap.
    """

    position: CreditPosition
    request: requests.RequestRecord | None
    scorecard_version: str
    decision_id: int
    loan_id: int


def read(
    connection: Connection, customer_id: int, request_id: UUID, *, lock: bool
) -> BookingRead | None:
    """Return the customer's position, the request's record and new ids; None for an unknown
    customer.

    With `lock`, other writers of this customer wait until the transaction ends.
    """
    if lock:
        customers.lock(connection, customer_id)
    values = {"customer_id": customer_id, "request_id": request_id}
    if cluster.is_distributed(connection):
        row = _READ_WITHOUT_IDS.row(connection, values)
        ids = _DRAW_IDS.row(connection, {})
        row = None if row is None or ids is None else row + ids
    else:
        row = READ.row(connection, values)
    if row is None:
        return None
    return BookingRead(
        customers.position(row), requests.record(row[_REQUESTS_AT:_REST_AT]), *row[_REST_AT:]
    )


_WRITE_COMMON = """
    d AS (
        INSERT INTO decisions (customer_id, decision_id, request_id, decided_at, decided_on,
            approved, loan_id, customer_version, scorecard_version, inputs, outcome, principal)
        SELECT customer_id, :decision_id, :request_id, :now, :today, :approved, :loan_id,
            :read_version, :scorecard_version, CAST(:inputs AS json), CAST(:outcome AS json),
            :principal
        FROM c
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, :event_kind, version, :now, CAST(:event AS json),
            CAST(:traceparent AS text)
        FROM c
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, decision_id,
            created_at, principal)
        SELECT :request_id, 'CreateLoan', :fingerprint, customer_id, :decision_id, :now,
            :principal
        FROM c
    )
"""

# Debt, installments, count and total change relative to the row; what depends on the day is set.
WRITE_APPROVED = Statement(
    f"""
    WITH c AS (
        UPDATE customers SET
            version = version + 1,
            event_seq = event_seq + 1,
            current_debt_paise = current_debt_paise + :principal_paise,
            current_installments_paise = current_installments_paise + :installment_paise,
            loan_count = loan_count + 1,
            total_principal_paise = total_principal_paise + :principal_paise,
            emis_due = :emis_due,
            current_year_loans = :current_year_loans,
            position_as_of = :today,
            position_valid_until = :valid_until
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq, current_debt_paise, approved_limit_paise
    ), {_WRITE_COMMON}, l AS (
        INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, start_date, end_date, imported, decision_id,
            debt_at_booking_paise, limit_at_booking_paise)
        SELECT customer_id, :loan_id, :principal_paise, :annual_rate_bps, :tenure_months,
            :installment_paise, :today, :end_date, false, :decision_id, current_debt_paise,
            approved_limit_paise
        FROM c
    )
    SELECT count(*) FROM c
    """
)
WRITE_DECLINED = Statement(
    f"""
    WITH c AS (
        UPDATE customers SET event_seq = event_seq + 1
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq
    ), {_WRITE_COMMON}
    SELECT count(*) FROM c
    """
)


@dataclass(frozen=True, slots=True)
class BookingWrite:
    """A decision to store; for an approval with the loan and the position after it."""

    read: BookingRead
    request_id: UUID
    fingerprint: bytes
    inputs_json: str
    outcome_json: str
    event_json: str
    principal: str
    loan: Loan | None
    position_after: CreditPosition | None


def write(connection: Connection, booking: BookingWrite, moment: Moment) -> bool:
    """Store the decision; return False if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id, or if the loan would exceed
    the customer's limit, which only a defect elsewhere can cause.
    """
    values: dict[str, Any] = {
        "customer_id": booking.read.position.customer_id,
        "read_version": booking.read.position.version,
        "scorecard_version": booking.read.scorecard_version,
        "decision_id": booking.read.decision_id,
        "request_id": booking.request_id,
        "fingerprint": booking.fingerprint,
        "inputs": booking.inputs_json,
        "outcome": booking.outcome_json,
        "event": booking.event_json,
        "principal": booking.principal,
        "traceparent": tracing.traceparent(),
        "now": moment.now,
        "today": moment.today,
    }
    if booking.loan is None or booking.position_after is None:
        values |= {"approved": False, "loan_id": None, "event_kind": "loan_declined"}
        return WRITE_DECLINED.row(connection, values) == (1,)
    values |= {"approved": True, "event_kind": "loan_created"}
    values |= _loan_values(booking.loan) | _position_values(booking.position_after)
    return WRITE_APPROVED.row(connection, values) == (1,)


def _loan_values(loan: Loan) -> dict[str, int | date]:
    return {
        "loan_id": loan.loan_id,
        "principal_paise": loan.principal_paise,
        "annual_rate_bps": loan.annual_rate_bps,
        "tenure_months": loan.tenure_months,
        "installment_paise": loan.installment_paise,
        "end_date": loan.end_date,
    }


def _position_values(position: CreditPosition) -> dict[str, int | date]:
    return {
        "emis_due": position.emis_due,
        "current_year_loans": position.current_year_loans,
        "valid_until": position.valid_until,
    }

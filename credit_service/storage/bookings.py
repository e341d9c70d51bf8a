"""The two statements of CreateLoan and CreateLoanOffer: one reads everything a decision needs, one
writes its effects.

The write is guarded by the version that was read. It either moves the customer from that version to
the next with decision, loan or offer, request record and event, or does nothing.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.loans import Loan
from credit_service.domain.offers import LoanOffer
from credit_service.domain.positions import CreditPosition
from credit_service.domain.referrals import Referral
from credit_service.observability import tracing
from credit_service.storage import (
    charges,
    cluster,
    customers,
    offers,
    referrals,
    requests,
    scorecards,
)
from credit_service.storage.statements import Statement

_LOAN_IDS = "nextval('decision_ids'), nextval('loan_ids')"
_OFFER_IDS = "nextval('decision_ids'), nextval('offer_ids')"


def _read(columns: str) -> Statement:
    return Statement(
        f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION},
        t.version AS shadow_version{columns}
    FROM customers c
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN scorecards t ON t.state = 'SHADOW'
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = :request_id
    WHERE c.customer_id = :customer_id
"""
    )


READ = _read(f", {_LOAN_IDS}")
READ_FOR_OFFER = _read(f", {_OFFER_IDS}")
# On a cluster: the coordinator has the sequences, and another node the customer.
_READ_WITHOUT_IDS = _read("")
_DRAW_LOAN_IDS = Statement(f"SELECT {_LOAN_IDS}")
_DRAW_OFFER_IDS = Statement(f"SELECT {_OFFER_IDS}")

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
    # Of the scorecard that decides in addition without effect, if any.
    shadow_version: str | None
    decision_id: int
    # Of a loan, or of an offer.
    new_id: int


def read(
    connection: Connection,
    customer_id: int,
    request_id: UUID,
    day: date,
    *,
    lock: bool,
    for_offer: bool = False,
) -> BookingRead | None:
    """Return the customer's position, the request's record, the version of the scorecard that
    decides on `day`, and new ids; None for an unknown customer.

    With `lock`, other writers of this customer wait until the transaction ends.
    """
    if lock:
        customers.lock(connection, customer_id)
    values = {"customer_id": customer_id, "request_id": request_id, "today": day}
    if cluster.is_distributed(connection):
        row = _READ_WITHOUT_IDS.row(connection, values)
        ids = (_DRAW_OFFER_IDS if for_offer else _DRAW_LOAN_IDS).row(connection, {})
        row = None if row is None or ids is None else row + ids
    else:
        row = (READ_FOR_OFFER if for_offer else READ).row(connection, values)
    return None if row is None else booking_read(row)


def booking_read(row: Any) -> BookingRead:
    """Return the read from its row."""
    return BookingRead(
        customers.position(row), requests.record(row[_REQUESTS_AT:_REST_AT]), *row[_REST_AT:]
    )


_WRITE_COMMON = """
    d AS (
        INSERT INTO decisions (customer_id, decision_id, request_id, decided_at, decided_on,
            approved, referred, loan_id, offer_id, customer_version, scorecard_version, inputs,
            outcome, principal)
        SELECT customer_id, :decision_id, :request_id, :now, :today, :approved, :referred,
            :loan_id, :offer_id, :read_version, :scorecard_version, CAST(:inputs AS json),
            CAST(:outcome AS json), :principal
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
        SELECT :request_id, :method, :fingerprint, customer_id, :decision_id, :now,
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
            position_valid_until = :valid_until,
            held_principal_paise = :held_principal_paise,
            held_installments_paise = :held_installments_paise,
            held_valid_until = :held_valid_until,
            {customers.SET_ARREARS}
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq, current_debt_paise, approved_limit_paise,
            held_principal_paise
    ), {_WRITE_COMMON}, l AS (
        INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, start_date, end_date, imported, decision_id,
            debt_at_booking_paise, limit_at_booking_paise, held_at_booking_paise, charges)
        SELECT customer_id, :loan_id, :principal_paise, :annual_rate_bps, :tenure_months,
            :installment_paise, :today, :end_date, false, :decision_id,
            current_debt_paise - :repaid_paise, approved_limit_paise, held_principal_paise,
            CAST(:charges AS json)
        FROM c
    )
    SELECT count(*) FROM c
    """
)
WRITE_OFFER = Statement(
    f"""
    WITH c AS (
        UPDATE customers SET
            version = version + 1,
            event_seq = event_seq + 1,
            emis_due = :emis_due,
            current_year_loans = :current_year_loans,
            position_as_of = :today,
            position_valid_until = :loans_valid_until,
            held_principal_paise = :held_principal_paise,
            held_installments_paise = :held_installments_paise,
            held_valid_until = :held_valid_until,
            {customers.SET_ARREARS}
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq,
            current_debt_paise + held_principal_paise AS used_paise, approved_limit_paise
    ), {_WRITE_COMMON}, o AS (
        INSERT INTO loan_offers (customer_id, offer_id, decision_id, principal_paise,
            annual_rate_bps, tenure_months, installment_paise, charges, created_at, created_on,
            last_day, principal, used_at_offer_paise, limit_at_offer_paise)
        SELECT customer_id, :offer_id, :decision_id, :principal_paise, :annual_rate_bps,
            :tenure_months, :installment_paise, CAST(:charges AS json), :now, :today, :last_day,
            :principal, used_paise - :repaid_paise, approved_limit_paise
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
WRITE_REFERRED = Statement(
    f"""
    WITH c AS (
        UPDATE customers SET event_seq = event_seq + 1
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq
    ), {_WRITE_COMMON}, f AS ({referrals.INSERT}
    )
    SELECT count(*) FROM c
    """
)


@dataclass(frozen=True, slots=True)
class BookingWrite:
    """A decision to store; for an approval with the loan or the offer, and the position after
    it, and for a referral with its review.

    `repaid_paise` is the part of the current debt that does not count against the limit, because
    the scorecard counts the principal outstanding.
    """

    read: BookingRead
    method: str
    request_id: UUID
    fingerprint: bytes
    inputs_json: str
    outcome_json: str
    event_json: str
    principal: str
    loan: Loan | None
    position_after: CreditPosition | None
    offer: LoanOffer | None = None
    referred: bool = False
    repaid_paise: int = 0
    referral: Referral | None = None


def write(connection: Connection, booking: BookingWrite, moment: Moment) -> bool:
    """Store the decision; return False if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id, or if the loan or offer would
    exceed the customer's limit, which only a defect elsewhere can cause.
    """
    given = values(booking)
    given |= {"traceparent": tracing.traceparent(), "now": moment.now, "today": moment.today}
    if booking.loan is not None:
        statement = WRITE_APPROVED
    elif booking.offer is not None:
        statement = WRITE_OFFER
    elif booking.referral is not None:
        statement = WRITE_REFERRED
    else:
        statement = WRITE_DECLINED
    return statement.row(connection, given) == (1,)


def values(booking: BookingWrite) -> dict[str, Any]:
    """Return the parameters of the booking's statement, except its time and its `traceparent`."""
    found: dict[str, Any] = {
        "customer_id": booking.read.position.customer_id,
        "read_version": booking.read.position.version,
        "scorecard_version": booking.read.scorecard_version,
        "decision_id": booking.read.decision_id,
        "referred": booking.referred,
        "loan_id": None,
        "offer_id": None,
        "method": booking.method,
        "request_id": booking.request_id,
        "fingerprint": booking.fingerprint,
        "inputs": booking.inputs_json,
        "outcome": booking.outcome_json,
        "event": booking.event_json,
        "principal": booking.principal,
    }
    after = booking.position_after
    if after is not None and booking.loan is not None:
        found |= {"approved": True, "event_kind": "loan_created"}
        found |= _loan_values(booking.loan) | _position_values(after)
        found["repaid_paise"] = booking.repaid_paise
    elif after is not None and booking.offer is not None:
        found |= {"approved": True, "event_kind": "loan_offer_created"}
        found |= offers.values(booking.offer) | _position_values(after)
        found["repaid_paise"] = booking.repaid_paise
        # That of the loans alone, which servers of the previous release compare with the loans.
        found["loans_valid_until"] = booking.read.position.valid_until
    elif booking.referral is not None:
        found |= {"approved": False, "event_kind": "decision_referred"}
        found |= referrals.values(booking.referral)
    else:
        found |= {"approved": False, "event_kind": "loan_declined"}
    return found


def _loan_values(loan: Loan) -> dict[str, int | date | str | None]:
    return {
        "loan_id": loan.loan_id,
        "principal_paise": loan.principal_paise,
        "annual_rate_bps": loan.annual_rate_bps,
        "tenure_months": loan.tenure_months,
        "installment_paise": loan.installment_paise,
        "end_date": loan.end_date,
        "charges": charges.text(loan.charges),
    }


def _position_values(position: CreditPosition) -> dict[str, int | date | None]:
    return {
        **customers.held_values(position),
        **customers.arrears_values(position),
        "emis_due": position.emis_due,
        "current_year_loans": position.current_year_loans,
        "valid_until": position.valid_until,
    }

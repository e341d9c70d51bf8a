"""The two statements of a group of CreateLoan and CreateLoanOffer, for several customers at once.

They read and write what those of `bookings` do for one customer: the rows are the same. The write
is one transaction, but each customer's rows are guarded by the version that was read from it. A
customer whose version has changed, or whose row another transaction has locked, is left out.
So no group waits for a lock of a customer, and two groups cannot wait for each other.
"""

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.storage import bookings, customers, requests, scorecards
from credit_service.storage.bookings import BookingRead, BookingWrite
from credit_service.storage.columns import Columns
from credit_service.storage.statements import Statement


class Asked(NamedTuple):
    """What to read for a call."""

    customer_id: int
    request_id: UUID
    for_offer: bool


class Decided(NamedTuple):
    """What to write for a call: the booking, when it was decided, and the call's `traceparent`."""

    booking: BookingWrite
    moment: Moment
    traceparent: str | None


_ASKED = Columns({"customer_id": "bigint", "request_id": "uuid", "for_offer": "boolean"})
READ = Statement(
    f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION},
        t.version AS shadow_version, nextval('decision_ids'),
        CASE WHEN g.for_offer THEN nextval('offer_ids') ELSE nextval('loan_ids') END
    FROM {_ASKED.source}
    JOIN customers c ON c.customer_id = g.customer_id
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN scorecards t ON t.state = 'SHADOW'
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = g.request_id
"""
)


def read(connection: Connection, asked: Sequence[Asked], day: date) -> dict[int, BookingRead]:
    """Return what `bookings.read` does, of each known customer, by id. The customers differ."""
    values = {**_ASKED.values([each._asdict() for each in asked]), "today": day}
    return {row[0]: bookings.booking_read(row) for row in READ.rows(connection, values)}


_DECIDED = Columns(
    {
        "customer_id": "bigint",
        "read_version": "bigint",
        "decision_id": "bigint",
        "approved": "boolean",
        "loan_id": "bigint",
        "offer_id": "bigint",
        "method": "text",
        "request_id": "uuid",
        "fingerprint": "bytea",
        "inputs": "json",
        "outcome": "json",
        "event_kind": "text",
        "event": "json",
        "principal": "text",
        "traceparent": "text",
        "now": "timestamptz",
        "principal_paise": "bigint",
        "annual_rate_bps": "integer",
        "tenure_months": "integer",
        "installment_paise": "bigint",
        "end_date": "date",
        "last_day": "date",
        "charges": "json",
        "repaid_paise": "bigint",
        "emis_due": "integer",
        "current_year_loans": "integer",
        "loans_valid_until": "date",
        "held_principal_paise": "bigint",
        "held_installments_paise": "bigint",
        "held_valid_until": "date",
        "arrears_known": "boolean",
        "oldest_unpaid_due": "date",
        "npa_since": "date",
    }
)
# Those that only an approval has.
_UNSET: dict[str, Any] = dict.fromkeys(
    (
        "loan_id",
        "offer_id",
        "principal_paise",
        "annual_rate_bps",
        "tenure_months",
        "installment_paise",
        "end_date",
        "last_day",
        "charges",
        "repaid_paise",
        "emis_due",
        "current_year_loans",
        "loans_valid_until",
        "held_principal_paise",
        "held_installments_paise",
        "held_valid_until",
        "arrears_known",
        "oldest_unpaid_due",
        "npa_since",
    )
)
_SET_ARREARS = re.sub(r":([a-z_]+)", r"k.\1", customers.SET_ARREARS)
_RETURNING = """RETURNING k.*, customers.version, customers.event_seq, customers.current_debt_paise,
        customers.approved_limit_paise, customers.held_principal_paise AS held_after_paise"""

# k has the locked customers, a the approved ones and b the others after the change. SKIP LOCKED
# needs no order of the locks: it waits for none.
WRITE = Statement(
    f"""
    WITH k AS (
        SELECT g.* FROM {_DECIDED.source}
        JOIN customers c ON c.customer_id = g.customer_id AND c.version = g.read_version
        FOR NO KEY UPDATE OF c SKIP LOCKED
    ), a AS (
        UPDATE customers SET
            version = version + 1,
            event_seq = event_seq + 1,
            current_debt_paise = current_debt_paise
                + CASE WHEN k.loan_id IS NULL THEN 0 ELSE k.principal_paise END,
            current_installments_paise = current_installments_paise
                + CASE WHEN k.loan_id IS NULL THEN 0 ELSE k.installment_paise END,
            loan_count = loan_count + CASE WHEN k.loan_id IS NULL THEN 0 ELSE 1 END,
            total_principal_paise = total_principal_paise
                + CASE WHEN k.loan_id IS NULL THEN 0 ELSE k.principal_paise END,
            emis_due = k.emis_due,
            current_year_loans = k.current_year_loans,
            position_as_of = :today,
            position_valid_until = k.loans_valid_until,
            held_principal_paise = k.held_principal_paise,
            held_installments_paise = k.held_installments_paise,
            held_valid_until = k.held_valid_until,
            {_SET_ARREARS}
        FROM k WHERE customers.customer_id = k.customer_id AND k.approved
        {_RETURNING}
    ), b AS (
        UPDATE customers SET event_seq = event_seq + 1
        FROM k WHERE customers.customer_id = k.customer_id AND NOT k.approved
        {_RETURNING}
    ), c AS (
        SELECT * FROM a UNION ALL SELECT * FROM b
    ), d AS (
        INSERT INTO decisions (customer_id, decision_id, request_id, decided_at, decided_on,
            approved, referred, loan_id, offer_id, customer_version, scorecard_version, inputs,
            outcome, principal)
        SELECT customer_id, decision_id, request_id, now, :today, approved, false, loan_id,
            offer_id, read_version, :scorecard_version, inputs, outcome, principal
        FROM c
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, event_kind, version, now, event, traceparent
        FROM c
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, decision_id,
            created_at, principal)
        SELECT request_id, method, fingerprint, customer_id, decision_id, now, principal
        FROM c
    ), l AS (
        INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, start_date, end_date, imported, decision_id,
            debt_at_booking_paise, limit_at_booking_paise, held_at_booking_paise, charges)
        SELECT customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, :today, end_date, false, decision_id,
            current_debt_paise - repaid_paise, approved_limit_paise, held_after_paise, charges
        FROM a WHERE loan_id IS NOT NULL
    ), o AS (
        INSERT INTO loan_offers (customer_id, offer_id, decision_id, principal_paise,
            annual_rate_bps, tenure_months, installment_paise, charges, created_at, created_on,
            last_day, principal, used_at_offer_paise, limit_at_offer_paise)
        SELECT customer_id, offer_id, decision_id, principal_paise, annual_rate_bps,
            tenure_months, installment_paise, charges, now, :today, last_day, principal,
            current_debt_paise + held_after_paise - repaid_paise, approved_limit_paise
        FROM a WHERE offer_id IS NOT NULL
    )
    SELECT customer_id FROM c
    """
)


def write(
    connection: Connection, decided: Sequence[Decided], day: date, scorecard_version: str
) -> frozenset[int]:
    """Store the decisions of that day and scorecard; return the customers whose decisions were
    stored. The customers differ.

    The others are locked by other transactions, or their versions have changed since the read.

    Raises:
        IntegrityError: as `bookings.write`. Nothing is stored.
        ValueError: a decision is referred.
    """
    rows = [_row(each) for each in decided]
    values = {**_DECIDED.values(rows), "today": day, "scorecard_version": scorecard_version}
    return frozenset(row[0] for row in WRITE.rows(connection, values))


def _row(decided: Decided) -> dict[str, Any]:
    if decided.booking.referred:
        raise ValueError("a group writes no referrals")
    row = _UNSET | bookings.values(decided.booking)
    row |= {"traceparent": decided.traceparent, "now": decided.moment.now}
    if decided.booking.loan is not None:
        row["loans_valid_until"] = row["valid_until"]
    return row

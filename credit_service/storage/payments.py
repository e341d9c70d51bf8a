"""The two statements of RecordPayment, and stored payments: facts that never change."""

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.loans import Loan
from credit_service.domain.payments import PaymentOutcome
from credit_service.domain.positions import CreditPosition
from credit_service.observability import tracing
from credit_service.storage import cluster, customers, loans, requests, scorecards
from credit_service.storage.statements import Statement


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment and what it settled."""

    customer_id: int
    loan_id: int
    payment_number: int
    payment_id: int
    request_id: UUID | None
    amount_paise: int
    paid_on: date
    recorded_at: datetime
    # Numbers of the installments that it settled; empty for a partial payment.
    settled_numbers: range
    on_time_count: int
    closed_loan: bool
    principal: str


COLUMNS = """p.customer_id, p.loan_id, p.payment_number, p.payment_id, p.request_id,
    p.amount_paise, p.paid_on, p.recorded_at, p.first_settled, p.settled_count, p.on_time_count,
    p.closed_loan, p.principal"""
"""The columns that `_payment` reads, in its order, of a table aliased p."""


def _payment(row: Any) -> StoredPayment:
    first = row[8] or 0
    return StoredPayment(*[*row[:8], range(first, first + row[9]), *row[10:]])


_READ = Statement(
    f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION},
        {loans.COLUMNS}
    FROM customers c
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = :request_id
    LEFT JOIN loans l ON l.customer_id = c.customer_id AND l.loan_id = :loan_id
    WHERE c.customer_id = :customer_id
"""
)
_REQUESTS_AT = customers.POSITION_COLUMN_COUNT
_SCORECARD_AT = _REQUESTS_AT + requests.COLUMN_COUNT
_LOANS_AT = _SCORECARD_AT + 1


@dataclass(frozen=True, slots=True)
class PaymentRead:
    """The inputs of a payment, read at one instant: position, loan (None if the customer has none
    with that id), and the request's record."""

    position: CreditPosition
    request: requests.RequestRecord | None
    scorecard_version: str
    loan: Loan | None


def read(
    connection: Connection,
    customer_id: int,
    loan_id: int,
    request_id: UUID,
    day: date,
    *,
    lock: bool,
) -> PaymentRead | None:
    """Read the inputs on `day` in one statement; None for an unknown customer.

    With `lock`, other writers of this customer wait until the transaction ends.
    """
    if lock:
        customers.lock(connection, customer_id)
    row = _READ.row(
        connection,
        {
            "customer_id": customer_id,
            "loan_id": loan_id,
            "request_id": request_id,
            "today": day,
        },
    )
    if row is None:
        return None
    return PaymentRead(
        customers.position(row),
        requests.record(row[_REQUESTS_AT:_SCORECARD_AT]),
        row[_SCORECARD_AT],
        None if row[_LOANS_AT] is None else loans.loan(row[_LOANS_AT:]),
    )


_SETTLEMENTS = text(
    """
    SELECT paid_on, first_settled, settled_count FROM payments
    WHERE customer_id = :customer_id AND loan_id = :loan_id AND settled_count > 0
    """
)


def settlement_days(connection: Connection, customer_id: int, loan_id: int) -> dict[int, date]:
    """Return the day on which payments settled each installment, by its number."""
    rows = connection.execute(_SETTLEMENTS, {"customer_id": customer_id, "loan_id": loan_id})
    return {
        number: row.paid_on
        for row in rows
        for number in range(row.first_settled, row.first_settled + row.settled_count)
    }


_WRITE = Statement(
    """
    WITH c AS (
        UPDATE customers SET
            version = version + 1,
            event_seq = event_seq + :event_count,
            current_debt_paise = :current_debt_paise,
            current_installments_paise = :current_installments_paise,
            emis_on_time = :emis_on_time,
            emis_due = :emis_due,
            current_year_loans = :current_year_loans,
            position_as_of = :today,
            position_valid_until = :valid_until,
            held_principal_paise = :held_principal_paise,
            held_installments_paise = :held_installments_paise,
            held_valid_until = :held_valid_until
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq
    ), l AS (
        UPDATE loans SET emis_paid_on_time = :loan_on_time,
            installments_settled = :loan_settled, paid_paise = paid_paise + :amount_paise,
            last_paid_on = :paid_on, closed_on = :closed_on
        FROM c
        WHERE loans.customer_id = c.customer_id AND loans.loan_id = :loan_id
    ), p AS (
        INSERT INTO payments (customer_id, loan_id, payment_number, payment_id, request_id,
            amount_paise, paid_on, recorded_at, first_settled, settled_count, on_time_count,
            closed_loan, principal)
        SELECT c.customer_id, :loan_id,
            (SELECT coalesce(max(payment_number), 0) + 1 FROM payments
             WHERE customer_id = :customer_id AND loan_id = :loan_id),
            nextval('payment_ids'), :request_id, :amount_paise, :paid_on, :now, :first_settled,
            :settled_count, :on_time_count, :closed_on IS NOT NULL, :principal
        FROM c
        RETURNING payment_number, payment_id
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT c.customer_id, c.event_seq - :event_count + 1, 'payment_recorded', c.version, :now,
            (CAST(:facts AS jsonb) || jsonb_build_object('payment_id', p.payment_id,
                'payment_number', p.payment_number, 'loan_id', :loan_id))::json,
            CAST(:traceparent AS text)
        FROM c, p
        UNION ALL
        SELECT c.customer_id, c.event_seq, 'loan_closed', c.version, :now,
            json_build_object('payment_id', p.payment_id, 'loan_id', :loan_id,
                'closed_on', :closed_on), CAST(:traceparent AS text)
        FROM c, p WHERE :closed_on IS NOT NULL
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, loan_id,
            payment_number, created_at, principal)
        SELECT :request_id, 'RecordPayment', :fingerprint, c.customer_id, :loan_id,
            p.payment_number, :now, :principal
        FROM c, p
    )
    SELECT payment_number, payment_id FROM p
    """.replace(":request_id", "CAST(:request_id AS uuid)")
    .replace(":closed_on", "CAST(:closed_on AS date)")
    .replace(":loan_id", "CAST(:loan_id AS bigint)")
    .replace(":event_count", "CAST(:event_count AS bigint)")
)
# On a cluster: the coordinator has the sequence, and another node the customer.
_NEW_ID = "nextval('payment_ids')"
_WRITE_WITH_ID = Statement(_WRITE.text.replace(_NEW_ID, ":payment_id"))
_DRAW_ID = Statement(f"SELECT {_NEW_ID} AS payment_id")


@dataclass(frozen=True, slots=True)
class PaymentWrite:
    """A payment to store, with its effects."""

    request_id: UUID
    fingerprint: bytes
    amount_paise: int
    paid_on: date
    outcome: PaymentOutcome
    outstanding_paise: int
    read_version: int
    position_after: CreditPosition
    principal: str


def write(connection: Connection, payment: PaymentWrite, moment: Moment) -> StoredPayment | None:
    """Store the payment; return None if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id.
    """
    loan, settled = payment.outcome.loan_after, payment.outcome.settled_numbers
    after = payment.position_after
    first = settled[0] if settled else None
    facts = {
        "amount_paise": payment.amount_paise,
        "paid_on": payment.paid_on.isoformat(),
        "first_settled": first,
        "settled_count": len(settled),
        "on_time_count": len(payment.outcome.on_time_numbers),
        "outstanding_paise": payment.outstanding_paise,
    }
    statement, drawn = _WRITE, {}
    if cluster.is_distributed(connection):
        ids = _DRAW_ID.rows(connection, {})
        statement, drawn = _WRITE_WITH_ID, {"payment_id": ids[0][0]}
    row = statement.row(
        connection,
        {
            **drawn,
            "customer_id": loan.customer_id,
            "loan_id": loan.loan_id,
            "read_version": payment.read_version,
            "event_count": 2 if payment.outcome.closed else 1,
            "current_debt_paise": after.current_debt_paise,
            "current_installments_paise": after.current_installments_paise,
            "emis_on_time": after.emis_on_time,
            "emis_due": after.emis_due,
            "current_year_loans": after.current_year_loans,
            "valid_until": after.valid_until,
            **customers.held_values(after),
            "loan_on_time": loan.emis_paid_on_time,
            "loan_settled": loan.installments_settled,
            "closed_on": loan.closed_on,
            "amount_paise": payment.amount_paise,
            "paid_on": payment.paid_on,
            "first_settled": first,
            "settled_count": len(settled),
            "on_time_count": len(payment.outcome.on_time_numbers),
            "facts": json.dumps(facts),
            "request_id": payment.request_id,
            "fingerprint": payment.fingerprint,
            "principal": payment.principal,
            "traceparent": tracing.traceparent(),
            "now": moment.now,
            "today": moment.today,
        },
    )
    if row is None:
        return None
    return StoredPayment(
        customer_id=loan.customer_id,
        loan_id=loan.loan_id,
        payment_number=row[0],
        payment_id=row[1],
        request_id=payment.request_id,
        amount_paise=payment.amount_paise,
        paid_on=payment.paid_on,
        recorded_at=moment.now,
        settled_numbers=range(first or 0, (first or 0) + len(settled)),
        on_time_count=len(payment.outcome.on_time_numbers),
        closed_loan=payment.outcome.closed,
        principal=payment.principal,
    )


_WITH_LOAN = Statement(
    f"""SELECT {loans.COLUMNS}, {COLUMNS}
    FROM loans l JOIN payments p USING (customer_id, loan_id)
    WHERE l.customer_id = :customer_id AND l.loan_id = :loan_id
    ORDER BY p.payment_number"""
)


def with_loan(
    connection: Connection, customer_id: int, loan_id: int
) -> tuple[Loan, list[StoredPayment]]:
    """Return a loan and all payments recorded on it, in order, read at one instant.

    Raises:
        LookupError: the loan has no payment.
    """
    rows = _WITH_LOAN.rows(connection, {"customer_id": customer_id, "loan_id": loan_id})
    if not rows:
        raise LookupError("this loan has no payment")
    return loans.loan(rows[0]), [_payment(row[loans.COLUMN_COUNT :]) for row in rows]

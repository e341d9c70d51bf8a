"""The statements of RecordPayment and ReversePayment.

A payment in order of the days takes two statements: `read` and `write`. A payment before another
one, a prepayment, a foreclosure or a reversal also reads the loan's payments, and stores what the
loan is by all of them.

`grouped_payments` makes statements for several payments from INPUTS, MOVE_CUSTOMER and EFFECTS.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.delinquency import AssetClass, ClassChange
from credit_service.domain.loans import Loan
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    ReversalReason,
    outstanding_paise,
)
from credit_service.domain.positions import CreditPosition
from credit_service.storage import arrears, cluster, customers, loans, requests, scorecards
from credit_service.storage.payments import Reversal, StoredPayment
from credit_service.storage.statements import Row, Statement

# Read only if the customer has other ACTIVE loans, and this one is the first to fall due. The inner
# l hides the outer one. A cluster does not infer the customer from a join with loans.
_OTHERS_UNPAID_DUE = f"""
        CASE WHEN c.oldest_unpaid_due = {loans.FIRST_UNPAID_DUE}
            AND c.current_debt_paise > l.principal_paise
        THEN (SELECT min({loans.FIRST_UNPAID_DUE}) FROM loans l
            WHERE l.customer_id = :customer_id AND l.loan_id <> :loan_id AND l.closed_on IS NULL)
        END"""
INPUTS = f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION},
        c.announced_class, {_OTHERS_UNPAID_DUE}, {loans.COLUMNS}
    FROM customers c
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = :request_id
    LEFT JOIN loans l ON l.customer_id = c.customer_id AND l.loan_id = :loan_id
    WHERE c.customer_id = :customer_id
"""
_READ = Statement(INPUTS)
_REQUESTS_AT = customers.POSITION_COLUMN_COUNT
_SCORECARD_AT = _REQUESTS_AT + requests.COLUMN_COUNT
_LOANS_AT = _SCORECARD_AT + 3


@dataclass(frozen=True, slots=True)
class PaymentRead:
    """The inputs of a payment, read at one instant: position, loan (None if the customer has none
    with that id), and the request's record."""

    position: CreditPosition
    request: requests.RequestRecord | None
    scorecard_version: str
    announced_class: AssetClass
    # Earliest due date of an unpaid installment of the customer's other loans; read only if this
    # loan has the earliest one of all.
    others_unpaid_due: date | None
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
    return None if row is None else payment_read(row)


def payment_read(row: Row) -> PaymentRead:
    """Return the inputs from a row of INPUTS."""
    return PaymentRead(
        customers.position(row),
        requests.record(row[_REQUESTS_AT:_SCORECARD_AT]),
        row[_SCORECARD_AT],
        AssetClass(row[_SCORECARD_AT + 1]),
        row[_SCORECARD_AT + 2],
        None if row[_LOANS_AT] is None else loans.loan(row[_LOANS_AT:]),
    )


# The customer's position and the loan move to what they are after the write, if the customer is
# still of the version that was read. A worker announces classes without a new version.
MOVE_CUSTOMER = f"""
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
            held_valid_until = :held_valid_until,
            {customers.SET_ARREARS},
            announced_class = :announced_class{{rows}}
        WHERE customers.customer_id = :customer_id AND version = :read_version
            AND customers.announced_class = :read_class
        RETURNING {{returned}}"""
_MOVE = f"""
    WITH c AS ({MOVE_CUSTOMER.format(rows="", returned="customer_id, version, event_seq")}
    ), """
_LOAN = """l AS (
        UPDATE loans SET {loan}
        FROM c
        WHERE loans.customer_id = c.customer_id AND loans.loan_id = :loan_id
    )"""
_LOAN_AFTER_PAYMENT = """emis_paid_on_time = :loan_on_time,
            installments_settled = :loan_settled, paid_paise = paid_paise + :amount_paise,
            last_paid_on = :paid_on, closed_on = :closed_on"""
_LOAN_AFTER_REPLAY = ", ".join(f"{name} = :loan_{name}" for name in loans.DERIVED_COLUMNS)
_PAYMENT = """, p AS (
        INSERT INTO payments (customer_id, loan_id, payment_number, payment_id, request_id,
            amount_paise, paid_on, recorded_at, first_settled, settled_count, on_time_count,
            closed_loan, principal, purpose, effect, grace_days, charge_paise)
        SELECT c.customer_id, :loan_id,
            (SELECT coalesce(max(payment_number), 0) + 1 FROM payments
             WHERE customer_id = :customer_id AND loan_id = :loan_id),
            nextval('payment_ids'), :request_id, :amount_paise, :paid_on, :now, :first_settled,
            :settled_count, :on_time_count, :closed_on IS NOT NULL, :principal, :purpose, :effect,
            :grace_days, :charge_paise
        FROM c
        RETURNING customer_id, payment_number, payment_id
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT c.customer_id, c.event_seq - :event_count + 1, 'payment_recorded', c.version, :now,
            (CAST(:facts AS jsonb) || jsonb_build_object('payment_id', p.payment_id,
                'payment_number', p.payment_number, 'loan_id', :loan_id))::json,
            CAST(:traceparent AS text)
        FROM c JOIN p ON p.customer_id = c.customer_id{prepaid}
        UNION ALL
        SELECT c.customer_id, c.event_seq - :change_count, 'loan_closed', c.version, :now,
            json_build_object('payment_id', p.payment_id, 'loan_id', :loan_id,
                'closed_on', :closed_on), CAST(:traceparent AS text)
        FROM c JOIN p ON p.customer_id = c.customer_id WHERE :closed_on IS NOT NULL
{class_changes}
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, loan_id,
            payment_number, created_at, principal)
        SELECT :request_id, 'RecordPayment', :fingerprint, c.customer_id, :loan_id,
            p.payment_number, :now, :principal
        FROM c JOIN p ON p.customer_id = c.customer_id
    )
    SELECT customer_id, payment_number, payment_id FROM p"""
_CLASS_CHANGES = """
        UNION ALL
        SELECT c.customer_id, c.event_seq - :change_count + t.place, 'asset_class_changed',
            c.version, :now, t.payload, CAST(:traceparent AS text)
        FROM c, json_array_elements(CAST(:class_changes AS json)) WITH ORDINALITY
            AS t (payload, place)"""
_PREPAID = """
        UNION ALL
        SELECT c.customer_id, c.event_seq - :event_count + 2, 'loan_prepaid', c.version, :now,
            (CAST(:prepaid AS jsonb) || jsonb_build_object('payment_id', p.payment_id,
                'loan_id', :loan_id))::json, CAST(:traceparent AS text)
        FROM c, p WHERE CAST(:prepaid AS jsonb) IS NOT NULL"""
_REVERSAL = """, v AS (
        INSERT INTO payment_reversals (customer_id, loan_id, payment_number, reversal_number,
            last_payment_number, reason, request_id, reversed_at, principal)
        SELECT c.customer_id, :loan_id, :payment_number, :reversal_number, :last_payment_number,
            :reason, :request_id, :now, :principal
        FROM c
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT c.customer_id, c.event_seq - :event_count + 1, 'payment_reversed', c.version, :now,
            CAST(:facts AS json), CAST(:traceparent AS text)
        FROM c{class_changes}
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, loan_id,
            payment_number, created_at, principal)
        SELECT :request_id, 'ReversePayment', :fingerprint, c.customer_id, :loan_id,
            :payment_number, :now, :principal
        FROM c
    )
    SELECT count(*) FROM c"""


def _written(text: str) -> Statement:
    """Return the statement, with the types of parameters that PostgreSQL cannot infer."""
    for name, kind in (
        ("request_id", "uuid"),
        ("closed_on", "date"),
        ("loan_id", "bigint"),
        ("event_count", "bigint"),
        ("change_count", "bigint"),
        ("payment_number", "int"),
    ):
        text = re.sub(rf":{name}\b", f"CAST(:{name} AS {kind})", text)
    return Statement(text)


_NEW_ID = "nextval('payment_ids')"
EFFECTS = _LOAN.format(loan=_LOAN_AFTER_PAYMENT) + _PAYMENT.format(
    prepaid="", class_changes=_CLASS_CHANGES
)
_RECORD = _MOVE + EFFECTS
_RECORD_AND_REPLAY = (
    _MOVE
    + _LOAN.format(loan=_LOAN_AFTER_REPLAY)
    + _PAYMENT.format(prepaid=_PREPAID, class_changes=_CLASS_CHANGES)
)
_WRITE = _written(_RECORD)
_WRITE_REPLAYED = _written(_RECORD_AND_REPLAY)
# On a cluster: the coordinator has the sequence, and another node the customer.
_WRITE_WITH_ID = _written(_RECORD.replace(_NEW_ID, ":payment_id"))
_WRITE_REPLAYED_WITH_ID = _written(_RECORD_AND_REPLAY.replace(_NEW_ID, ":payment_id"))
_DRAW_ID = Statement(f"SELECT {_NEW_ID} AS payment_id")
_REVERSE = _written(
    _MOVE + _LOAN.format(loan=_LOAN_AFTER_REPLAY) + _REVERSAL.format(class_changes=_CLASS_CHANGES)
)


@dataclass(frozen=True, slots=True)
class LoanWrite:
    """What a write about a loan's payments moves: the customer from the version that was read to
    the position after it, and the loan. `is_replayed` says whether the loan was computed from all
    its payments, so that all its derived columns are stored. `class_changes` are to be announced,
    after `announced_class`."""

    request_id: UUID
    fingerprint: bytes
    principal: str
    moment: Moment
    traceparent: str | None
    read_version: int
    scorecard_version: str
    position_after: CreditPosition
    loan_after: Loan
    announced_class: AssetClass
    class_changes: Sequence[ClassChange]
    is_replayed: bool = False

    @property
    def outstanding_paise(self) -> int:
        """The unpaid sum of the loan after the write."""
        return outstanding_paise(self.loan_after)


@dataclass(frozen=True, slots=True)
class PaymentWrite:
    """A payment to store, with its effects."""

    effects: LoanWrite
    amount_paise: int
    paid_on: date
    settled_numbers: Sequence[int]
    on_time_count: int
    grace_days: int
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
    effect: PrepaymentEffect | None = None
    charge_paise: int = 0
    prepaid_principal_paise: int = 0


def write(connection: Connection, payment: PaymentWrite) -> StoredPayment | None:
    """Store the payment; return None if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id.
    """
    is_replayed = payment.effects.is_replayed
    statement = _WRITE_REPLAYED if is_replayed else _WRITE
    values = payment_values(payment)
    if is_replayed:
        prepaid = _prepaid_event(payment)
        values["prepaid"] = None if prepaid is None else json.dumps(prepaid)
    if cluster.is_distributed(connection):
        ids = _DRAW_ID.rows(connection, {})
        values["payment_id"] = ids[0][0]
        statement = _WRITE_REPLAYED_WITH_ID if is_replayed else _WRITE_WITH_ID
    row = statement.row(connection, values)
    return None if row is None else stored_payment(payment, *row[1:])


def payment_values(payment: PaymentWrite) -> dict[str, Any]:
    """Return the parameters of MOVE_CUSTOMER and EFFECTS."""
    effects, settled = payment.effects, payment.settled_numbers
    loan = effects.loan_after
    first = settled[0] if settled else None
    facts: dict[str, Any] = {
        "amount_paise": payment.amount_paise,
        "paid_on": payment.paid_on.isoformat(),
        "first_settled": first,
        "settled_count": len(settled),
        "on_time_count": payment.on_time_count,
        "outstanding_paise": effects.outstanding_paise,
    }
    if effects.is_replayed:
        facts |= {"purpose": payment.purpose, "effect": payment.effect}
        facts |= {"charge_paise": payment.charge_paise}
    events = 1 + bool(payment.prepaid_principal_paise) + (loan.closed_on is not None)
    return {
        **_values(effects),
        "event_count": events + len(effects.class_changes),
        "closed_on": loan.closed_on,
        "amount_paise": payment.amount_paise,
        "paid_on": payment.paid_on,
        "first_settled": first,
        "settled_count": len(settled),
        "on_time_count": payment.on_time_count,
        "purpose": str(payment.purpose),
        "effect": payment.effect and str(payment.effect),
        "grace_days": payment.grace_days,
        "charge_paise": payment.charge_paise,
        "facts": json.dumps(facts),
    }


def stored_payment(payment: PaymentWrite, payment_number: int, payment_id: int) -> StoredPayment:
    """Return the payment as it is stored, with the numbers from a row of EFFECTS."""
    effects, settled = payment.effects, payment.settled_numbers
    loan = effects.loan_after
    first = settled[0] if settled else 0
    return StoredPayment(
        customer_id=loan.customer_id,
        loan_id=loan.loan_id,
        payment_number=payment_number,
        payment_id=payment_id,
        request_id=effects.request_id,
        amount_paise=payment.amount_paise,
        paid_on=payment.paid_on,
        recorded_at=effects.moment.now,
        settled_numbers=range(first, first + len(settled)),
        on_time_count=payment.on_time_count,
        closed_loan=loan.closed_on is not None,
        principal=effects.principal,
        purpose=payment.purpose,
        effect=payment.effect,
        grace_days=payment.grace_days,
        charge_paise=payment.charge_paise,
    )


def _prepaid_event(payment: PaymentWrite) -> dict[str, object] | None:
    """Return the facts of loan_prepaid; None if the payment repays no principal ahead."""
    if not payment.prepaid_principal_paise:
        return None
    loan = payment.effects.loan_after
    return {
        "effect": payment.effect,
        "prepaid_principal_paise": payment.prepaid_principal_paise,
        "tenure_months": loan.tenure_months,
        "installment_paise": loan.installment_paise,
        "outstanding_paise": payment.effects.outstanding_paise,
    }


@dataclass(frozen=True, slots=True)
class ReversalWrite:
    """The reversal of a payment to store, with its effects."""

    effects: LoanWrite
    payment: StoredPayment
    reversal_number: int
    last_payment_number: int
    reason: ReversalReason
    reopened: bool


def reverse(connection: Connection, write: ReversalWrite) -> StoredPayment | None:
    """Store the reversal and return the reversed payment; None if the customer's version has
    changed since the read.

    Raises IntegrityError if a concurrent request used the request id.
    """
    payment, effects = write.payment, write.effects
    facts = {
        "payment_id": payment.payment_id,
        "payment_number": payment.payment_number,
        "loan_id": payment.loan_id,
        "reason": write.reason,
        "amount_paise": payment.amount_paise,
        "paid_on": payment.paid_on.isoformat(),
        "outstanding_paise": effects.outstanding_paise,
        "reopened": write.reopened,
    }
    row = _REVERSE.row(
        connection,
        {
            **_values(effects),
            "event_count": 1 + len(effects.class_changes),
            "payment_number": payment.payment_number,
            "reversal_number": write.reversal_number,
            "last_payment_number": write.last_payment_number,
            "reason": str(write.reason),
            "facts": json.dumps(facts),
        },
    )
    if row != (1,):
        return None
    reversal = Reversal(
        write.reversal_number,
        write.last_payment_number,
        write.reason,
        effects.request_id,
        effects.moment.now,
        effects.principal,
    )
    return replace(payment, reversal=reversal)


def _values(effects: LoanWrite) -> dict[str, Any]:
    loan, after, changes = effects.loan_after, effects.position_after, effects.class_changes
    return {
        "customer_id": loan.customer_id,
        "loan_id": loan.loan_id,
        "read_version": effects.read_version,
        "current_debt_paise": after.current_debt_paise,
        "current_installments_paise": after.current_installments_paise,
        "emis_on_time": after.emis_on_time,
        "emis_due": after.emis_due,
        "current_year_loans": after.current_year_loans,
        "valid_until": after.valid_until,
        **customers.held_values(after),
        **customers.arrears_values(after),
        "change_count": len(changes),
        "class_changes": json.dumps([arrears.event_fields(each) for each in changes]),
        "read_class": int(effects.announced_class),
        "announced_class": int(changes[-1].current if changes else effects.announced_class),
        **(
            {f"loan_{name}": value for name, value in loans.derived_values(loan).items()}
            if effects.is_replayed
            else {
                "loan_on_time": loan.emis_paid_on_time,
                "loan_settled": loan.installments_settled,
            }
        ),
        "request_id": effects.request_id,
        "fingerprint": effects.fingerprint,
        "principal": effects.principal,
        "traceparent": effects.traceparent,
        "now": effects.moment.now,
        "today": effects.moment.today,
    }

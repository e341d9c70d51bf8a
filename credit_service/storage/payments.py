"""The statements of RecordPayment and ReversePayment, and stored payments: facts that never change.

A payment in order of the days takes two statements: `read` and `write`. A payment before another
one, a prepayment, a foreclosure or a reversal also reads the loan's payments, and stores what the
loan is by all of them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.calendar import add_months
from credit_service.domain.delinquency import AssetClass, ClassChange
from credit_service.domain.loan_replay import LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan, agreed_plan
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, ReversalReason
from credit_service.domain.positions import CreditPosition
from credit_service.observability import tracing
from credit_service.storage import arrears, cluster, customers, loans, requests, scorecards
from credit_service.storage.database import LostRaceError
from credit_service.storage.statements import Statement


@dataclass(frozen=True, slots=True)
class Reversal:
    """The reversal of a payment. `number` counts those of its loan, 1, 2, 3 … in order, and
    `last_payment_number` is that of the loan's last payment at that time."""

    number: int
    last_payment_number: int
    reason: ReversalReason
    request_id: UUID
    reversed_at: datetime
    principal: str


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment, what it settled when it was recorded, and its reversal."""

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
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
    effect: PrepaymentEffect | None = None
    # None if a server of release 0.1.0 recorded it.
    grace_days: int | None = None
    charge_paise: int = 0
    reversal: Reversal | None = None


COLUMNS = """p.customer_id, p.loan_id, p.payment_number, p.payment_id, p.request_id,
    p.amount_paise, p.paid_on, p.recorded_at, p.first_settled, p.settled_count, p.on_time_count,
    p.closed_loan, p.principal, p.purpose, p.effect, p.grace_days, p.charge_paise,
    v.reversal_number, v.last_payment_number, v.reason, v.request_id, v.reversed_at, v.principal"""
"""The columns that `_payment` reads, in its order, of `payments p` joined by WITH_REVERSALS."""

_NUMBER_AT = 2

WITH_REVERSALS = """LEFT JOIN payment_reversals v ON v.customer_id = p.customer_id
        AND v.loan_id = p.loan_id AND v.payment_number = p.payment_number"""


def _payment(row: Any) -> StoredPayment:
    first = row[8] or 0
    effect = None if row[14] is None else PrepaymentEffect(row[14])
    reversal = None
    if row[17] is not None:
        fields = (*row[17:19], ReversalReason(row[19]), *row[20:23])
        reversal = Reversal(*fields)
    settled, purpose = range(first, first + row[9]), PaymentPurpose(row[13])
    return StoredPayment(*(*row[:8], settled, *row[10:13], purpose, effect, *row[15:17], reversal))


@dataclass(frozen=True, slots=True)
class LoanHistory:
    """A loan and all payments recorded on it, in the order of recording, read at one instant.

    `loan` is `stored` with `on_time_at_import` set.
    """

    stored: Loan
    loan: Loan
    payments: tuple[StoredPayment, ...]

    @property
    def last_payment_number(self) -> int:
        """The number of the last payment; 0 without one."""
        return self.payments[-1].payment_number if self.payments else 0

    @property
    def last_reversal_number(self) -> int:
        """The number of the last reversal; 0 without one."""
        return max((each.reversal.number for each in self.payments if each.reversal), default=0)

    def raise_if_used(self, request_id: UUID) -> None:
        """Raise LostRaceError if a request with this id took effect on the loan, since its record
        was read."""
        for each in self.payments:
            if request_id in (each.request_id, each.reversal and each.reversal.request_id):
                raise LostRaceError("request_id")

    def payment(self, payment_number: int) -> StoredPayment:
        """Return the payment with that number, which must exist."""
        return next(each for each in self.payments if each.payment_number == payment_number)

    def facts(self) -> list[PaymentFact]:
        """Return the payments that count, as facts for a replay."""
        return [self._fact(each) for each in self.payments if each.reversal is None]

    def facts_without(self, payment_number: int) -> list[PaymentFact]:
        """Return the payments that count, without that one."""
        return [each for each in self.facts() if each.payment_number != payment_number]

    def account(self) -> LoanAccount:
        """Return the loan by its payments."""
        return replay(self.loan, self.facts())

    def after_payment(self, payment_number: int) -> LoanAccount:
        """Return the loan as it was right after that payment was recorded."""
        return self._at(payment_number, self._reversals_before(payment_number))

    def after_reversal(self, reversal: Reversal) -> LoanAccount:
        """Return the loan as it was right after that reversal."""
        return self._at(reversal.last_payment_number, reversal.number)

    def _reversals_before(self, payment_number: int) -> int:
        numbers = [
            each.reversal.number
            for each in self.payments
            if each.reversal is not None and each.reversal.last_payment_number < payment_number
        ]
        return max(numbers, default=0)

    def _at(self, last_payment_number: int, last_reversal_number: int) -> LoanAccount:
        counted = [
            self._fact(each)
            for each in self.payments
            if each.payment_number <= last_payment_number
            and (each.reversal is None or each.reversal.number > last_reversal_number)
        ]
        return replay(self.loan, counted)

    def _fact(self, payment: StoredPayment) -> PaymentFact:
        return PaymentFact(
            payment_number=payment.payment_number,
            amount_paise=payment.amount_paise,
            paid_on=payment.paid_on,
            purpose=payment.purpose,
            effect=payment.effect,
            grace_days=_grace_days(self.loan, payment),
            charge_paise=payment.charge_paise,
        )


def _grace_days(loan: Loan, payment: StoredPayment) -> int:
    """Return the grace days of a payment; for one of release 0.1.0, the fewest with which a replay
    counts as many of its installments on time as that release did."""
    if payment.grace_days is not None:
        return payment.grace_days
    plan = agreed_plan(loan)
    paid = [each for each in payment.settled_numbers if plan.payment_paise(each) > 0]
    # The later one is due, the less late it is: the last ones are on time.
    on_time = paid[len(paid) - payment.on_time_count :]
    late_by = [(payment.paid_on - add_months(loan.start_date, each)).days for each in on_time]
    return max([0, *late_by])


_HISTORY = Statement(
    f"""SELECT {loans.COLUMNS}, {COLUMNS}
    FROM loans l
    LEFT JOIN payments p ON p.customer_id = l.customer_id AND p.loan_id = l.loan_id
    {WITH_REVERSALS}
    WHERE l.customer_id = :customer_id AND l.loan_id = :loan_id
    ORDER BY p.payment_number"""
)


def history(connection: Connection, customer_id: int, loan_id: int) -> LoanHistory | None:
    """Return the loan with all its payments; None for an unknown loan."""
    rows = _HISTORY.rows(connection, {"customer_id": customer_id, "loan_id": loan_id})
    return history_from(rows) if rows else None


def history_from(rows: Sequence[Any]) -> LoanHistory:
    """Return the loan and its payments from rows that start with `loans.COLUMNS` and COLUMNS: one
    for each payment, in the order of recording, or a single one without a payment."""
    loan = stored = loans.loan(rows[0])
    found = [row[loans.COLUMN_COUNT :] for row in rows]
    made = tuple(_payment(row) for row in found if row[_NUMBER_AT] is not None)
    if loan.on_time_at_import is None:
        by_payments = sum(each.on_time_count for each in made)
        loan = replace(loan, on_time_at_import=loan.emis_paid_on_time - by_payments)
    return LoanHistory(stored, loan, made)


_BY_ID = Statement(
    "SELECT customer_id, loan_id, payment_number FROM payments WHERE payment_id = :payment_id"
)


class PaymentKey(NamedTuple):
    """The key of a payment."""

    customer_id: int
    loan_id: int
    payment_number: int


_PAGE = Statement(
    f"""SELECT {COLUMNS} FROM payments p {WITH_REVERSALS}
    WHERE p.customer_id = :customer_id AND p.loan_id = :loan_id AND p.payment_number > :after
    ORDER BY p.payment_number LIMIT :limit"""
)


def page(
    connection: Connection, customer_id: int, loan_id: int, after: int, limit: int
) -> list[StoredPayment]:
    """Return the loan's payments with numbers above `after`, in the order of recording, at most
    `limit`."""
    rows = _PAGE.rows(
        connection,
        {"customer_id": customer_id, "loan_id": loan_id, "after": after, "limit": limit},
    )
    return [_payment(row) for row in rows]


def find(connection: Connection, payment_id: int) -> PaymentKey | None:
    """Return the key of the payment with that id; ids are unique across customers."""
    row = _BY_ID.row(connection, {"payment_id": payment_id})
    return None if row is None else PaymentKey(*row)


# Read only if the customer has other ACTIVE loans, and this one is the first to fall due. The inner
# l hides the outer one. A cluster does not infer the customer from a join with loans.
_OTHERS_UNPAID_DUE = f"""
        CASE WHEN c.oldest_unpaid_due = {loans.FIRST_UNPAID_DUE}
            AND c.current_debt_paise > l.principal_paise
        THEN (SELECT min({loans.FIRST_UNPAID_DUE}) FROM loans l
            WHERE l.customer_id = :customer_id AND l.loan_id <> :loan_id AND l.closed_on IS NULL)
        END"""
_READ = Statement(
    f"""
    SELECT {customers.POSITION_COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION},
        c.announced_class, {_OTHERS_UNPAID_DUE}, {loans.COLUMNS}
    FROM customers c
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN requests r ON r.customer_id = c.customer_id AND r.request_id = :request_id
    LEFT JOIN loans l ON l.customer_id = c.customer_id AND l.loan_id = :loan_id
    WHERE c.customer_id = :customer_id
"""
)
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
    if row is None:
        return None
    return PaymentRead(
        customers.position(row),
        requests.record(row[_REQUESTS_AT:_SCORECARD_AT]),
        row[_SCORECARD_AT],
        AssetClass(row[_SCORECARD_AT + 1]),
        row[_SCORECARD_AT + 2],
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


# The customer's position and the loan move to what they are after the write, if the customer is
# still of the version that was read.
_MOVE = f"""
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
            held_valid_until = :held_valid_until,
            {customers.SET_ARREARS},
            announced_class = :announced_class
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq
    ), l AS (
        UPDATE loans SET {{loan}}
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
        RETURNING payment_number, payment_id
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT c.customer_id, c.event_seq - :event_count + 1, 'payment_recorded', c.version, :now,
            (CAST(:facts AS jsonb) || jsonb_build_object('payment_id', p.payment_id,
                'payment_number', p.payment_number, 'loan_id', :loan_id))::json,
            CAST(:traceparent AS text)
        FROM c, p{prepaid}
        UNION ALL
        SELECT c.customer_id, c.event_seq - :event_count + 2, 'loan_closed', c.version, :now,
            json_build_object('payment_id', p.payment_id, 'loan_id', :loan_id,
                'closed_on', :closed_on), CAST(:traceparent AS text)
        FROM c, p WHERE :closed_on IS NOT NULL
{class_changes}
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, loan_id,
            payment_number, created_at, principal)
        SELECT :request_id, 'RecordPayment', :fingerprint, c.customer_id, :loan_id,
            p.payment_number, :now, :principal
        FROM c, p
    )
    SELECT payment_number, payment_id FROM p"""
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
_RECORD = _MOVE.format(loan=_LOAN_AFTER_PAYMENT) + _PAYMENT.format(
    prepaid="", class_changes=_CLASS_CHANGES
)
_RECORD_AND_REPLAY = _MOVE.format(loan=_LOAN_AFTER_REPLAY) + _PAYMENT.format(
    prepaid=_PREPAID, class_changes=_CLASS_CHANGES
)
_WRITE = _written(_RECORD)
_WRITE_REPLAYED = _written(_RECORD_AND_REPLAY)
# On a cluster: the coordinator has the sequence, and another node the customer.
_WRITE_WITH_ID = _written(_RECORD.replace(_NEW_ID, ":payment_id"))
_WRITE_REPLAYED_WITH_ID = _written(_RECORD_AND_REPLAY.replace(_NEW_ID, ":payment_id"))
_DRAW_ID = Statement(f"SELECT {_NEW_ID} AS payment_id")
_REVERSE = _written(
    _MOVE.format(loan=_LOAN_AFTER_REPLAY) + _REVERSAL.format(class_changes=_CLASS_CHANGES)
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
    read_version: int
    position_after: CreditPosition
    loan_after: Loan
    outstanding_paise: int
    announced_class: AssetClass
    class_changes: Sequence[ClassChange]
    is_replayed: bool = False


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


def write(connection: Connection, payment: PaymentWrite, moment: Moment) -> StoredPayment | None:
    """Store the payment; return None if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id.
    """
    effects = payment.effects
    loan, settled = effects.loan_after, payment.settled_numbers
    is_closed = loan.closed_on is not None
    first = settled[0] if settled else None
    facts = {
        "amount_paise": payment.amount_paise,
        "paid_on": payment.paid_on.isoformat(),
        "first_settled": first,
        "settled_count": len(settled),
        "on_time_count": payment.on_time_count,
        "outstanding_paise": effects.outstanding_paise,
    }
    prepaid = _prepaid_event(payment)
    statement, values = _WRITE, {}
    if effects.is_replayed:
        facts |= {"purpose": payment.purpose, "effect": payment.effect}
        facts |= {"charge_paise": payment.charge_paise}
        statement = _WRITE_REPLAYED
        values = {"prepaid": None if prepaid is None else json.dumps(prepaid)}
    if cluster.is_distributed(connection):
        ids = _DRAW_ID.rows(connection, {})
        values["payment_id"] = ids[0][0]
        statement = _WRITE_REPLAYED_WITH_ID if effects.is_replayed else _WRITE_WITH_ID
    row = statement.row(
        connection,
        {
            **values,
            **_values(effects, moment),
            "event_count": 1 + (prepaid is not None) + is_closed + len(effects.class_changes),
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
        },
    )
    if row is None:
        return None
    return StoredPayment(
        customer_id=loan.customer_id,
        loan_id=loan.loan_id,
        payment_number=row[0],
        payment_id=row[1],
        request_id=effects.request_id,
        amount_paise=payment.amount_paise,
        paid_on=payment.paid_on,
        recorded_at=moment.now,
        settled_numbers=range(first or 0, (first or 0) + len(settled)),
        on_time_count=payment.on_time_count,
        closed_loan=is_closed,
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


def reverse(connection: Connection, write: ReversalWrite, moment: Moment) -> StoredPayment | None:
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
            **_values(effects, moment),
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
        moment.now,
        effects.principal,
    )
    return replace(payment, reversal=reversal)


def _values(effects: LoanWrite, moment: Moment) -> dict[str, Any]:
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
        "traceparent": tracing.traceparent(),
        "now": moment.now,
        "today": moment.today,
    }

"""The arrears stored in customers' rows: computed from loans and payments, and announced.

The rules are those of `domain.delinquency`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain import delinquency
from credit_service.domain.delinquency import (
    CLASS_DAYS,
    Arrears,
    AssetClass,
    ClassChange,
    Settlement,
    Settlements,
    class_changes,
)
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect
from credit_service.observability import tracing
from credit_service.storage import loans
from credit_service.storage.arrays import Bigints, Dates, Integers, driver_cursor
from credit_service.storage.statements import Row, Statement

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NO_DAY = int(np.iinfo(np.int32).min)


def event_fields(change: ClassChange) -> dict[str, object]:
    """Return the payload of asset_class_changed."""
    return {
        "previous_class": change.previous.name,
        "asset_class": change.current.name,
        "since": change.on.isoformat(),
        "days_past_due": change.days_past_due,
    }


# --- From the facts -------------------------------------------------------------------------------

_LOANS = Statement(
    f"""SELECT {loans.COLUMNS} FROM loans l
    WHERE l.customer_id = ANY(CAST(:customer_ids AS bigint[])) ORDER BY l.customer_id, l.loan_id"""
)
# Those that count: not the reversed ones.
_PAYMENTS = Statement(
    """SELECT p.customer_id, p.loan_id, p.payment_number, p.amount_paise, p.paid_on, p.purpose,
        p.effect, p.charge_paise
    FROM payments p
    LEFT JOIN payment_reversals v ON v.customer_id = p.customer_id AND v.loan_id = p.loan_id
        AND v.payment_number = p.payment_number
    WHERE p.customer_id = ANY(CAST(:customer_ids AS bigint[])) AND v.customer_id IS NULL"""
)


class LoanFacts(NamedTuple):
    """All loans of a customer, and what settled their installments."""

    loans: list[Loan]
    settlements: Settlements


def facts(connection: Connection, customer_ids: Collection[int]) -> dict[int, LoanFacts]:
    """Return the facts of these customers by id; of an unknown one, no loans.

    Two statements. A payment in between is missing from the loans alone; a write that is guarded by
    a version read before fails then.
    """
    values = {"customer_ids": list(customer_ids)}
    found: dict[int, list[Loan]] = {each: [] for each in customer_ids}
    for row in _LOANS.rows(connection, values):
        loan = loans.loan(row)
        found[loan.customer_id].append(loan)
    payments: dict[tuple[int, int], list[PaymentFact]] = {}
    for row in _PAYMENTS.rows(connection, values):
        payments.setdefault((row[0], row[1]), []).append(_payment(row))
    return {
        customer_id: LoanFacts(
            of_customer,
            {
                each.loan_id: _settlements(each, payments[customer_id, each.loan_id])
                for each in of_customer
                if (customer_id, each.loan_id) in payments
            },
        )
        for customer_id, of_customer in found.items()
    }


def _payment(row: Row) -> PaymentFact:
    number, amount_paise, paid_on, purpose, effect, charge_paise = row[2:]
    return PaymentFact(
        payment_number=number,
        amount_paise=amount_paise,
        paid_on=paid_on,
        purpose=PaymentPurpose(purpose),
        effect=None if effect is None else PrepaymentEffect(effect),
        charge_paise=charge_paise,
    )


def _settlements(loan: Loan, payments: Sequence[PaymentFact]) -> Sequence[Settlement]:
    # What a payment settles does not depend on whether it is on time.
    return replay(replace(loan, on_time_at_import=0), payments).settlements


# The oldest due date, and for a customer in arrears whether payments may have kept an NPA.
_OLDEST = Statement(
    f"""SELECT c.customer_id, o.oldest, o.oldest <= :day AND EXISTS (
        SELECT FROM payments p WHERE p.customer_id = c.customer_id)
    FROM customers c CROSS JOIN LATERAL (
        SELECT min({loans.FIRST_UNPAID_DUE}) AS oldest FROM loans l
        WHERE l.customer_id = c.customer_id AND l.closed_on IS NULL
    ) o
    WHERE c.customer_id = ANY(CAST(:customer_ids AS bigint[]))"""
)


def compute(connection: Connection, customer_ids: Collection[int], day: date) -> dict[int, Arrears]:
    """Return the arrears of these customers at the end of `day` by id, from loans and payments.
    Unknown customers are missing. `day` is on or after the days of all payments."""
    rows = _OLDEST.rows(connection, {"customer_ids": list(customer_ids), "day": day})
    found = {customer_id: Arrears(oldest) for customer_id, oldest, _ in rows}
    with_history = [customer_id for customer_id, _, has_history in rows if has_history]
    if with_history:
        for customer_id, of in facts(connection, with_history).items():
            found[customer_id] = delinquency.arrears(of.loans, of.settlements, day)
    return found


def class_since(connection: Connection, customer_id: int, known: Arrears, day: date) -> date | None:
    """Return the first day of the class that a customer with these arrears has at the end of `day`;
    None if the customer was never in arrears.

    Also None if a concurrent call has changed the class since the arrears were read.
    """
    current = known.asset_class(day)
    if current is AssetClass.NPA:
        return known.npa_from
    stored = facts(connection, [customer_id])[customer_id]
    found = delinquency.delinquency(stored.loans, stored.settlements, day)
    return found.since if found.asset_class is current else None


def with_loan(
    connection: Connection,
    after: Loan,
    day: date,
    *,
    settlements: Sequence[Settlement] | None = None,
    added: Settlement | None = None,
) -> Arrears:
    """Return the customer's arrears at the end of `day` with the loan as it will be stored.

    `settlements` are what settled its installments; None means those of the stored payments, with
    `added`.
    """
    stored = facts(connection, [after.customer_id])[after.customer_id]
    others = [each for each in stored.loans if each.loan_id != after.loan_id]
    if settlements is None:
        settlements = stored.settlements.get(after.loan_id, ())
        settlements = [*settlements, *([] if added is None else [added])]
    return delinquency.arrears(
        [*others, after], {**stored.settlements, after.loan_id: settlements}, day
    )


# --- Stored ---------------------------------------------------------------------------------------

_UNKNOWN = Statement(
    """SELECT customer_id FROM customers
    WHERE customer_id > :after AND arrears_version <> version
    ORDER BY customer_id LIMIT :limit"""
)
_FILL = """
    UPDATE customers c SET oldest_unpaid_due = nullif(n.oldest, '-infinity'),
        npa_since = nullif(n.npa_since, '-infinity'), arrears_version = c.version
    FROM unnest(%(customer_ids)s, %(oldest)s, %(npa_since)s)
        AS n (customer_id, oldest, npa_since)
    WHERE c.customer_id = n.customer_id"""


def unknown(connection: Connection, after: int, limit: int) -> list[int]:
    """Return customers with ids above `after`, in order, whose stored arrears are not known."""
    return [row[0] for row in _UNKNOWN.rows(connection, {"after": after, "limit": limit})]


def fill(connection: Connection, customer_ids: Collection[int], day: date) -> None:
    """Compute and store the arrears of customers that this transaction has locked."""
    found = compute(connection, customer_ids, day)
    if not found:
        return
    driver_cursor(connection).execute(
        _FILL,
        {
            "customer_ids": Bigints(np.array(list(found), np.int64)),
            "oldest": _days([each.oldest_unpaid_due for each in found.values()]),
            "npa_since": _days([each.npa_since for each in found.values()]),
        },
    )


def _days(found: Sequence[date | None]) -> Dates:
    days = [_NO_DAY if each is None else each.toordinal() - _EPOCH_ORDINAL for each in found]
    return Dates(np.array(days, np.int64), _NO_DAY)


# --- Announced ------------------------------------------------------------------------------------

_ANNOUNCED = Statement(
    """SELECT c.customer_id, c.event_seq, c.version, c.announced_class, c.oldest_unpaid_due,
        c.npa_since
    FROM customers c
    WHERE c.customer_id = ANY(CAST(:customer_ids AS bigint[])) AND c.arrears_version = c.version
    ORDER BY c.customer_id"""
)
_ANNOUNCE = """
    WITH u AS (
        UPDATE customers c SET event_seq = n.event_seq, announced_class = n.announced_class
        FROM unnest(%(customer_ids)s, %(last_seqs)s, %(classes)s)
            AS n (customer_id, event_seq, announced_class)
        WHERE c.customer_id = n.customer_id
    )
    INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
        traceparent)
    SELECT customer_id, event_seq, 'asset_class_changed', version, %(now)s, payload::json,
        %(traceparent)s::text
    FROM unnest(%(ids)s, %(event_seqs)s, %(versions)s,
        string_to_array(%(payloads)s, chr(10))) AS e (customer_id, event_seq, version, payload)"""


@dataclass(frozen=True, slots=True)
class _Announced:
    customer_id: int
    event_seq: int
    version: int
    announced: AssetClass
    arrears: Arrears


def _read_announced(connection: Connection, customer_ids: Collection[int]) -> list[_Announced]:
    rows = _ANNOUNCED.rows(connection, {"customer_ids": list(customer_ids)})
    return [_Announced(*[*row[:3], AssetClass(row[3]), Arrears(*row[4:])]) for row in rows]


def to_announce(connection: Connection, customer_ids: Collection[int], day: date) -> list[int]:
    """Return those of these customers whose class at the end of the day before `day` is not
    announced yet, in order."""
    return [
        each.customer_id
        for each in _read_announced(connection, customer_ids)
        if class_changes(each.announced, each.arrears, each.arrears, day)
    ]


def announce(connection: Connection, customer_ids: Collection[int], moment: Moment) -> list[str]:
    """Write an event for each change of class that is not announced yet, of customers that this
    transaction has locked; return the names of the new classes. Customers with unknown arrears are
    left out."""
    ends: list[tuple[int, int, int]] = []
    events: list[tuple[_Announced, int, ClassChange]] = []
    for each in _read_announced(connection, customer_ids):
        changes = class_changes(each.announced, each.arrears, each.arrears, moment.today)
        for number, change in enumerate(changes, start=1):
            events.append((each, each.event_seq + number, change))
        if changes:
            last = int(changes[-1].current)
            ends.append((each.customer_id, each.event_seq + len(changes), last))
    if not events:
        return []
    customers, last_seqs, classes = (np.array(column) for column in zip(*ends, strict=True))
    driver_cursor(connection).execute(
        _ANNOUNCE,
        {
            "customer_ids": Bigints(customers),
            "last_seqs": Bigints(last_seqs),
            "classes": Integers(classes),
            "ids": Bigints(np.array([each.customer_id for each, _, _ in events])),
            "event_seqs": Bigints(np.array([event_seq for _, event_seq, _ in events])),
            "versions": Bigints(np.array([each.version for each, _, _ in events])),
            "payloads": "\n".join(json.dumps(event_fields(change)) for _, _, change in events),
            "now": moment.now,
            "traceparent": tracing.traceparent(),
        },
    )
    return [change.current.name for _, _, change in events]


_ANNOUNCE_NOTHING = """
    UPDATE customers c SET announced_class = n.announced_class
    FROM unnest(%(customer_ids)s, %(classes)s) AS n (customer_id, announced_class)
    WHERE c.customer_id = n.customer_id AND c.announced_class <> n.announced_class"""


def take_as_announced(connection: Connection, customer_ids: Collection[int], day: date) -> None:
    """Store the class at the end of the day before `day` as announced, without an event, of
    customers that this transaction has locked: their arrears are older than this release."""
    found = _read_announced(connection, customer_ids)
    if found:
        yesterday = day - timedelta(days=1)
        classes = [int(each.arrears.asset_class(yesterday)) for each in found]
        values: Mapping[str, Any] = {
            "customer_ids": Bigints(np.array([each.customer_id for each in found], np.int64)),
            "classes": Integers(np.array(classes)),
        }
        driver_cursor(connection).execute(_ANNOUNCE_NOTHING, values)


_DUE_ON = Statement(
    f"""SELECT DISTINCT l.customer_id FROM loans l
    WHERE l.closed_on IS NULL AND {loans.FIRST_UNPAID_DUE} = :due AND l.customer_id > :after
    ORDER BY l.customer_id LIMIT :limit"""
)
_OVERDUE = Statement(
    f"""SELECT {loans.FIRST_UNPAID_DUE}, l.customer_id, l.loan_id FROM loans l
    WHERE l.closed_on IS NULL AND {loans.FIRST_UNPAID_DUE} <= :until
        AND ({loans.FIRST_UNPAID_DUE}, l.customer_id, l.loan_id)
            > (CAST(:due AS date), :customer_id, :loan_id)
    ORDER BY 1, 2, 3 LIMIT :limit"""
)


def class_days(day: date) -> list[date]:
    """Return the due dates on which an unpaid installment changes the class at the end of
    `day`."""
    return [day - timedelta(days=days - 1) for days in CLASS_DAYS.values()]


def due_on(connection: Connection, due: date, after: int, limit: int) -> list[int]:
    """Return customers with ids above `after`, in order, who have a loan whose first unpaid
    installment fell due on that day."""
    values = {"due": due, "after": after, "limit": limit}
    return [row[0] for row in _DUE_ON.rows(connection, values)]


OverdueKey = tuple[date, int, int]
"""Due date of the first unpaid installment, customer and loan."""


def overdue(
    connection: Connection, until: date, after: OverdueKey | None, limit: int
) -> list[OverdueKey]:
    """Return the keys of loans past due at the end of `until`, the longest first, after a key."""
    due, customer_id, loan_id = after or (date.min, 0, 0)
    values = {
        "until": until,
        "due": due,
        "customer_id": customer_id,
        "loan_id": loan_id,
        "limit": limit,
    }
    return [(row[0], row[1], row[2]) for row in _OVERDUE.rows(connection, values)]


_READ_BOOKMARK = Statement("SELECT position FROM bookmarks WHERE name = 'classes'")
_MOVE_BOOKMARK = Statement(
    """INSERT INTO bookmarks (name, position) VALUES ('classes', :position)
    ON CONFLICT (name) DO UPDATE SET position = greatest(bookmarks.position, :position)"""
)


def announced_until(connection: Connection) -> date | None:
    """Return the last day at whose end the classes are announced; None before the first one."""
    row = _READ_BOOKMARK.row(connection, {})
    return None if row is None else date.fromordinal(row[0])


def note_announced(connection: Connection, day: date) -> None:
    """Store that the classes at the end of `day` are announced."""
    _MOVE_BOOKMARK.run(connection, {"position": day.toordinal()})

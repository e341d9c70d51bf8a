"""Take back the rows of an ingestion: remove those it inserted, restore those it updated.

Rows are found by their customers, in ranges of ids: a row refers to the ingestion that last wrote
it, and a changed fact to the one that had written the row before. Everything happens in the
caller's transaction, with the customers locked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from credit_service.spreadsheets.columns import Kind
from credit_service.storage import bulk_changes, cluster, imported_customers, imported_loans
from credit_service.storage.arrays import Bigints, driver_cursor
from credit_service.storage.bulk_changes import Origin

PAYMENT_SINCE = "PAYMENT_SINCE"
BOOKING_SINCE = "BOOKING_SINCE"
CHANGE_SINCE = "CHANGE_SINCE"
CUSTOMER_IN_USE = "CUSTOMER_IN_USE"
PHONE_TAKEN = "PHONE_TAKEN"


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A row that an ingestion wrote, and the code of what keeps it there, if anything.

    `loan_id` is 0 for a customer. `phone_number` is the stored one of a customer, and
    `former_phone_number` the one from before an update that changed it.
    """

    customer_id: int
    loan_id: int
    row_number: int
    was_updated: bool
    kept_by: str | None
    phone_number: str = ""
    former_phone_number: str | None = None


_RANGE_END = """SELECT max(customer_id) FROM (
        SELECT customer_id FROM customers WHERE customer_id > %s ORDER BY customer_id LIMIT %s
    ) AS r"""
_IN_RANGE = "customer_id > %(after)s AND customer_id <= %(until)s"


def _customers_of(table: str) -> str:
    return f"""SELECT customer_id FROM {table}
        WHERE {_IN_RANGE} AND ingestion_id = %(ingestion_id)s
        UNION SELECT customer_id FROM fact_changes
        WHERE {_IN_RANGE} AND previous_ingestion_id = %(ingestion_id)s"""


_CUSTOMERS: dict[Kind, str] = {
    "CUSTOMERS": _customers_of("customers"),
    "LOANS": _customers_of("loans"),
}
_LOCK_ALL = "SELECT customer_id FROM customers WHERE customer_id = ANY(%s) ORDER BY customer_id"
# FOR UPDATE, because customers may be removed: the lock that a loan's insertion waits for.
_LOCK: dict[Kind, str] = {
    "CUSTOMERS": f"{_LOCK_ALL} FOR UPDATE",
    "LOANS": f"{_LOCK_ALL} FOR NO KEY UPDATE",
}


def range_end(connection: Connection, after: int, limit: int) -> int | None:
    """Return the id of the last of the next `limit` customers with ids above `after`; None without
    any."""
    row = driver_cursor(connection).execute(_RANGE_END, (after, limit), binary=True).fetchone()
    return None if row is None else row[0]


def lock_customers(
    connection: Connection, kind: Kind, ingestion_id: UUID, after: int, until: int
) -> NDArray[np.int64]:
    """Lock the customers with ids above `after` up to `until` of which, or of whose loans, the
    ingestion wrote rows; return their ids in order."""
    cursor = driver_cursor(connection)
    values = {"after": after, "until": until, "ingestion_id": ingestion_id}
    rows = cursor.execute(_CUSTOMERS[kind], values, binary=True).fetchall()
    ids = np.sort(np.array([row[0] for row in rows], np.int64))
    for group in cluster.lockable(connection, ids):
        cursor.execute(_LOCK[kind], (Bigints(group),))
    return ids


# The changes that the ingestion made, without those of its revert.
_ITS_CHANGES = """fact_changes
        WHERE customer_id = ANY(%(ids)s) AND ingestion_id = %(ingestion_id)s
            AND previous_ingestion_id IS DISTINCT FROM %(ingestion_id)s"""
_LAST_APPROVALS = """SELECT customer_id, max(decided_at) AS approved_at FROM decisions
        WHERE customer_id = ANY(%(ids)s) AND approved GROUP BY customer_id"""

# --- Loans ----------------------------------------------------------------------------------------

# Four statements, each of one table, instead of a join: with statistics from before a large import
# the planner compares every loan with every change, which takes a minute for 1,00,000 loans instead
# of seconds.
_WRITTEN_LOANS = """
    SELECT customer_id, loan_id, ingestion_row FROM loans
    WHERE customer_id = ANY(%(ids)s) AND ingestion_id = %(ingestion_id)s"""
_CHANGED_LOANS = f"""
    SELECT customer_id, loan_id, max(changed_at) FROM {_ITS_CHANGES}
        AND loan_id IS NOT NULL GROUP BY customer_id, loan_id"""
_PAID_LOANS = "SELECT DISTINCT customer_id, loan_id FROM payments WHERE customer_id = ANY(%(ids)s)"
_OVERWRITTEN_LOANS = f"""
    SELECT DISTINCT l.customer_id, l.loan_id, f.previous_ingestion_row, false, '{CHANGE_SINCE}'
    FROM fact_changes f JOIN loans l USING (customer_id, loan_id)
    WHERE f.customer_id = ANY(%(ids)s) AND f.previous_ingestion_id = %(ingestion_id)s
        AND l.ingestion_id IS DISTINCT FROM %(ingestion_id)s"""
_REMOVE_LOANS = """DELETE FROM loans l
    USING unnest(%s::bigint[], %s::bigint[]) AS w (customer_id, loan_id)
    WHERE l.customer_id = w.customer_id AND l.loan_id = w.loan_id"""
_LOAN_TYPES = {
    "principal_paise": "bigint",
    "annual_rate_bps": "int",
    "tenure_months": "smallint",
    "installment_paise": "bigint",
    "emis_paid_on_time": "smallint",
    "start_date": "date",
    "end_date": "date",
    "installments_settled": "smallint",
    "closed_on": "date",
    "arrears_imported": "bool",
}
_CUSTOMER_TYPES = {
    "first_name": "text",
    "last_name": "text",
    "age": "smallint",
    "monthly_income_paise": "bigint",
    "phone_number": "text",
    "approved_limit_paise": "bigint",
    "limit_set": "bool",
}
_REVERTED = ", 'reverted', true"


def _former(types: dict[str, str]) -> str:
    """Return the columns with the former facts: of o, or the stored ones of t if unchanged."""
    return ", ".join(
        f"CASE WHEN o.facts ? '{name}' THEN (o.facts ->> '{name}')::{kind} ELSE t.{name} END"
        f" AS {name}"
        for name, kind in types.items()
    )


_FORMER_ORIGIN = """jsonb_object_agg(fact, old_value) AS facts,
            (array_agg(previous_ingestion_id))[1] AS previous_id,
            (array_agg(previous_ingestion_row))[1] AS previous_row"""
_RESTORE_LOANS = imported_loans.loans_update(
    f"""
        SELECT t.customer_id, t.loan_id, {_former(_LOAN_TYPES)}, o.previous_id AS ingestion_id,
            o.previous_row AS ingestion_row
        FROM unnest(%(ids)s::bigint[], %(loan_ids)s::bigint[]) AS w (customer_id, loan_id)
        JOIN loans t ON t.customer_id = w.customer_id AND t.loan_id = w.loan_id
        JOIN (
            SELECT customer_id, loan_id, {_FORMER_ORIGIN} FROM {_ITS_CHANGES}
                AND loan_id IS NOT NULL GROUP BY customer_id, loan_id
        ) o ON o.customer_id = t.customer_id AND o.loan_id = t.loan_id""",
    _REVERTED,
)


def written_loans(
    connection: Connection, ids: NDArray[np.int64], ingestion_id: UUID, since: datetime
) -> list[WrittenRow]:
    """Return the loans of these customers that the ingestion inserted or updated, by customer and
    loan, also those that a later import updated. `since` is when it began."""
    values = {"ids": Bigints(ids), "ingestion_id": ingestion_id}
    cursor = driver_cursor(connection)

    def found(statement: str) -> list[tuple[Any, ...]]:
        return cursor.execute(statement, values, binary=True).fetchall()

    changed = {(customer, loan): at for customer, loan, at in found(_CHANGED_LOANS)}
    paid = set(found(_PAID_LOANS))
    approved: dict[int, datetime] = dict(found(_LAST_APPROVALS))

    def kept_by(loan: tuple[int, int]) -> str | None:
        if loan in paid:
            return PAYMENT_SINCE
        approved_at = approved.get(loan[0])
        is_booked_since = approved_at is not None and approved_at >= changed.get(loan, since)
        return BOOKING_SINCE if is_booked_since else None

    rows = [
        WrittenRow(customer, loan, row, (customer, loan) in changed, kept_by((customer, loan)))
        for customer, loan, row in found(_WRITTEN_LOANS)
    ]
    rows += [WrittenRow(*row) for row in found(_OVERWRITTEN_LOANS)]
    return sorted(rows, key=lambda row: (row.customer_id, row.loan_id))


def remove_loans(connection: Connection, rows: Sequence[WrittenRow]) -> None:
    """Delete loans of locked customers. The caller refreshes the positions afterwards."""
    driver_cursor(connection).execute(_REMOVE_LOANS, _keys(rows))


def restore_loans(connection: Connection, rows: Sequence[WrittenRow], origin: Origin) -> None:
    """Give updated loans of locked customers their former facts, record each changed fact and write
    it as an event. The caller refreshes the positions afterwards."""
    customer_ids, loan_ids = _keys(rows)
    values = bulk_changes.values_of(origin) | {"ids": customer_ids, "loan_ids": loan_ids}
    driver_cursor(connection).execute(_RESTORE_LOANS, values)


def _keys(rows: Sequence[WrittenRow]) -> tuple[Bigints, Bigints]:
    return (
        Bigints(np.array([row.customer_id for row in rows], np.int64)),
        Bigints(np.array([row.loan_id for row in rows], np.int64)),
    )


# --- Customers ------------------------------------------------------------------------------------

_WRITTEN_CUSTOMERS = f"""
    SELECT c.customer_id, 0::bigint, c.ingestion_row, f.changed_at IS NOT NULL,
        CASE WHEN m.event_seq > coalesce(f.event_seq, 0) THEN '{CHANGE_SINCE}'
            WHEN f.changed_at IS NOT NULL AND d.approved_at >= f.changed_at THEN '{BOOKING_SINCE}'
            WHEN f.changed_at IS NULL AND (l.customer_id IS NOT NULL OR a.customer_id IS NOT NULL)
            THEN '{CUSTOMER_IN_USE}' END,
        c.phone_number, f.phone_number
    FROM customers c
    LEFT JOIN (
        SELECT customer_id, max(changed_at) AS changed_at, max(event_seq) AS event_seq,
            max(old_value) FILTER (WHERE fact = 'phone_number') AS phone_number
        FROM {_ITS_CHANGES} AND loan_id IS NULL GROUP BY customer_id
    ) f USING (customer_id)
    LEFT JOIN (
        SELECT customer_id, max(event_seq) AS event_seq FROM fact_changes
        WHERE customer_id = ANY(%(ids)s) AND ingestion_id IS NULL AND loan_id IS NULL
        GROUP BY customer_id
    ) m USING (customer_id)
    LEFT JOIN (
        SELECT DISTINCT customer_id FROM loans WHERE customer_id = ANY(%(ids)s)
    ) l USING (customer_id)
    LEFT JOIN (
        SELECT DISTINCT customer_id FROM decisions WHERE customer_id = ANY(%(ids)s)
    ) a USING (customer_id)
    LEFT JOIN ({_LAST_APPROVALS}) d USING (customer_id)
    WHERE c.customer_id = ANY(%(ids)s) AND c.ingestion_id = %(ingestion_id)s"""
_OVERWRITTEN_CUSTOMERS = f"""
    SELECT DISTINCT c.customer_id, 0::bigint, f.previous_ingestion_row, false, '{CHANGE_SINCE}'
    FROM fact_changes f JOIN customers c USING (customer_id)
    WHERE f.customer_id = ANY(%(ids)s) AND f.previous_ingestion_id = %(ingestion_id)s
        AND f.loan_id IS NULL AND c.ingestion_id IS DISTINCT FROM %(ingestion_id)s"""
_REMEMBER_REMOVED = """
    INSERT INTO removed_customers (customer_id, version, event_seq, ingestion_id, removed_at)
    SELECT customer_id, version, event_seq, %(ingestion_id)s::uuid, %(now)s::timestamptz
    FROM customers WHERE customer_id = ANY(%(ids)s)
    ON CONFLICT (customer_id) DO UPDATE SET version = excluded.version,
        event_seq = excluded.event_seq, ingestion_id = excluded.ingestion_id,
        removed_at = excluded.removed_at"""
_REMOVE_CUSTOMERS = tuple(
    f"DELETE FROM {table} WHERE customer_id = ANY(%(ids)s)"
    for table in ("credit_scores", "contested_customers", "customers")
)
_RESTORE_CUSTOMERS = imported_customers.customers_update(
    f"""
        SELECT t.customer_id, {_former(_CUSTOMER_TYPES)}, o.previous_id AS ingestion_id,
            o.previous_row AS ingestion_row
        FROM customers t
        JOIN (
            SELECT customer_id, {_FORMER_ORIGIN} FROM {_ITS_CHANGES}
                AND loan_id IS NULL GROUP BY customer_id
        ) o ON o.customer_id = t.customer_id
        WHERE t.customer_id = ANY(%(ids)s)""",
    _REVERTED,
)
_REMOVED = """SELECT customer_id FROM removed_customers
    WHERE ingestion_id = %s AND customer_id > %s ORDER BY customer_id LIMIT %s"""


def written_customers(
    connection: Connection, ids: NDArray[np.int64], ingestion_id: UUID, since: datetime
) -> list[WrittenRow]:
    """Return those of these customers that the ingestion inserted or updated, by id, also those
    that a later import updated. `since` is when it began."""
    values = {"ids": Bigints(ids), "ingestion_id": ingestion_id, "since": since}
    cursor = driver_cursor(connection)
    rows = [
        WrittenRow(*row)
        for statement in (_WRITTEN_CUSTOMERS, _OVERWRITTEN_CUSTOMERS)
        for row in cursor.execute(statement, values, binary=True).fetchall()
    ]
    return sorted(rows, key=lambda row: row.customer_id)


def remove_customers(connection: Connection, rows: Sequence[WrittenRow], origin: Origin) -> None:
    """Delete locked customers without loans and decisions, with their phone numbers and scores.

    Their recorded changes, the history of their scores and their events stay.
    """
    values: dict[str, Any] = bulk_changes.values_of(origin)
    values["ids"], _ = _keys(rows)
    imported_customers.move_phone_numbers(
        connection, [(row.customer_id, row.phone_number, None) for row in rows]
    )
    cursor = driver_cursor(connection)
    for statement in (_REMEMBER_REMOVED, *_REMOVE_CUSTOMERS):
        cursor.execute(statement, values)


def restore_customers(connection: Connection, rows: Sequence[WrittenRow], origin: Origin) -> None:
    """Give updated, locked customers their former facts, record each changed fact and write it as
    an event.

    Raises psycopg.Error, a unique violation, if a phone number was taken meanwhile.
    """
    moves = [
        (row.customer_id, row.phone_number, row.former_phone_number)
        for row in rows
        if row.former_phone_number is not None
    ]
    imported_customers.move_phone_numbers(connection, moves)
    values: dict[str, Any] = bulk_changes.values_of(origin)
    values["ids"], _ = _keys(rows)
    driver_cursor(connection).execute(_RESTORE_CUSTOMERS, values)


def removed_customers(
    connection: Connection, ingestion_id: UUID, after: int, limit: int
) -> list[int]:
    """Return the ids above `after` of customers that the revert of the ingestion removed, and that
    no import has inserted again, in order."""
    rows = driver_cursor(connection).execute(_REMOVED, (ingestion_id, after, limit), binary=True)
    return [row[0] for row in rows]

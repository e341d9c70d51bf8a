"""The reads of the reconciliation, its progress, and the discrepancies that it found."""

import json
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.loan_replay import replay
from credit_service.domain.loans import Loan
from credit_service.domain.positions import Hold
from credit_service.storage import holds, loans, payments
from credit_service.storage.statements import Statement

_NAME = "reconcile"

_TAKE_BOOKMARK = text(
    """INSERT INTO bookmarks (name, position) VALUES (:name, 0)
    ON CONFLICT (name) DO UPDATE SET position = bookmarks.position RETURNING position"""
)
_MOVE_BOOKMARK = text("UPDATE bookmarks SET position = :position WHERE name = :name")
_NEXT_IDS = text(
    "SELECT customer_id FROM customers WHERE customer_id > :after ORDER BY customer_id LIMIT :limit"
)
_LOANS = text(f"SELECT {loans.COLUMNS} FROM loans l WHERE l.customer_id = ANY(:customer_ids)")
_HISTORIES = Statement(
    f"""SELECT {loans.COLUMNS}, {payments.COLUMNS}
    FROM loans l
    LEFT JOIN payments p ON p.customer_id = l.customer_id AND p.loan_id = l.loan_id
    {payments.WITH_REVERSALS}
    WHERE l.customer_id = ANY(:customer_ids)
    ORDER BY l.customer_id, l.loan_id, p.payment_number"""
)
_HOLDS = text(
    f"SELECT c.customer_id, {holds.OPEN} FROM customers c WHERE c.customer_id = ANY(:customer_ids)"
)
_RECORD = text(
    """INSERT INTO discrepancies (customer_id, found_at, stored, computed)
    VALUES (:customer_id, :now, CAST(:stored AS json), CAST(:computed AS json))"""
)


def next_sample(connection: Connection, limit: int) -> list[int]:
    """Return the ids after the last sample, wrapping around at the end, and move the bookmark.

    Concurrent calls wait for each other, so that they do not sample the same ids.
    """
    after = connection.execute(_TAKE_BOOKMARK, {"name": _NAME}).scalar_one()
    ids = list(connection.execute(_NEXT_IDS, {"after": after, "limit": limit}).scalars())
    reached = ids[-1] if len(ids) == limit else 0
    connection.execute(_MOVE_BOOKMARK, {"name": _NAME, "position": reached})
    return ids


def wrong_loans(
    connection: Connection, customer_ids: list[int]
) -> dict[int, list[tuple[Loan, Loan]]]:
    """Return the loans of these customers that differ from a replay of their payments, by customer:
    each as stored and as computed.

    Needs no lock: the statement reads a loan and its payments at one instant.
    """
    found: dict[int, list[tuple[Loan, Loan]]] = {}
    rows = _HISTORIES.rows(connection, {"customer_ids": customer_ids})
    for _, of_loan in groupby(rows, key=lambda row: tuple(row[:2])):
        history = payments.history_from(list(of_loan))
        stored, agreed = history.stored, history.loan
        if not agreed.imported:
            agreed = replace(agreed, on_time_at_import=0)
        computed = replay(agreed, history.facts()).loan
        if replace(stored, on_time_at_import=agreed.on_time_at_import) != computed:
            found.setdefault(stored.customer_id, []).append((stored, computed))
    return found


def loans_of(connection: Connection, customer_ids: list[int]) -> dict[int, list[Loan]]:
    """Return all loans of these customers, by customer."""
    found: dict[int, list[Loan]] = {each: [] for each in customer_ids}
    for row in connection.execute(_LOANS, {"customer_ids": customer_ids}):
        found[row.customer_id].append(loans.loan(row))
    return found


def open_holds(connection: Connection, customer_ids: list[int]) -> dict[int, list[Hold]]:
    """Return the holds of these customers' OPEN offers, by customer."""
    rows = connection.execute(_HOLDS, {"customer_ids": customer_ids})
    return {row[0]: holds.holds(row[1]) for row in rows}


def record_discrepancy(
    connection: Connection,
    customer_id: int,
    stored: dict[str, Any],
    computed: dict[str, Any],
    moment: Moment,
) -> None:
    """Store the wrong values and the computed ones."""
    connection.execute(
        _RECORD,
        {
            "customer_id": customer_id,
            "now": moment.now,
            "stored": json.dumps(stored, default=str),
            "computed": json.dumps(computed, default=str),
        },
    )

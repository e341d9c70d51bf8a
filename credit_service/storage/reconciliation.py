"""The reads of the reconciliation, its progress, and the discrepancies that it found."""

import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.loans import Loan
from credit_service.domain.positions import Hold
from credit_service.storage import holds, loans, payments

_NAME = "reconcile"

_TAKE_BOOKMARK = text(
    """INSERT INTO bookmarks (name, position) VALUES (:name, 0)
    ON CONFLICT (name) DO UPDATE SET position = bookmarks.position RETURNING position"""
)
_MOVE_BOOKMARK = text("UPDATE bookmarks SET position = :position WHERE name = :name")
_NEXT_IDS = text(
    "SELECT customer_id FROM customers WHERE customer_id > :after ORDER BY customer_id LIMIT :limit"
)
_LOANS = text(
    f"""SELECT {loans.COLUMNS}, coalesce(p.amount_paise, 0), coalesce(p.settled, 0)
    FROM loans l LEFT JOIN LATERAL (
        SELECT sum(amount_paise)::bigint AS amount_paise, sum(settled_count)::bigint AS settled
        FROM payments p WHERE p.customer_id = l.customer_id AND p.loan_id = l.loan_id
    ) p ON true
    WHERE l.customer_id = ANY(:customer_ids)"""
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


def loans_with_payments(
    connection: Connection, customer_ids: list[int]
) -> dict[int, list[tuple[Loan, Loan]]]:
    """Return all loans of these customers by customer, each as stored and as its payments say.

    A loan whose payments were recorded in order of their days, none of them reversed, has their
    sums; another loan is computed from each of them.
    """
    found: dict[int, list[tuple[Loan, Loan]]] = {each: [] for each in customer_ids}
    for row in connection.execute(_LOANS, {"customer_ids": customer_ids}).all():
        stored = loans.loan(row)
        paid, settled = row[loans.COLUMN_COUNT :]
        computed = replace(
            stored, paid_paise=paid, installments_settled=stored.settled_at_import + settled
        )
        if stored.on_time_at_import is not None:
            history = payments.history(connection, stored.customer_id, stored.loan_id)
            assert history is not None  # noqa: S101 - the customer is locked
            computed = history.account().loan
        found[stored.customer_id].append((stored, computed))
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

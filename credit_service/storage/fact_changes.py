"""The record of changed facts of customers and loans."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from credit_service.storage.statements import Statement


class ChangedFact(NamedTuple):
    """A fact, its column in customers or loans, with its old and new value in PostgreSQL's text
    format; None for none."""

    fact: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class StoredChange:
    """The facts that one call or one row of an import changed.

    `event_seq` is the number of the customer's event about it. `loan_id` is None for facts of the
    customer, `ingestion_id` for a change by a caller.
    """

    event_seq: int
    changed_at: datetime
    principal: str
    ingestion_id: UUID | None
    loan_id: int | None
    facts: list[ChangedFact]


_PAGE = Statement(
    """SELECT event_seq, min(changed_at), min(principal), (array_agg(ingestion_id))[1],
        min(loan_id), array_agg(fact ORDER BY fact), array_agg(old_value ORDER BY fact),
        array_agg(new_value ORDER BY fact)
    FROM fact_changes f
    WHERE f.customer_id = :customer_id AND event_seq < :before
    GROUP BY event_seq ORDER BY event_seq DESC LIMIT :limit"""
)


def page(connection: Connection, customer_id: int, before: int, limit: int) -> list[StoredChange]:
    """Return a customer's changes with event numbers below `before`, latest first, at most
    `limit`."""
    rows = _PAGE.rows(connection, {"customer_id": customer_id, "before": before, "limit": limit})
    return [
        StoredChange(seq, at, principal, ingestion_id, loan_id, list(map(ChangedFact, *facts)))
        for seq, at, principal, ingestion_id, loan_id, *facts in rows
    ]

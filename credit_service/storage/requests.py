"""Request records: what a request id was used for, so that a retry gets the same response.

A record belongs to a customer, and is stored with the customer's other rows.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.storage.statements import Statement

COLUMNS = "r.method, r.fingerprint, r.customer_id, r.decision_id, r.loan_id, r.payment_number"
"""The columns that `record` reads, in its order, of a table aliased r."""

COLUMN_COUNT = 6


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request and its effect."""

    method: str
    fingerprint: bytes
    customer_id: int
    decision_id: int | None
    loan_id: int | None
    payment_number: int | None


def record(row: Any) -> RequestRecord | None:
    """Return the record from a row of COLUMNS; None if an outer join found none."""
    if row[0] is None:
        return None
    return RequestRecord(row[0], bytes(row[1]), *row[2:COLUMN_COUNT])


_FIND = Statement(
    f"""SELECT {COLUMNS} FROM requests r
    WHERE r.customer_id = :customer_id AND r.request_id = :request_id"""
)


def find(connection: Connection, customer_id: int, request_id: UUID) -> RequestRecord | None:
    """Return the record of that request id about that customer."""
    row = _FIND.row(connection, {"customer_id": customer_id, "request_id": request_id})
    return None if row is None else record(row)

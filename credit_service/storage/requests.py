"""Request records: what a request id was used for, so that a retry gets the same response."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.storage.statements import Statement

COLUMNS = """r.method, r.fingerprint, r.customer_id, r.decision_id, r.loan_id, r.payment_number,
    r.refusal IS NOT NULL AS is_refusal"""
"""The columns that `record` reads, in its order, of a table aliased r."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request and its effect."""

    method: str
    fingerprint: bytes
    customer_id: int | None
    decision_id: int | None
    loan_id: int | None
    payment_number: int | None
    # Earlier releases stored rejections, which had no effect.
    is_refusal: bool


def record(row: Any) -> RequestRecord | None:
    """Return the record from a row of COLUMNS; None if an outer join found none."""
    if row[0] is None:
        return None
    return RequestRecord(row[0], bytes(row[1]), *row[2:7])


_FIND = Statement(f"SELECT {COLUMNS} FROM requests r WHERE r.request_id = :request_id")
_FORGET_REFUSAL = Statement(
    "DELETE FROM requests WHERE request_id = :request_id AND refusal IS NOT NULL"
)


def find(connection: Connection, request_id: UUID) -> RequestRecord | None:
    """Return the record of that request id."""
    row = _FIND.row(connection, {"request_id": request_id})
    return None if row is None else record(row)


def forget_refusal(connection: Connection, request_id: UUID) -> None:
    """Delete the rejection that an earlier release stored under the id."""
    _FORGET_REFUSAL.run(connection, {"request_id": request_id})

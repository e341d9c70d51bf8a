"""Request records: what a request id was used for, so that its answer can be given again."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.storage.statements import Statement

COLUMNS = """r.method, r.fingerprint, r.customer_id, r.decision_id, r.loan_id, r.payment_number,
    r.refusal IS NOT NULL"""
"""The columns that `record` reads, in its order, of a table known as r."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What the request was and what came of it."""

    method: str
    fingerprint: bytes
    customer_id: int | None
    decision_id: int | None
    loan_id: int | None
    payment_number: int | None
    # Earlier releases kept refusals, which had no effect.
    is_refusal: bool


def record(row: Any) -> RequestRecord | None:
    """The record of a row of COLUMNS; None when an outer join found none."""
    if row[0] is None:
        return None
    return RequestRecord(row[0], bytes(row[1]), *row[2:7])


_FIND = Statement(f"SELECT {COLUMNS} FROM requests r WHERE r.request_id = :request_id")
_FORGET_REFUSAL = Statement(
    "DELETE FROM requests WHERE request_id = :request_id AND refusal IS NOT NULL"
)


def find(connection: Connection, request_id: UUID) -> RequestRecord | None:
    """What the id was used for."""
    row = _FIND.row(connection, {"request_id": request_id})
    return None if row is None else record(row)


def forget_refusal(connection: Connection, request_id: UUID) -> None:
    """Free the id of a refusal that an earlier release kept under it."""
    _FORGET_REFUSAL.run(connection, {"request_id": request_id})

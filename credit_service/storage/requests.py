"""Request records: what a request id was used for, so that its answer can be given again."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.errors import CreditError
from credit_service.storage.statements import Statement

COLUMNS = """r.method, r.fingerprint, r.customer_id, r.decision_id, r.loan_id, r.payment_number,
    r.refusal::text"""
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
    refusal: str | None

    def raise_refusal(self) -> None:
        """Raise the refusal that the request met, when it met one."""
        if self.refusal is not None:
            raise CreditError.from_dict(json.loads(self.refusal))


def record(row: Any) -> RequestRecord | None:
    """The record of a row of COLUMNS; None when an outer join found none."""
    if row[0] is None:
        return None
    return RequestRecord(row[0], bytes(row[1]), *row[2:7])


_FIND = Statement(f"SELECT {COLUMNS} FROM requests r WHERE r.request_id = :request_id")
_REFUSE = text(
    """INSERT INTO requests (request_id, method, fingerprint, refusal, created_at, principal)
    VALUES (:request_id, :method, :fingerprint, CAST(:refusal AS json), :now, :principal)
    ON CONFLICT (request_id) DO NOTHING"""
)


def find(connection: Connection, request_id: UUID) -> RequestRecord | None:
    """What the id was used for."""
    row = _FIND.row(connection, {"request_id": request_id})
    return None if row is None else record(row)


def store_refusal(
    connection: Connection,
    request_id: UUID,
    method: str,
    fingerprint: bytes,
    refusal: CreditError,
    moment: Moment,
    principal: str,
) -> bool:
    """Keep a business refusal under the id; False when the id was taken meanwhile."""
    result = connection.execute(
        _REFUSE,
        {
            "request_id": request_id,
            "method": method,
            "fingerprint": fingerprint,
            "refusal": json.dumps(refusal.to_dict()),
            "now": moment.now,
            "principal": principal,
        },
    )
    return result.rowcount == 1

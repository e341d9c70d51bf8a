"""Request records: what a request id was used for, so that a retry gets the same response.

A record belongs to a customer, and is stored with the customer's other rows.
"""

import json
from collections.abc import Mapping
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


_INSERT_UPDATE = Statement(
    """INSERT INTO requests (request_id, method, fingerprint, customer_id, created_at, principal,
        customer_after)
    VALUES (:request_id, :method, :fingerprint, :customer_id, :now, :principal,
        CAST(:customer_after AS json))"""
)
_CUSTOMER_AFTER = Statement(
    """SELECT customer_after FROM requests
    WHERE customer_id = :customer_id AND request_id = :request_id"""
)


def insert_with_customer(
    connection: Connection, values: Mapping[str, Any], customer_after: dict[str, Any]
) -> None:
    """Insert the record of a request with its response, the customer after it.

    `values` holds the other parameters. Raises IntegrityError if a concurrent request used the id.
    """
    document = json.dumps(customer_after, default=str)
    _INSERT_UPDATE.run(connection, {**values, "customer_after": document})


def customer_after(
    connection: Connection, customer_id: int, request_id: UUID
) -> dict[str, Any] | None:
    """Return the customer after that request, as stored by `insert_with_customer`."""
    row = _CUSTOMER_AFTER.row(connection, {"customer_id": customer_id, "request_id": request_id})
    return None if row is None else row[0]

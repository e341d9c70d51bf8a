"""The two statements of a group of payments in order of their days, for several customers at once.

They are those of `payment_writes` with columns of rows in place of parameters. The write is one
transaction, but each customer's rows are guarded by the version that was read. A customer whose
version has changed, or whose row another transaction has locked, is left out. So no group waits for
a lock of a customer, and two groups cannot wait for each other.
"""

import re
from collections.abc import Collection, Sequence
from datetime import date
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from credit_service.storage import payment_writes
from credit_service.storage.columns import Columns
from credit_service.storage.payment_writes import PaymentRead, PaymentWrite
from credit_service.storage.payments import StoredPayment
from credit_service.storage.statements import Statement


class Asked(NamedTuple):
    """What to read for a payment."""

    customer_id: int
    loan_id: int
    request_id: UUID


_ASKED = {"customer_id": "bigint", "loan_id": "bigint", "request_id": "uuid"}
_WRITTEN = {
    "customer_id": "bigint",
    "loan_id": "bigint",
    "read_version": "bigint",
    "event_count": "bigint",
    "current_debt_paise": "bigint",
    "current_installments_paise": "bigint",
    "emis_on_time": "integer",
    "emis_due": "integer",
    "current_year_loans": "integer",
    "valid_until": "date",
    "held_principal_paise": "bigint",
    "held_installments_paise": "bigint",
    "held_valid_until": "date",
    "arrears_known": "boolean",
    "oldest_unpaid_due": "date",
    "npa_since": "date",
    "read_class": "smallint",
    "announced_class": "smallint",
    "change_count": "bigint",
    "class_changes": "json",
    "loan_on_time": "smallint",
    "loan_settled": "smallint",
    "amount_paise": "bigint",
    "paid_on": "date",
    "closed_on": "date",
    "request_id": "uuid",
    "fingerprint": "bytea",
    "principal": "text",
    "now": "timestamptz",
    "first_settled": "smallint",
    "settled_count": "smallint",
    "on_time_count": "smallint",
    "purpose": "text",
    "effect": "text",
    "grace_days": "smallint",
    "charge_paise": "bigint",
    "facts": "json",
    "traceparent": "text",
}


def _for_rows(text: str, alias: str, columns: Collection[str]) -> str:
    """Return the statement with these columns of a row in place of the parameters."""
    return re.sub(rf":({'|'.join(columns)})\b", rf"{alias}.\1", text)


_ASKED_COLUMNS, _WRITTEN_COLUMNS = Columns(_ASKED), Columns(_WRITTEN)
# OFFSET keeps the planner from joining whole tables: each row is found by its keys.
READ = Statement(
    f"""SELECT f.* FROM {_ASKED_COLUMNS.source}
    CROSS JOIN LATERAL ({_for_rows(payment_writes.INPUTS, "g", _ASKED)} OFFSET 0) AS f"""
)


def read(connection: Connection, asked: Sequence[Asked], day: date) -> dict[int, PaymentRead]:
    """Return what `payment_writes.read` does, of each known customer, by id. The customers
    differ."""
    values = {**_ASKED_COLUMNS.values([each._asdict() for each in asked]), "today": day}
    return {row[0]: payment_writes.payment_read(row) for row in READ.rows(connection, values)}


_MOVE_CUSTOMERS = _for_rows(
    payment_writes.MOVE_CUSTOMER.format(
        rows="\n        FROM k", returned="customers.version, customers.event_seq, k.*"
    ),
    "k",
    _WRITTEN,
)
# k has the locked customers. SKIP LOCKED needs no order of the locks: it waits for none.
WRITE = Statement(
    f"""
    WITH k AS (
        SELECT g.* FROM {_WRITTEN_COLUMNS.source}
        CROSS JOIN LATERAL (
            SELECT FROM customers
            WHERE customers.customer_id = g.customer_id AND version = g.read_version
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS locked
    ), c AS ({_MOVE_CUSTOMERS}
    ), {_for_rows(payment_writes.EFFECTS, "c", _WRITTEN)}"""
)


def write(
    connection: Connection, payments: Sequence[PaymentWrite], day: date
) -> dict[int, StoredPayment]:
    """Store payments of different customers on loans that were not replayed; return those that are
    stored, by customer.

    Not for a cluster. Raises IntegrityError if a concurrent request used one of the request ids:
    then none is stored.
    """
    rows = [payment_writes.payment_values(each) for each in payments]
    values = {**_WRITTEN_COLUMNS.values(rows), "today": day}
    numbers = {row[0]: row[1:] for row in WRITE.rows(connection, values)}
    return {
        customer_id: payment_writes.stored_payment(each, *numbers[customer_id])
        for each in payments
        if (customer_id := each.effects.loan_after.customer_id) in numbers
    }

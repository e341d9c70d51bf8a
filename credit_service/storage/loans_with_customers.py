"""Stored loans, each with its customer, in one statement."""

from collections.abc import Collection

from sqlalchemy import Connection

from credit_service.domain.loans import Loan
from credit_service.storage import customers, loans
from credit_service.storage.customers import CustomerView
from credit_service.storage.statements import Row, Statement

_COLUMNS = f"{loans.COLUMNS}, {customers.COLUMNS}"
_WITH_CUSTOMERS = f"""
    SELECT {_COLUMNS}
    FROM loans l JOIN customers c ON c.customer_id = l.customer_id
    WHERE l.loan_id = :loan_id"""
_LOAN_OF_CUSTOMER = Statement(f"{_WITH_CUSTOMERS} AND l.customer_id = :customer_id")
_LOANS_OF_ID = Statement(f"{_WITH_CUSTOMERS} ORDER BY l.customer_id LIMIT :limit")
_LOANS_OF_KEYS = Statement(
    f"""SELECT {_COLUMNS}
    FROM unnest(CAST(:customer_ids AS bigint[]), CAST(:loan_ids AS bigint[]))
        AS g (customer_id, loan_id)
    JOIN loans l ON l.customer_id = g.customer_id AND l.loan_id = g.loan_id
    JOIN customers c ON c.customer_id = l.customer_id"""
)


def of_id(
    connection: Connection, loan_id: int, customer_id: int | None, limit: int
) -> list[tuple[Loan, CustomerView]]:
    """Return loans with this id and their customers, in order of customer id, at most `limit`.

    Several customers may have the same imported loan id; `customer_id` selects one customer's loan.
    """
    if customer_id is None:
        rows = _LOANS_OF_ID.rows(connection, {"loan_id": loan_id, "limit": limit})
    else:
        values = {"loan_id": loan_id, "customer_id": customer_id}
        rows = _LOAN_OF_CUSTOMER.rows(connection, values)
    return [_both(row) for row in rows]


def of_keys(
    connection: Connection, keys: Collection[tuple[int, int]]
) -> list[tuple[Loan, CustomerView]]:
    """Return the loans with these keys, a customer's id and a loan's, and their customers, in any
    order. Unknown ones are left out."""
    customer_ids, loan_ids = zip(*keys, strict=True)
    values = {"customer_ids": list(customer_ids), "loan_ids": list(loan_ids)}
    return [_both(row) for row in _LOANS_OF_KEYS.rows(connection, values)]


def _both(row: Row) -> tuple[Loan, CustomerView]:
    return loans.loan(row), customers.view(row[loans.COLUMN_COUNT :])

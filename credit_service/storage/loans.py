"""Stored loans."""

from typing import Any

from sqlalchemy import Connection

from credit_service.domain.loans import Loan, LoanState
from credit_service.storage.statements import Statement

COLUMNS = """l.customer_id, l.loan_id, l.principal_paise, l.annual_rate_bps, l.tenure_months,
    l.installment_paise, l.start_date, l.end_date, l.imported, l.decision_id, l.settled_at_import,
    l.emis_paid_on_time, l.installments_settled, l.paid_paise, l.last_paid_on, l.closed_on"""
"""The fields of a Loan, in its order, of a table aliased l."""

COLUMN_COUNT = 16


def loan(row: Any) -> Loan:
    """Return the loan from a row that starts with COLUMNS."""
    return Loan(*row[:COLUMN_COUNT])


_ONE = Statement(
    f"""SELECT {COLUMNS} FROM loans l
    WHERE l.customer_id = :customer_id AND l.loan_id = :loan_id"""
)
_ALL = Statement(
    f"SELECT {COLUMNS} FROM loans l WHERE l.customer_id = :customer_id ORDER BY l.loan_id"
)


def find(connection: Connection, customer_id: int, loan_id: int) -> Loan | None:
    """Return the loan with that key."""
    row = _ONE.row(connection, {"customer_id": customer_id, "loan_id": loan_id})
    return None if row is None else loan(row)


def all_of(connection: Connection, customer_id: int) -> list[Loan]:
    """Return all loans of the customer, including closed ones, in order of id."""
    return [loan(row) for row in _ALL.rows(connection, {"customer_id": customer_id})]


_STATE_CONDITIONS = {
    None: "",
    LoanState.ACTIVE: "AND l.closed_on IS NULL",
    LoanState.CLOSED: "AND l.closed_on IS NOT NULL",
}
_PAGES = {
    state: Statement(
        f"""SELECT {COLUMNS} FROM loans l
        WHERE l.customer_id = :customer_id AND l.loan_id > :after {condition}
        ORDER BY l.loan_id LIMIT :limit"""
    )
    for state, condition in _STATE_CONDITIONS.items()
}


def page(
    connection: Connection, customer_id: int, state: LoanState | None, after: int, limit: int
) -> list[Loan]:
    """Return the customer's loans with ids above `after`, in order of id, at most `limit`."""
    rows = _PAGES[state].rows(
        connection, {"customer_id": customer_id, "after": after, "limit": limit}
    )
    return [loan(row) for row in rows]

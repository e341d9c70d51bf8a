"""Customers and the credit position that each one's row carries."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

from credit_service import tracing
from credit_service.domain.customers import Customer
from credit_service.domain.loans import Loan
from credit_service.domain.positions import CreditPosition, holds_on, position_from_loans
from credit_service.storage import loans
from credit_service.storage.statements import Statement


@dataclass(frozen=True, slots=True)
class CustomerView:
    """A customer and the credit position as stored, which may have outlived its validity."""

    customer: Customer
    position: CreditPosition


COLUMNS = """c.customer_id, c.first_name, c.last_name, c.age, c.monthly_income_paise,
    c.phone_number, c.approved_limit_paise, c.version, c.created_at, c.current_debt_paise,
    c.current_installments_paise, c.loan_count, c.total_principal_paise, c.emis_on_time,
    c.emis_due, c.current_year_loans, c.position_as_of, c.position_valid_until"""
"""The columns that `view` reads, in its order, of a table known as c."""

COLUMN_COUNT = 18

POSITION_COLUMNS = """c.customer_id, c.version, c.monthly_income_paise, c.approved_limit_paise,
    c.current_debt_paise, c.current_installments_paise, c.loan_count, c.total_principal_paise,
    c.emis_on_time, c.emis_due, c.current_year_loans, c.position_as_of, c.position_valid_until"""
"""The fields of a CreditPosition, in its order, of a table known as c."""

POSITION_COLUMN_COUNT = 13


def position(row: Any) -> CreditPosition:
    """The position of a row that begins with POSITION_COLUMNS."""
    return CreditPosition(*row[:POSITION_COLUMN_COUNT])


def view(row: Any) -> CustomerView:
    """The view of a row that begins with COLUMNS."""
    customer = Customer(*row[:9])
    return CustomerView(
        customer,
        CreditPosition(
            customer.customer_id,
            customer.version,
            customer.monthly_income_paise,
            customer.approved_limit_paise,
            *row[9:COLUMN_COUNT],
        ),
    )


_BY_ID = Statement(f"SELECT {COLUMNS} FROM customers c WHERE c.customer_id = :customer_id")
_BY_PHONE = Statement(f"SELECT {COLUMNS} FROM customers c WHERE c.phone_number = :phone_number")
_POSITION = Statement(
    f"""SELECT {POSITION_COLUMNS}, s.version
    FROM customers c LEFT JOIN scorecards s ON s.state = 'ACTIVE'
    WHERE c.customer_id = :customer_id"""
)


def find(connection: Connection, customer_id: int) -> CustomerView | None:
    """The customer of that id."""
    row = _BY_ID.row(connection, {"customer_id": customer_id})
    return None if row is None else view(row)


def find_by_phone(connection: Connection, phone_number: str) -> CustomerView | None:
    """The customer of that phone number, in E.164."""
    row = _BY_PHONE.row(connection, {"phone_number": phone_number})
    return None if row is None else view(row)


def find_position(connection: Connection, customer_id: int) -> tuple[CreditPosition, str] | None:
    """The customer's stored position and the version of the active scorecard, in one statement."""
    row = _POSITION.row(connection, {"customer_id": customer_id})
    return None if row is None else (position(row), row[POSITION_COLUMN_COUNT])


_LOCK = Statement("SELECT FROM customers WHERE customer_id = :customer_id FOR NO KEY UPDATE")


def lock(connection: Connection, customer_id: int) -> None:
    """Let other writers of this customer wait until the transaction ends.

    What is to be read under the lock is read by a statement of its own: one that locks and reads at
    once sees this row as the writer it waited for left it, but other tables as they were before.
    """
    _LOCK.run(connection, {"customer_id": customer_id})


_POSITION_WITH_LOANS = Statement(
    f"""SELECT {POSITION_COLUMNS}, {loans.COLUMNS}
    FROM customers c LEFT JOIN loans l USING (customer_id)
    WHERE c.customer_id = :customer_id"""
)


def position_with_loans(
    connection: Connection, customer_id: int
) -> tuple[CreditPosition, list[Loan]]:
    """The stored position of a customer that exists and all the loans, of one instant."""
    rows = _POSITION_WITH_LOANS.rows(connection, {"customer_id": customer_id})
    found = [row[POSITION_COLUMN_COUNT:] for row in rows]
    return position(rows[0]), [loans.loan(row) for row in found if row[0] is not None]


def position_on(connection: Connection, stored: CreditPosition, day: date) -> CreditPosition:
    """The position as it stands on the day: the stored one while it holds, else from the loans.

    Position and loans are then of one instant, which may be later than that of the one given.
    """
    if holds_on(stored, day):
        return stored
    newest, found = position_with_loans(connection, stored.customer_id)
    return position_from_loans(
        newest.customer_id,
        newest.version,
        newest.monthly_income_paise,
        newest.approved_limit_paise,
        found,
        day,
    )


_POSITIONS_AFTER = text(
    f"""SELECT {POSITION_COLUMNS} FROM customers c
    WHERE c.customer_id > :after ORDER BY c.customer_id LIMIT :limit"""
)


def positions_after(connection: Connection, after: int, limit: int) -> list[CreditPosition]:
    """Stored positions of customers of id above `after`, in order of id, at most `limit`."""
    rows = connection.execute(_POSITIONS_AFTER, {"after": after, "limit": limit})
    return [position(row) for row in rows]


def search(connection: Connection, query: str, after: int, limit: int) -> list[CustomerView]:
    """Customers of id above `after`, in order of id, at most `limit`.

    `query` is a prefix of "first last", of the last name, or of the phone number with or without
    its country code, +91, case ignored; empty means all.
    """
    prefix = query.lower().replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
    condition = """AND (lower((c.first_name || ' ') || c.last_name) LIKE :prefix
        OR lower(c.last_name) LIKE :prefix OR c.phone_number LIKE :prefix
        OR c.phone_number LIKE '+91' || :prefix)"""
    statement = text(
        f"""SELECT {COLUMNS} FROM customers c
        WHERE c.customer_id > :after {condition if query else ""}
        ORDER BY c.customer_id LIMIT :limit"""
    )
    rows = connection.execute(statement, {"after": after, "limit": limit, "prefix": prefix})
    return [view(row) for row in rows]


_INSERT = text(
    """
    WITH c AS (
        INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
            phone_number, approved_limit_paise, imported, created_at, event_seq, position_as_of,
            position_valid_until)
        VALUES (nextval('customer_ids'), :first_name, :last_name, :age, :monthly_income_paise,
            :phone_number, :approved_limit_paise, false, :now, 1, :today, :valid_until)
        RETURNING customer_id, version
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, 1, 'customer_registered', version, :now, CAST(:payload AS json),
            CAST(:traceparent AS text)
        FROM c
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, created_at, principal)
        SELECT :request_id, 'RegisterCustomer', :fingerprint, customer_id, :now, :principal FROM c
    )
    SELECT customer_id FROM c
    """
)


def register(connection: Connection, values: dict[str, Any]) -> int:
    """Insert a customer with its first event and request record, in one statement; its id.

    `values` names every bind of the statement but the trace. Raises IntegrityError when the phone
    number, the request id or, after an import, the next id is taken.
    """
    return int(
        connection.execute(_INSERT, values | {"traceparent": tracing.traceparent()}).scalar_one()
    )


_LOANS_WITH_CUSTOMERS = f"""
    SELECT {loans.COLUMNS}, {COLUMNS}
    FROM loans l JOIN customers c ON c.customer_id = l.customer_id
    WHERE l.loan_id = :loan_id"""
_LOAN_OF_CUSTOMER = Statement(f"{_LOANS_WITH_CUSTOMERS} AND l.customer_id = :customer_id")
_LOANS_OF_ID = Statement(f"{_LOANS_WITH_CUSTOMERS} ORDER BY l.customer_id LIMIT :limit")


def loans_of_id(
    connection: Connection, loan_id: int, customer_id: int | None, limit: int
) -> list[tuple[Loan, CustomerView]]:
    """Loans of this id with their customers, in order of customer id, at most `limit`.

    Imported ids may be shared; with a `customer_id` it is that customer's alone.
    """
    if customer_id is None:
        rows = _LOANS_OF_ID.rows(connection, {"loan_id": loan_id, "limit": limit})
    else:
        values = {"loan_id": loan_id, "customer_id": customer_id}
        rows = _LOAN_OF_CUSTOMER.rows(connection, values)
    return [(loans.loan(row), view(row[loans.COLUMN_COUNT :])) for row in rows]

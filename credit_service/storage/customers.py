"""Customers, and the credit position stored in each customer's row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.domain.customers import Customer
from credit_service.domain.delinquency import Arrears
from credit_service.domain.loans import Loan
from credit_service.domain.positions import (
    CreditPosition,
    Hold,
    is_valid_on,
    position_from_loans,
)
from credit_service.observability import tracing
from credit_service.storage import arrears as stored_arrears
from credit_service.storage import cluster, holds, loans, scorecards
from credit_service.storage.arrays import Bigints, driver_cursor
from credit_service.storage.statements import Statement


@dataclass(frozen=True, slots=True)
class CustomerView:
    """A customer and the stored credit position, which may be past its validity.

    `class_since` is the first day of the asset class; None where it was not read, or if the
    customer was never in arrears.
    """

    customer: Customer
    position: CreditPosition
    class_since: date | None = None


ARREARS_COLUMNS = """c.arrears_version = c.version AS arrears_known, c.oldest_unpaid_due,
    c.npa_since"""
"""The columns that `arrears` reads, in its order, of a table aliased c."""

_SUMS = f"""c.current_debt_paise, c.current_installments_paise, c.loan_count,
    c.total_principal_paise, c.emis_on_time, c.emis_due, c.current_year_loans, c.position_as_of,
    least(c.position_valid_until, c.held_valid_until), c.held_principal_paise,
    c.held_installments_paise, {ARREARS_COLUMNS}"""

COLUMNS = f"""c.customer_id, c.first_name, c.last_name, c.age, c.monthly_income_paise,
    c.phone_number, c.approved_limit_paise, c.version, c.created_at, c.limit_set, {_SUMS}"""
"""The columns that `view` reads, in its order, of a table aliased c."""

_SUMS_AT = 10
COLUMN_COUNT = 24

POSITION_COLUMNS = f"""c.customer_id, c.version, c.monthly_income_paise, c.approved_limit_paise,
    {_SUMS}"""
"""The fields of a CreditPosition, in its order, of a table aliased c.

`valid_until` is the earlier of two days: servers of the previous release know only the one of the
loans.
"""

POSITION_COLUMN_COUNT = 18
_ARREARS_AT = 15


def position(row: Any) -> CreditPosition:
    """Return the position from a row that starts with POSITION_COLUMNS."""
    return CreditPosition(*[*row[:_ARREARS_AT], arrears(row[_ARREARS_AT:POSITION_COLUMN_COUNT])])


def arrears(row: Any) -> Arrears | None:
    """Return the arrears from a row of ARREARS_COLUMNS; None if they are not known."""
    known, oldest_unpaid_due, npa_since = row
    return Arrears(oldest_unpaid_due, npa_since) if known else None


SET_ARREARS = """oldest_unpaid_due = CAST(:oldest_unpaid_due AS date),
            npa_since = CAST(:npa_since AS date),
            arrears_version = CASE WHEN :arrears_known THEN version + 1
                ELSE arrears_version + 1 END"""
"""What an update of customers that raises the version sets, with the values of `arrears_values`.

A write that changes neither loans nor payments raises arrears_version with the version instead.
"""


def arrears_values(after: CreditPosition) -> dict[str, date | bool | None]:
    """Return the values of SET_ARREARS, from the position after a write."""
    known = after.arrears or Arrears()
    return {
        "arrears_known": after.arrears is not None,
        "oldest_unpaid_due": known.oldest_unpaid_due,
        "npa_since": known.npa_since,
    }


def held_values(after: CreditPosition) -> dict[str, int | date | None]:
    """Return the values of the columns of held credit, from the position after a write.

    The last one is the day until which the others are valid, whatever a server of the previous
    release writes: it does not know them.
    """
    return {
        "held_principal_paise": after.held_principal_paise,
        "held_installments_paise": after.held_installments_paise,
        "held_valid_until": after.valid_until if after.held_principal_paise else None,
    }


def view(row: Any) -> CustomerView:
    """Return the view from a row that starts with COLUMNS."""
    customer = Customer(*row[:_SUMS_AT])
    return CustomerView(
        customer,
        CreditPosition(
            customer.customer_id,
            customer.version,
            customer.monthly_income_paise,
            customer.approved_limit_paise,
            *[*row[_SUMS_AT : COLUMN_COUNT - 3], arrears(row[COLUMN_COUNT - 3 : COLUMN_COUNT])],
        ),
    )


_BY_ID = Statement(f"SELECT {COLUMNS} FROM customers c WHERE c.customer_id = :customer_id")
_BY_PHONE = Statement(f"SELECT {COLUMNS} FROM customers c WHERE c.phone_number = :phone_number")
_POSITION = Statement(
    f"""SELECT {POSITION_COLUMNS}, {scorecards.ACTIVE_VERSION}
    FROM customers c {scorecards.ACTIVE_JOIN}
    WHERE c.customer_id = :customer_id"""
)

_POSITIONS = Statement(
    f"""SELECT {POSITION_COLUMNS}, {scorecards.ACTIVE_VERSION}
    FROM customers c {scorecards.ACTIVE_JOIN}
    WHERE c.customer_id = ANY(CAST(:customer_ids AS bigint[]))"""
)


def find(connection: Connection, customer_id: int) -> CustomerView | None:
    """Return the customer with that id."""
    row = _BY_ID.row(connection, {"customer_id": customer_id})
    return None if row is None else view(row)


def find_by_phone(connection: Connection, phone_number: str) -> CustomerView | None:
    """Return the customer with that phone number, in E.164."""
    row = _BY_PHONE.row(connection, {"phone_number": phone_number})
    return None if row is None else view(row)


def find_position(
    connection: Connection, customer_id: int, day: date
) -> tuple[CreditPosition, str] | None:
    """Read the customer's stored position, and the version of the scorecard that decides on `day`,
    in one statement."""
    row = _POSITION.row(connection, {"customer_id": customer_id, "today": day})
    return None if row is None else (position(row), row[POSITION_COLUMN_COUNT])


def find_positions(
    connection: Connection, customer_ids: Sequence[int], day: date
) -> tuple[list[CreditPosition], str | None]:
    """Read the stored positions of these customers, in any order, and the version of the scorecard
    that decides on `day`, in one statement. Unknown customers are left out; None where all are
    unknown."""
    rows = _POSITIONS.rows(connection, {"customer_ids": list(customer_ids), "today": day})
    version = rows[0][POSITION_COLUMN_COUNT] if rows else None
    return [position(row) for row in rows], version


_LOCK = Statement("SELECT FROM customers WHERE customer_id = :customer_id FOR NO KEY UPDATE")


def lock(connection: Connection, customer_id: int) -> None:
    """Lock the customer's row: other writers of this customer wait until the transaction ends.

    Read under the lock by a separate statement. One that locks and reads sees this row as the
    writer it waited for left it, but other tables as they were before.
    """
    _LOCK.run(connection, {"customer_id": customer_id})


_LOCK_MANY = """SELECT customer_id FROM customers WHERE customer_id = ANY(%(customer_ids)s)
    ORDER BY customer_id FOR NO KEY UPDATE"""


def lock_many(connection: Connection, customer_ids: Sequence[int]) -> list[int]:
    """Lock these customers until the transaction ends, in order of id; return those that exist."""
    cursor = driver_cursor(connection)
    return [
        row[0]
        for group in cluster.lockable(connection, np.array(customer_ids, np.int64))
        for row in cursor.execute(_LOCK_MANY, {"customer_ids": Bigints(group)}, binary=True)
    ]


_POSITION_WITH_LOANS = Statement(
    f"""SELECT {POSITION_COLUMNS}, {holds.OPEN_OF_CUSTOMER}, {loans.COLUMNS}
    FROM customers c LEFT JOIN loans l USING (customer_id)
    WHERE c.customer_id = :customer_id"""
)


class PositionFacts(NamedTuple):
    """A customer's stored position, and the loans and holds from which it is computed."""

    stored: CreditPosition
    loans: list[Loan]
    # Of OPEN offers, those past their last day included.
    holds: list[Hold]

    def on(self, day: date) -> CreditPosition:
        """Return the position on that day, computed from the loans and holds."""
        return position_from_loans(
            self.stored.customer_id,
            self.stored.version,
            self.stored.monthly_income_paise,
            self.stored.approved_limit_paise,
            self.loans,
            day,
            self.holds,
            self.stored.arrears,
        )


def position_facts(connection: Connection, customer_id: int) -> PositionFacts:
    """Return the stored position, all loans and the holds of an existing customer, read at one
    instant."""
    rows = _POSITION_WITH_LOANS.rows(connection, {"customer_id": customer_id})
    found = [row[POSITION_COLUMN_COUNT + 1 :] for row in rows]
    return PositionFacts(
        position(rows[0]),
        [loans.loan(row) for row in found if row[0] is not None],
        holds.holds(rows[0][POSITION_COLUMN_COUNT]),
    )


def position_on(connection: Connection, stored: CreditPosition, day: date) -> CreditPosition:
    """Return the position on that day: the stored one while it is valid, else from the loans and
    holds.

    They are then read at one instant, which may be later than that of `stored`.
    """
    if is_valid_on(stored, day):
        return stored
    return position_facts(connection, stored.customer_id).on(day)


_POSITIONS_AFTER = text(
    f"""SELECT {POSITION_COLUMNS} FROM customers c
    WHERE c.customer_id > :after ORDER BY c.customer_id LIMIT :limit"""
)


def positions_after(connection: Connection, after: int, limit: int) -> list[CreditPosition]:
    """Return stored positions of customers with ids above `after`, in order of id, at most
    `limit`."""
    rows = connection.execute(_POSITIONS_AFTER, {"after": after, "limit": limit})
    return [position(row) for row in rows]


_COUNT = text("SELECT count(*) FROM customers")


def count(connection: Connection) -> int:
    """Return the number of customers."""
    found: int = connection.execute(_COUNT).scalar_one()
    return found


_HOLDER = Statement("SELECT customer_id FROM phone_numbers WHERE phone_number = :phone_number")
_FORMER_HOLDERS = Statement(
    """SELECT customer_id FROM former_phone_numbers WHERE phone_number = :phone_number
    ORDER BY customer_id"""
)
_INSERT = Statement(
    """
    WITH n AS (
        SELECT nextval('customer_ids') AS customer_id
    ), p AS (
        INSERT INTO phone_numbers (phone_number, customer_id)
        SELECT :phone_number, customer_id FROM n
    ), c AS (
        INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
            phone_number, approved_limit_paise, imported, created_at, event_seq, position_as_of,
            position_valid_until)
        SELECT customer_id, :first_name, :last_name, :age, :monthly_income_paise, :phone_number,
            :approved_limit_paise, false, :now, 1, :today, :valid_until
        FROM n
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


def holder(connection: Connection, phone_number: str) -> int | None:
    """Return the id of the customer with that phone number, in E.164."""
    row = _HOLDER.row(connection, {"phone_number": phone_number})
    return None if row is None else int(row[0])


def former_holders(connection: Connection, phone_number: str) -> list[int]:
    """Return the ids of the customers who had that phone number, in E.164, until UpdateCustomer
    changed it."""
    rows = _FORMER_HOLDERS.rows(connection, {"phone_number": phone_number})
    return [int(row[0]) for row in rows]


def register(connection: Connection, values: dict[str, Any]) -> int:
    """Insert a customer with its first event and request record in one statement; return its id.

    `values` holds every parameter of the statement except the trace. Raises IntegrityError if the
    phone number or, after an import, the next id is taken.
    """
    rows = _INSERT.rows(connection, values | {"traceparent": tracing.traceparent()})
    return int(rows[0][0])


_RELEASE_PHONE_NUMBER = Statement("DELETE FROM phone_numbers WHERE phone_number = :phone_number")
_TAKE_PHONE_NUMBER = Statement(
    """INSERT INTO phone_numbers (phone_number, customer_id) VALUES (:phone_number, :customer_id)"""
)
_KEEP_FORMER_HOLDER = Statement(
    """INSERT INTO former_phone_numbers (phone_number, customer_id)
    VALUES (:phone_number, :customer_id) ON CONFLICT DO NOTHING"""
)


def move_phone_number(connection: Connection, customer_id: int, old: str, new: str) -> None:
    """Release the customer's phone number and take the new one, in E.164, in a transaction.

    Raises IntegrityError if another customer has the new one.
    """
    _RELEASE_PHONE_NUMBER.run(connection, {"phone_number": old})
    _TAKE_PHONE_NUMBER.run(connection, {"phone_number": new, "customer_id": customer_id})
    _KEEP_FORMER_HOLDER.run(connection, {"phone_number": old, "customer_id": customer_id})


# Facts that a caller can change, and whether events show their values: personal data they do not.
_CHANGEABLE = {
    "first_name": False,
    "last_name": False,
    "age": False,
    "monthly_income_paise": False,
    "phone_number": False,
    "approved_limit_paise": True,
    "limit_set": True,
}
_UPDATE = Statement(
    f"""
    WITH c AS (
        UPDATE customers SET version = version + 1, event_seq = event_seq + 1,
            arrears_version = arrears_version + 1,
            {", ".join(f"{name} = :{name}" for name in _CHANGEABLE)}
        WHERE customer_id = :customer_id AND version = :read_version
        RETURNING customer_id, version, event_seq
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'customer_updated', version, :now, CAST(:payload AS json),
            CAST(:traceparent AS text)
        FROM c
    ), f AS (
        INSERT INTO fact_changes (customer_id, event_seq, fact, old_value, new_value, principal,
            changed_at)
        SELECT c.customer_id, c.event_seq, n.fact, n.old_value, n.new_value, :principal, :now
        FROM c CROSS JOIN unnest(CAST(:facts AS text[]), CAST(:old_values AS text[]),
            CAST(:new_values AS text[])) AS n (fact, old_value, new_value)
    )
    SELECT count(*) FROM c
    """
)


def update(
    connection: Connection, before: Customer, after: Customer, moment: Moment, principal: str
) -> bool:
    """Store the changed facts of a customer, each with its old and new value, and one event; return
    False if the version is no longer that of `before`. At least one fact differs."""
    names = [name for name in _CHANGEABLE if getattr(before, name) != getattr(after, name)]
    changes = [(name, _text(getattr(before, name)), _text(getattr(after, name))) for name in names]
    shown = [
        {
            "fact": name,
            "old": old if _CHANGEABLE[name] else None,
            "new": new if _CHANGEABLE[name] else None,
        }
        for name, old, new in changes
    ]
    # Servers of the previous release read an ingestion's id as text.
    payload = {"ingestion_id": "", "changes": shown, "principal": principal}
    values = {
        "customer_id": before.customer_id,
        "read_version": before.version,
        **{name: getattr(after, name) for name in _CHANGEABLE},
        "payload": json.dumps(payload),
        "facts": names,
        "old_values": [old for _, old, _ in changes],
        "new_values": [new for _, _, new in changes],
        "principal": principal,
        "now": moment.now,
        "traceparent": tracing.traceparent(),
    }
    return _UPDATE.row(connection, values) == (1,)


def _text(value: object) -> str:
    """Return a fact in PostgreSQL's text format."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_current(found: CustomerView, day: date) -> bool:
    """Whether `with_current_figures` returns the customer as it is."""
    position = found.position
    return position.arrears is not None and (
        not position.held_principal_paise or is_valid_on(position, day)
    )


def with_current_figures(
    connection: Connection, found: Sequence[CustomerView], day: date
) -> list[CustomerView]:
    """Return the customers with what offers hold on that day, not what one held that has expired
    since the position was stored, and with their arrears."""
    unknown = [each.customer.customer_id for each in found if each.position.arrears is None]
    computed = stored_arrears.compute(connection, unknown, day) if unknown else {}
    views = []
    for each in found:
        position, customer_id = each.position, each.customer.customer_id
        if position.held_principal_paise and not is_valid_on(position, day):
            position = position_facts(connection, customer_id).on(day)
        if position.arrears is None:
            position = replace(position, arrears=computed.get(customer_id))
        views.append(replace(each, position=position))
    return views

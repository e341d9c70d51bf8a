"""Policy facts, computed by the domain from the stored loans and arrears.

Loans, arrears and the customer's version are read in one statement, at one instant. A write that
is guarded by a version read before therefore fails if the facts are of a later one.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from credit_service.clock import INDIA
from credit_service.domain.policy_facts import PolicyFacts, policy_facts
from credit_service.storage import arrears, customers, loans
from credit_service.storage.statements import Row, Statement

_BATCH = 1_000
"""Most customers that a statement reads."""


class VersionedFacts(NamedTuple):
    """Facts, and the version of the customer that they belong to."""

    version: int
    facts: PolicyFacts


def _read(condition: str) -> Statement:
    """Return the statement that reads a row for each loan of the customers of the condition, and
    one for a customer without loans."""
    return Statement(
        f"""
    SELECT c.customer_id, c.version, c.age, c.created_at, {customers.ARREARS_COLUMNS},
        {loans.COLUMNS}
    FROM customers c
    LEFT JOIN loans l ON l.customer_id = c.customer_id
    WHERE c.{condition}
    ORDER BY c.customer_id
    """
    )


READ = _read("customer_id = :customer_id")
_READ_MANY = _read("customer_id = ANY(CAST(:customer_ids AS bigint[]))")
_ARREARS_AT = 4
_LOANS_AT = 7


def read(
    connection: Connection, customer_id: int, day: date, zone: ZoneInfo = INDIA
) -> PolicyFacts:
    """Return the customer's facts on `day`, a day in the business time zone `zone`.

    Raises:
        LookupError: there is no such customer.
    """
    return read_versioned(connection, customer_id, day, zone).facts


def read_versioned(
    connection: Connection, customer_id: int, day: date, zone: ZoneInfo = INDIA
) -> VersionedFacts:
    """Return the facts like `read`, with the customer's version."""
    rows = READ.rows(connection, {"customer_id": customer_id})
    if not rows:
        raise LookupError(f"there is no customer {customer_id}")
    return _facts(connection, rows, day, zone)


def read_many(
    connection: Connection, customer_ids: Iterable[int], day: date, zone: ZoneInfo = INDIA
) -> dict[int, PolicyFacts]:
    """Return the facts of these customers by id. Unknown ids are missing.

    Reads up to 1,000 customers at an instant.
    """
    found = read_many_versioned(connection, customer_ids, day, zone)
    return {customer_id: each.facts for customer_id, each in found.items()}


def read_many_versioned(
    connection: Connection, customer_ids: Iterable[int], day: date, zone: ZoneInfo = INDIA
) -> dict[int, VersionedFacts]:
    """Return the facts like `read_many`, with the customers' versions."""
    found = {}
    ids = list(customer_ids)
    for start in range(0, len(ids), _BATCH):
        rows = _READ_MANY.rows(connection, {"customer_ids": ids[start : start + _BATCH]})
        for customer_id, of_customer in groupby(rows, lambda row: row[0]):
            found[customer_id] = _facts(connection, list(of_customer), day, zone)
    return found


def _facts(
    connection: Connection, rows: Sequence[Row], day: date, zone: ZoneInfo
) -> VersionedFacts:
    """Return the facts from a customer's rows."""
    customer_id, version, age, stored_at, *_ = rows[0]
    found = [loans.loan(row[_LOANS_AT:]) for row in rows if row[_LOANS_AT] is not None]
    known = customers.arrears(rows[0][_ARREARS_AT:_LOANS_AT])
    if known is None:
        known = arrears.compute(connection, [customer_id], day)[customer_id]
    stored_on = stored_at.astimezone(zone).date()
    return VersionedFacts(version, policy_facts(found, known, age, stored_on, day))

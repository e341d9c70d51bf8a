"""Imported customers in bulk: compare with what is stored, insert, update.

This module uses the driver directly: rows are sent and read by COPY and in arrays.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import Connection

from credit_service.storage import cluster
from credit_service.storage.arrays import Array, Bigints, driver_cursor
from credit_service.storage.bulk_changes import (
    CHANGES_JSON,
    PREVIOUS_ROW,
    Origin,
    changed_facts,
    values_of,
)

_KNOWN = "SELECT customer_id, imported FROM customers WHERE customer_id = ANY(%s)"
_LOCK = f"{_KNOWN} ORDER BY customer_id FOR NO KEY UPDATE"
CustomerFacts = tuple[int, str, str, int, int, str, int | None]
"""(customer_id, first name, last name, age, monthly income in paise, phone number in E.164,
approved limit in paise or None)."""
CUSTOMER_FACTS = (
    "customer_id",
    "first_name",
    "last_name",
    "age",
    "monthly_income_paise",
    "phone_number",
    "approved_limit_paise",
)
"""The names of CustomerFacts, in tables and in frames."""
_STORED_CUSTOMERS = f"""SELECT {", ".join(CUSTOMER_FACTS)}, imported, limit_set
    FROM customers WHERE customer_id = ANY(%s)"""
_HOLDERS = (
    "SELECT phone_number, customer_id FROM phone_numbers WHERE phone_number = ANY(%s::text[])"
)
_FORMER_HOLDERS = """SELECT phone_number, customer_id FROM former_phone_numbers
    WHERE phone_number = ANY(%s::text[])"""
_INSERT_PHONE_NUMBERS = "COPY phone_numbers (phone_number, customer_id) FROM STDIN"
_RELEASE_PHONE_NUMBERS = "DELETE FROM phone_numbers WHERE phone_number = ANY(%s::text[])"
_INSERT_CUSTOMERS = f"""COPY customers ({", ".join(CUSTOMER_FACTS)}, limit_set, ingestion_row,
    ingestion_id, imported, created_at, position_as_of, position_valid_until) FROM STDIN"""
_REMOVED = "SELECT customer_id FROM removed_customers WHERE customer_id = ANY(%s)"
_CONTINUE_REMOVED = """UPDATE customers c SET version = r.version + 1,
    arrears_version = r.version + 1, event_seq = r.event_seq
    FROM removed_customers r
    WHERE c.customer_id = ANY(%s) AND r.customer_id = c.customer_id"""
_FORGET_REMOVED = "DELETE FROM removed_customers WHERE customer_id = ANY(%s)"


class StoredFacts(NamedTuple):
    """The facts of a stored customer, whether an import brought the customer, and the stored
    `limit_set`."""

    facts: CustomerFacts
    imported: bool
    limit_set: bool


class NewLimit(NamedTuple):
    """The approved limit in paise that a row leaves, and the `limit_set` to store with it."""

    paise: int
    limit_set: bool


# Events show no personal data.
FACTS_OF_CUSTOMERS = (
    *((name, name == "approved_limit_paise") for name in CUSTOMER_FACTS[1:]),
    ("limit_set", True),
)
"""The facts of a customer whose changes are recorded, and whether events show the values."""


def customers_update(new: str, of_payload: str = "") -> str:
    """Return the statement that replaces facts of customers by the rows of the query `new`, whose
    columns are the id, FACTS_OF_CUSTOMERS, ingestion_id and ingestion_row; `of_payload` is added to
    its events.
    """
    columns = f"customer_id, u.event_seq, u.version, {PREVIOUS_ROW}"
    return f"""
    WITH n AS ({new}
    ), b AS MATERIALIZED (
        SELECT c.* FROM customers c JOIN n USING (customer_id)
    ), u AS (
        UPDATE customers c SET version = version + 1, event_seq = event_seq + 1,
            arrears_version = arrears_version + 1,
            first_name = n.first_name, last_name = n.last_name, age = n.age,
            monthly_income_paise = n.monthly_income_paise, phone_number = n.phone_number,
            approved_limit_paise = n.approved_limit_paise, limit_set = n.limit_set,
            ingestion_id = n.ingestion_id, ingestion_row = n.ingestion_row
        FROM n WHERE c.customer_id = n.customer_id
        RETURNING c.*
    ), {changed_facts(FACTS_OF_CUSTOMERS, columns, "customer_id")}, e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'customer_updated', version, %(now)s, json_build_object(
            'ingestion_id', %(ingestion_id)s::uuid, 'changes', {CHANGES_JSON}{of_payload}),
            %(traceparent)s::text
        FROM changed GROUP BY customer_id, event_seq, version
    ), f AS (
        INSERT INTO fact_changes (customer_id, event_seq, fact, old_value, new_value, principal,
            ingestion_id, changed_at, previous_ingestion_id, previous_ingestion_row)
        SELECT customer_id, event_seq, fact, old_value, new_value, %(principal)s,
            %(ingestion_id)s, %(now)s, previous_id, previous_row
        FROM changed
    )
    SELECT array_agg(customer_id) FROM u WHERE current_debt_paise > approved_limit_paise"""


_UPDATE_CUSTOMERS = customers_update(
    f"""
        SELECT n.*, %(ingestion_id)s::uuid AS ingestion_id
        FROM unnest(%(customer_id)s::bigint[], %(first_name)s::text[],
            %(last_name)s::text[], %(age)s::smallint[], %(monthly_income_paise)s::bigint[],
            %(phone_number)s::text[], %(approved_limit_paise)s::bigint[], %(limit_set)s::bool[],
            %(row_number)s::bigint[]) AS n ({", ".join(CUSTOMER_FACTS)}, limit_set,
            ingestion_row)"""
)


def known_customers(connection: Connection, ids: Array, *, lock: bool) -> tuple[Array, Array]:
    """Return which of these ids, distinct and sorted, are customers, sorted, and for each whether
    it was imported.

    With `lock` no other transaction changes them, or books a loan for them, until this one ends.
    """
    cursor = driver_cursor(connection)
    groups = cluster.lockable(connection, ids) if lock else (ids,)
    statement = _LOCK if lock else _KNOWN
    rows = [
        row
        for group in groups
        for row in cursor.execute(statement, (Bigints(group),), binary=True).fetchall()
    ]
    rows.sort()
    known = np.array([row[0] for row in rows], np.int64)
    return known, np.array([row[1] for row in rows], bool)


_CONTESTED = """SELECT customer_id, ingestion_id FROM contested_customers
    WHERE customer_id = ANY(%s)"""
_MARK_CONTESTED = """INSERT INTO contested_customers (customer_id, ingestion_id, contested_at)
    SELECT customer_id, %s, %s FROM unnest(%s::bigint[]) AS c (customer_id)
    ON CONFLICT (customer_id) DO UPDATE
    SET ingestion_id = excluded.ingestion_id, contested_at = excluded.contested_at"""
_CLEAR_CONTESTED = "DELETE FROM contested_customers WHERE customer_id = ANY(%s)"


def contested(connection: Connection, ids: Array) -> dict[int, UUID]:
    """Return which of these ids an import named as a different person, and the ingestion."""
    rows = driver_cursor(connection).execute(_CONTESTED, (Bigints(ids),), binary=True)
    return {row[0]: row[1] for row in rows}


def mark_contested(
    connection: Connection, ids: Sequence[int], ingestion_id: UUID, now: datetime
) -> None:
    """Record that an import named these customers' ids as different people.

    Locks the customers: a transaction that attaches loans to them locks them too, so it either
    commits before this one or sees the record.
    """
    cursor = driver_cursor(connection)
    for group in cluster.lockable(connection, np.array(sorted(ids), np.int64)):
        cursor.execute(_LOCK, (Bigints(group),))
    cursor.execute(_MARK_CONTESTED, (ingestion_id, now, sorted(ids)))


def clear_contested(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the record that these ids are contested."""
    driver_cursor(connection).execute(_CLEAR_CONTESTED, (list(ids),))


def stored_customers(
    connection: Connection, ids: Sequence[int], *, lock: bool
) -> dict[int, StoredFacts]:
    """Return the stored facts of these customers by id."""
    cursor, wanted = driver_cursor(connection), np.array(ids, np.int64)
    groups = cluster.lockable(connection, wanted) if lock else (wanted,)
    statement = _STORED_CUSTOMERS + (" ORDER BY customer_id FOR NO KEY UPDATE" if lock else "")
    return {
        row[0]: StoredFacts(row[:7], row[7], row[8])
        for group in groups
        for row in cursor.execute(statement, (Bigints(group),), binary=True)
    }


def phone_holders(connection: Connection, phone_numbers: Sequence[str]) -> dict[str, int]:
    """Return the customer id of each of these phone numbers that is taken."""
    rows = driver_cursor(connection).execute(_HOLDERS, (list(phone_numbers),), binary=True)
    return {row[0]: row[1] for row in rows}


def former_holders(
    connection: Connection, phone_numbers: Sequence[str]
) -> frozenset[tuple[str, int]]:
    """Return (phone number, customer id) of the customers who had one of these phone numbers until
    UpdateCustomer changed it."""
    rows = driver_cursor(connection).execute(_FORMER_HOLDERS, (list(phone_numbers),), binary=True)
    return frozenset((row[0], row[1]) for row in rows)


def insert_customers(
    connection: Connection,
    customers: Sequence[CustomerFacts],
    row_numbers: Sequence[int],
    limits: Sequence[NewLimit],
    origin: Origin,
    position_day: str,
    position_valid_until: str,
) -> None:
    """Insert customers without loans, with these limits instead of those in their facts, in order
    of id. `row_numbers`, theirs in the source, and `limits` are in the order of `customers`.

    The days are those of an empty position, in ISO format.

    Raises psycopg.Error, a unique violation, if an id or a phone number was taken meanwhile.
    """
    _take_phone_numbers(connection, customers)
    rest = (
        f"{origin.ingestion_id}\tt\t{origin.now.isoformat()}\t{position_day}"
        f"\t{position_valid_until}\n"
    )
    lines = [
        f"{facts[0]}\t{_escaped(facts[1])}\t{_escaped(facts[2])}\t{facts[3]}\t{facts[4]}\t{facts[5]}\t"
        f"{limit.paise}\t{'t' if limit.limit_set else 'f'}\t{row_number}\t{rest}"
        for facts, row_number, limit in sorted(
            zip(customers, row_numbers, limits, strict=True), key=lambda each: each[0][0]
        )
    ]
    cursor = driver_cursor(connection)
    with cursor.copy(_INSERT_CUSTOMERS) as copy:
        copy.write("".join(lines))
    _continue_removed(cursor, np.array([facts[0] for facts in customers], np.int64))


def _continue_removed(cursor: Any, ids: Array) -> None:
    """Let customers that a revert had removed continue their versions and numbers of events."""
    rows = cursor.execute(_REMOVED, (Bigints(ids),), binary=True).fetchall()
    if rows:
        removed = Bigints(np.array([row[0] for row in rows], np.int64))
        cursor.execute(_CONTINUE_REMOVED, (removed,))
        cursor.execute(_FORGET_REMOVED, (removed,))


def _take_phone_numbers(connection: Connection, customers: Sequence[CustomerFacts]) -> None:
    lines = sorted(f"{facts[5]}\t{facts[0]}\n" for facts in customers)
    with driver_cursor(connection).copy(_INSERT_PHONE_NUMBERS) as copy:
        copy.write("".join(lines))


def _escaped(name: str) -> str:
    # Names contain no tabs or line breaks, so the backslash is the only special character for COPY.
    return name.replace("\\", "\\\\") if "\\" in name else name


def update_customers(
    connection: Connection,
    customers: Sequence[CustomerFacts],
    row_numbers: Sequence[int],
    limits: Sequence[NewLimit],
    old_phone_numbers: Sequence[str],
    origin: Origin,
) -> list[int]:
    """Replace facts of locked customers, each of which differs from what is stored. `row_numbers`,
    theirs in the source, `limits`, which replace those in the facts, and `old_phone_numbers`, the
    stored ones, are in the same order. Record each changed fact and write it as an event. Return
    the customers whose debt then exceeds their limit.

    Raises psycopg.Error, a unique violation, if a phone number was taken meanwhile.
    """
    move_phone_numbers(
        connection,
        [
            (facts[0], old, facts[5])
            for facts, old in zip(customers, old_phone_numbers, strict=True)
        ],
    )
    columns = (list(column) for column in zip(*customers, strict=True))
    values = dict(zip(CUSTOMER_FACTS, columns, strict=True)) | values_of(origin)
    values["row_number"] = list(row_numbers)
    values["approved_limit_paise"] = [limit.paise for limit in limits]
    values["limit_set"] = [limit.limit_set for limit in limits]
    found = driver_cursor(connection).execute(_UPDATE_CUSTOMERS, values).fetchone()
    return [] if found is None else found[0] or []


def move_phone_numbers(
    connection: Connection, moves: Sequence[tuple[int, str, str | None]]
) -> None:
    """Replace the phone numbers of customers, given as (customer id, old number, new number); a
    new number of None only releases the old one.

    Raises psycopg.Error, a unique violation, if a new number was taken meanwhile.
    """
    moved = [each for each in moves if each[1] != each[2]]
    if not moved:
        return
    cursor = driver_cursor(connection)
    cursor.execute(_RELEASE_PHONE_NUMBERS, ([old for _, old, _ in moved],))
    lines = sorted(f"{new}\t{customer_id}\n" for customer_id, _, new in moved if new is not None)
    if lines:
        with cursor.copy(_INSERT_PHONE_NUMBERS) as copy:
            copy.write("".join(lines))

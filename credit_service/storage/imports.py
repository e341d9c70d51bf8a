"""Imported customers and loans in bulk: compare with what is stored, insert, update.

This module uses the driver directly: rows are sent and read by COPY and in arrays. A binary COPY is
built from whole columns, which takes a twentieth of the time of formatting row by row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.observability import tracing
from credit_service.storage import cluster
from credit_service.storage.arrays import POSTGRES_EPOCH_DAY, Bigints, driver_cursor

Array = NDArray[Any]

# --- Customers ------------------------------------------------------------------------------------

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


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of changed facts: the ingestion, the principal that sent or reverted it, and the
    time."""

    ingestion_id: UUID
    principal: str
    now: datetime


def values_of(origin: Origin) -> dict[str, Any]:
    """Return the values of the statements that change facts."""
    return {
        "ingestion_id": origin.ingestion_id,
        "principal": origin.principal,
        "now": origin.now,
        "traceparent": tracing.traceparent(),
    }


# The facts that differ between b, the rows before the statement, and u, after it: column, old and
# new value, and whether events show the values. On a cluster, only a materialized b is read first.
def _changed(facts: Sequence[tuple[str, bool]], columns: str, join: str) -> str:
    compared = ", ".join(
        f"({place}, '{name}', b.{name}::text, u.{name}::text, {str(shown).lower()})"
        for place, (name, shown) in enumerate(facts)
    )
    return f"""
    changed AS (
        SELECT {columns}, v.place, v.fact, v.old_value, v.new_value, v.shown
        FROM b JOIN u USING ({join})
        CROSS JOIN LATERAL (VALUES {compared}) AS v (place, fact, old_value, new_value, shown)
        WHERE v.old_value IS DISTINCT FROM v.new_value
    )"""


_CHANGES = """json_agg(json_build_object('fact', fact,
            'old', CASE WHEN shown THEN old_value END, 'new', CASE WHEN shown THEN new_value END)
            ORDER BY place)"""
_PREVIOUS = "b.ingestion_id AS previous_id, b.ingestion_row AS previous_row"
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
    columns = f"customer_id, u.event_seq, u.version, {_PREVIOUS}"
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
    ), {_changed(FACTS_OF_CUSTOMERS, columns, "customer_id")}, e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'customer_updated', version, %(now)s, json_build_object(
            'ingestion_id', %(ingestion_id)s::uuid, 'changes', {_CHANGES}{of_payload}),
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


# --- Loans ----------------------------------------------------------------------------------------

LOAN_FACTS = (
    "principal_paise",
    "annual_rate_bps",
    "tenure_months",
    "installment_paise",
    "emis_paid_on_time",
    "start_day",
)
"""The facts of a loan that a source gives and an import compares, by their names in frames.

Their order is that of stored fingerprints, which an ingestion keeps across an upgrade.
"""
# The key's place among the requested ones, the facts in the form of a source, and what decides
# whether they may be replaced. EMIs on time by payments recorded here are no fact of a source.
STORED_LOAN_COLUMNS = (
    *("place", *LOAN_FACTS, "settled_given", "imported", "has_payments", "ingestion_row"),
)
_STORED_LOANS = f"""
    SELECT wanted.place::int - 1, l.principal_paise, l.annual_rate_bps,
        coalesce(l.agreed_tenure_months, l.tenure_months),
        coalesce(l.agreed_installment_paise, l.installment_paise),
        coalesce(l.on_time_at_import::int,
            l.emis_paid_on_time - CASE WHEN l.last_paid_on IS NULL THEN 0 ELSE (
                SELECT coalesce(sum(p.on_time_count), 0)::int FROM payments p
                WHERE p.customer_id = l.customer_id AND p.loan_id = l.loan_id
            ) END),
        l.start_date - '2000-01-01'::date + {POSTGRES_EPOCH_DAY},
        CASE WHEN l.arrears_imported THEN l.settled_at_import ELSE -1 END::int,
        l.imported::int, (l.last_paid_on IS NOT NULL OR l.on_time_at_import IS NOT NULL)::int,
        CASE WHEN l.ingestion_id = %s THEN l.ingestion_row END
    FROM unnest(%s, %s) WITH ORDINALITY AS wanted (customer_id, loan_id, place)
    JOIN loans l ON l.customer_id = wanted.customer_id AND l.loan_id = wanted.loan_id
"""


def stored_loans(
    connection: Connection, customer_ids: Array, loan_ids: Array, ingestion_id: UUID
) -> dict[str, list[Any]]:
    """Return STORED_LOAN_COLUMNS of those of these keys that are stored.

    `ingestion_row` is the row of this ingestion that brought the loan, None for other loans.
    """
    rows = (
        driver_cursor(connection)
        .execute(
            _STORED_LOANS,
            (ingestion_id, Bigints(customer_ids), Bigints(loan_ids)),
            binary=True,
        )
        .fetchall()
    )
    columns = zip(*rows, strict=True) if rows else [()] * len(STORED_LOAN_COLUMNS)
    return {name: list(column) for name, column in zip(STORED_LOAN_COLUMNS, columns, strict=True)}


# Name in the table, name in the facts if any, and type in the binary format.
_LOAN_COLUMNS: Sequence[tuple[str, str | None, str]] = (
    ("customer_id", "customer_id", ">i8"),
    ("loan_id", "loan_id", ">i8"),
    ("principal_paise", "principal_paise", ">i8"),
    ("annual_rate_bps", "annual_rate_bps", ">i4"),
    ("tenure_months", "tenure_months", ">i2"),
    ("installment_paise", "installment_paise", ">i8"),
    ("start_date", "start_day", ">i4"),
    ("end_date", "end_day", ">i4"),
    ("imported", None, "u1"),
    ("arrears_imported", None, "u1"),
    ("settled_at_import", "installments_settled", ">i2"),
    ("emis_paid_on_time", "emis_paid_on_time", ">i2"),
    ("installments_settled", "installments_settled", ">i2"),
    ("ingestion_id", None, "V16"),
    ("ingestion_row", "row_number", ">i8"),
    # Last, because it is null in some rows.
    ("closed_on", "closed_day", ">i4"),
)
_INSERT_LOANS = f"COPY loans ({', '.join(c[0] for c in _LOAN_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"


def insert_loans(connection: Connection, facts: Array, no_day: int, ingestion_id: UUID) -> None:
    """Insert imported loans of locked customers.

    `facts` is a structured array with the fields in _LOAN_COLUMNS; days count from 1970-01-01, and
    a `closed_day` of `no_day` means none.
    """
    closed = facts["closed_day"] != no_day
    with driver_cursor(connection).copy(_INSERT_LOANS) as copy:
        copy.write(_COPY_HEAD)
        copy.write(_binary_rows(facts[closed], ingestion_id, closed=True))
        failpoints.reach("ingestion.mid_copy")
        copy.write(_binary_rows(facts[~closed], ingestion_id, closed=False))
        copy.write(_COPY_END)


def _binary_rows(facts: Array, ingestion_id: UUID, *, closed: bool) -> bytes:
    """Return rows in binary COPY format: a count of fields, then a length and a value for each."""
    columns = _LOAN_COLUMNS if closed else _LOAN_COLUMNS[:-1]
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for name, _, kind in columns:
        layout += [(f"{name} length", ">i4"), (name, kind)]
    if not closed:
        layout.append(("null length", ">i4"))
    rows = np.zeros(len(facts), np.dtype(layout))
    rows["fields"] = len(_LOAN_COLUMNS)
    for name, fact, kind in columns:
        rows[f"{name} length"] = np.dtype(kind).itemsize
        if fact is not None:
            is_day = fact.endswith("_day")
            rows[name] = facts[fact] - POSTGRES_EPOCH_DAY if is_day else facts[fact]
    rows["imported"] = 1
    rows["arrears_imported"] = facts["settled_given"] >= 0
    rows["ingestion_id"] = np.void(ingestion_id.bytes)
    if not closed:
        rows["null length"] = -1
    return rows.tobytes()


FACTS_OF_LOANS = tuple(
    (name, True)
    for name in (
        "principal_paise",
        "annual_rate_bps",
        "tenure_months",
        "installment_paise",
        "emis_paid_on_time",
        "start_date",
        "end_date",
        "installments_settled",
        "closed_on",
        "arrears_imported",
    )
)
"""The facts of a loan whose changes are recorded; events show the values."""


def loans_update(new: str, of_payload: str = "") -> str:
    """Return the statement that replaces facts of loans by the rows of the query `new`, whose
    columns are the key, FACTS_OF_LOANS, ingestion_id and ingestion_row; `of_payload` is added to
    its events.

    A customer's events are in order of the loan ids. They carry the version of the refreshed
    position, which the same transaction writes next.
    """
    columns = f"customer_id, loan_id, {_PREVIOUS}"
    return f"""
    WITH n AS ({new}
    ), b AS MATERIALIZED (
        SELECT l.* FROM loans l JOIN n USING (customer_id, loan_id)
    ), u AS (
        UPDATE loans l SET principal_paise = n.principal_paise, annual_rate_bps = n.annual_rate_bps,
            tenure_months = n.tenure_months, installment_paise = n.installment_paise,
            emis_paid_on_time = n.emis_paid_on_time, start_date = n.start_date,
            end_date = n.end_date, settled_at_import = n.installments_settled,
            installments_settled = n.installments_settled, closed_on = n.closed_on,
            arrears_imported = n.arrears_imported,
            ingestion_id = n.ingestion_id, ingestion_row = n.ingestion_row
        FROM n WHERE l.customer_id = n.customer_id AND l.loan_id = n.loan_id
        RETURNING l.*
    ), {_changed(FACTS_OF_LOANS, columns, "customer_id, loan_id")}, updates AS (
        SELECT customer_id, loan_id, {_CHANGES} AS changes,
            row_number() OVER (PARTITION BY customer_id ORDER BY loan_id) AS place
        FROM changed GROUP BY customer_id, loan_id
    ), c AS (
        UPDATE customers c SET event_seq = c.event_seq + t.count
        FROM (SELECT customer_id, count(*) FROM updates GROUP BY customer_id) t
        WHERE c.customer_id = t.customer_id
        RETURNING c.customer_id, c.event_seq - t.count AS seq_before, c.version + 1 AS version
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, seq_before + place, 'loan_updated', version, %(now)s,
            json_build_object('loan_id', loan_id, 'ingestion_id', %(ingestion_id)s::uuid,
                'changes', changes{of_payload}), %(traceparent)s::text
        FROM updates JOIN c USING (customer_id)
    )
    INSERT INTO fact_changes (customer_id, event_seq, fact, loan_id, old_value, new_value,
        principal, ingestion_id, changed_at, previous_ingestion_id, previous_ingestion_row)
    SELECT customer_id, seq_before + updates.place, fact, loan_id, old_value, new_value,
        %(principal)s, %(ingestion_id)s, %(now)s, previous_id, previous_row
    FROM changed JOIN updates USING (customer_id, loan_id) JOIN c USING (customer_id)"""


def _date(day: str) -> str:
    return f"'2000-01-01'::date + ({day} - {POSTGRES_EPOCH_DAY})"


_UPDATE_LOANS = loans_update(
    f"""
        SELECT customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, emis_paid_on_time, {_date("start_day")} AS start_date,
            {_date("end_day")} AS end_date, installments_settled,
            {_date("nullif(closed_day, %(no_day)s)")} AS closed_on,
            settled_given >= 0 AS arrears_imported,
            %(ingestion_id)s::uuid AS ingestion_id, ingestion_row
        FROM unnest(%(customer_id)s::bigint[], %(loan_id)s::bigint[],
            %(principal_paise)s::bigint[], %(annual_rate_bps)s::int[],
            %(tenure_months)s::smallint[], %(installment_paise)s::bigint[],
            %(emis_paid_on_time)s::smallint[], %(start_day)s::int[], %(end_day)s::int[],
            %(installments_settled)s::smallint[], %(closed_day)s::int[],
            %(row_number)s::bigint[], %(settled_given)s::int[])
            AS n (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, emis_paid_on_time, start_day, end_day, installments_settled,
            closed_day, ingestion_row, settled_given)"""
)


def update_loans(connection: Connection, facts: Array, no_day: int, origin: Origin) -> None:
    """Replace facts of imported loans without payments, of locked customers; each loan differs from
    what is stored. Record each changed fact and write it as an event. The caller refreshes the
    customers' positions afterwards.

    `facts` and `no_day` are as for `insert_loans`.
    """
    values: Mapping[str, Any] = {
        "no_day": no_day,
        **values_of(origin),
        **{name: facts[name].tolist() for name in facts.dtype.names or ()},
    }
    driver_cursor(connection).execute(_UPDATE_LOANS, values)

"""Policy facts: from the customer's row if it has those of the day, else from the loans.

The row has what counts in the loans since the customer's score was last computed by a scorecard
that needs it, until the customer changes or an installment falls due. Otherwise the domain computes
it from the loans. One statement reads row, arrears and loans, with the version, at one instant. A
write that is guarded by a version read before therefore fails if the facts are of a later one.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import Connection

from credit_service.clock import INDIA
from credit_service.domain.policy_facts import (
    LoanCounts,
    PolicyFacts,
    facts_from_counts,
    loan_counts,
)
from credit_service.storage import arrears, customers, loans
from credit_service.storage.arrays import Bigints, Dates, Integers, driver_cursor
from credit_service.storage.statements import Row, Statement

_BATCH = 1_000
"""Most customers that a statement reads."""
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NO_DAY = np.iinfo(np.int64).min


class VersionedFacts(NamedTuple):
    """Facts, and the version of the customer that they belong to. `counts` are those of the loans
    if they were computed, None if the row had them."""

    version: int
    facts: PolicyFacts
    counts: LoanCounts | None = None


_KNOWN = """(c.facts_version = c.version AND c.facts_as_of <= :day
        AND c.position_valid_until > :day
        AND (c.next_due_of_repaid IS NULL OR c.next_due_of_repaid > :day))"""
"""Whether the row has the counts of the day: an ACTIVE loan's next due date ends the position."""
_COUNTS = """c.active_loans, c.principal_outstanding_paise, c.emis_on_time_when_due,
    c.emis_fallen_due, c.next_due_of_repaid"""
"""The fields of LoanCounts, in its order."""


def _read(condition: str) -> Statement:
    """Return the statement that reads the customers of the condition. A row for each of a
    customer's loans, or one without a loan: if there is none, or the counts are known."""
    # No loan has such an id. As a bound of the index it costs nothing, while the planner would read
    # all loans before it applied a condition of the customer's row alone.
    return Statement(
        f"""
    SELECT c.customer_id, c.version, c.age, c.created_at, {customers.ARREARS_COLUMNS},
        {_KNOWN}, {_COUNTS}, {loans.COLUMNS}
    FROM customers c
    LEFT JOIN loans l ON l.customer_id = c.customer_id
        AND l.loan_id > CASE WHEN {_KNOWN} THEN 9223372036854775807 ELSE 0 END
    WHERE c.{condition}
    ORDER BY c.customer_id
    """
    )


READ = _read("customer_id = :customer_id")
_READ_MANY = _read("customer_id = ANY(CAST(:customer_ids AS bigint[]))")
_ARREARS_AT = 4
_KNOWN_AT = 7
_LOANS_AT = 13


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
    rows = READ.rows(connection, {"customer_id": customer_id, "day": day})
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
        some = {"customer_ids": ids[start : start + _BATCH], "day": day}
        rows = _READ_MANY.rows(connection, some)
        for customer_id, of_customer in groupby(rows, lambda row: row[0]):
            found[customer_id] = _facts(connection, list(of_customer), day, zone)
    return found


def _facts(
    connection: Connection, rows: Sequence[Row], day: date, zone: ZoneInfo
) -> VersionedFacts:
    """Return the facts from a customer's rows."""
    customer_id, version, age, stored_at, *_ = rows[0]
    computed = None
    if rows[0][_KNOWN_AT]:
        counts = LoanCounts(*rows[0][_KNOWN_AT + 1 : _LOANS_AT])
    else:
        found = [loans.loan(row[_LOANS_AT:]) for row in rows if row[_LOANS_AT] is not None]
        counts = computed = loan_counts(found, day)
    known = customers.arrears(rows[0][_ARREARS_AT:_KNOWN_AT])
    if known is None:
        known = arrears.compute(connection, [customer_id], day)[customer_id]
    stored_on = stored_at.astimezone(zone).date()
    facts = facts_from_counts(counts, known, age, stored_on, day)
    return VersionedFacts(version, facts, computed)


_STORE = """
    UPDATE customers c SET facts_version = c.version, facts_as_of = %(day)s,
        active_loans = n.active_loans,
        principal_outstanding_paise = n.principal_outstanding_paise,
        emis_on_time_when_due = n.emis_on_time_when_due, emis_fallen_due = n.emis_fallen_due,
        next_due_of_repaid = nullif(n.next_due_of_repaid, '-infinity')
    FROM unnest(%(customer_ids)s, %(active_loans)s, %(principal_outstanding_paise)s,
        %(emis_on_time_when_due)s, %(emis_fallen_due)s, %(next_due_of_repaid)s)
        AS n (customer_id, active_loans, principal_outstanding_paise, emis_on_time_when_due,
            emis_fallen_due, next_due_of_repaid)
    WHERE c.customer_id = n.customer_id"""


def store(connection: Connection, found: Mapping[int, VersionedFacts], day: date) -> None:
    """Store the computed counts of these facts of `day`, by customer. This transaction has locked
    the customers since before it read the facts."""
    computed = {key: each.counts for key, each in found.items() if each.counts is not None}
    if not computed:
        return
    counts = computed.values()
    next_due = [
        _NO_DAY
        if each.next_due_of_repaid is None
        else each.next_due_of_repaid.toordinal() - _EPOCH_ORDINAL
        for each in counts
    ]
    driver_cursor(connection).execute(
        _STORE,
        {
            "day": day,
            "customer_ids": Bigints(np.array(list(computed), np.int64)),
            "active_loans": Integers(np.array([each.active_loans for each in counts])),
            "principal_outstanding_paise": Bigints(
                np.array([each.principal_outstanding_paise for each in counts], np.int64)
            ),
            "emis_on_time_when_due": Integers(
                np.array([each.emis_on_time_when_due for each in counts])
            ),
            "emis_fallen_due": Integers(np.array([each.emis_fallen_due for each in counts])),
            "next_due_of_repaid": Dates(np.array(next_due, np.int64), _NO_DAY),
        },
    )


_STORED = Statement(
    f"""SELECT c.customer_id, c.facts_as_of, {_COUNTS} FROM customers c
    WHERE c.customer_id = ANY(CAST(:customer_ids AS bigint[])) AND c.facts_version = c.version"""
)


def stored(
    connection: Connection, customer_ids: Sequence[int]
) -> dict[int, tuple[date, LoanCounts]]:
    """Return the day and the stored counts of those of these customers who have not changed since,
    by id."""
    rows = _STORED.rows(connection, {"customer_ids": list(customer_ids)})
    return {row[0]: (row[1], LoanCounts(*row[2:])) for row in rows}

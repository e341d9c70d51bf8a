"""The credit positions in customers' rows, computed for many customers at once.

The rules are those of `domain.positions.position_from_loans`.
"""

import calendar
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Connection

from credit_service.domain.positions import CreditPosition
from credit_service.storage import arrears, cluster, customers, holds, loans
from credit_service.storage.arrays import Bigints, Dates, Integers, driver_cursor

NO_DAY = int(np.iinfo(np.int32).min)
"""Stands for a missing day."""
_EPOCH = date(1970, 1, 1)

# Over loans aliased l. An installment in the month of %(day)s is due from its day on, clamped to
# the month's end: compare with start_date's day of the month, unless %(day)s is the last day of its
# month. Most imported loans have ended; for them end_date is enough.
_SUMS = f"""
    count(*)::int AS loan_count,
    coalesce(sum(l.principal_paise), 0)::bigint AS total_principal_paise,
    coalesce(sum(l.principal_paise) FILTER (WHERE l.closed_on IS NULL), 0)::bigint
        AS current_debt_paise,
    coalesce(sum(l.installment_paise) FILTER (WHERE l.closed_on IS NULL), 0)::bigint
        AS current_installments_paise,
    coalesce(sum(l.emis_paid_on_time), 0)::int AS emis_on_time,
    coalesce(sum(greatest(d.due, l.emis_paid_on_time)), 0)::int AS emis_due,
    (count(*) FILTER (
        WHERE l.start_date < %(next_year)s
            AND (l.closed_on IS NULL OR l.closed_on >= %(this_year)s)
    ))::int AS current_year_loans,
    min((l.start_date + make_interval(months => n.number))::date)
        FILTER (WHERE n.number <= l.tenure_months) AS next_change,
    min({loans.FIRST_UNPAID_DUE}) FILTER (WHERE l.closed_on IS NULL) AS oldest_unpaid_due"""
_OF_EACH = """
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.end_date <= %(day)s THEN l.tenure_months::int ELSE greatest(0, least(
            l.tenure_months::int,
            %(months)s::int - (12 * date_part('year', l.start_date)
                + date_part('month', l.start_date))::int
                - (date_part('day', l.start_date) > %(last_due_day)s::int)::int
        )) END AS due
    ) d
    CROSS JOIN LATERAL (
        SELECT 1 + CASE WHEN l.closed_on IS NULL THEN d.due
            ELSE greatest(d.due, l.emis_paid_on_time::int) END AS number
    ) n"""
# How many customers changed, which of them owe more than their limits, and of which the arrears
# must be computed from loans and payments.
_MOVED = """SELECT count(*), array_agg(customer_id) FILTER (WHERE over),
    array_agg(customer_id) FILTER (WHERE unknown) FROM moved"""
_OVER = """c.customer_id, c.current_debt_paise > c.approved_limit_paise AS over,
    c.arrears_version <> c.version AS unknown"""
_HAS_PAYMENTS = "EXISTS (SELECT FROM payments y WHERE y.customer_id = c.customer_id)"
# Of a customer c, with the sums p over all loans: whether the arrears are as stored, and whether
# they follow from the due date alone. Without payments, no arrears have ever ended.
_SAME_ARREARS = """(c.arrears_version = c.version
    AND c.oldest_unpaid_due IS NOT DISTINCT FROM p.oldest_unpaid_due)"""
_PLAIN_ARREARS = f"""(p.oldest_unpaid_due IS NULL OR p.oldest_unpaid_due > %(day)s
    OR NOT {_HAS_PAYMENTS})"""


def _refresh(wanted: str) -> str:
    """Return the statement that refreshes the positions of the customers of `wanted`, a table t."""
    # Lateral, so that the index finds each customer's loans even if a table was just filled and has
    # no statistics.
    return f"""
    WITH moved AS (UPDATE customers c SET
        version = c.version + 1,
        current_debt_paise = p.current_debt_paise,
        current_installments_paise = p.current_installments_paise,
        loan_count = p.loan_count,
        total_principal_paise = p.total_principal_paise,
        emis_on_time = p.emis_on_time,
        emis_due = p.emis_due,
        current_year_loans = p.current_year_loans,
        position_as_of = %(day)s,
        position_valid_until = least(p.next_change, %(next_year)s::date),
        held_principal_paise = p.held_principal_paise,
        held_installments_paise = p.held_installments_paise,
        held_valid_until = p.held_valid_until,
        oldest_unpaid_due = p.oldest_unpaid_due,
        npa_since = CASE WHEN p.oldest_unpaid_due <= %(day)s AND {_SAME_ARREARS}
            THEN c.npa_since END,
        arrears_version = CASE WHEN {_SAME_ARREARS} OR {_PLAIN_ARREARS} THEN c.version + 1
            ELSE c.arrears_version END
    FROM (
        SELECT t.customer_id, s.*, h.*
        FROM {wanted}
        CROSS JOIN LATERAL (
            SELECT {_SUMS} FROM loans l {_OF_EACH} WHERE l.customer_id = t.customer_id
        ) s
        CROSS JOIN LATERAL ({holds.SUMS} t.customer_id) h
    ) p
    WHERE c.customer_id = p.customer_id
    RETURNING {_OVER})
    {_MOVED}"""


_REFRESH = _refresh("unnest(%(customer_ids)s) AS t (customer_id)")
# A cluster joins loans with a table only, not with an array.
_REFRESH_ON_CLUSTER = _refresh(
    "(SELECT customer_id FROM customers WHERE customer_id = ANY(%(customer_ids)s)) t"
)
_ON_DAY = f"""
    SELECT c.customer_id, c.version, c.monthly_income_paise, c.approved_limit_paise,
        p.current_debt_paise, p.current_installments_paise, p.loan_count, p.total_principal_paise,
        p.emis_on_time, p.emis_due, p.current_year_loans, %(day)s::date,
        least(p.next_change, h.held_valid_until, %(next_year)s::date), h.held_principal_paise,
        h.held_installments_paise, {_SAME_ARREARS} OR {_PLAIN_ARREARS}, p.oldest_unpaid_due,
        CASE WHEN p.oldest_unpaid_due <= %(day)s AND {_SAME_ARREARS} THEN c.npa_since END
    FROM customers c
    CROSS JOIN LATERAL (
        SELECT {_SUMS} FROM loans l {_OF_EACH} WHERE l.customer_id = c.customer_id
    ) p
    CROSS JOIN LATERAL ({holds.SUMS} c.customer_id) h
    WHERE c.customer_id = ANY(%(customer_ids)s)"""
_OF_OTHERS = f"""
    SELECT s.*, h.* FROM (
        SELECT {_SUMS} FROM loans l {_OF_EACH}
        WHERE l.customer_id = %(customer_id)s AND l.loan_id <> %(loan_id)s
    ) s CROSS JOIN ({holds.SUMS} %(customer_id)s) h"""
_HOLDS = """c.position_as_of <= %(day)s
    AND least(c.position_valid_until, c.held_valid_until) > %(day)s"""
# Of new loans whose source gave their settled installments.
_IN_ARREARS = "p.oldest_unpaid_due > '-infinity' AND p.oldest_unpaid_due <= %(day)s"
_ADD = f"""
    WITH moved AS (UPDATE customers c SET
        version = c.version + 1,
        current_debt_paise = c.current_debt_paise + p.current_debt_paise,
        current_installments_paise = c.current_installments_paise + p.current_installments_paise,
        loan_count = c.loan_count + p.loan_count,
        total_principal_paise = c.total_principal_paise + p.total_principal_paise,
        emis_on_time = c.emis_on_time + p.emis_on_time,
        emis_due = c.emis_due + p.emis_due,
        current_year_loans = c.current_year_loans + p.current_year_loans,
        position_as_of = %(day)s,
        position_valid_until = least(c.position_valid_until, p.next_change),
        oldest_unpaid_due = least(c.oldest_unpaid_due, nullif(p.oldest_unpaid_due, '-infinity')),
        npa_since = CASE WHEN {_IN_ARREARS} THEN NULL ELSE c.npa_since END,
        arrears_version = CASE WHEN {_IN_ARREARS} AND {_HAS_PAYMENTS} THEN c.arrears_version
            ELSE c.arrears_version + 1 END
    FROM unnest(%(customer_id)s, %(loan_count)s, %(total_principal_paise)s,
        %(current_debt_paise)s, %(current_installments_paise)s, %(emis_on_time)s, %(emis_due)s,
        %(current_year_loans)s, %(next_change)s, %(oldest_unpaid_due)s) AS p (customer_id,
        loan_count,
        total_principal_paise, current_debt_paise, current_installments_paise, emis_on_time,
        emis_due, current_year_loans, next_change, oldest_unpaid_due)
    WHERE c.customer_id = p.customer_id AND {_HOLDS}
    RETURNING {_OVER})
    {_MOVED}"""
_EXPIRED = f"""
    SELECT c.customer_id FROM customers c
    WHERE c.customer_id = ANY(%(customer_ids)s) AND NOT ({_HOLDS})"""
_LOCK = """SELECT customer_id FROM customers WHERE customer_id = ANY(%(customer_ids)s)
    ORDER BY customer_id FOR NO KEY UPDATE"""


def refresh(connection: Connection, customer_ids: Sequence[int], day: date) -> None:
    """Compute these customers' positions on `day` from loans and holds, and raise their versions.

    Locks the customers first, in order of id: a concurrent booking either commits before the sum,
    or loses the race on the version. Ignores unknown ids; ids must be distinct.
    """
    ids = np.array(list(customer_ids), np.int64)
    for group in cluster.lockable(connection, ids):
        driver_cursor(connection).execute(_LOCK, {"customer_ids": Bigints(group)})
    refresh_locked(connection, ids, day)


def of_other_loans(
    connection: Connection, position: CreditPosition, loan_id: int, day: date
) -> CreditPosition:
    """Return the position on `day` of all loans of its customer except one, with the holds, summed
    by PostgreSQL.

    The loans may be of a later version than `position`. The result keeps the version of `position`,
    which guards the write that follows. Its arrears are left unknown.
    """
    values = _day_values(day) | {"customer_id": position.customer_id, "loan_id": loan_id}
    row = driver_cursor(connection).execute(_OF_OTHERS, values, binary=True).fetchone()
    assert row is not None  # noqa: S101 - sums without groups
    count, total, debt, installments, on_time, due, this_year, next_change, _, *held = row
    held_until = held.pop()
    return replace(
        position,
        loan_count=count,
        total_principal_paise=total,
        current_debt_paise=debt,
        current_installments_paise=installments,
        emis_on_time=on_time,
        emis_due=due,
        current_year_loans=this_year,
        as_of=day,
        valid_until=min(next_change or date.max, held_until or date.max, values["next_year"]),
        held_principal_paise=held[0],
        held_installments_paise=held[1],
        arrears=None,
    )


def on_day(connection: Connection, customer_ids: Sequence[int], day: date) -> list[CreditPosition]:
    """Return the positions of existing customers on `day`, in any order, summed by PostgreSQL from
    their loans and holds. Stores nothing."""
    values = _day_values(day) | {"customer_ids": Bigints(np.array(customer_ids, np.int64))}
    rows = driver_cursor(connection).execute(_ON_DAY, values, binary=True).fetchall()
    return [customers.position(row) for row in rows]


def refresh_locked(connection: Connection, customer_ids: Any, day: date) -> list[int]:
    """Like `refresh`, for an array of customers that this transaction has locked. Returns those
    whose debt exceeds their limit."""
    values = _day_values(day) | {"customer_ids": Bigints(customer_ids)}
    statement = _REFRESH_ON_CLUSTER if cluster.is_distributed(connection) else _REFRESH
    _, over_limit, unknown = _moved(driver_cursor(connection), statement, values)
    if unknown:
        arrears.fill(connection, unknown, day)
    return over_limit


def _moved(
    cursor: psycopg.Cursor[Any], statement: str, values: dict[str, Any]
) -> tuple[int, list[int], list[int]]:
    """Return how many customers the statement changed, which owe more than their limits, and of
    which the arrears are unknown."""
    row = cursor.execute(statement, values, binary=True).fetchone()
    return (0, [], []) if row is None else (row[0], row[1] or [], row[2] or [])


@dataclass(frozen=True, slots=True)
class LoanSums:
    """The amounts that new loans add to positions: integer columns with a row per customer.

    Names are those of CreditPosition; `next_change_day` is the first day on which the loans'
    figures change, at most the next 1 January, in days since 1970-01-01, and `oldest_unpaid_day`
    the earliest due date of an unpaid installment, NO_DAY without one.
    """

    customer_id: NDArray[Any]
    loan_count: NDArray[Any]
    total_principal_paise: NDArray[Any]
    current_debt_paise: NDArray[Any]
    current_installments_paise: NDArray[Any]
    emis_on_time: NDArray[Any]
    emis_due: NDArray[Any]
    current_year_loans: NDArray[Any]
    next_change_day: NDArray[Any]
    oldest_unpaid_day: NDArray[Any]


def add_loans(connection: Connection, sums: LoanSums, day: date) -> list[int]:
    """Add new loans to the positions on `day` of their customers, which this transaction has
    locked, and raise the versions. Returns the customers whose debt exceeds their limit.

    Same result as a refresh, at a cost that does not depend on the customers' earlier loans.
    """
    cursor = driver_cursor(connection)
    values = {
        "day": day,
        "customer_id": Bigints(sums.customer_id),
        "loan_count": Integers(sums.loan_count),
        "total_principal_paise": Bigints(sums.total_principal_paise),
        "current_debt_paise": Bigints(sums.current_debt_paise),
        "current_installments_paise": Bigints(sums.current_installments_paise),
        "emis_on_time": Integers(sums.emis_on_time),
        "emis_due": Integers(sums.emis_due),
        "current_year_loans": Integers(sums.current_year_loans),
        "next_change": Dates(sums.next_change_day),
        "oldest_unpaid_due": Dates(sums.oldest_unpaid_day, NO_DAY),
    }
    moved, over_limit, unknown = _moved(cursor, _ADD, values)
    known = sums.oldest_unpaid_day[sums.oldest_unpaid_day != NO_DAY]
    if unknown and (known <= (day - _EPOCH).days).any():
        arrears.fill(connection, unknown, day)
    if moved == len(sums.customer_id):
        return over_limit
    # An outdated position cannot be added to.
    expired = cursor.execute(
        _EXPIRED, {"customer_ids": values["customer_id"], "day": day}, binary=True
    ).fetchall()
    ids = np.array([row[0] for row in expired], np.int64)
    return over_limit + refresh_locked(connection, ids, day)


def _day_values(day: date) -> dict[str, Any]:
    last_of_month = calendar.monthrange(day.year, day.month)[1]
    return {
        "day": day,
        "this_year": date(day.year, 1, 1),
        "next_year": date(day.year + 1, 1, 1),
        "months": 12 * day.year + day.month,
        "last_due_day": 31 if day.day == last_of_month else day.day,
    }

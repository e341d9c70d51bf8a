"""The search for overdue loans of all customers, in pages.

Each page starts at its place in an index, and reads a bounded number of rows.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from credit_service.domain.delinquency import CLASS_DAYS, Arrears, AssetClass
from credit_service.domain.loans import Loan
from credit_service.storage import cluster, loans
from credit_service.storage.statements import Row, Statement
from credit_service.storage.tables import MAX_ID

_NPA_DAYS = CLASS_DAYS[AssetClass.NPA]
_LEAST_EXAMINED = 100
_EXAMINED_PER_LOAN = 2
"""A page of a class examines so many loans, or borrowers with a kept NPA, for each loan it may
have, and at least _LEAST_EXAMINED: all of them may have another class."""


class PageStart(NamedTuple):
    """The key after which a page starts.

    `day` is the due date of the loan's oldest unpaid installment; with a class, that of the
    borrower's worst loan. With `kept`, which follows the others, it is the first day of the
    borrower's NPA.
    """

    kept: bool
    day: date
    customer_id: int
    loan_id: int


@dataclass(frozen=True, slots=True)
class FoundLoan:
    """An overdue loan, the due date of its oldest unpaid installment, and its borrower's class."""

    loan: Loan
    first_unpaid_due: date
    asset_class: AssetClass
    key: PageStart


class OverduePage(NamedTuple):
    """Loans, and where the next page starts; None after the last page.

    A page of a class may have fewer loans than its limit, or none, without being the last.
    """

    loans: list[FoundLoan]
    following: PageStart | None


_DUE = loans.FIRST_UNPAID_DUE
_NPA_SINCE = "CASE WHEN c.arrears_version = c.version THEN c.npa_since END"
# The due date of the worst loan of a customer c, read from the loans only if the stored one is not
# known. The inner l hides a loan l outside. An aggregate always has a row.
_UNKNOWN_WORST = f"""SELECT min({_DUE}) AS due FROM loans l
    WHERE l.customer_id = c.customer_id AND l.closed_on IS NULL
        AND c.arrears_version <> c.version"""
_WORST_DUE = "CASE WHEN c.arrears_version = c.version THEN c.oldest_unpaid_due ELSE w.due END"

_ANY = Statement(
    f"""
    SELECT {_DUE} AS due, l.customer_id, l.loan_id, {_DUE}, {_WORST_DUE}, {_NPA_SINCE},
        {loans.COLUMNS}
    FROM loans l JOIN customers c ON c.customer_id = l.customer_id
    CROSS JOIN LATERAL ({_UNKNOWN_WORST}) w
    WHERE l.closed_on IS NULL AND {_DUE} <= :latest_due
        AND ({_DUE}, l.customer_id, l.loan_id)
            > (CAST(:day AS date), CAST(:customer_id AS bigint), CAST(:loan_id AS bigint))
    ORDER BY 1, 2, 3 LIMIT :limit"""
)


class _ByBorrower(NamedTuple):
    """The statement of the overdue loans of borrowers, and its form for a cluster."""

    on_one_server: Statement
    on_cluster: Statement


def _of_borrowers(borrowers: str) -> _ByBorrower:
    """Return the statement of the overdue loans of borrowers b, in their order: (day, customer_id,
    due date of the worst loan, first day of a kept NPA)."""
    select = "SELECT b.day, b.customer_id, l.loan_id, {due}, b.worst_due, b.npa_since, {columns}"
    order = """(b.day, b.customer_id, l.loan_id)
        > (CAST(:day AS date), CAST(:customer_id AS bigint), CAST(:loan_id AS bigint))
    ORDER BY 1, 2, 3 LIMIT :limit"""
    unpaid = f"l.customer_id = b.customer_id AND l.closed_on IS NULL AND {_DUE} <= :latest_due"
    return _ByBorrower(
        Statement(
            f"""
    {select.format(due="l.due", columns=loans.COLUMNS)}
    FROM ({borrowers}) b
    CROSS JOIN LATERAL (
        SELECT {_DUE} AS due, l.* FROM loans l
        WHERE {unpaid}
        ORDER BY l.loan_id OFFSET 0
    ) l
    WHERE {order}"""
        ),
        # A cluster cannot run a lateral subquery for rows that it has collected from all nodes.
        Statement(
            f"""
    {select.format(due=_DUE, columns=loans.COLUMNS)}
    FROM ({borrowers}) b JOIN loans l ON {unpaid}
    WHERE {order}"""
        ),
    )


# The last row to examine. The pages are complete if another transaction removes rows before it: the
# page ends at this key, not after a number of rows. A range begins with one condition: of two,
# PostgreSQL may start at the lower one, and read the index from there.
_LAST_DUE = Statement(
    f"""SELECT {_DUE}, l.customer_id FROM loans l
    WHERE l.closed_on IS NULL AND {_DUE} <= :last
        AND ({_DUE}, l.customer_id) >= (CAST(:day AS date), CAST(:customer_id AS bigint))
    ORDER BY 1, 2, l.loan_id OFFSET :examined LIMIT 1"""
)
_LAST_KEPT = Statement(
    """SELECT c.npa_since, c.customer_id FROM customers c
    WHERE c.npa_since <= :last
        AND (c.npa_since, c.customer_id) >= (CAST(:day AS date), CAST(:customer_id AS bigint))
    ORDER BY 1, 2 OFFSET :examined LIMIT 1"""
)
_UNTIL = "(CAST(:until AS date), CAST(:until_customer AS bigint))"
# Borrowers by the due date of their worst loan. One more than the page has loans: of the first one,
# all loans may be on the page before.
_BY_DUE = _of_borrowers(
    f"""
    SELECT DISTINCT ON (1, 2) {_DUE} AS day, l.customer_id, {_DUE} AS worst_due,
        {_NPA_SINCE} AS npa_since
    FROM loans l
    CROSS JOIN LATERAL (SELECT * FROM customers c WHERE c.customer_id = l.customer_id OFFSET 0) c
    CROSS JOIN LATERAL ({_UNKNOWN_WORST}) w
    WHERE l.closed_on IS NULL
        AND ({_DUE}, l.customer_id) >= (CAST(:day AS date), CAST(:customer_id AS bigint))
        AND ({_DUE}, l.customer_id) <= {_UNTIL}
        AND {_WORST_DUE} = {_DUE}
        AND (:any_npa OR coalesce({_NPA_SINCE}, 'infinity') > :today)
    ORDER BY 1, 2 LIMIT :limit + 1"""
)
_KEPT = _of_borrowers(
    f"""
    SELECT c.npa_since AS day, c.customer_id, c.oldest_unpaid_due AS worst_due, c.npa_since
    FROM customers c
    WHERE c.npa_since <= :last AND c.arrears_version = c.version
        AND (c.npa_since, c.customer_id) >= (CAST(:day AS date), CAST(:customer_id AS bigint))
        AND (c.npa_since, c.customer_id) <= {_UNTIL}
        AND c.oldest_unpaid_due BETWEEN :first_due AND :latest_due
    ORDER BY 1, 2 LIMIT :limit + 1"""
)


def page(
    connection: Connection,
    asset_class: AssetClass | None,
    latest_due: date,
    start: PageStart | None,
    limit: int,
    day: date,
) -> OverduePage:
    """Return loans whose oldest unpaid installment was due on `latest_due` or before, with their
    classes at the end of `day`, at most `limit`.

    Without `asset_class` in order of due date, customer and loan. With it, in order of the
    borrower's worst loan; an NPA whose oldest arrears are paid comes last. The cost is bounded for
    every class and any number of loans.
    """
    start = start or PageStart(kept=False, day=date.min, customer_id=0, loan_id=0)
    values: dict[str, Any] = {
        "latest_due": latest_due,
        "limit": limit + 1,
        "today": day,
        "day": start.day,
        "customer_id": start.customer_id,
        "loan_id": start.loan_id,
    }
    if asset_class is None:
        return _page(_found_in(_ANY.rows(connection, values), day), limit, None)
    values["examined"] = max(_LEAST_EXAMINED, _EXAMINED_PER_LOAN * limit) - 1
    newest_npa_due = day - timedelta(days=_NPA_DAYS - 1)
    if asset_class is AssetClass.NPA:
        first, last = date.min, newest_npa_due
    else:
        least, more = CLASS_DAYS[asset_class], CLASS_DAYS[AssetClass(asset_class + 1)]
        first, last = day - timedelta(days=more - 2), day - timedelta(days=least - 1)
    found: list[FoundLoan] = []
    if not start.kept:
        values |= {"last": min(last, latest_due), "any_npa": asset_class is AssetClass.NPA}
        if start.day < first:
            values |= {"day": first, "customer_id": 0, "loan_id": 0}
        rows, following = _examine(connection, _LAST_DUE, _BY_DUE, values)
        found = _found_in(rows, day)
        if asset_class is not AssetClass.NPA or following is not None or len(found) > limit:
            return _page(found, limit, following)
        values |= {"day": date.min, "customer_id": 0, "loan_id": 0}
    values |= {
        "last": day,
        "first_due": newest_npa_due + timedelta(days=1),
        "limit": limit + 1 - len(found),
    }
    rows, following = _examine(connection, _LAST_KEPT, _KEPT, values)
    return _page(
        found + _found_in(rows, day, kept=True),
        limit,
        None if following is None else following._replace(kept=True),
    )


def _examine(
    connection: Connection, last: Statement, statements: _ByBorrower, values: dict[str, Any]
) -> tuple[list[Row], PageStart | None]:
    """Return the rows up to the last one to examine, and the start after it; None at the end."""
    row = last.row(connection, values)
    until, until_customer = row or (values["last"], MAX_ID)
    statement = statements[cluster.is_distributed(connection)]
    rows = statement.rows(connection, values | {"until": until, "until_customer": until_customer})
    if row is None:
        return rows, None
    return rows, PageStart(kept=False, day=until, customer_id=until_customer + 1, loan_id=0)


def _page(found: list[FoundLoan], limit: int, following: PageStart | None) -> OverduePage:
    """Return the page; it ends before `following` if it has more than `limit` loans."""
    if len(found) > limit:
        found = found[:limit]
        following = found[-1].key
    return OverduePage(found, following)


def _found_in(rows: list[Row], day: date, *, kept: bool = False) -> list[FoundLoan]:
    return [_found(row, day, kept=kept) for row in rows]


def _found(row: Row, day: date, *, kept: bool) -> FoundLoan:
    place, customer_id, loan_id, due, worst_due, npa_since = row[:6]
    return FoundLoan(
        loans.loan(row[6:]),
        due,
        Arrears(worst_due, npa_since).asset_class(day),
        PageStart(kept, place, customer_id, loan_id),
    )

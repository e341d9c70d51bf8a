"""Customers and the credit position that each one's row carries."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from credit_service.domain.customers import Customer
from credit_service.domain.loans import Loan
from credit_service.domain.positions import CreditPosition, is_valid_on, position_from_loans
from credit_service.observability import tracing
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
    if is_valid_on(stored, day):
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


class PageStart(NamedTuple):
    """Where a page of customers begins.

    In order of id: after the customer of id `after`. Where `term` is not None, in order of the term
    of that number (0: the full name, 1: the last name, 2: the phone number), after that customer.
    """

    after: int = 0
    term: int | None = None


class CustomersPage(NamedTuple):
    """Customers in order of id, and where the next page begins; None when there are no more."""

    customers: list[CustomerView]
    following: PageStart | None = None


_MAX_SORTED = 1_000
"""Matches of one term that are read to be sorted by id. Each costs about 5 µs."""
_MAX_ROUNDS = 8
_LAST_CHARACTER = 0x10FFFF
_COUNTRY_CODE = "+91"
_PHONE_PREFIX = re.compile(r"\+?[0-9]+")
_FULL_NAME = "lower((c.first_name || ' ') || c.last_name)"
_LAST_NAME = "lower(c.last_name)"
_BEGINNINGS = {
    _FULL_NAME: "lower(CAST(:query AS text))",
    _LAST_NAME: "lower(CAST(:query AS text))",
    "c.phone_number": "CAST(:phone AS text)",
}
"""The terms that are searched, each by an index of its own, and what they are to begin with."""
_TERMS = tuple(_BEGINNINGS)
_NAMES = _TERMS[:2]


def _end(term: str) -> str:
    """What no term that begins so reaches."""
    return f"({_BEGINNINGS[term]} || chr({_LAST_CHARACTER}))"


def _begins(term: str) -> str:
    """The condition that a term begins so. An index of text_pattern_ops finds it whatever the text
    is; LIKE it finds for constants alone."""
    return f"({term} ~>=~ {_BEGINNINGS[term]} AND {term} ~<~ {_end(term)})"


def _matches(terms: Sequence[str]) -> Statement:
    """Up to _MAX_SORTED ids for each term, each with the number of its term."""
    return Statement(
        " UNION ALL ".join(
            f"""(SELECT {number}, c.customer_id FROM customers c
            WHERE {_begins(term)} ORDER BY {term} USING ~<~ LIMIT {_MAX_SORTED})"""
            for number, term in enumerate(terms)
        )
    )


def _start(number: int) -> Statement:
    """The term of the customer of id :after, or the first that can match: that customer is none, or
    has another name by now."""
    term, beginning = _TERMS[number], _BEGINNINGS[_TERMS[number]]
    return Statement(
        f"""SELECT coalesce(max({term} COLLATE "C"), {beginning}) FROM customers c
        WHERE c.customer_id = :after AND {_begins(term)}"""
    )


def _walk(number: int) -> Statement:
    """Matches of a term in its order and that of ids, after the term :start and the id :after; at
    the end of each, whether it matches by an earlier term too."""
    term, start = _TERMS[number], "CAST(:start AS text)"
    earlier = " OR ".join(_begins(each) for each in _TERMS[:number]) or "false"
    # "Between" where "equal" would do: the planner could then go through all ids instead.
    return Statement(
        f"""SELECT {COLUMNS}, {earlier} FROM (
            (SELECT 1 AS part, c.* FROM customers c
            WHERE {term} ~>=~ {start} AND {term} ~<=~ {start} AND c.customer_id > :after
            ORDER BY {term} USING ~<~, c.customer_id LIMIT :limit)
            UNION ALL
            (SELECT 2, c.* FROM customers c WHERE {term} ~>~ {start} AND {term} ~<~ {_end(term)}
            ORDER BY {term} USING ~<~, c.customer_id LIMIT :limit)
        ) c ORDER BY c.part, {term} USING ~<~, c.customer_id LIMIT :limit"""
    )


_MATCHES = {len(terms): _matches(terms) for terms in (_NAMES, _TERMS)}
_STARTS = [_start(number) for number in range(len(_TERMS))]
_WALKS = [_walk(number) for number in range(len(_TERMS))]
_OF_IDS = Statement(
    f"""SELECT {COLUMNS} FROM customers c
    WHERE c.customer_id = ANY(CAST(:ids AS bigint[])) ORDER BY c.customer_id"""
)
_PAGE = Statement(
    f"""SELECT {COLUMNS} FROM customers c
    WHERE c.customer_id > :after ORDER BY c.customer_id LIMIT :limit"""
)


def search(connection: Connection, query: str, start: PageStart, limit: int) -> CustomersPage:
    """Customers from `start`, at most `limit`.

    `query` is a prefix of "first last", of the last name, or of the phone number with or without
    its country code, +91, case ignored; empty means all.

    The cost is bounded, whatever the query is and however many customers there are. All matches of
    a text that has few are read and come in order of id. The pages of a text that has more than
    _MAX_SORTED follow the terms that they match, as the indexes have them, and only within a page
    customers are in order of id.
    """
    if not query:
        rows = _PAGE.rows(connection, {"after": start.after, "limit": limit + 1})
        return _page_by_id(rows, limit)
    values: dict[str, Any] = {"query": query}
    terms = _NAMES
    if _PHONE_PREFIX.fullmatch(query):
        terms = _TERMS
        values["phone"] = query if query.startswith("+") else _COUNTRY_CODE + query
    if start.term is not None and start.term < len(terms):
        return _page_by_term(connection, values, len(terms), start.after, start.term, limit)
    found = _MATCHES[len(terms)].rows(connection, values)
    most = max(Counter(number for number, _ in found).values(), default=0)
    if most == _MAX_SORTED:
        return _page_by_term(connection, values, len(terms), 0, 0, limit)
    ids = sorted({customer_id for _, customer_id in found if customer_id > start.after})
    return _page_by_id(_OF_IDS.rows(connection, {"ids": ids[: limit + 1]}), limit)


def _page_by_id(rows: list[Any], limit: int) -> CustomersPage:
    views = [view(row) for row in rows[:limit]]
    more = len(rows) > limit
    return CustomersPage(views, PageStart(views[-1].customer.customer_id) if more else None)


def _page_by_term(
    connection: Connection, values: dict[str, Any], terms: int, after: int, number: int, limit: int
) -> CustomersPage:
    """A page in order of the terms up to that many, from the one of that number on."""
    found: list[tuple[CustomerView, PageStart]] = []
    for _ in range(_MAX_ROUNDS):
        values |= {"after": after, "limit": limit + 1}
        # By a statement of its own: without its value the planner knows nothing of what is left.
        start = _STARTS[number].row(connection, values)
        assert start is not None  # noqa: S101 - an aggregate
        rows = _WALKS[number].rows(connection, values | {"start": start[0]})
        for row in rows:
            after = row[0]
            is_repeated = row[COLUMN_COUNT]
            if not is_repeated:
                found.append((view(row), PageStart(after, number)))
        if len(found) > limit:
            return _sorted_page(found[:limit], found[limit - 1][1])
        if len(rows) <= limit:
            number, after = number + 1, 0
            if number == terms:
                return _sorted_page(found, None)
    # Most match by an earlier term too.
    return _sorted_page(found, PageStart(after, number))


def _sorted_page(
    found: list[tuple[CustomerView, PageStart]], following: PageStart | None
) -> CustomersPage:
    views = sorted((each for each, _ in found), key=lambda each: each.customer.customer_id)
    return CustomersPage(views, following)


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

"""Pages of customers: by id, or found by the start of a name or a phone number."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from credit_service.storage.customers import COLUMN_COUNT, COLUMNS, CustomerView, view
from credit_service.storage.statements import Statement


class PageStart(NamedTuple):
    """Where a page of customers starts.

    Without `term`, pages are in order of id and start after the customer with id `after`. With
    `term`, they are in order of that term (0: full name, 1: last name, 2: phone number) and start
    after that customer.
    """

    after: int = 0
    term: int | None = None


class CustomersPage(NamedTuple):
    """Customers in order of id, and where the next page starts; None after the last page."""

    customers: list[CustomerView]
    following: PageStart | None = None


_MAX_SORTED = 1_000
"""Matches of one term that a search reads and sorts by id. Each costs about 5 µs."""
_MAX_ROUNDS = 8
_LAST_CHARACTER = 0x10FFFF
_COUNTRY_CODE = "+91"
_PHONE_PREFIX = re.compile(r"\+?[0-9]+")
_FULL_NAME = "lower((c.first_name || ' ') || c.last_name)"
_LAST_NAME = "lower(c.last_name)"
_PREFIXES = {
    _FULL_NAME: "lower(CAST(:query AS text))",
    _LAST_NAME: "lower(CAST(:query AS text))",
    "c.phone_number": "CAST(:phone AS text)",
}
"""The searched terms, each with its own index, and the prefix that they must start with."""
_TERMS = tuple(_PREFIXES)
_NAMES = _TERMS[:2]


def _upper_bound(term: str) -> str:
    """Return SQL for the upper bound of terms with the prefix."""
    return f"({_PREFIXES[term]} || chr({_LAST_CHARACTER}))"


def _has_prefix(term: str) -> str:
    """Return the condition that a term has the prefix. An index of text_pattern_ops supports it for
    any text, and LIKE only for constants."""
    return f"({term} ~>=~ {_PREFIXES[term]} AND {term} ~<~ {_upper_bound(term)})"


def _matches(terms: Sequence[str]) -> Statement:
    """Return the query of up to _MAX_SORTED ids for each term, each with its term's number."""
    return Statement(
        " UNION ALL ".join(
            f"""(SELECT {number}, c.customer_id FROM customers c
            WHERE {_has_prefix(term)} ORDER BY {term} USING ~<~ LIMIT {_MAX_SORTED})"""
            for number, term in enumerate(terms)
        )
    )


def _start(number: int) -> Statement:
    """Return the query of the term of the customer with id :after. It gives the first possible term
    if that customer does not exist or no longer matches."""
    term, prefix = _TERMS[number], _PREFIXES[_TERMS[number]]
    return Statement(
        f"""SELECT coalesce(max({term} COLLATE "C"), {prefix}) FROM customers c
        WHERE c.customer_id = :after AND {_has_prefix(term)}"""
    )


def _walk(number: int) -> Statement:
    """Return the query of matches in order of a term and of ids, after the term :start and the id
    :after. Each row ends with whether an earlier term matches too."""
    term, start = _TERMS[number], "CAST(:start AS text)"
    earlier = " OR ".join(_has_prefix(each) for each in _TERMS[:number]) or "false"
    # A range instead of an equality, for which the planner could scan all ids.
    return Statement(
        f"""SELECT {COLUMNS}, {earlier} FROM (
            (SELECT 1 AS part, c.* FROM customers c
            WHERE {term} ~>=~ {start} AND {term} ~<=~ {start} AND c.customer_id > :after
            ORDER BY {term} USING ~<~, c.customer_id LIMIT :limit)
            UNION ALL
            (SELECT 2, c.* FROM customers c
            WHERE {term} ~>~ {start} AND {term} ~<~ {_upper_bound(term)}
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
    """Return customers from `start`, at most `limit`.

    `query` is a prefix of "first last", of the last name, or of the phone number with or without
    its country code, +91; case is ignored; an empty one matches all.

    The cost is bounded for every query and any number of customers. A query with few matches reads
    all of them and returns them in order of id. The pages of a query with more than _MAX_SORTED
    matches follow the order of the indexes of the matching terms; customers are in order of id only
    within a page.
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
    """Return a page in order of the first `terms` terms, starting with term `number`."""
    found: list[tuple[CustomerView, PageStart]] = []
    for _ in range(_MAX_ROUNDS):
        values |= {"after": after, "limit": limit + 1}
        # A separate statement: without the value the planner cannot estimate the remaining rows.
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
    # Most of them match an earlier term too.
    return _sorted_page(found, PageStart(after, number))


def _sorted_page(
    found: list[tuple[CustomerView, PageStart]], following: PageStart | None
) -> CustomersPage:
    views = sorted((each for each, _ in found), key=lambda each: each.customer.customer_id)
    return CustomersPage(views, following)

"""ListCustomers: the matches of a search, its pages, and a bound on the rows it reads."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import Connection, text

from credit_service.storage import customer_search
from credit_service.storage.customer_search import PageStart
from credit_service.storage.database import Database
from credit_service.storage.statements import Statement
from credit_service.v1 import credit_service_pb2 as pb
from tests.integration.conftest import Edge

COUNT = 6_000
_FILL = text(
    """INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
        phone_number, approved_limit_paise, imported, created_at, position_as_of,
        position_valid_until)
    SELECT n, CASE n % 3 WHEN 0 THEN 'Asha' WHEN 1 THEN 'Rao' ELSE 'N' || n END,
        CASE n % 3 WHEN 0 THEN 'Rao' WHEN 1 THEN 'Rao' || n ELSE 'Last' || n END,
        30, 100, '+91' || 9876500000 + n, 0, true, now(), '2026-01-01', '2027-01-01'
    FROM generate_series(1, :count) n"""
)
_READ = text(
    "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'customers'"
)
_LIKE = text(
    """SELECT customer_id FROM customers WHERE lower(first_name || ' ' || last_name) LIKE :prefix
        OR lower(last_name) LIKE :prefix OR phone_number LIKE :prefix
        OR phone_number LIKE '+91' || :prefix
    ORDER BY customer_id"""
)
MANY = ("rao", "r", "asha", "asha rao", "987", "+9198765", "n", "9876501")
FEW = ("zzz", "n11", "rao111", "last7", "9876500007", "+91987650112", "nonesuch", "%", "rao\\", "_")


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A transaction on a database with many customers."""
    with database.transaction() as filling:
        filling.execute(_FILL, {"count": COUNT})
    with database.autocommit() as analyzing:
        analyzing.execute(text("ANALYZE customers"))
    with database.transaction() as opened:
        yield opened


def rows_read(connection: Connection, act: Callable[[], object]) -> tuple[int, int]:
    """The numbers of customers read by sequential scans and by index scans."""
    before = connection.execute(_READ).one()
    act()
    after = connection.execute(_READ).one()
    return after[0] - before[0], after[1] - before[1]


def pages(connection: Connection, query: str, limit: int) -> Iterator[list[int]]:
    start: PageStart | None = PageStart()
    while start is not None:
        page = customer_search.search(connection, query, start, limit)
        yield [each.customer.customer_id for each in page.customers]
        start = page.following


@pytest.mark.one_server("counts the rows that this server reads")
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_any_search_reads_few_customers(connection: Connection, plan: str) -> None:
    connection.execute(text(f"SET LOCAL plan_cache_mode = {plan}"))
    # By the last queries the driver uses prepared statements.
    for query in (*MANY, *FEW, *MANY):
        page = itertools.islice(pages(connection, query, 50), 3)
        scanned, by_indexes = rows_read(connection, partial(list, page))
        assert (scanned, by_indexes <= 3_700) == (0, True), (query, by_indexes)


@pytest.mark.one_server("reads the plans of this server")
def test_each_condition_uses_an_index(connection: Connection) -> None:
    plans: list[str] = []

    class Explained(Statement):
        def rows(self, connection: Connection, values: object) -> list[tuple[object, ...]]:
            plan = Statement(f"EXPLAIN {self.text}").rows(connection, values)  # type: ignore[arg-type]
            plans.append("\n".join(row[0] for row in plan))
            return super().rows(connection, values)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_MATCHES", "_WALKS"):
            found = getattr(customer_search, name)
            explained = (
                {key: Explained(each.text) for key, each in found.items()}
                if isinstance(found, dict)
                else [Explained(each.text) for each in found]
            )
            patch.setattr(customer_search, name, explained)
        for query in (*MANY, *FEW):
            list(pages(connection, query, 1000))
    for index in ("customers_name_idx", "customers_last_name_idx", "customers_phone_number_idx"):
        assert any(index in plan for plan in plans)
    assert not [plan for plan in plans if "Seq Scan" in plan]


def test_pages_contain_every_match_once(connection: Connection) -> None:
    for query in (*MANY, *FEW):
        prefix = query.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
        expected = list(connection.execute(_LIKE, {"prefix": prefix}).scalars())
        found = list(pages(connection, query, 700))
        assert all(page == sorted(page) for page in found)
        assert sorted(itertools.chain(*found)) == expected, query
        if len(expected) <= 700:
            # The ids are also ordered across pages.
            assert list(itertools.chain(*pages(connection, query, 45))) == expected
        else:
            assert len(found[0]) == 700


def test_a_customer_renamed_between_two_pages_does_not_end_a_search(connection: Connection) -> None:
    first = customer_search.search(connection, "rao", PageStart(), 50)
    assert first.following is not None
    for name in ("Aaa", "Zzz"):
        connection.execute(
            text("UPDATE customers SET first_name = :name WHERE customer_id = :id"),
            {"name": name, "id": first.following.after},
        )
        customer_search.search(connection, "rao", first.following, 50)


@pytest.mark.parametrize("query", ["rao", "9876500"])
def test_page_tokens_lead_through_all_pages(server: Edge, database: Database, query: str) -> None:
    with database.transaction() as filling:
        filling.execute(_FILL, {"count": COUNT})
    found: set[int] = set()
    request = pb.ListCustomersRequest(query=query, page_size=1000 if query == "rao" else 400)
    while True:
        answer = server.credit.ListCustomers(request, timeout=20)
        ids = [each.customer_id for each in answer.customers]
        assert not found & set(ids)
        found.update(ids)
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert len(found) == (2 * COUNT // 3 if query == "rao" else 999)


@pytest.mark.parametrize("start", [PageStart(7, 2), PageStart(0, 3), PageStart(2**63 - 1, 0)])
def test_an_unknown_start_of_a_page_finds_nothing(database: Database, start: PageStart) -> None:
    with database.autocommit() as connection:
        assert customer_search.search(connection, "rao", start, 5).customers == []

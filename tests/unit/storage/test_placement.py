"""Tables and statements fit a cluster that places a customer's rows on one node.

None of this needs a cluster: the tests read the declared tables and the texts of statements.
"""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint

from credit_service.storage import (
    bookings,
    customers,
    decisions,
    fact_changes,
    loans,
    loans_with_customers,
    offers,
    payment_writes,
    payments,
    personal_data,
    policy_facts,
    referrals,
    requests,
)
from credit_service.storage.tables import EVERYWHERE, LOCAL, metadata

TABLES = list(metadata.tables.values())
_NODES = (EVERYWHERE["placement"], LOCAL["placement"])

# Every statement of CheckEligibility, GetCreditScore, GetCustomer by id, GetLoan of a customer,
# CreateLoan, RecordPayment, ReversePayment, ListPayments, CreateLoanOffer and the ends of offers,
# except those that find a customer by the id of a payment or an offer; those of UpdateCustomer, and
# the statements that find who has or had a phone number; those of an erasure, except the one for
# former phone numbers, which searches all nodes.
HOT = {
    "customers._BY_ID": customers._BY_ID,
    "customers._POSITION": customers._POSITION,
    "customers._POSITION_WITH_LOANS": customers._POSITION_WITH_LOANS,
    "customers._LOCK": customers._LOCK,
    "loans_with_customers._LOAN_OF_CUSTOMER": loans_with_customers._LOAN_OF_CUSTOMER,
    "customers._HOLDER": customers._HOLDER,
    "customers._FORMER_HOLDERS": customers._FORMER_HOLDERS,
    "customers._UPDATE": customers._UPDATE,
    "fact_changes._PAGE": fact_changes._PAGE,
    "requests._FIND": requests._FIND,
    "requests._CUSTOMER_AFTER": requests._CUSTOMER_AFTER,
    "bookings.READ": bookings.READ,
    "bookings.WRITE_APPROVED": bookings.WRITE_APPROVED,
    "bookings.WRITE_DECLINED": bookings.WRITE_DECLINED,
    "bookings.WRITE_REFERRED": bookings.WRITE_REFERRED,
    "bookings.READ_FOR_OFFER": bookings.READ_FOR_OFFER,
    "bookings.WRITE_OFFER": bookings.WRITE_OFFER,
    "offers._ONE": offers._ONE,
    "offers._PAGE": offers._PAGE,
    "offers._READ": offers._READ,
    "offers._END": offers._END,
    "offers._ACCEPT": offers._ACCEPT,
    "decisions._OF_CUSTOMER": decisions._OF_CUSTOMER,
    "payment_writes._READ": payment_writes._READ,
    "payments._SETTLEMENTS": payments._SETTLEMENTS,
    "payment_writes._WRITE": payment_writes._WRITE,
    "payment_writes._WRITE_REPLAYED": payment_writes._WRITE_REPLAYED,
    "payment_writes._REVERSE": payment_writes._REVERSE,
    "payments._HISTORY": payments._HISTORY,
    "payments._PAGE": payments._PAGE,
    "personal_data._OBLIGATIONS": personal_data._OBLIGATIONS,
    "personal_data._KEPT": personal_data._KEPT,
    "personal_data._REPLACE": personal_data._REPLACE,
    "personal_data._RELEASE_PHONE_NUMBER": personal_data._RELEASE_PHONE_NUMBER,
    "personal_data._PHONE_NUMBERS": personal_data._PHONE_NUMBERS,
    "personal_data._ERASE_FACTS": personal_data._ERASE_FACTS,
    "personal_data._ERASE_REQUESTS": personal_data._ERASE_REQUESTS,
    "personal_data._INGESTIONS": personal_data._INGESTIONS,
    "policy_facts.READ": policy_facts.READ,
    "referrals.APPROVE": referrals.APPROVE,
    "referrals.DECLINE": referrals.DECLINE,
    "loans._ONE": loans._ONE,
    "loans._ALL": loans._ALL,
    **{f"loans._PAGES[{state}]": statement for state, statement in loans._PAGES.items()},
}

_USE = re.compile(r"\b(FROM|JOIN|INTO|UPDATE)\s+(\w+)(?:\s+(?:AS\s+)?(?!SET|ON|WHERE|LEFT)(\w+))?")


def placement(table: Table) -> str:
    """The column that decides on a row's node, or "everywhere" or "local"."""
    found: str = table.info["placement"]
    return found


def flaws(text: str) -> Iterator[str]:
    """What would make a statement read or write more than one node."""
    placements = set()
    for verb, name, alias in _USE.findall(text):
        if name not in metadata.tables:
            continue  # a common table expression
        column = placement(metadata.tables[name])
        if column == EVERYWHERE["placement"]:
            continue
        placements.add(column)
        if verb == "INTO":
            listed = re.search(rf"INTO {name} \(([^)]*)\)", text)
            if listed is None or column not in re.split(r",\s*", listed[1]):
                yield f"the insert into {name} lacks {column}"
            continue
        prefix = rf"{alias}\." if alias else rf"(?:{name}\.)?"
        if not re.search(
            rf"(?<![\w.]){prefix}{column} = (?:CAST\()?(?:\w+\.{column}|:{column})"
            rf"|= {alias or name}\.{column}|USING \({column}",
            text,
        ):
            yield f"{name} is not searched by {column}"
    if len(placements) != 1:
        yield f"tables of {len(placements)} placements"
    elif not re.search(
        rf"\b{next(iter(placements))} = (?:CAST\()?:{next(iter(placements))}\b", text
    ):
        yield "no parameter names the node"
    # Citus writes it down for the node as CASE column WHEN (column = value).
    if re.search(r"\bCASE (?!WHEN\b)", text):
        yield "a CASE with an operand"
    yield from flaws_of_subqueries(text)


def flaws_of_subqueries(text: str) -> Iterator[str]:
    """Beside a join, a cluster does not infer a subquery's node from a column of the query outside
    of it."""
    for part in subqueries(text):
        for _, name, _ in _USE.findall(part):
            column = placement(metadata.tables[name]) if name in metadata.tables else ""
            if column in (*_NODES, ""):
                continue
            if not re.search(rf"\b{column} = (?:CAST\()?:{column}\b", part):
                yield f"no parameter names the node of the subquery of {name}"


def subqueries(text: str) -> Iterator[str]:
    """The queries in parentheses, without common table expressions."""
    for found in re.finditer(r"(?<!AS )\(\s*SELECT", text):
        depth = 0
        for place in range(found.start(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if depth == 0:
                yield text[found.start() + 1 : place]
                break


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_each_table_says_where_its_rows_are(table: Table) -> None:
    assert placement(table) in _NODES or placement(table) in table.c
    if placement(table) in table.c:
        assert not table.c[placement(table)].nullable


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_unique_keys_of_a_distributed_table_contain_its_column(table: Table) -> None:
    column = placement(table)
    if column in _NODES:
        return
    keys = [
        set(each.columns.keys())
        for each in table.constraints
        if isinstance(each, PrimaryKeyConstraint | UniqueConstraint)
    ]
    keys += [set(index.columns.keys()) for index in table.indexes if index.unique]
    assert keys
    assert [sorted(key) for key in keys if column not in key] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_foreign_keys_stay_on_a_node(table: Table) -> None:
    for key in table.foreign_key_constraints:
        assert isinstance(key, ForeignKeyConstraint)
        there = placement(key.referred_table)
        if placement(table) == LOCAL["placement"]:
            assert there in _NODES
        elif there != EVERYWHERE["placement"]:
            assert there == placement(table)
            pairs = {(each.parent.name, each.column.name) for each in key.elements}
            assert (there, there) in pairs


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_use_one_node(name: str) -> None:
    assert list(flaws(str(HOT[name]))) == []


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (
            str(bookings.READ).replace("r.customer_id = c.customer_id AND ", ""),
            "requests is not searched by customer_id",
        ),
        (
            str(bookings.WRITE_APPROVED)
            .replace("created_at,", "")
            .replace("fingerprint, customer_id,", "fingerprint,"),
            "the insert into requests lacks customer_id",
        ),
        (
            str(customers._BY_ID).replace("c.customer_id = :customer_id", "c.age = :customer_id"),
            "customers is not searched by customer_id",
        ),
        (
            "SELECT FROM customers c JOIN tasks t ON true WHERE c.customer_id = :customer_id",
            "tables of 2 placements",
        ),
        (
            "SELECT FROM customers c JOIN loans l ON l.customer_id = c.customer_id",
            "no parameter names the node",
        ),
        (
            str(payment_writes._READ).replace(
                "WHERE l.customer_id = :customer_id", "WHERE l.customer_id = c.customer_id"
            ),
            "no parameter names the node of the subquery of loans",
        ),
        (
            str(personal_data._ERASE_FACTS).replace("CASE WHEN fact =", "CASE fact WHEN"),
            "a CASE with an operand",
        ),
    ],
)
def test_a_statement_that_leaves_its_node_is_found(text: str, flaw: str) -> None:
    assert flaw in list(flaws(text))

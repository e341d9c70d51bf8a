"""The table of columns and what other modules must know about the same columns by themselves."""

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from credit_service.ingestion import cells, merge_customers, merge_loans, validation, wire
from credit_service.ingestion.frames import COLUMN_TYPES, NO_LIMIT, source_rows
from credit_service.ingestion.validation import validate_block, validate_columns
from credit_service.ingestion.wire import Columns, DateColumn, MoneyColumn
from credit_service.rpc.convert.fields import Violations, read_money
from credit_service.spreadsheets.columns import BY_FIELD, COLUMNS, Column, Kind
from credit_service.spreadsheets.table import Block
from credit_service.storage import imported_customers, imported_loans, tables
from credit_service.v1 import ingestion_pb2

ALL: list[tuple[Kind, Column]] = [(kind, each) for kind in COLUMNS for each in COLUMNS[kind]]
TODAY = date(2026, 6, 15)
MESSAGES: dict[Kind, Any] = {
    "CUSTOMERS": ingestion_pb2.CustomerRow,
    "LOANS": ingestion_pb2.LoanRow,
}


def test_the_contract_has_the_columns_and_no_others() -> None:
    of_types = {"AMOUNT": Money, "RATE": Decimal, "DAY": Date}
    for kind, message in MESSAGES.items():
        fields = dict(message.DESCRIPTOR.fields_by_name)
        assert fields.keys() - {"row_number", "unreadable_cells"} == BY_FIELD[kind].keys()
        for name, column in BY_FIELD[kind].items():
            nested = fields[name].message_type
            found = None if nested is None else nested.full_name
            expected = of_types.get(column.type)
            assert found == (expected and expected.DESCRIPTOR.full_name), name


def test_the_tables_have_the_facts_of_the_columns() -> None:
    for kind, table in (("CUSTOMERS", tables.customers), ("LOANS", tables.loans)):
        for column in COLUMNS[kind]:  # type: ignore[index] # one of the two
            stored = re.sub("_day$", "_date", column.fact)
            # The settled installments that a source gives are stored as those of the import.
            stored = {"settled_given": "settled_at_import"}.get(stored, stored)
            assert stored in table.c, column.field


def test_an_import_compares_the_facts_of_the_columns() -> None:
    assert set(imported_customers.CUSTOMER_FACTS) == {
        column.fact for column in COLUMNS["CUSTOMERS"]
    }
    # The key is compared by itself, and the end follows from the start and the tenure.
    # An optional number is compared only where the source gives it.
    not_compared = {"customer_id", "loan_id", "end_day", "settled_given"}
    facts = {column.fact for column in COLUMNS["LOANS"]} - not_compared
    assert set(imported_loans.LOAN_FACTS) == facts
    written = {fact for _, fact, _ in imported_loans._LOAN_COLUMNS if fact is not None}
    assert written <= COLUMN_TYPES["LOANS"].keys()
    assert facts <= written


def examples(kind: Kind, **changes: str) -> Block:
    return Block(
        [2], {each.field: [changes.get(each.field, each.example)] for each in COLUMNS[kind]}
    )


def errors(kind: Kind, **changes: str) -> list[tuple[str, str]]:
    batch = validate_block(kind, source_rows(examples(kind, **changes)), 0, TODAY)
    return [(each.column, each.code) for each in batch.errors]


@pytest.mark.parametrize(("kind", "column"), ALL)
def test_a_number_is_in_the_range_that_the_text_names(kind: Kind, column: Column) -> None:
    if column.field not in validation._RANGES[kind]:
        return
    least, most = validation._RANGES[kind][column.field]
    named = list(_numbers(column.expected))
    decimals = 100 if column.type in ("AMOUNT", "RATE") else 1
    more_than_0 = "more than 0" in column.expected
    assert least == (1 if more_than_0 else named[0] * decimals)
    if column.field in ("emis_paid_on_time", "installments_settled"):
        assert "to the tenure" in column.expected
    elif (kind, column.field) != ("LOANS", "customer_id"):
        # Ids that this service issues are larger than those of an import.
        assert most == named[1] * decimals


def _numbers(text: str) -> Iterator[int]:
    for number, crore in re.findall(r"([0-9][0-9,]*)( crore)?", text):
        yield int(number.replace(",", "")) * (10_000_000 if crore else 1)


@pytest.mark.parametrize(("kind", "column"), ALL)
def test_a_required_column_needs_a_value(kind: Kind, column: Column) -> None:
    assert errors(kind) == []
    expected = [(column.field, "MISSING")] if column.required else []
    assert errors(kind, **{column.field: " "}) == expected


def test_digests_of_streamed_rows_are_those_of_earlier_releases() -> None:
    """A stream that began before an upgrade is compared with its committed rows after it."""
    loans = Columns(
        "LOANS",
        {
            "customer_id": [7],
            "loan_id": [1001],
            "loan_amount": MoneyColumn([100_000], [0], ["INR"]),
            "tenure_months": [12],
            "interest_rate": ["12.5"],
            "monthly_installment": MoneyColumn([8_884], [880_000_000], [""]),
            "emis_paid_on_time": [3],
            "start_date": DateColumn([2024], [1], [31]),
            "end_date": DateColumn([0], [0], [0]),
        },
        [None],
    )
    customers = Columns(
        "CUSTOMERS",
        {
            "customer_id": [7],
            "first_name": ["Asha"],
            "last_name": ["Rao"],
            "age": [31],
            "phone_number": ["98765 98765"],
            "monthly_income": MoneyColumn([50_000], [0], ["INR"]),
            "approved_limit": MoneyColumn([0], [0], [""], [0]),
        },
        [None],
    )
    for columns, digest in ((loans, 9986750385879865672), (customers, 11399112263669596605)):
        # Validating them again must find the same: it changes no decoded column.
        for _ in range(2):
            digests = validate_columns(columns, 0, TODAY).digests
            assert digests is not None
            assert digests.tolist() == [digest]


def test_fingerprints_of_rows_are_those_of_earlier_releases() -> None:
    """An ingestion that began before an upgrade recognizes its rows after it."""
    loan = {
        "principal_paise": 10_000_000,
        "annual_rate_bps": 1_250,
        "tenure_months": 12,
        "installment_paise": 888_488,
        "emis_paid_on_time": 3,
        "start_day": 19_753,
    }
    rest = {"offset": 0, "settled_given": NO_LIMIT}
    loans = {name: np.array([value]) for name, value in {**rest, **loan}.items()}
    assert merge_loans._fingerprints(loans).tolist() == [-8640790830697971068]
    given = merge_loans._fingerprints({**loans, "settled_given": np.array([4])})
    assert given.tolist() != [-8640790830697971068]
    customer = (7, "Asha", "Rao", 31, 5_000_000, "+919876598765", None)
    assert merge_customers._customer_fingerprint(customer) == 5569347643726010866


@given(
    st.integers(-(10**15) + 1, 10**15 - 1) | st.integers(-3, 3),
    st.integers(-(10**9), 10**9).map(lambda nanos: nanos // 10_000_000 * 10_000_000)
    | st.sampled_from([0, 1, -5_000_000, 10**9, -(10**9)]),
    st.sampled_from(["", "INR", "USD"]),
)
def test_an_amount_means_the_same_in_a_row_and_in_a_request(
    units: int, nanos: int, currency: str
) -> None:
    row = ingestion_pb2.LoanRow()
    row.loan_amount.units, row.loan_amount.nanos = units, nanos
    row.loan_amount.currency_code = currency
    decoded = wire.money(MoneyColumn([units], [nanos], [currency]))
    paise = read_money(row, "loan_amount", Violations())
    assert paise == (int(decoded.values[0]) if decoded.problems[0] == cells.OK else None)

"""A cell means the same in a file that is uploaded and in one whose rows are streamed."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from credit_service.client import rows
from credit_service.ingestion.frames import Batch, CustomerFrame
from credit_service.ingestion.validation import validate_block, validate_columns
from credit_service.rpc.convert_ingestion import customer_columns, loan_columns
from credit_service.spreadsheet_columns import Kind
from credit_service.spreadsheet_values import DateOrder
from credit_service.spreadsheets import Block, Cell, ErrorValue, Formula, Percent
from credit_service.v1 import ingestion_service_pb2

TODAY = date(2025, 6, 15)
ROWS: Mapping[Kind, Mapping[str, Cell]] = {
    "LOANS": {
        "customer_id": 7.0,
        "loan_id": 1001.0,
        "loan_amount": 100_000.0,
        "tenure_months": 12.0,
        "interest_rate": 12.0,
        "monthly_installment": 8_884.88,
        "emis_paid_on_time": 3.0,
        "start_date": date(2024, 1, 31),
        "end_date": "",
    },
    "CUSTOMERS": {
        "customer_id": 7.0,
        "first_name": "Asha",
        "last_name": "Rao",
        "age": 31.0,
        "phone_number": "98765 98765",
        "monthly_income": 50_000.0,
        "approved_limit": "",
    },
}
COLUMNS = [(kind, column) for kind, row in ROWS.items() for column in row]

CELLS: list[Cell] = [
    *("", " ", "\u00a0", "\u2009 ", "0", "-0", "+7", "7", " 7 ", "\u00a07\u2009", "007", "7.0", "7."),
    *(".5", "7.5", "7.25", "7.255", "-7", "(7)", "7-", "1e3", "9.87654E+09", "0x10", "1_000"),
    *("50,000", "1,00,000", "1,00,000.50", "100,000.50", "1,0000", "50,50", "0,500", "10,00", ","),
    *("₹ 50,000", "₹50000", "Rs. 50,000/-", "Rs 50000", "INR 50,000", "50000 INR", "USD 50", "₹"),
    *("₹\u00a050,000", "$ 50", "50 000", "50.000,00", "-50,000", "-₹50", "'50000", "NA", "-", "nil"),
    *("12%", "10.5 %", "12 % p.a.", "12.345%", "-1%", "%", "12 %%", "१२", "९८७६५९८७६५", "１２"),
    *("999999999999999", "1000000000000000", "9007199254740991", "9007199254740993"),
    *("99999999999999.001", "99999999999999.01", "1000." + "0" * 30 + "1", "9" * 200, "9" * 201),
    *("2024-03-31", "2024-3-1", "2024/03/31", "2024-02-30", "31-03-2024", "03-04-2024", "04/04/2024"),
    *("05-Jan-2024", "5 January 2024", "Jan 5, 2024", "31/03/24", "13.13.2024", "0000-01-01"),
    *("2024-03-31T00:00:00.000Z", "2024-03-31 00:00", "2024-03-30T18:30:00.000Z"),
    *("2024-03-31T23:59:50Z", "2024-03-31T00:00:10+05:30", "2024-03-31 14:05", "2024-03-31T24:00"),
    *("9876598765", "9876598765.0", "987659876.0", "9.876598765", "+91 98765 98765", "98765-98765"),
    *("(098765) 98765", "98765.98765", "98765/98765", "call 9876598765", "9876598765 ext 5"),
    *("#N/A", " #REF! ", "=1+1", "TRUE", "x" * 60, "x" * 1_001, "7" * 1_001, "a\x00b", "आशा"),
    *(Formula("=1+1"), ErrorValue("#N/A"), True, False, 0, 7, -7, 10**15 - 1, 10**15, 2**53, 10**30),
    *(0.0, -0.0, 7.0, 0.1 + 0.2, 1e15, 999_999_999_999_999.0, 2.0**53, 1e300, 1e-300, 45_382.0),
    *(9_876_598_765.0, 987_659_876.0, float("nan"), float("inf"), 12_500.505, 12_500.50),
    *(Percent(12), Percent(10.5), Percent(12.345), Percent(-1), Percent(100), Percent(1e20)),
    *(date(2024, 1, 31), date(1899, 12, 31), date.max, datetime(2024, 1, 31)),  # noqa: DTZ001 - cells have none
    *(datetime(2024, 1, 31, 0, 0, 10), datetime(2024, 1, 30, 23, 59, 50), datetime.max),  # noqa: DTZ001 - cells have none
    *(datetime(2024, 1, 31, 14, 5), time(0), time(14, 5), timedelta(days=3)),  # noqa: DTZ001 - cells have none
]  # fmt: skip
ANY_CELL: st.SearchStrategy[Cell] = st.one_of(
    st.sampled_from(CELLS),
    st.text(max_size=30),
    st.text("0123456789.,-+ %₹/()INRrs", max_size=20),
    st.text("0123456789-/. :TZ+", min_size=6, max_size=26),
    st.from_regex(r"[0-9]{1,2}([-/. ])[0-9]{1,2}\1[0-9]{4}", fullmatch=True),
    st.integers(),
    st.floats(),
    st.floats(0, 1e7).map(lambda number: round(number, 2)),
    st.floats(-10, 200).map(Percent),
    st.booleans(),
    st.dates(),
    st.datetimes(),
)


def uploaded(kind: Kind, block: Block) -> Batch:
    return validate_block(kind, block, 40, TODAY)


def streamed(kind: Kind, block: Block) -> Batch:
    batch = ingestion_service_pb2.RowBatch(offset=40)
    messages: Any = rows._rows_of(batch, kind)
    rows._fill(messages, block, range(len(block.row_numbers)), kind)
    batch = ingestion_service_pb2.RowBatch.FromString(batch.SerializeToString())
    messages = list(rows._rows_of(batch, kind))
    columns = loan_columns(messages) if kind == "LOANS" else customer_columns(messages)
    return validate_columns(columns, 40, TODAY)


def outcome(batch: Batch) -> tuple[Any, ...]:
    """Everything that becomes of the rows but the spelling of what was found."""
    frame = batch.frame
    texts: tuple[list[str], ...] = ()
    if isinstance(frame, CustomerFrame):
        texts = (list(frame.first_names), list(frame.last_names), list(frame.phone_numbers))
    errors = [(each.row_offset, each.row_number, each.column, each.code) for each in batch.errors]
    return frame.facts.tolist(), texts, errors


def one_block(kind: Kind, column: str, cells: list[Cell], order: DateOrder | None = None) -> Block:
    columns = {name: [cell] * len(cells) for name, cell in ROWS[kind].items()} | {column: cells}
    orders = {} if order is None else {"start_date": order, "end_date": order}
    return Block(list(range(2, len(cells) + 2)), columns, date_orders=orders)


@pytest.mark.parametrize("order", [None, "DMY", "MDY", "YMD"])
@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_each_known_cell_means_the_same_by_both_ways(
    kind: Kind, column: str, order: DateOrder | None
) -> None:
    for cell in CELLS:
        block = one_block(kind, column, [cell], order)
        assert outcome(streamed(kind, block)) == outcome(uploaded(kind, block)), repr(cell)
    together = one_block(kind, column, CELLS, order)
    assert outcome(streamed(kind, together)) == outcome(uploaded(kind, together))


@given(
    st.sampled_from(COLUMNS),
    st.lists(ANY_CELL, min_size=1, max_size=5),
    st.sampled_from([None, "DMY", "MDY", "YMD"]),
)
@example(("LOANS", "loan_amount"), ["99999999999999.001"], None)
def test_any_cells_mean_the_same_by_both_ways(
    place: tuple[Kind, str], cells: list[Cell], order: DateOrder | None
) -> None:
    kind, column = place
    block = one_block(kind, column, cells, order)
    assert outcome(streamed(kind, block)) == outcome(uploaded(kind, block))


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_both_ways_say_the_same_of_a_cell(kind: Kind, column: str) -> None:
    for cell in CELLS:
        block = one_block(kind, column, [cell])
        by_upload, by_stream = uploaded(kind, block).errors, streamed(kind, block).errors
        for one, other in zip(by_upload, by_stream, strict=True):
            assert one.expected == other.expected, repr(cell)

"""A cell means the same in an uploaded file and in a streamed one."""

# ruff: noqa: DTZ001, DTZ901 - cells have no time zone

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from credit_service.client import rows
from credit_service.ingestion.cells import EPOCH_ORDINAL
from credit_service.ingestion.frames import Batch, SourceRows, regrouped, source_rows
from credit_service.ingestion.validation import validate_block, validate_columns
from credit_service.rpc.convert.ingestion import columns_of
from credit_service.spreadsheets.cell_values import Cell, DateOrder, ErrorValue, Formula, Percent
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.source import open_source
from credit_service.spreadsheets.table import Block
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from tests.unit.spreadsheets.workbooks import LOAN_HEADERS

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
    *("", " ", "\u00a0", "\u2009 ", "0", "-0", "+7", "7", " 7 ", "\u00a07\u2009", "007", "7.0"),
    *("7.", ".5", "7.5", "7.25", "7.255", "-7", "(7)", "7-", "1e3", "9.8E+09", "0x10", "1_000"),
    *("50,000", "1,00,000", "1,00,000.50", "100,000.50", "1,0000", "50,50", "0,500", "10,00", ","),
    *("₹ 50,000", "₹50000", "Rs. 50,000/-", "Rs 50000", "INR 50,000", "50000 INR", "USD 50", "₹"),
    *("₹\u00a050,000", "$ 50", "50 000", "50.000,00", "-50,000", "-₹50", "'50000", "NA", "-"),
    *("nil", "12%", "10.5 %", "12 % p.a.", "12.345%", "-1%", "%", "12 %%", "१२", "९८७६५९८७६५"),
    *("\uff11\uff12", "999999999999999", "1000000000000000", "9007199254740991"),
    *("9007199254740993", "99999999999999.001", "99999999999999.01", "9" * 200),
    *("1000." + "0" * 30 + "1", "9" * 201),
    *("2024-03-31", "2024-3-1", "2024/03/31", "2024-02-30", "31-03-2024", "03-04-2024"),
    *("04/04/2024", "05-Jan-2024", "5 January 2024", "Jan 5, 2024", "31/03/24", "0000-01-01"),
    *("13.13.2024", "2024-03-31T00:00:00.000Z", "2024-03-31 00:00", "2024-03-30T18:30:00.000Z"),
    *("2024-03-31T23:59:50Z", "2024-03-31T00:00:10+05:30", "2024-03-31 14:05", "2024-03-31T24:00"),
    *("9876598765", "9876598765.0", "987659876.0", "9.876598765", "+91 98765 98765", "98765-98765"),
    *("(098765) 98765", "98765.98765", "98765/98765", "call 9876598765", "9876598765 ext 5"),
    *("#N/A", " #REF! ", "=1+1", "TRUE", "x" * 60, "x" * 1_001, "7" * 1_001, "a\x00b", "आशा"),
    *(Formula("=1+1"), ErrorValue("#N/A"), True, False, 0, 7, -7, 10**15 - 1, 10**15),
    *(2**53, 10**30, 1_000_000_000_000_011.0, 4_503_599_627_370_497.0, 9_007_199_254_740_991.0),
    *(0.0, -0.0, 7.0, 0.1 + 0.2, 1e15, 999_999_999_999_999.0, 2.0**53, 1e300, 1e-300, 45_382.0),
    *(9_876_598_765.0, 987_659_876.0, float("nan"), float("inf"), 12_500.505, 12_500.50),
    *(Percent(12), Percent(10.5), Percent(12.345), Percent(-1), Percent(100), Percent(1e20)),
    *(date(2024, 1, 31), date(1899, 12, 31), date.max, datetime(2024, 1, 31)),
    *(datetime(2024, 1, 31, 0, 0, 10), datetime(2024, 1, 30, 23, 59, 50), datetime.max),
    *(datetime(2024, 1, 31, 14, 5), time(0), time(14, 5), timedelta(days=3)),
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


def uploaded(kind: Kind, rows: Block | SourceRows) -> Batch:
    rows = source_rows(rows) if isinstance(rows, Block) else rows
    return validate_block(kind, rows, 40, TODAY)


def streamed(kind: Kind, block: Block) -> Batch:
    batch = ingestion_service_pb2.RowBatch(offset=40)
    rows._fill(batch, block, range(len(block.row_numbers)), kind)
    batch = ingestion_service_pb2.RowBatch.FromString(batch.SerializeToString())
    messages = list(rows._rows_of(batch, kind).rows)
    return validate_columns(columns_of(kind, messages), 40, TODAY)


def outcome(batch: Batch) -> tuple[Any, ...]:
    """The facts and errors of the rows, without the found texts."""
    frame = batch.frame
    errors = [(each.row_offset, each.row_number, each.column, each.code) for each in batch.errors]
    return frame.to_dict("list"), errors


def one_block(kind: Kind, column: str, cells: list[Cell], order: DateOrder | None = None) -> Block:
    columns = {name: [cell] * len(cells) for name, cell in ROWS[kind].items()} | {column: cells}
    orders = {} if order is None else {"start_date": order, "end_date": order}
    return Block(list(range(2, len(cells) + 2)), columns, date_orders=orders)


def orders_of(column: str) -> list[DateOrder | None]:
    return [None, "DMY", "MDY", "YMD"] if column.endswith("_date") else [None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column", "order"),
    [(*each, order) for each in COLUMNS for order in orders_of(each[1])],
)
def test_each_known_cell_means_the_same_in_streams_and_files(
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
def test_any_cell_means_the_same_in_streams_and_files(
    place: tuple[Kind, str], cells: list[Cell], order: DateOrder | None
) -> None:
    kind, column = place
    block = one_block(kind, column, cells, order)
    assert outcome(streamed(kind, block)) == outcome(uploaded(kind, block))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_streams_and_files_report_the_same_for_a_cell(kind: Kind, column: str) -> None:
    for cell in CELLS:
        block = one_block(kind, column, [cell])
        by_upload, by_stream = uploaded(kind, block).errors, streamed(kind, block).errors
        for one, other in zip(by_upload, by_stream, strict=True):
            assert one.expected == other.expected, repr(cell)


# --- What cells mean ------------------------------------------------------------------------------

FACTS = {"loan_amount": "principal_paise", "interest_rate": "annual_rate_bps"}


def meaning(column: str, cell: Cell, order: DateOrder | None = None) -> object:
    """The stored number or date of a loan's cell, or the error's code; the same for uploads and
    streams."""
    block = one_block("LOANS", column, [cell], order)
    batch = uploaded("LOANS", block)
    assert outcome(batch) == outcome(streamed("LOANS", block))
    if batch.errors:
        (error,) = batch.errors
        assert error.column == column
        return error.code
    if column == "start_date":
        return date.fromordinal(int(batch.frame["start_day"][0]) + EPOCH_ORDINAL)
    return int(batch.frame[FACTS.get(column, column)][0])


@pytest.mark.parametrize(
    "cell", ["12%", "12 %", "12.00 % p.a.", "12% per annum", "12", Percent(12)]
)
def test_a_rate_may_be_written_as_a_percentage(cell: Cell) -> None:
    assert meaning("interest_rate", cell) == 1_200


def test_the_halves_of_percentages_are_kept() -> None:
    assert meaning("interest_rate", "10.5 %") == meaning("interest_rate", Percent(10.5)) == 1_050
    assert meaning("interest_rate", "10.555 %") == "TOO_PRECISE"
    assert meaning("interest_rate", "0.12") == 12


@pytest.mark.parametrize("column", ["loan_amount", "tenure_months", "loan_id", "emis_paid_on_time"])
@pytest.mark.parametrize("cell", ["12%", "10.5 %", "12 % p.a.", Percent(12)])
def test_a_percentage_elsewhere_is_rejected_by_name(column: str, cell: Cell) -> None:
    assert meaning(column, cell) == "PERCENTAGE"
    (error,) = uploaded("LOANS", one_block("LOANS", column, [cell])).errors
    assert "not a percentage" in error.message
    assert "%" in error.found


@pytest.mark.parametrize(
    "text",
    [
        *("50000", "50,000", "50000.00", "50,000.00", "₹ 50,000", "₹50000", "Rs. 50,000/-"),
        *("Rs 50,000", "rs.50,000", "INR 50,000", "50000 INR", "50,000/-", "\u00a050,000\u2009"),
        "₹\u00a050,000",
    ],
)
def test_amounts_are_read_in_usual_forms(text: str) -> None:
    assert meaning("loan_amount", text) == 5_000_000


def test_indian_and_western_groups_are_read() -> None:
    assert (
        meaning("loan_amount", "1,00,000.50") == meaning("loan_amount", "100,000.50") == 10_000_050
    )


@pytest.mark.parametrize(
    "text",
    [
        *("1,0000", "50,50", "0,500", "10,00", "1,00,00", "100,00", "1000,000", ",500", "5,000,00"),
        *("50.000,00", "50 000", "$ 50", "USD 50", "(50)", "₹", "NA", "-", "nil", "'50000", "१२"),
        *("5e4", "50,000 Dr", "1,00,000 lakh"),
    ],
)
def test_ambiguous_amounts_are_rejected(text: str) -> None:
    assert meaning("loan_amount", text) == "NOT_A_NUMBER"


@pytest.mark.parametrize("column", ["customer_id", "loan_id", "tenure_months", "emis_paid_on_time"])
def test_ids_and_counts_are_never_grouped(column: str) -> None:
    assert meaning(column, "1,001") == "NOT_A_NUMBER"
    assert meaning(column, "₹ 7") == "NOT_A_NUMBER"


THE_DAY = date(2024, 3, 31)


@pytest.mark.parametrize(
    "cell",
    [
        THE_DAY,
        datetime(2024, 3, 31),
        datetime(2024, 3, 31, 0, 0, 10),
        datetime(2024, 3, 30, 23, 59, 50),
        "2024-03-31",
        " 2024-3-31 ",
        "2024/03/31",
        "2024-03-31T00:00:00.000Z",
        "2024-03-31 00:00:00",
        "2024-03-31T00:00:00+05:30",
        "2024-03-31T00:00:10",
        "2024-03-30T23:59:50",
        datetime(2024, 3, 30, 23, 59, 59, 999_500),
        "31-Mar-2024",
        "31 March 2024",
        "Mar 31, 2024",
    ],
)
def test_unambiguous_dates_are_read(cell: Cell) -> None:
    for order in orders_of("start_date"):
        assert meaning("start_date", cell, order) == THE_DAY


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        (datetime(2024, 3, 31, 14, 5), "TIME_OF_DAY"),
        (datetime(2024, 3, 31, 0, 0, 30), "TIME_OF_DAY"),
        # The end of the day before, not midnight.
        (datetime(2024, 3, 30, 23, 59, 59), "TIME_OF_DAY"),
        (datetime(2024, 3, 30, 23, 59, 59, 997_000), "TIME_OF_DAY"),
        ("2024-03-30 23:59:59", "TIME_OF_DAY"),
        ("2024-03-30T23:59:59.999Z", "TIME_OF_DAY"),
        ("2024-03-31 14:05", "TIME_OF_DAY"),
        ("2024-03-30T18:30:00.000Z", "TIME_OF_DAY"),
        ("03-04-2024", "DATE_AMBIGUOUS"),
        ("31/03/24", "DATE_INVALID"),
        ("31-Mar-24", "DATE_INVALID"),
        ("30-02-2024", "DATE_INVALID"),
        ("३१-०३-२०२४", "DATE_INVALID"),
        ("NA", "DATE_INVALID"),
        (45_382.0, "DATE_INVALID"),
        ("45382", "DATE_INVALID"),
    ],
)
def test_values_other_than_a_date_are_rejected(cell: Cell, code: str) -> None:
    assert meaning("start_date", cell) == code


def test_dates_are_read_in_the_given_order() -> None:
    for text in ("03-04-2024", "03/04/2024", "03.04.2024", "3-4-2024", "03-04-2024 00:00"):
        assert meaning("start_date", text, "DMY") == date(2024, 4, 3)
        assert meaning("start_date", text, "MDY") == date(2024, 3, 4)
        assert meaning("start_date", text, "YMD") == "DATE_INVALID"
    assert meaning("start_date", "31-03-2024", "MDY") == "DATE_INVALID"


# --- Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("start_date", "03-04-2024", "3 April or 4 March: name the order"),
        ("start_date", "31-03-2024", "have different ones: name the order"),
        ("start_date", datetime(2024, 3, 31, 14, 5), "with a time of day"),
        ("start_date", "2024-03-30T18:30:00.000Z", "another time zone"),
        ("start_date", 45_382.0, "only in a cell with a date format"),
        ("start_date", "31/03/24", "all four digits of the year"),
        ("loan_id", "7a", "in digits alone, such as 7001"),
        ("loan_amount", "१२", "in the digits 0 to 9"),
        ("loan_amount", "9.8E+09", "with all its digits"),
        ("loan_amount", "-", "a row without one cannot be stored"),
        ("loan_amount", "nil", "a row without one cannot be stored"),
    ],
)
def test_the_error_says_what_to_do(column: str, cell: Cell, words: str) -> None:
    (error,) = uploaded("LOANS", one_block("LOANS", column, [cell])).errors
    assert words in error.expected


def test_nothing_in_an_optional_column_is_an_empty_cell() -> None:
    (error,) = uploaded("CUSTOMERS", one_block("CUSTOMERS", "approved_limit", ["NA"])).errors
    assert error.expected.endswith("or an empty cell")


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_each_expectation_is_shown_once_at_its_column(kind: Kind, column: str) -> None:
    for cell in CELLS:
        for error in uploaded(kind, one_block(kind, column, [cell])).errors:
            assert error.message.count(error.expected) <= 1
            assert error.expected.count("such as 12500.50") <= ("rupees" in error.expected)


# --- Orders of whole columns ----------------------------------------------------------------------


def loans_csv(days: Sequence[str], separator: str = ",", encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(LOAN_HEADERS)
    for number, day in enumerate(days, 1):
        writer.writerow([7, number, 100_000, 12, 12, 8_884.88, 3, day, ""])
    return text.getvalue().encode(encoding)


def start_dates(content: bytes, folder: Path, order: DateOrder | None = None) -> list[str]:
    """The start date of each row, or its error's code, in files of any number of blocks."""
    path = folder / "loans.csv"
    path.write_bytes(content)
    of_upload: list[str] = []
    with path.open("rb") as file:
        source = open_source(file, path.name, "LOANS", order)
        # Of another size than the reader's blocks.
        for block in regrouped(source.blocks, 0, 1_700):
            batch = uploaded("LOANS", block)
            found = {error.row_offset - 40: error.code for error in batch.errors}
            stored = iter(batch.frame["start_day"].tolist())
            for row in range(batch.row_count):
                day = found.get(row) or str(date.fromordinal(next(stored) + EPOCH_ORDINAL))
                of_upload.append(day)
    of_stream: list[str] = []
    for each in rows.open_source(path, "LOANS", order).batches():
        for loan in each.batch.loans.rows:
            if loan.unreadable_cells:
                code = ingestion_pb2.RowErrorCode.Name(loan.unreadable_cells[0].code)
                of_stream.append(code.removeprefix("ROW_ERROR_CODE_"))
            else:
                of_stream.append(
                    str(date(loan.start_date.year, loan.start_date.month, loan.start_date.day))
                )
    assert of_stream == of_upload
    return of_upload


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("proof", "day"), [("13-02-2024", "2024-04-03"), ("02-13-2024", "2024-03-04")]
)
def test_the_last_row_can_determine_the_date_order(
    tmp_path: Path, proof: str, day: str, encoding: str
) -> None:
    """Also for earlier blocks, after some that need no order."""
    days = ["2024-01-31"] * 6_000 + ["03-04-2024"] * 6_000 + [proof]
    found = start_dates(loans_csv(days, encoding=encoding), tmp_path)
    assert found == ["2024-01-31"] * 6_000 + [day] * 6_000 + ["2024-02-13"]


def test_the_date_order_of_an_ambiguous_column_is_not_guessed(tmp_path: Path) -> None:
    assert start_dates(loans_csv(["03-04-2024", "05-06-2024", "04-04-2024"]), tmp_path) == [
        "DATE_AMBIGUOUS",
        "DATE_AMBIGUOUS",
        "2024-04-04",
    ]
    assert start_dates(loans_csv(["13-02-2024", "02-13-2024"]), tmp_path) == [
        "DATE_AMBIGUOUS",
        "DATE_AMBIGUOUS",
    ]


def test_the_given_date_order_applies_to_every_row(tmp_path: Path) -> None:
    content = loans_csv(["03-04-2024", "2024-01-31", "13-02-2024"])
    assert start_dates(content, tmp_path, "DMY") == ["2024-04-03", "2024-01-31", "2024-02-13"]
    assert start_dates(content, tmp_path, "MDY") == [
        "2024-03-04",
        "2024-01-31",
        "DATE_INVALID",
    ]


# --- Files from the field -------------------------------------------------------------------------


def batches_of(path: Path) -> Batch:
    """The rows of a small file; checks that upload and stream give the same."""
    with path.open("rb") as file:
        source = open_source(file, path.name)
        block = next(source.blocks)
    batch = uploaded(source.kind, block)
    assert outcome(batch) == outcome(streamed(source.kind, block))
    return batch


def test_percentages_of_field_files_are_read(cases: Path) -> None:
    batch = batches_of(cases / "percent_rates.xlsx")
    assert batch.errors == []
    assert batch.frame["annual_rate_bps"].tolist() == [1_200, 1_050, 1_000, 10_000, 850]


@pytest.mark.parametrize("name", ["sheetjs_midnight_ist.xlsx", "sheetjs_midnight_z.xlsx"])
def test_dates_at_midnight_are_read(cases: Path, name: str) -> None:
    batch = batches_of(cases / name)
    assert batch.errors == []
    days = [date.fromordinal(day + EPOCH_ORDINAL) for day in batch.frame["start_day"].tolist()]
    assert days == [date(2024, 3, 31), date(2024, 2, 29)]


def test_a_time_of_day_in_a_date_is_rejected(cases: Path) -> None:
    batch = batches_of(cases / "time_of_day.xlsx")
    assert [(each.row_number, each.column, each.code) for each in batch.errors] == [
        (2, "start_date", "TIME_OF_DAY")
    ]
    assert "time of day" in batch.errors[0].message


def test_phone_numbers_stored_as_decimals_are_read_or_rejected(cases: Path) -> None:
    batch = batches_of(cases / "phone_decimal.csv")
    assert list(batch.frame["phone_number"]) == ["+919800001921"]
    assert [(each.row_number, each.column, each.code) for each in batch.errors] == [
        (3, "phone_number", "PHONE_INVALID"),
        (4, "phone_number", "PHONE_INVALID"),
    ]

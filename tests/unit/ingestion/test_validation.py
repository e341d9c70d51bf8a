"""Valid rows and their converted values, and the errors of other rows."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain import loans as loan_rules
from credit_service.domain.calendar import add_months
from credit_service.domain.customers import clean_name
from credit_service.ingestion import cells, frames, loan_days, validation
from credit_service.ingestion.cells import CODES, EPOCH_ORDINAL
from credit_service.ingestion.frames import (
    COLUMN_TYPES,
    NO_DAY,
    NO_LIMIT,
    Batch,
    SourceRows,
    regrouped,
    source_rows,
)
from credit_service.ingestion.validation import validate_block, validate_columns
from credit_service.ingestion.wire import Columns, DateColumn, MoneyColumn, UnreadableCell
from credit_service.spreadsheets.cell_values import Cell, ErrorValue, Form, Formula, Percent
from credit_service.spreadsheets.table import Block
from credit_service.storage import tables

TODAY = date(2025, 6, 15)
LOAN: Mapping[str, Cell] = {
    "customer_id": 7.0,
    "loan_id": 1001.0,
    "loan_amount": 100_000.0,
    "tenure_months": 12.0,
    "interest_rate": 12.0,
    "monthly_installment": 8_884.88,
    "emis_paid_on_time": 3.0,
    "start_date": date(2024, 1, 31),
    "end_date": date(2025, 1, 31),
}
CUSTOMER: Mapping[str, Cell] = {
    "customer_id": 7.0,
    "first_name": " Asha ",
    "last_name": "Rao",
    "age": 31.0,
    "phone_number": 9_876_598_765.0,
    "monthly_income": 50_000.0,
    "approved_limit": 1_800_000.0,
}
AS_TEXT = {
    "customer_id": "7",
    "loan_id": "1001",
    "loan_amount": "100000.00",
    "tenure_months": "12",
    "interest_rate": "12.0",
    "monthly_installment": "8884.88",
    "emis_paid_on_time": "3",
    "start_date": "2024-01-31",
    "end_date": "2025-01-31",
}


def block(*rows: Mapping[str, Cell], overlong: Sequence[int] = ()) -> SourceRows:
    return source_rows(
        Block(
            list(range(2, len(rows) + 2)),
            {field: [row[field] for row in rows] for field in rows[0]},
            overlong,
        )
    )


def codes(batch: Batch) -> set[tuple[str, str]]:
    return {(error.column, error.code) for error in batch.errors}


def judge_loan(**changes: Cell) -> set[tuple[str, str]]:
    """The errors of a loan with these values, between valid loans."""
    batch = validate_block("LOANS", block(LOAN, {**LOAN, **changes}, LOAN), 40, TODAY)
    bad = {error.row_offset for error in batch.errors}
    assert bad <= {41}
    assert len(batch.frame) == 3 - len(bad)
    assert all(error.row_number == 3 and error.message and error.expected for error in batch.errors)
    return codes(batch)


def judge_customer(**changes: Cell) -> set[tuple[str, str]]:
    return codes(validate_block("CUSTOMERS", block({**CUSTOMER, **changes}), 0, TODAY))


def test_the_limit_of_ids_is_that_of_the_tables() -> None:
    assert validation.MAX_ID == tables.MAX_IMPORTED_ID


@pytest.mark.parametrize("row", [LOAN, AS_TEXT], ids=["workbook", "text"])
def test_the_facts_of_a_loan_are_extracted(row: Mapping[str, Cell]) -> None:
    batch = validate_block("LOANS", block(row), 40, TODAY)
    assert batch.errors == []
    assert batch.frame.to_dict("records")[0] == {
        "offset": 40,
        "row_number": 2,
        "customer_id": 7,
        "loan_id": 1001,
        "principal_paise": 10_000_000,
        "annual_rate_bps": 1_200,
        "tenure_months": 12,
        "installment_paise": 888_488,
        "emis_paid_on_time": 3,
        "start_day": date(2024, 1, 31).toordinal() - EPOCH_ORDINAL,
        "end_day": date(2025, 1, 31).toordinal() - EPOCH_ORDINAL,
        "settled_given": NO_LIMIT,
        "installments_settled": 12,
        "closed_day": date(2025, 1, 31).toordinal() - EPOCH_ORDINAL,
    }


def test_an_active_loan_is_not_closed() -> None:
    row = {**LOAN, "tenure_months": 36.0, "end_date": ""}
    (facts,) = validate_block("LOANS", block(row), 0, TODAY).frame.to_dict("records")
    assert int(facts["installments_settled"]) == 16
    assert int(facts["closed_day"]) == NO_DAY


def test_the_facts_of_a_customer_are_extracted() -> None:
    without = {**CUSTOMER, "customer_id": 8.0, "approved_limit": ""}
    batch = validate_block("CUSTOMERS", block(CUSTOMER, without), 0, TODAY)
    frame = batch.frame
    assert list(frame["first_name"]) == ["Asha", "Asha"]
    assert list(frame["phone_number"]) == ["+919876598765"] * 2
    assert frame["monthly_income_paise"].tolist() == [5_000_000] * 2
    assert frame["approved_limit_paise"].tolist() == [180_000_000, NO_LIMIT]


@pytest.mark.parametrize(
    ("column", "cell", "code"),
    [
        ("loan_amount", -1.0, "OUT_OF_RANGE"),
        ("loan_amount", 0.0, "OUT_OF_RANGE"),
        ("loan_amount", 1e300, "OUT_OF_RANGE"),
        ("loan_amount", 1_000_000_000.01, "OUT_OF_RANGE"),
        ("loan_amount", float("inf"), "NOT_A_NUMBER"),
        ("loan_amount", float("nan"), "NOT_A_NUMBER"),
        ("loan_amount", 1000.005, "TOO_PRECISE"),
        ("loan_amount", "1000.005", "TOO_PRECISE"),
        ("loan_amount", "1000.0000000000000000001", "TOO_PRECISE"),
        ("loan_amount", "9" * 60, "OUT_OF_RANGE"),
        ("loan_amount", "9" * 500, "NOT_A_NUMBER"),
        ("loan_amount", "12,50", "NOT_A_NUMBER"),
        ("loan_amount", "1,0000", "NOT_A_NUMBER"),
        ("loan_amount", "12 %", "PERCENTAGE"),
        ("loan_amount", Percent(12), "PERCENTAGE"),
        ("tenure_months", Percent(12), "PERCENTAGE"),
        ("loan_id", "1,001", "NOT_A_NUMBER"),
        ("loan_amount", "1e5", "NOT_A_NUMBER"),
        ("loan_amount", "USD 12500", "NOT_A_NUMBER"),
        ("loan_amount", "१२३४५", "NOT_A_NUMBER"),
        ("loan_amount", "1.2.3", "NOT_A_NUMBER"),
        ("loan_amount", ".", "NOT_A_NUMBER"),
        ("loan_amount", "-", "NOT_A_NUMBER"),
        ("loan_amount", "twelve", "NOT_A_NUMBER"),
        ("loan_amount", True, "NOT_A_NUMBER"),
        ("loan_amount", date(2024, 1, 1), "NOT_A_NUMBER"),
        ("loan_amount", "", "MISSING"),
        ("loan_amount", "  ", "MISSING"),
        ("loan_amount", Formula("=A2*2"), "FORMULA"),
        ("loan_amount", ErrorValue("#REF!"), "ERROR_VALUE"),
        ("loan_amount", "#N/A", "ERROR_VALUE"),
        ("customer_id", 0.0, "OUT_OF_RANGE"),
        ("customer_id", 12.5, "NOT_A_WHOLE_NUMBER"),
        ("customer_id", "12.5", "NOT_A_WHOLE_NUMBER"),
        ("loan_id", -3.0, "OUT_OF_RANGE"),
        ("loan_id", 1e15 + 2, "OUT_OF_RANGE"),
        ("tenure_months", 0.0, "OUT_OF_RANGE"),
        ("tenure_months", 481.0, "OUT_OF_RANGE"),
        ("interest_rate", 100.01, "OUT_OF_RANGE"),
        ("interest_rate", -0.01, "OUT_OF_RANGE"),
        ("interest_rate", 12.345, "TOO_PRECISE"),
        ("monthly_installment", 0.0, "OUT_OF_RANGE"),
        ("monthly_installment", 2_000_000_000.01, "OUT_OF_RANGE"),
        ("emis_paid_on_time", -1.0, "OUT_OF_RANGE"),
        ("emis_paid_on_time", 13.0, "EMIS_EXCEED_TENURE"),
        ("emis_paid_on_time", 1e12, "OUT_OF_RANGE"),
        ("start_date", date(2025, 6, 16), "DATE_IN_FUTURE"),
        ("start_date", date(1899, 12, 31), "OUT_OF_RANGE"),
        ("start_date", "2024-02-30", "DATE_INVALID"),
        ("start_date", "31/01/2024", "DATE_AMBIGUOUS"),
        ("start_date", "2024-13-01", "DATE_INVALID"),
        ("start_date", "0000-01-01", "DATE_INVALID"),
        ("start_date", 45_000.0, "DATE_INVALID"),
        ("start_date", datetime(2024, 1, 31, 10), "TIME_OF_DAY"),  # noqa: DTZ001 - cells have none
        ("start_date", time(10, 0), "DATE_INVALID"),
        ("start_date", timedelta(days=3), "DATE_INVALID"),
        ("start_date", "", "MISSING"),
        ("end_date", date(2025, 1, 30), "END_DATE_MISMATCH"),
        ("end_date", "soon", "DATE_INVALID"),
        ("end_date", ErrorValue("#N/A"), "ERROR_VALUE"),
    ],
)
def test_an_invalid_cell_of_a_loan_is_reported(column: str, cell: Cell, code: str) -> None:
    assert judge_loan(**{column: cell}) == {(column, code)}
    # Also in a column of text only, which is decoded differently.
    if isinstance(cell, str):
        batch = validate_block("LOANS", block(AS_TEXT, {**AS_TEXT, column: cell}), 0, TODAY)
        assert codes(batch) == {(column, code)}


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("loan_amount", " 100000 "),
        ("loan_amount", "+100000.10"),
        ("loan_amount", "100000.1000"),
        ("loan_amount", ".5"),
        ("loan_amount", 0.01),
        ("loan_amount", 1_000_000_000.0),
        ("loan_amount", 99_999_999.99),
        ("loan_amount", 0.1 + 0.2),
        ("customer_id", "7.00"),
        ("customer_id", 999_999_999_999_999.0),
        ("customer_id", 7),
        ("interest_rate", 0.0),
        ("interest_rate", 100.0),
        ("start_date", "2024-01-31"),
        ("start_date", "2024-01-31 00:00:00"),
        ("start_date", datetime(2024, 1, 31)),  # noqa: DTZ001 - cells have no zone
        ("end_date", ""),
    ],
)
def test_a_valid_cell_of_a_loan_is_accepted(column: str, cell: Cell) -> None:
    assert judge_loan(**{column: cell}) == set()


def test_every_bad_column_of_a_row_is_reported() -> None:
    bad: dict[str, Cell] = dict.fromkeys(LOAN, "?")
    assert judge_loan(**bad) == {
        (column, "DATE_INVALID" if column.endswith("_date") else "NOT_A_NUMBER") for column in LOAN
    }


def test_a_row_with_too_many_values_is_rejected() -> None:
    batch = validate_block("LOANS", block(LOAN, LOAN, overlong=[1]), 0, TODAY)
    assert codes(batch) == {("", "ROW_TOO_LONG")}
    assert batch.frame["row_number"].tolist() == [2]


@pytest.mark.parametrize(
    ("column", "cell", "code"),
    [
        ("first_name", "", "MISSING"),
        ("first_name", "x" * 51, "TEXT_INVALID"),
        ("last_name", "a\x07b", "TEXT_INVALID"),
        ("last_name", "\u200b", "TEXT_INVALID"),
        ("last_name", ErrorValue("#NAME?"), "ERROR_VALUE"),
        ("last_name", Formula("=A1"), "FORMULA"),
        ("age", 17.0, "OUT_OF_RANGE"),
        ("age", 121.0, "OUT_OF_RANGE"),
        ("age", "old", "NOT_A_NUMBER"),
        ("phone_number", "12345", "PHONE_INVALID"),
        ("phone_number", 12_345.5, "PHONE_INVALID"),
        ("phone_number", "", "MISSING"),
        ("phone_number", Formula("=9876598765"), "FORMULA"),
        ("monthly_income", 0.0, "OUT_OF_RANGE"),
        ("monthly_income", 100_000_000.01, "OUT_OF_RANGE"),
        ("approved_limit", -1.0, "OUT_OF_RANGE"),
        ("approved_limit", "much", "NOT_A_NUMBER"),
        ("approved_limit", ErrorValue("#REF!"), "ERROR_VALUE"),
    ],
)
def test_an_invalid_cell_of_a_customer_is_reported(column: str, cell: Cell, code: str) -> None:
    assert judge_customer(**{column: cell}) == {(column, code)}


def test_found_is_what_a_person_sees_and_bounded() -> None:
    batch = validate_block("LOANS", block({**LOAN, "loan_amount": "x" * 1000}), 0, TODAY)
    assert batch.errors[0].found == "x" * cells.MAX_FOUND_CHARS
    batch = validate_block("LOANS", block({**LOAN, "tenure_months": 481.0}), 0, TODAY)
    assert batch.errors[0].found == "481"


@given(st.integers(-(10**13), 10**13), st.booleans())
def test_a_float_means_the_decimal_it_shows(paise: int, as_text: bool) -> None:
    text = str(Decimal(paise).scaleb(-2))
    cell: Cell = text if as_text else float(text)
    decoded = cells.numbers([cell], "AMOUNT")
    assert (decoded.values.tolist(), decoded.problems.tolist()) == ([paise], [cells.OK])


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_float_is_decoded_exactly_or_rejected(number: float) -> None:
    decoded = cells.numbers([number], "AMOUNT")
    if decoded.problems[0] == cells.OK:
        # A sheet shows 15 digits of a fraction, and holds every digit of a whole number.
        meant = Decimal(number if number.is_integer() else format(number, ".15g"))
        assert Decimal(int(decoded.values[0])).scaleb(-2) == meant


@given(
    st.lists(st.text("0123456789.-+ ,e#%₹", max_size=22), min_size=1),
    st.sampled_from(get_args(Form)),
)
def test_texts_are_decoded_together_as_separately(texts: list[str], form: Form) -> None:
    together = cells.numbers(texts, form)
    for index, text in enumerate(texts):
        # With a number in it, the column is not one of text only.
        alone = cells.numbers([text, 1.0], form)
        assert together.problems[index] == alone.problems[0]
        if alone.problems[0] == cells.OK:
            assert together.values[index] == alone.values[0]


@given(st.lists(st.one_of(st.dates().map(str), st.text("0123456789-", max_size=11)), min_size=1))
def test_dates_are_decoded_together_as_separately(texts: list[str]) -> None:
    together = cells.dates(texts)
    for index, text in enumerate(texts):
        alone = cells.dates([text, date(2024, 1, 1)])
        assert together.problems[index] == alone.problems[0]
        if alone.problems[0] == cells.OK:
            assert together.values[index] == alone.values[0]
            assert date.fromisoformat(text).toordinal() == alone.values[0] + EPOCH_ORDINAL


days = st.dates(date(1900, 1, 1), date(2100, 12, 31))


@given(
    st.lists(st.tuples(days, st.integers(1, 480), st.integers(0, 480)), min_size=1, max_size=30),
    days,
)
def test_dates_and_settled_installments_are_those_of_the_domain(
    loans: list[tuple[date, int, int]], import_day: date
) -> None:
    starts = np.array([start.toordinal() - EPOCH_ORDINAL for start, _, _ in loans])
    tenures = np.array([tenure for _, tenure, _ in loans])
    on_time = np.array([min(paid, tenure) for _, tenure, paid in loans])
    ends = loan_days.add_months(starts, tenures)
    settled = loan_days.imported_settled(on_time, starts, tenures, import_day)
    for index, (start, tenure, _) in enumerate(loans):
        assert ends[index] + EPOCH_ORDINAL == add_months(start, tenure).toordinal()
        expected, _ = loan_rules.imported_settled(int(on_time[index]), start, tenure, import_day)
        assert settled[index] == expected


@given(st.dates(date(1900, 1, 1), TODAY), st.integers(1, 480), st.integers(0, 480))
def test_a_closed_loan_is_closed_on_the_day_the_domain_says(
    start: date, tenure: int, paid: int
) -> None:
    on_time = min(paid, tenure)
    row = {
        **LOAN,
        "start_date": start,
        "end_date": "",
        "tenure_months": float(tenure),
        "emis_paid_on_time": float(on_time),
    }
    (facts,) = validate_block("LOANS", block(row), 0, TODAY).frame.to_dict("records")
    settled, closed_on = loan_rules.imported_settled(on_time, start, tenure, TODAY)
    assert int(facts["installments_settled"]) == settled
    closed_day = NO_DAY if closed_on is None else closed_on.toordinal() - EPOCH_ORDINAL
    assert int(facts["closed_day"]) == closed_day


@given(st.text(max_size=55))
def test_names_are_validated_like_in_the_domain(name: str) -> None:
    try:
        expected = clean_name(name)
    except ValueError:
        expected = None
    batch = validate_block("CUSTOMERS", block({**CUSTOMER, "first_name": name}), 0, TODAY)
    frame = batch.frame
    if expected is None:
        assert codes(batch) <= {("first_name", "TEXT_INVALID"), ("first_name", "MISSING")}
    elif not batch.errors:
        assert list(frame["first_name"]) == [expected]
    else:
        # The text of a spreadsheet's error value is not a name.
        assert codes(batch) == {("first_name", "ERROR_VALUE")}


def loan_columns(unreadable: Sequence[UnreadableCell] = (), **changes: Any) -> Columns:
    values: dict[str, Any] = {
        "customer_id": [7],
        "loan_id": [1001],
        "loan_amount": MoneyColumn([100_000], [0], ["INR"]),
        "tenure_months": [12],
        "interest_rate": ["12.0"],
        "monthly_installment": MoneyColumn([8_884], [880_000_000], [""]),
        "emis_paid_on_time": [3],
        "start_date": DateColumn([2024], [1], [31]),
        "end_date": DateColumn([2025], [1], [31]),
    }
    return Columns("LOANS", {**values, **changes}, [None], unreadable)


def test_a_streamed_loan_has_the_facts_of_the_same_row_in_a_file() -> None:
    streamed = validate_columns(loan_columns(), 40, TODAY)
    read = validate_block("LOANS", block(LOAN), 40, TODAY)
    assert streamed.errors == []
    assert streamed.frame.drop(columns="row_number").equals(read.frame.drop(columns="row_number"))
    assert streamed.frame["row_number"].tolist() == [41]


MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1


@pytest.mark.parametrize(
    ("changes", "column", "code", "found"),
    [
        ({"customer_id": [None]}, "customer_id", "MISSING", ""),
        ({"customer_id": [MIN_INT64]}, "customer_id", "OUT_OF_RANGE", str(MIN_INT64)),
        ({"loan_id": [0]}, "loan_id", "OUT_OF_RANGE", "0"),
        ({"tenure_months": [481]}, "tenure_months", "OUT_OF_RANGE", "481"),
        ({"interest_rate": [""]}, "interest_rate", "MISSING", ""),
        ({"interest_rate": ["abc"]}, "interest_rate", "NOT_A_NUMBER", "abc"),
        ({"interest_rate": ["12.345"]}, "interest_rate", "TOO_PRECISE", "12.345"),
        ({"interest_rate": ["12\x00"]}, "interest_rate", "NOT_A_NUMBER", "12\ufffd"),
        ({"interest_rate": ["1\x002"]}, "interest_rate", "NOT_A_NUMBER", "1\ufffd2"),
        (
            {"loan_amount": MoneyColumn([0], [0], [""], [0])},
            "loan_amount",
            "MISSING",
            "",
        ),
        (
            {"loan_amount": MoneyColumn([5], [0], ["USD"])},
            "loan_amount",
            "CURRENCY_UNSUPPORTED",
            "USD 5",
        ),
        (
            {"loan_amount": MoneyColumn([5], [5_000_000], ["INR"])},
            "loan_amount",
            "TOO_PRECISE",
            "INR 5.005",
        ),
        (
            {"loan_amount": MoneyColumn([5], [-10_000_000], [""])},
            "loan_amount",
            "NOT_A_NUMBER",
            "-5.01",
        ),
        (
            {"loan_amount": MoneyColumn([5], [1_000_000_000], [""])},
            "loan_amount",
            "NOT_A_NUMBER",
            "5.1",
        ),
        (
            {"loan_amount": MoneyColumn([MIN_INT64], [0], [""])},
            "loan_amount",
            "OUT_OF_RANGE",
            str(MIN_INT64),
        ),
        (
            {"loan_amount": MoneyColumn([MAX_INT64], [0], [""])},
            "loan_amount",
            "OUT_OF_RANGE",
            str(MAX_INT64),
        ),
        (
            {"start_date": DateColumn([2024], [2], [30])},
            "start_date",
            "DATE_INVALID",
            "2024-02-30",
        ),
        ({"start_date": DateColumn([0], [0], [0])}, "start_date", "MISSING", ""),
        (
            {"start_date": DateColumn([2**31 - 1], [1], [1])},
            "start_date",
            "DATE_INVALID",
            "2147483647-01-01",
        ),
        (
            {"end_date": DateColumn([2025], [1], [30])},
            "end_date",
            "END_DATE_MISMATCH",
            "2025-01-30",
        ),
        (
            {"unreadable": [UnreadableCell(0, "tenure_months", "", "a year")]},
            "tenure_months",
            "NOT_A_NUMBER",
            "a year",
        ),
        (
            {"unreadable": [UnreadableCell(0, "start_date", "FORMULA", "=NOW()")]},
            "start_date",
            "FORMULA",
            "=NOW()",
        ),
        (
            {"unreadable": [UnreadableCell(0, "nonsense", "NONSENSE", "x" * 500)]},
            "",
            "TEXT_INVALID",
            "x" * 200,
        ),
    ],
)
def test_an_invalid_value_of_a_streamed_loan_is_reported(
    changes: dict[str, Any], column: str, code: str, found: str
) -> None:
    batch = validate_columns(loan_columns(**changes), 0, TODAY)
    assert [(e.column, e.code, e.found) for e in batch.errors] == [(column, code, found)]
    assert not len(batch.frame)


def test_an_end_date_is_optional_in_a_stream() -> None:
    assert validate_columns(loan_columns(end_date=DateColumn([0], [0], [0])), 0, TODAY).errors == []


def test_a_streamed_customer_is_validated() -> None:
    columns = Columns(
        "CUSTOMERS",
        {
            "customer_id": [7, None],
            "first_name": ["Asha", ""],
            "last_name": ["Rao", "\x00"],
            "age": [31, 200],
            "phone_number": ["+91 98765 98765", "+91 1"],
            "monthly_income": MoneyColumn([50_000, -1], [0, 0], ["", ""]),
            "approved_limit": MoneyColumn([0, 0], [0, 0], ["", ""], [0]),
        },
        [12, None],
    )
    batch = validate_columns(columns, 0, TODAY)
    assert codes(batch) == {
        ("customer_id", "MISSING"),
        ("first_name", "MISSING"),
        ("last_name", "TEXT_INVALID"),
        ("age", "OUT_OF_RANGE"),
        ("phone_number", "PHONE_INVALID"),
        ("monthly_income", "OUT_OF_RANGE"),
    }
    assert {error.row_number for error in batch.errors} == {2}
    assert all("\x00" not in error.found + error.message for error in batch.errors)
    assert batch.frame["row_number"].tolist() == [12]
    assert batch.frame["approved_limit_paise"].tolist() == [NO_LIMIT]


def test_batches_survive_their_encoding() -> None:
    bad = {**CUSTOMER, "age": 3.0}
    batch = validate_block("CUSTOMERS", block(CUSTOMER, bad, CUSTOMER), 5, TODAY)
    again = frames.decoded(frames.encoded(batch))
    assert again.errors == batch.errors
    assert again.frame.equals(batch.frame)
    assert list(again.frame["first_name"]) == ["Asha", "Asha"]
    assert (again.offset, again.row_count) == (5, 3)


def test_a_frame_rejects_a_number_too_large_for_its_column() -> None:
    frame = validate_block("LOANS", block(LOAN), 0, TODAY).frame
    columns = {name: each.astype(np.int64) for name, each in frames.arrays_of(frame).items()}
    assert frames.frame_of("LOANS", columns).equals(frame)
    for number in (2**31, 2**32 + 12):
        with pytest.raises(OverflowError):
            frames.frame_of("LOANS", {**columns, "tenure_months": np.array([number])})


@pytest.mark.parametrize("kind", ["LOANS", "CUSTOMERS"])
def test_the_rest_of_a_batch_keeps_valid_rows_and_errors_together(kind: str) -> None:
    if kind == "LOANS":
        rows = [LOAN, {**LOAN, "tenure_months": 0.0}, LOAN, LOAN]
        batch = validate_block("LOANS", block(*rows), 10, TODAY)
    else:
        rows = [CUSTOMER, {**CUSTOMER, "age": 3.0}, CUSTOMER, CUSTOMER]
        batch = validate_block("CUSTOMERS", block(*rows), 10, TODAY)
    for offset in range(9, 16):
        rest = batch.after(offset)
        assert rest.end == max(14, rest.offset)
        assert rest.row_count == len(rest.frame) + len(rest.errors)
        assert all(rest.frame["offset"] >= offset)
        assert list(rest.frame.index) == list(range(len(rest.frame)))
        assert dict(rest.frame.dtypes) == COLUMN_TYPES[batch.kind]


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(0, 30), st.integers(1, 9))
def test_regrouping_keeps_every_row_after_the_skipped(
    sizes: list[int], skip: int, size: int
) -> None:
    blocks, number = [], 0
    for count in sizes:
        numbers = list(range(number, number + count))
        overlong = [index for index in range(count) if numbers[index] % 3 == 0]
        blocks.append(Block(numbers, {"a": [str(n) for n in numbers]}, overlong))
        number += count
    found = list(regrouped(iter(blocks), skip, size))
    assert [n for each in found for n in each.cells.index] == list(range(skip, number))
    assert all(len(each) == size for each in found[:-1])
    for each in found:
        numbers = list(each.cells.index)
        assert list(each.cells["a"]) == [str(n) for n in numbers]
        assert [numbers[i] for i in each.overlong] == [n for n in numbers if n % 3 == 0]


def test_a_source_frame_contains_each_cell_as_read() -> None:
    """pandas does not convert whole numbers, dates or error values."""
    mixed: list[Cell] = [
        *(1, True, 1.5, 2**60 + 1, "x", "", Formula("=A1"), ErrorValue("#N/A"), Percent(12)),
        *(date(2024, 1, 31), datetime(2024, 1, 31, 5), time(10, 30), timedelta(hours=31)),  # noqa: DTZ001 - cells have no zone
    ]
    pieces: list[list[Cell]] = [
        [1.5, float("nan")],
        mixed,
        [date(2024, 1, 31)] * 2,
        ["1", "2"],
        [7, 8],
    ]
    numbers, blocks = 0, []
    for cells_ in pieces:
        count = len(cells_)
        blocks.append(Block(range(numbers, numbers + count), {"a": cells_}))
        numbers += count
    (rows,) = regrouped(iter(blocks), 0, 1_000)
    expected = [cell for piece in pieces for cell in piece]
    found = rows.cells["a"].tolist()
    assert list(map(type, found)) == list(map(type, expected))
    assert list(map(repr, found)) == list(map(repr, expected))
    (floats,) = regrouped(blocks[:1], 0, 1_000)
    assert floats.cells["a"].dtype == "float64"


def test_every_code_has_a_number_of_its_own() -> None:
    assert len(set(CODES)) == len(CODES)

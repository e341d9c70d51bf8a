"""Rows encoded a column at a time: the messages that setting each field would make."""

from datetime import date
from typing import Any

import numpy as np
import pytest
from google.type.date_pb2 import Date
from hypothesis import given
from hypothesis import strategies as st

from credit_service.client import encoding, rows
from credit_service.spreadsheets.columns import COLUMNS, ColumnType, Kind
from credit_service.v1 import ingestion_service_pb2

INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128, 2**56 - 1, 2**56])
INT32 = st.integers(-(2**31), 2**31 - 1)
VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    "ID": INT64,
    "WHOLE": INT32,
    "AMOUNT": st.tuples(INT64, INT32),
    "RATE": st.text(max_size=20),
    "DAY": st.dates(),
    "NAME": st.text(max_size=200),
    "PHONE": st.text(max_size=20),
}


def one_by_one(kind: Kind, table: list[dict[str, Any]], row_numbers: list[int]) -> Any:
    batch = ingestion_service_pb2.RowBatch()
    messages = rows._rows_of(batch, kind).rows
    for row, number in zip(table, row_numbers, strict=True):
        message = messages.add(row_number=number)
        for column in COLUMNS[kind]:
            value = row[column.field]
            if value is None:
                continue
            field = getattr(message, column.field)
            if column.type == "AMOUNT":
                field.units, field.nanos = value
                field.SetInParent()
            elif column.type == "RATE":
                field.value = value
                field.SetInParent()
            elif column.type == "DAY":
                field.CopyFrom(Date(year=value.year, month=value.month, day=value.day))
            else:
                setattr(message, column.field, value)
    return rows._rows_of(batch, kind)


def as_given(value: Any) -> Any:
    if isinstance(value, date):
        return Date(year=value.year, month=value.month, day=value.day).SerializeToString()
    return value


@pytest.mark.parametrize("kind", list(COLUMNS))
@given(data=st.data())
def test_columns_make_the_messages_that_setting_each_field_makes(
    kind: Kind, data: st.DataObject
) -> None:
    row = st.fixed_dictionaries({c.field: st.none() | VALUES[c.type] for c in COLUMNS[kind]})
    table = data.draw(st.lists(row, min_size=1, max_size=5))
    row_numbers = data.draw(st.lists(INT64, min_size=len(table), max_size=len(table)))
    expected = one_by_one(kind, table, row_numbers)
    numbers = rows._ROW_TYPES[kind].DESCRIPTOR.fields_by_name
    fields: dict[int, tuple[ColumnType, encoding.Values]] = {}
    for column in COLUMNS[kind]:
        values: encoding.Values = [as_given(each[column.field]) for each in table]
        if column.type in ("ID", "WHOLE") and None not in values and data.draw(st.booleans()):
            values = np.array(values, np.int64)
        fields[numbers[column.field].number] = column.type, values
    encoded = encoding.message_rows(fields, (numbers["row_number"].number, row_numbers))
    found = type(expected).FromString(encoded)
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


def test_a_column_of_whole_amounts_makes_amounts_also_of_0() -> None:
    numbers = rows._ROW_TYPES["LOANS"].DESCRIPTOR.fields_by_name
    amount, row_number = numbers["loan_amount"].number, numbers["row_number"].number
    encoded = encoding.message_rows(
        {amount: ("AMOUNT", np.array([0, 150, -7], np.int64))}, (row_number, [2, 3, 4])
    )
    found = ingestion_service_pb2.LoanRows.FromString(encoded).rows
    assert all(each.HasField("loan_amount") for each in found)
    assert [each.loan_amount.units for each in found] == [0, 150, -7]


DIGITS = st.text("0123456789", max_size=17)


@given(
    cells=st.lists(DIGITS, min_size=1, max_size=4)
    | st.lists(st.one_of(DIGITS, st.text(max_size=4)), min_size=1, max_size=4)
    | st.lists(st.floats() | st.integers(-(2**54), 2**54).map(float), min_size=1, max_size=4)
    | st.lists(st.sampled_from(["1", 1.0, "", True, "\u0663", " 1", "1 2", "1_0", "-1", "+1"])),
    most=st.sampled_from([rows.CONVERTERS["ID"].most, rows.CONVERTERS["WHOLE"].most]),
)
def test_a_column_of_whole_numbers_has_the_values_of_its_cells(cells: list[Any], most: int) -> None:
    if not cells:
        return
    found = encoding.whole_numbers(cells, most)
    if found is not None:
        convert = rows._whole(most).cell
        assert found.tolist() == [convert(cell) for cell in cells]
        assert found.dtype == np.int64


@pytest.mark.parametrize(
    "cells", [["7", "015", "999999999999999"], [7.0, -0.0, -12.0], ["0"], [2.0**53 - 1]]
)
def test_usual_columns_of_whole_numbers_are_converted_at_once(cells: list[Any]) -> None:
    found = encoding.whole_numbers(cells, 2**53 - 1)
    assert found is not None
    assert found.tolist() == [int(float(cell)) for cell in cells]

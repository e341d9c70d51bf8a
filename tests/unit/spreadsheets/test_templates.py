"""Completed templates are read."""

import io
from datetime import date
from typing import Any

import openpyxl
import pytest

from credit_service.ingestion.frames import source_rows
from credit_service.ingestion.validation import validate_block
from credit_service.spreadsheets import templates
from credit_service.spreadsheets.columns import COLUMNS, Kind, usual_headers
from credit_service.spreadsheets.source import open_source
from credit_service.spreadsheets.table import SpreadsheetError
from tests.unit.spreadsheets.workbooks import A_CUSTOMER, A_LOAN

KINDS: tuple[Kind, ...] = ("CUSTOMERS", "LOANS")
ROWS: dict[Kind, tuple[Any, ...]] = {"CUSTOMERS": A_CUSTOMER, "LOANS": A_LOAN}


def rejected(content: bytes, name: str) -> list[tuple[str, str]]:
    """The columns and codes of the validation errors; checks that all columns are read."""
    source = open_source(io.BytesIO(content), name)
    assert source.headers.keys() == {column.field for column in COLUMNS[source.kind]}
    assert (source.ignored_columns, source.unread_sheets) == ((), ())
    errors: list[Any] = []
    for block in source.blocks:
        assert list(block.row_numbers) == [2]
        errors += validate_block(source.kind, source_rows(block), 0, date(2026, 1, 31)).errors
    return [(error.column, error.code) for error in errors]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_was_filled_in_is_read(kind: Kind) -> None:
    book = openpyxl.load_workbook(io.BytesIO(templates.template(kind)))
    assert book.sheetnames == [kind.capitalize(), templates.EXPLANATIONS]
    for column, cell in enumerate(ROWS[kind], 1):
        place = book.worksheets[0].cell(2, column, cell)
        style = book.worksheets[0].column_dimensions[place.column_letter].number_format
        if style != "@" and not isinstance(cell, date):
            place.number_format = style
    buffer = io.BytesIO()
    book.save(buffer)
    assert rejected(buffer.getvalue(), "filled.xlsx") == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_a_template_are_valid_rows(kind: Kind) -> None:
    book = openpyxl.load_workbook(io.BytesIO(templates.template(kind)))
    rows = [row for row in book[templates.EXPLANATIONS].iter_rows(values_only=True) if row[3]]
    named, examples = [row[0] for row in rows[1:]], [row[3] for row in rows[1:]]
    assert tuple(named) == usual_headers(kind)
    line = ",".join(map(str, examples)) + "\r\n"
    assert rejected(templates.csv_template(kind) + line.encode(), "filled.csv") == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_template_has_no_rows(kind: Kind) -> None:
    assert templates.template(kind) == templates.template(kind)
    for content, name in (
        (templates.template(kind), "t.xlsx"),
        (templates.csv_template(kind), "t.csv"),
    ):
        source = open_source(io.BytesIO(content), name)
        assert source.kind == kind
        assert [number for block in source.blocks for number in block.row_numbers] == []


def test_explanations_without_rows_are_an_empty_file() -> None:
    book = openpyxl.load_workbook(io.BytesIO(templates.template("LOANS")))
    book.remove(book.worksheets[0])
    buffer = io.BytesIO()
    book.save(buffer)
    with pytest.raises(SpreadsheetError):
        open_source(buffer, "x.xlsx")

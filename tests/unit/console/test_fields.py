"""Fields and row errors by their labels."""

import pytest

from credit_service.console import fields
from credit_service.console.views.ingestions import left_out, row_line
from credit_service.v1 import ingestion_pb2


@pytest.mark.parametrize(
    ("path", "description", "beside", "sentence"),
    [
        (
            "monthly_income",
            "monthly_income must be more than 0.",
            "Must be more than 0.",
            "Monthly income must be more than 0.",
        ),
        (
            "loan_amount.units",
            "loan_amount.units is required.",
            "Is required.",
            "Loan amount is required.",
        ),
        (
            "header.on_existing",
            "Choose on_existing.",
            "Choose rows that are already stored.",
            "Choose rows that are already stored.",
        ),
        (
            "tenure_months",
            "tenure_months must be 1 to 480, found snake_case.",
            "Must be 1 to 480, found snake_case.",
            "Months must be 1 to 480, found snake_case.",
        ),
    ],
)
def test_a_violation_has_the_label(path: str, description: str, beside: str, sentence: str) -> None:
    assert fields.beside_field(path, description) == beside
    assert fields.sentence(path, description) == sentence


def test_the_problems_of_a_form_have_its_order() -> None:
    found = fields.beside(
        ("age", "monthly_income"),
        [("monthly_income.units", "monthly_income.units is bad."), ("request_id", "x")],
        {"age": "Enter a whole number."},
    )
    assert list(found.items()) == [("age", "Enter a whole number."), ("monthly_income", "Is bad.")]


def test_a_row_error_has_the_headers_of_the_sheet_and_no_repetition() -> None:
    error = ingestion_pb2.RowError(
        row_number=7,
        column="monthly_income",
        code=ingestion_pb2.ROW_ERROR_CODE_OUT_OF_RANGE,
        found="0",
        expected="rupees, more than 0",
        message="monthly_income is '0'; expected rupees, more than 0.",
        outcome=ingestion_pb2.ROW_OUTCOME_SKIPPED,
    )
    line = row_line(ingestion_pb2.INGESTION_KIND_CUSTOMERS, error)
    assert (line.header, line.expected, line.note) == ("Monthly Salary", "rupees, more than 0", "")
    assert line.outcome == "Skipped"
    error.message = "There is no customer of that customer_id."
    line = row_line(ingestion_pb2.INGESTION_KIND_LOANS, error)
    assert line.note == "There is no customer of that Customer ID."
    # The header of the file, if the service knows it.
    error.column_header = "Gross Pay"
    error.expected = "monthly_income in rupees"
    line = row_line(ingestion_pb2.INGESTION_KIND_CUSTOMERS, error)
    assert (line.header, line.expected) == ("Gross Pay", "Gross Pay in rupees")


@pytest.mark.parametrize(
    ("rejected", "skipped", "text"),
    [
        (0, 0, ""),
        (1, 0, "1 row rejected"),
        (0, 29, "29 rows skipped"),
        (3, 29_000, "3 rows rejected, 29,000 skipped"),
    ],
)
def test_rows_not_stored_are_counted_in_words(rejected: int, skipped: int, text: str) -> None:
    assert left_out(ingestion_pb2.Ingestion(rejected=rejected, skipped=skipped)) == text

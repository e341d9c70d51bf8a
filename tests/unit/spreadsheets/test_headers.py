"""The meaning of headers: column and unit."""

import pytest

from credit_service.spreadsheets.columns import COLUMNS, Kind
from credit_service.spreadsheets.headers import (
    MAX_HEADER_CHARS,
    MAX_IGNORED,
    AmbiguousColumnError,
    MissingColumnError,
    UnitError,
    detect,
    ignored,
    match,
)
from tests.unit.spreadsheets.workbooks import CUSTOMER_HEADERS, LOAN_HEADERS

USUAL: dict[Kind, tuple[str, ...]] = {
    "CUSTOMERS": CUSTOMER_HEADERS,
    "LOANS": (*LOAN_HEADERS, "Installments Settled"),
}


def with_header(kind: Kind, field: str, header: str) -> tuple[str, ...]:
    """The usual headers with another header for a field."""
    place = match(kind, USUAL[kind])[field]
    return tuple(header if index == place else each for index, each in enumerate(USUAL[kind]))


MONEY = (
    *("{} (INR)", "{} (Rs.)", "{} (in Rs)", "{} (₹)", "{} in INR", "{} - Rs", "{}, ₹", "{} [INR]"),
    *("{} INR", "{} Rs/-", "{} (in Indian Rupees)", "{}_inr", "{}\n(Rupees)", "₹"),
)
A_MONTH = ("{} (₹ per month)", "{} p.m.", "{} (Rs./month)", "{} (INR pm)", "{} (Monthly)")
ACCEPTED: dict[tuple[Kind, str, str], tuple[str, ...]] = {
    ("CUSTOMERS", "monthly_income", "Salary"): MONEY[:-1] + A_MONTH,
    ("CUSTOMERS", "approved_limit", "Approved Limit"): MONEY[:-1],
    ("CUSTOMERS", "age", "Age"): ("{} (years)", "{} in yrs", "{} (completed years)", "{} Years"),
    ("CUSTOMERS", "phone_number", "Mobile No."): ("{}", "{}*", "{} (required)"),
    ("LOANS", "loan_amount", "Loan Amount"): MONEY[:-1],
    ("LOANS", "monthly_installment", "EMI"): MONEY[:-1] + A_MONTH,
    ("LOANS", "tenure_months", "Tenure"): ("{} (in months)", "{} Months", "{} (mths)", "{}, mos"),
    ("LOANS", "interest_rate", "Interest Rate"): (
        *("{} (% p.a.)", "{} %", "{} (%)", "{} p.a.", "{} (percent per annum)", "{} (yearly)"),
        *("{} in %", "{}/annum", "{} (PA)", "{} (annual %)"),
    ),
    ("LOANS", "emis_paid_on_time", "EMIs paid on Time"): ("{} (count)", "No. of {}", "{} (nos.)"),
    ("LOANS", "start_date", "Date of Approval"): ("{} (DD-MM-YYYY)", "{} (yyyy-mm-dd)"),
    ("LOANS", "end_date", "Maturity Date"): ("{}", "{} (dd/mm/yyyy)"),
    ("LOANS", "loan_id", "loanId"): ("{}", "{} *"),
}


@pytest.mark.parametrize(
    ("kind", "field", "header"),
    [
        (kind, field, pattern.format(name))
        for (kind, field, name), patterns in ACCEPTED.items()
        for pattern in patterns
    ],
)
def test_a_header_may_add_the_unit_of_its_column(kind: Kind, field: str, header: str) -> None:
    headers = with_header(kind, field, header)
    assert match(kind, headers) == match(kind, USUAL[kind])
    assert detect(headers) == kind
    assert ignored(kind, headers) == ()


AMOUNTS = (
    *("{} (in lakhs)", "{} (₹ in lakhs)", "{} Lakh", "{} (Rs. in lacs)", "{} in Cr", "{} (₹ '000)"),
    *("{} (000s)", "{} (in thousands)", "{} ($)", "{} (USD)", "{} in €", "{} (paise)", "{} (K)"),
    "{} (Rs mn)",
)
REFUSED: dict[tuple[Kind, str, str], tuple[str, ...]] = {
    ("CUSTOMERS", "monthly_income", "Income"): (
        *AMOUNTS,
        *("{} (annual)", "{} p.a.", "{} per year", "{} (LPA)", "{}/week", "{} (%)"),
    ),
    ("CUSTOMERS", "approved_limit", "Approved Limit"): AMOUNTS,
    ("CUSTOMERS", "age", "Age"): ("{} (months)", "{} in days"),
    ("LOANS", "loan_amount", "Loan Amount"): (*AMOUNTS, "{} %"),
    ("LOANS", "monthly_installment", "EMI"): (*AMOUNTS, "{} (yearly)", "{} (quarterly)"),
    ("LOANS", "tenure_months", "Tenure"): ("{} (years)", "{} in yrs", "{} (days)", "{} (weeks)"),
    ("LOANS", "interest_rate", "Interest Rate"): (
        *("{} (% per month)", "{} p.m.", "{} (bps)", "{} (flat)", "{} (monthly)", "{} as fraction"),
    ),
    ("LOANS", "emis_paid_on_time", "EMIs paid on Time"): ("{} (%)", "{} (Rs.)"),
}


@pytest.mark.parametrize(
    ("kind", "field", "header"),
    [
        (kind, field, pattern.format(name))
        for (kind, field, name), patterns in REFUSED.items()
        for pattern in patterns
    ],
)
def test_another_unit_is_never_read_as_the_columns_own(kind: Kind, field: str, header: str) -> None:
    headers = with_header(kind, field, header)
    with pytest.raises(UnitError, match="another unit") as caught:
        match(kind, headers)
    assert repr(header) in str(caught.value)
    assert detect(headers) == kind


def test_a_column_in_another_unit_beside_the_right_one_is_ignored_and_named() -> None:
    headers = (*LOAN_HEADERS, "Tenure (years)", "Loan Amount (in lakhs)")
    assert match("LOANS", headers) == match("LOANS", LOAN_HEADERS)
    assert ignored("LOANS", headers) == ("Tenure (years)", "Loan Amount (in lakhs)")


@pytest.mark.parametrize(
    "header",
    [
        *("Loan Amount Band", "Interest Rate Type", "Tenure Remaining", "Loan Amount (gross)"),
        *("Principal Outstanding", "EMI Bounce", "Phone", "Loan Amount in words", "", "₹"),
    ],
)
def test_a_header_with_another_meaning_is_another_column(header: str) -> None:
    headers = (*LOAN_HEADERS, header)
    assert match("LOANS", headers) == match("LOANS", LOAN_HEADERS)
    assert ignored("LOANS", headers) == ((header,) if header else ())


def test_emis_paid_means_those_on_time_without_another_column() -> None:
    for header in ("emis_paid", "EMIs Paid", "No. of EMIs paid", "EMI paid (count)"):
        headers = with_header("LOANS", "emis_paid_on_time", header)
        assert match("LOANS", headers)["emis_paid_on_time"] == 6
    for headers in ((*LOAN_HEADERS, "EMIs paid"), ("EMIs paid", *LOAN_HEADERS)):
        found = match("LOANS", headers)["emis_paid_on_time"]
        assert headers[found] == "EMIs paid on Time"
        assert ignored("LOANS", headers) == ("EMIs paid",)


@pytest.mark.parametrize("other", ["Loan Amount (INR)", "Principal", "loan_amount"])
def test_two_columns_with_the_same_meaning_are_rejected(other: str) -> None:
    with pytest.raises(AmbiguousColumnError, match="both stand for loan_amount"):
        match("LOANS", (*LOAN_HEADERS, other))


def test_listed_names_are_bounded_and_on_one_line() -> None:
    names = [f"Note {n}\n\x00 {'x' * 300}" for n in range(300)]
    found = ignored("LOANS", (*LOAN_HEADERS, *names))
    assert len(found) == MAX_IGNORED
    assert all(len(name) <= MAX_HEADER_CHARS and name.isprintable() for name in found)
    assert found[0].startswith("Note 0 xxx")
    with pytest.raises(MissingColumnError) as caught:
        match("LOANS", ("Loan ID", *names))
    assert "and 271 more" in str(caught.value)
    assert len(str(caught.value)) < 4_000


def test_every_listed_header_means_one_column() -> None:
    for kind, of_kind in COLUMNS.items():
        for column in of_kind:
            for header in (column.field, *column.headers, *column.second_choice):
                headers = with_header(kind, column.field, header)
                assert match(kind, headers) == match(kind, USUAL[kind]), header

"""The columns of customer and loan files, and the headers that each goes by.

One list for the client, which streams the rows of a file, and for the service, which reads uploaded
files. Imports nothing of ours, so that both may use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["CUSTOMERS", "LOANS"]


@dataclass(frozen=True, slots=True)
class Column:
    """`field` is its name in the contract, `headers` what files call it, the usual one first."""

    field: str
    headers: tuple[str, ...]
    required: bool = True


COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "CUSTOMERS": (
        Column("customer_id", ("Customer ID", "Cust ID", "Customer No", "Customer Number")),
        Column("first_name", ("First Name", "Given Name")),
        Column("last_name", ("Last Name", "Surname", "Family Name")),
        Column("age", ("Age", "Age Years")),
        Column(
            "phone_number",
            ("Phone Number", "Phone", "Phone No", "Mobile", "Mobile Number", "Contact Number"),
        ),
        Column("monthly_income", ("Monthly Salary", "Monthly Income", "Salary", "Income")),
        Column("approved_limit", ("Approved Limit", "Credit Limit"), required=False),
    ),
    "LOANS": (
        Column("customer_id", ("Customer ID", "Cust ID", "Customer No", "Customer Number")),
        Column("loan_id", ("Loan ID", "Loan No", "Loan Number")),
        Column("loan_amount", ("Loan Amount", "Principal", "Principal Amount", "Amount")),
        Column("tenure_months", ("Tenure", "Tenure Months", "Loan Tenure", "Term", "Term Months")),
        Column("interest_rate", ("Interest Rate", "Rate", "Annual Rate", "Rate of Interest")),
        Column(
            "monthly_installment",
            (
                "Monthly payment",
                "Monthly Repayment",
                "Monthly Repayment (emi)",
                "Monthly Installment",
                "Monthly Instalment",
                "EMI",
                "EMI Amount",
            ),
        ),
        Column("emis_paid_on_time", ("EMIs paid on Time", "EMI paid on Time", "Paid on Time")),
        Column(
            "start_date", ("Date of Approval", "Start Date", "Approval Date", "Loan Start Date")
        ),
        Column("end_date", ("End Date", "Loan End Date", "Maturity Date"), required=False),
    ),
}


SUMMARY_TITLE = "Ingestion summary"
"""What the summary sheet of an annotated workbook begins with. A sheet whose first row holds this
and nothing else is no rows: it is passed over, so that the corrected workbook can be sent again."""
REASONS_HEADER = "Rejected because"
"""The header of the column of reasons in an annotated workbook. As it stands for no field, it is
passed over like any other column that is not known."""


class ColumnsError(ValueError):
    """The headers of a file do not tell which column is which. The message says what to mend."""


class MissingColumnError(ColumnsError):
    """A required column is missing."""


class AmbiguousColumnError(ColumnsError):
    """Two headers stand for the same column."""


def normalized(header: object) -> str:
    """A header without what headers are matched without regard to: case, spaces, punctuation."""
    return "".join(char for char in str(header).casefold() if char.isalnum())


_FIELDS: Mapping[Kind, Mapping[str, str]] = {
    kind: {
        normalized(name): column.field
        for column in columns
        for name in (column.field, *column.headers)
    }
    for kind, columns in COLUMNS.items()
}


def match(kind: Kind, headers: Sequence[object]) -> dict[str, int]:
    """Field name → index of its column; headers that are not known are passed over.

    Raises:
        MissingColumnError, AmbiguousColumnError
    """
    found: dict[str, int] = {}
    for index, header in enumerate(headers):
        field = _FIELDS[kind].get(normalized(header))
        if field is None:
            continue
        if field in found:
            raise AmbiguousColumnError(
                f"The columns {str(headers[found[field]])!r} and {str(header)!r} both stand for "
                f"{field}; remove or rename one of them."
            )
        found[field] = index
    missing = [each for each in COLUMNS[kind] if each.required and each.field not in found]
    if missing:
        named = ", ".join(repr(each.headers[0]) for each in missing)
        others = ", ".join(repr(str(each)) for each in headers if str(each).strip()) or "none"
        raise MissingColumnError(
            f"A file of {kind.lower()} needs the column{'s' if len(missing) > 1 else ''} {named}; "
            f"found {others}."
        )
    return found


def detect(headers: Sequence[object]) -> Kind | None:
    """What the rows under these headers are; None when they fit neither kind better."""
    names = {normalized(header) for header in headers}
    fields = {kind: {f for name, f in of.items() if name in names} for kind, of in _FIELDS.items()}
    shares = {kind: len(fields[kind]) / len(COLUMNS[kind]) for kind in COLUMNS}
    if shares["LOANS"] == shares["CUSTOMERS"] or max(shares.values()) < 0.5:
        return None
    return "LOANS" if shares["LOANS"] > shares["CUSTOMERS"] else "CUSTOMERS"

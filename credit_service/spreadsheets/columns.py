"""The one table of the columns of customers, loans and asks.

The client, which streams the rows of a file, and the service, which reads uploaded ones, share it.
It imports no module of ours, so that both may import it. Headers, templates and samples, the types
of frames, the conversion of messages, and the texts of row errors follow from `COLUMNS`. The ranges
of numbers are rules of the domain; `ingestion/validation.py` applies them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["CUSTOMERS", "LOANS"]
TableKind = Literal["CUSTOMERS", "LOANS", "ASKS"]
"""ASKS are eligibility checks. They are never imported, and no header is detected as theirs."""
ColumnType = Literal["ID", "WHOLE", "AMOUNT", "RATE", "DAY", "NAME", "PHONE"]
"""What a column holds. The type decides how a cell is read, which message carries the value, and
the value in the service: AMOUNT in paise, RATE in basis points, DAY in days since 1970-01-01."""
Unit = Literal["", "RUPEES", "RUPEES_A_MONTH", "PERCENT_A_YEAR", "MONTHS", "YEARS", "COUNT", "DAY"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a file, a field of a message, and a value that the service stores.

    `field` is its name in the contract. `fact` is the name of its value in frames; tables have the
    same name, but for days. `headers` are its names in files, the usual one first; a header may add
    the unit: "Loan Amount (INR)", "Tenure in months". `second_choice` are headers that name the
    column only if no other header does.

    `expected` says what a cell must hold, in row errors and templates. Templates also have `advice`
    and the `example`; row errors quote the examples of numbers.
    """

    field: str
    type: ColumnType
    headers: tuple[str, ...]
    expected: str
    example: str
    fact: str
    unit: Unit = ""
    required: bool = True
    second_choice: tuple[str, ...] = ()
    advice: str = ""


_AN_ID = "a whole number from 1 to 999,999,999,999,999"
_A_NAME = "1 to 50 characters without control characters"

_CUSTOMER_ID = Column(
    field="customer_id",
    type="ID",
    headers=("Customer ID", "Cust ID", "Customer No", "Customer Number", "Customer Code"),
    expected=_AN_ID,
    example="1024",
    fact="customer_id",
)

COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "CUSTOMERS": (
        _CUSTOMER_ID,
        Column(
            field="first_name",
            type="NAME",
            headers=("First Name", "Given Name", "Forename"),
            expected=_A_NAME,
            example="Asha",
            fact="first_name",
        ),
        Column(
            field="last_name",
            type="NAME",
            headers=("Last Name", "Surname", "Family Name"),
            expected=_A_NAME,
            example="Rao",
            fact="last_name",
        ),
        Column(
            field="age",
            type="WHOLE",
            unit="YEARS",
            headers=("Age", "Customer Age"),
            expected="a whole number from 18 to 120",
            example="35",
            advice="in completed years",
            fact="age",
        ),
        Column(
            field="phone_number",
            type="PHONE",
            headers=(
                *("Phone Number", "Phone", "Phone No", "Telephone", "Telephone Number"),
                *("Mobile", "Mobile Number", "Mobile No", "Mobile Phone"),
                *("Contact Number", "Contact No"),
            ),
            expected="a valid phone number such as +91 98765 98765",
            example="9876598765",
            advice="an Indian number needs no country code",
            fact="phone_number",
        ),
        Column(
            field="monthly_income",
            type="AMOUNT",
            unit="RUPEES_A_MONTH",
            headers=(
                *("Monthly Salary", "Monthly Income", "Salary", "Income"),
                *("Gross Monthly Income", "Gross Monthly Salary"),
            ),
            expected="rupees, more than 0 and at most 10 crore, with at most two decimals",
            example="50000",
            fact="monthly_income_paise",
        ),
        Column(
            field="approved_limit",
            type="AMOUNT",
            unit="RUPEES",
            headers=(
                *("Approved Limit", "Credit Limit", "Approved Credit Limit", "Sanctioned Limit"),
            ),
            required=False,
            expected="rupees, 0 to 1,000 crore, with at most two decimals, or nothing",
            example="1800000",
            advice="if empty: 36 times the income, to the nearest lakh",
            fact="approved_limit_paise",
        ),
    ),
    "LOANS": (
        _CUSTOMER_ID,
        Column(
            field="loan_id",
            type="ID",
            headers=("Loan ID", "Loan No", "Loan Number", "Loan Account No", "Loan Account Number"),
            expected=_AN_ID,
            example="7001",
            advice="unique among the customer's loans",
            fact="loan_id",
        ),
        Column(
            field="loan_amount",
            type="AMOUNT",
            unit="RUPEES",
            headers=("Loan Amount", "Principal", "Principal Amount", "Loan Principal", "Amount"),
            expected="rupees, more than 0 and at most 100 crore, with at most two decimals",
            example="100000",
            fact="principal_paise",
        ),
        Column(
            field="tenure_months",
            type="WHOLE",
            unit="MONTHS",
            headers=(
                *("Tenure", "Loan Tenure", "Term", "Loan Term", "Tenor", "Number of Installments"),
            ),
            expected="a whole number from 1 to 480",
            example="24",
            advice="in months",
            fact="tenure_months",
        ),
        Column(
            field="interest_rate",
            type="RATE",
            unit="PERCENT_A_YEAR",
            headers=(
                *("Interest Rate", "Rate", "Annual Rate", "Rate of Interest", "ROI"),
                *("Annual Interest Rate", "Yearly Interest Rate", "Loan Interest Rate"),
            ),
            expected="percent a year, 0 to 100, with at most two decimals",
            example="12.5",
            fact="annual_rate_bps",
        ),
        Column(
            field="monthly_installment",
            type="AMOUNT",
            unit="RUPEES_A_MONTH",
            headers=(
                *("Monthly payment", "Monthly Repayment", "Monthly Repayment (emi)"),
                *("Monthly Installment", "Monthly Instalment", "Monthly EMI"),
                *("EMI", "EMI Amount", "Installment", "Instalment"),
                *("Installment Amount", "Instalment Amount"),
            ),
            expected="rupees, more than 0 and at most 200 crore, with at most two decimals",
            example="4730.73",
            fact="installment_paise",
        ),
        Column(
            field="emis_paid_on_time",
            type="WHOLE",
            unit="COUNT",
            headers=(
                *("EMIs paid on Time", "EMI paid on Time", "Paid on Time", "On Time EMIs"),
                *("No of EMIs paid on Time", "Number of EMIs paid on Time"),
                *("Installments paid on Time", "Instalments paid on Time"),
            ),
            second_choice=("EMIs paid", "EMI paid", "No of EMIs paid", "Number of EMIs paid"),
            expected="a whole number from 0 to the tenure",
            example="12",
            fact="emis_paid_on_time",
        ),
        Column(
            field="start_date",
            type="DAY",
            unit="DAY",
            headers=(
                *("Date of Approval", "Approval Date", "Start Date", "Loan Start Date"),
                *("Loan Approval Date", "Approved on"),
            ),
            expected="a day such as 2024-03-31, from 1900 on and not in the future",
            example="2024-03-31",
            fact="start_day",
        ),
        Column(
            field="end_date",
            type="DAY",
            unit="DAY",
            headers=("End Date", "Loan End Date", "Maturity Date", "Date of Maturity"),
            required=False,
            expected="the start date plus the tenure, such as 2027-03-31, or nothing",
            example="2026-03-31",
            fact="end_day",
        ),
        Column(
            field="installments_settled",
            type="WHOLE",
            unit="COUNT",
            headers=(
                *("Installments Settled", "Instalments Settled", "EMIs Settled"),
                *("Installments Paid", "Instalments Paid", "Total EMIs Paid"),
                *("Number of Installments Paid", "Number of Instalments Paid"),
            ),
            required=False,
            expected="a whole number from 0 to the tenure, or nothing",
            example="14",
            advice="those paid late included; if empty: all that are due",
            fact="settled_given",
        ),
    ),
}
_FIELDS_OF_ASKS = ("customer_id", "loan_amount", "interest_rate", "tenure_months")
_CHARGES = "rupees, 0 or more and at most 100 crore, with at most two decimals, or nothing"
_CHARGES_OF_ASKS = (
    Column(
        field="lender_charges",
        type="AMOUNT",
        unit="RUPEES",
        headers=("Lender Charges", "Charges of the Lender"),
        required=False,
        expected=_CHARGES,
        example="500",
        advice="with tax, deducted from what is disbursed",
        fact="lender_charges_paise",
    ),
    Column(
        field="third_party_charges",
        type="AMOUNT",
        unit="RUPEES",
        headers=("Third Party Charges", "Charges of Third Parties"),
        required=False,
        expected=_CHARGES,
        example="240",
        advice="such as insurance, with tax",
        fact="third_party_charges_paise",
    ),
)

TABLES: Mapping[TableKind, tuple[Column, ...]] = {
    "CUSTOMERS": COLUMNS["CUSTOMERS"],
    "LOANS": COLUMNS["LOANS"],
    "ASKS": (
        *(each for each in COLUMNS["LOANS"] if each.field in _FIELDS_OF_ASKS),
        *_CHARGES_OF_ASKS,
    ),
}
"""The columns of every kind of file."""

BY_FIELD: Mapping[TableKind, Mapping[str, Column]] = {
    kind: {column.field: column for column in columns} for kind, columns in TABLES.items()
}
"""The columns of each kind by their field."""


def usual_headers(kind: TableKind) -> tuple[str, ...]:
    """The usual header of each column, in order."""
    return tuple(column.headers[0] for column in TABLES[kind])

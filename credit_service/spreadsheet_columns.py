"""The columns of customer and loan files, and the headers that each goes by.

One list for the client, which streams the rows of a file, and for the service, which reads uploaded
files. Imports nothing of ours, so that both may use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["CUSTOMERS", "LOANS"]

MAX_IGNORED = 50
"""Most ignored columns that an answer names."""
MAX_HEADER_CHARS = 100
"""Longest header in an answer; the rest is cut."""


Unit = Literal["", "RUPEES", "RUPEES_A_MONTH", "PERCENT_A_YEAR", "MONTHS", "YEARS"]


@dataclass(frozen=True, slots=True)
class Column:
    """`field` is its name in the contract, `headers` what files call it, the usual one first.

    A header may add the column's unit: "Loan Amount (INR)", "Tenure in months".
    """

    field: str
    headers: tuple[str, ...]
    unit: Unit = ""
    required: bool = True


COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "CUSTOMERS": (
        Column("customer_id", ("Customer ID", "Cust ID", "Customer No", "Customer Number")),
        Column("first_name", ("First Name", "Given Name")),
        Column("last_name", ("Last Name", "Surname", "Family Name")),
        Column("age", ("Age", "Age Years"), unit="YEARS"),
        Column(
            "phone_number",
            ("Phone Number", "Phone", "Phone No", "Mobile", "Mobile Number", "Contact Number"),
        ),
        Column(
            "monthly_income",
            ("Monthly Salary", "Monthly Income", "Salary", "Income"),
            unit="RUPEES_A_MONTH",
        ),
        Column(
            "approved_limit",
            ("Approved Limit", "Credit Limit"),
            unit="RUPEES",
            required=False,
        ),
    ),
    "LOANS": (
        Column("customer_id", ("Customer ID", "Cust ID", "Customer No", "Customer Number")),
        Column("loan_id", ("Loan ID", "Loan No", "Loan Number")),
        Column(
            "loan_amount", ("Loan Amount", "Principal", "Principal Amount", "Amount"), unit="RUPEES"
        ),
        Column(
            "tenure_months",
            ("Tenure", "Tenure Months", "Loan Tenure", "Term", "Term Months"),
            unit="MONTHS",
        ),
        Column(
            "interest_rate",
            ("Interest Rate", "Rate", "Annual Rate", "Rate of Interest"),
            unit="PERCENT_A_YEAR",
        ),
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
            unit="RUPEES_A_MONTH",
        ),
        Column(
            "emis_paid_on_time",
            ("EMIs paid on Time", "EMI paid on Time", "Paid on Time", "EMIs paid", "EMI paid"),
        ),
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


class UnitError(ColumnsError):
    """A header names another unit than its column has, such as lakhs for rupees."""


def normalized(header: object) -> str:
    """A header without what headers are matched without regard to: case, spaces, punctuation."""
    return "".join(char for char in str(header).casefold() if char.isalnum())


# What a header may add to a column's name, as `normalized` leaves it of "(in Rs.)" or "(% p.a.)".
_RUPEES = ("inr", "rs", "rupees", "rupee")
_UNITS: Mapping[Unit, tuple[str, ...]] = {
    "": (),
    "RUPEES": _RUPEES,
    "RUPEES_A_MONTH": (
        *_RUPEES,
        *(f"{unit}{a_month}" for unit in _RUPEES for a_month in ("month", "permonth", "pm")),
        "permonth",
        "pm",
    ),
    "PERCENT_A_YEAR": (
        *("percent", "pct", "percentage", "pa", "perannum", "peryear", "annual", "yearly"),
        *("percentpa", "percentperannum", "percentperyear", "pctpa", "annually"),
    ),
    "MONTHS": ("months", "month", "mths", "mth", "mos", "noofmonths"),
    "YEARS": ("years", "year", "yrs", "yr"),
}
_OTHER_UNITS: Mapping[Unit, tuple[str, ...]] = {
    "": (),
    **dict.fromkeys(
        ("RUPEES", "RUPEES_A_MONTH"),
        (
            *("lakh", "lakhs", "lac", "lacs", "crore", "crores", "cr", "thousand", "thousands"),
            *("k", "000", "000s", "million", "millions", "mn", "paise", "paisa"),
            *(f"{unit}{many}" for unit in _RUPEES for many in ("lakh", "lakhs", "lacs", "lac")),
            *(f"{unit}{many}" for unit in _RUPEES for many in ("crore", "crores", "cr", "000")),
            *("usd", "eur", "gbp", "aed", "dollars", "euros"),
            *("peryear", "perannum", "pa", "annual", "yearly"),
        ),
    ),
    "PERCENT_A_YEAR": (
        "permonth",
        "monthly",
        "pm",
        "percentpermonth",
        "percentpm",
        "bps",
        "fraction",
    ),
    "MONTHS": ("years", "year", "yrs", "yr", "days", "weeks", "quarters"),
    "YEARS": ("months", "days"),
}


def _spellings(column: Column, units: Sequence[str]) -> dict[str, str]:
    """Each normalized header of the column with each of these units → the unit."""
    names = {normalized(name) for name in (column.field, *column.headers)}
    return {
        f"{name}{before}{unit}": unit for name in names for unit in units for before in ("", "in")
    }


_FIELDS: Mapping[Kind, Mapping[str, str]] = {
    kind: {
        name: column.field
        for column in columns
        for name in _spellings(column, ("", *_UNITS[column.unit]))
    }
    for kind, columns in COLUMNS.items()
}
_WRONG_UNITS: Mapping[Kind, Mapping[str, str]] = {
    kind: {
        name: column.field
        for column in columns
        for name in _spellings(column, _OTHER_UNITS[column.unit]).keys() - _FIELDS[kind].keys()
    }
    for kind, columns in COLUMNS.items()
}
_UNIT_NAMES: Mapping[Unit, str] = {
    "RUPEES": "rupees",
    "RUPEES_A_MONTH": "rupees a month",
    "PERCENT_A_YEAR": "percent a year",
    "MONTHS": "months",
    "YEARS": "years",
}


def match(kind: Kind, headers: Sequence[object]) -> dict[str, int]:
    """Field name → index of its column; headers that are not known are ignored.

    Raises:
        MissingColumnError, AmbiguousColumnError, UnitError
    """
    found: dict[str, int] = {}
    for index, header in enumerate(headers):
        name = normalized(header)
        field = _FIELDS[kind].get(name)
        if field is None:
            if (wrong := _WRONG_UNITS[kind].get(name)) is not None:
                raise _unit_error(kind, wrong, str(header))
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


def _unit_error(kind: Kind, field: str, header: str) -> UnitError:
    (column,) = (each for each in COLUMNS[kind] if each.field == field)
    return UnitError(
        f"The column {header!r} is in another unit than {column.headers[0]!r}, which must be in "
        f"{_UNIT_NAMES[column.unit]}; convert its values and rename it to {column.headers[0]!r}."
    )


def ignored(kind: Kind, headers: Sequence[object]) -> tuple[str, ...]:
    """The headers of columns that are not read: at most MAX_IGNORED, each cut to its first
    MAX_HEADER_CHARS characters."""
    known = _FIELDS[kind]
    names = [str(each).strip() for each in headers if normalized(each) not in known]
    shown = [name[:MAX_HEADER_CHARS] for name in names if name and name != REASONS_HEADER]
    return tuple(shown[:MAX_IGNORED])


def known_columns(headers: Sequence[object], kind: Kind | None = None) -> int:
    """How many columns of the kind, or of the kind they fit best, these headers name."""
    names = {normalized(header) for header in headers}
    kinds = COLUMNS if kind is None else (kind,)
    fields = ({f for name, f in _FIELDS[each].items() if name in names} for each in kinds)
    return max(map(len, fields))


def is_complete(headers: Sequence[object], kind: Kind | None = None) -> bool:
    """Whether the headers name every required column of the kind, or of either kind."""
    names = {normalized(header) for header in headers}
    return any(
        {f for name, f in _FIELDS[each].items() if name in names}
        >= {column.field for column in COLUMNS[each] if column.required}
        for each in (COLUMNS if kind is None else (kind,))
    )


def detect(headers: Sequence[object]) -> Kind | None:
    """What the rows under these headers are; None when they fit neither kind better."""
    names = {normalized(header) for header in headers}
    fields = {kind: {f for name, f in of.items() if name in names} for kind, of in _FIELDS.items()}
    shares = {kind: len(fields[kind]) / len(COLUMNS[kind]) for kind in COLUMNS}
    if shares["LOANS"] == shares["CUSTOMERS"] or max(shares.values()) < 0.5:
        return None
    return "LOANS" if shares["LOANS"] > shares["CUSTOMERS"] else "CUSTOMERS"

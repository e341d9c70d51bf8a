"""The customers of a campaign, and the rows of its ingestions."""

import random
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

ORDINARY = range(1, 201)
"""Customers for evenly distributed calls."""

HOT = range(201, 206)
"""Customers of half of all CreateLoan calls."""

INGESTED = range(301, 401)
"""Customers whose loans are imported and taken back during the load."""

BORROWING = range(301, 331)
"""Those of them who also get loans: their imported loans may not be taken back then."""

_CUSTOMER_HEADER = "Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary,Approved Limit"
_LOAN_HEADER = (
    "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,EMIs paid on Time,"
    "Date of Approval,End Date"
)
_UNKNOWN_CUSTOMER = 999_999


@dataclass(frozen=True, slots=True)
class SentRow:
    """A row of an ingestion: its loan, and whether it is valid."""

    customer_id: int
    loan_id: int
    is_valid: bool


def income_and_limit(customer_id: int) -> tuple[int, int]:
    """The monthly income and the approved limit of a customer in rupees, when the load begins."""
    # A long campaign reaches these limits, for some customers early and for others late.
    if customer_id in HOT:
        return 4_000_000, 150_000 * 3 ** HOT.index(customer_id)
    return 40_000, 30_000 + 1_000 * (customer_id % 100)


def write_customers(path: Path) -> int:
    """All customers as CSV, and their number."""
    lines = [_CUSTOMER_HEADER]
    for customer_id in (*ORDINARY, *HOT, *INGESTED):
        income, limit = income_and_limit(customer_id)
        lines.append(
            f"{customer_id},Asha,Rao,{21 + customer_id % 40},{9_000_000_000 + customer_id},"
            f"{income},{limit}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 1


def write_past_loans(path: Path) -> int:
    """A loan repaid on time for each customer, so that most get approvals; and their number."""
    lines = [_LOAN_HEADER]
    for customer_id in (*ORDINARY, *HOT, *INGESTED):
        lines += [
            _loan(customer_id, customer_id * 10 + number, 240_000)
            for number in range(1, 4 + customer_id % 3)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 1


def _loan(customer_id: int, loan_id: int, amount: int, tenure: int = 12) -> str:
    return f"{customer_id},{loan_id},{amount},{tenure},12,{amount // 11},12,2023-03-15,2024-03-15"


def write_rows(path: Path, number: int, rows: int, pick: random.Random) -> list[SentRow]:
    """Write the loans of the `number`-th ingestion of a campaign as CSV, and return them.

    In every other file two of ten rows must be rejected. The other files have no row errors, so
    that only the row count reveals a batch stored twice.
    """
    lines, sent = [_LOAN_HEADER], []
    for place in range(rows):
        customer_id = pick.choice(INGESTED)
        loan_id = 1_000_000 + number * 10_000 + place
        has_error = bool(number % 2) and place % 10 in (3, 7)
        if has_error and place % 10 == 3:
            lines.append(_loan(customer_id, loan_id, 5_000, tenure=481))
        elif has_error:
            lines.append(_loan(_UNKNOWN_CUSTOMER, loan_id, 5_000))
        else:
            lines.append(_loan(customer_id, loan_id, pick.randint(1, 40) * 1_000))
        sent.append(SentRow(customer_id, loan_id, not has_error))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sent


def request_id(pick: random.Random) -> UUID:
    """A UUID from the caller's random numbers."""
    return UUID(int=pick.getrandbits(128), version=4)

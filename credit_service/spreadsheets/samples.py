"""Sample workbooks in the layout of the public exercise, of any size, with no real person in them.

The same (customers, loans, seed, day) always gives the same bytes. Six featured customers have
closed loans wherever their score matters, so that the score stays the same on any later day:

| customer | score    | what it shows                                                            |
|----------|----------|--------------------------------------------------------------------------|
| 101      | over 50  | good credit: a modest loan is approved at the requested rate             |
| 102      | 0 to 10  | has a history, a poor one: declined for its score                        |
| 103      | 0        | debt exceeds the approved limit                                          |
| 104      | 11 to 30 | a low rate is corrected to 16 %                                          |
| 105      | 31 to 50 | a low rate is corrected to 12 %                                          |
| 106      | 0        | no credit history: no loan ever                                          |

Customers 101 and 105 both have a loan 1003: an imported loan id is unique per customer only.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.customers import approved_limit_paise
from credit_service.domain.money import LAKH_PAISE
from credit_service.rupees import RUPEE_PAISE
from credit_service.spreadsheets.columns import usual_headers

CUSTOMER_HEADERS = usual_headers("CUSTOMERS")
# Without the optional number of settled installments, the last column.
LOAN_HEADERS = usual_headers("LOANS")[:-1]

GOOD_CUSTOMER_ID = 101
BAD_CUSTOMER_ID = 102
OVER_LIMIT_CUSTOMER_ID = 103
LOW_BAND_CUSTOMER_ID = 104
MIDDLE_BAND_CUSTOMER_ID = 105
NO_HISTORY_CUSTOMER_ID = 106
SHARED_LOAN_ID = 1003
"""Loan id of both customer 101 and customer 105."""

MIN_CUSTOMERS = 10
MIN_LOANS = 20
MAX_CUSTOMERS = 1_000_000
MAX_LOANS = 1_048_575
"""Rows of one sheet of a workbook, less its header."""

Cell = int | float | str | date
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SampleCustomer:
    """A row of the customer workbook. Money in whole rupees."""

    customer_id: int
    first_name: str
    last_name: str
    age: int
    phone_number: int
    monthly_salary_rupees: int
    approved_limit_rupees: int

    def cells(self) -> tuple[Cell, ...]:
        """The row in the order of CUSTOMER_HEADERS."""
        return (
            self.customer_id,
            self.first_name,
            self.last_name,
            self.age,
            self.phone_number,
            self.monthly_salary_rupees,
            self.approved_limit_rupees,
        )


@dataclass(frozen=True, slots=True)
class SampleLoan:
    """A row of the loan workbook. Money in whole rupees, rate in basis points a year."""

    customer_id: int
    loan_id: int
    principal_rupees: int
    tenure_months: int
    annual_rate_bps: int
    installment_rupees: int
    emis_paid_on_time: int
    start_date: date

    @property
    def end_date(self) -> date:
        """Due date of the last installment."""
        return add_months(self.start_date, self.tenure_months)

    def cells(self) -> tuple[Cell, ...]:
        """The row in the order of LOAN_HEADERS; a whole rate is an integer, another a float."""
        bps = self.annual_rate_bps
        return (
            self.customer_id,
            self.loan_id,
            self.principal_rupees,
            self.tenure_months,
            bps // 100 if bps % 100 == 0 else bps / 100,
            self.installment_rupees,
            self.emis_paid_on_time,
            self.start_date,
            self.end_date,
        )


_FIRST_NAMES = (
    "Aarav Aditi Ananya Arjun Bhavna Chirag Deepa Dev Esha Farhan Gauri Harish Isha Jatin Kavya "
    "Kiran Lakshmi Manoj Meera Nikhil Omkar Pooja Rahul Ritu Sana Tara Uday Varun Yamini Zoya"
)
_LAST_NAMES = (
    "Agarwal Bhat Chauhan Das Fernandes Gupta Iyer Jain Khan Kulkarni Mehta Menon Naidu Patil "
    "Pillai Rao Reddy Saxena Sharma Shetty Singh Thomas Tiwari Varma Yadav"
)

# Of each featured customer: (loan id, months since its end, principal in rupees, tenure,
# EMIs paid on time). Closed for years: neither the day nor the year of the import moves a score.
_CLOSED_LOANS: dict[int, tuple[tuple[int, int, int, int, int], ...]] = {
    # 120/120 on time, 12 lakh, 6 loans: 35 + 25 + 12 = 72, before the active loan below.
    GOOD_CUSTOMER_ID: (
        (1001, 30, 100_000, 12, 12),
        (1002, 34, 150_000, 18, 18),
        (SHARED_LOAN_ID, 40, 200_000, 24, 24),
        (1004, 50, 350_000, 36, 36),
        (1005, 70, 200_000, 18, 18),
        (1006, 90, 200_000, 12, 12),
    ),
    # 2/24 on time, 50,000, 1 loan: 2.92 + 1.25 + 2 = 6.17.
    BAD_CUSTOMER_ID: ((1010, 30, 50_000, 24, 2),),
    # 9/30 on time, 2 lakh, 2 loans: 10.50 + 5 + 4 = 19.50.
    LOW_BAND_CUSTOMER_ID: ((1012, 30, 100_000, 18, 5), (1013, 48, 100_000, 12, 4)),
    # 42/60 on time, 4 lakh, 3 loans: 24.50 + 10 + 6 = 40.50.
    MIDDLE_BAND_CUSTOMER_ID: (
        (SHARED_LOAN_ID, 30, 100_000, 18, 12),
        (1014, 44, 100_000, 18, 12),
        (1015, 60, 200_000, 24, 18),
    ),
}
# The same with months since the start: these are still being paid.
_ACTIVE_LOANS: dict[int, tuple[int, int, int, int, int]] = {
    GOOD_CUSTOMER_ID: (1007, 10, 200_000, 60, 10),
    OVER_LIMIT_CUSTOMER_ID: (1011, 12, 1_000_000, 180, 12),
}
# 25,000 a month give customer 103 a limit of 9 lakh, less than the 10 lakh owed.
_FEATURED_SALARIES = {
    GOOD_CUSTOMER_ID: 150_000,
    BAD_CUSTOMER_ID: 60_000,
    OVER_LIMIT_CUSTOMER_ID: 25_000,
    LOW_BAND_CUSTOMER_ID: 90_000,
    MIDDLE_BAND_CUSTOMER_ID: 90_000,
    NO_HISTORY_CUSTOMER_ID: 80_000,
}


def sample_customers(customers: int, seed: int) -> Iterator[SampleCustomer]:
    """`customers` rows by rising id: 1, 2, 3 … with 101 to 106 always among them.

    Raises ValueError unless `customers` is MIN_CUSTOMERS to MAX_CUSTOMERS.
    """
    chance = _Chance(f"{seed}/customers")
    first_names, last_names = _FIRST_NAMES.split(), _LAST_NAMES.split()
    first_phone = chance.between(0, _PHONES - 1)
    for number, customer_id in enumerate(_customer_ids(customers)):
        salary = _FEATURED_SALARIES.get(customer_id) or 1000 * chance.between(20, 300)
        limit = approved_limit_paise(salary * RUPEE_PAISE)
        if customer_id not in _FEATURED_SALARIES:
            # Sources have limits of their own; most are not what the rule would give.
            lakhs = limit * chance.between(40, 100) // (100 * LAKH_PAISE)
            limit = max(1, lakhs) * LAKH_PAISE
        yield SampleCustomer(
            customer_id,
            chance.of(first_names),
            chance.of(last_names),
            chance.between(21, 68),
            7_000_000_000 + (first_phone + number * _PHONE_STEP) % _PHONES,
            salary,
            limit // RUPEE_PAISE,
        )


def sample_loans(
    customers: int, loans: int, seed: int, today: date, *, first_loan_id: int = 2001
) -> Iterator[SampleLoan]:
    """`loans` rows for the customers of `sample_customers(customers, …)`, the featured ones first.

    About one loan in thirty has an id that a loan of another customer has too. None starts after
    `today`. The ids of loans that are not featured begin at `first_loan_id`.
    Raises ValueError unless `loans` is MIN_LOANS to MAX_LOANS, and `customers` as above.
    """
    check_sizes(customers, loans)
    others = [each for each in _customer_ids(customers) if each not in _FEATURED_SALARIES]
    featured = featured_loans(today)
    yield from featured
    yield from further_loans(others, loans - len(featured), seed, today, first_loan_id)


def further_loans(
    customer_ids: Sequence[int], loans: int, seed: int, today: date, first_loan_id: int
) -> Iterator[SampleLoan]:
    """`loans` loans of any of `customer_ids`, with rising ids from `first_loan_id`."""
    chance = _Chance(f"{seed}/loans/{first_loan_id}")
    loan_ids = count(first_loan_id)
    last_customer_id, loan_id = 0, 0
    for _ in range(loans):
        customer_id = chance.of(customer_ids)
        if loan_id and customer_id != last_customer_id and chance.between(1, 30) == 1:
            shared_id, loan_id = loan_id, 0
        else:
            shared_id = loan_id = next(loan_ids)
        last_customer_id = customer_id
        tenure_months = chance.between(3, 180)
        start = today - timedelta(days=chance.between(0, 12 * 365))
        due = installments_due_by(start, tenure_months, today)
        whole_rate = chance.between(1, 4) == 1
        yield _loan(
            customer_id,
            shared_id,
            100_000 * chance.between(1, 10),
            tenure_months,
            100 * chance.between(8, 18) if whole_rate else chance.between(800, 1800),
            due * chance.between(40, 100) // 100,
            start,
        )


def featured_loans(today: date) -> list[SampleLoan]:
    """The loans of the featured customers."""
    closed = [
        _loan(customer_id, loan_id, principal, tenure, 1200, on_time, _ago(today, ended + tenure))
        for customer_id, loans in _CLOSED_LOANS.items()
        for loan_id, ended, principal, tenure, on_time in loans
    ]
    active = [
        _loan(customer_id, loan_id, principal, tenure, 1050, on_time, _ago(today, started))
        for customer_id, (loan_id, started, principal, tenure, on_time) in _ACTIVE_LOANS.items()
    ]
    return closed + active


@dataclass(frozen=True, slots=True)
class Samples:
    """Where the two workbooks are and how many rows each holds."""

    customer_path: Path
    loan_path: Path
    customers: int
    loans: int


def write_samples(
    directory: Path, *, customers: int, loans: int, seed: int, today: date
) -> Samples:
    """Write customer_data.xlsx and loan_data.xlsx into `directory`, which is made when absent.

    Raises ValueError for numbers out of range and OSError where the folder cannot be written.
    """
    check_sizes(customers, loans)
    directory.mkdir(parents=True, exist_ok=True)
    samples = Samples(
        directory / "customer_data.xlsx", directory / "loan_data.xlsx", customers, loans
    )
    customer_rows = (row.cells() for row in sample_customers(customers, seed))
    write_workbook(samples.customer_path, CUSTOMER_HEADERS, customer_rows)
    loan_rows = (row.cells() for row in sample_loans(customers, loans, seed, today))
    write_workbook(samples.loan_path, LOAN_HEADERS, loan_rows)
    return samples


def check_sizes(customers: int, loans: int) -> None:
    """Raise ValueError unless workbooks of these sizes can be made."""
    for name, size, low, high in (
        ("customers", customers, MIN_CUSTOMERS, MAX_CUSTOMERS),
        ("loans", loans, MIN_LOANS, MAX_LOANS),
    ):
        if not low <= size <= high:
            raise ValueError(f"{name} must be {low:,} to {high:,}, found {size:,}")


def write_workbook(path: Path, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write one sheet of numbers, text and dates as .xlsx, the header in its first row."""
    # Importing openpyxl takes 0.3 s, which other commands save.
    from credit_service.spreadsheets.workbook_writer import write_table  # noqa: PLC0415

    with path.open("wb") as file:
        write_table(file, headers, rows)


def _customer_ids(customers: int) -> Iterator[int]:
    check_sizes(customers, MIN_LOANS)
    featured = sorted(_FEATURED_SALARIES)
    if customers >= featured[-1]:
        return iter(range(1, customers + 1))
    return chain(range(1, customers - len(featured) + 1), featured)


def _loan(
    customer_id: int,
    loan_id: int,
    principal_rupees: int,
    tenure_months: int,
    annual_rate_bps: int,
    emis_paid_on_time: int,
    start_date: date,
) -> SampleLoan:
    # The source's own figure: interest on half the principal over the tenure, rounded up.
    interest_rupees = principal_rupees * annual_rate_bps * tenure_months // 240_000
    return SampleLoan(
        customer_id,
        loan_id,
        principal_rupees,
        tenure_months,
        annual_rate_bps,
        -(-(principal_rupees + interest_rupees) // tenure_months),
        emis_paid_on_time,
        start_date,
    )


def _ago(today: date, months: int) -> date:
    # On the 15th at the latest, so that every month has the day.
    years, month_index = divmod(today.year * 12 + today.month - 1 - months, 12)
    return date(years, month_index + 1, min(today.day, 15))


class _Chance:
    """Made-up values that are the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - samples, no secret

    def between(self, low: int, high: int) -> int:
        return low + int(self._random() * (high - low + 1))

    def of(self, values: Sequence[T]) -> T:
        return values[int(self._random() * len(values))]


_PHONES = 1_000_000_000
# Prime to _PHONES, so that no two customers of a file share a number.
_PHONE_STEP = 618_033_989

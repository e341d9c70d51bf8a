"""Who is past due: the arrears of a customer, and the overdue loans of all customers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from credit_service.clock import Moment
from credit_service.domain import delinquency
from credit_service.domain.as_of import UnknownFact
from credit_service.domain.calendar import installments_due_by
from credit_service.domain.delinquency import AssetClass, Delinquency, Settlements, first_unpaid_due
from credit_service.domain.errors import NotFoundError
from credit_service.domain.loans import Loan
from credit_service.domain.payments import paid_in_all_paise
from credit_service.domain.schedules import repayment_plan
from credit_service.queries.as_of import credit_of
from credit_service.storage import arrears, customers, overdue_loans
from credit_service.storage.database import Database
from credit_service.storage.overdue_loans import PageStart


@dataclass(frozen=True, slots=True)
class OverdueLoan:
    """A loan that is past due at the end of a day, with the class of its borrower.

    `installments` are due and not paid in full; `overdue_paise` is what is unpaid of them.
    """

    loan: Loan
    asset_class: AssetClass
    days_past_due: int
    oldest_due_date: date
    installments: int
    overdue_paise: int


@dataclass(frozen=True, slots=True)
class CustomerDelinquency:
    """The arrears of a customer at the end of `day`, and the overdue loans, the worst first.

    `known_from` is the latest `arrears_known_from` of the loans that are not closed, None if the
    arrears of all are known; `unknown` is what is not known about an earlier day.
    """

    customer_id: int
    day: date
    delinquency: Delinquency
    loans: Sequence[OverdueLoan]
    known_from: date | None
    unknown: Sequence[UnknownFact] = ()


@dataclass(frozen=True, slots=True)
class OverdueLoans:
    """A page of overdue loans, and where the next one starts; None after the last one."""

    loans: Sequence[OverdueLoan]
    following: PageStart | None


def get_delinquency(database: Database, customer_id: int, day: date) -> CustomerDelinquency:
    """Return the customer's arrears at the end of `day`, on or after the days of all payments.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        if customers.find(connection, customer_id) is None:
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
        facts = arrears.facts(connection, [customer_id])[customer_id]
    open_loans = [each for each in facts.loans if each.closed_on is None]
    known_from = delinquency.all_arrears_known_from(open_loans)
    return _delinquency(customer_id, facts.loans, facts.settlements, day, known_from)


def delinquency_as_of(
    database: Database, customer_id: int, day: date, moment: Moment
) -> CustomerDelinquency:
    """Return the customer's arrears at the end of `day`, today or earlier, by what is known now.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
        RetryLaterError: concurrent calls kept changing the customer.
    """
    credit = credit_of(database, customer_id, day, moment)
    return _delinquency(
        customer_id,
        credit.loans,
        credit.settlements,
        day,
        credit.arrears_known_from,
        credit.unknown,
    )


def _delinquency(
    customer_id: int,
    loans: Sequence[Loan],
    settlements: Settlements,
    day: date,
    known_from: date | None,
    unknown: Sequence[UnknownFact] = (),
) -> CustomerDelinquency:
    found = delinquency.delinquency(loans, settlements, day)
    overdue = [
        _overdue(each, found.asset_class, due, day)
        for each in loans
        if (due := first_unpaid_due(each)) is not None and due <= day
    ]
    overdue.sort(key=lambda each: (each.oldest_due_date, each.loan.loan_id))
    return CustomerDelinquency(customer_id, day, found, overdue, known_from, unknown)


def list_overdue_loans(
    database: Database,
    asset_class: AssetClass | None,
    min_days_past_due: int,
    start: PageStart | None,
    limit: int,
    day: date,
) -> OverdueLoans:
    """Return loans with `min_days_past_due` or more at the end of `day`, at most `limit`, those
    with most days first; with `asset_class`, of borrowers of that class, by their worst loan."""
    latest_due = day - timedelta(days=max(min_days_past_due, 1) - 1)
    with database.autocommit() as connection:
        page = overdue_loans.page(connection, asset_class, latest_due, start, limit, day)
    loans = [
        _overdue(each.loan, each.asset_class, each.first_unpaid_due, day) for each in page.loans
    ]
    return OverdueLoans(loans, page.following)


def _overdue(loan: Loan, asset_class: AssetClass, due: date, day: date) -> OverdueLoan:
    plan = repayment_plan(loan)
    due_count = installments_due_by(loan.start_date, loan.tenure_months, day)
    return OverdueLoan(
        loan=loan,
        asset_class=asset_class,
        days_past_due=(day - due).days + 1,
        oldest_due_date=due,
        installments=due_count - loan.installments_settled,
        overdue_paise=max(plan.first_paise(due_count) - paid_in_all_paise(loan), 0),
    )

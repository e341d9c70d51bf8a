"""Look up loans and their schedules."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from credit_service.clock import Moment
from credit_service.domain.errors import NotFoundError, PreconditionFailedError
from credit_service.domain.loan_replay import LoanAccount
from credit_service.domain.loans import Loan, LoanState, unknown_loan
from credit_service.domain.payments import InstallmentProgress, installment_states, paid_in_full
from credit_service.domain.schedules import ScheduledInstallment, schedule
from credit_service.storage import cluster, customers, loans, loans_with_customers, payments
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database

_MOST_HOLDERS_NAMED = 20


@dataclass(frozen=True, slots=True)
class RepaymentSchedule:
    """A loan, its installments, and the progress of each.

    `settled_on` maps the number of each installment that payments settled to its day.
    `prepaid_principal_paise` is what prepayments repaid in addition to the installments.
    """

    loan: Loan
    installments: Sequence[ScheduledInstallment]
    progress: Sequence[InstallmentProgress]
    settled_on: Mapping[int, date]
    prepaid_principal_paise: int = 0


def get_loan(
    database: Database, loan_id: int, customer_id: int | None, day: date | None = None
) -> tuple[Loan, CustomerView]:
    """Return the loan and its customer; `customer_id` is optional if only one customer has the id.

    With `day`, held credit and arrears are those of the day, otherwise as stored.

    Raises:
        NotFoundError: LOAN_NOT_FOUND.
        PreconditionFailedError: LOAN_ID_AMBIGUOUS; the metadata names the customers.
    """
    with database.autocommit() as connection:
        found = loans_with_customers.of_id(
            connection, loan_id, customer_id, _MOST_HOLDERS_NAMED + 1
        )
        if len(found) == 1:
            loan, view = found[0]
            if day is not None:
                view = customers.with_current_figures(connection, [view], day)[0]
            return loan, view
    if not found:
        raise _no_loan(loan_id, customer_id)
    raise _ambiguous(loan_id, [str(view.customer.customer_id) for _, view in found])


def get_loans(
    database: Database, keys: Collection[tuple[int, int]], day: date
) -> dict[tuple[int, int], tuple[Loan, CustomerView]]:
    """Return what `get_loan` does for these keys, a customer's id and a loan's, by key.

    Left out are unknown loans and customers whose figures of the day take another statement; all
    are on a cluster, where one statement would ask every node.
    """
    with database.autocommit() as connection:
        if cluster.is_distributed(connection):
            return {}
        found = loans_with_customers.of_keys(connection, keys)
    return {
        (loan.customer_id, loan.loan_id): (loan, view)
        for loan, view in found
        if customers.is_current(view, day)
    }


def _ambiguous(loan_id: int, holders: list[str]) -> PreconditionFailedError:
    named = holders[:_MOST_HOLDERS_NAMED]
    more = " and more" if len(holders) > _MOST_HOLDERS_NAMED else ""
    return PreconditionFailedError(
        "LOAN_ID_AMBIGUOUS",
        f"Loan id {loan_id} is shared by customers {', '.join(named)}{more}; send customer_id too.",
        subject=f"loans/{loan_id}",
        metadata={"loan_id": str(loan_id), "customer_ids": ",".join(named)},
    )


def _no_loan(loan_id: int, customer_id: int | None) -> NotFoundError:
    if customer_id is None:
        return NotFoundError("LOAN_NOT_FOUND", "loan", str(loan_id))
    return unknown_loan(customer_id, loan_id)


def list_loans(
    database: Database, customer_id: int, state: LoanState | None, after: int | None, limit: int
) -> list[Loan]:
    """Return the customer's loans with ids above `after`, in order of id.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
    """
    with database.autocommit() as connection:
        found = loans.page(connection, customer_id, state, after or 0, limit)
        if not found and customers.find(connection, customer_id) is None:
            raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    return found


def repayment_schedule(
    database: Database, customer_id: int, loan_id: int, moment: Moment
) -> RepaymentSchedule:
    """Return the loan's installments and their state today.

    Raises:
        NotFoundError: LOAN_NOT_FOUND.
    """
    with database.autocommit() as connection:
        loan = loans.find(connection, customer_id, loan_id)
        if loan is None:
            raise _no_loan(loan_id, customer_id)
        if loan.on_time_at_import is not None:
            # What a payment settled when it was recorded may have changed since.
            history = payments.history(connection, customer_id, loan_id)
            assert history is not None  # noqa: S101 - loans are never deleted while they have payments
            return _replayed(history.account(), moment.today)
        # Read after the loan: a payment in between only adds an unused day.
        settled_on = (
            payments.settlement_days(connection, customer_id, loan_id) if loan.paid_paise else {}
        )
    progress = installment_states(loan, moment.today)
    return RepaymentSchedule(loan, schedule(loan).installments, progress, settled_on)


def _replayed(account: LoanAccount, today: date) -> RepaymentSchedule:
    """Return the schedule of a loan that was computed from all its payments."""
    settled_on = {
        number: applied.fact.paid_on
        for applied in account.applied
        for number in applied.settled_numbers
    }
    return RepaymentSchedule(
        account.loan,
        account.installments,
        [*map(paid_in_full, account.past_installments), *installment_states(account.loan, today)],
        settled_on,
        account.prepaid_principal_paise,
    )

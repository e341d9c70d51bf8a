"""Loans: what a customer asks for, what is granted, and the loan with its payments' sums."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.charges import Charge
from credit_service.domain.errors import NotFoundError
from credit_service.domain.money import CRORE_PAISE

MAX_PRINCIPAL_PAISE = 100 * CRORE_PAISE
MIN_TENURE_MONTHS = 1
MAX_TENURE_MONTHS = 480
MAX_ANNUAL_RATE_BPS = 10_000


@dataclass(frozen=True, slots=True)
class Ask:
    """The loan that a customer requests, at the requested rate."""

    principal_paise: int
    annual_rate_bps: int
    tenure_months: int


@dataclass(frozen=True, slots=True)
class LoanTerms:
    """The terms of a granted loan, at the corrected rate."""

    principal_paise: int
    annual_rate_bps: int
    tenure_months: int


class LoanState(StrEnum):
    """ACTIVE until every installment is settled."""

    ACTIVE = "ACTIVE"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class ScheduleRevision:
    """The schedule of a loan since its last prepayment or foreclosure, and the agreed terms.

    After installment `after_number`, `balance_paise` of the principal is owed. The interest of the
    next installment is `next_interest_paise`. Of all that was paid, including what the import
    treated as settled, `paid_paise` belongs to the installments up to `after_number` and to prepaid
    principal; the rest is credited to later installments.
    """

    agreed_tenure_months: int
    agreed_installment_paise: int
    after_number: int
    balance_paise: int
    next_interest_paise: int
    paid_paise: int


@dataclass(frozen=True, slots=True)
class Loan:
    """A loan with the sums of its payments.

    `tenure_months`, `installment_paise` and `end_date` are the current ones: a prepayment or a
    foreclosure changes them, and `revision` then has the agreed ones. It is None for a loan whose
    schedule is the agreed one.

    `settled_at_import` counts the installments that the import treated as settled (0 for a loan
    booked here); `installments_settled` includes them; `paid_paise` sums only the payments recorded
    here, without prepayment charges. `on_time_at_import` counts the EMIs that the import says were
    paid on time; None where no write has stored it yet. `decision_id` is None for an imported loan,
    and `charges` is empty, because they are not known.
    """

    customer_id: int
    loan_id: int
    principal_paise: int
    annual_rate_bps: int
    tenure_months: int
    installment_paise: int
    start_date: date
    end_date: date
    imported: bool
    decision_id: int | None
    settled_at_import: int
    emis_paid_on_time: int
    installments_settled: int
    paid_paise: int
    last_paid_on: date | None
    closed_on: date | None
    on_time_at_import: int | None = None
    revision: ScheduleRevision | None = None
    charges: tuple[Charge, ...] = ()
    # Whether the source of an imported loan gave its settled installments, and so its arrears.
    arrears_imported: bool = False

    @property
    def agreed_tenure_months(self) -> int:
        """The tenure at the start, in months: 1 … 480."""
        return self.tenure_months if self.revision is None else self.revision.agreed_tenure_months

    @property
    def agreed_installment_paise(self) -> int:
        """The monthly installment at the start."""
        if self.revision is None:
            return self.installment_paise
        return self.revision.agreed_installment_paise

    @property
    def state(self) -> LoanState:
        """CLOSED once every installment is settled."""
        return LoanState.ACTIVE if self.closed_on is None else LoanState.CLOSED

    @property
    def repayments_left(self) -> int:
        """Installments not settled yet: 0 … tenure."""
        return self.tenure_months - self.installments_settled


def unknown_loan(customer_id: int, loan_id: int) -> NotFoundError:
    """LOAN_NOT_FOUND: the customer has no loan with that id."""
    return NotFoundError(
        "LOAN_NOT_FOUND",
        "loan",
        f"customers/{customer_id}/loans/{loan_id}",
        f"There is no loan {loan_id} of customer {customer_id}.",
        {"loan_id": str(loan_id), "customer_id": str(customer_id)},
    )


def imported_settled(
    emis_paid_on_time: int, start_date: date, tenure_months: int, import_day: date
) -> tuple[int, date | None]:
    """(installments settled, closed_on) of a loan imported on `import_day` from a source that does
    not give the number of settled installments.

    It has no arrears: all installments due by then count as settled, and so do those paid ahead of
    their due date. With all settled, the loan closes on min(end date, import day).

    `ingestion.loan_days` computes the same for whole columns; tests compare the two.
    """
    due = installments_due_by(start_date, tenure_months, import_day)
    settled = min(max(emis_paid_on_time, due), tenure_months)
    if settled < tenure_months:
        return settled, None
    return settled, min(add_months(start_date, tenure_months), import_day)


def book(
    terms: LoanTerms,
    installment: int,
    loan_id: int,
    customer_id: int,
    day: date,
    decision_id: int,
    charges: tuple[Charge, ...] = (),
) -> Loan:
    """The loan that an approval on `day` books: it starts that day with nothing settled."""
    return Loan(
        customer_id=customer_id,
        loan_id=loan_id,
        principal_paise=terms.principal_paise,
        annual_rate_bps=terms.annual_rate_bps,
        tenure_months=terms.tenure_months,
        installment_paise=installment,
        start_date=day,
        end_date=add_months(day, terms.tenure_months),
        imported=False,
        decision_id=decision_id,
        settled_at_import=0,
        emis_paid_on_time=0,
        installments_settled=0,
        paid_paise=0,
        last_paid_on=None,
        closed_on=None,
        charges=charges,
    )

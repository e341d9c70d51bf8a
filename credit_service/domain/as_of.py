"""A customer's credit as of an earlier day: what the service would have said at the end of that day
by what it knows now.

A function of facts alone. Loans count from their start dates, payments from the days on which they
were made, offers on the days on which they held credit. Reversed payments count on no day.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from credit_service.domain.calendar import installments_due_by
from credit_service.domain.customers import Customer
from credit_service.domain.delinquency import (
    Settlement,
    Settlements,
    all_arrears_known_from,
    arrears,
)
from credit_service.domain.errors import OUT_OF_RANGE, FieldViolation, InvalidFieldsError
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan
from credit_service.domain.policy_facts import PolicyFacts, policy_facts
from credit_service.domain.positions import CreditPosition, Hold, position_from_loans


class UnknownFact(StrEnum):
    """What is not known about an earlier day and affects an answer."""

    IMPORTED_PAYMENTS = "IMPORTED_PAYMENTS"
    """A loan was imported after the day: which EMIs were paid on time, and its arrears."""
    CUSTOMER = "CUSTOMER"
    """The customer was stored after the day: income, limit and the other facts."""


@dataclass(frozen=True, slots=True)
class LoanHistory:
    """A loan as it is now, its payments without the reversed ones, and the day of its import; None
    for a loan booked here, or if the day is not known.

    If an imported loan has payments, `on_time_at_import` must be set.
    """

    loan: Loan
    payments: Sequence[PaymentFact]
    imported_on: date | None


@dataclass(frozen=True, slots=True)
class HoldHistory:
    """The hold of an offer from `held_from` on, until the day before `released_on`; None while it
    is not released. It ends with its last day in any case."""

    hold: Hold
    held_from: date
    released_on: date | None

    def is_held_on(self, day: date) -> bool:
        """Whether the offer holds credit at the end of `day`."""
        return self.held_from <= day and (self.released_on is None or day < self.released_on)


@dataclass(frozen=True, slots=True)
class FactChange:
    """A change of one of the customer's facts: its name in `Customer`, and the value before."""

    fact: str
    old_value: str
    changed_on: date


@dataclass(frozen=True, slots=True)
class CustomerHistory:
    """All facts of a customer: as they are now, and what changed them, in order of time."""

    customer: Customer
    stored_on: date
    loans: Sequence[LoanHistory]
    holds: Sequence[HoldHistory]
    changes: Sequence[FactChange]


@dataclass(frozen=True, slots=True)
class CreditAsOf:
    """The customer and the position at the end of a day, with the facts of a policy."""

    day: date
    customer: Customer
    position: CreditPosition
    facts: PolicyFacts
    unknown: tuple[UnknownFact, ...]
    # As they were, and what had settled their installments.
    loans: Sequence[Loan]
    settlements: Settlements
    # Of the loans that were not closed, by their imports.
    arrears_known_from: date | None


def require_past_or_today(day: date, today: date) -> None:
    """Raise InvalidFieldsError with AS_OF_OUT_OF_RANGE for a day after today."""
    if day > today:
        message = f"as_of must be today, {today}, or an earlier day, found {day}."
        raise InvalidFieldsError(
            [FieldViolation("as_of", OUT_OF_RANGE, message)], "AS_OF_OUT_OF_RANGE"
        )


def credit_as_of(history: CustomerHistory, day: date) -> CreditAsOf:
    """The customer's credit at the end of `day`. As of today it is the current one."""
    customer = _customer_as_of(history, day)
    begun = [each for each in history.loans if each.loan.start_date <= day]
    loans: list[Loan] = []
    open_loans: list[Loan] = []
    settlements: dict[int, Sequence[Settlement]] = {}
    for each in begun:
        account = replay(_at_import(each, day), each.payments, until=day)
        loans.append(account.loan)
        settlements[account.loan.loan_id] = account.settlements
        if account.loan.closed_on is None:
            open_loans.append(each.loan)
    known = arrears(loans, settlements, day)
    position = position_from_loans(
        customer.customer_id,
        customer.version,
        customer.monthly_income_paise,
        customer.approved_limit_paise,
        loans,
        day,
        [each.hold for each in history.holds if each.is_held_on(day)],
        known,
    )
    unknown = []
    if any(_is_before_import(each, day) for each in begun):
        unknown.append(UnknownFact.IMPORTED_PAYMENTS)
    if day < history.stored_on:
        unknown.append(UnknownFact.CUSTOMER)
    facts = policy_facts(loans, known, customer.age, min(history.stored_on, day), day)
    return CreditAsOf(
        day,
        customer,
        position,
        facts,
        tuple(unknown),
        loans,
        settlements,
        all_arrears_known_from(open_loans),
    )


_READ: Mapping[str, Callable[[str], str | int]] = {
    "first_name": str,
    "last_name": str,
    "age": int,
    "monthly_income_paise": int,
    "phone_number": str,
    "approved_limit_paise": int,
    "limit_set": lambda text: text == "true",
}
"""The facts that change, each with a reader of its stored value."""


def _customer_as_of(history: CustomerHistory, day: date) -> Customer:
    """The customer with the facts at the end of `day`: the first change of each fact after it has
    the value before."""
    then: dict[str, int | str] = {}
    for change in history.changes:
        if change.changed_on > day and change.fact in _READ:
            then.setdefault(change.fact, _READ[change.fact](change.old_value))
    return replace(history.customer, **then)  # type: ignore[arg-type]  # each of its own type


def _is_before_import(history: LoanHistory, day: date) -> bool:
    loan, imported_on = history.loan, history.imported_on
    if imported_on is None and loan.settled_at_import == loan.agreed_tenure_months:
        # The import closed it, on that day or later.
        imported_on = loan.closed_on
    return loan.imported and imported_on is not None and day < imported_on


def _at_import(history: LoanHistory, day: date) -> Loan:
    """The loan with what an import on `day` or earlier says of it.

    Before the import, the installments due by `day` count as settled, because imports have no
    arrears, and the first of them as paid on time.
    """
    loan = history.loan
    if not _is_before_import(history, day):
        return loan
    due = installments_due_by(loan.start_date, loan.agreed_tenure_months, day)
    settled = min(loan.settled_at_import, due)
    on_time = loan.emis_paid_on_time if loan.on_time_at_import is None else loan.on_time_at_import
    closed_on = loan.closed_on if settled == loan.agreed_tenure_months else None
    return replace(
        loan,
        settled_at_import=settled,
        on_time_at_import=min(on_time, settled),
        closed_on=closed_on,
    )

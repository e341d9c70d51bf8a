"""The credit position: sums over a customer's loans and holds, for scores and decisions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.delinquency import Arrears, with_loan_due
from credit_service.domain.loans import Loan, LoanState, LoanTerms


@dataclass(frozen=True, slots=True)
class Hold:
    """The credit that an OPEN offer holds, up to and including `last_day`."""

    offer_id: int
    principal_paise: int
    installment_paise: int
    last_day: date

    @property
    def valid_until(self) -> date:
        """The first day on which no decision counts the hold."""
        return self.last_day + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CreditPosition:
    """Sums over a customer's loans and holds, valid on every day of [as_of, valid_until).

    `current_debt_paise` (summed principal) and `current_installments_paise` cover ACTIVE loans;
    `loan_count` and `total_principal_paise` cover all loans ever taken. `emis_due` is Σ d_k with
    d_k = max(installments due, EMIs paid on time), so `emis_on_time` ≤ `emis_due`.
    `current_year_loans` counts loans opened or active at any time in the calendar year.
    `valid_until` is the first day on which a figure may change without a new event.
    `held_principal_paise` and `held_installments_paise` cover the OPEN offers whose last day has
    not passed: they count against the approved limit and the income share, not in the score.
    `arrears` hold on every day until the next event; None where the facts must be read for them.
    """

    customer_id: int
    version: int
    monthly_income_paise: int
    approved_limit_paise: int
    current_debt_paise: int
    current_installments_paise: int
    loan_count: int
    total_principal_paise: int
    emis_on_time: int
    emis_due: int
    current_year_loans: int
    as_of: date
    valid_until: date
    held_principal_paise: int = 0
    held_installments_paise: int = 0
    arrears: Arrears | None = None


def position_from_loans(
    customer_id: int,
    version: int,
    monthly_income_paise: int,
    approved_limit_paise: int,
    loans: Iterable[Loan],
    day: date,
    holds: Iterable[Hold] = (),
    arrears: Arrears | None = None,
) -> CreditPosition:
    """The position on `day`, computed from all the customer's loans and the holds of OPEN offers.

    A loan counts for the year of `day` when its start date's year is that year or earlier and it
    had not closed before that year began. A hold whose last day is before `day` does not count.
    """
    debt = installments = count = total = on_time = due = this_year = 0
    valid_until = date(day.year + 1, 1, 1)
    for loan in loans:
        count += 1
        total += loan.principal_paise
        if loan.state is LoanState.ACTIVE:
            debt += loan.principal_paise
            installments += loan.installment_paise
        due_by_day = installments_due_by(loan.start_date, loan.tenure_months, day)
        on_time += loan.emis_paid_on_time
        due += max(due_by_day, loan.emis_paid_on_time)
        if loan.start_date.year <= day.year and (
            loan.closed_on is None or loan.closed_on.year >= day.year
        ):
            this_year += 1
        change = _next_change(loan, due_by_day)
        if change is not None and change < valid_until:
            valid_until = change
    held = held_installments = 0
    for hold in holds:
        if hold.last_day >= day:
            held += hold.principal_paise
            held_installments += hold.installment_paise
            valid_until = min(valid_until, hold.valid_until)
    return CreditPosition(
        customer_id=customer_id,
        version=version,
        monthly_income_paise=monthly_income_paise,
        approved_limit_paise=approved_limit_paise,
        current_debt_paise=debt,
        current_installments_paise=installments,
        loan_count=count,
        total_principal_paise=total,
        emis_on_time=on_time,
        emis_due=due,
        current_year_loans=this_year,
        as_of=day,
        valid_until=valid_until,
        held_principal_paise=held,
        held_installments_paise=held_installments,
        arrears=arrears,
    )


def _next_change(loan: Loan, due_by_day: int) -> date | None:
    """The loan's next due date that ends the validity of a position; None when none is left.

    For an ACTIVE loan every due date does. A CLOSED loan matters only when it was repaid ahead of
    its schedule after late installments: its d_k stays at the EMIs paid on time until more
    installments than that are due, and grows with each due date from there.
    """
    number = due_by_day + 1
    if loan.state is LoanState.CLOSED:
        number = max(number, loan.emis_paid_on_time + 1)
    return add_months(loan.start_date, number) if number <= loan.tenure_months else None


def is_valid_on(position: CreditPosition, day: date) -> bool:
    """Whether the position is valid on `day`."""
    return position.as_of <= day < position.valid_until


def with_booking(
    position: CreditPosition, terms: LoanTerms, installment: int, day: date
) -> CreditPosition:
    """The position after a loan is booked on `day`: the next version, equal to one computed from
    all loans.

    Raises ValueError when the position is not valid on `day`.
    """
    require_valid_on(position, day)
    first_due = add_months(day, 1 if installment > 0 else terms.tenure_months)
    return CreditPosition(
        customer_id=position.customer_id,
        version=position.version + 1,
        monthly_income_paise=position.monthly_income_paise,
        approved_limit_paise=position.approved_limit_paise,
        current_debt_paise=position.current_debt_paise + terms.principal_paise,
        current_installments_paise=position.current_installments_paise + installment,
        loan_count=position.loan_count + 1,
        total_principal_paise=position.total_principal_paise + terms.principal_paise,
        emis_on_time=position.emis_on_time,
        emis_due=position.emis_due,
        current_year_loans=position.current_year_loans + 1,
        as_of=day,
        valid_until=min(position.valid_until, add_months(day, 1)),
        held_principal_paise=position.held_principal_paise,
        held_installments_paise=position.held_installments_paise,
        arrears=None
        if position.arrears is None
        else with_loan_due(position.arrears, first_due, day),
    )


def with_hold(position: CreditPosition, hold: Hold, day: date) -> CreditPosition:
    """The position after an offer holds credit from `day` on: the next version, equal to one
    computed from all loans and holds.

    Raises ValueError when the position is not valid on `day`.
    """
    require_valid_on(position, day)
    return replace(
        position,
        version=position.version + 1,
        as_of=day,
        valid_until=min(position.valid_until, hold.valid_until),
        held_principal_paise=position.held_principal_paise + hold.principal_paise,
        held_installments_paise=position.held_installments_paise + hold.installment_paise,
    )


def with_payment(
    position: CreditPosition, before: Loan, after: Loan, day: date
) -> CreditPosition | None:
    """The position after a payment on `day` changed the loan from `before` to `after`: the next
    version, equal to one computed from all loans, its arrears left unknown. None where the other
    loans must be read.

    They must be read where `valid_until` was the next due date of this loan, which is closed now:
    the next change of the others is not known. Raises ValueError when the position is not valid on
    `day`.
    """
    require_valid_on(position, day)
    old, new = _loan_position(position, before, day), _loan_position(position, after, day)
    if old.valid_until <= position.valid_until < new.valid_until:
        return None
    others = replace(
        position,
        **{name: getattr(position, name) - getattr(old, name) for name in _SUMS},
    )
    return with_loan(others, after, day)


def with_loan(others: CreditPosition, loan: Loan, day: date) -> CreditPosition:
    """The position on `day` of other loans and this one: the next version, equal to one computed
    from all of them. Its arrears are left unknown. Raises ValueError when that of the others is not
    valid on `day`."""
    require_valid_on(others, day)
    own = _loan_position(others, loan, day)
    return replace(
        others,
        version=others.version + 1,
        as_of=day,
        valid_until=min(others.valid_until, own.valid_until),
        arrears=None,
        **{name: getattr(others, name) + getattr(own, name) for name in _SUMS},
    )


_SUMS = (
    "current_debt_paise",
    "current_installments_paise",
    "loan_count",
    "total_principal_paise",
    "emis_on_time",
    "emis_due",
    "current_year_loans",
)


def _loan_position(position: CreditPosition, loan: Loan, day: date) -> CreditPosition:
    """The loan's share of the customer's position on `day`."""
    return position_from_loans(
        position.customer_id,
        position.version,
        position.monthly_income_paise,
        position.approved_limit_paise,
        [loan],
        day,
    )


def require_valid_on(position: CreditPosition, day: date) -> None:
    """Raise ValueError when the position is not valid on `day`: the caller must refresh it."""
    if not is_valid_on(position, day):
        raise ValueError(
            f"position of customer {position.customer_id} is valid from {position.as_of} until "
            f"{position.valid_until}, not on {day}"
        )

"""A loan from its facts: the agreed terms, and its payments in order of day and of recording.

`replay` decides what every payment means. Backdated payments, reversals, prepayments and
foreclosures are replays of other payments; `payments.apply_payment` is the short form for a payment
of installments after all others.

A replay accepts any payments, so that a reversal is always possible. What may be recorded is
decided in `payment_recording`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.delinquency import Settlement
from credit_service.domain.installments import monthly_rate, reduced_installment_paise
from credit_service.domain.loans import Loan, ScheduleRevision
from credit_service.domain.money import divide_half_up
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    on_time_numbers,
    paid_in_all_paise,
)
from credit_service.domain.schedules import (
    ScheduledInstallment,
    balance_after_paise,
    repayment_plan,
    schedule,
    scheduled_installments,
)


@dataclass(frozen=True, slots=True)
class PaymentFact:
    """A payment as recorded. `effect` is None unless it is a part prepayment.

    `payment_number` is its place in the order of recording, and `grace_days` are those of the
    scorecard that was active then. `charge_paise` is the part of `amount_paise` that is a
    prepayment charge: it repays nothing.
    """

    payment_number: int
    amount_paise: int
    paid_on: date
    purpose: PaymentPurpose = PaymentPurpose.INSTALLMENTS
    effect: PrepaymentEffect | None = None
    grace_days: int = 0
    charge_paise: int = 0


@dataclass(frozen=True, slots=True)
class AppliedPayment:
    """What a payment did: the installments that it settled, how many of them on time, the principal
    that it repaid beside the installments, and whether it closed the loan."""

    fact: PaymentFact
    settled_numbers: range
    on_time_count: int
    prepaid_principal_paise: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Accrual:
    """Interest of the period before installment `number` + 1, as far as it has accrued.

    `paise_days` sums the balance over the days before `until`.
    """

    number: int
    paise_days: int
    until: date


@dataclass(frozen=True, slots=True)
class LoanAccount:
    """A loan after its payments. `applied` is in the order of replay.

    `past_installments` are those before the last revision of the schedule. `excess_paise` is what
    was paid beyond the debt: it can be more than 0 only after a reversal. `accrual` is that of the
    last revision; None without one.
    """

    loan: Loan
    past_installments: tuple[ScheduledInstallment, ...]
    applied: tuple[AppliedPayment, ...]
    excess_paise: int
    accrual: Accrual | None

    @property
    def installments(self) -> tuple[ScheduledInstallment, ...]:
        """The whole current schedule, in order: 1 … tenure."""
        return self.past_installments + schedule(self.loan).installments

    def applied_payment(self, payment_number: int) -> AppliedPayment:
        """The payment with that number, which must be one of `applied`."""
        return next(each for each in self.applied if each.fact.payment_number == payment_number)

    @property
    def prepaid_principal_paise(self) -> int:
        """The principal that prepayments repaid: with that of the installments, the principal."""
        return sum(each.prepaid_principal_paise for each in self.applied)

    @property
    def settlements(self) -> list[Settlement]:
        """The payments that settled installments, for `delinquency`."""
        return [
            Settlement(numbers[0], len(numbers), each.fact.paid_on)
            for each in self.applied
            if (numbers := each.settled_numbers)
        ]


def replay(loan: Loan, payments: Iterable[PaymentFact], until: date | None = None) -> LoanAccount:
    """The loan after these payments, in order of `paid_on` and of number.

    `until` leaves out payments of later days. Uses the agreed terms of `loan` and what its import
    settled, never the sums of its payments.

    Raises:
        ValueError: an imported loan has payments, and `on_time_at_import` is None.
    """
    state = _Replay(_agreed(loan))
    for fact in sorted(payments, key=lambda each: (each.paid_on, each.payment_number)):
        if until is None or fact.paid_on <= until:
            state.apply(fact)
    return state.account()


def _agreed(loan: Loan) -> Loan:
    """The loan before its first payment."""
    tenure = loan.agreed_tenure_months
    on_time = loan.on_time_at_import
    if on_time is None:
        if loan.imported and loan.paid_paise > 0:
            raise ValueError(
                f"loan {loan.loan_id} of customer {loan.customer_id} has payments, but not the "
                f"EMIs paid on time at its import; set on_time_at_import"
            )
        on_time = loan.emis_paid_on_time if loan.imported else 0
    return replace(
        loan,
        tenure_months=tenure,
        installment_paise=loan.agreed_installment_paise,
        end_date=add_months(loan.start_date, tenure),
        emis_paid_on_time=on_time,
        installments_settled=loan.settled_at_import,
        paid_paise=0,
        last_paid_on=None,
        # No payment closes a loan that its import closed.
        closed_on=loan.closed_on if loan.settled_at_import == tenure else None,
        revision=None,
    )


@dataclass(frozen=True, slots=True)
class Payoff:
    """What closes a loan on a day, if every installment due by then is settled.

    The loan then ends with installment `number` + 1: `balance_paise` of principal and
    `interest_paise`. `credited_paise` of it are paid already. `per_day` is the interest of a day,
    as (numerator, denominator) in paise.
    """

    number: int
    balance_paise: int
    interest_paise: int
    credited_paise: int
    accrual: Accrual
    per_day: tuple[int, int]

    @property
    def amount_paise(self) -> int:
        """What is left to pay: at least 1 paisa."""
        return self.balance_paise + self.interest_paise - self.credited_paise


def payoff(loan: Loan, paid_paise: int, number: int, day: date, accrual: Accrual | None) -> Payoff:
    """What closes a loan of which `paid_paise` are paid in all, on `day`, after its first `number`
    installments: all that are due by then, and fewer than its tenure.

    The interest of the running period covers the days before `day`, on the balance of each, rounded
    half up once. It is 0 where that period has not begun, because installments were paid ahead.
    """
    begins, ends = (add_months(loan.start_date, each) for each in (number, number + 1))
    balance = balance_after_paise(loan, number)
    if accrual is None or accrual.number != number:
        accrual = Accrual(number, 0, begins)
    if day > accrual.until:
        paise_days = accrual.paise_days + balance * (day - accrual.until).days
        accrual = Accrual(number, paise_days, day)
    numerator, denominator = monthly_rate(loan)
    period = denominator * (ends - begins).days
    interest = divide_half_up(numerator * accrual.paise_days, period)
    credited = paid_paise - repayment_plan(loan).first_paise(number)
    # Nothing is paid back, and a payment is at least 1 paisa.
    interest = max(interest, credited - balance + 1)
    per_day = (numerator * balance, period) if day >= begins else (0, 1)
    return Payoff(number, balance, interest, credited, accrual, per_day)


class _Replay:
    """A loan during its replay: the terms of the moment, and the sums of the payments so far."""

    def __init__(self, agreed: Loan) -> None:
        self._terms = agreed
        self._plan = repayment_plan(agreed)
        self._imported_paise = paid_in_all_paise(agreed)
        self._paid = 0
        self._settled = agreed.installments_settled
        self._on_time = agreed.emis_paid_on_time
        self._last_paid_on: date | None = None
        self._closed_on = agreed.closed_on
        self._past: list[ScheduledInstallment] = []
        self._applied: list[AppliedPayment] = []
        self._accrual: Accrual | None = None

    def account(self) -> LoanAccount:
        loan = replace(
            self._terms,
            emis_paid_on_time=self._on_time,
            installments_settled=self._settled,
            paid_paise=self._paid,
            last_paid_on=self._last_paid_on,
            closed_on=self._closed_on,
        )
        excess = max(self._paid_in_all - self._plan.total_paise, 0)
        return LoanAccount(loan, tuple(self._past), tuple(self._applied), excess, self._accrual)

    def apply(self, fact: PaymentFact) -> None:
        amount = fact.amount_paise - fact.charge_paise
        self._last_paid_on = fact.paid_on
        if self._closed_on is not None:
            self._paid += amount
            self._applied.append(AppliedPayment(fact, range(0), 0, 0, closed=False))
            return
        first = self._settled + 1
        on_time = prepaid = 0
        if fact.purpose is PaymentPurpose.INSTALLMENTS:
            on_time = self._credit(amount, fact)
        else:
            on_time, prepaid = self._prepay(amount, fact)
        self._on_time += on_time
        closed = self._settled == self._terms.tenure_months
        if closed:
            self._closed_on = fact.paid_on
        settled = range(first, self._settled + 1)
        self._applied.append(AppliedPayment(fact, settled or range(0), on_time, prepaid, closed))

    @property
    def _paid_in_all(self) -> int:
        return self._imported_paise + self._paid

    def _credit(self, amount: int, fact: PaymentFact) -> int:
        """Settle installments in order; return how many of them on time."""
        self._paid += amount
        return self._settle(self._plan.settled_by(self._paid_in_all), fact)

    def _settle(self, until: int, fact: PaymentFact) -> int:
        """Settle the installments up to `until`; return how many of them on time."""
        numbers = range(self._settled + 1, until + 1)
        self._settled = max(self._settled, until)
        return len(
            on_time_numbers(
                self._terms.start_date, self._plan, numbers, fact.paid_on, fact.grace_days
            )
        )

    def _prepay(self, amount: int, fact: PaymentFact) -> tuple[int, int]:
        """Settle the installments that are due, and repay principal with the rest.

        Returns how many installments it settled on time, and the principal that it repaid.
        """
        terms = self._terms
        due = installments_due_by(terms.start_date, terms.tenure_months, fact.paid_on)
        number = max(due, self._settled)
        arrears = max(self._plan.first_paise(due) - self._paid_in_all, 0)
        rest = amount - arrears
        if rest <= 0 or number == terms.tenure_months:
            return self._credit(amount, fact), 0
        self._paid += arrears
        on_time = self._settle(number, fact)

        found = payoff(terms, self._paid_in_all, number, fact.paid_on, self._accrual)
        prepaid = 0
        closes = fact.purpose is PaymentPurpose.FORECLOSURE or rest >= found.balance_paise
        if closes and rest >= found.amount_paise:
            self._revise(found, number + 1, terms.installment_paise, found.interest_paise, 0)
        else:
            prepaid = min(rest, found.balance_paise)
            self._reduce(found, prepaid, fact.effect or PrepaymentEffect.REDUCE_TENURE)
        return on_time + self._credit(rest, fact), prepaid

    def _reduce(self, found: Payoff, prepaid: int, effect: PrepaymentEffect) -> None:
        """Revise the schedule after principal is repaid within a period.

        Its interest is that of the days before, on the old balance, and of the days from then on,
        on the new one, rounded half up once.
        """
        terms = self._terms
        balance = found.balance_paise - prepaid
        begins, ends = (
            add_months(terms.start_date, each) for each in (found.number, found.number + 1)
        )
        accrued = found.accrual
        paise_days = accrued.paise_days + balance * (ends - accrued.until).days
        numerator, denominator = monthly_rate(terms)
        interest = divide_half_up(numerator * paise_days, denominator * (ends - begins).days)
        installment = terms.installment_paise
        if effect is PrepaymentEffect.REDUCE_INSTALLMENT and balance > 0:
            left = terms.tenure_months - found.number
            installment = min(installment, reduced_installment_paise(terms, balance, left))
        self._revise(found, terms.tenure_months, installment, interest, prepaid)
        # Without the installments after the one that ends the debt.
        needed = self._plan.full_count + 1
        if needed < terms.tenure_months:
            self._set_terms(
                replace(
                    self._terms,
                    tenure_months=needed,
                    end_date=add_months(terms.start_date, needed),
                )
            )

    def _revise(
        self, found: Payoff, tenure: int, installment: int, interest: int, prepaid: int
    ) -> None:
        """Replace the installments after `found.number`."""
        terms, number = self._terms, found.number
        past = number - (terms.revision.after_number if terms.revision else 0)
        self._past.extend(islice(scheduled_installments(terms), past))
        self._accrual = found.accrual
        revision = ScheduleRevision(
            terms.agreed_tenure_months,
            terms.agreed_installment_paise,
            number,
            found.balance_paise - prepaid,
            interest,
            self._plan.first_paise(number) + prepaid,
        )
        self._set_terms(
            replace(
                terms,
                tenure_months=tenure,
                installment_paise=installment,
                end_date=add_months(terms.start_date, tenure),
                revision=revision,
            )
        )

    def _set_terms(self, terms: Loan) -> None:
        self._terms = terms
        self._plan = repayment_plan(terms)

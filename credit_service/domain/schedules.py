"""Schedules: how installments repay a loan, as agreed or revised, and the balance after each."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import repeat

from credit_service.domain.calendar import add_months
from credit_service.domain.installments import agreed_monthly_rate, monthly_rate
from credit_service.domain.loans import Loan, LoanState, ScheduleRevision


@dataclass(frozen=True, slots=True)
class ScheduledInstallment:
    """Installment `number` (1 … tenure); `balance_paise` is what is owed after it."""

    number: int
    due_date: date
    payment_paise: int
    principal_paise: int
    interest_paise: int
    balance_paise: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A loan's installments in order. Payment = principal + interest, line by line and in total."""

    installments: tuple[ScheduledInstallment, ...]
    total_payment_paise: int
    total_principal_paise: int
    total_interest_paise: int


def _splits(
    rate: tuple[int, int], balance: int, installment: int, count: int
) -> Iterator[tuple[int, int]]:
    """(principal, interest) of the last `count` installments in order, in paise."""
    numerator, denominator = rate
    twice = 2 * numerator
    divisor = 2 * denominator
    for _ in range(count - 1):
        interest = (twice * balance + denominator) // divisor
        principal = min(installment - interest, balance)
        balance -= principal
        yield principal, interest
    yield balance, (twice * balance + denominator) // divisor


def _agreed_splits(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> Iterator[tuple[int, int]]:
    """(principal, interest) of each installment of the agreed schedule, in paise."""
    rate = agreed_monthly_rate(principal_paise, annual_rate_bps, tenure_months, installment)
    return _splits(rate, principal_paise, installment, tenure_months)


def _revised_splits(
    rate: tuple[int, int], revision: ScheduleRevision, tenure_months: int, installment: int
) -> Iterator[tuple[int, int]]:
    """(principal, interest) of each installment after `revision.after_number`, in paise.

    The first of them pays at least its interest. That can be more than a reduced installment where
    most of the running period had passed before most of the principal was prepaid.
    """
    balance, interest = revision.balance_paise, revision.next_interest_paise
    count = tenure_months - revision.after_number
    if count == 1:
        yield balance, interest
        return
    principal = min(max(installment - interest, 0), balance)
    yield principal, interest
    yield from _splits(rate, balance - principal, installment, count - 1)


@dataclass(frozen=True, slots=True)
class RepaymentPlan:
    """The amounts of a loan's installments, without their split.

    After installment `after_number`: installments of `installment_paise` up to number `full_count`,
    one of `final_paise`, then 0 for the rest of `tenure_months`. If there is a full one, the first
    of them is `raised_paise` more. `total_paise` is the sum of all payments, including prepaid
    principal.

    `after_number` is 0 for the agreed schedule. `before_paise` is what the installments up to
    `after_number` and prepaid principal took.
    """

    tenure_months: int
    installment_paise: int
    full_count: int
    final_paise: int
    total_paise: int
    after_number: int = 0
    before_paise: int = 0
    raised_paise: int = 0

    def payment_paise(self, number: int) -> int:
        """The amount of installment `number` (after_number + 1 … tenure)."""
        if number <= self.full_count:
            if number == self.after_number + 1:
                return self.installment_paise + self.raised_paise
            return self.installment_paise
        return self.final_paise if number == self.full_count + 1 else 0

    @property
    def last_paise(self) -> int:
        """The amount of the last installment: 0 when an earlier one ends the debt."""
        return self.payment_paise(self.tenure_months)

    def first_paise(self, count: int) -> int:
        """The sum of the first `count` installments (after_number … tenure), with prepaid
        principal."""
        if count > self.full_count:
            return self.total_paise
        if count <= self.after_number:
            return self.before_paise
        full = (count - self.after_number) * self.installment_paise
        return self.before_paise + full + self.raised_paise

    def settled_by(self, paise: int) -> int:
        """How many installments the sum settles, in order: after_number … tenure."""
        if paise >= self.total_paise:
            return self.tenure_months
        if self.installment_paise == 0:
            return self.full_count
        full = (paise - self.before_paise - self.raised_paise) // self.installment_paise
        return min(self.after_number + max(full, 0), self.full_count)


def repayment_plan(loan: Loan) -> RepaymentPlan:
    """The amounts of the loan's installments, consistent with `schedule`."""
    if loan.revision is None:
        return _plan(
            loan.principal_paise, loan.annual_rate_bps, loan.tenure_months, loan.installment_paise
        )
    return _revised_plan(
        monthly_rate(loan), loan.revision, loan.tenure_months, loan.installment_paise
    )


def agreed_plan(loan: Loan) -> RepaymentPlan:
    """The amounts of the loan's installments as agreed at the start."""
    return _plan(
        loan.principal_paise,
        loan.annual_rate_bps,
        loan.agreed_tenure_months,
        loan.agreed_installment_paise,
    )


# Cached: the plan depends only on the terms, and every list of loans needs one for each loan.
@lru_cache(maxsize=16_384)
def _plan(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> RepaymentPlan:
    splits = _agreed_splits(principal_paise, annual_rate_bps, tenure_months, installment)
    full_count, _, final = _until_repaid(splits, principal_paise)
    return RepaymentPlan(
        tenure_months, installment, full_count, final, full_count * installment + final
    )


@lru_cache(maxsize=4_096)
def _revised_plan(
    rate: tuple[int, int], revision: ScheduleRevision, tenure_months: int, installment: int
) -> RepaymentPlan:
    splits = _revised_splits(rate, revision, tenure_months, installment)
    full_count, first, final = _until_repaid(splits, revision.balance_paise)
    raised = first - installment if full_count else 0
    return RepaymentPlan(
        tenure_months,
        installment,
        revision.after_number + full_count,
        final,
        revision.paid_paise + full_count * installment + raised + final,
        after_number=revision.after_number,
        before_paise=revision.paid_paise,
        raised_paise=raised,
    )


def _until_repaid(splits: Iterator[tuple[int, int]], balance: int) -> tuple[int, int, int]:
    """(number of installments before the one that ends the debt, the first of all, the one that
    ends the debt), amounts in paise."""
    first = 0
    for count, (principal, interest) in enumerate(splits):
        if count == 0:
            first = principal + interest
        balance -= principal
        if balance == 0:
            return count, first, principal + interest
    raise ArithmeticError(f"the installments leave {balance} paise of the principal")


def schedule(loan: Loan) -> Schedule:
    """Every installment with its due date, its split and the balance after it.

    interest = half up(balance · rate / 12), principal = E - interest, and the last installment is
    the balancing figure, so the balance ends at exactly 0. An installment never exceeds the debt:
    where E rounded up repays early, which takes an extreme rate and tenure or a principal of a few
    paise, the installment that ends the debt is smaller and those after it are 0.

    For a revised loan: the installments after `revision.after_number`, and their totals. Those
    before are in the account of `loan_replay.replay`.
    """
    lines = tuple(scheduled_installments(loan))
    principal = loan.principal_paise if loan.revision is None else loan.revision.balance_paise
    interest = sum(each.interest_paise for each in lines)
    return Schedule(
        installments=lines,
        total_payment_paise=principal + interest,
        total_principal_paise=principal,
        total_interest_paise=interest,
    )


def scheduled_installments(loan: Loan) -> Iterator[ScheduledInstallment]:
    """The installments of `schedule`, one by one."""
    revision = loan.revision
    if revision is None:
        after, balance = 0, loan.principal_paise
        splits = _agreed_splits(
            loan.principal_paise, loan.annual_rate_bps, loan.tenure_months, loan.installment_paise
        )
    else:
        after, balance = revision.after_number, revision.balance_paise
        splits = _revised_splits(
            monthly_rate(loan), revision, loan.tenure_months, loan.installment_paise
        )
    for number, (principal, interest) in enumerate(splits, start=after + 1):
        balance -= principal
        due_date = add_months(loan.start_date, number)
        yield ScheduledInstallment(
            number, due_date, principal + interest, principal, interest, balance
        )


def principal_outstanding_paise(loan: Loan) -> int:
    """The principal of the installments that are not settled, in paise: 0 for a closed loan.

    It is the balance that `schedule` shows after the last settled installment. A part payment
    reduces it once the installment is settled, a prepayment at once.
    """
    if loan.state is LoanState.CLOSED:
        return 0
    return balance_after_paise(loan, loan.installments_settled)


def balance_after_paise(loan: Loan, count: int) -> int:
    """The principal owed after the first `count` installments, in paise.

    `count` is 0 … tenure - 1, and for a revised loan at least `revision.after_number`.
    """
    revision = loan.revision
    if revision is not None:
        if count <= revision.after_number:
            return revision.balance_paise
        return _revised_balance_after(
            monthly_rate(loan), revision, loan.installment_paise, count - revision.after_number
        )
    if count == 0:
        return loan.principal_paise
    return _balance_after(
        loan.principal_paise,
        loan.annual_rate_bps,
        loan.tenure_months,
        loan.installment_paise,
        count,
    )


# Cached: every decision about a customer needs it for each ACTIVE loan.
@lru_cache(maxsize=16_384)
def _balance_after(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int, count: int
) -> int:
    """What is owed after the first `count` installments, fewer than the tenure, in paise."""
    rate = agreed_monthly_rate(principal_paise, annual_rate_bps, tenure_months, installment)
    return _reduced(rate, principal_paise, installment, count)


@lru_cache(maxsize=4_096)
def _revised_balance_after(
    rate: tuple[int, int], revision: ScheduleRevision, installment: int, count: int
) -> int:
    """What is owed `count` installments after the revision, before the last one, in paise."""
    first_principal = max(installment - revision.next_interest_paise, 0)
    return _reduced(rate, revision.balance_paise - first_principal, installment, count - 1)


def _reduced(rate: tuple[int, int], balance: int, installment: int, count: int) -> int:
    """The balance after `count` more installments, in paise: 0 once it is repaid."""
    numerator, denominator = rate
    # balance + interest - E, with the interest of `_splits`, is one floor. Once it is 0 or less, an
    # earlier installment has repaid the loan.
    divisor = 2 * denominator
    growth, shift = divisor + 2 * numerator, denominator - installment * divisor
    for _ in repeat(None, count):
        balance = (growth * balance + shift) // divisor
    return max(balance, 0)

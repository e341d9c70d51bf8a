"""Loans: valid asks, installments, schedules, and the start of a loan."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import StrEnum
from functools import lru_cache
from itertools import repeat
from math import gcd

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.charges import Charge
from credit_service.domain.errors import (
    OUT_OF_RANGE,
    FieldViolation,
    InvalidFieldsError,
    NotFoundError,
)
from credit_service.domain.money import CRORE_PAISE, divide_half_up, format_hundredths, format_rate
from credit_service.rupees import format_inr

MAX_PRINCIPAL_PAISE = 100 * CRORE_PAISE
MIN_TENURE_MONTHS = 1
MAX_TENURE_MONTHS = 480
MAX_ANNUAL_RATE_BPS = 10_000

_MONTHLY_BPS = 120_000
"""A yearly rate of 1 basis point is 1 / 120 000 a month."""


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


def validate_ask(*, principal_paise: int, annual_rate_bps: int, tenure_months: int) -> Ask:
    """The ask, in range and repayable in whole paise at the requested rate.

    Raises InvalidFieldsError naming every bad field by its contract name; `least_principal_paise`
    says what makes an ask repayable.
    """
    violations = []
    if not 0 < principal_paise <= MAX_PRINCIPAL_PAISE:
        message = (
            f"loan_amount must be more than ₹0 and at most ₹100 crore, "
            f"found {format_inr(principal_paise)}."
        )
        violations.append(FieldViolation("loan_amount", OUT_OF_RANGE, message))
    if not 0 <= annual_rate_bps <= MAX_ANNUAL_RATE_BPS:
        message = (
            f"interest_rate must be 0 to 100 percent a year, "
            f"found {format_hundredths(annual_rate_bps)}."
        )
        violations.append(FieldViolation("interest_rate", OUT_OF_RANGE, message))
    if not MIN_TENURE_MONTHS <= tenure_months <= MAX_TENURE_MONTHS:
        message = (
            f"tenure_months must be {MIN_TENURE_MONTHS} to {MAX_TENURE_MONTHS}, "
            f"found {tenure_months}."
        )
        violations.append(FieldViolation("tenure_months", OUT_OF_RANGE, message))
    if violations:
        raise InvalidFieldsError(violations)
    ask = Ask(principal_paise, annual_rate_bps, tenure_months)
    if not is_repayable(ask):
        raise InvalidFieldsError(_not_repayable(ask))
    return ask


def _not_repayable(ask: Ask) -> list[FieldViolation]:
    """The violations of an ask that whole paise cannot repay, with the bounds that work."""
    principal, rate = format_inr(ask.principal_paise), format_rate(ask.annual_rate_bps)
    least = least_principal_paise(ask.annual_rate_bps, ask.tenure_months)
    longest = longest_repayable_tenure(ask.principal_paise, ask.annual_rate_bps)
    violations = []
    if least <= MAX_PRINCIPAL_PAISE:
        message = (
            f"loan_amount must be at least {format_inr(least)} over {ask.tenure_months} months at "
            f"{rate} a year, found {principal}: a smaller loan cannot be repaid in equal "
            f"installments of whole paise."
        )
        violations.append(FieldViolation("loan_amount", OUT_OF_RANGE, message))
    message = (
        f"tenure_months must be at most {longest} for {principal} at {rate} a year, found "
        f"{ask.tenure_months}: over more months the installments repay too little of the principal."
    )
    violations.append(FieldViolation("tenure_months", OUT_OF_RANGE, message))
    return violations


@lru_cache(maxsize=16_384)
def least_principal_paise(annual_rate_bps: int, tenure_months: int) -> int:
    """The least principal that equal installments of whole paise repay, in paise.

    An installment is rounded by at most half a paisa, and so is the interest of each month. At most
    a paisa a month in all, which with its interest grows to s = ((1+r)ⁿ - 1) / r paise by the end
    (n paise at rate 0). An installment of s paise or more before rounding repays in exactly n
    months whatever the roundings are: the last installment differs from the others by at most s,
    and is more than 0 and at most two installments. With less, a loan may end months early or
    leave most of the principal for the last month.

    The principal of an installment of s is s·(1 - (1+r)⁻ⁿ) / r, here rounded up. It grows with the
    tenure, and is 1 paisa for 1 month.
    """
    if annual_rate_bps == 0:
        return tenure_months * tenure_months
    a, growth, base, b = _growth(annual_rate_bps, tenure_months)
    # With (1+r)ⁿ = growth / base and r = a / b this is ((growth - base)·b / a)² / (growth·base).
    numerator = ((growth - base) * b) ** 2
    denominator = a * a * growth * base
    return -(-numerator // denominator)


def is_repayable(terms: LoanTerms | Ask) -> bool:
    """Whether equal installments of whole paise repay the loan: see `least_principal_paise`."""
    n, bps = terms.tenure_months, terms.annual_rate_bps
    # n²·(1+r)ⁿ is more than the least principal, and (1+r)ⁿ ≤ e^(n·bps/120000) < 2^(n·bps/80000).
    # Nearly every ask passes this test, without numbers of thousands of bits.
    if terms.principal_paise >= n * n << n * bps // 80_000 + 1:
        return True
    return terms.principal_paise >= least_principal_paise(bps, n)


def longest_repayable_tenure(principal_paise: int, annual_rate_bps: int) -> int:
    """The longest tenure over which the principal is repayable at that rate: 1 … 480 months."""
    fitting, too_long = MIN_TENURE_MONTHS, MAX_TENURE_MONTHS + 1
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        if is_repayable(LoanTerms(principal_paise, annual_rate_bps, middle)):
            fitting = middle
        else:
            too_long = middle
    return fitting


def _growth(annual_rate_bps: int, tenure_months: int) -> tuple[int, int, int, int]:
    """(a, (a+b)ⁿ, bⁿ, b) for a monthly rate of a / b in lowest terms, more than 0."""
    common = gcd(annual_rate_bps, _MONTHLY_BPS)
    a = annual_rate_bps // common
    b = _MONTHLY_BPS // common
    return a, (a + b) ** tenure_months, b**tenure_months, b


# Cached: rates and tenures recur, and the numbers have up to thousands of bits.
@lru_cache(maxsize=4_096)
def installment_factor(annual_rate_bps: int, tenure_months: int) -> tuple[int, int]:
    """The installment per paisa of principal, as an exact fraction (numerator, denominator).

    r(1+r)ⁿ / ((1+r)ⁿ - 1) with r = bps / 120000, or 1 / n when r = 0. With r = a / b in lowest
    terms this is a(a+b)ⁿ / (b((a+b)ⁿ - bⁿ)).
    """
    if annual_rate_bps == 0:
        return 1, tenure_months
    a, growth, base, b = _growth(annual_rate_bps, tenure_months)
    return a * growth, b * (growth - base)


def installment_paise(terms: LoanTerms | Ask) -> int:
    """The EMI on a reducing balance, in paise, rounded half up.

    P·r·(1+r)ⁿ / ((1+r)ⁿ - 1) as one fraction of integers, so that the exact value is rounded: there
    is no precision to choose and no tie can fall to the wrong side. It never falls as the principal
    grows and never rises with the tenure. 0 for a few paise over many months.
    """
    numerator, denominator = installment_factor(terms.annual_rate_bps, terms.tenure_months)
    return divide_half_up(terms.principal_paise * numerator, denominator)


def reduced_installment_paise(loan: Loan, balance_paise: int, months: int) -> int:
    """The installment that repays a balance of the loan in `months`, at the rate of its interest,
    rounded half up: at least 1 paisa."""
    numerator, denominator = monthly_rate(loan)
    if numerator == 0:
        return max(divide_half_up(balance_paise, months), 1)
    common = gcd(numerator, denominator)
    a, b = numerator // common, denominator // common
    growth, base = (a + b) ** months, b**months
    return max(divide_half_up(balance_paise * a * growth, b * (growth - base)), 1)


def last_installment_paise(terms: LoanTerms | Ask, installment: int) -> int:
    """The last installment of a loan repaid at its own rate, consistent with `schedule`.

    0 when earlier installments repay the loan.
    """
    return _last_installment(
        terms.principal_paise, terms.annual_rate_bps, terms.tenure_months, installment
    )


# Each month's interest is rounded, so there is no closed form. Cached because the same terms recur:
# a check before a booking, the bounds of counter-offers, round amounts.
@lru_cache(maxsize=16_384)
def _last_installment(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> int:
    # balance + half up(balance·bps / 120000) is floor(((120000 + bps)·balance + 60000) / 120000),
    # and the payment goes into the same floor.
    divisor, half, growth = _MONTHLY_BPS, _MONTHLY_BPS // 2, _MONTHLY_BPS + annual_rate_bps
    shift = half - installment * divisor
    balance = principal_paise
    for _ in repeat(None, tenure_months - 1):
        balance = (growth * balance + shift) // divisor
    # A balance of 0 or less never rises again.
    return (growth * balance + half) // divisor if balance > 0 else 0


def largest_principal_paise(
    max_installment_paise: int, annual_rate_bps: int, tenure_months: int
) -> int:
    """The largest principal whose installment is at most `max_installment_paise`.

    Exact: one paisa more has a larger installment. Negative when even a principal of 0 exceeds it.
    """
    numerator, denominator = installment_factor(annual_rate_bps, tenure_months)
    # Half up: P·num/den rounds to E or less exactly when P·num/den < E + 1/2.
    return ((2 * max_installment_paise + 1) * denominator - 1) // (2 * numerator)


_RATE_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_RATE_DENOMINATOR = 10**20
"""Effective rates have 20 decimals: an error below 1e-9 paisa in an installment's interest on the
largest loan."""
_NEWTON_TOLERANCE = Decimal("1e-30")
_MAX_NEWTON_STEPS = 200


# Cached: a loan needs it for its plan, its balances and its schedule.
@lru_cache(maxsize=4_096)
def effective_monthly_rate(
    principal_paise: int, installment_paise: int, tenure_months: int
) -> tuple[int, int]:
    """The monthly rate at which n installments of E repay P, as (numerator, denominator).

    Solves P = E·a(i) for i ≥ 0 with a(i) = (1 - (1+i)⁻ⁿ) / i, to 20 decimals; 0 when n·E ≤ P.
    Newton's method from below: a is convex and falling, so each step stays below the root and gets
    closer. Deterministic: Decimal in a fixed context.
    """
    p, e, n = principal_paise, installment_paise, tenure_months
    if e * n <= p:
        return 0, _RATE_DENOMINATOR
    with localcontext(_RATE_CONTEXT):
        target = Decimal(p) / e
        # Both lie at or below the root: the first Newton step from 0, and n = 1, where i = E/P - 1.
        rate = max(Decimal(2 * (n * e - p)) / (e * n * (n + 1)), Decimal(e) / p - 1)
        for _ in range(_MAX_NEWTON_STEPS):
            growth = 1 + rate
            discount = growth**-n
            annuity = (1 - discount) / rate
            slope = (annuity - n * discount / growth) / rate
            step = (annuity - target) / slope
            rate += step
            if abs(step) < _NEWTON_TOLERANCE:
                break
        else:
            raise ArithmeticError(f"no rate found for P={p}, E={e}, n={n}")
        return int((rate * _RATE_DENOMINATOR).to_integral_value()), _RATE_DENOMINATOR


def _monthly_rate(
    principal_paise: int, annual_rate_bps: int, tenure_months: int, installment: int
) -> tuple[int, int]:
    """The rate that splits a loan's installments, as (numerator, denominator)."""
    if installment == installment_paise(LoanTerms(principal_paise, annual_rate_bps, tenure_months)):
        return annual_rate_bps, _MONTHLY_BPS
    return effective_monthly_rate(principal_paise, installment, tenure_months)


def monthly_rate(loan: Loan) -> tuple[int, int]:
    """The monthly rate of the loan's interest, as (numerator, denominator): by the agreed terms,
    so that a revised installment does not change it."""
    return _monthly_rate(
        loan.principal_paise,
        loan.annual_rate_bps,
        loan.agreed_tenure_months,
        loan.agreed_installment_paise,
    )


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
    rate = _monthly_rate(principal_paise, annual_rate_bps, tenure_months, installment)
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
    rate = _monthly_rate(principal_paise, annual_rate_bps, tenure_months, installment)
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


def imported_settled(
    emis_paid_on_time: int, start_date: date, tenure_months: int, import_day: date
) -> tuple[int, date | None]:
    """(installments settled, closed_on) of a loan imported on `import_day`.

    Imports have no arrears: all installments due by then count as settled, and so do those paid
    ahead of their due date. With all settled, the loan closed on min(end date, import day).
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

"""Days past due of loans, and the asset class of a customer.

Both are pure functions of loans, the payments that settled their installments, and a day. Grace
days do not delay them, and a part payment does not reset them: an installment is unpaid until the
day on which its full amount is reached.

An imported loan has no record of arrears before its import, unless the source gives the number of
installments that are settled. Its days past due count from the first due date after the import day.

`delinquency` computes everything from the facts. `Arrears` are the two days of it that are stored:
they give the days past due and the class on every later day, without any payment in between.

Source of the classes: Reserve Bank of India, circular of 12 November 2021 on the recognition of
income and the classification of assets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum
from typing import NamedTuple

from credit_service.domain.calendar import add_months
from credit_service.domain.loans import Loan


class AssetClass(IntEnum):
    """The class of all loans of a customer, by the days past due of the worst one.

    NPA stays until no loan of the customer is in arrears.
    """

    STANDARD = 0
    """0 days."""
    SMA_0 = 1
    """1 to 30 days."""
    SMA_1 = 2
    """31 to 60 days."""
    SMA_2 = 3
    """61 to 90 days."""
    NPA = 4
    """91 days or more."""


_FIRST_DAYS = (
    (91, AssetClass.NPA),
    (61, AssetClass.SMA_2),
    (31, AssetClass.SMA_1),
    (1, AssetClass.SMA_0),
)
"""The days past due from which a class applies, the worst class first."""
_NPA_DAYS = _FIRST_DAYS[0][0]
CLASS_DAYS = {asset_class: days for days, asset_class in _FIRST_DAYS}
"""The days past due from which each class but STANDARD applies."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """A payment that settled the installments `first_number` … `first_number + count - 1`."""

    first_number: int
    count: int
    paid_on: date


@dataclass(frozen=True, slots=True)
class Arrears:
    """What decides days past due and class from the day of the last payment on, until the next one.

    `oldest_unpaid_due` is the earliest due date of an unpaid installment of any ACTIVE loan: in the
    future for a customer without arrears, None without an unpaid installment. `npa_since` is the
    first day of an NPA whose oldest arrears have been paid since, while later ones are left; else
    None, and the customer is NPA from 91 days past due on.
    """

    oldest_unpaid_due: date | None = None
    npa_since: date | None = None

    @property
    def npa_from(self) -> date | None:
        """The first day on which the customer is NPA unless a payment is made."""
        if self.npa_since is not None or self.oldest_unpaid_due is None:
            return self.npa_since
        return self.oldest_unpaid_due + timedelta(days=_NPA_DAYS - 1)

    def exist_on(self, day: date) -> bool:
        """Whether an installment is past due at the end of `day`."""
        return self.oldest_unpaid_due is not None and self.oldest_unpaid_due <= day

    def days_past_due(self, day: date) -> int:
        """Days past due of the worst loan at the end of `day`: 0 without arrears."""
        if self.oldest_unpaid_due is None:
            return 0
        return max(0, (day - self.oldest_unpaid_due).days + 1)

    def asset_class(self, day: date) -> AssetClass:
        """The class at the end of `day`."""
        if self.npa_from is not None and self.npa_from <= day:
            return AssetClass.NPA
        return class_of(self.days_past_due(day))

    def changes(self) -> list[tuple[date, AssetClass]]:
        """The first day of each class that the customer gets unless a payment is made, in order."""
        first, npa_from = self.oldest_unpaid_due, self.npa_from
        if first is None or npa_from is None:
            return []
        return [
            *(
                (on, asset_class)
                for days, asset_class in reversed(_FIRST_DAYS[1:])
                if (on := first + timedelta(days=days - 1)) < npa_from
            ),
            (npa_from, AssetClass.NPA),
        ]


class ClassChange(NamedTuple):
    """A change of a customer's class, on the day from whose end on it is `current`."""

    on: date
    previous: AssetClass
    current: AssetClass
    days_past_due: int


Settlements = Mapping[int, Sequence[Settlement]]
"""The settlements of a customer's loans by loan id, in the order of the payments. A loan without
settlements may be missing."""


@dataclass(frozen=True, slots=True)
class Delinquency:
    """The arrears of a customer at the end of a day.

    `since` is the first day of the current class; None for a customer who was never in arrears.
    `next_change` is the next day on which the class changes unless a payment is made; None when
    time alone does not change it.
    """

    days_past_due: int
    asset_class: AssetClass
    since: date | None
    next_change: date | None


def class_of(days_past_due: int) -> AssetClass:
    """The class for the days past due of the worst loan, without regard to an earlier NPA."""
    for first_day, asset_class in _FIRST_DAYS:
        if days_past_due >= first_day:
            return asset_class
    return AssetClass.STANDARD


def days_past_due(loan: Loan, settlements: Sequence[Settlement], day: date) -> int:
    """Days past due of a loan at the end of `day`: 0 without arrears.

    With `due` the due date of its oldest installment that is not fully paid by `day` and due on or
    before it: (day - due) + 1. So it is 1 at the end of the due date.
    """
    return _days(list(_unpaid_periods(loan, settlements, day)), day)


def days_and_class(
    loans: Iterable[Loan], settlements: Settlements, day: date
) -> tuple[int, AssetClass]:
    """(days past due of the worst loan, asset class) of the customer at the end of `day`."""
    periods = _periods(loans, settlements, day)
    days = _days(periods, day)
    current = class_of(days)
    if current in (AssetClass.STANDARD, AssetClass.NPA):
        return days, current
    return days, current if _npa_since(_span(periods), day) is None else AssetClass.NPA


def delinquency(loans: Sequence[Loan], settlements: Settlements, day: date) -> Delinquency:
    """The customer's arrears and asset class at the end of `day`, from all the loans."""
    periods = _periods(loans, settlements, day)
    days, current = days_and_class(loans, settlements, day)
    if current is AssetClass.STANDARD:
        ended = [each.end for each in periods if each.end is not None]
        return Delinquency(
            days, current, max(ended, default=None), _next_due_date(loans, settlements, day)
        )
    span = _span(periods)
    if current is AssetClass.NPA:
        return Delinquency(days, current, _npa_since(span, day), None)
    next_change = min(
        day + timedelta(days=first_day - days) for first_day, _ in _FIRST_DAYS if first_day > days
    )
    return Delinquency(days, current, _class_since(span, current, day), next_change)


def first_unpaid_due(loan: Loan) -> date | None:
    """Due date of the loan's oldest unpaid installment of more than 0; None for a CLOSED loan."""
    if loan.closed_on is not None:
        return None
    return add_months(loan.start_date, _first_payable(loan, loan.installments_settled + 1))


def days_past_due_of(loan: Loan, day: date) -> int:
    """Days past due of the loan at the end of `day`, on or after the day of its last payment."""
    return Arrears(first_unpaid_due(loan)).days_past_due(day)


def arrears_known_from(loan: Loan) -> date | None:
    """The first due date whose arrears are known, of an imported loan whose source does not say
    which installments are settled; None for any other loan."""
    if not loan.imported or loan.arrears_imported or loan.settled_at_import >= loan.tenure_months:
        return None
    return add_months(loan.start_date, loan.settled_at_import + 1)


def all_arrears_known_from(loans: Iterable[Loan]) -> date | None:
    """The latest day of `arrears_known_from` of these loans; None if the arrears of all are known.
    Closed loans are left out by the caller: all that was due of them is paid."""
    return max(
        (day for each in loans if (day := arrears_known_from(each)) is not None), default=None
    )


def arrears(loans: Sequence[Loan], settlements: Settlements, day: date) -> Arrears:
    """The customer's arrears at the end of `day`, on or after the days of all payments."""
    oldest = min(
        (due for each in loans if (due := first_unpaid_due(each)) is not None), default=None
    )
    plain = Arrears(oldest)
    if not plain.exist_on(day) or not settlements:
        return plain
    found = delinquency(loans, settlements, day)
    if found.asset_class is not AssetClass.NPA or found.since == plain.npa_from:
        return plain
    return Arrears(oldest, found.since)


def with_loan_due(before: Arrears, first_due: date, day: date) -> Arrears | None:
    """The arrears after a loan is booked whose first installment falls due on `first_due`.

    None where the facts must be read: it fell due before the end of `day`.
    """
    if first_due <= day:
        return None
    oldest = before.oldest_unpaid_due
    return Arrears(first_due if oldest is None else min(oldest, first_due), before.npa_since)


def with_payment(
    before: Arrears, oldest_unpaid_due: date | None, paid_on: date, day: date
) -> Arrears | None:
    """The arrears after a payment of `paid_on` is recorded on `day`, on or after the loan's last
    one, which leaves `oldest_unpaid_due` as the earliest due date of all loans.

    None where the facts must be read: an earlier day decides whether the customer stays NPA.
    """
    after = Arrears(oldest_unpaid_due)
    npa_from = before.npa_from
    if not after.exist_on(day) or npa_from is None or npa_from > day:
        return after
    if npa_from >= paid_on:
        # It was not reached before the payment.
        return after if paid_on == day else None
    if not after.exist_on(paid_on):
        return None
    return after if npa_from == after.npa_from else Arrears(oldest_unpaid_due, npa_from)


def class_changes(
    announced: AssetClass, before: Arrears | None, after: Arrears, day: date
) -> list[ClassChange]:
    """The changes to announce after a payment or a reversal on `day`. The class announced last is
    `announced`.

    First the changes that time alone brought by the end of the day before, then the improvement.
    The class of `day` itself is not announced while it may still improve. `before` is None where
    the earlier arrears are not known.
    """
    yesterday = day - timedelta(days=1)
    changes = [] if before is None else passed_changes(announced, before, yesterday)
    last = changes[-1].current if changes else announced
    current = after.asset_class(day)
    if current < last:
        changes.append(ClassChange(day, last, current, after.days_past_due(day)))
        last = current
    # After a reversal: the classes that ended days have without the payment.
    return changes + passed_changes(last, after, yesterday)


def passed_changes(announced: AssetClass, of: Arrears, until: date) -> list[ClassChange]:
    """The changes to a class worse than `announced` that time alone brought by the end of
    `until`."""
    changes: list[ClassChange] = []
    previous = announced
    for on, current in of.changes():
        if on <= until and current > previous:
            changes.append(ClassChange(on, previous, current, of.days_past_due(on)))
            previous = current
    return changes


class _Unpaid(NamedTuple):
    """A period in which an installment was in arrears and the oldest unpaid one of its loan: the
    ends of the days from `start` until the day before `end`. `end` is None while it is unpaid."""

    due_date: date
    start: date
    end: date | None

    def covers(self, day: date) -> bool:
        return self.start <= day and (self.end is None or day < self.end)


def _periods(loans: Iterable[Loan], settlements: Settlements, day: date) -> list[_Unpaid]:
    """The arrears of all loans up to `day`, loan by loan."""
    return [
        period
        for loan in loans
        for period in _unpaid_periods(loan, settlements.get(loan.loan_id, ()), day)
    ]


def _unpaid_periods(loan: Loan, settlements: Sequence[Settlement], day: date) -> Iterator[_Unpaid]:
    """The arrears of a loan up to `day`, in order. Later settlements are ignored."""
    oldest, since = _first_payable(loan, loan.settled_at_import + 1), date.min
    for settlement in settlements:
        if settlement.paid_on > day:
            break
        due_date = add_months(loan.start_date, oldest)
        start = max(due_date, since)
        if start < settlement.paid_on:
            yield _Unpaid(due_date, start, settlement.paid_on)
        oldest = _first_payable(loan, settlement.first_number + settlement.count)
        since = settlement.paid_on
    if oldest <= loan.tenure_months:
        due_date = add_months(loan.start_date, oldest)
        start = max(due_date, since)
        if start <= day:
            yield _Unpaid(due_date, start, None)


def _first_payable(loan: Loan, number: int) -> int:
    """The first installment from `number` on whose amount is more than 0."""
    # With a monthly installment of 0, the last installment repays the whole loan.
    return number if loan.installment_paise > 0 else max(number, loan.tenure_months)


def _days(periods: Iterable[_Unpaid], day: date) -> int:
    """Days past due of the oldest unpaid installment at the end of `day`; 0 without one."""
    oldest = min((each.due_date for each in periods if each.covers(day)), default=None)
    return 0 if oldest is None else (day - oldest).days + 1


def _span(periods: list[_Unpaid]) -> list[_Unpaid]:
    """The periods of the latest days in a row on which the customer was in arrears."""
    span: list[_Unpaid] = []
    until: date | None = date.min
    for period in sorted(periods, key=lambda each: each.start):
        if until is not None and period.start > until:
            span, until = [], date.min
        span.append(period)
        until = None if until is None or period.end is None else max(until, period.end)
    return span


def _npa_since(span: list[_Unpaid], day: date) -> date | None:
    """The first day in the span on which a loan was past due for 91 days; None without one."""
    found = [
        since
        for each in span
        if each.covers(since := max(each.start, each.due_date + timedelta(days=_NPA_DAYS - 1)))
        and since <= day
    ]
    return min(found, default=None)


def _class_since(span: list[_Unpaid], current: AssetClass, day: date) -> date:
    """The first of the days in a row up to `day` on which the class was `current`, not NPA."""
    # The class changes only on these days.
    changes = {
        change
        for each in span
        for change in (
            each.start,
            each.end,
            *(each.due_date + timedelta(days=first_day - 1) for first_day, _ in _FIRST_DAYS),
        )
        if change is not None and change <= day
    }
    since = day
    for change in sorted(changes, reverse=True):
        if class_of(_days(span, change)) is not current:
            break
        since = change
    return since


def _next_due_date(loans: Iterable[Loan], settlements: Settlements, day: date) -> date | None:
    """The earliest due date of an unpaid installment, of a customer without arrears on `day`."""
    found = []
    for loan in loans:
        settled = loan.settled_at_import
        for settlement in settlements.get(loan.loan_id, ()):
            if settlement.paid_on <= day:
                settled = settlement.first_number + settlement.count - 1
        oldest = _first_payable(loan, settled + 1)
        if oldest <= loan.tenure_months:
            found.append(add_months(loan.start_date, oldest))
    return min(found, default=None)

"""A loan derived from its facts in plain Python: terms, payments and reversals.

Written from the rules without using our code. Money is in paise, rates in basis points per year.
Slow and simple on purpose, to be readable.
"""

import calendar
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Any

Facts = dict[str, Any]

INSTALLMENTS = "INSTALLMENTS"
PART_PREPAYMENT = "PART_PREPAYMENT"
FORECLOSURE = "FORECLOSURE"
REDUCE_TENURE = "REDUCE_TENURE"
REDUCE_INSTALLMENT = "REDUCE_INSTALLMENT"

CLASSES = ("STANDARD", "SMA_0", "SMA_1", "SMA_2", "NPA")


def half_up(value: Fraction) -> int:
    """Round to the nearest integer, half up; for values of 0 or more."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def due_date(start: date, number: int) -> date:
    """`number` months after the start, clamped to the month's end."""
    year, month = divmod(start.year * 12 + start.month - 1 + number, 12)
    return date(year, month + 1, min(start.day, calendar.monthrange(year, month + 1)[1]))


def due_by(start: date, tenure: int, day: date) -> int:
    """The number of installments due by a day, inclusive."""
    return sum(due_date(start, number) <= day for number in range(1, tenure + 1))


def installment_of(principal: int, rate: Fraction, tenure: int) -> int:
    """The installment by the formula at a monthly rate; P / n at rate 0."""
    if not rate:
        return half_up(Fraction(principal, tenure))
    growth = (1 + rate) ** tenure
    return half_up(principal * rate * growth / (growth - 1))


def emi(principal: int, bps: int, tenure: int) -> int:
    """The installment by the formula at a yearly rate."""
    return installment_of(principal, Fraction(bps, 120_000), tenure)


@lru_cache(maxsize=10_000)
def split_rate(principal: int, bps: int, tenure: int, installment: int) -> Fraction:
    """The monthly rate for splitting installments: the loan's own if the installment is the
    formula's, otherwise the rate implied by P, E and n, found by bisection."""
    if installment == emi(principal, bps, tenure):
        return Fraction(bps, 120_000)
    if installment * tenure <= principal:
        return Fraction(0)
    with localcontext() as context:
        context.prec = 60
        low, high = Decimal(0), Decimal(1)
        owed = Decimal(principal)

        def worth(rate: Decimal) -> Decimal:
            return installment * (1 - (1 + rate) ** -tenure) / rate

        while worth(high) > owed:
            high *= 2
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if worth(middle) > owed else (low, middle)
        return Fraction(high)


class Life:
    """A loan during the replay of its payments: its lines, and what is paid on them.

    A line is an installment: due date, principal, interest, balance after it, and the day on which
    it was settled. `credit` is what is paid beyond the settled lines.
    """

    def __init__(self, loan: Facts) -> None:
        self.start: date = loan["start"]
        self.agreed_tenure: int = loan["tenure"]
        self.installment: int = loan["installment"]
        self.rate = split_rate(loan["principal"], loan["bps"], loan["tenure"], loan["installment"])
        self.principal: int = loan["principal"]
        self.lines: list[Facts] = []
        self._add_lines(self.principal, None)
        # Where the debt ends early, the lines after that are 0.
        while len(self.lines) < self.agreed_tenure:
            self.lines.append(_line(due_date(self.start, len(self.lines) + 1), 0, 0, 0))
        self.settled = self.settled_before = loan["settled_before"]
        self.on_time = loan["source_on_time"]
        self.credit = self.excess = 0
        self.closed_on: date | None = loan["closed_before"]
        # What each payment did, by its number of recording.
        self.applied: dict[int, Facts] = {}
        # The balances of the running period of line `_period`, each from its day on.
        self._balances: list[tuple[date, int]] = []
        self._period = -1

    @property
    def tenure(self) -> int:
        """The number of installments now."""
        return len(self.lines)

    def balance(self, after: int | None = None) -> int:
        """The principal of the lines that are not settled, or of those after a number."""
        left = self.lines[self.settled if after is None else after :]
        return sum(line["principal"] for line in left)

    def unpaid(self) -> int:
        """What is still to be paid under the schedule."""
        return sum(payment_of(line) for line in self.lines[self.settled :]) - self.credit

    def due(self, day: date) -> int:
        """The number of lines due by a day."""
        return sum(line["due"] <= day for line in self.lines)

    def overdue(self, day: date) -> int:
        """What is unpaid of the lines due by a day."""
        lines = self.lines[self.settled : self.due(day)]
        return max(0, sum(payment_of(line) for line in lines) - self.credit)

    def running_interest(self, day: date, new_balance: int | None = None) -> Fraction:
        """The interest of the period of the next line: up to a day, or with a new balance from that
        day on, of the whole period."""
        begin, end = due_date(self.start, self.settled), due_date(self.start, self.settled + 1)
        balances = self._balances if self._period == self.settled else [(begin, self.balance())]
        if new_balance is not None:
            balances = [*balances, (day, new_balance)]
        until = day if new_balance is None else end
        ends = [*(since for since, _ in balances[1:]), until]
        days = sum(
            balance * (last - since).days
            for (since, balance), last in zip(balances, ends, strict=True)
        )
        return self.rate * Fraction(days, (end - begin).days)

    def pay(self, payment: Facts) -> Facts:
        """Apply a payment; returns what it settled and how much principal it prepaid."""
        day, amount = payment["day"], payment["amount"] - payment["charge"]
        first, prepaid = self.settled, 0
        was_closed = self.closed_on is not None
        if payment["purpose"] == INSTALLMENTS:
            self._settle(amount, day, payment["grace"])
        else:
            due = min(amount, self.overdue(day))
            self._settle(due, day, payment["grace"])
            rest = amount - due
            if rest and self.settled < self.tenure:
                closes = payment["purpose"] == FORECLOSURE or rest >= self.balance()
                if closes and rest >= self._closing(day):
                    self._close(day)
                    self._settle(rest, day, payment["grace"])
                else:
                    prepaid = self._prepay(rest, day, payment)
            else:
                self.excess += rest
        if self.settled == self.tenure and self.closed_on is None:
            self.closed_on = day
        return {
            "settled": list(range(first + 1, self.settled + 1)),
            "prepaid": prepaid,
            "closed": not was_closed and self.closed_on is not None,
        }

    def schedule(self) -> list[tuple[date, int, int, int]]:
        """(due date, principal, interest, balance after) of each line."""
        return [
            (line["due"], line["principal"], line["interest"], line["balance"])
            for line in self.lines
        ]

    def last_payment(self) -> int:
        """The amount of the last line."""
        return payment_of(self.lines[-1])

    def quote(self, day: date) -> int:
        """What closes the loan on a day, all of it."""
        return self.overdue(day) + (self._closing(day) if self.due(day) < self.tenure else 0)

    def _closing(self, day: date) -> int:
        """What closes the loan beyond the lines due by a day."""
        due = max(self.due(day), self.settled)
        credit = max(
            0, self.credit - sum(payment_of(line) for line in self.lines[self.settled : due])
        )
        # Nothing is paid back, and a payment is at least a paisa.
        return max(self.balance(due) + self._closing_interest(day) - credit, 1)

    def _closing_interest(self, day: date) -> int:
        due = self.due(day)
        if self.settled > due:
            return 0
        if self.settled == due:
            return half_up(self.running_interest(day))
        # Lines due by the day are unpaid: no prepayment has changed this period.
        begin, end = due_date(self.start, due), due_date(self.start, due + 1)
        return half_up(
            self.balance(due) * self.rate * Fraction((day - begin).days, (end - begin).days)
        )

    def _close(self, day: date) -> None:
        """Replace the lines that are not settled by one."""
        balance = self.balance()
        interest = max(self._closing_interest(day), self.credit - balance + 1)
        due = due_date(self.start, self.settled + 1)
        self.lines[self.settled :] = [_line(due, balance, interest, 0)]

    def _prepay(self, amount: int, day: date, payment: Facts) -> int:
        """Repay principal, and replace the lines that are not settled; returns the principal."""
        balance = self.balance()
        prepaid = min(amount, balance)
        left = balance - prepaid
        interest: int | None = None
        if self.settled == self.due(day):
            # The running period; one that was paid ahead has no split.
            interest = half_up(self.running_interest(day, left))
            if self._period != self.settled:
                self._period = self.settled
                self._balances = [(due_date(self.start, self.settled), balance)]
            self._balances.append((day, left))
        if payment["effect"] == REDUCE_INSTALLMENT and left:
            count = self.tenure - self.settled
            reduced = max(1, installment_of(left, self.rate, count))
            self.installment = min(self.installment, reduced)
            self.agreed_tenure = self.tenure
        del self.lines[self.settled :]
        if left:
            self._add_lines(left, interest)
        elif interest:
            due = due_date(self.start, self.settled + 1)
            self.lines.append(_line(due, 0, interest, 0))
        self._settle(amount - prepaid, day, payment["grace"])
        return prepaid

    def _add_lines(self, balance: int, interest: int | None) -> None:
        """Add lines until the balance is repaid, at most up to the agreed tenure; the last one
        balances. `interest` is that of the first one."""
        while balance:
            number = len(self.lines) + 1
            if interest is None:
                interest = half_up(balance * self.rate)
                principal = min(self.installment - interest, balance)
            else:
                # A split interest can be more than a reduced installment.
                principal = min(max(self.installment - interest, 0), balance)
            if number == self.agreed_tenure:
                principal = balance
            balance -= principal
            self.lines.append(_line(due_date(self.start, number), principal, interest, balance))
            interest = None

    def _settle(self, amount: int, day: date, grace: int) -> None:
        """Credit an amount, and settle lines in order."""
        self.credit += amount
        while self.settled < self.tenure and payment_of(self.lines[self.settled]) <= self.credit:
            line = self.lines[self.settled]
            self.credit -= payment_of(line)
            line["settled_on"] = day
            self.settled += 1
            in_time = day <= line["due"] + timedelta(days=grace)
            self.on_time += in_time and payment_of(line) > 0
        if self.settled == self.tenure:
            self.excess += self.credit
            self.credit = 0


def _line(due: date, principal: int, interest: int, balance: int) -> Facts:
    return {
        "due": due,
        "principal": principal,
        "interest": interest,
        "balance": balance,
        "settled_on": None,
    }


def payment_of(line: Facts) -> int:
    """The amount of a line."""
    return int(line["principal"]) + int(line["interest"])


def replay(loan: Facts, until: date | None = None, extra: Sequence[Facts] = ()) -> Life:
    """The loan after its payments, without those that are reversed, in order of their days and then
    of recording. `until` leaves out payments after a day, `extra` adds some."""
    life = Life(loan)
    for payment in in_order([*loan["payments"], *extra], until):
        life.applied[payment["number"]] = life.pay(payment)
    return life


def in_order(payments: Iterable[Facts], until: date | None = None) -> list[Facts]:
    """The payments that count, in order."""
    counted = [
        each
        for each in payments
        if not each["reversed"] and (until is None or each["day"] <= until)
    ]
    return sorted(counted, key=lambda each: (each["day"], each["number"]))


def repayable(principal: int, bps: int, tenure: int) -> bool:
    """Whether the unrounded installment is at least the final value of a paisa per month with
    interest."""
    growth = 1 + Fraction(bps, 120_000)
    grown = sum((growth**month for month in range(tenure)), Fraction(0))
    installment = principal * growth**tenure / grown
    return installment >= grown


def days_past_due(lives: Iterable[Life], day: date) -> int:
    """Days past due of the worst of some loans at the end of a day, from their whole replays."""
    oldest = None
    for life in lives:
        for line in life.lines[life.settled_before :]:
            is_unpaid = line["settled_on"] is None or line["settled_on"] > day
            if line["due"] <= day and is_unpaid and payment_of(line) > 0:
                oldest = line["due"] if oldest is None else min(oldest, line["due"])
                break
    return 0 if oldest is None else (day - oldest).days + 1


def class_of(lives: Sequence[Life], day: date) -> str:
    """The asset class of a customer: NPA stays until no loan has arrears."""
    days = days_past_due(lives, day)
    found = CLASSES[(days > 0) + (days > 30) + (days > 60) + (days > 90)]
    while 0 < days <= 90:
        day -= timedelta(days=1)
        days = days_past_due(lives, day)
    return "NPA" if days > 90 else found


def first_unpaid_due(lives: Iterable[Life]) -> date | None:
    """The due date of the oldest line that is not settled, of some loans."""
    due = [
        line["due"] for life in lives for line in life.lines[life.settled :] if payment_of(line) > 0
    ]
    return min(due, default=None)


def worse_classes(lives: Sequence[Life], until: date, *, than: str) -> list[str]:
    """The classes that time alone brought by the end of a day, each worse than the one before."""
    due, found = first_unpaid_due(lives), [than]
    for days in (1, 31, 61, 91):
        on = until if due is None else min(until, due + timedelta(days=days - 1))
        if due is not None and due <= on:
            # A class of another loan that has been paid since has passed, unless it is NPA.
            alone = CLASSES[sum((on - due).days + 1 >= each for each in (1, 31, 61, 91))]
            current = "NPA" if class_of(lives, on) == "NPA" else alone
            if CLASSES.index(current) > CLASSES.index(found[-1]):
                found.append(current)
    return found[1:]


def npa_since(lives: Sequence[Life], day: date) -> date:
    """The first day of the NPA on a day."""
    since = day
    while days := days_past_due(lives, day):
        if days > 90:
            # The installment is unpaid since its due date.
            since = day - timedelta(days=days - 91)
            day = since
        day -= timedelta(days=1)
    return since


def booked(terms: tuple[int, int, int], start: date) -> Facts:
    """The facts of a loan that the service books."""
    principal, rate, tenure = terms
    return {
        "principal": principal,
        "bps": rate,
        "tenure": tenure,
        "installment": emi(principal, rate, tenure),
        "start": start,
        "source_on_time": 0,
        "settled_before": 0,
        "closed_before": None,
        "imported_on": None,
        "imported": False,
        "payments": [],
    }


def derived(loan: Facts) -> Facts:
    """The loan with its life, which follows from its other facts."""
    loan["life"] = replay(loan)
    return loan


def loan_as_of(loan: Facts, day: date) -> Facts:
    """The loan at the end of a day from its start on. Before its import, the installments due by
    the day count as settled, and the first of them as paid on time."""
    then = dict(loan)
    if loan["imported"] and day < loan["imported_on"]:
        settled = min(loan["settled_before"], due_by(loan["start"], loan["tenure"], day))
        then["settled_before"] = settled
        then["source_on_time"] = min(loan["source_on_time"], settled)
        if settled < loan["tenure"]:
            then["closed_before"] = None
    then["life"] = replay(then, until=day)
    return then

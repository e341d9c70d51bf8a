"""The rules in plain dicts and fractions, written from docs/rules.md without using our code.

Money is in paise, rates in basis points per year. Requests must be well-formed. Slow and simple on
purpose, to be readable.
"""

import calendar
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

RUPEE = 100
LAKH = 100_000 * RUPEE

Facts = dict[str, Any]


class Refused(Exception):  # noqa: N818 - a result, not a defect
    """A rejected request, with its reason."""


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


def emi(principal: int, bps: int, tenure: int) -> int:
    """The installment by the formula; P / n at rate 0."""
    rate = Fraction(bps, 120_000)
    if not rate:
        return half_up(Fraction(principal, tenure))
    growth = (1 + rate) ** tenure
    return half_up(principal * rate * growth / (growth - 1))


def repayable(principal: int, bps: int, tenure: int) -> bool:
    """Whether the unrounded installment is at least the final value of a paisa per month with
    interest."""
    growth = 1 + Fraction(bps, 120_000)
    grown = sum((growth**month for month in range(tenure)), Fraction(0))
    installment = principal * growth**tenure / grown
    return installment >= grown


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


def schedule(loan: Facts) -> list[tuple[date, int, int, int]]:
    """(due date, principal, interest, balance after) of each installment."""
    balance, tenure = loan["principal"], loan["tenure"]
    rate = split_rate(balance, loan["bps"], tenure, loan["installment"])
    lines = []
    for number in range(1, tenure + 1):
        interest = half_up(balance * rate)
        principal = min(loan["installment"] - interest, balance) if number < tenure else balance
        balance -= principal
        lines.append((due_date(loan["start"], number), principal, interest, balance))
    return lines


def payments_of(loan: Facts) -> list[int]:
    """The payment of each installment."""
    return [principal + interest for _, principal, interest, _ in schedule(loan)]


class Bank:
    """Customers, loans, and the day. Methods that write either raise Refused or apply
    completely."""

    def __init__(self, today: date) -> None:
        self.today = today
        self.customers: dict[int, Facts] = {}
        self.loans: dict[tuple[int, int], Facts] = {}
        self.offers: dict[int, Facts] = {}

    # Reads.

    def loans_of(self, customer_id: int) -> list[Facts]:
        """In ascending order of id."""
        keys = sorted(key for key in self.loans if key[0] == customer_id)
        return [self.loans[key] for key in keys]

    def active(self, customer_id: int) -> list[Facts]:
        """Loans with an unsettled installment."""
        return [loan for loan in self.loans_of(customer_id) if loan["closed_on"] is None]

    def debt(self, customer_id: int) -> int:
        return sum(loan["principal"] for loan in self.active(customer_id))

    def installments(self, customer_id: int) -> int:
        return sum(loan["installment"] for loan in self.active(customer_id))

    def offers_of(self, customer_id: int) -> list[tuple[int, Facts]]:
        """Latest first."""
        found = [each for each in self.offers.items() if each[1]["customer"] == customer_id]
        return sorted(found, reverse=True)

    def offer_state(self, offer: Facts) -> str:
        """OPEN up to the last day, then EXPIRED, unless it was accepted or withdrawn."""
        if offer["state"] == "OPEN" and self.today > offer["last_day"]:
            return "EXPIRED"
        return str(offer["state"])

    def held(self, customer_id: int) -> int:
        return sum(offer["principal"] for offer in self._open_offers(customer_id))

    def held_installments(self, customer_id: int) -> int:
        return sum(offer["installment"] for offer in self._open_offers(customer_id))

    def _open_offers(self, customer_id: int) -> list[Facts]:
        return [
            offer for _, offer in self.offers_of(customer_id) if self.offer_state(offer) == "OPEN"
        ]

    def score(self, customer_id: int) -> tuple[int, list[int], str]:
        """(score, hundredths of a point by component, override)."""
        loans = self.loans_of(customer_id)
        year = self.today.year
        on_time = sum(loan["on_time"] for loan in loans)
        due = sum(
            max(due_by(loan["start"], loan["tenure"], self.today), loan["on_time"])
            for loan in loans
        )
        volume = Fraction(sum(loan["principal"] for loan in loans), 10 * LAKH)
        this_year = [
            loan
            for loan in loans
            if loan["start"].year <= year
            and (loan["closed_on"] is None or loan["closed_on"].year >= year)
        ]
        points = [
            half_up(Fraction(3500 * on_time, due)) if due else 0,
            half_up(2500 * min(volume, Fraction(1))),
            half_up(2000 * min(Fraction(len(loans), 10), Fraction(1))),
            half_up(2000 * min(Fraction(len(this_year), 3), Fraction(1))),
        ]
        if not loans:
            return 0, points, "NO_CREDIT_HISTORY"
        if self.debt(customer_id) > self.customers[customer_id]["limit"]:
            return 0, points, "DEBT_EXCEEDS_APPROVED_LIMIT"
        return half_up(Fraction(sum(points), 100)), points, ""

    def judge(self, customer_id: int, principal: int, bps: int, tenure: int) -> Facts:
        """The decision on a loan: approval, rate, installment, and reasons for a decline."""
        score, _, override = self.score(customer_id)
        customer = self.customers[customer_id]
        floor = 0 if score > 50 else 1200 if score > 30 else 1600 if score > 10 else None
        rate = bps if floor is None else max(bps, floor)
        installment = emi(principal, rate, tenure)
        reasons = []
        if floor is None:
            reasons.append(override or "CREDIT_SCORE_TOO_LOW")
        last = payments_of(
            {
                "principal": principal,
                "bps": rate,
                "tenure": tenure,
                "installment": installment,
                "start": self.today,
            }
        )[-1]
        burden = self.installments(customer_id) + self.held_installments(customer_id)
        burden += max(installment, last)
        if 2 * burden > customer["income"]:
            reasons.append("EMI_BURDEN_TOO_HIGH")
        if self.debt(customer_id) + self.held(customer_id) + principal > customer["limit"]:
            reasons.append("APPROVED_LIMIT_EXCEEDED")
        if not repayable(principal, rate, tenure):
            reasons.append("LOAN_AMOUNT_TOO_SMALL")
        return {
            "approved": not reasons,
            "rate": rate,
            "installment": installment,
            "last": last,
            "reasons": reasons,
            "by_score": floor is None,
        }

    # Writes.

    def register(self, customer_id: int, phone: str, age: int, income: int) -> None:
        """Register a customer with the id issued by the service."""
        self.refuse_registration(phone)
        limit = half_up(Fraction(36 * income, LAKH)) * LAKH
        self.customers[customer_id] = {
            "phone": phone,
            "age": age,
            "income": income,
            "limit": limit,
            "imported": False,
        }

    def refuse_registration(self, phone: str) -> None:
        """Raise Refused if another customer has the phone number."""
        if any(each["phone"] == phone for each in self.customers.values()):
            raise Refused("PHONE_NUMBER_TAKEN")

    def book(self, customer_id: int, loan_id: int, asked: tuple[int, int, int]) -> None:
        """Book an approved loan with the id issued by the service."""
        judged = self.judge(customer_id, *asked)
        principal, _, tenure = asked
        self._add_loan(customer_id, loan_id, (principal, judged["rate"], tenure), self.today)

    def offer(
        self, customer_id: int, offer_id: int, asked: tuple[int, int, int], days: int
    ) -> None:
        """Hold the credit of an approved loan for some days after today."""
        judged = self.judge(customer_id, *asked)
        self.offers[offer_id] = {
            "customer": customer_id,
            "principal": asked[0],
            "bps": judged["rate"],
            "tenure": asked[2],
            "installment": judged["installment"],
            "made_on": self.today,
            "last_day": self.today + timedelta(days=days),
            "state": "OPEN",
        }

    def refuse_acceptance(self, offer: Facts, amount: int, day: date) -> None:
        """Raise Refused if the offer has no such loan."""
        self._refuse_ended(offer)
        if amount > offer["principal"]:
            raise Refused("OFFER_AMOUNT_EXCEEDED")
        if not repayable(amount, offer["bps"], offer["tenure"]):
            raise Refused("OFFER_AMOUNT_TOO_SMALL")
        if day > self.today:
            raise Refused("DISBURSEMENT_IN_FUTURE")
        if day < offer["made_on"]:
            raise Refused("DISBURSEMENT_BEFORE_OFFER")

    def accept(self, offer_id: int, loan_id: int, amount: int, day: date) -> None:
        """Book the loan of an offer with the id issued by the service."""
        offer = self.offers[offer_id]
        self.refuse_acceptance(offer, amount, day)
        offer["state"] = "ACCEPTED"
        terms = amount, offer["bps"], offer["tenure"]
        self._add_loan(offer["customer"], loan_id, terms, day)

    def withdraw(self, offer_id: int) -> None:
        """Release the credit of an offer."""
        self._refuse_ended(self.offers[offer_id])
        self.offers[offer_id]["state"] = "WITHDRAWN"

    def _refuse_ended(self, offer: Facts) -> None:
        state = self.offer_state(offer)
        if state != "OPEN":
            raise Refused("OFFER_EXPIRED" if state == "EXPIRED" else "OFFER_ENDED")

    def _add_loan(
        self, customer_id: int, loan_id: int, terms: tuple[int, int, int], start: date
    ) -> None:
        principal, rate, tenure = terms
        self.loans[customer_id, loan_id] = {
            "principal": principal,
            "bps": rate,
            "tenure": tenure,
            "installment": emi(principal, rate, tenure),
            "start": start,
            "source_on_time": 0,
            "on_time": 0,
            "settled_before": 0,
            "settled": 0,
            "paid": 0,
            "paid_on": None,
            "closed_on": None,
            "imported": False,
        }

    def outstanding(self, loan: Facts) -> int:
        """The outstanding amount."""
        asked = payments_of(loan)
        return sum(asked[loan["settled_before"] :]) - int(loan["paid"])

    def pay(self, key: tuple[int, int], amount: int, day: date) -> list[int]:
        """The numbers of the installments settled by a payment."""
        loan = self.loans[key]
        if loan["closed_on"] is not None:
            raise Refused("LOAN_CLOSED")
        if day > self.today:
            raise Refused("PAYMENT_IN_FUTURE")
        if day < loan["start"]:
            raise Refused("PAYMENT_BEFORE_LOAN_START")
        if amount > self.outstanding(loan):
            raise Refused("PAYMENT_EXCEEDS_OUTSTANDING")
        made = loan.setdefault("payments", [])
        number = len(made)
        made.append((day, number, amount))
        loan["paid"], loan["settled"] = 0, loan["settled_before"]
        loan["on_time"] = loan["source_on_time"]
        asked = payments_of(loan)
        own: list[int] = []
        # In the order of the days, then of the recording.
        for day_of, place, amount_of in sorted(made):
            loan["paid"] += amount_of
            loan["paid_on"] = day_of
            while (
                loan["settled"] < loan["tenure"]
                and sum(asked[loan["settled_before"] : loan["settled"] + 1]) <= loan["paid"]
            ):
                loan["settled"] += 1
                on_time = day_of <= due_date(loan["start"], loan["settled"])
                loan["on_time"] += on_time and asked[loan["settled"] - 1] > 0
                if place == number:
                    own.append(loan["settled"])
            if loan["settled"] == loan["tenure"]:
                loan["closed_on"] = day_of
        return own

    def import_customers(
        self, rows: Sequence[Facts], *, update: bool, writes: bool
    ) -> dict[str, int]:
        """Import rows; returns the number of rows per outcome."""
        counts = dict.fromkeys(OUTCOMES, 0)
        customers = {number: dict(facts) for number, facts in self.customers.items()}
        # A number stays in use until the end of the file, even if its owner gets another one.
        holders = {facts["phone"]: number for number, facts in customers.items()}
        first: dict[int, Facts] = {}
        for row in rows:
            outcome = _outcome_of_customer(row, customers, holders, first, update=update)
            counts[outcome] += 1
            if outcome in ("inserted", "updated"):
                number = row["customer_id"]
                limit = row["limit"]
                if limit is None and outcome == "updated":
                    limit = customers[number]["limit"]
                if limit is None:
                    limit = half_up(Fraction(36 * row["income"], LAKH)) * LAKH
                customers[number] = {
                    **{name: row[name] for name in ("phone", "age", "income")},
                    "limit": limit,
                    "imported": True,
                }
                holders[row["phone"]] = number
        if writes:
            self.customers = customers
        return counts

    def import_loans(self, rows: Sequence[Facts], *, update: bool, writes: bool) -> dict[str, int]:
        """Import rows; returns the number of rows per outcome."""
        counts = dict.fromkeys(OUTCOMES, 0)
        loans = {key: dict(facts) for key, facts in self.loans.items()}
        first: dict[tuple[int, int], Facts] = {}
        for row in rows:
            outcome = self._outcome_of_loan(row, loans, first, update=update)
            counts[outcome] += 1
            if outcome in ("inserted", "updated"):
                loans[row["customer_id"], row["loan_id"]] = self._imported(row)
        if writes:
            self.loans = loans
        return counts

    def _outcome_of_loan(
        self,
        row: Facts,
        loans: dict[tuple[int, int], Facts],
        first: dict[tuple[int, int], Facts],
        *,
        update: bool,
    ) -> str:
        key = (row["customer_id"], row["loan_id"])
        if row["start"] > self.today or row["source_on_time"] > row["tenure"]:
            return "rejected"
        if row["customer_id"] not in self.customers:
            return "rejected"
        if key in first:
            return "unchanged" if _same(first[key], row) else "rejected"
        stored = loans.get(key)
        outcome = "inserted"
        if stored is not None and _same(stored, row):
            outcome = "unchanged"
        elif stored is not None and not update:
            outcome = "skipped"
        elif stored is not None:
            if not stored["imported"] or stored["paid"]:
                return "rejected"
            outcome = "updated"
        first[key] = row
        return outcome

    def _imported(self, row: Facts) -> Facts:
        due = due_by(row["start"], row["tenure"], self.today)
        settled = min(max(due, row["source_on_time"]), row["tenure"])
        end = due_date(row["start"], row["tenure"])
        return {
            **{name: row[name] for name in _LOAN_FACTS},
            "on_time": row["source_on_time"],
            "settled_before": settled,
            "settled": settled,
            "paid": 0,
            "paid_on": None,
            "closed_on": min(end, self.today) if settled == row["tenure"] else None,
            "imported": True,
        }


OUTCOMES = ("inserted", "updated", "unchanged", "skipped", "rejected")
_LOAN_FACTS = ("principal", "bps", "tenure", "installment", "start", "source_on_time")


def _same(one: Facts, other: Facts) -> bool:
    return all(one[name] == other[name] for name in _LOAN_FACTS)


def _outcome_of_customer(
    row: Facts,
    customers: dict[int, Facts],
    holders: dict[str, int],
    first: dict[int, Facts],
    *,
    update: bool,
) -> str:
    number = row["customer_id"]
    if row["age"] < 18:
        return "rejected"
    if number in first:
        return "unchanged" if first[number] == row else "rejected"
    stored = customers.get(number)
    outcome = "inserted"
    if stored is not None:
        same = all(stored[name] == row[name] for name in ("phone", "age", "income"))
        if same and row["limit"] in (None, stored["limit"]):
            outcome = "unchanged"
        else:
            outcome = "updated" if update else "skipped"
    if outcome in ("inserted", "updated"):
        if stored is not None and not stored["imported"]:
            return "rejected"
        if holders.get(row["phone"], number) != number:
            return "rejected"
    first[number] = row
    return outcome

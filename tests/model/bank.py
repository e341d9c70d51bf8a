"""The rules in plain dicts and fractions, written from docs/rules.md without using our code.

Money is in paise, rates in basis points per year. Requests must be well-formed. Slow and simple on
purpose, to be readable.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from fractions import Fraction

from tests.model.imports import (
    CUSTOMER_FACTS,
    LOAN_FACTS,
    LOAN_RECORD,
    OUTCOMES,
    is_same,
    outcome_of_customer,
)
from tests.model.loans import (
    CLASSES,
    FORECLOSURE,
    PART_PREPAYMENT,
    Facts,
    Life,
    booked,
    class_of,
    days_past_due,
    derived,
    due_by,
    due_date,
    emi,
    half_up,
    in_order,
    loan_as_of,
    payment_of,
    repayable,
    replay,
    worse_classes,
)
from tests.model.policies import PRUDENT, Policies, Refused

RUPEE = 100
LAKH = 100_000 * RUPEE
_MOST_REASONS = 4


class Bank(Policies):
    """Customers, loans, and the day. Methods that write either raise Refused or apply
    completely."""

    def __init__(self, today: date) -> None:
        super().__init__(today)
        self.customers: dict[int, Facts] = {}
        # The changes of each customer's facts and of their loans, in order.
        self.changes: dict[int, list[Facts]] = {}
        self.loans: dict[tuple[int, int], Facts] = {}
        self.offers: dict[int, Facts] = {}
        # The loan of each payment.
        self.payments: dict[int, tuple[tuple[int, int], Facts]] = {}
        self.ingestions: dict[str, Facts] = {}
        # The number of the last write, and those at which something happened to a customer.
        self.writes = 0
        self.decided: dict[int, int] = {}
        self.approved: dict[int, int] = {}
        self.changed_by_hand: dict[int, int] = {}
        # The class announced last, and all announced changes (previous, current).
        self.announced: dict[int, str] = {}
        self.announcements: dict[int, list[tuple[str, str]]] = {}

    # Reads.

    def as_of(self, day: date) -> "Bank":
        """The bank at the end of an earlier day, from the facts that are known now."""
        then = Bank(day)
        # The score of an earlier day is that of the scorecard that decides today.
        then.in_force = self.scorecard(self.today)
        for number, facts in self.customers.items():
            then.customers[number] = dict(facts)
            for change in reversed(self.changes.get(number, [])):
                if not change["loan"] and change["day"] > day:
                    then.customers[number] |= {
                        name: old for name, (old, _) in change["facts"].items()
                    }
        for key, loan in self.loans.items():
            if loan["start"] <= day:
                then.loans[key] = loan_as_of(loan, day)
        for offer_id, offer in self.offers.items():
            if offer["made_on"] <= day:
                is_held = offer["released_on"] is None or day < offer["released_on"]
                then.offers[offer_id] = {**offer, "state": "OPEN" if is_held else "ENDED"}
        return then

    def lives(self, customer_id: int) -> list[Life]:
        """The loans after their payments, in ascending order of id."""
        return [loan["life"] for loan in self.loans_of(customer_id)]

    def delinquency(self, customer_id: int) -> tuple[int, str]:
        """(days past due, asset class) of a customer today."""
        lives = self.lives(customer_id)
        return days_past_due(lives, self.today), class_of(lives, self.today)

    def loans_of(self, customer_id: int) -> list[Facts]:
        """In ascending order of id."""
        keys = sorted(key for key in self.loans if key[0] == customer_id)
        return [self.loans[key] for key in keys]

    def active(self, customer_id: int) -> list[Facts]:
        """Loans with an unsettled installment."""
        return [loan for loan in self.loans_of(customer_id) if loan["life"].closed_on is None]

    def debt(self, customer_id: int) -> int:
        return sum(loan["principal"] for loan in self.active(customer_id))

    def counted_debt(self, customer_id: int) -> int:
        """The debt that counts against the limit."""
        if self.scorecard(self.today) == PRUDENT:
            return sum(loan["life"].balance() for loan in self.active(customer_id))
        return self.debt(customer_id)

    def installments(self, customer_id: int) -> int:
        return sum(loan["life"].installment for loan in self.active(customer_id))

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
        lives = [loan["life"] for loan in loans]
        if self.scorecard(self.today) == PRUDENT:
            due = sum(life.due(self.today) for life in lives)
            on_time = sum(_on_time_when_due(life, self.today) for life in lives)
        else:
            on_time = sum(life.on_time for life in lives)
            due = sum(
                max(due_by(life.start, life.tenure, self.today), life.on_time) for life in lives
            )
        volume = Fraction(sum(loan["principal"] for loan in loans), 10 * LAKH)
        this_year = [
            life
            for life in lives
            if life.start.year <= year and (life.closed_on is None or life.closed_on.year >= year)
        ]
        points = [
            half_up(Fraction(3500 * on_time, due)) if due else 0,
            half_up(2500 * min(volume, Fraction(1))),
            half_up(2000 * min(Fraction(len(loans), 10), Fraction(1))),
            half_up(2000 * min(Fraction(len(this_year), 3), Fraction(1))),
        ]
        if not loans:
            return 0, points, "NO_CREDIT_HISTORY"
        if self.counted_debt(customer_id) > self.customers[customer_id]["limit"]:
            return 0, points, "DEBT_EXCEEDS_APPROVED_LIMIT"
        return half_up(Fraction(sum(points), 100)), points, ""

    def judge(
        self, customer_id: int, principal: int, bps: int, tenure: int, *, is_reviewed: bool = False
    ) -> Facts:
        """The decision on a loan: outcome, rate, installment, and reasons for a decline or a
        referral. `is_reviewed`: a reviewer approved the request."""
        score, _, override = self.score(customer_id)
        customer = self.customers[customer_id]
        floor = 0 if score > 50 else 1200 if score > 30 else 1600 if score > 10 else None
        is_prudent = self.scorecard(self.today) == PRUDENT
        is_new = is_prudent and override == "NO_CREDIT_HISTORY"
        floor = 1600 if is_new else floor
        days, asset_class = self.delinquency(customer_id)
        rate = bps if floor is None else max(bps, floor)
        installment = emi(principal, rate, tenure)
        reasons = []
        if floor is None:
            reasons.append(override or "CREDIT_SCORE_TOO_LOW")
        if is_prudent and (days > 30 or asset_class == "NPA"):
            reasons.append("POLICY_RULE")
        last = Life(booked((principal, rate, tenure), self.today)).last_payment()
        burden = self.installments(customer_id) + self.held_installments(customer_id)
        burden += max(installment, last)
        if 2 * burden > customer["income"]:
            reasons.append("EMI_BURDEN_TOO_HIGH")
        used = self.counted_debt(customer_id) + self.held(customer_id)
        if used + principal > customer["limit"]:
            reasons.append("APPROVED_LIMIT_EXCEEDED")
        if is_new and self.held(customer_id) + principal > LAKH // 2:
            reasons.append("NEW_TO_CREDIT_AMOUNT_EXCEEDED")
        if not repayable(principal, rate, tenure):
            reasons.append("LOAN_AMOUNT_TOO_SMALL")
        outcome = "DECLINED" if reasons else "APPROVED"
        if is_prudent and not reasons and 1 <= days <= 30 and not is_reviewed:
            outcome, reasons = "REFERRED", ["POLICY_RULE"]
        return {
            "outcome": outcome,
            "rate": rate,
            "installment": installment,
            "last": last,
            "reasons": reasons[:_MOST_REASONS],
            "by_score": floor is None,
        }

    # Writes.

    def register(self, customer_id: int, phone: str, age: int, income: int) -> None:
        """Register a customer with the id issued by the service."""
        self.refuse_registration(phone)
        self.customers[customer_id] = {
            "phone": phone,
            "age": age,
            "income": income,
            "limit": limit_by_rule(income),
            "limit_set": False,
            "imported": False,
        }

    def refuse_registration(self, phone: str) -> None:
        """Raise Refused if another customer has the phone number."""
        if any(each["phone"] == phone for each in self.customers.values()):
            raise Refused("PHONE_NUMBER_TAKEN")

    def update(self, customer_id: int, changes: Facts) -> None:
        """Change facts of a customer; a limit of None follows the income again."""
        former = self.customers[customer_id]
        if "phone" in changes and changes["phone"] != former["phone"]:
            self.refuse_registration(changes["phone"])
        facts = {**former, **changes}
        if changes.get("limit") is not None:
            facts["limit_set"] = True
        elif "limit" in changes:
            facts |= {"limit": limit_by_rule(facts["income"]), "limit_set": False}
        else:
            facts |= _limit_after(former, facts["income"])
        if facts != former:
            self.writes += 1
            self.changed_by_hand[customer_id] = self.writes
        self._change(customer_id, facts)

    def decides(self, customer_id: int, *, is_approved: bool) -> None:
        """Store a decision: that of an application, not that of a check."""
        self.writes += 1
        self.decided[customer_id] = self.writes
        if is_approved:
            self.approved[customer_id] = self.writes

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
            "released_on": None,
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
        offer["state"], offer["released_on"] = "ACCEPTED", day
        terms = amount, offer["bps"], offer["tenure"]
        self._add_loan(offer["customer"], loan_id, terms, day)

    def withdraw(self, offer_id: int) -> None:
        """Release the credit of an offer."""
        self._refuse_ended(self.offers[offer_id])
        self.offers[offer_id] |= {"state": "WITHDRAWN", "released_on": self.today}

    def _refuse_ended(self, offer: Facts) -> None:
        state = self.offer_state(offer)
        if state != "OPEN":
            raise Refused("OFFER_EXPIRED" if state == "EXPIRED" else "OFFER_ENDED")

    def _add_loan(
        self, customer_id: int, loan_id: int, terms: tuple[int, int, int], start: date
    ) -> None:
        self.loans[customer_id, loan_id] = derived(booked(terms, start))

    def quote(self, key: tuple[int, int], day: date) -> int:
        """What closes a loan on a day."""
        loan = self.loans[key]
        self._refuse_day(loan, min(day, self.today))
        _refuse_foreclosure(loan, day)
        return replay(loan, until=day).quote(day)

    def _refuse_day(self, loan: Facts, day: date) -> None:
        """Raise Refused if the loan takes no payment of a day."""
        if loan["life"].closed_on is not None:
            raise Refused("LOAN_CLOSED")
        if day > self.today:
            raise Refused("PAYMENT_IN_FUTURE")
        if day < loan["start"]:
            raise Refused("PAYMENT_BEFORE_LOAN_START")

    def paid(self, key: tuple[int, int], asked: Facts) -> Life:
        """The loan after a payment that is not recorded yet. Raises Refused if it cannot be."""
        loan, day = self.loans[key], asked["day"]
        self._refuse_day(loan, day)
        then = replay(loan, until=day)
        if asked["purpose"] == PART_PREPAYMENT:
            if then.overdue(day):
                raise Refused("PREPAYMENT_WHILE_OVERDUE")
            if asked["amount"] >= then.balance():
                raise Refused("PREPAYMENT_TOO_LARGE")
        if asked["purpose"] == FORECLOSURE:
            _refuse_foreclosure(loan, day)
            if asked["amount"] != then.quote(day):
                raise Refused("FORECLOSURE_AMOUNT_DIFFERS")
        life = replay(loan, extra=[asked])
        if life.excess:
            raise Refused("PAYMENT_EXCEEDS_OUTSTANDING")
        return life

    def payment(self, key: tuple[int, int], amount: int, day: date, purpose: str) -> Facts:
        """The next payment of a loan."""
        return {
            "number": len(self.loans[key]["payments"]) + 1,
            "amount": amount,
            "day": day,
            "purpose": purpose,
            "effect": "",
            "charge": 0,
            "grace": 0,
            "reversed": "",
        }

    def pay(self, key: tuple[int, int], payment_id: int, asked: Facts) -> None:
        """Record a payment with the id issued by the service."""
        loan, before = self.loans[key], self.lives(key[0])
        loan["payments"].append(asked)
        self.payments[payment_id] = key, asked
        derived(loan)
        self.announce(key[0], before)

    def reverse(self, payment_id: int, reason: str) -> None:
        """Take a payment back."""
        if payment_id not in self.payments:
            raise Refused("PAYMENT_NOT_FOUND")
        key, payment = self.payments[payment_id]
        if payment["reversed"]:
            raise Refused("PAYMENT_ALREADY_REVERSED")
        before = self.lives(key[0])
        payment["reversed"] = reason
        derived(self.loans[key])
        self.announce(key[0], before)

    # Announced classes.

    def announce(self, customer_id: int, before: Sequence[Life] | None = None) -> None:
        """Announce the changes of class: those for the worse at the ends of days before today, and
        an improvement of today. `before` are the loans before a payment of today."""
        lives, yesterday = self.lives(customer_id), self.today - timedelta(days=1)
        for found in (before, lives):
            announced = self.announced.get(customer_id, CLASSES[0])
            for each in worse_classes(found or (), yesterday, than=announced):
                self._announce(customer_id, each)
            now = class_of(lives, self.today)
            if CLASSES.index(now) < CLASSES.index(self.announced.get(customer_id, CLASSES[0])):
                self._announce(customer_id, now)

    def _announce(self, customer_id: int, current: str) -> None:
        previous = self.announced.get(customer_id, CLASSES[0])
        self.announcements.setdefault(customer_id, []).append((previous, current))
        self.announced[customer_id] = current

    # Imports.

    def _begin_import(self, ingestion_id: str, kind: str) -> None:
        self.writes += 1
        self.ingestions[ingestion_id] = {"kind": kind, "is_reverted": False, "rows": {}}

    def import_customers(
        self, ingestion_id: str, rows: Sequence[Facts], *, update: bool, writes: bool
    ) -> dict[str, int]:
        """Import rows; returns the number of rows per outcome."""
        self._begin_import(ingestion_id, "CUSTOMERS")
        counts = dict.fromkeys(OUTCOMES, 0)
        customers = {number: dict(facts) for number, facts in self.customers.items()}
        # A number stays in use until the end of the file, even if its owner gets another one.
        holders = {facts["phone"]: number for number, facts in customers.items()}
        first: dict[int, Facts] = {}
        written: dict[int, int] = {}
        for row_number, row in enumerate(rows, start=1):
            outcome = outcome_of_customer(row, customers, holders, first, update=update)
            counts[outcome] += 1
            if outcome in ("inserted", "updated"):
                number = row["customer_id"]
                limit = {"limit": row["limit"], "limit_set": True}
                if row["limit"] is None and outcome == "updated":
                    limit = _limit_after(customers[number], row["income"])
                elif row["limit"] is None:
                    limit = {"limit": limit_by_rule(row["income"]), "limit_set": False}
                customers[number] = {
                    **{name: row[name] for name in ("phone", "age", "income")},
                    **limit,
                    "imported": True,
                }
                holders[row["phone"]] = number
                written[number] = row_number
        if writes:
            for number, row_number in written.items():
                self._note_row(ingestion_id, number, row_number, self.customers.get(number))
                self._change(number, customers[number] | {"writer": ingestion_id}, ingestion_id)
        return counts

    def _note_row(
        self, ingestion_id: str, key: int | tuple[int, int], row_number: int, former: Facts | None
    ) -> None:
        """Note that a row of an import inserted a record, or updated the former one."""
        self.ingestions[ingestion_id]["rows"][key] = {
            "number": row_number,
            "former": former,
            "at": self.writes,
        }

    def _change(self, number: int, facts: Facts, ingestion_id: str = "") -> None:
        """Store the facts of a customer, and record those that changed."""
        former = self.customers.get(number)
        self.customers[number] = facts
        if former is not None:
            self._record(number, 0, former, facts, CUSTOMER_FACTS, ingestion_id)

    def _record(
        self,
        number: int,
        loan_id: int,
        former: Facts,
        facts: Facts,
        names: Sequence[str],
        ingestion_id: str,
    ) -> None:
        """Record a change of facts of a customer or of a loan, if there is any."""
        changed = {
            name: (former[name], facts[name]) for name in names if former[name] != facts[name]
        }
        if changed:
            change = {
                "day": self.today,
                "loan": loan_id,
                "ingestion": ingestion_id,
                "facts": changed,
            }
            self.changes.setdefault(number, []).append(change)

    def import_loans(
        self, ingestion_id: str, rows: Sequence[Facts], *, update: bool, writes: bool
    ) -> dict[str, int]:
        """Import rows; returns the number of rows per outcome."""
        self._begin_import(ingestion_id, "LOANS")
        counts = dict.fromkeys(OUTCOMES, 0)
        loans = dict(self.loans)
        first: dict[tuple[int, int], Facts] = {}
        written: dict[tuple[int, int], int] = {}
        for row_number, row in enumerate(rows, start=1):
            outcome = self._outcome_of_loan(row, loans, first, update=update)
            counts[outcome] += 1
            if outcome in ("inserted", "updated"):
                key = row["customer_id"], row["loan_id"]
                loans[key] = self._imported(row) | {"writer": ingestion_id}
                written[key] = row_number
        if writes:
            for key, row_number in written.items():
                self._note_row(ingestion_id, key, row_number, self.loans.get(key))
                self._change_loan(key, loans[key], ingestion_id)
            for number in {key[0] for key in written if self._was_updated(ingestion_id, key)}:
                self.announce(number)
        return counts

    def _was_updated(self, ingestion_id: str, key: int | tuple[int, int]) -> bool:
        return self.ingestions[ingestion_id]["rows"][key]["former"] is not None

    def _change_loan(self, key: tuple[int, int], loan: Facts, ingestion_id: str) -> None:
        """Store an imported loan, and record the facts that changed."""
        former = self.loans.get(key)
        self.loans[key] = loan
        if former is not None:
            self._record(
                *key, _facts_of_loan(former), _facts_of_loan(loan), LOAN_RECORD, ingestion_id
            )

    # Reverted imports.

    def refuse_revert(self, ingestion_id: str) -> None:
        """Raise Refused if the import is reverted already."""
        if self.ingestions[ingestion_id]["is_reverted"]:
            raise Refused("INGESTION_ALREADY_REVERTED")

    def revert(self, ingestion_id: str) -> Facts:
        """Take the rows of an import back where nothing depends on them. Returns the numbers of
        removed and restored records, and the kept rows: (number, record, reason)."""
        self.refuse_revert(ingestion_id)
        self.writes += 1
        made = self.ingestions[ingestion_id]
        made["is_reverted"] = True
        rows = made["rows"]
        keeps = {key: self._keeper(ingestion_id, key) for key in rows}
        removed = [key for key in rows if not keeps[key] and rows[key]["former"] is None]
        for key in removed:
            (self.customers if made["kind"] == "CUSTOMERS" else self.loans).pop(key)
        restored = [key for key in rows if not keeps[key] and rows[key]["former"] is not None]
        if made["kind"] == "CUSTOMERS":
            holders = {facts["phone"]: number for number, facts in self.customers.items()}
            for key in restored:
                if holders.get(rows[key]["former"]["phone"], key) != key:
                    keeps[key] = "PHONE_TAKEN"
            restored = [key for key in restored if not keeps[key]]
            for key in restored:
                self._change(key, rows[key]["former"], ingestion_id)
        else:
            for key in restored:
                self._change_loan(key, rows[key]["former"], ingestion_id)
            for number in {key[0] for key in (*removed, *restored)}:
                self.announce(number)
        kept = [
            (rows[key]["number"], _name_of(key), reason) for key, reason in keeps.items() if reason
        ]
        return {"removed": len(removed), "restored": len(restored), "kept": sorted(kept)}

    def _keeper(self, ingestion_id: str, key: int | tuple[int, int]) -> str:
        """Why a row of an import stays; empty if nothing depends on it."""
        made = self.ingestions[ingestion_id]
        row = made["rows"][key]
        if isinstance(key, tuple):
            if self.loans[key]["writer"] != ingestion_id:
                return "CHANGE_SINCE"
            if self.loans[key]["payments"]:
                return "PAYMENT_SINCE"
            return "BOOKING_SINCE" if self.approved.get(key[0], 0) > row["at"] else ""
        if self.customers[key]["writer"] != ingestion_id:
            return "CHANGE_SINCE"
        if self.changed_by_hand.get(key, 0) > row["at"]:
            return "CHANGE_SINCE"
        if row["former"] is not None:
            return "BOOKING_SINCE" if self.approved.get(key, 0) > row["at"] else ""
        return "CUSTOMER_IN_USE" if self.loans_of(key) or key in self.decided else ""

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
            return "unchanged" if is_same(first[key], row) else "rejected"
        stored = loans.get(key)
        outcome = "inserted"
        if stored is not None and is_same(stored, row):
            outcome = "unchanged"
        elif stored is not None and not update:
            outcome = "skipped"
        elif stored is not None:
            if not stored["imported"] or stored["payments"]:
                return "rejected"
            outcome = "updated"
        first[key] = row
        return outcome

    def _imported(self, row: Facts) -> Facts:
        due = due_by(row["start"], row["tenure"], self.today)
        settled = min(max(due, row["source_on_time"]), row["tenure"])
        end = due_date(row["start"], row["tenure"])
        return derived(
            {
                **{name: row[name] for name in LOAN_FACTS},
                "settled_before": settled,
                "closed_before": min(end, self.today) if settled == row["tenure"] else None,
                "imported_on": self.today,
                "imported": True,
                "payments": [],
            }
        )


def _on_time_when_due(life: Life, day: date) -> int:
    """The installments due by a day that were paid on time: without those paid on time that are
    settled ahead."""
    due = life.due(day)
    ahead = sum(payment_of(line) > 0 for line in life.lines[due : life.settled])
    paid: int = life.on_time - ahead
    return min(max(paid, 0), due)


def limit_by_rule(income: int) -> int:
    """36 months' income to the nearest lakh."""
    return half_up(Fraction(36 * income, LAKH)) * LAKH


def _limit_after(former: Facts, income: int) -> Facts:
    """The limit after the income changes: it follows the income unless it was set. One that differs
    from the rule was set."""
    if income == former["income"]:
        return {name: former[name] for name in ("limit", "limit_set")}
    if former["limit_set"] or former["limit"] != limit_by_rule(former["income"]):
        return {"limit": former["limit"], "limit_set": True}
    return {"limit": limit_by_rule(income), "limit_set": False}


def _refuse_foreclosure(loan: Facts, day: date) -> None:
    """Raise Refused if a payment is dated after the day: it would follow the foreclosure."""
    if any(payment["day"] > day for payment in in_order(loan["payments"])):
        raise Refused("FORECLOSURE_BEFORE_PAYMENT")


def _facts_of_loan(loan: Facts) -> Facts:
    """The facts of an imported loan whose changes are recorded."""
    return {
        **{name: loan[name] for name in LOAN_FACTS},
        "end": due_date(loan["start"], loan["tenure"]),
        "settled": loan["settled_before"],
        "closed": loan["closed_before"],
    }


def _name_of(key: int | tuple[int, int]) -> str:
    return f"loan {key[1]} of customer {key[0]}" if isinstance(key, tuple) else f"customer {key}"

"""Recomputes a customer's history: every booking, payment and score in the order of events.

It uses no value that the service derived. It computes loans from their terms and payments,
positions and scores from the loans, and compares each decision with the position at the time of the
decision.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from credit_service.clock import INDIA
from credit_service.domain.decisions import DecisionInputs, decode_inputs
from credit_service.domain.delinquency import (
    Arrears,
    AssetClass,
    ClassChange,
    Settlement,
    arrears,
    class_changes,
    days_and_class,
)
from credit_service.domain.errors import CreditError
from credit_service.domain.loan_replay import LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan, LoanState
from credit_service.domain.payment_recording import record_payment
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect
from credit_service.domain.policy_facts import policy_facts
from credit_service.domain.positions import CreditPosition, Hold, position_from_loans
from credit_service.domain.scorecard import STANDARD_DOCUMENT, Scorecard
from credit_service.domain.scoring import score
from credit_service.storage import loans as stored_loans
from credit_service.storage.arrears import event_fields

_BEFORE_CLASSES = ("asset_class_changed", "loan_closed", "loan_prepaid")
"""The events that may follow a payment or a reversal before its last change of class."""
_ON_ITS_WAY = timedelta(seconds=10)
Find = Callable[[str, str], None]
"""Records a finding: its kind and details."""

_EVENTS = text(
    """SELECT e.customer_id, e.event_seq, e.kind, e.customer_version,
        CAST(e.payload ->> 'decision_id' AS bigint) AS decision_id,
        CAST(e.payload ->> 'payment_id' AS bigint) AS payment_id,
        CAST(coalesce(e.payload ->> 'offer_id', e.payload #>> '{offer,offer_id}') AS bigint)
            AS offer_id,
        CAST(e.payload #>> '{loan,loan_id}' AS bigint) AS loan_id, e.occurred_at, e.payload
    FROM events e WHERE e.customer_id > 0 ORDER BY e.customer_id, e.event_seq"""
)
_DECISIONS = text(
    """SELECT decision_id, approved, loan_id, customer_version, decided_at, inputs::text AS inputs
    FROM decisions"""
)
_OFFERS = text("SELECT offer_id, principal_paise, installment_paise, last_day FROM loan_offers")
_PAYMENTS = text(
    """SELECT payment_id, loan_id, payment_number, amount_paise, paid_on, settled_count,
        on_time_count, closed_loan, purpose, effect, charge_paise
    FROM payments"""
)
_HISTORY = text(
    """SELECT customer_id, event_seq, score, previous_score, override, computed_on, customer_version
    FROM score_history ORDER BY customer_id, event_seq"""
)
_CUSTOMERS = text(
    """SELECT customer_id, version, monthly_income_paise, approved_limit_paise FROM customers"""
)
_CHANGES = text(
    """SELECT customer_id, event_seq, fact, CAST(old_value AS bigint) AS old,
        CAST(new_value AS bigint) AS new
    FROM fact_changes
    WHERE loan_id IS NULL AND fact IN ('monthly_income_paise', 'approved_limit_paise')
    ORDER BY customer_id, event_seq"""
)
_SCHEDULED = text(
    """SELECT effective_on, version FROM scorecard_changes WHERE kind = 'SCHEDULED'
    ORDER BY effective_on"""
)
_LOANS = text(f"SELECT {stored_loans.COLUMNS} FROM loans l")  # noqa: S608 - columns of our own


@dataclass
class _Figures:
    """The sums used by decisions, updated with each new and closed loan."""

    debt: int = 0
    installments: int = 0
    count: int = 0
    total: int = 0
    on_time: int = 0

    def add(self, loan: Loan) -> None:
        self.count += 1
        self.total += loan.principal_paise
        self.on_time += loan.emis_paid_on_time
        if loan.state is LoanState.ACTIVE:
            self.debt += loan.principal_paise
            self.installments += loan.installment_paise

    def moved(self, before: Loan, after: Loan) -> None:
        self.on_time += after.emis_paid_on_time - before.emis_paid_on_time
        if before.state is LoanState.ACTIVE:
            self.debt -= before.principal_paise
            self.installments -= before.installment_paise
        if after.state is LoanState.ACTIVE:
            self.debt += after.principal_paise
            self.installments += after.installment_paise


@dataclass
class Life:
    """One customer: stored data and the current state of the replay."""

    customer_id: int
    version: int
    # At the moment of the replay.
    income: int
    limit: int
    stored: dict[int, Loan] = field(default_factory=dict)
    loans: dict[int, Loan] = field(default_factory=dict)
    # The payments that count, by loan and number.
    payments: dict[int, dict[int, PaymentFact]] = field(default_factory=dict)
    # What settled the installments of the loans with payments.
    settlements: dict[int, Sequence[Settlement]] = field(default_factory=dict)
    # The class announced last, and the changes that the last write announces.
    announced: AssetClass = AssetClass.STANDARD
    to_announce: list[ClassChange] = field(default_factory=list)
    # Of the offers that are open.
    holds: dict[int, Hold] = field(default_factory=dict)
    figures: _Figures = field(default_factory=_Figures)
    last_score: int | None = None
    last_override: str | None = None

    def change(self, fact: str, value: int) -> int:
        """Set a fact by the name of its column; returns the former value."""
        name = {"monthly_income_paise": "income", "approved_limit_paise": "limit"}[fact]
        former: int = getattr(self, name)
        setattr(self, name, value)
        return former

    def held(self, day: date) -> tuple[int, int]:
        """(principal, installments) that offers hold on a day."""
        open_ones = [hold for hold in self.holds.values() if hold.last_day >= day]
        return (
            sum(hold.principal_paise for hold in open_ones),
            sum(hold.installment_paise for hold in open_ones),
        )

    def arrears(self, day: date) -> Arrears:
        """The arrears at the end of a day."""
        return arrears(list(self.loans.values()), self.settlements, day)

    def used(self, day: date) -> tuple[int, int]:
        """(principal, installments) of the active loans and the holds on a day."""
        held, held_installments = self.held(day)
        return self.figures.debt + held, self.figures.installments + held_installments


class Replay:
    """All events, read at once and processed in order."""

    def __init__(self, connection: Connection, scorecard: Scorecard, find: Find) -> None:
        self._scorecard = scorecard
        self._find = find
        self.lives = {row[0]: Life(*row) for row in connection.execute(_CUSTOMERS)}
        for row in connection.execute(_LOANS):
            loan = stored_loans.loan(row)
            life = self.lives[loan.customer_id]
            life.stored[loan.loan_id] = loan
            if loan.imported:
                # The campaign records no payments for imported loans.
                life.loans[loan.loan_id] = loan
                life.figures.add(loan)
        self._changes: dict[tuple[int, int], list[Any]] = {}
        for row in reversed(connection.execute(_CHANGES).all()):
            self._changes.setdefault((row.customer_id, row.event_seq), []).append(row)
            # Back to the facts from before the first change.
            self.lives[row.customer_id].change(row.fact, row.old)
        self._events = connection.execute(_EVENTS).all()
        self._decisions = {row.decision_id: row for row in connection.execute(_DECISIONS)}
        self._schedule = connection.execute(_SCHEDULED).all()
        self._offers = {row.offer_id: Hold(*row) for row in connection.execute(_OFFERS)}
        self._payments = {row.payment_id: row for row in connection.execute(_PAYMENTS)}
        self._scores = {
            (row.customer_id, row.event_seq): row for row in connection.execute(_HISTORY)
        }
        self.scores_checked = self.decisions_checked = 0
        self.reversals_checked = self.prepayments_checked = self._prepayments_announced = 0
        self.updates_checked = self.backdated_checked = 0
        self.classes_checked = self.facts_checked = 0

    def run(self, moved_by_ingestions: range) -> None:
        """Process all events. The imported loans of customers with ingestions are checked only at
        the end, because the imports have no event of the customer."""
        for event in self._events:
            life = self.lives[event.customer_id]
            whole = life.customer_id not in moved_by_ingestions
            self._check_announced(life, event.kind)
            match event.kind:
                case "loan_created" if event.offer_id is not None:
                    # Without a decision; loan_offer_ended follows.
                    self._book(life, event.loan_id, offer_id=event.offer_id)
                case "loan_created" | "loan_declined" | "loan_offer_created" | "decision_referred":
                    self._decide(life, event, whole=whole)
                case "customer_updated":
                    self._update(life, event)
                case "loan_offer_ended":
                    life.holds.pop(event.offer_id, None)
                case "payment_recorded":
                    self._pay(life, event)
                case "payment_reversed":
                    self._reverse(life, event)
                case "loan_prepaid":
                    self._prepayments_announced += 1
                case "asset_class_changed":
                    self._change_class(life, event)
                case "score_changed":
                    self._score(life, event, whole=whole)
        self._check_loans()
        self._check_prepayments()

    def _check_announced(self, life: Life, kind: str) -> None:
        """Check that a payment's changes of class precede the next event of another kind."""
        if kind not in _BEFORE_CLASSES and life.to_announce:
            self._find("class", f"customer {life.customer_id}: no event of {life.to_announce}")
            life.to_announce = []

    def _check_prepayments(self) -> None:
        if self._prepayments_announced != self.prepayments_checked:
            found, right = self._prepayments_announced, self.prepayments_checked
            self._find("event", f"{found} loan_prepaid events of {right} prepayments")

    def _check_loans(self) -> None:
        """Compare the stored loans with the replayed ones."""
        for life in self.lives.values():
            for loan_id, loan in life.stored.items():
                known = life.loans.get(loan_id)
                # Until its first replay a loan has no EMIs on time at its import.
                if (
                    known is None
                    or replace(known, on_time_at_import=loan.on_time_at_import) != loan
                ):
                    self._find("position", f"{loan} should be {known}")

    def _update(self, life: Life, event: Any) -> None:
        for change in self._changes.get((life.customer_id, event.event_seq), ()):
            self.updates_checked += 1
            former = life.change(change.fact, change.new)
            if former != change.old:
                self._find(
                    "facts",
                    f"customer {life.customer_id}: {change.fact} changed from {change.old}, but it"
                    f" was {former}",
                )

    def _decide(self, life: Life, event: Any, *, whole: bool) -> None:
        decision = self._decisions.get(event.decision_id)
        if decision is None:
            self._find("event", f"customer {life.customer_id}: no decision {event.decision_id}")
            return
        self.decisions_checked += 1
        inputs = decode_inputs(decision.inputs)
        position = inputs.position
        now = life.figures
        decided_on = (
            position.current_debt_paise,
            position.current_installments_paise,
            (position.held_principal_paise, position.held_installments_paise),
            (position.monthly_income_paise, position.approved_limit_paise),
            # The imported loans of customers with ingestions are closed.
            *(
                (position.loan_count, position.total_principal_paise, position.emis_on_time)
                if whole
                else ()
            ),
        )
        held = life.held(inputs.day)
        right = (
            now.debt,
            now.installments,
            held,
            (life.income, life.limit),
            *((now.count, now.total, now.on_time) if whole else ()),
        )
        if decided_on != right:
            self._find(
                "decision",
                f"{event.decision_id} of customer {life.customer_id} used {decided_on}, but the"
                f" position was {right}",
            )
        self._check_policy(life, decision, inputs, whole=whole)
        version = decision.customer_version + (1 if decision.approved else 0)
        if event.customer_version != version:
            self._find(
                "decision",
                f"{event.decision_id} of customer {life.customer_id} changed version"
                f" {decision.customer_version} to {event.customer_version}, expected {version}",
            )
        if not decision.approved:
            return
        if event.offer_id is None:
            self._book(life, decision.loan_id)
            return
        hold = self._offers.get(event.offer_id)
        if hold is None:
            self._find("offers", f"{event.offer_id} of customer {life.customer_id} is missing")
            return
        life.holds[hold.offer_id] = hold
        self._check_limits(life, f"offer {hold.offer_id}", inputs.day)

    def _check_policy(
        self, life: Life, decision: Any, inputs: DecisionInputs, *, whole: bool
    ) -> None:
        """Check the scorecard of a decision, and the facts that its policy used."""
        day = inputs.day
        version = STANDARD_DOCUMENT["version"]
        later = version
        for effective_on, scheduled in self._schedule:
            version = scheduled if effective_on <= day else version
            # A call that is on its way at midnight may be decided by either.
            start = datetime.combine(effective_on, datetime.min.time(), INDIA)
            later = scheduled if decision.decided_at >= start - _ON_ITS_WAY else later
        if inputs.scorecard_version not in (version, later):
            self._find(
                "decision",
                f"{decision.decision_id} of {day} used {inputs.scorecard_version}, not {version}",
            )
        facts = inputs.facts
        if facts is None or not whole:
            return
        self.facts_checked += 1
        found = policy_facts(life.loans.values(), life.arrears(day), facts.age, day, day)
        right = replace(found, months_as_customer=facts.months_as_customer)
        if facts != right:
            self._find("decision", f"{decision.decision_id} used {facts}, but it was {right}")

    def _change_class(self, life: Life, event: Any) -> None:
        """Check a change of class: one of the payment before, or one that days brought."""
        self.classes_checked += 1
        if not life.to_announce:
            today = event.occurred_at.astimezone(INDIA).date()
            life.to_announce = self.unannounced(life, today)
        found = AssetClass[event.payload["asset_class"]]
        right = life.to_announce.pop(0) if life.to_announce else None
        if right is None or event.payload != event_fields(right):
            self._find(
                "class",
                f"customer {life.customer_id}: announced {event.payload}, expected {right}",
            )
        life.announced = found

    @staticmethod
    def unannounced(life: Life, day: date) -> list[ClassChange]:
        """The changes of class up to the end of the day before `day`, or for the better on it,
        that no event has announced so far."""
        now = life.arrears(day)
        return class_changes(life.announced, now, now, day)

    def _book(self, life: Life, loan_id: int, offer_id: int | None = None) -> None:
        stored = life.stored.get(loan_id)
        if stored is None:
            self._find("loan", f"{loan_id} of customer {life.customer_id} is missing")
            return
        loan = replay(stored, []).loan
        # A reversal may reopen a loan, and so raise the debt above the limit. An offer from before
        # can still be accepted: its loan takes the place of its hold, and raises nothing.
        used = (0, 0)
        if offer_id is not None:
            used = life.used(loan.start_date)
            life.holds.pop(offer_id, None)
        life.loans[loan_id] = loan
        life.figures.add(loan)
        self._check_limits(life, f"loan {loan_id}", loan.start_date, used)

    def _check_limits(
        self, life: Life, what: str, day: date, used_before: tuple[int, int] = (0, 0)
    ) -> None:
        """Check that debt and installments, with the held ones, are within their limits, or no more
        than before."""
        debt, installments = life.used(day)
        debt_before, installments_before = used_before
        if debt > max(life.limit, debt_before):
            self._find(
                "limit",
                f"{what} raised debt and held credit of customer {life.customer_id} to {debt}"
                f" paise, above the limit of {life.limit}",
            )
        if installments > installments_before and 2 * installments > life.income:
            self._find(
                "limit",
                f"{what} raised the installments of customer {life.customer_id} to {installments}"
                f" paise, above half of the income of {life.income}",
            )

    def _pay(self, life: Life, event: Any) -> None:
        payment = self._payments.get(event.payment_id)
        before = None if payment is None else life.loans.get(payment.loan_id)
        if payment is None or before is None:
            self._find("payment", f"{event.payment_id} of customer {life.customer_id} has no loan")
            return
        counted = life.payments.setdefault(payment.loan_id, {})
        fact = PaymentFact(
            payment.payment_number,
            payment.amount_paise,
            payment.paid_on,
            PaymentPurpose(payment.purpose),
            None if payment.effect is None else PrepaymentEffect(payment.effect),
            self._scorecard.grace_days,
        )
        today = event.occurred_at.astimezone(INDIA).date()
        charge_bps = self._scorecard.prepayment_charge_bps
        try:
            found = record_payment(before, counted.values(), fact, today, charge_bps)
        except CreditError as refusal:
            self._find("payment", f"{event.payment_id} should have been rejected: {refusal}")
            return
        applied, after = found.applied, found.account.loan
        is_closed = after.state is LoanState.CLOSED
        charge = applied.fact.charge_paise
        stored = (
            payment.settled_count,
            payment.on_time_count,
            payment.closed_loan,
            payment.charge_paise,
        )
        right = (len(applied.settled_numbers), applied.on_time_count, is_closed, charge)
        if stored != right:
            self._find("payment", f"{event.payment_id} has {stored}, expected {right}")
        self.prepayments_checked += applied.prepaid_principal_paise > 0
        self.backdated_checked += any(each.paid_on > fact.paid_on for each in counted.values())
        counted[payment.payment_number] = applied.fact
        self._move(life, found.account, today)

    def _reverse(self, life: Life, event: Any) -> None:
        payment = self._payments.get(event.payment_id)
        counted = {} if payment is None else life.payments.get(payment.loan_id, {})
        if payment is None or counted.pop(payment.payment_number, None) is None:
            self._find("payment", f"{event.payment_id} was reversed, and does not count before")
            return
        self.reversals_checked += 1
        today = event.occurred_at.astimezone(INDIA).date()
        self._move(life, replay(life.loans[payment.loan_id], counted.values()), today)

    @staticmethod
    def _move(life: Life, account: LoanAccount, today: date) -> None:
        """Store a loan after a payment or a reversal of that day."""
        after, before_arrears = account.loan, life.arrears(today)
        life.figures.moved(life.loans[after.loan_id], after)
        life.loans[after.loan_id] = after
        life.settlements[after.loan_id] = account.settlements
        life.to_announce = class_changes(life.announced, before_arrears, life.arrears(today), today)

    def _score(self, life: Life, event: Any, *, whole: bool) -> None:
        line = self._scores.get((life.customer_id, event.event_seq))
        if line is None:
            self._find("score", f"event {event.event_seq} of {life.customer_id} has no history")
            return
        if line.previous_score != life.last_score:
            self._find(
                "score",
                f"of {life.customer_id}: the previous score {line.previous_score} should be"
                f" {life.last_score}",
            )
        life.last_score, life.last_override = line.score, line.override
        if not whole:
            return
        self.scores_checked += 1
        # The first version is the customer, the second one the past loans.
        loans = life.loans.values() if line.customer_version > 1 else ()
        right = score(self._position(life, loans, line.computed_on), self._scorecard)
        if (line.score, line.override) != (right.score, right.override):
            self._find(
                "score",
                f"of {life.customer_id} on {line.computed_on}: {line.score} {line.override} should"
                f" be {right.score} {right.override}",
            )

    def position(self, life: Life, day: date) -> CreditPosition:
        """The position on a day, from the loans and holds replayed so far."""
        return self._position(life, life.loans.values(), day)

    def days_and_class(self, life: Life, day: date) -> tuple[int, AssetClass]:
        """The days past due and the class on a day, from the loans and payments replayed so far."""
        return days_and_class(life.loans.values(), life.settlements, day)

    @staticmethod
    def _position(life: Life, loans: Iterable[Loan], day: date) -> CreditPosition:
        return position_from_loans(
            life.customer_id,
            life.version,
            life.income,
            life.limit,
            loans,
            day,
            life.holds.values(),
        )

"""More rules of the state machine: imports that are reverted, lists in pages, announced classes."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import text

from credit_service.clock import Clock
from credit_service.commands.announce_classes import announce_classes
from credit_service.ingestion.reverting import run_revert
from credit_service.rpc.convert.events import write_event
from credit_service.storage import arrears, event_stream
from credit_service.v1 import credit_service_pb2, decision_pb2, ingestion_pb2, loan_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion
from tests.model.bank import LAKH, RUPEE
from tests.model.loans import (
    CLASSES,
    Facts,
    class_of,
    days_past_due,
    due_date,
    first_unpaid_due,
    npa_since,
    payment_of,
)
from tests.model.machine import START_DAYS
from tests.model.policy_rules import PolicyService
from tests.model.wire import day_of, outcome_of, paise_of

_customer = st.integers(0, 5)
_page_size = st.sampled_from([1, 2, 3, 1000])


class WholeService(PolicyService):
    """All rules. The work of a worker is done when a rule says so."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(offset_file=self.clock_file)
        self.last_event = 0

    @initialize(day=st.sampled_from(START_DAYS))
    def begin(self, day: date) -> None:
        super().begin(day)
        # Other runs were at later days.
        with self.database.transaction() as connection:
            connection.execute(text("DELETE FROM bookmarks WHERE name = 'classes'"))
            arrears.note_announced(connection, day - timedelta(days=1))
        self._events()

    # Reverted imports.

    @rule(which=st.integers(0, 7))
    def revert_an_import(self, which: int) -> None:
        """Revert one of the latest imports; some are reverted already."""
        known = list(self.bank.ingestions)[-8:]
        self._revert(known[which % len(known)])

    @rule(
        place=st.integers(0, 3),
        kind=st.sampled_from(["CUSTOMERS", "LOANS"]),
        update=st.booleans(),
        meanwhile=st.sampled_from(["nothing", "loan", "payment", "change", "import", "phone"]),
        days=st.sampled_from([0, 0, 40]),
    )
    def revert_after_something(
        self, place: int, kind: str, meanwhile: str, days: int, *, update: bool
    ) -> None:
        """Import a row, let something happen that often depends on it, and revert the import."""
        number, phone = self.base + place, self._phone(place)
        if number in self.bank.customers:
            phone = self.bank.customers[number]["phone"]
        row: Facts
        customer = {"customer_id": number, "phone": phone, "age": 30, "limit": 36 * LAKH}
        usual: Facts = {"place": place, "loan": place % 3, "principal": 2 * LAKH, "bps": 1200}
        usual |= {"installment": "formula", "tenure": 12, "months_ago": 4, "on_time": 4}
        if kind == "CUSTOMERS":
            moved = {"phone": self._phone(10 + place)} if meanwhile == "phone" else {}
            row = {**customer, "income": 110_000_00, **moved}
            self._import_customers([row], update=update, validate_only=False, split=0)
        else:
            row = self._loan_row({**usual, "days": 1})
            self._import_loans([row], update=update, validate_only=False, split=0)
        ingestion_id = list(self.bank.ingestions)[-1]
        if days:
            self._set_day(self.bank.today + timedelta(days=days))
        index = sorted(self.bank.customers).index(number) if number in self.bank.customers else 0
        match meanwhile:
            case "loan":
                self.apply(index, 50_000 * RUPEE, 1600, 12)
            case "payment" if kind == "LOANS" and (number, row["loan_id"]) in self.bank.loans:
                key = number, row["loan_id"]
                self._pay(key, 1_000 * RUPEE, self.bank.today)
            case "change":
                self.update_a_customer(index, {"age": 31, "income": 50_000_00})
            case "import" if kind == "CUSTOMERS":
                changed = {**row, "age": 33}
                self._import_customers([changed], update=True, validate_only=False, split=0)
            case "import":
                changed = {**row, "source_on_time": 5}
                self._import_loans([changed], update=True, validate_only=False, split=0)
            case "phone" if kind == "CUSTOMERS":
                # Another customer takes the number that the import released.
                taken = {"customer_id": self.base + 7, "phone": phone, "age": 40}
                taken |= {"income": 50_000_00, "limit": None}
                self._import_customers([taken], update=True, validate_only=False, split=0)
        self._revert(ingestion_id)

    def _revert(self, ingestion_id: str) -> None:
        request = ingestion.RevertIngestionRequest(
            request_id=self._request_id(), ingestion_id=ingestion_id
        )
        revert = self.edge.ingestion.RevertIngestion
        answer = outcome_of(self._answer_of, revert, request)
        refusal = outcome_of(self.bank.refuse_revert, ingestion_id)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        wrote = bool(self.bank.ingestions[ingestion_id]["rows"])
        assert answer.ingestion.state == (
            ingestion_pb2.INGESTION_STATE_REVERTING
            if wrote
            else ingestion_pb2.INGESTION_STATE_REVERTED
        )
        run_revert(self.database, UUID(ingestion_id), self.clock)
        done = self.bank.revert(ingestion_id)
        repeated = revert(request, timeout=30)
        found = repeated.ingestion
        assert found.state == ingestion_pb2.INGESTION_STATE_REVERTED
        counts = found.rows_removed, found.rows_restored, found.rows_kept
        assert counts == (done["removed"], done["restored"], len(done["kept"]))
        kept = self._whole(
            self.edge.ingestion.ListRowErrors,
            ingestion.ListRowErrorsRequest(
                ingestion_id=ingestion_id, outcomes=[ingestion_pb2.ROW_OUTCOME_KEPT]
            ),
            "row_errors",
            2,
        )
        assert kept == list(repeated.kept_rows)
        names = [ingestion_pb2.RowErrorCode.Name(each.code) for each in kept]
        assert done["kept"] == sorted(
            (each.row_number, each.found, name.removeprefix("ROW_ERROR_CODE_"))
            for each, name in zip(kept, names, strict=True)
        )

    # Lists.

    @staticmethod
    def _whole(method: Callable[..., Any], request: Any, name: str, size: int) -> list[Any]:
        """All pages of a list."""
        found: list[Any] = []
        request.page_size = size
        while True:
            page = method(request, timeout=30)
            each = list(getattr(page, name))
            assert len(each) <= size
            found += each
            if not page.next_page_token:
                return found
            assert each
            request.page_token = page.next_page_token

    @precondition(lambda self: self.bank.payments)
    @rule(which=st.integers(0, 7), size=_page_size)
    def list_payments(self, which: int, size: int) -> None:
        known = sorted(self.bank.payments)[-8:]
        key, _ = self.bank.payments[known[which % len(known)]]
        loan = self.bank.loans[key]
        request = credit_service_pb2.ListPaymentsRequest(customer_id=key[0], loan_id=key[1])
        found = self._whole(self.edge.credit.ListPayments, request, "payments", size)
        ids = {
            each["number"]: number for number, (of, each) in self.bank.payments.items() if of == key
        }
        assert len(found) == len(loan["payments"])
        for message, payment in zip(found, loan["payments"], strict=True):
            assert message.payment_id == ids[payment["number"]]
            assert paise_of(message.amount) == payment["amount"]
            assert day_of(message.paid_on) == payment["day"]
            purpose = loan_pb2.PaymentPurpose.Name(message.purpose)
            assert purpose == f"PAYMENT_PURPOSE_{payment['purpose']}"
            reason = loan_pb2.PaymentReversalReason.Name(message.reversal.reason)
            assert message.HasField("reversal") == bool(payment["reversed"])
            if payment["reversed"]:
                assert reason == f"PAYMENT_REVERSAL_REASON_{payment['reversed']}"
            did = loan["life"].applied.get(payment["number"], {"prepaid": 0})
            assert paise_of(message.prepaid_principal) == did["prepaid"]

    @rule(place=_customer, size=_page_size)
    def list_changes(self, place: int, size: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.ListCustomerChangesRequest(customer_id=number)
        found = self._whole(self.edge.credit.ListCustomerChanges, request, "changes", size)
        known = self.bank.changes.get(number, [])
        assert [
            (
                each.ingestion_id,
                each.loan_id,
                {fact.field: (fact.previous, fact.current) for fact in each.facts},
            )
            for each in found
        ] == [
            (
                each["ingestion"],
                each["loan"],
                {
                    _FIELDS[name]: (_text(name, old), _text(name, new))
                    for name, (old, new) in each["facts"].items()
                },
            )
            for each in reversed(known)
        ]

    @rule(
        asset_class=st.sampled_from(["", "", *CLASSES[1:]]),
        least=st.sampled_from([0, 1, 2, 30, 31, 91, 400]),
        pages=st.integers(1, 5),
    )
    def list_overdue_loans(self, asset_class: str, least: int, pages: int) -> None:
        """Compare the loans of this run: others are in the list too."""
        request = credit_service_pb2.ListDelinquentLoansRequest(min_days_past_due=least)
        if asset_class:
            request.asset_class = decision_pb2.AssetClass.Value(f"ASSET_CLASS_{asset_class}")
        again = credit_service_pb2.ListDelinquentLoansRequest()
        again.CopyFrom(request)
        method = self.edge.credit.ListDelinquentLoans
        found = self._whole(method, request, "loans", 1000)
        size = max(1, len(found) // pages)
        assert found == self._whole(method, again, "loans", size)
        assert [
            (
                each.customer_id,
                each.loan_id,
                each.days_past_due,
                day_of(each.oldest_due_date),
                each.overdue_installments,
                paise_of(each.overdue_amount),
                decision_pb2.AssetClass.Name(each.asset_class).removeprefix("ASSET_CLASS_"),
                day_of(each.arrears_known_from) if each.HasField("arrears_known_from") else None,
            )
            for each in found
            if each.customer_id in self.bank.customers
        ] == self._overdue(asset_class, least)

    def _overdue(self, asset_class: str, least: int) -> list[Any]:
        today = self.bank.today
        found = []
        for number in self.bank.customers:
            lives = self.bank.lives(number)
            borrower_class = class_of(lives, today)
            if asset_class not in ("", borrower_class):
                continue
            for (holder, loan_id), loan in self.bank.loans.items():
                life = loan["life"]
                days = days_past_due([life], today)
                if holder != number or days < max(least, 1):
                    continue
                due = first_unpaid_due([life])
                assert due is not None
                unpaid = [line for line in life.lines[life.settled :] if line["due"] <= today]
                line = (
                    number,
                    loan_id,
                    days,
                    due,
                    sum(payment_of(each) > 0 for each in unpaid),
                    life.overdue(today),
                    borrower_class,
                    due_date(loan["start"], loan["settled_before"] + 1)
                    if loan["imported"] and loan["settled_before"] < loan["tenure"]
                    else None,
                )
                order: tuple[bool, date] = False, due
                if asset_class:
                    worst = days_past_due(lives, today)
                    kept = asset_class == "NPA" and worst <= 90
                    order = (
                        kept,
                        (npa_since(lives, today) if kept else today - timedelta(days=worst - 1)),
                    )
                found.append((order, line))
        return [line for _, line in sorted(found)]

    # Announced classes.

    @rule()
    def announce(self) -> None:
        """Let a worker announce the classes of ended days, and read all announcements."""
        announce_classes(self.database, self.clock.moment())
        for number in self.bank.customers:
            self.bank.announce(number)
        found: dict[int, list[tuple[str, str]]] = {}
        for event in self._events():
            if event.HasField("asset_class_changed") and event.customer_id in self.bank.customers:
                changed = event.asset_class_changed
                previous, current = (
                    decision_pb2.AssetClass.Name(each).removeprefix("ASSET_CLASS_")
                    for each in (changed.previous_class, changed.asset_class)
                )
                found.setdefault(event.customer_id, []).append((previous, current))
        assert found == self.bank.announcements
        self.bank.announcements = {}

    def _events(self) -> list[Any]:
        """The events since the last call, as a stream sends them."""
        for _ in range(2):
            with self.database.transaction() as connection:
                event_stream.publish(connection, 10_000)
        found = []
        with self.database.autocommit() as connection:
            while page := event_stream.read(
                connection, after=self.last_event, until=2**62, limit=1000
            ):
                self.last_event = page[-1].event_id
                found += [message for each in page if (message := write_event(each)) is not None]
        return found


_FIELDS = {
    "phone": "phone_number",
    "age": "age",
    "income": "monthly_income",
    "limit": "approved_limit",
    "limit_set": "approved_limit_set",
    "principal": "loan_amount",
    "bps": "interest_rate",
    "tenure": "tenure_months",
    "installment": "monthly_installment",
    "start": "start_date",
    "source_on_time": "emis_paid_on_time",
    "end": "end_date",
    "settled": "installments_settled",
    "closed": "closed_on",
}


def _text(name: str, value: Any) -> str:
    """A fact as the contract writes it."""
    if value is None:
        return ""
    if name in ("income", "limit", "principal", "installment"):
        return f"{value // 100}.{value % 100:02}"
    if name == "bps":
        return f"{value // 100}.{value % 100:02}".rstrip("0").rstrip(".")
    if name == "limit_set":
        return "true" if value else "false"
    return str(value)

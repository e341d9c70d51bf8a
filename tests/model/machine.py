"""Sends the same requests to the service and the model, in an order chosen by hypothesis."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from credit_service.v1 import (
    credit_service_pb2,
    customer_pb2,
    decision_pb2,
    ingestion_pb2,
    loan_pb2,
    offer_pb2,
    score_pb2,
)
from credit_service.v1 import ingestion_service_pb2 as ingestion
from tests.integration.conftest import Edge, refusal_of
from tests.model.bank import LAKH, RUPEE, Bank, limit_by_rule
from tests.model.imports import OUTCOMES
from tests.model.loans import (
    FORECLOSURE,
    INSTALLMENTS,
    PART_PREPAYMENT,
    REDUCE_INSTALLMENT,
    REDUCE_TENURE,
    Facts,
    Life,
    days_past_due,
    due_date,
    emi,
    payment_of,
    repayable,
)
from tests.model.policies import Refused
from tests.model.wire import (
    day_of,
    hundredths_of,
    money_of,
    outcome_of,
    paise_of,
    rate_of,
    to_day,
    to_rate,
)

_INDIA = ZoneInfo("Asia/Kolkata")
_runs = itertools.count(1)
_LAST_DAY = date(2060, 1, 1)
START_DAYS = [date(2024, 1, 30), date(2023, 12, 30), date(2024, 2, 28), date(2025, 6, 15)]

_customer = st.integers(0, 5)
_loan = st.integers(0, 3)
_amount = st.sampled_from([1, 100, 33_333, 1 * LAKH, 5 * LAKH, 12 * LAKH]) | st.integers(
    1, 20 * LAKH
)
_rate = st.sampled_from([0, 1, 899, 1199, 1200, 1201, 1600, 3650, 10_000])
_tenure = st.sampled_from([1, 2, 3, 12, 13, 60, 480])
_income = st.sampled_from([138_800, 138_900, 1_250_000, 6_250_000, 50_000_00, 200_000_00])
_rarely = st.sampled_from([False, False, False, True])


_MASK = {
    "phone": "phone_number",
    "age": "age",
    "income": "monthly_income",
    "limit": "approved_limit",
}


def _split(messages: list[Any], at: int) -> list[tuple[int, list[Any]]]:
    """The rows before and after a place, without an empty part: (offset, rows)."""
    parts = [(0, messages[:at]), (len(messages[:at]), messages[at:])]
    return [(offset, part) for offset, part in parts if part]


def _row_count(message: Any) -> int:
    return len(message.batch.customers.rows) + len(message.batch.loans.rows)


class ServiceAndModel(RuleBasedStateMachine):
    """One run. Its customers and loans have separate ids, so runs do not interfere."""

    edge: ClassVar[Edge]
    clock_file: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.base = next(_runs) * 1_000
        self.bank = Bank(START_DAYS[0])
        self.decision_ids: list[int] = []
        self.asked: list[tuple[Callable[..., Any], Any, bytes | str]] = []
        self.loan_rows: list[Facts] = []
        self.request_numbers = itertools.count()

    # The clock.

    @initialize(day=st.sampled_from(START_DAYS))
    def begin(self, day: date) -> None:
        self._set_day(day)
        for place in range(3):
            row = {
                "customer_id": self.base + place,
                "phone": self._phone(place),
                "age": 30,
                "income": 100_000_00,
                "limit": 36 * LAKH,
            }
            self._import_customers([row], update=False, validate_only=False, split=0)
        # One who stays when all imports are reverted.
        self.register(5, 100_000_00, 30)
        # A history good enough for approvals, and active loans.
        usual = {"principal": 5 * LAKH, "bps": 1200, "installment": "formula", "days": 0}
        rows = [
            *({**usual, "place": 0, "loan": n, "tenure": 12, "months_ago": 15} for n in range(3)),
            *({**usual, "place": n, "loan": 9, "tenure": 24, "months_ago": 5} for n in range(3)),
        ]
        made = [self._loan_row({**row, "on_time": 7}) for row in rows]
        self._import_loans(made, update=False, validate_only=False, split=0)

    @rule(days=st.sampled_from([1, 2, 27, 30, 31, 90, 366]))
    def advance_days(self, days: int) -> None:
        self._set_day(self.bank.today + timedelta(days=days))

    @rule()
    def advance_to_new_year(self) -> None:
        self._set_day(date(self.bank.today.year + 1, 1, 1))

    @rule()
    def advance_to_the_end_of_a_month(self) -> None:
        first = due_date(self.bank.today.replace(day=1), 1)
        last = first - timedelta(days=1)
        self._set_day(last if last > self.bank.today else first)

    def _set_day(self, day: date) -> None:
        """Set the clock of this run and of the service to noon of a day."""
        day = min(day, _LAST_DAY)
        if day == self.bank.today and self.bank.writes:
            # Time does not go back.
            return
        self.bank.today = day
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=_INDIA)
        offset = int((noon - datetime.now(UTC)).total_seconds())
        beside = self.clock_file.with_suffix(".new")
        beside.write_text(str(offset), encoding="ascii")
        os.replace(beside, self.clock_file)  # noqa: PTH105 - in one step, as the server reads it

    # Targets.

    def _phone(self, place: int) -> str:
        return f"+91{9_000_000_000 + self.base + place}"

    def _a_customer(self, place: int) -> int:
        known = sorted(self.bank.customers)
        return known[place % len(known)]

    def _a_loan(self, place: int) -> tuple[tuple[int, int], Facts]:
        known = sorted(self.bank.loans)
        key = known[place % len(known)]
        return key, self.bank.loans[key]

    def _request_id(self) -> str:
        return f"00000000-0000-4000-8000-{self.base:06d}{next(self.request_numbers):06d}"

    def _ask(self, method: Callable[..., Any], request: Any) -> Any:
        """The response, stored for repeats; or the reason of a rejection, which had no effect."""
        answer = outcome_of(self._answer_of, method, request)
        if isinstance(answer, str):
            return answer
        if getattr(request, "request_id", ""):
            kept = answer.SerializeToString(deterministic=True)
            self.asked.append((method, request, kept))
        return answer

    @staticmethod
    def _answer_of(method: Callable[..., Any], request: Any) -> Any:
        """The response. Raises Refused."""
        try:
            return method(request, timeout=30)
        except grpc.RpcError as error:
            raise Refused(refusal_of(error).reason) from error

    # Customers.

    @rule(place=_customer, income=_income, age=st.sampled_from([17, 18, 60, 121]))
    def register(self, place: int, income: int, age: int) -> None:
        phone = self._phone(place)
        request = credit_service_pb2.RegisterCustomerRequest(
            request_id=self._request_id(),
            first_name="Asha",
            last_name="Rao",
            age=age,
            monthly_income=money_of(income),
            phone_number=phone,
        )
        answer = self._ask(self.edge.credit.RegisterCustomer, request)
        if not 18 <= age <= 120:
            assert answer == "INVALID_FIELD"
            return
        refusal = outcome_of(self.bank.refuse_registration, phone)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        number = answer.customer.customer_id
        assert number not in self.bank.customers
        self.bank.register(number, phone, age, income)
        self._same_customer(answer.customer)

    @rule(place=_customer)
    def read_a_customer(self, place: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.GetCustomerRequest(customer_id=number)
        self._same_customer(self.edge.credit.GetCustomer(request, timeout=30).customer)

    def _same_customer(self, message: Any) -> None:
        number = message.customer_id
        known = self.bank.customers[number]
        assert message.phone_number == known["phone"]
        assert message.age == known["age"]
        assert paise_of(message.monthly_income) == known["income"]
        assert paise_of(message.approved_limit) == known["limit"]
        by_rule = limit_by_rule(known["income"])
        assert message.approved_limit_set == (known["limit_set"] or known["limit"] != by_rule)
        debt = self.bank.debt(number)
        assert paise_of(message.current_debt) == debt
        assert paise_of(message.current_installments) == self.bank.installments(number)
        days, asset_class = self.bank.delinquency(number)
        assert message.days_past_due == days
        assert decision_pb2.AssetClass.Name(message.asset_class) == f"ASSET_CLASS_{asset_class}"
        held = self.bank.held(number)
        assert paise_of(message.held_credit) == held
        assert paise_of(message.held_installments) == self.bank.held_installments(number)
        assert paise_of(message.available_credit) == max(0, known["limit"] - debt - held)

    @rule(
        place=_customer,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "phone": _customer,
                "age": st.sampled_from([18, 31, 121]),
                "income": _income,
                "limit": st.sampled_from([None, 0, 18 * LAKH, 36 * LAKH]),
            },
        ),
    )
    def update_a_customer(self, place: int, changes: Facts) -> None:
        number = self._a_customer(place)
        wanted = customer_pb2.Customer(customer_id=number)
        if "phone" in changes:
            changes["phone"] = wanted.phone_number = self._phone(changes["phone"])
        if "age" in changes:
            wanted.age = changes["age"]
        if "income" in changes:
            wanted.monthly_income.CopyFrom(money_of(changes["income"]))
        if changes.get("limit") is not None:
            wanted.approved_limit.CopyFrom(money_of(changes["limit"]))
        request = credit_service_pb2.UpdateCustomerRequest(
            request_id=self._request_id(), customer=wanted
        )
        request.update_mask.paths.extend(_MASK[name] for name in changes)
        answer = self._ask(self.edge.credit.UpdateCustomer, request)
        if not changes or changes.get("age") == 121:
            assert answer == "INVALID_FIELD"
            return
        refusal = outcome_of(self.bank.update, number, changes)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        self._same_customer(answer.customer)

    # Imports.

    @rule(
        rows=st.lists(
            st.fixed_dictionaries(
                {
                    "place": _customer,
                    "phone": _customer,
                    "age": st.sampled_from([17, 30, 30, 31]),
                    "income": st.sampled_from([50_000_00, 100_000_00]),
                    "limit": st.sampled_from([None, 0, 18 * LAKH, 36 * LAKH]),
                }
            ),
            min_size=1,
            max_size=6,
        ),
        update=st.booleans(),
        validate_only=_rarely,
        cancel=_rarely,
        split=st.integers(0, 5),
    )
    def import_customers(
        self, rows: list[Facts], *, update: bool, validate_only: bool, cancel: bool, split: int
    ) -> None:
        made = [
            {
                **{name: row[name] for name in ("age", "income", "limit")},
                "customer_id": self.base + row["place"],
                "phone": self._phone(row["phone"]),
            }
            for row in rows
        ]
        self._import_customers(
            made, update=update, validate_only=validate_only, cancel=cancel, split=split
        )

    def _import_customers(
        self,
        rows: list[Facts],
        *,
        update: bool,
        validate_only: bool,
        split: int,
        cancel: bool = False,
    ) -> None:
        messages = []
        for row in rows:
            message = ingestion_pb2.CustomerRow(
                customer_id=row["customer_id"],
                first_name="Asha",
                last_name="Rao",
                age=row["age"],
                phone_number=row["phone"],
                monthly_income=money_of(row["income"]),
            )
            if row["limit"] is not None:
                message.approved_limit.CopyFrom(money_of(row["limit"]))
            messages.append(message)
        batches = [
            ingestion.RowBatch(offset=offset, customers=ingestion.CustomerRows(rows=part))
            for offset, part in _split(messages, split)
        ]
        ingestion_id, counts = self._stream(
            "CUSTOMERS", batches, split, update=update, validate_only=validate_only, cancel=cancel
        )
        assert counts == self.bank.import_customers(
            ingestion_id,
            rows[:split] if cancel else rows,
            update=update,
            writes=not validate_only,
        )

    @rule(
        rows=st.lists(
            st.fixed_dictionaries(
                {
                    "place": _customer,
                    "loan": _loan,
                    "principal": _amount,
                    "bps": _rate,
                    "tenure": st.sampled_from([1, 2, 12, 24]),
                    "installment": st.sampled_from(["formula", "round", "low", "high"]),
                    "months_ago": st.integers(-1, 26),
                    "days": st.integers(0, 30),
                    "on_time": st.integers(0, 13),
                }
            ),
            min_size=1,
            max_size=6,
        ),
        repeat=st.booleans(),
        earlier=st.booleans(),
        update=st.booleans(),
        validate_only=_rarely,
        cancel=_rarely,
        split=st.integers(0, 5),
    )
    def import_loans(
        self,
        rows: list[Facts],
        *,
        repeat: bool,
        earlier: bool,
        update: bool,
        validate_only: bool,
        cancel: bool,
        split: int,
    ) -> None:
        made = [self._loan_row(row) for row in rows]
        if repeat:
            made.append(made[0])
        if earlier:
            made += self.loan_rows[-2:]
        self.loan_rows += made
        self._import_loans(
            made, update=update, validate_only=validate_only, cancel=cancel, split=split
        )

    def _import_loans(
        self,
        made: list[Facts],
        *,
        update: bool,
        validate_only: bool,
        split: int,
        cancel: bool = False,
    ) -> None:
        messages = [
            ingestion_pb2.LoanRow(
                customer_id=row["customer_id"],
                loan_id=row["loan_id"],
                loan_amount=money_of(row["principal"]),
                tenure_months=row["tenure"],
                interest_rate=to_rate(row["bps"]),
                monthly_installment=money_of(row["installment"]),
                emis_paid_on_time=row["source_on_time"],
                start_date=to_day(row["start"]),
            )
            for row in made
        ]
        batches = [
            ingestion.RowBatch(offset=offset, loans=ingestion.LoanRows(rows=part))
            for offset, part in _split(messages, split)
        ]
        ingestion_id, counts = self._stream(
            "LOANS", batches, split, update=update, validate_only=validate_only, cancel=cancel
        )
        assert counts == self.bank.import_loans(
            ingestion_id,
            made[:split] if cancel else made,
            update=update,
            writes=not validate_only,
        )

    def _loan_row(self, row: Facts) -> Facts:
        principal, bps, tenure = row["principal"], row["bps"], row["tenure"]
        formula = max(1, emi(principal, bps, tenure))
        installment = {
            "formula": formula,
            "round": max(RUPEE, formula - formula % RUPEE),
            "low": max(1, principal // tenure - 1),
            "high": formula + formula // 3 + 1,
        }[row["installment"]]
        start = due_date(self.bank.today, -row["months_ago"]) - timedelta(days=row["days"])
        if row["months_ago"] < 0:
            start = self.bank.today + timedelta(days=1)
        return {
            "customer_id": self.base + row["place"],
            "loan_id": self.base + row["loan"],
            "principal": principal,
            "bps": bps,
            "tenure": tenure,
            "installment": installment,
            "start": start,
            "source_on_time": row["on_time"],
        }

    def _stream(
        self,
        kind: str,
        batches: list[Any],
        split: int,
        *,
        update: bool,
        validate_only: bool,
        cancel: bool,
    ) -> tuple[str, dict[str, int]]:
        """Import the batches, or with `cancel` those before the row `split`; returns the id and the
        number of rows per outcome."""
        ingestion_id = self._request_id()
        header = ingestion.IngestRowsHeader(
            ingestion_id=ingestion_id,
            kind=ingestion_pb2.IngestionKind.Value(f"INGESTION_KIND_{kind}"),
            on_existing=(
                ingestion_pb2.ON_EXISTING_UPDATE if update else ingestion_pb2.ON_EXISTING_SKIP
            ),
            validate_only=validate_only,
        )
        messages = [ingestion.IngestRowsRequest(header=header)]
        messages += [ingestion.IngestRowsRequest(batch=batch) for batch in batches]
        if cancel:
            sent = 1 + sum(batch.offset < split for batch in batches)
            answer = self._cancelled(ingestion_id, messages[:sent], messages[sent:])
        else:
            answer = self.edge.ingestion.IngestRows(iter(messages), timeout=30).ingestion
        state = ingestion_pb2.IngestionState.Name(answer.state).removeprefix("INGESTION_STATE_")
        assert state == ("CANCELLED" if cancel else "SUCCEEDED")
        counts = {name: getattr(answer, name) for name in OUTCOMES}
        assert answer.rows_read == sum(counts.values())
        return ingestion_id, counts

    def _cancelled(self, ingestion_id: str, before: list[Any], after: list[Any]) -> Any:
        """Cancel an ingestion between these messages of its stream; returns it."""
        is_cancelled = threading.Event()

        def messages() -> Iterator[Any]:
            yield from before
            is_cancelled.wait(30)
            yield from after

        stream: Any = self.edge.ingestion.IngestRows
        call = stream.future(messages(), timeout=30)
        rows = sum(_row_count(message) for message in before)
        asked = ingestion.GetIngestionRequest(ingestion_id=ingestion_id)
        until = time.monotonic() + 30
        while True:
            found = outcome_of(self._answer_of, self.edge.ingestion.GetIngestion, asked)
            if not isinstance(found, str) and found.ingestion.committed_offset == rows:
                break
            assert time.monotonic() < until
        cancel = self.edge.ingestion.CancelIngestion
        request = ingestion.CancelIngestionRequest(
            request_id=self._request_id(), ingestion_id=ingestion_id
        )
        answer = cancel(request, timeout=30)
        assert cancel(request, timeout=30) == answer
        request.request_id = self._request_id()
        assert outcome_of(self._answer_of, cancel, request) == "INGESTION_ENDED"
        is_cancelled.set()
        if after:
            ended = outcome_of(self._answer_of, lambda _, timeout: call.result(timeout), None)
            assert ended == "INGESTION_ENDED"
        else:
            assert call.result().ingestion == answer.ingestion
        return answer.ingestion

    # Loan applications.

    @rule(place=_customer, principal=_amount, bps=_rate, tenure=_tenure)
    def check(self, place: int, principal: int, bps: int, tenure: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.CheckEligibilityRequest(
            customer_id=number,
            loan_amount=money_of(principal),
            interest_rate=to_rate(bps),
            tenure_months=tenure,
        )
        answer = self._ask(self.edge.credit.CheckEligibility, request)
        if not repayable(principal, bps, tenure):
            assert answer == "INVALID_FIELD"
            return
        self._same_decision(answer, number, (principal, bps, tenure))
        self._same_score(answer.credit_score, number)

    @rule(place=_customer, principal=_amount, bps=_rate, tenure=_tenure)
    def apply(self, place: int, principal: int, bps: int, tenure: int) -> None:
        number = self._a_customer(place)
        asked = (principal, bps, tenure)
        request = credit_service_pb2.CreateLoanRequest(
            request_id=self._request_id(),
            customer_id=number,
            loan_amount=money_of(principal),
            interest_rate=to_rate(bps),
            tenure_months=tenure,
        )
        answer = self._ask(self.edge.credit.CreateLoan, request)
        if not repayable(principal, bps, tenure):
            assert answer == "INVALID_FIELD"
            return
        assert not isinstance(answer, str), answer
        self._decides(answer, number, asked)
        if answer.approved:
            key = (number, answer.loan.loan_id)
            assert all(loan_id != key[1] for _, loan_id in self.bank.loans)
            self.bank.book(*key, asked)
            self._same_loan(answer.loan)
            used = self.bank.counted_debt(number) + self.bank.held(number)
            assert used <= self.bank.customers[number]["limit"]

    def _decides(
        self, answer: Any, number: int, asked: tuple[int, int, int], until: date | None = None
    ) -> None:
        """Compare a new decision, and store it; `until` is the last day of a requested offer."""
        self._same_decision(answer, number, asked)
        self.bank.decides(number, is_approved=answer.approved)
        self.decision_ids.append(answer.decision_id)
        is_referred = answer.outcome == decision_pb2.DECISION_OUTCOME_REFERRED
        assert answer.HasField("referral") == is_referred
        if is_referred:
            self.bank.refer(number, answer.decision_id, asked, until)

    def _same_decision(
        self, answer: Any, number: int, asked: tuple[int, int, int], *, is_reviewed: bool = False
    ) -> None:
        judged = self.bank.judge(number, *asked, is_reviewed=is_reviewed)
        outcome = decision_pb2.DecisionOutcome.Name(answer.outcome)
        assert outcome == f"DECISION_OUTCOME_{judged['outcome']}"
        assert answer.approved == (judged["outcome"] == "APPROVED")
        assert rate_of(answer.corrected_interest_rate) == judged["rate"]
        assert paise_of(answer.monthly_installment) == judged["installment"]
        assert paise_of(answer.last_installment) == judged["last"]
        names = [decision_pb2.DeclineReasonCode.Name(each.code) for each in answer.reasons]
        assert names == [f"DECLINE_REASON_CODE_{each}" for each in judged["reasons"]]
        if judged["outcome"] == "DECLINED" and not judged["by_score"]:
            self._same_offer(answer.counter_offer, number, asked)
        else:
            assert not answer.HasField("counter_offer")

    def _same_offer(self, offer: Any, number: int, asked: tuple[int, int, int]) -> None:
        """Check that the offer is approved, and one rupee more or one month less is not."""
        principal, bps, tenure = asked

        def fits(amount: int, months: int) -> bool:
            outcome: str = self.bank.judge(number, amount, bps, months)["outcome"]
            return outcome == "APPROVED"

        if offer.HasField("max_loan_amount"):
            most = paise_of(offer.max_loan_amount)
            assert most % RUPEE == 0
            assert fits(most, tenure)
            assert not fits(most + RUPEE, tenure)
        else:
            assert not fits(RUPEE, tenure)
        if offer.min_tenure_months:
            assert fits(principal, offer.min_tenure_months)
            assert offer.min_tenure_months == 1 or not fits(principal, offer.min_tenure_months - 1)
        else:
            assert not fits(principal, 480)

    # Offers.

    @rule(
        place=_customer,
        principal=_amount,
        bps=_rate,
        tenure=_tenure,
        days=st.sampled_from([-1, 0, 1, 3, 30, 31]),
    )
    def offer(self, place: int, principal: int, bps: int, tenure: int, days: int) -> None:
        number = self._a_customer(place)
        asked = (principal, bps, tenure)
        request = credit_service_pb2.CreateLoanOfferRequest(
            request_id=self._request_id(),
            customer_id=number,
            loan_amount=money_of(principal),
            interest_rate=to_rate(bps),
            tenure_months=tenure,
            valid_until=to_day(self.bank.today + timedelta(days=days)),
        )
        answer = self._ask(self.edge.credit.CreateLoanOffer, request)
        if not repayable(principal, bps, tenure) or not 0 <= days <= 30:
            assert answer == "INVALID_FIELD"
            return
        assert not isinstance(answer, str), answer
        self._decides(answer, number, asked, self.bank.today + timedelta(days=days))
        if answer.approved:
            assert answer.offer.offer_id not in self.bank.offers
            self.bank.offer(number, answer.offer.offer_id, asked, days)
            self._same_offer_as_made(answer.offer)
            used = self.bank.counted_debt(number) + self.bank.held(number)
            assert used <= self.bank.customers[number]["limit"]

    @precondition(lambda self: self.bank.offers)
    @rule(
        which=st.integers(0, 5),
        share=st.sampled_from(["all", "all", "half", "one", "more"]),
        days_ago=st.sampled_from([0, 0, 0, 1, 4, -1]),
    )
    def accept(self, which: int, share: str, days_ago: int) -> None:
        offer_id, offer = self._an_offer(which)
        whole = offer["principal"]
        amount = {"all": whole, "half": max(1, whole // 2), "one": 1, "more": whole + 1}[share]
        day = self.bank.today - timedelta(days=days_ago)
        request = credit_service_pb2.AcceptLoanOfferRequest(
            request_id=self._request_id(),
            offer_id=offer_id,
            loan_amount=money_of(amount),
            disbursed_on=to_day(day),
        )
        answer = self._ask(self.edge.credit.AcceptLoanOffer, request)
        refusal = outcome_of(self.bank.refuse_acceptance, offer, amount, day)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        self.bank.accept(offer_id, answer.loan.loan_id, amount, day)
        self._same_loan(answer.loan)
        self._same_offer_as_made(answer.offer)

    @precondition(lambda self: self.bank.offers)
    @rule(which=st.integers(0, 5))
    def withdraw(self, which: int) -> None:
        offer_id, _ = self._an_offer(which)
        request = credit_service_pb2.WithdrawLoanOfferRequest(
            request_id=self._request_id(), offer_id=offer_id, reason="changed plans"
        )
        answer = self._ask(self.edge.credit.WithdrawLoanOffer, request)
        refusal = outcome_of(self.bank.withdraw, offer_id)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        self._same_offer_as_made(answer.offer)

    @rule(place=_customer)
    def list_offers(self, place: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.ListLoanOffersRequest(customer_id=number, page_size=1000)
        answer = self.edge.credit.ListLoanOffers(request, timeout=30)
        known = self.bank.offers_of(number)
        assert [each.offer_id for each in answer.offers] == [offer_id for offer_id, _ in known]
        for message in answer.offers:
            self._same_offer_as_made(message)

    def _an_offer(self, which: int) -> tuple[int, Facts]:
        known = sorted(self.bank.offers)[-6:]
        offer_id = known[which % len(known)]
        return offer_id, self.bank.offers[offer_id]

    def _same_offer_as_made(self, message: Any) -> None:
        offer = self.bank.offers[message.offer_id]
        state = self.bank.offer_state(offer)
        assert message.customer_id == offer["customer"]
        assert offer_pb2.LoanOfferState.Name(message.state) == f"LOAN_OFFER_STATE_{state}"
        assert paise_of(message.loan_amount) == offer["principal"]
        assert rate_of(message.interest_rate) == offer["bps"]
        assert paise_of(message.monthly_installment) == offer["installment"]
        held = offer["principal"] if state == "OPEN" else 0
        assert paise_of(message.held_credit) == held
        assert day_of(message.valid_until) == offer["last_day"]

    @rule(place=_customer)
    def read_a_score(self, place: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.GetCreditScoreRequest(customer_id=number)
        answer = self.edge.credit.GetCreditScore(request, timeout=30)
        self._same_score(answer.credit_score, number)

    def _same_score(self, message: Any, number: int) -> None:
        score, points, override = self.bank.score(number)
        assert message.score == score
        assert message.scorecard_version == self.bank.scorecard(self.bank.today)
        assert [hundredths_of(each.points) for each in message.components] == points
        name = score_pb2.ScoreOverride.Name(message.override)
        assert name == f"SCORE_OVERRIDE_{override or 'UNSPECIFIED'}"

    # Loans and payments.

    @rule(place=_customer)
    def list_loans(self, place: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.ListLoansRequest(customer_id=number, page_size=1000)
        answer = self.edge.credit.ListLoans(request, timeout=30)
        assert len(answer.loans) == len(self.bank.loans_of(number))
        for message in answer.loans:
            self._same_loan(message)

    def _same_loan(self, message: Any) -> None:
        loan = self.bank.loans[message.customer_id, message.loan_id]
        life = loan["life"]
        assert paise_of(message.loan_amount) == loan["principal"]
        assert rate_of(message.interest_rate) == loan["bps"]
        assert message.tenure_months == life.tenure
        assert paise_of(message.monthly_installment) == life.installment
        assert paise_of(message.last_installment) == life.last_payment()
        assert message.emis_paid_on_time == life.on_time
        assert message.installments_settled == life.settled
        assert message.repayments_left == life.tenure - life.settled
        assert day_of(message.start_date) == loan["start"]
        assert day_of(message.end_date) == due_date(loan["start"], life.tenure)
        closed = day_of(message.closed_on) if message.HasField("closed_on") else None
        assert closed == life.closed_on
        is_closed = message.state == loan_pb2.LOAN_STATE_CLOSED
        assert is_closed == message.HasField("closed_on")
        assert paise_of(message.outstanding) == life.unpaid()
        assert message.days_past_due == days_past_due([life], self.bank.today)

    @precondition(lambda self: self.bank.loans)
    @rule(place=_loan)
    def read_a_schedule(self, place: int) -> None:
        (number, loan_id), loan = self._a_loan(place)
        life = loan["life"]
        request = credit_service_pb2.GetRepaymentScheduleRequest(
            customer_id=number, loan_id=loan_id
        )
        answer = self.edge.credit.GetRepaymentSchedule(request, timeout=30)
        lines = [
            (
                day_of(each.due_date),
                paise_of(each.principal),
                paise_of(each.interest),
                paise_of(each.balance),
            )
            for each in answer.installments
        ]
        assert lines == life.schedule()
        prepaid = sum(did["prepaid"] for did in life.applied.values())
        assert sum(principal for _, principal, _, _ in lines) + prepaid == loan["principal"]
        assert lines[-1][3] == 0
        assert paise_of(answer.totals.outstanding) == life.unpaid()

    @precondition(lambda self: self.bank.loans)
    @rule(
        place=_loan,
        share=st.sampled_from(["part", "one", "one and a part", "three", "all", "too much"]),
        days_ago=st.sampled_from([0, 0, 0, 1, 40, 100, -1, 5_000]),
    )
    def pay(self, place: int, share: str, days_ago: int) -> None:
        key, loan = self._a_loan(place)
        one = loan["life"].installment
        left = loan["life"].unpaid()
        amount = {
            "part": max(1, one // 3),
            "one": one,
            "one and a part": one + max(1, one // 2),
            "three": 3 * one,
            "all": max(1, left),
            "too much": left + 1,
        }[share]
        self._pay(key, amount, self.bank.today - timedelta(days=days_ago))

    def _pay(
        self,
        key: tuple[int, int],
        amount: int,
        day: date,
        purpose: str = INSTALLMENTS,
        effect: str = "",
    ) -> None:
        asked = self.bank.payment(key, amount, day, purpose) | {"effect": effect or REDUCE_TENURE}
        request = credit_service_pb2.RecordPaymentRequest(
            request_id=self._request_id(),
            customer_id=key[0],
            loan_id=key[1],
            amount=money_of(amount),
            paid_on=to_day(day),
            purpose=loan_pb2.PaymentPurpose.Value(f"PAYMENT_PURPOSE_{purpose}"),
        )
        if effect:
            request.prepayment_effect = loan_pb2.PrepaymentEffect.Value(
                f"PREPAYMENT_EFFECT_{effect}"
            )
        after = outcome_of(self.bank.paid, key, asked)
        self._try_a_payment(request, after)
        answer = self._ask(self.edge.credit.RecordPayment, request)
        if isinstance(after, str):
            assert answer == after
            return
        assert not isinstance(answer, str), answer
        self.bank.pay(key, answer.payment.payment_id, asked)
        self._same_answer(answer, key, after, with_schedule=purpose == PART_PREPAYMENT)
        self._same_loan(answer.loan)

    def _try_a_payment(self, request: Any, after: Life | str) -> None:
        """Ask what the payment would do; it does nothing yet."""
        trial = type(request)()
        trial.CopyFrom(request)
        trial.validate_only = True
        trial.request_id = self._request_id()
        answer = outcome_of(self._answer_of, self.edge.credit.RecordPayment, trial)
        if isinstance(answer, str) or isinstance(after, str):
            assert answer == after
            return
        self._same_answer(answer, (request.customer_id, request.loan_id), after, with_schedule=True)

    def _same_answer(
        self, answer: Any, key: tuple[int, int], after: Life, *, with_schedule: bool
    ) -> None:
        """Compare what a payment settled and prepaid, and the schedule after it."""
        number = max(after.applied)
        did = after.applied[number]
        assert [each.number for each in answer.installments] == did["settled"]
        assert paise_of(answer.payment.prepaid_principal) == did["prepaid"]
        assert (answer.payment.customer_id, answer.payment.loan_id) == key
        left = [
            (each.number, day_of(each.due_date), paise_of(each.principal), paise_of(each.interest))
            for each in answer.schedule
        ]
        known = [
            (number, line["due"], line["principal"], line["interest"])
            for number, line in enumerate(after.lines, start=1)
        ]
        assert left == (known[after.settled :] if with_schedule else [])

    @precondition(lambda self: self.bank.loans)
    @rule(place=_loan, late=st.sampled_from([0, -1, 0, 1]), short=st.sampled_from([0, 0, 0, 1]))
    def pay_near_the_due_date(self, place: int, late: int, short: int) -> None:
        """Pay the next installment, or a paisa less; a day early, on time or late."""
        key = self._an_active_loan(place)
        if key is None:
            return
        loan = self.bank.loans[key]
        line = loan["life"].lines[loan["life"].settled]
        day = line["due"] + timedelta(days=late)
        if day > self.bank.today:
            self._set_day(day)
        asked = payment_of(line) - loan["life"].credit - short
        if asked > 0:
            self._pay(key, asked, day)

    def _an_active_loan(self, place: int) -> tuple[int, int] | None:
        active = [
            key for key, loan in sorted(self.bank.loans.items()) if not loan["life"].closed_on
        ]
        return active[place % len(active)] if active else None

    @precondition(lambda self: self.bank.loans)
    @rule(
        place=_loan,
        catch_up=st.booleans(),
        share=st.sampled_from(["little", "third", "half", "nearly all", "all"]),
        effect=st.sampled_from(["", REDUCE_TENURE, REDUCE_INSTALLMENT]),
        days_ago=st.sampled_from([0, 0, 0, 3, 45]),
    )
    def prepay(self, place: int, share: str, effect: str, days_ago: int, *, catch_up: bool) -> None:
        """Repay principal early; often after what is overdue is paid."""
        key = self._an_active_loan(place)
        if key is None:
            return
        day = max(self.bank.today - timedelta(days=days_ago), self.bank.loans[key]["start"])
        overdue = self.bank.loans[key]["life"].overdue(day)
        if catch_up and overdue:
            self._pay(key, overdue, day)
        life = self.bank.loans[key]["life"]
        balance = life.balance()
        amount = {
            "little": 1,
            "third": balance // 3,
            "half": balance // 2,
            "nearly all": balance - 1,
            "all": balance,
        }[share]
        if amount > 0:
            self._pay(key, amount, day, PART_PREPAYMENT, effect)

    @precondition(lambda self: self.bank.loans)
    @rule(
        place=_loan,
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        days_ago=st.sampled_from([0, 0, 0, 3, 45]),
    )
    def foreclose(self, place: int, off: int, days_ago: int) -> None:
        """Ask what closes a loan on a day, and pay it, or a paisa less or more."""
        key = self._an_active_loan(place)
        if key is None:
            return
        day = max(self.bank.today - timedelta(days=days_ago), self.bank.loans[key]["start"])
        request = credit_service_pb2.GetForeclosureQuoteRequest(
            customer_id=key[0], loan_id=key[1], paid_on=to_day(day)
        )
        total = outcome_of(self.bank.quote, key, day)
        answer = self._ask(self.edge.credit.GetForeclosureQuote, request)
        if isinstance(total, str):
            assert answer == total
            total = self.bank.loans[key]["life"].balance()
        else:
            assert not isinstance(answer, str), answer
            assert paise_of(answer.total) == total
        if total + off > 0:
            self._pay(key, total + off, day, FORECLOSURE)

    @precondition(lambda self: self.bank.payments)
    @rule(
        which=st.integers(0, 7),
        reason=st.sampled_from(["BOUNCED", "DUPLICATE", "WRONG_LOAN", "ENTRY_ERROR"]),
    )
    def reverse_a_payment(self, which: int, reason: str) -> None:
        """Take one of the latest payments back; some are taken back already."""
        known = sorted(self.bank.payments)[-8:]
        payment_id = known[which % len(known)]
        request = credit_service_pb2.ReversePaymentRequest(
            request_id=self._request_id(),
            payment_id=payment_id,
            reason=loan_pb2.PaymentReversalReason.Value(f"PAYMENT_REVERSAL_REASON_{reason}"),
        )
        answer = self._ask(self.edge.credit.ReversePayment, request)
        refusal = outcome_of(self.bank.reverse, payment_id, reason)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        assert answer.payment.payment_id == payment_id
        assert answer.payment.reversal.reason == request.reason
        self._same_loan(answer.loan)

    @rule(place=_customer)
    def read_the_arrears(self, place: int) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.GetDelinquencyRequest(customer_id=number)
        answer = self.edge.credit.GetDelinquency(request, timeout=30)
        self._same_delinquency(answer.delinquency, number)

    def _same_delinquency(self, message: Any, number: int) -> None:
        days, asset_class = self.bank.delinquency(number)
        assert message.days_past_due == days
        assert decision_pb2.AssetClass.Name(message.asset_class) == f"ASSET_CLASS_{asset_class}"
        overdue = {
            loan_id: (days_past_due([loan["life"]], self.bank.today), life.overdue(self.bank.today))
            for (holder, loan_id), loan in self.bank.loans.items()
            if holder == number and days_past_due([life := loan["life"]], self.bank.today)
        }
        assert overdue == {
            each.loan_id: (each.days_past_due, paise_of(each.overdue_amount))
            for each in message.loans
        }

    # Earlier days.

    @rule(place=_customer, days_ago=st.sampled_from([0, 1, 30, 91, 200, 366, -1]))
    def read_an_earlier_day(self, place: int, days_ago: int) -> None:
        """Compare score and position as of a day; that of today is the usual one."""
        number, day = self._a_customer(place), self.bank.today - timedelta(days=days_ago)
        scored = credit_service_pb2.GetCreditScoreRequest(customer_id=number, as_of=to_day(day))
        asked = credit_service_pb2.GetCustomerRequest(customer_id=number, as_of=to_day(day))
        arrears = credit_service_pb2.GetDelinquencyRequest(customer_id=number, as_of=to_day(day))
        late = self._ask(self.edge.credit.GetDelinquency, arrears)
        score = self._ask(self.edge.credit.GetCreditScore, scored)
        found = self._ask(self.edge.credit.GetCustomer, asked)
        if days_ago < 0:
            assert {score, found, late} == {"AS_OF_OUT_OF_RANGE"}
            return
        now, self.bank = self.bank, self.bank.as_of(day)
        try:
            self._same_score(score.credit_score, number)
            self._same_customer(found.customer)
            self._same_delinquency(late.delinquency, number)
        finally:
            self.bank = now
        for answer in (score.credit_score, found.customer):
            assert day_of(answer.as_of.day) == day

    # Repeats.

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 40), other=st.booleans())
    def repeat_a_request(self, which: int, *, other: bool) -> None:
        """Check that a repeat returns the first response, and different content is rejected."""
        method, request, kept = self.asked[which % len(self.asked)]
        again = type(request)()
        again.CopyFrom(request)
        if other:
            known = request.DESCRIPTOR.fields_by_name
            if "payment_id" in known:
                again.reason = again.reason % 4 + 1
            elif "update_mask" in known:
                again.customer.first_name = "Other"
                again.update_mask.paths.append("first_name")
            elif "reason" in known:
                again.reason += "."
            else:
                names = ("loan_amount", "amount", "monthly_income")
                money = getattr(again, next(name for name in names if name in known))
                money.units += 1
        try:
            found: bytes | str = method(again, timeout=30).SerializeToString(deterministic=True)
        except grpc.RpcError as error:
            found = refusal_of(error).reason
        expected = "REQUEST_ID_REUSED" if other else kept
        is_update = again.DESCRIPTOR.name == "UpdateCustomerRequest"
        if is_update and again.customer.customer_id not in self.bank.customers:
            # A revert removed the customer: the request had changed nothing.
            expected = "CUSTOMER_NOT_FOUND"
        assert found == expected

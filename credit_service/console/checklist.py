"""The QA checklist: what the service must do, checked against the service, one item at a time.

Each item makes its own customers and loans, with figures whose answers are known beforehand, and
compares. It writes for real: its customers are called “QA Check”. So it runs only where the
setting `console_checklist` allows it, and after a person confirmed. An item looks at nothing but
the answers of the contract.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal
from uuid import uuid4

import grpc
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.client import display
from credit_service.client.channel import ServiceError
from credit_service.console import formats
from credit_service.console.calls import Call
from credit_service.console.security import Session, is_loopback
from credit_service.console.service import ENDED_STATES, Service
from credit_service.rupees import RUPEE_PAISE, format_inr, group_digits
from credit_service.settings import Settings
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, event_pb2, ingestion_pb2, loan_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.customer_pb2 import Customer

LAKH_PAISE = 10_000_000
_PHONES = 1_000_000_000
_EVENT_WAIT_SECONDS = 5.0
_SCORE_WAIT_SECONDS = 5.0
_WORKER_WAIT_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_PHONE_TRIES = 3
FIGURES_OF = "standard-1"
"""The scorecard that the expected scores, rates and decisions were worked out for."""
SCOPES = ("credit.read", "credit.write", "ingest")
"""Scopes that the items need between them."""
_ABORTED_TRIES = 5


class MissedError(Exception):
    """The service did something else than it must. The message says what was found."""


class SkippedError(Exception):
    """The item's figures do not apply to this service. The message says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item: `run` does it and says what it found, or raises MissedError or ServiceError."""

    key: str
    title: str
    expected: str
    run: Callable[["Bench"], str]
    has_figures: bool = False
    """Whether what it expects follows from the figures of the scorecard FIGURES_OF."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Items of one flow."""

    key: str
    title: str
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Result:
    """How an item went."""

    item: Item
    outcome: Literal["pass", "fail", "skip"]
    found: str
    seconds: float
    calls: list[Call]

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"


def run(item: Item, service: Service) -> Result:
    """Run one item for real. It writes.

    Raises ServiceError when the person has to sign in.
    """
    began = time.monotonic()
    outcome: Literal["pass", "fail", "skip"] = "fail"
    try:
        bench = Bench(service)
        if item.has_figures:
            bench.require_scorecard()
        found = item.run(bench)
        outcome = "pass"
    except SkippedError as error:
        outcome, found = "skip", str(error)
    except MissedError as error:
        found = str(error)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        found = "The service returned an error. " + " ".join(error.lines())
    return Result(item, outcome, found, time.monotonic() - began, list(service.calls))


class Bench:
    """Makes what the items need."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def require_scorecard(self) -> None:
        """Raises SkippedError unless the service decides by FIGURES_OF now.

        A check of any customer names the active scorecard, and writes nothing.
        """
        listed = self.service.customers(pb.ListCustomersRequest(page_size=1)).customers
        customer_id = listed[0].customer_id if listed else self.customer().customer_id
        version = self.check(customer_id, 100_000, "12", 12).credit_score.scorecard_version
        if version != FIGURES_OF:
            raise SkippedError(
                f"The expected figures apply only to scorecard {FIGURES_OF}. The service uses "
                f"{version}, so nothing was compared."
            )

    def customer(self, income_rupees: int = 100_000) -> Customer:
        """A new customer without a loan."""
        for tries_left in reversed(range(_PHONE_TRIES)):
            try:
                return self.service.register(registration(income_rupees))
            except ServiceError as error:
                # A number that was drawn before; there are a billion.
                if error.reason != "PHONE_NUMBER_TAKEN" or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def with_history(
        self, loans: int, on_time: int, principal_rupees: int, income_rupees: int = 100_000
    ) -> Customer:
        """A customer with closed loans of twelve installments, `on_time` of each paid on time.

        They began years ago, so the score they make holds on every later day.
        """
        customer = self.customer(income_rupees)
        rows = [
            loan_row(customer.customer_id, number, principal_rupees, on_time)
            for number in range(1, loans + 1)
        ]
        counted = self.ingest(rows).ingestion
        require(counted.inserted == loans, f"{counted.inserted} of {loans} loans were stored")
        self._await_score(customer.customer_id)
        return customer

    def _await_score(self, customer_id: int) -> None:
        """Wait until the score is that of the rows just taken in. Booking and paying show at once;
        after an ingestion the scores follow."""
        version = self.service.customer(customer_id).version
        give_up = time.monotonic() + _SCORE_WAIT_SECONDS
        while self.service.score(customer_id).customer_version < version:
            require(
                time.monotonic() < give_up,
                f"no new score within {_SCORE_WAIT_SECONDS:g} s of the ingestion",
            )
            time.sleep(_LOOK_SECONDS)

    def ingest(self, rows: Sequence[Any], *, validate_only: bool = False) -> Any:
        """Loan rows, as one batch of a stream; its response."""
        header = ingestion_pb.IngestRowsHeader(
            ingestion_id=str(uuid4()),
            kind=ingestion_pb2.INGESTION_KIND_LOANS,
            validate_only=validate_only,
        )
        batch = ingestion_pb.RowBatch(offset=0, loans=ingestion_pb.LoanRows(rows=rows))
        return self.service.ingest_rows(header, batch)

    def check(self, customer_id: int, rupees: int, rate: str, months: int) -> Any:
        """CheckEligibility."""
        return self.service.check(
            pb.CheckEligibilityRequest(
                customer_id=customer_id,
                loan_amount=rupees_money(rupees),
                interest_rate=DecimalMessage(value=rate),
                tenure_months=months,
            )
        )

    def apply(
        self, customer_id: int, rupees: int, rate: str, months: int, request_id: str = ""
    ) -> pb.CreateLoanResponse:
        """CreateLoan, under a request id of its own where none is given.

        Told that the same request is still running, it asks again, as every client should.
        """
        request = pb.CreateLoanRequest(
            request_id=request_id or str(uuid4()),
            customer_id=customer_id,
            loan_amount=rupees_money(rupees),
            interest_rate=DecimalMessage(value=rate),
            tenure_months=months,
        )
        for tries_left in reversed(range(_ABORTED_TRIES)):
            try:
                return self.service.create_loan(request)
            except ServiceError as error:
                if error.code is not grpc.StatusCode.ABORTED or not tries_left:
                    raise
                time.sleep(min(error.retry_after_seconds or _LOOK_SECONDS, 1.0))
        raise AssertionError("the last try returns or raises")

    def booked(self, rupees: int = 100_000, months: int = 12) -> Any:
        """A loan that was just approved for a new customer of good standing."""
        customer = self.with_history(10, 12, 100_000)
        created = self.apply(customer.customer_id, rupees, "12", months)
        require(created.approved, f"the loan was declined: {created.message}")
        return created.loan

    def loans(self, customer_id: int) -> list[Any]:
        """The first page of a customer's loans."""
        return list(self.service.loans(pb.ListLoansRequest(customer_id=customer_id)).loans)

    def refused(
        self, call: Callable[[], object], code: grpc.StatusCode, reason: str
    ) -> ServiceError:
        """The error that a call must end with."""
        try:
            call()
        except ServiceError as error:
            shown = f"{error.code.name} ({error.reason}): {error.message}"
            require(error.code is code and error.reason == reason, shown)
            return error
        raise MissedError("The call succeeded, but it must fail.")


def require(holds: bool, found: str) -> None:
    """Raises MissedError with what was found, unless it holds."""
    if not holds:
        raise MissedError(found)


def rupees_money(rupees: int) -> Any:
    """Whole rupees as a google.type.Money."""
    return formats.money_of(rupees * RUPEE_PAISE)


def registration(income_rupees: int) -> pb.RegisterCustomerRequest:
    """A request to register a made-up person."""
    return pb.RegisterCustomerRequest(
        request_id=str(uuid4()),
        first_name="QA",
        last_name="Check",
        age=35,
        monthly_income=rupees_money(income_rupees),
        phone_number=f"+91{7 * _PHONES + secrets.randbelow(_PHONES)}",
    )


def loan_row(customer_id: int, loan_id: int, principal_rupees: int, on_time: int) -> Any:
    """A loan of 2015 over twelve months at 12 %."""
    return ingestion_pb2.LoanRow(
        customer_id=customer_id,
        loan_id=loan_id,
        loan_amount=rupees_money(principal_rupees),
        tenure_months=12,
        interest_rate=DecimalMessage(value="12"),
        monthly_installment=rupees_money(principal_rupees * 9 // 100),
        emis_paid_on_time=on_time,
        start_date=Date(year=2015, month=1, day=5),
    )


def _reason_names(answer: Any) -> str:
    names = [
        display.enum_name(each.code, decision_pb2.DeclineReasonCode) for each in answer.reasons
    ]
    return ", ".join(names) or "no reason"


def _verdict(answer: Any) -> str:
    word = "approved" if answer.approved else f"declined: {_reason_names(answer)}"
    return f"{word}, at {answer.corrected_interest_rate.value} %"


# Registration.


def _limit_follows_income(bench: Bench) -> str:
    found = {
        income: display.paise(bench.customer(income).approved_limit)
        for income in (62_500, 12_500, 1_389, 1_388)
    }
    told = ", ".join(
        f"{group_digits(income)} → {format_inr(limit).removesuffix('.00')}"
        for income, limit in found.items()
    )
    require(list(found.values()) == [23 * LAKH_PAISE, 5 * LAKH_PAISE, LAKH_PAISE, 0], told)
    return told


def _all_bad_fields_at_once(bench: Bench) -> str:
    request = pb.RegisterCustomerRequest(
        first_name=" ",
        last_name="x" * 51,
        age=17,
        monthly_income=rupees_money(0),
        phone_number="12",
    )
    error = bench.refused(
        lambda: bench.service.register(request),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
    )
    fields = sorted({name for name, _ in error.violations})
    told = f"INVALID_ARGUMENT for {', '.join(fields)}"
    wanted = ["age", "first_name", "last_name", "monthly_income", "phone_number", "request_id"]
    require(fields == wanted, told)
    return told


def _one_phone_one_customer(bench: Bench) -> str:
    first = bench.customer()
    again = registration(100_000)
    number = first.phone_number.removeprefix("+91")
    again.phone_number = f"0{number[:5]} {number[5:]}"
    error = bench.refused(
        lambda: bench.service.register(again),
        grpc.StatusCode.ALREADY_EXISTS,
        "PHONE_NUMBER_TAKEN",
    )
    return f"{error.code.name} ({error.reason})"


def _register_once(bench: Bench) -> str:
    request = registration(100_000)
    first, second = bench.service.register(request), bench.service.register(request)
    told = f"customers {first.customer_id} and {second.customer_id}"
    require(first.customer_id == second.customer_id, told)
    return f"customer {first.customer_id} both times"


def _request_id_other_content(bench: Bench) -> str:
    request = registration(100_000)
    bench.service.register(request)
    request.age += 1
    error = bench.refused(
        lambda: bench.service.register(request),
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
    )
    return f"{error.code.name} ({error.reason})"


# Eligibility.


def _no_history(bench: Bench) -> str:
    answer = bench.check(bench.customer().customer_id, 100_000, "12", 12)
    told = f"score {answer.credit_score.score}, {_verdict(answer)}"
    codes = [each.code for each in answer.reasons]
    require(
        not answer.approved
        and answer.credit_score.score == 0
        and codes[:1] == [decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY],
        told,
    )
    return told


def _scored(
    loans: int, on_time: int, principal_rupees: int, asked: str, score: int, corrected: str
) -> Callable[[Bench], str]:
    """An item that expects that score of such a history, and approval at the corrected rate."""

    def check(bench: Bench) -> str:
        customer = bench.with_history(loans, on_time, principal_rupees)
        answer = bench.check(customer.customer_id, 100_000, asked, 12)
        told = f"score {answer.credit_score.score}, {_verdict(answer)}"
        require(
            answer.approved
            and answer.credit_score.score == score
            and answer.corrected_interest_rate.value == corrected,
            told,
        )
        return told

    return check


def _published_installment(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000)
    answer = bench.check(customer.customer_id, 100_000, "12", 12)
    told = f"{display.inr(answer.monthly_installment)} a month"
    require(display.paise(answer.monthly_installment) == 888_488, told)
    return told


def _score_too_low(bench: Bench) -> str:
    customer = bench.with_history(1, 0, 50_000)
    answer = bench.check(customer.customer_id, 100_000, "20", 12)
    told = f"score {answer.credit_score.score}, {_verdict(answer)}"
    codes = [each.code for each in answer.reasons]
    low = decision_pb2.DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW
    require(not answer.approved and codes[:1] == [low], told)
    require(not answer.HasField("counter_offer"), f"{told}, with a counter-offer")
    return told


def _counter_offer_is_exact(bench: Bench) -> str:
    customer_id = bench.with_history(10, 12, 100_000, income_rupees=30_000).customer_id
    answer = bench.check(customer_id, 500_000, "12", 12)
    burden = decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH
    require(burden in [each.code for each in answer.reasons], _verdict(answer))
    offer = answer.counter_offer
    most = display.paise(offer.max_loan_amount) // RUPEE_PAISE
    fewest = offer.min_tenure_months
    tried = {
        f"₹{group_digits(most)}": bench.check(customer_id, most, "12", 12).approved,
        "one rupee more": bench.check(customer_id, most + 1, "12", 12).approved,
        f"{fewest} months": bench.check(customer_id, 500_000, "12", fewest).approved,
        "one month less": bench.check(customer_id, 500_000, "12", fewest - 1).approved,
    }
    told = ", ".join(f"{ask} {'approved' if ok else 'declined'}" for ask, ok in tried.items())
    require(list(tried.values()) == [True, False, True, False], told)
    return told


def _limit_exceeded(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000, income_rupees=100_000)
    limit_rupees = display.paise(customer.approved_limit) // RUPEE_PAISE
    answer = bench.check(customer.customer_id, limit_rupees + 1, "12", 480)
    codes = [each.code for each in answer.reasons]
    limit = decision_pb2.DECLINE_REASON_CODE_APPROVED_LIMIT_EXCEEDED
    require(not answer.approved and codes == [limit], _verdict(answer))
    reason = answer.reasons[0]
    return f"{_verdict(answer)} (found {reason.found}, threshold {reason.threshold})"


def _unknown_customer(bench: Bench) -> str:
    error = bench.refused(
        lambda: bench.check(formats.MAX_INT64, 100_000, "12", 12),
        grpc.StatusCode.NOT_FOUND,
        "CUSTOMER_NOT_FOUND",
    )
    return f"{error.code.name} ({error.reason})"


def _check_writes_nothing(bench: Bench) -> str:
    before = bench.with_history(10, 12, 100_000)
    before = bench.service.customer(before.customer_id)
    bench.check(before.customer_id, 100_000, "12", 12)
    after = bench.service.customer(before.customer_id)
    request = pb.ListDecisionsRequest(customer_id=before.customer_id)
    decisions = bench.service.decisions(request).decisions
    told = f"version {before.version} → {after.version}, {len(decisions)} decisions"
    require(before.version == after.version and not decisions, told)
    return told


# Loan creation.


def _approved_is_booked(bench: Bench) -> str:
    loan = bench.booked()
    stored = bench.service.loan(loan.loan_id)
    told = (
        f"loan {stored.loan.loan_id} {display.enum_name(stored.loan.state, loan_pb2.LoanState)}, "
        f"current debt {display.inr(stored.customer.current_debt)}"
    )
    require(
        stored.loan == loan
        and stored.loan.state == loan_pb2.LOAN_STATE_ACTIVE
        and display.paise(stored.customer.current_debt) == LAKH_PAISE,
        told,
    )
    return told


def _booked_once(bench: Bench) -> str:
    customer_id = bench.with_history(10, 12, 100_000).customer_id
    request_id = str(uuid4())
    with ThreadPoolExecutor(2) as both:
        futures = [
            both.submit(bench.apply, customer_id, 100_000, "12", 12, request_id) for _ in range(2)
        ]
    answers = [each.result() for each in futures]
    answers.append(bench.apply(customer_id, 100_000, "12", 12, request_id))
    loans = len(bench.loans(customer_id))
    ids = sorted({each.loan.loan_id for each in answers})
    told = f"three responses with loan {', '.join(map(str, ids))}; {loans - 10} booked"
    require(len(ids) == 1 and loans == 11, told)
    return told


def _decline_is_stored(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    created = bench.apply(customer_id, 100_000, "12", 12)
    stored = bench.service.decision(created.decision_id)
    told = f"decision {stored.decision_id}: {_verdict(stored)}"
    require(
        not created.approved
        and not stored.approved
        and stored.reasons == created.reasons
        and not bench.loans(customer_id),
        told,
    )
    return told


def _no_two_on_one_headroom(bench: Bench) -> str:
    customer = bench.with_history(10, 12, 100_000, income_rupees=100_000)
    limit_rupees = display.paise(customer.approved_limit) // RUPEE_PAISE
    amount = limit_rupees * 2 // 3
    with ThreadPoolExecutor(4) as at_once:
        futures = [
            at_once.submit(bench.apply, customer.customer_id, amount, "12", 480) for _ in range(4)
        ]
    approved = sum(each.result().approved for each in futures)
    after = bench.service.customer(customer.customer_id)
    told = (
        f"{approved} of 4 approved, debt {display.inr(after.current_debt)} "
        f"of {display.inr(after.approved_limit)}"
    )
    within = display.paise(after.current_debt) <= display.paise(after.approved_limit)
    require(approved == 1 and within, told)
    return told


def _schedule_adds_up(bench: Bench) -> str:
    loan = bench.booked()
    schedule = bench.service.schedule(loan.customer_id, loan.loan_id)
    lines = schedule.installments
    principal = sum(display.paise(each.principal) for each in lines)
    interest = sum(display.paise(each.interest) for each in lines)
    last = display.paise(lines[-1].payment)
    told = (
        f"{len(lines)} installments, principal {format_inr(principal)}, "
        f"interest {format_inr(interest)}, last {format_inr(last)}, "
        f"balance {display.inr(lines[-1].balance)}"
    )
    require(
        (len(lines), principal, interest, last, display.paise(lines[-1].balance))
        == (12, LAKH_PAISE, 661_853, 888_485, 0),
        told,
    )
    return told


def _payment_settles(bench: Bench) -> str:
    loan = bench.booked()
    recorded = bench.service.pay(_payment(loan, display.paise(loan.monthly_installment)))
    after = bench.service.loan(loan.loan_id, loan.customer_id).loan
    told = (
        f"{len(recorded.installments)} installment settled, {after.repayments_left} left, "
        f"{display.inr(after.outstanding)} outstanding"
    )
    outstanding = display.paise(loan.outstanding) - display.paise(loan.monthly_installment)
    require(
        len(recorded.installments) == 1
        and after.repayments_left == 11
        and display.paise(after.outstanding) == outstanding,
        told,
    )
    return told


def _payment_too_large(bench: Bench) -> str:
    loan = bench.booked()
    error = bench.refused(
        lambda: bench.service.pay(_payment(loan, display.paise(loan.outstanding) + 1)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "PAYMENT_EXCEEDS_OUTSTANDING",
    )
    return f"{error.code.name} ({error.reason})"


def _payment(loan: Any, amount_paise: int) -> pb.RecordPaymentRequest:
    return pb.RecordPaymentRequest(
        request_id=str(uuid4()),
        customer_id=loan.customer_id,
        loan_id=loan.loan_id,
        amount=formats.money_of(amount_paise),
    )


# Data integrity.


def _counts(ingestion: Any) -> str:
    return (
        f"{ingestion.rows_read} read = {ingestion.inserted} inserted + {ingestion.updated} updated "
        f"+ {ingestion.unchanged} unchanged + {ingestion.skipped} skipped "
        f"+ {ingestion.rejected} rejected"
    )


def _counted(ingestion: Any) -> tuple[int, int, int, int]:
    return ingestion.rows_read, ingestion.inserted, ingestion.unchanged, ingestion.rejected


def _bad_row_is_reported(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    rows = [loan_row(customer_id, number, 50_000, 12) for number in (1, 2, 3)]
    rows[1].tenure_months = 481
    rows[1].emis_paid_on_time = 0
    rows[1].row_number = 77
    response = bench.ingest(rows)
    errors = [
        f"row {each.row_number}, {each.column}: "
        f"{display.enum_name(each.code, ingestion_pb2.RowErrorCode)}"
        for each in response.row_errors
    ]
    told = f"{_counts(response.ingestion)}; {'; '.join(errors) or 'no error reported'}"
    require(
        _counted(response.ingestion) == (3, 2, 0, 1)
        and errors[:1] == ["row 77, tenure_months: OUT_OF_RANGE"],
        told,
    )
    return told


def _twice_changes_nothing(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    rows = [loan_row(customer_id, number, 50_000, 12) for number in (1, 2)]
    bench.ingest(rows)
    before = bench.service.customer(customer_id)
    second = bench.ingest(rows).ingestion
    after = bench.service.customer(customer_id)
    told = f"{_counts(second)}; version {before.version} → {after.version}"
    require(_counted(second) == (2, 0, 2, 0) and before.version == after.version, told)
    return told


def _dry_run_writes_nothing(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    dry = bench.ingest([loan_row(customer_id, 1, 50_000, 12)], validate_only=True).ingestion
    stored = len(bench.loans(customer_id))
    told = f"{_counts(dry)}; {stored} loans stored"
    require(_counted(dry) == (1, 1, 0, 0) and not stored, told)
    return told


def _shared_loan_id(bench: Bench) -> str:
    first, second = bench.customer().customer_id, bench.customer().customer_id
    loan_id = 1_000_000_000 + secrets.randbelow(1_000_000_000)
    bench.ingest([loan_row(each, loan_id, 50_000, 12) for each in (first, second)])
    error = bench.refused(
        lambda: bench.service.loan(loan_id),
        grpc.StatusCode.FAILED_PRECONDITION,
        "LOAN_ID_AMBIGUOUS",
    )
    named = error.metadata.get("customer_ids", "")
    owner = bench.service.loan(loan_id, second).loan.customer_id
    told = f"{error.reason} with customers {named}; for customer {second}, the loan of {owner}"
    require(named.split(",") == [str(first), str(second)] and owner == second, told)
    return told


def _paisa_is_the_finest(bench: Bench) -> str:
    customer_id = bench.customer().customer_id
    found = []
    for amount in (Money(units=100, nanos=5_000_000), Money(currency_code="USD", units=100)):
        request = pb.CheckEligibilityRequest(
            customer_id=customer_id,
            loan_amount=amount,
            interest_rate=DecimalMessage(value="12"),
            tenure_months=12,
        )
        error = bench.refused(
            lambda request=request: bench.service.check(request),  # type: ignore[misc]
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
        )
        found.append(", ".join(problem for _, problem in error.violations))
    return " ".join(found)


def _events_in_order(bench: Bench) -> str:
    loan = bench.booked()
    give_up = time.monotonic() + _EVENT_WAIT_SECONDS
    while True:
        events = bench.service.history(loan.customer_id)
        kinds = [each.WhichOneof("payload") for each in events]
        if "loan_created" in kinds or time.monotonic() > give_up:
            break
        time.sleep(_LOOK_SECONDS)
    told = ", ".join(f"{each.event_id} {each.WhichOneof('payload')}" for each in events)
    told = told or f"no event within {_EVENT_WAIT_SECONDS:g} s: check that a worker is running"
    in_order = all(_is_before(one, other) for one, other in pairwise(events))
    require(
        in_order and kinds[:1] == ["customer_registered"] and "loan_created" in kinds,
        told,
    )
    return told


def _is_before(one: event_pb2.CreditEvent, other: event_pb2.CreditEvent) -> bool:
    return one.event_id < other.event_id and one.customer_version <= other.customer_version


def _upload_is_read(bench: Bench) -> str:
    customer = bench.customer()
    text = (
        "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,"
        "EMIs paid on Time,Date of Approval,End Date\r\n"
        f"{customer.customer_id},1,50000,12,12,4500,12,2015-01-05,2016-01-05\r\n"
        f"{customer.customer_id},2,50000,twelve,12,4500,12,2015-01-05,2016-01-05\r\n"
    )
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=str(uuid4()),
        kind=ingestion_pb2.INGESTION_KIND_LOANS,
        filename="qa-check.csv",
    )
    ingestion = bench.service.upload(header, iter([text.encode()]))
    give_up = time.monotonic() + _WORKER_WAIT_SECONDS
    while ingestion.state not in ENDED_STATES and time.monotonic() < give_up:
        time.sleep(_LOOK_SECONDS)
        ingestion = bench.service.ingestion(header.ingestion_id)
    state = display.enum_name(ingestion.state, ingestion_pb2.IngestionState)
    told = f"{state}: {_counts(ingestion)}"
    succeeded = ingestion.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    require(succeeded and _counted(ingestion) == (2, 1, 0, 1), told)
    return told


FLOWS: Sequence[Flow] = (
    Flow(
        "registration",
        "Registration",
        (
            Item(
                "limit-follows-income",
                "The approved limit is computed from the income",
                "36 times the income to the nearest lakh, half up: 62,500 → ₹23,00,000, "
                "12,500 → ₹5,00,000, 1,389 → ₹1,00,000, 1,388 → ₹0",
                _limit_follows_income,
            ),
            Item(
                "all-bad-fields",
                "All invalid fields are reported at once",
                "INVALID_ARGUMENT for age, first_name, last_name, monthly_income, phone_number "
                "and request_id",
                _all_bad_fields_at_once,
            ),
            Item(
                "one-phone",
                "A phone number in another format is the same number",
                "ALREADY_EXISTS (PHONE_NUMBER_TAKEN)",
                _one_phone_one_customer,
            ),
            Item(
                "register-once",
                "A repeated request with one request id registers one customer",
                "the same customer both times",
                _register_once,
            ),
            Item(
                "request-id-reused",
                "A request id with other content is rejected",
                "FAILED_PRECONDITION (REQUEST_ID_REUSED)",
                _request_id_other_content,
            ),
        ),
    ),
    Flow(
        "eligibility",
        "Eligibility",
        (
            Item(
                "no-history",
                "A customer without any loan is declined",
                "score 0, declined: NO_CREDIT_HISTORY",
                _no_history,
                has_figures=True,
            ),
            Item(
                "rate-stands",
                "A score above 50 keeps the requested rate",
                "score 80, approved, at 8 %",
                _scored(10, 12, 100_000, "8", 80, "8"),
                has_figures=True,
            ),
            Item(
                "rate-twelve",
                "A score of 31 to 50 corrects the rate to 12 %",
                "score 38, approved, at 12 %",
                _scored(1, 12, 50_000, "8", 38, "12"),
                has_figures=True,
            ),
            Item(
                "rate-sixteen",
                "A score of 11 to 30 corrects the rate to 16 %",
                "score 18, approved, at 16 %",
                _scored(1, 5, 50_000, "8", 18, "16"),
                has_figures=True,
            ),
            Item(
                "score-too-low",
                "A score of 10 or less: declined, with no counter-offer",
                "score 3, declined: CREDIT_SCORE_TOO_LOW",
                _score_too_low,
                has_figures=True,
            ),
            Item(
                "published-installment",
                "₹1,00,000 over 12 months at 12 % has the published installment",
                "₹8,884.88 a month",
                _published_installment,
                has_figures=True,
            ),
            Item(
                "counter-offer",
                "The counter-offer is exact",
                "the offers approved; one rupee more, or one month less, declined",
                _counter_offer_is_exact,
                has_figures=True,
            ),
            Item(
                "limit-exceeded",
                "One rupee above the limit: declined",
                "declined: APPROVED_LIMIT_EXCEEDED, with found and threshold",
                _limit_exceeded,
                has_figures=True,
            ),
            Item(
                "unknown-customer",
                "An unknown customer is not found",
                "NOT_FOUND (CUSTOMER_NOT_FOUND)",
                _unknown_customer,
            ),
            Item(
                "check-writes-nothing",
                "An eligibility check writes nothing",
                "the same version before and after, no decision",
                _check_writes_nothing,
            ),
        ),
    ),
    Flow(
        "loans",
        "Loan creation",
        (
            Item(
                "approved-booked",
                "An approved loan is booked",
                "the loan ACTIVE, current debt ₹1,00,000.00",
                _approved_is_booked,
                has_figures=True,
            ),
            Item(
                "booked-once",
                "Two concurrent calls and a repeat with one request id book one loan",
                "one loan id in all three responses, 1 booked",
                _booked_once,
                has_figures=True,
            ),
            Item(
                "decline-stored",
                "A decline is stored with its reasons",
                "a decision, declined: NO_CREDIT_HISTORY, and no loan",
                _decline_is_stored,
                has_figures=True,
            ),
            Item(
                "one-headroom",
                "Four concurrent applications, with credit for only one",
                "1 of 4 approved, debt within the limit",
                _no_two_on_one_headroom,
                has_figures=True,
            ),
            Item(
                "schedule-adds-up",
                "The schedule adds up to the paisa",
                "12 installments, principal ₹1,00,000.00, interest ₹6,618.53, last ₹8,884.85, "
                "balance ₹0.00",
                _schedule_adds_up,
                has_figures=True,
            ),
            Item(
                "payment-settles",
                "A payment of one installment settles one",
                "1 installment settled, 11 left, outstanding less by the payment",
                _payment_settles,
                has_figures=True,
            ),
            Item(
                "payment-too-large",
                "A payment above the outstanding amount is rejected",
                "FAILED_PRECONDITION (PAYMENT_EXCEEDS_OUTSTANDING)",
                _payment_too_large,
                has_figures=True,
            ),
        ),
    ),
    Flow(
        "integrity",
        "Data integrity",
        (
            Item(
                "bad-row",
                "An invalid row is reported and the other rows are stored",
                "3 read = 2 inserted + 1 rejected; row 77, tenure_months: OUT_OF_RANGE",
                _bad_row_is_reported,
            ),
            Item(
                "twice",
                "Sending the same rows twice changes nothing the second time",
                "2 read = 2 unchanged, the same version",
                _twice_changes_nothing,
            ),
            Item(
                "dry-run",
                "A dry run counts rows and writes nothing",
                "1 read = 1 inserted, 0 loans stored",
                _dry_run_writes_nothing,
            ),
            Item(
                "shared-loan-id",
                "A loan id that two customers share is ambiguous",
                "LOAN_ID_AMBIGUOUS with both customers; for one customer, that customer's loan",
                _shared_loan_id,
            ),
            Item(
                "money-precision",
                "Money finer than a paisa, or in another currency, is rejected",
                "INVALID_ARGUMENT both times, with the reason",
                _paisa_is_the_finest,
            ),
            Item(
                "events-in-order",
                "Events of a customer arrive in order",
                "customer_registered first, loan_created later; ids increase, versions never fall",
                _events_in_order,
                has_figures=True,
            ),
            Item(
                "upload-read",
                "A worker reads an uploaded file",
                "SUCCEEDED: 2 read = 1 inserted + 1 rejected",
                _upload_is_read,
            ),
        ),
    ),
)

ITEMS = {item.key: item for flow in FLOWS for item in flow.items}


def refusal(settings: Settings, session: Session) -> str:
    """Why the checklist may not run for this person against this service; empty when it may."""
    if settings.console_checklist == "off":
        return "The checklist is disabled by CREDIT_CONSOLE_CHECKLIST."
    if settings.console_checklist == "auto" and not _is_for_trying(settings, session):
        return (
            "The checklist writes test customers and loans, so it runs only against a service on "
            "this machine without TLS and tokens. For a test environment, set "
            "CREDIT_CONSOLE_CHECKLIST=on."
        )
    missing = [] if session.scopes is None else [s for s in SCOPES if s not in session.scopes]
    if missing:
        return f"Your token lacks {', '.join(missing)}, which the checks need."
    return ""


def _is_for_trying(settings: Settings, session: Session) -> bool:
    host = settings.server_address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return is_loopback(host) and settings.server_ca is None and not session.token

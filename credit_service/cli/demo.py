"""`demo` runs the whole service on a temporary stack, step by step, and checks every response.

Each step prints its call, to paste. The exit code is 0 only if every check passes. At the end the
demo stops every process and removes its folder.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from google.protobuf.message import Message
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from rich.text import Text

from credit_service.cli.common import ExitCode
from credit_service.cli.ingest import Outcome, send
from credit_service.cli.output import SERVICE, buf_curl, grpcurl, note, out, paste
from credit_service.client.channel import open_channel, require_ready
from credit_service.client.display import inr, paise
from credit_service.client.rows import open_source
from credit_service.settings import Settings
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, ingestion_pb2, loan_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError, decoded_errors
from credit_service_client.ingestion import IngestionClient, Request

T = TypeVar("T")

CUSTOMERS = 300
LOANS = 782
SEED = 1
FURTHER_LOANS = 50
START_TIMEOUT_SECONDS = 60.0
CALL_TIMEOUT_SECONDS = 10.0
_STOP_TIMEOUT_SECONDS = 40.0
_LOG_LINES = 20


class _FailedStartError(Exception):
    """The service did not start. The message is the end of its log."""


def run(*, keep: bool) -> int:
    """Run the demo and return the exit code: GOOD only if every check passes."""
    # Report invalid settings before anything starts.
    Settings().clock.moment()
    folder = Path(tempfile.mkdtemp(prefix="credit-service-demo-"))
    # If this process is root, the databases run as another user, who must be able to enter.
    folder.chmod(0o711)
    try:
        with _terminated_as_interrupted(), _service(folder) as address:
            passed = _Demo(address, folder).run()
            if keep:
                note(f"The service is still running at {address}. Press Ctrl-C to stop it.")
                _wait_for_interrupt()
    except _FailedStartError as error:
        note(str(error))
        return ExitCode.UNAVAILABLE
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ExitCode.GOOD if passed else ExitCode.REFUSED


class _Demo:
    """The steps in order, and their failed checks."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._steps = 0
        self._checks = 0
        self._failures: list[str] = []
        self._started = time.monotonic()

    def run(self) -> bool:
        """Run all steps. Return whether every check passed."""
        today = Settings().clock.moment().today
        with open_channel(self._address) as channel:
            require_ready(channel, self._address, START_TIMEOUT_SECONDS)
            try:
                self._ingest(IngestionClient(channel), today)
                self._lend(CreditServiceStub(channel))
            except ServiceError as error:
                self._failures.append(str(error))
                out.print(Text(str(error), style="red"))
        seconds = time.monotonic() - self._started
        if self._failures:
            out.print(Text(f"\n{len(self._failures)} checks failed:", style="bold red"))
            for each in self._failures:
                out.print(Text(f"  {each}"), soft_wrap=True)
            return False
        text = f"\nAll {self._checks} checks in {self._steps} steps passed in {seconds:.0f} s."
        out.print(Text(text, style="bold green"))
        return True

    def _ingest(self, client: IngestionClient, today: date) -> None:
        folder = self._folder / "samples"
        self._step(
            f"Create sample workbooks: {CUSTOMERS} customers, {LOANS} loans",
            f"credit-service sample-data {folder}",
        )
        files = samples.write_samples(
            folder, customers=CUSTOMERS, loans=LOANS, seed=SEED, today=today
        )
        for path, rows in ((files.customer_path, CUSTOMERS), (files.loan_path, LOANS)):
            self._step(
                f"Upload {path.name}; a worker imports it",
                f"credit-service ingest {path} --upload --address {self._address}",
            )
            outcome = send(client, open_source(path), Request(uuid4()), 5, upload=True)
            self._report(outcome)
            self._check("rows inserted", outcome.ingestion.inserted, rows)
            self._check("rows rejected", outcome.ingestion.rejected, 0)

        further = _write_further_loans(folder / "further_loans.csv", today)
        self._step(
            f"Stream another file of {FURTHER_LOANS} loans with one invalid row",
            f"credit-service ingest {further} --address {self._address}",
        )
        outcome = send(client, open_source(further), Request(uuid4()), 5, upload=False)
        self._report(outcome)
        self._check("rows read", outcome.ingestion.rows_read, FURTHER_LOANS)
        self._check("rows inserted", outcome.ingestion.inserted, FURTHER_LOANS - 1)
        self._check(
            "rejected row",
            [(each.row_number, each.column, each.found) for each in outcome.row_errors],
            [(FURTHER_LOANS + 1, "tenure_months", "two years")],
        )

    def _lend(self, stub: CreditServiceStub) -> None:
        self._register(stub)
        self._check_eligibility(stub)
        request = pb.CreateLoanRequest(
            request_id=str(uuid4()),
            customer_id=samples.GOOD_CUSTOMER_ID,
            loan_amount=_rupees(100_000),
            interest_rate=Decimal(value="12"),
            tenure_months=12,
        )
        booked = self._call("Create a loan for customer 101", stub.CreateLoan, request)
        self._say(booked.message)
        self._check_that("approved", holds=booked.approved)
        self._check("installment", inr(booked.monthly_installment), "₹8,884.88")
        self._check("repayments left", booked.loan.repayments_left, 12)

        again = self._call("Repeat the same request: no second loan", stub.CreateLoan, request)
        self._say(f"loan {again.loan.loan_id}, as before")
        self._check("loan", again.loan.loan_id, booked.loan.loan_id)
        self._check_that("the response is identical", holds=again == booked)
        self._view(stub, booked.loan)

    def _register(self, stub: CreditServiceStub) -> None:
        request = pb.RegisterCustomerRequest(
            request_id=str(uuid4()),
            first_name="Asha",
            last_name="Verma",
            age=34,
            monthly_income=_rupees(62_500),
            phone_number="+91 98765 98765",
        )
        response = self._call("Register a customer", stub.RegisterCustomer, request)
        customer = response.customer
        self._say(f"customer {customer.customer_id}, limit {inr(customer.approved_limit)}")
        self._check("phone number", customer.phone_number, "+919876598765")
        self._check("limit, 36 times the income", inr(customer.approved_limit), "₹23,00,000.00")
        self._check_that("id above the imported ids", holds=customer.customer_id > CUSTOMERS)

    def _check_eligibility(self, stub: CreditServiceStub) -> None:
        codes = decision_pb2.DeclineReasonCode
        for customer_id, who, expected in (
            (samples.GOOD_CUSTOMER_ID, "good history", None),
            (
                samples.BAD_CUSTOMER_ID,
                "poor history",
                codes.Value("DECLINE_REASON_CODE_CREDIT_SCORE_TOO_LOW"),
            ),
            (
                samples.OVER_LIMIT_CUSTOMER_ID,
                "debt above the limit",
                codes.Value("DECLINE_REASON_CODE_DEBT_EXCEEDS_APPROVED_LIMIT"),
            ),
        ):
            request = pb.CheckEligibilityRequest(
                customer_id=customer_id,
                loan_amount=_rupees(100_000),
                interest_rate=Decimal(value="10.5"),
                tenure_months=24,
            )
            answer = self._call(
                f"Check customer {customer_id}, {who}", stub.CheckEligibility, request
            )
            score = answer.credit_score.score
            self._say(
                f"score {score}: approved at {answer.corrected_interest_rate.value} %, "
                f"{inr(answer.monthly_installment)} a month"
                if answer.approved
                else f"score {score}: declined. {answer.reasons[0].message}"
            )
            self._check("approved", answer.approved, expected is None)
            if expected is None:
                self._check_that("score over 50", holds=score > 50)
                self._check("rate", answer.corrected_interest_rate.value, "10.5")
            else:
                self._check(
                    "first reason", codes.Name(answer.reasons[0].code), codes.Name(expected)
                )

    def _view(self, stub: CreditServiceStub, booked: loan_pb2.Loan) -> None:
        customer_id, loan_id = booked.customer_id, booked.loan_id
        seen = self._call("View the loan", stub.GetLoan, pb.GetLoanRequest(loan_id=loan_id))
        name = f"{seen.customer.first_name} {seen.customer.last_name}"
        self._say(f"{inr(seen.loan.loan_amount)} to {name}, ends {_day(seen.loan.end_date)}")
        self._check("customer", seen.customer.customer_id, customer_id)
        self._check("amount", inr(seen.loan.loan_amount), "₹1,00,000.00")

        request = pb.ListLoansRequest(customer_id=customer_id)
        loans = self._call("List the customer's loans", stub.ListLoans, request).loans
        active = [each for each in loans if each.state == loan_pb2.LOAN_STATE_ACTIVE]
        self._say(f"{len(loans)} loans, {len(active)} of them active")
        self._check("loans", len(loans), 8)
        self._check_that(
            "the list contains the new loan", holds=loan_id in [x.loan_id for x in loans]
        )

        schedule = self._call(
            "View its repayment schedule",
            stub.GetRepaymentSchedule,
            pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan_id),
        )
        last = schedule.installments[-1]
        self._say(
            f"{len(schedule.installments)} installments, interest {inr(schedule.totals.interest)}"
        )
        self._check("last installment", inr(last.payment), "₹8,884.85")
        self._check("total interest", inr(schedule.totals.interest), "₹6,618.53")
        self._check("balance at the end", paise(last.balance), 0)

        shared = pb.GetLoanRequest(loan_id=samples.SHARED_LOAN_ID)
        try:
            self._call("View a loan id that two imported customers share", stub.GetLoan, shared)
        except ServiceError as error:
            self._say(error.message)
            self._check("reason", error.reason, "LOAN_ID_AMBIGUOUS")
            self._check("customers", error.metadata.get("customer_ids"), "101,105")
        else:
            self._check_that("rejected as ambiguous", holds=False)

    def _step(self, title: str, *calls: str) -> None:
        self._steps += 1
        out.print(Text(f"\n{self._steps:2} {title}", style="bold"))
        for call in calls:
            out.print(paste(f"   {call}"), soft_wrap=True)

    def _call(self, title: str, method: Callable[..., T], request: Message) -> T:
        name = f"{SERVICE}/{request.DESCRIPTOR.name.removesuffix('Request')}"
        self._step(
            title,
            grpcurl(self._address, name, request),
            buf_curl(self._address, name, request),
        )
        with decoded_errors():
            return method(request, timeout=CALL_TIMEOUT_SECONDS)

    def _say(self, text: str) -> None:
        out.print(Text(f"   → {text}"), soft_wrap=True)

    def _report(self, outcome: Outcome) -> None:
        ingestion = outcome.ingestion
        state = ingestion_pb2.IngestionState.Name(ingestion.state).removeprefix("INGESTION_STATE_")
        self._say(
            f"{state}: {ingestion.rows_read} rows read, {ingestion.inserted} inserted, "
            f"{ingestion.rejected} rejected, in {outcome.seconds:.1f} s"
        )
        for each in outcome.row_errors:
            self._say(f"row {each.row_number}: {each.message}")
        if ingestion.HasField("error"):
            self._say(ingestion.error.message)

    def _check_that(self, what: str, *, holds: bool) -> None:
        self._check(what, "yes" if holds else "no", "yes")

    def _check(self, what: str, found: Any, expected: Any) -> None:
        self._checks += 1
        if found == expected:
            out.print(Text.assemble(("   ok ", "green"), f"{what}: {found}"), soft_wrap=True)
            return
        failure = f"{what}: found {found!r}, expected {expected!r}"
        self._failures.append(f"step {self._steps}, {failure}")
        out.print(Text.assemble(("   FAILED ", "bold red"), failure), soft_wrap=True)


def _write_further_loans(path: Path, today: date) -> Path:
    """Write a CSV file with other headers than the workbook. The tenure of its last row is text."""
    headers: Sequence[str] = (
        "customer_id",
        "LOAN ID",
        "Loan Amount",
        "Tenure",
        "Interest Rate",
        "Monthly Repayment (emi)",
        "EMIs paid on time",
        "Start Date",
        "End Date",
    )
    rows = [
        list(each.cells())
        for each in samples.further_loans(
            range(1, 101), FURTHER_LOANS, SEED, today, first_loan_id=900_001
        )
    ]
    rows[-1][headers.index("Tenure")] = "two years"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([headers, *rows])
    return path


@contextmanager
def _service(folder: Path) -> Iterator[str]:
    """Run `credit-service up` with temporary databases and a free port; yield its address."""
    ready_file, log_file = folder / "ready.json", folder / "log"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in {"DATABASE_URL", "REDIS_URL"} and not name.startswith("CREDIT_")
    }
    environment["CREDIT_DATA_DIR"] = str(folder / "data")
    environment["CREDIT_LISTEN"] = "127.0.0.1:0"
    out.print(Text("   Start everything: databases, server, worker", style="bold"))
    out.print(paste("   credit-service up"))
    started = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "credit_service.cli", "up", "--no-console"),
                f"--ready-file={ready_file}",
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() - started > START_TIMEOUT_SECONDS:
                tail = log_file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise _FailedStartError("\n".join(["The service did not start. Its log:", *tail]))
            time.sleep(0.05)
        address: str = json.loads(ready_file.read_text())["address"]
        seconds = time.monotonic() - started
        out.print(Text(f"   → serving at {address} after {seconds:.1f} s"))
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, with everything stopped."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


def _rupees(units: int) -> Money:
    return Money(currency_code="INR", units=units)


def _day(day: Any) -> str:
    return date(day.year, day.month, day.day).isoformat()

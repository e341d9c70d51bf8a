"""Shared by the checks: test customers and loans with known figures, and expectations.

Checks use only responses of the contract.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from credit_service.client import display
from credit_service.console import formats
from credit_service.console.service import Service
from credit_service.rupees import RUPEE_PAISE
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.customer_pb2 import Customer
from credit_service_client.errors import ServiceError

LAKH_PAISE = 10_000_000
_PHONES = 1_000_000_000
_SCORE_WAIT_SECONDS = 5.0
POLL_SECONDS = 0.1
_PHONE_TRIES = 3
FIGURES_OF = "standard-1"
"""The scorecard to which the expected scores, rates and decisions apply."""
_ABORTED_TRIES = 5


class CheckFailedError(Exception):
    """The service did not behave as expected. The message says what was found."""


class CheckSkippedError(Exception):
    """The check's figures do not apply to this service. The message says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One check. `run` returns what it found, or raises CheckFailedError or ServiceError."""

    key: str
    title: str
    expected: str
    run: Callable[["Bench"], str]
    has_figures: bool = False
    """Whether the expected figures are those of the scorecard FIGURES_OF."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The checks of one flow."""

    key: str
    title: str
    items: Sequence[Item]


class Bench:
    """Creates the customers and loans that the checks need, and calls the service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def require_scorecard(self) -> None:
        """Raise CheckSkippedError unless FIGURES_OF is the active scorecard.

        An eligibility check of any customer returns the active scorecard and writes nothing.
        """
        listed = self.service.customers(pb.ListCustomersRequest(page_size=1)).customers
        customer_id = listed[0].customer_id if listed else self.customer().customer_id
        version = self.check(customer_id, 100_000, "12", 12).credit_score.scorecard_version
        if version != FIGURES_OF:
            raise CheckSkippedError(
                f"The expected figures apply only to scorecard {FIGURES_OF}. The service uses "
                f"{version}, so nothing was compared."
            )

    def customer(self, income_rupees: int = 100_000) -> Customer:
        """Register and return a new customer without loans."""
        for tries_left in reversed(range(_PHONE_TRIES)):
            try:
                return self.service.register(registration_request(income_rupees))
            except ServiceError as error:
                # The random number was used before; there are a billion.
                if error.reason != "PHONE_NUMBER_TAKEN" or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def with_history(
        self, loans: int, on_time: int, principal_rupees: int, income_rupees: int = 100_000
    ) -> Customer:
        """Return a customer with closed loans of 12 installments, `on_time` of each paid on time.

        The loans started years ago, so the score is the same on every later day.
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
        """Wait until the score includes the ingested rows. Bookings and payments change scores
        immediately, ingestions later."""
        version = self.service.customer(customer_id).version
        give_up = time.monotonic() + _SCORE_WAIT_SECONDS
        while self.service.score(customer_id).customer_version < version:
            require(
                time.monotonic() < give_up,
                f"no new score within {_SCORE_WAIT_SECONDS:g} s of the ingestion",
            )
            time.sleep(POLL_SECONDS)

    def ingest(self, rows: Sequence[Any], *, validate_only: bool = False) -> Any:
        """Ingest loan rows as one batch of a stream. Return the response."""
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
        """CreateLoan, with a new request id unless one is given.

        Retries while the same request is still running, as every client should.
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
                time.sleep(min(error.retry_after_seconds or POLL_SECONDS, 1.0))
        raise AssertionError("the last try returns or raises")

    def booked(self, rupees: int = 100_000, months: int = 12) -> Any:
        """Book and return a loan of a new customer with good history."""
        customer = self.with_history(10, 12, 100_000)
        created = self.apply(customer.customer_id, rupees, "12", months)
        require(created.approved, f"the loan was declined: {created.message}")
        return created.loan

    def loans(self, customer_id: int) -> list[Any]:
        """Return the first page of a customer's loans."""
        return list(self.service.loans(pb.ListLoansRequest(customer_id=customer_id)).loans)

    def rejected(
        self, call: Callable[[], object], code: grpc.StatusCode, reason: str
    ) -> ServiceError:
        """Return the error of a call that must fail with this code and reason."""
        try:
            call()
        except ServiceError as error:
            shown = f"{error.code.name} ({error.reason}): {error.message}"
            require(error.code is code and error.reason == reason, shown)
            return error
        raise CheckFailedError("The call succeeded, but it must fail.")


def require(holds: bool, found: str) -> None:
    """Raise CheckFailedError with `found` unless `holds`."""
    if not holds:
        raise CheckFailedError(found)


def rupees_money(rupees: int) -> Any:
    """Return whole rupees as a google.type.Money."""
    return formats.money_of(rupees * RUPEE_PAISE)


def registration_request(income_rupees: int) -> pb.RegisterCustomerRequest:
    """Return a request to register a made-up customer."""
    return pb.RegisterCustomerRequest(
        request_id=str(uuid4()),
        first_name="QA",
        last_name="Check",
        age=35,
        monthly_income=rupees_money(income_rupees),
        phone_number=f"+91{7 * _PHONES + secrets.randbelow(_PHONES)}",
    )


def loan_row(customer_id: int, loan_id: int, principal_rupees: int, on_time: int) -> Any:
    """Return a row of a loan of 2015 over 12 months at 12 %."""
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


def verdict(answer: Any) -> str:
    """Return the outcome, its reasons and the corrected rate."""
    word = "approved" if answer.approved else f"declined: {_reason_names(answer)}"
    return f"{word}, at {answer.corrected_interest_rate.value} %"

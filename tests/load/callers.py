"""Callers that behave as documented: the retry policy, a request id for each write, and repeated
requests until there is a response."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import psycopg
from google.protobuf.message import Message
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from grpc_status import rpc_status

from benchmarks import bed
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from tests.integration.conftest import code_of, refusal_of

_SETTLE_SECONDS = 60.0


@dataclass
class Asked:
    """A write and its first response; None while there is none."""

    method: str
    request: Message
    answer: Message | None = None


@dataclass
class Callers:
    """Threads that call, each with one call at a time and its own channel."""

    open_channel: Callable[[], grpc.Channel]
    customers: int
    count: int = 8
    timeout_seconds: float = 10.0
    asked: list[Asked] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failures: list[tuple[float, grpc.RpcError]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(self.count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        pick = random.Random(number)  # noqa: S311 - repeatable load
        with self.open_channel() as channel:
            stub = CreditServiceStub(channel)
            while not self._done.is_set():
                customer_id = pick.randint(1, self.customers)
                lot = pick.random()
                if lot < 0.5:
                    self._send(stub, "GetLoan", _read(customer_id))
                else:
                    method = "CreateLoan" if lot < 0.8 else "RecordPayment"
                    make = booking if method == "CreateLoan" else payment
                    asked = Asked(method, make(customer_id))
                    self.asked.append(asked)
                    asked.answer = self._send(stub, method, asked.request)

    def _send(self, stub: Any, method: str, request: Message) -> Message | None:
        self.calls[method] += 1
        began = time.monotonic()
        try:
            answer: Message = getattr(stub, method)(request, timeout=self.timeout_seconds)
        except grpc.RpcError as error:
            self.failures.append((time.monotonic(), error))
            self._done.wait(0.05)
            return None
        self.latencies.append(time.monotonic() - began)
        if isinstance(answer, pb.CreateLoanResponse) and not answer.approved:
            self.wrong.append(f"declined: {answer}")
        if (
            isinstance(answer, pb.GetLoanResponse)
            and isinstance(request, pb.GetLoanRequest)
            and answer.loan.customer_id != request.customer_id
        ):
            self.wrong.append(f"another customer's loan: {answer}")
        return answer

    def settle(self) -> int:
        """Repeat the calls without a response until each has one; returns the remaining ones."""
        until = time.monotonic() + _SETTLE_SECONDS
        with self.open_channel() as channel:
            stub = CreditServiceStub(channel)
            while time.monotonic() < until:
                left = [asked for asked in self.asked if asked.answer is None]
                if not left:
                    return 0
                for asked in left:
                    asked.answer = self._send(stub, asked.method, asked.request)
        return sum(asked.answer is None for asked in self.asked)

    def account(self, url: str) -> str:
        """Differences between the database and the responses; empty if there are none."""
        loans, payments = set(), set()
        for asked in self.asked:
            if isinstance(asked.answer, pb.CreateLoanResponse):
                loans.add((asked.answer.loan.customer_id, asked.answer.loan.loan_id))
            elif isinstance(asked.answer, pb.RecordPaymentResponse):
                payments.add(asked.answer.payment.payment_id)
        with psycopg.connect(url) as connection:
            stored_loans = set(
                connection.execute("SELECT customer_id, loan_id FROM loans WHERE NOT imported")
            )
            stored_payments = {
                row[0] for row in connection.execute("SELECT payment_id FROM payments")
            }
        return ", ".join(
            f"{name}: {len(acknowledged - stored)} lost, {len(stored - acknowledged)} duplicated"
            for name, acknowledged, stored in (
                ("loans", loans, stored_loans),
                ("payments", payments, stored_payments),
            )
            if acknowledged != stored
        )


def _read(customer_id: int) -> pb.GetLoanRequest:
    return pb.GetLoanRequest(customer_id=customer_id, loan_id=bed.loan_id(customer_id, 1))


def booking(customer_id: int) -> pb.CreateLoanRequest:
    """A small loan that is approved."""
    return pb.CreateLoanRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=500),
        interest_rate=Decimal(value="16"),
        tenure_months=12,
    )


def payment(customer_id: int) -> pb.RecordPaymentRequest:
    """A payment of a rupee for a customer's first loan."""
    return pb.RecordPaymentRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        loan_id=bed.loan_id(customer_id, 1),
        amount=Money(currency_code="INR", units=1),
    )


def drained(url: str, seconds: float = 60.0) -> str:
    """Wait until relay and actors are idle; returns the remaining work, empty if none."""
    until = time.monotonic() + seconds
    left = (0, 0)
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            row = connection.execute(
                """SELECT (SELECT count(*) FROM tasks WHERE actor <> 'reconcile'),
                (SELECT count(*) FROM events WHERE event_id IS NULL)"""
            ).fetchone()
            assert row is not None
            left = (row[0], row[1])
            if left == (0, 0):
                return ""
            time.sleep(0.2)
    return f"{left[0]} tasks and {left[1]} events"


def ended(error: grpc.RpcError) -> str:
    """The end of a call: status, reason, and whether it has RetryInfo."""
    # The error of a call is also the call, despite its type.
    call: Any = error
    if rpc_status.from_call(call) is None:
        return f"{code_of(error).name} without details"
    refusal = refusal_of(error)
    retry = " with RetryInfo" if "RetryInfo" in refusal.details else ""
    return f"{refusal.code.name} {refusal.reason}{retry}"

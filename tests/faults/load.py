"""The callers: closed loops that record their calls and responses.

48 % reads, 17 % CreateLoan (half of it on five hot customers), 8 % offers and their ends, 10 %
repeats of a request id, often twice concurrently, 10 % payments and their reversals, 2 % changes of
customers, 2 % reviews of referred requests, and ingestions, many of which are cancelled or
reverted. Many payments are backdated, prepay or foreclose a loan. Some calls have a very short
deadline, some are cancelled. Calls without a response are repeated at the end, with the same
request id.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from credit_service.client import channel, rows
from credit_service.clock import Clock
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import (
    credit_service_pb2_grpc,
    loan_pb2,
    referral_pb2,
)
from credit_service_client import ingestion
from credit_service_client.ingestion import IngestionClient
from tests.faults import portfolio
from tests.faults.history import CALL_SECONDS, TRY_AGAIN, Asked, History
from tests.faults.ingestions import MOST_INGESTIONS, PATIENCE, Ingestions

_REJECTED_BY_RULES = {
    "RecordPayment",
    "ReversePayment",
    "GetForeclosureQuote",
    "AcceptLoanOffer",
    "WithdrawLoanOffer",
    "ReviewDecision",
}
_TOO_MUCH = 5_000_000
# An installment is about as much as a payment.
_OLD_LOAN = 6_000
_SETTLING_CALLERS = 16
_LAST_REVIEWS = 30


def _loan_of(customer_id: int, units: int, tenure: int, pick: random.Random) -> Any:
    """The request of a loan in rupees."""
    return pb.CreateLoanRequest(
        request_id=str(portfolio.request_id(pick)),
        customer_id=customer_id,
        loan_amount=Money(units=units),
        interest_rate=Decimal(value="16"),
        tenure_months=tenure,
    )


def _date(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


class Load:
    """The callers of one campaign."""

    def __init__(
        self, address: str, clock: Clock, callers: int, seed: int, folder: Path, past: History
    ) -> None:
        self._address = address
        self._clock = clock
        self._seed = seed
        self._folder = folder
        self._history = past
        self._stop = threading.Event()
        self._ingestions = Ingestions(address, folder, past)
        self._numbers = iter(range(1, 1_000_000))
        self._numbers_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(callers)
        ]
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def prepare(self) -> None:
        """Import the customers and their past loans, and book a loan for each caller's customer."""
        for name, kind, write in (
            ("customers.csv", "CUSTOMERS", portfolio.write_customers),
            ("loans.csv", "LOANS", portfolio.write_past_loans),
        ):
            path = self._folder / name
            count = write(path)
            with channel.open_channel(self._address) as opened:
                request = ingestion.Request(portfolio.request_id(random.Random(name)))  # noqa: S311 - no secret
                source = rows.open_source(path, "LOANS" if kind == "LOANS" else "CUSTOMERS")
                ended = IngestionClient(opened, PATIENCE).stream(source, request).ingestion
            if ended.inserted != count:
                raise RuntimeError(f"{name}: {ended.inserted} of {count} rows were inserted")
        pick = random.Random(self._seed)  # noqa: S311 - repeatable load
        asked = [
            self._history.asks("CreateLoan", _loan_of(customer_id, _OLD_LOAN, 12, pick))
            for customer_id in (*portfolio.ORDINARY, *portfolio.HOT)
        ]
        with self._stub() as stub, ThreadPoolExecutor(_SETTLING_CALLERS) as callers:
            list(callers.map(lambda each: self._mutate(stub, pick, each), asked))
        self._history.booked_long_ago()

    def start(self) -> None:
        """Start all callers."""
        for thread in (self._watcher, *self._threads):
            thread.start()

    def stop(self) -> None:
        """Stop all callers after their current calls."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settle(self, timeout_seconds: float) -> None:
        """Repeat the calls without a response until each has one."""
        pick = random.Random(self._seed)  # noqa: S311 - repeatable load
        until = time.monotonic() + timeout_seconds
        self._history.reopen_refused()
        with self._stub() as stub, ThreadPoolExecutor(_SETTLING_CALLERS) as callers:
            while True:
                unanswered, unfinished = self._history.unanswered(), self._history.unfinished()
                undos = self._history.open_undos()
                if not unanswered and not unfinished and not undos:
                    return
                if time.monotonic() > until:
                    left = (
                        f"{len(unanswered)} requests, {len(unfinished)} ingestions and"
                        f" {len(undos)} cancellations and reverts"
                    )
                    self._history.find("answer", f"{left} had no response")
                    return
                list(callers.map(lambda asked: self._mutate(stub, pick, asked), unanswered))
                list(callers.map(self._ingestions.transfer, unfinished[:MOST_INGESTIONS]))
                list(callers.map(lambda each: self._ingestions.ask_undo(*each), undos))
                time.sleep(0.1)

    def review_the_rest(self) -> None:
        """Review some referrals without faults: most of them are made by repeats at the end if the
        machine is slow."""
        pick = random.Random(self._seed)  # noqa: S311 - repeatable load
        with self._stub() as stub, self._stub() as other:
            for _ in range(_LAST_REVIEWS):
                self._review(stub, other, pick)

    @property
    def watching(self) -> bool:
        """Whether the watcher is still running."""
        return self._watcher.is_alive()

    # One caller.

    def _call(self, number: int) -> None:
        pick = random.Random(self._seed * 1000 + number)  # noqa: S311 - repeatable load
        # A connection stays with one server, and within a server writes to one customer take turns:
        # only the two servers together can run a request and its repetition at once.
        with self._stub() as stub, self._stub() as other:
            while not self._stop.is_set():
                lot = pick.random()
                if lot < 0.475:
                    self._read(stub, pick)
                elif lot < 0.495:
                    self._review(stub, other, pick)
                elif lot < 0.515:
                    self._update(stub, other, pick)
                elif lot < 0.535:
                    self._ingestions.undo(pick)
                elif lot < 0.705:
                    self._create(stub, other, pick)
                elif lot < 0.755:
                    self._offer(stub, pick)
                elif lot < 0.785:
                    self._end_offer(stub, other, pick)
                elif lot < 0.885:
                    self._repeat(stub, other, pick)
                elif lot < 0.955:
                    self._pay(stub, other, pick)
                elif lot < 0.985:
                    self._reverse(stub, other, pick)
                else:
                    self._ingestions.ingest(pick, self._next_number())

    @contextmanager
    def _stub(self) -> Iterator[Any]:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        with grpc.insecure_channel(self._address, options) as opened:
            yield credit_service_pb2_grpc.CreditServiceStub(opened)

    def _read(self, stub: Any, pick: random.Random) -> None:
        customer_id = pick.choice(portfolio.HOT if pick.random() < 0.3 else portfolio.ORDINARY)
        ask = {
            "loan_amount": Money(units=5000),
            "interest_rate": Decimal(value="16"),
            "tenure_months": 12,
        }
        method, request = pick.choice(
            [
                ("GetCreditScore", pb.GetCreditScoreRequest(customer_id=customer_id)),
                ("GetCustomer", pb.GetCustomerRequest(customer_id=customer_id)),
                ("ListLoans", pb.ListLoansRequest(customer_id=customer_id, page_size=20)),
                (
                    "CheckEligibility",
                    pb.CheckEligibilityRequest(customer_id=customer_id, **ask),
                ),
            ]
        )
        self._ask(stub, pick, method, request)

    def _create(self, stub: Any, other: Any, pick: random.Random) -> None:
        lot = pick.random()
        customers = portfolio.HOT if lot < 0.5 else portfolio.ORDINARY
        if lot > 0.97:
            customers = portfolio.BORROWING
        # One in six is above every limit: a decline, which does not change the position.
        units = _TOO_MUCH if pick.random() < 0.17 else pick.randint(1, 20) * 100
        request = _loan_of(pick.choice(customers), units, pick.choice([1, 12, 60]), pick)
        asked = self._history.asks("CreateLoan", request)
        # A decline does not change the version: only the request's key prevents a second one.
        if units == _TOO_MUCH or pick.random() < 0.1:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _offer(self, stub: Any, pick: random.Random) -> None:
        hot = pick.random() < 0.7
        request = pb.CreateLoanOfferRequest(
            request_id=str(portfolio.request_id(pick)),
            customer_id=pick.choice(portfolio.HOT if hot else portfolio.ORDINARY),
            loan_amount=Money(units=pick.randint(1, 20) * (1_000 if hot else 100)),
            interest_rate=Decimal(value="16"),
            tenure_months=pick.choice([1, 12, 60]),
        )
        self._mutate(stub, pick, self._history.asks("CreateLoanOffer", request))

    def _end_offer(self, stub: Any, other: Any, pick: random.Random) -> None:
        """Accept an offer, often a part of it, or withdraw it; some have ended before."""
        offered = self._history.offer(pick)
        if offered is None:
            return
        offer_id, units = offered
        request_id = str(portfolio.request_id(pick))
        request: Any
        if pick.random() < 0.6:
            part = units if pick.random() < 0.5 else max(1, units // 2)
            request = pb.AcceptLoanOfferRequest(
                request_id=request_id, offer_id=offer_id, loan_amount=Money(units=part)
            )
            asked = self._history.asks("AcceptLoanOffer", request)
        else:
            request = pb.WithdrawLoanOfferRequest(request_id=request_id, offer_id=offer_id)
            asked = self._history.asks("WithdrawLoanOffer", request)
        if pick.random() < 0.3:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _next_number(self) -> int:
        with self._numbers_lock:
            return next(self._numbers)

    def _update(self, stub: Any, other: Any, pick: random.Random) -> None:
        """Change the income of a customer to one that no other request gives, often with the
        limit."""
        customer_id = pick.choice(portfolio.HOT if pick.random() < 0.3 else portfolio.ORDINARY)
        income, limit = portfolio.income_and_limit(customer_id)
        number = self._next_number()
        request = pb.UpdateCustomerRequest(request_id=str(portfolio.request_id(pick)))
        request.customer.customer_id = customer_id
        request.customer.monthly_income.CopyFrom(
            Money(currency_code="INR", units=income + number // 100, nanos=number % 100 * 10**7)
        )
        request.update_mask.paths.append("monthly_income")
        if pick.random() < 0.5:
            units = limit * pick.randint(80, 120) // 100
            request.customer.approved_limit.CopyFrom(Money(currency_code="INR", units=units))
            request.update_mask.paths.append("approved_limit")
        asked = self._history.asks("UpdateCustomer", request)
        if pick.random() < 0.3:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _repeat(self, stub: Any, other: Any, pick: random.Random) -> None:
        asked = self._history.recent(pick)
        if asked is None:
            return
        if pick.random() < 0.5:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _pay(self, stub: Any, other: Any, pick: random.Random) -> None:
        """Pay a loan: for its installments, often on an earlier day, or ahead of its schedule."""
        booked = self._history.loan(pick)
        if booked is None:
            return
        request = pb.RecordPaymentRequest(
            request_id=str(portfolio.request_id(pick)),
            customer_id=booked[0],
            loan_id=booked[1],
            amount=Money(units=pick.randint(1, 1_000)),
        )
        lot = pick.random()
        if lot < 0.35:
            day = self._clock.moment().today - timedelta(days=pick.choice([0, 1, 30]))
            if pick.random() < 0.8 and (found := self._history.day_before_a_payment(pick)):
                (request.customer_id, request.loan_id), day = found
                # Often an installment, so that it settles what the later payment had settled.
                request.amount.units = pick.randint(300, 1_200)
            request.paid_on.CopyFrom(_date(day))
        elif lot < 0.55:
            request.purpose = loan_pb2.PAYMENT_PURPOSE_PART_PREPAYMENT
            request.prepayment_effect = pick.choice(loan_pb2.PrepaymentEffect.values())
        elif lot < 0.7:
            quote = self._quote(stub, pick, booked)
            if quote is None:
                return
            request.purpose = loan_pb2.PAYMENT_PURPOSE_FORECLOSURE
            request.amount.CopyFrom(quote.total)
            request.paid_on.CopyFrom(quote.paid_on)
        if pick.random() < 0.1:
            request.validate_only = True
            self._ask(stub, pick, "RecordPayment", request)
            return
        asked = self._history.asks("RecordPayment", request)
        if pick.random() < 0.1:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _quote(self, stub: Any, pick: random.Random, booked: tuple[int, int]) -> Any:
        request = pb.GetForeclosureQuoteRequest(customer_id=booked[0], loan_id=booked[1])
        return self._ask(stub, pick, "GetForeclosureQuote", request)

    def _reverse(self, stub: Any, other: Any, pick: random.Random) -> None:
        """Reverse a payment; some are reversed already, by another request."""
        payment_id = self._history.payment(pick)
        if payment_id is None:
            return
        request = pb.ReversePaymentRequest(
            request_id=str(portfolio.request_id(pick)),
            payment_id=payment_id,
            reason=loan_pb2.PAYMENT_REVERSAL_REASON_BOUNCED,
        )
        asked = self._history.asks("ReversePayment", request)
        if pick.random() < 0.3:
            self._mutate_twice((stub, other), asked)
        else:
            self._mutate(stub, pick, asked)

    def _review(self, stub: Any, other: Any, pick: random.Random) -> None:
        """Review a referred request; some were reviewed before, or are reviewed twice at once."""
        decision_id = self._history.referral(pick)
        if decision_id is None:
            return
        reviews = [
            self._history.asks(
                "ReviewDecision",
                pb.ReviewDecisionRequest(
                    request_id=str(portfolio.request_id(pick)),
                    decision_id=decision_id,
                    verdict=referral_pb2.REVIEW_VERDICT_APPROVE
                    if pick.random() < 0.7
                    else referral_pb2.REVIEW_VERDICT_DECLINE,
                    reason="known to the branch",
                ),
            )
            for _ in range(2 if pick.random() < 0.4 else 1)
        ]
        if len(reviews) > 1:
            self._mutate_at_once((stub, other), reviews)
        elif pick.random() < 0.3:
            self._mutate_twice((stub, other), reviews[0])
        else:
            self._mutate(stub, pick, reviews[0])

    def _mutate(self, stub: Any, pick: random.Random, asked: Asked) -> None:
        answer = self._ask(stub, pick, asked.method, asked.request)
        if answer is not None:
            self._history.answered(asked, answer)

    def _mutate_twice(self, stubs: tuple[Any, Any], asked: Asked) -> None:
        """Send the same request on two connections at once, as an impatient client does."""
        self._mutate_at_once(stubs, [asked] * len(stubs))

    def _mutate_at_once(self, stubs: tuple[Any, ...], requests: Sequence[Asked]) -> None:
        """Send a request on each of the connections at once."""
        calls = []
        began_at = time.monotonic()
        for stub, asked in zip(stubs, requests, strict=True):
            self._history.count(self._history.calls, asked.method)
            call = getattr(stub, asked.method).future(asked.request, timeout=CALL_SECONDS)
            calls.append((asked, call))
        for asked, call in calls:
            try:
                answer = call.result()
            except (grpc.RpcError, grpc.FutureCancelledError):
                self._history.ends(asked.method, call.code().name, began_at)
                self._failed(asked.method, asked.request, call)
            else:
                self._history.count(self._history.statuses, "OK")
                self._history.ends(asked.method, "OK", began_at)
                self._history.answered(asked, answer)

    def _ask(self, stub: Any, pick: random.Random, method: str, request: Any) -> Any:
        """The response, or None. Some calls have a very short deadline, some are cancelled."""
        lot = pick.random()
        self._history.count(self._history.calls, method)
        timeout_seconds = 0.004 if lot < 0.02 else CALL_SECONDS
        began_at = time.monotonic()
        call = getattr(stub, method).future(request, timeout=timeout_seconds)
        is_patient = 0.02 <= lot <= 0.98
        if lot > 0.98:
            time.sleep(pick.uniform(0, 0.02))
            call.cancel()
        try:
            answer = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            if is_patient:
                self._history.ends(method, call.code().name, began_at)
            self._failed(method, request, call)
            return None
        self._history.count(self._history.statuses, "OK")
        if is_patient:
            self._history.ends(method, "OK", began_at)
        return answer

    def _failed(self, method: str, request: Any, call: Any) -> None:
        """The rules may reject a payment or the end of an offer; all other errors must be
        retryable."""
        code = call.code()
        self._history.count(self._history.statuses, code.name)
        if code in TRY_AGAIN:
            self._history.lost(request)
            # Spread the load on a server that has just restarted.
            time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - a pause, no secret
        elif method in _REJECTED_BY_RULES and code is grpc.StatusCode.FAILED_PRECONDITION:
            if request.DESCRIPTOR.fields_by_name.get("request_id"):
                self._history.refused(request)
        else:
            self._history.find("status", f"{method}: {code.name} {call.details() or ''}")

    # Events.

    def _watch(self) -> None:
        """Follow the events, reconnecting after each failure; records their ids and customers."""
        after = 0
        while True:
            with self._stub() as stub, suppress(grpc.RpcError):
                request = pb.WatchCreditEventsRequest(after_event_id=after)
                for response in stub.WatchCreditEvents(request):
                    if response.HasField("event"):
                        after = response.event.event_id
                        self._history.events.append((after, response.event.customer_id))
            time.sleep(0.1)

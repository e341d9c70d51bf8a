"""Callers load a real stack while its parts are killed; then the books are checked.

The callers write down what they asked and what they were told. What nobody answered is asked again
under the same request id until somebody does. At the end every figure is held against them: each
acknowledged loan and payment is there and no other, one effect per request id, positions and scores
as from scratch, the outbox empty, every event seen once by a watcher, the cache equal or absent.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psutil
import redis
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.domain.positions import holds_on, position_from_loans
from credit_service.domain.scoring import score
from credit_service.embedded import running_urls
from credit_service.storage import customers, scorecards
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import credit_service_pb2_grpc
from tests.integration.cli_service import Up, credit_service, environment, up

HOT_CUSTOMERS = 5
DRAIN_SECONDS = 90.0
_TRY_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # A connection that was cut shows as this, too.
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does. The same seed gives the same faults at the same times."""

    seconds: float
    callers: int
    pause_seconds: float
    seed: int


@dataclass
class Report:
    """What happened. `findings` is empty when all is well."""

    plan: Plan
    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    checked: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def listed(counts: Counter[str] | dict[str, int]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        lines = [
            f"calls:    {sum(self.calls.values())} ({listed(self.calls)})",
            f"statuses: {listed(self.statuses)}",
            f"faults:   {sum(self.faults.values())} ({listed(self.faults)})",
            f"checked:  {listed(self.checked)}",
            *(f"FOUND:    {each}" for each in self.findings[:50]),
        ]
        passed = "all is well" if not self.findings else f"{len(self.findings)} findings"
        return "\n".join([*lines, f"seed {self.plan.seed}: {passed}"])


@dataclass
class Asked:
    """A mutation under a request id, and the answers it got."""

    method: str
    request: Any
    answers: list[bytes] = field(default_factory=list)


class Campaign:
    """One run. Not to be used twice."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._report = Report(plan)
        self._lock = threading.Lock()
        self._asked: dict[str, Asked] = {}
        self._booked: list[tuple[int, int]] = []
        self._stop = threading.Event()
        self._seen: list[int] = []

    def run(self) -> Report:
        """Load, faults, checks."""
        with up("--no-console") if _has_console_switch() else up() as running:
            self._address = running.address
            self._customers = self._prepare(running)
            threads = [
                threading.Thread(target=self._call, args=(number,), daemon=True)
                for number in range(self._plan.callers)
            ]
            watcher = threading.Thread(target=self._watch, daemon=True)
            for thread in [watcher, *threads]:
                thread.start()
            self._inflict(running)
            self._stop.set()
            for thread in threads:
                thread.join()
            self._settle_unanswered()
            self._check(running, watcher)
            log = running.log
        for line in log.splitlines():
            if "Traceback" in line or "discrepancy_found" in line:
                self._find(f"in the log: {line[:300]}")
        return self._report

    # Load.

    def _prepare(self, running: Up) -> list[int]:
        samples = running.folder / "samples"
        for arguments in (
            ("sample-data", str(samples)),
            ("ingest", str(samples / "customer_data.xlsx"), "--upload"),
            ("ingest", str(samples / "loan_data.xlsx"), "--upload"),
        ):
            done = credit_service(*arguments, env=environment(CREDIT_ADDRESS=self._address))
            if done.returncode != 0:
                raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
        return list(range(1, 301))

    def _call(self, number: int) -> None:
        pick = random.Random(self._plan.seed * 1000 + number)  # noqa: S311 - repeatable load
        with self._stub() as stub:
            while not self._stop.is_set():
                lot = pick.random()
                if lot < 0.60:
                    self._read(stub, pick)
                elif lot < 0.85:
                    self._mutate(stub, pick, "CreateLoan", self._loan_request(pick))
                elif lot < 0.95:
                    self._repeat(stub, pick)
                else:
                    self._pay(stub, pick)

    @contextmanager
    def _stub(self) -> Iterator[Any]:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        with grpc.insecure_channel(self._address, options) as channel:
            yield credit_service_pb2_grpc.CreditServiceStub(channel)

    def _customer(self, pick: random.Random) -> int:
        if pick.random() < 0.5:
            return self._customers[100 + pick.randrange(HOT_CUSTOMERS)]
        return pick.choice(self._customers)

    def _loan_request(self, pick: random.Random) -> pb.CreateLoanRequest:
        return pb.CreateLoanRequest(
            request_id=str(UUID(int=pick.getrandbits(128), version=4)),
            customer_id=self._customer(pick),
            loan_amount=Money(units=pick.randint(1, 20) * 500),
            interest_rate=Decimal(value="16"),
            tenure_months=pick.choice([1, 12, 60]),
        )

    def _read(self, stub: Any, pick: random.Random) -> None:
        customer_id = self._customer(pick)
        method, request = pick.choice(
            [
                ("GetCreditScore", pb.GetCreditScoreRequest(customer_id=customer_id)),
                ("GetCustomer", pb.GetCustomerRequest(customer_id=customer_id)),
                ("ListLoans", pb.ListLoansRequest(customer_id=customer_id)),
                (
                    "CheckEligibility",
                    pb.CheckEligibilityRequest(
                        customer_id=customer_id,
                        loan_amount=Money(units=5000),
                        interest_rate=Decimal(value="16"),
                        tenure_months=12,
                    ),
                ),
            ]
        )
        self._send(stub, pick, method, request)

    def _mutate(self, stub: Any, pick: random.Random, method: str, request: Any) -> None:
        with self._lock:
            asked = self._asked.setdefault(request.request_id, Asked(method, request))
        answer = self._send(stub, pick, method, request)
        if answer is not None:
            self._note(asked, answer)

    def _note(self, asked: Asked, answer: Any) -> None:
        with self._lock:
            asked.answers.append(answer.SerializeToString(deterministic=True))
            if asked.method == "CreateLoan" and answer.approved:
                self._booked.append((answer.loan.customer_id, answer.loan.loan_id))

    def _repeat(self, stub: Any, pick: random.Random) -> None:
        with self._lock:
            asked = pick.choice(list(self._asked.values())[-500:]) if self._asked else None
        if asked is not None:
            self._mutate(stub, pick, asked.method, asked.request)

    def _pay(self, stub: Any, pick: random.Random) -> None:
        with self._lock:
            booked = pick.choice(self._booked) if self._booked else None
        if booked is not None:
            request = pb.RecordPaymentRequest(
                request_id=str(UUID(int=pick.getrandbits(128), version=4)),
                customer_id=booked[0],
                loan_id=booked[1],
                amount=Money(units=pick.randint(1, 500)),
            )
            self._mutate(stub, pick, "RecordPayment", request)

    def _send(self, stub: Any, pick: random.Random, method: str, request: Any) -> Any:
        """The answer; None when there was none. Now and then with next to no time, or given up."""
        timeout_seconds = 0.004 if pick.random() < 0.02 else 5.0
        self._count(self._report.calls, method)
        try:
            answer = getattr(stub, method)(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            code = error.code()
            self._count(self._report.statuses, code.name)
            if code not in _TRY_AGAIN:
                self._refused(method, request, code, error.details() or "")
                return None
            if code is grpc.StatusCode.UNKNOWN:
                self._find(f"{method}: UNKNOWN {error.details()}")
            time.sleep(pick.uniform(0.01, 0.2))
            return None
        self._count(self._report.statuses, "OK")
        return answer

    def _refused(self, method: str, request: Any, code: grpc.StatusCode, details: str) -> None:
        """A payment may be refused by the rules; nothing else here may be."""
        if method != "RecordPayment" or code is not grpc.StatusCode.FAILED_PRECONDITION:
            self._find(f"{method}: {code.name} {details}")
            return
        with self._lock:
            self._asked[request.request_id].answers.append(details.encode())

    def _settle_unanswered(self) -> None:
        """Ask again what nobody answered, until all has an answer."""
        pick = random.Random(0)  # noqa: S311
        until = time.monotonic() + DRAIN_SECONDS
        with self._stub() as stub:
            while time.monotonic() < until:
                open_ones = [asked for asked in self._asked.values() if not asked.answers]
                if not open_ones:
                    return
                for asked in open_ones:
                    self._mutate(stub, pick, asked.method, asked.request)
        self._find(f"{len(open_ones)} requests were never answered")

    def _watch(self) -> None:
        """Follow the events over every break, noting their ids."""
        after = 0
        while True:
            with self._stub() as stub, suppress(grpc.RpcError):
                request = pb.WatchCreditEventsRequest(after_event_id=after)
                for response in stub.WatchCreditEvents(request):
                    if response.HasField("event"):
                        after = response.event.event_id
                        self._seen.append(after)
            time.sleep(0.1)

    def _count(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            counter[name] += 1

    def _find(self, finding: str) -> None:
        with self._lock:
            self._report.findings.append(finding)

    # Faults.

    def _inflict(self, running: Up) -> None:
        pick = random.Random(self._plan.seed)  # noqa: S311 - repeatable faults
        faults: list[Callable[[Up], None]] = [
            self._kill_server,
            self._kill_worker,
            self._kill_valkey,
            self._kill_postgresql,
            self._flush,
            self._stop_server_for_a_moment,
        ]
        until = time.monotonic() + self._plan.seconds
        # Each in turn in an order of chance, so that a short campaign has them all.
        order: list[Callable[[Up], None]] = []
        while time.monotonic() < until:
            time.sleep(self._plan.pause_seconds)
            order = order or pick.sample(faults, len(faults))
            fault = order.pop()
            with suppress(psutil.NoSuchProcess, redis.RedisError, IndexError):
                fault(running)
                self._count(self._report.faults, fault.__name__.strip("_"))

    def _kill_server(self, running: Up) -> None:
        running.running("credit_service.rpc")[0].kill()

    def _kill_worker(self, running: Up) -> None:
        running.running("workers")[0].kill()

    def _kill_valkey(self, running: Up) -> None:
        _server(running.folder, "valkey-server").kill()

    def _kill_postgresql(self, running: Up) -> None:
        """What `pg_ctl stop -m immediate` does: no goodbye, recovery at the next start."""
        _server(running.folder, "postgres").send_signal(signal.SIGQUIT)

    def _stop_server_for_a_moment(self, running: Up) -> None:
        process = running.running("credit_service.rpc")[0]
        process.suspend()
        time.sleep(2.0)
        process.resume()

    def _flush(self, running: Up) -> None:
        client = redis.Redis.from_url(_urls(running.folder)[1])
        client.flushall()
        client.close()

    # The account.

    def _check(self, running: Up, watcher: threading.Thread) -> None:
        database_url, redis_url = _urls(running.folder)
        database = Database(
            database_url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=2
        )
        cache = PositionCache(redis_url, timeout_seconds=1.0)
        try:
            self._check_outbox(database)
            self._check_effects(database)
            self._check_customers(database, cache)
            self._check_events(database, watcher)
            self._check_connections(database)
        finally:
            database.dispose()
            cache.close()

    def _check_outbox(self, database: Database) -> None:
        """Wait until nothing is left to do."""
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until:
            with suppress(Exception), database.autocommit() as connection:
                # Reconciliation comes again and again; it is nobody's debt.
                left = connection.execute(
                    text(
                        """SELECT (SELECT count(*) FROM tasks WHERE actor <> 'reconcile')
                        + (SELECT count(*) FROM events WHERE event_id IS NULL)"""
                    )
                ).scalar_one()
                if not left:
                    return
            time.sleep(0.2)
        with database.autocommit() as connection:
            rows = connection.execute(
                text("SELECT actor, state, count(*), max(last_error) FROM tasks GROUP BY 1, 2")
            ).all()
            self._find(f"the outbox is not empty: {[tuple(row) for row in rows]}")

    def _check_effects(self, database: Database) -> None:
        acknowledged_loans, acknowledged_payments = set(), set()
        for request_id, asked in self._asked.items():
            if len(set(asked.answers)) > 1:
                self._find(f"{asked.method} {request_id}: {len(set(asked.answers))} other answers")
            for answer in asked.answers[:1]:
                if asked.method == "CreateLoan":
                    made = pb.CreateLoanResponse.FromString(answer)
                    if made.approved:
                        acknowledged_loans.add((made.loan.customer_id, made.loan.loan_id))
                else:
                    with suppress(Exception):
                        paid = pb.RecordPaymentResponse.FromString(answer).payment
                        if paid.payment_id:
                            acknowledged_payments.add(paid.payment_id)
        with database.autocommit() as connection:
            loans = connection.execute(
                text("SELECT customer_id, loan_id FROM loans WHERE NOT imported")
            )
            stored_loans = {(row[0], row[1]) for row in loans}
            stored_payments = set(
                connection.execute(text("SELECT payment_id FROM payments")).scalars()
            )
        for name, told, stored in (
            ("loans", acknowledged_loans, stored_loans),
            ("payments", acknowledged_payments, stored_payments),
        ):
            self._report.checked[name] = len(stored)
            if told != stored:
                self._find(f"{name}: {len(told - stored)} lost, {len(stored - told)} untold")

    def _check_customers(self, database: Database, cache: PositionCache) -> None:
        today = Clock().moment().today
        cached = 0
        with database.transaction() as connection:
            scorecard = scorecards.active(connection)
            ids = list(connection.execute(text("SELECT customer_id FROM customers")).scalars())
            scores = {
                row[0]: row[1]
                for row in connection.execute(text("SELECT customer_id, score FROM credit_scores"))
            }
            over = connection.execute(
                text(
                    """SELECT count(*) FROM loans
                    WHERE debt_at_booking_paise > limit_at_booking_paise"""
                )
            ).scalar_one()
            if over:
                self._find(f"{over} loans were booked past the limit")
            for customer_id in ids:
                stored, own = customers.position_with_loans(connection, customer_id)
                fresh = position_from_loans(
                    customer_id,
                    stored.version,
                    stored.monthly_income_paise,
                    stored.approved_limit_paise,
                    own,
                    stored.as_of,
                )
                if stored != fresh:
                    self._find(f"position of {customer_id}: {stored} is {fresh}")
                if (
                    holds_on(stored, today)
                    and scores.get(customer_id) != score(stored, scorecard).score
                ):
                    self._find(f"score of {customer_id}: {scores.get(customer_id)}")
                entry = cache.get(customer_id, today)
                if entry is not None:
                    cached += 1
                    if entry.position != stored:
                        self._find(f"cache of {customer_id}: {entry.position} is {stored}")
        self._report.checked |= {"customers": len(ids), "cached": cached}

    def _check_events(self, database: Database, watcher: threading.Thread) -> None:
        with database.autocommit() as connection:
            count, last = connection.execute(
                text("SELECT count(*), coalesce(max(event_id), 0) FROM events")
            ).one()
            gaps = connection.execute(
                text(
                    """SELECT count(*) FROM (
                        SELECT event_seq - lag(event_seq, 1, 0::bigint) OVER w AS step,
                            event_id - lag(event_id, 1, 0::bigint) OVER w AS advance
                        FROM events WHERE customer_id > 0
                        WINDOW w AS (PARTITION BY customer_id ORDER BY event_seq)
                    ) AS e WHERE step <> 1 OR advance < 1"""
                )
            ).scalar_one()
        if gaps or count != last:
            self._find(f"events: {gaps} gaps or turns, {count} events up to id {last}")
        until = time.monotonic() + DRAIN_SECONDS
        while (not self._seen or self._seen[-1] < last) and time.monotonic() < until:
            time.sleep(0.1)
        seen = self._seen[: int(last)]
        if seen != list(range(1, int(last) + 1)):
            missed = int(last) - len(set(seen))
            self._find(f"the watcher missed {missed} events or saw some twice")
        if not watcher.is_alive():
            self._find("the watcher ended")
        self._report.checked["events"] = int(last)

    def _check_connections(self, database: Database) -> None:
        with database.autocommit() as connection:
            idle = connection.execute(
                text(
                    """SELECT count(*) FROM pg_stat_activity
                    WHERE state LIKE 'idle in transaction%' AND datname = current_database()
                        AND state_change < now() - interval '5 seconds'"""
                )
            ).scalar_one()
        if idle:
            self._find(f"{idle} idle transactions")


def _urls(folder: Path) -> tuple[str, str]:
    urls = running_urls(folder / "data")
    if urls is None or urls.database_url is None or urls.redis_url is None:
        raise RuntimeError("the stack does not run")
    return urls.database_url, urls.redis_url


def _server(folder: Path, name: str) -> psutil.Process:
    """The embedded server of that name: the one whose parent is not one of its own."""
    home = os.path.realpath(folder)
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == name and any(home in word for word in command):
            return process
    raise psutil.NoSuchProcess(0)


def _has_console_switch() -> bool:
    return "--no-console" in credit_service("up", "--help").stdout

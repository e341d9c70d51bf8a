"""The results for calls: reads, decisions and bookings compared with their lower bounds."""

import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from benchmarks import bed, load, pgbench
from benchmarks.bed import Bed, PlacementName, Server
from benchmarks.load import Order, Outcome
from benchmarks.measuring import COUNT, RATE, Goal, Plan, Result, Turn, by_turns
from benchmarks.roundtrips import counted
from credit_service.v1 import credit_service_pb2 as pb

CALLERS = 32
CUSTOMERS = 30_000
HOT_CUSTOMERS = 5
LISTED_LOANS = 20
_WARM_CUSTOMERS = 1_000
"""Also the asks of a batch."""
# A server process works on one batch at a time; one more waits for it.
_BATCH_CALLERS = 2
_LOANS_EACH = 3
# Customers with long lists follow the others.
_FIRST_LISTED = CUSTOMERS + 1
_LISTED_CUSTOMERS = 300
# More calls per second than any server here answers, so that there are enough bodies.
_MOST_CALLS_PER_SECOND = 5_000
SERVICE = "/credit_service.v1.CreditService/"
_WARMING_CALLS, _ROUND_TRIP_CALLS = 50, 10


class Calls:
    """Measurements on one database of 30,000 customers, created on first use."""

    def __init__(self, test_bed: Bed, plan: Plan) -> None:
        self._bed = test_bed
        self._plan = plan
        self._random = random.Random(1)  # noqa: S311 - no secret
        self._url = ""

    @property
    def url(self) -> str:
        """The database."""
        if not self._url:
            self._url = self._bed.database("calls")
            bed.fill(self._url, 1, CUSTOMERS, _LOANS_EACH)
            last = _FIRST_LISTED + _LISTED_CUSTOMERS - 1
            bed.fill(self._url, _FIRST_LISTED, last, LISTED_LOANS)
        return self._url

    # The rows.

    def check_warm(self) -> list[Result]:
        """CheckEligibility from the cache, compared with an empty handler."""
        with ExitStack() as running:
            real, empty = self._server(running), self._yardstick(running, "empty")
            customers = range(1, _WARM_CUSTOMERS + 1)
            bodies = [check_body(each) for each in customers]
            self._bed.flush_cache()
            work = self._loading(real, "CheckEligibility", bodies, eligible)
            yardstick = self._loading(empty, "CheckEligibility", [b""])
            own, others = by_turns(self._plan.rounds, [work, yardstick])
        return [
            Result(
                "check-warm",
                f"CheckEligibility, warm cache, {CALLERS} callers",
                "an empty handler in the same server",
                RATE,
                Goal("≥", 0.65),
                own,
                others,
            )
        ]

    def check_cold(self) -> list[Result]:
        """CheckEligibility of uncached customers, compared with a bare read."""
        with ExitStack() as running:
            real, read = self._server(running), self._yardstick(running, "read", cache=False)
            customers = list(range(1, CUSTOMERS + 1))
            self._random.shuffle(customers)
            bodies = [check_body(each) for each in customers]
            ask = self._loading(real, "CheckEligibility", bodies, eligible, once=True)
            yardstick = self._loading(read, "CheckEligibility", bodies)

            def work() -> Turn:
                self._bed.flush_cache()
                return ask()

            own, others = by_turns(self._plan.rounds, [work, yardstick])
        return [
            Result(
                "check-cold",
                f"CheckEligibility, cold cache, {CALLERS} callers",
                "a bare primary-key read by psycopg in the same server",
                RATE,
                Goal("≥", 0.60),
                own,
                others,
            )
        ]

    def check_batch(self) -> list[Result]:
        """BatchCheckEligibility compared with CheckEligibility: decisions for each second of the
        server's CPU time. A batch uses one thread at a time, so on a busy machine it would get less
        of the processor than many calls do."""
        with ExitStack() as running:
            real = self._server(running)
            checks = [check_body(each) for each in range(1, _WARM_CUSTOMERS + 1)]
            batches = [batch_body(range(1, _WARM_CUSTOMERS + 1))]
            self._bed.flush_cache()
            single = self._loading(real, "CheckEligibility", checks, eligible)
            call = self._loading(
                real,
                "BatchCheckEligibility",
                batches,
                all_eligible,
                callers=_BATCH_CALLERS,
                channels=_BATCH_CALLERS,
            )
            rss_mib: list[float] = []

            def work() -> Turn:
                turn = call()
                rss_mib.append(real.process.memory_info().rss / 2**20)
                return _per_cpu_second(turn, _WARM_CUSTOMERS)

            own, others = by_turns(
                self._plan.rounds, [work, lambda: _per_cpu_second(single(), decisions=1)]
            )
        result = Result(
            "check-batch",
            f"BatchCheckEligibility, {_WARM_CUSTOMERS:,} asks: decisions per server CPU second",
            f"CheckEligibility, {CALLERS} callers, both from the cache",
            RATE,
            Goal("≥", 9),
            own,
            others,
        )
        result.notes.append(
            f"memory of the server after each round: {', '.join(f'{each:.0f}' for each in rss_mib)}"
            " MiB"
        )
        return [result]

    def create(self) -> list[Result]:
        """CreateLoan, spread and hot, and RecordPayment; compared with pgbench and each other."""
        script = self._bed.folder / "create_loan.sql"
        script.write_text(pgbench.script(CUSTOMERS))
        with ExitStack() as running:
            real = self._server(running)
            spread = self._writing(real, "CreateLoan", self._create_body(CUSTOMERS), booked)
            hot = self._writing(real, "CreateLoan", self._create_body(HOT_CUSTOMERS), booked)
            pay = self._writing(real, "RecordPayment", self._payment_body, _paid)

            def statements() -> Turn:
                bed.settle(self.url)
                return Turn(pgbench.run(self.url, script, self._plan.seconds, CALLERS))

            before = pgbench.loans_booked(self.url)
            statements()
            if pgbench.loans_booked(self.url) == before:
                raise RuntimeError("pgbench booked no loan")
            turns = by_turns(self._plan.rounds, [spread, statements, hot, pay])
        return [
            Result(
                "create-spread",
                f"CreateLoan over {CUSTOMERS:,} customers, {CALLERS} callers, durable",
                "pgbench with the same statements, all processors",
                RATE,
                Goal("≥", 0.60),
                turns[0],
                turns[1],
            ),
            Result(
                "create-hot",
                f"CreateLoan on {HOT_CUSTOMERS} customers",
                "the spread figure",
                RATE,
                Goal("≥", 0.60),
                turns[2],
                turns[0],
            ),
            Result(
                "payment", "RecordPayment", "CreateLoan", RATE, Goal("≥", 0.90), turns[3], turns[0]
            ),
        ]

    def round_trips(self) -> list[Result]:
        """The number of round trips to PostgreSQL of a CreateLoan."""
        with ExitStack() as running:
            folder = self._bed.folder / "counter"
            folder.mkdir()
            url, counter = running.enter_context(counted(self.url, folder))
            real = running.enter_context(
                # One connection for the calls, so that their statements are prepared on it.
                bed.server(url, self._bed.redis_url, self._bed.serving, pool_size=1)
            )
            stub = real.stub(running)
            body = self._create_body(CUSTOMERS)

            def calls(count: int) -> int:
                before = counter.round_trips
                for _ in range(count):
                    stub.CreateLoan(pb.CreateLoanRequest.FromString(body()), timeout=10)
                return counter.round_trips - before

            calls(_WARMING_CALLS)
            # The readiness probe queries once per second; a short series excludes it, also on a
            # slow machine.
            figure = min(calls(_ROUND_TRIP_CALLS) / _ROUND_TRIP_CALLS for _ in range(10))
        return [
            Result(
                "round-trips",
                "Round trips to PostgreSQL of a CreateLoan",
                "",
                COUNT,
                Goal("≤", 2),
                [Turn(figure)],
            )
        ]

    def reads(self) -> list[Result]:
        """ListLoans and GetLoan compared with an empty handler."""
        with ExitStack() as running:
            real, empty = self._server(running), self._yardstick(running, "empty")
            listed = range(_FIRST_LISTED, _FIRST_LISTED + _LISTED_CUSTOMERS)
            lists = [pb.ListLoansRequest(customer_id=each).SerializeToString() for each in listed]
            gets = [
                pb.GetLoanRequest(
                    customer_id=each, loan_id=bed.loan_id(each, 1 + each % LISTED_LOANS)
                ).SerializeToString()
                for each in listed
            ]
            works = [
                self._loading(real, "ListLoans", lists, _lists_all),
                self._loading(real, "GetLoan", gets, _has_loan),
                self._loading(empty, "CheckEligibility", [b""]),
            ]
            list_turns, get_turns, empty_turns = by_turns(self._plan.rounds, works)
        against = "an empty handler in the same server"
        return [
            Result(
                "list-loans",
                f"ListLoans, {LISTED_LOANS} loans",
                against,
                RATE,
                Goal("≥", 0.35),
                list_turns,
                empty_turns,
            ),
            Result("get-loan", "GetLoan", against, RATE, Goal("≥", 0.50), get_turns, empty_turns),
        ]

    def pipeline(self) -> list[Result]:
        """A server with the service's interceptors compared with one without."""
        with ExitStack() as running:
            empty = self._yardstick(running, "empty")
            bare = self._yardstick(running, "bare")
            works = [self._loading(each, "CheckEligibility", [b""]) for each in (empty, bare)]
            own, others = by_turns(self._plan.rounds, works)
        return [
            Result(
                "pipeline",
                "An empty handler in our server",
                "an empty handler in grpc's plain server",
                RATE,
                None,
                own,
                others,
            )
        ]

    def processes(self) -> list[Result]:
        """Two serving processes compared with one, both as the service places them."""
        with ExitStack() as running:
            groups = [bed.Group(self._bed, self.url, running, count) for count in (2, 1)]
            works = [self._checking(group, "default") for group in groups]
            own, others = by_turns(self._plan.rounds, works)
        result = Result(
            "processes",
            "CheckEligibility, warm cache, two server processes",
            "one server process",
            RATE,
            Goal("≥", 1.6),
            own,
            others,
        )
        result.notes.append(self._used(result))
        return [result]

    def default(self) -> list[Result]:
        """The service with its default settings, compared with the same processes, each pinned to a
        processor by the benchmark, and with one process that may run on all."""
        with ExitStack() as running:
            group = bed.Group(self._bed, self.url, running, None)
            alone = bed.Group(self._bed, self.url, running, 1, pin_processes=False)
            kinds: list[tuple[bed.Group, PlacementName]] = [
                (group, "default"),
                (group, "pinned"),
                (alone, "free"),
            ]
            results = []
            for name, work, kind in (
                ("default-check", "CheckEligibility, warm cache", self._checking),
                ("default-create", "CreateLoan, durable", self._booking),
            ):
                turns = by_turns(self._plan.rounds, [kind(*each) for each in kinds])
                own, pinned, free = turns
                started = f"{work}: default settings, {group.count} processes"
                by_hand, before = "the same, each pinned by hand", "one process on all processors"
                results += [
                    Result(name, started, by_hand, RATE, Goal("≥", 0.95), own, pinned),
                    Result(f"{name}-free", started, before, RATE, None, own, free),
                ]
        for each in results:
            each.notes.append(self._used(each))
        return results

    # Helpers.

    def _checking(self, group: bed.Group, placement: PlacementName) -> Callable[[], Turn]:
        """One round of checks by a group of serving processes."""
        bodies = [check_body(each) for each in range(1, _WARM_CUSTOMERS + 1)]

        def turn() -> Turn:
            with group.at_work(placement) as processors:
                return self._loading(
                    group.server,
                    "CheckEligibility",
                    bodies,
                    eligible,
                    # Enough for the kernel to spread them evenly.
                    channels=CALLERS,
                    processors=processors,
                )()

        return turn

    def _booking(self, group: bed.Group, placement: PlacementName) -> Callable[[], Turn]:
        """One round of bookings by a group of serving processes."""

        def turn() -> Turn:
            count = int(self._plan.seconds * _MOST_CALLS_PER_SECOND)
            bodies = [create_body(each) for each in picked(CUSTOMERS, count)]
            bed.settle(self.url)
            with group.at_work(placement) as processors:
                return self._loading(
                    group.server,
                    "CreateLoan",
                    bodies,
                    booked,
                    once=True,
                    channels=CALLERS,
                    processors=processors,
                )()

        return turn

    def _used(self, result: Result) -> str:
        """How much of the processors a result used, as text."""
        busy = result.busy()
        parts = ", ".join(f"{name} {part:.2f}" for name, part in busy.items())
        processors = len(self._bed.all_processors)
        return f"{sum(busy.values()):.2f} of {processors} processors were used: {parts}"

    def _server(self, running: ExitStack) -> Server:
        return running.enter_context(bed.server(self.url, self._bed.redis_url, self._bed.serving))

    def _yardstick(self, running: ExitStack, which: str, *, cache: bool = True) -> Server:
        return running.enter_context(
            bed.server(
                self.url,
                self._bed.redis_url if cache else None,
                self._bed.serving,
                module=("benchmarks.yardsticks", which),
            )
        )

    def _loading(
        self,
        server: Server,
        method: str,
        bodies: Sequence[bytes],
        check: Callable[[bytes], bool] | None = None,
        *,
        once: bool = False,
        callers: int = CALLERS,
        channels: int = 4,
        processors: frozenset[int] | None = None,
    ) -> Callable[[], Turn]:
        """One round: the callers call the method with these bodies."""
        order = Order(
            server.port,
            SERVICE + method,
            bodies,
            self._plan.seconds,
            callers=callers,
            channels=channels,
            once=once,
        )
        return lambda: loaded(self._bed, server, [order], check, processors or self._bed.loading)

    def _writing(
        self,
        server: Server,
        method: str,
        body: Callable[[], bytes],
        check: Callable[[bytes], bool],
    ) -> Callable[[], Turn]:
        """Like `_loading`, with a different body for every call."""

        def turn() -> Turn:
            count = int(self._plan.seconds * _MOST_CALLS_PER_SECOND)
            bodies = [body() for _ in range(count)]
            bed.settle(self.url)
            return self._loading(server, method, bodies, check, once=True)()

        return turn

    def _create_body(self, customers: int) -> Callable[[], bytes]:
        def body() -> bytes:
            return create_body(self._random.randint(1, customers))

        return body

    def _payment_body(self) -> bytes:
        customer_id = self._random.randint(1, CUSTOMERS)
        return pb.RecordPaymentRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            loan_id=bed.loan_id(customer_id, 1),
            amount=Money(currency_code="INR", units=100),
        ).SerializeToString()


def _per_cpu_second(turn: Turn, decisions: int) -> Turn:
    """A turn whose figure is the decisions for each second of the server's CPU time, where each
    call makes so many."""
    return replace(turn, figure=turn.figure * decisions / turn.busy["server"], busy={})


def loaded(
    test_bed: Bed,
    server: Server,
    orders: Sequence[Order],
    check: Callable[[bytes], bool] | None,
    processors: frozenset[int],
) -> Turn:
    """Load a server from these processors, with one process for each order.

    Raises: LoadError: a call failed, or a response has unexpected content.
    """
    server_before = server.cpu_seconds()
    database_before = bed.cpu_seconds_of_tree(test_bed.database_pid)
    with bed.on(processors):
        outcome = load.run_together(orders)
    server_cpu = server.cpu_seconds() - server_before
    database_cpu = bed.cpu_seconds_of_tree(test_bed.database_pid) - database_before
    _ensure_good(orders[0], outcome, check)
    return Turn(
        outcome.calls_per_second,
        {
            "server": server_cpu / outcome.seconds,
            "database": database_cpu / outcome.seconds,
            "load": outcome.cpu_seconds / outcome.seconds,
        },
        outcome.p50_ms,
        outcome.p99_ms,
    )


def _ensure_good(order: Order, outcome: Outcome, check: Callable[[bytes], bool] | None) -> None:
    if outcome.failed:
        raise load.LoadError(
            f"{order.method}: {outcome.failed} calls failed, {outcome.calls} did not:"
            f" {outcome.failure}"
        )
    if check is not None and not all(map(check, outcome.samples)):
        raise load.LoadError(f"{order.method}: a response has unexpected content")


# Requests and the checks of their responses.


def _ask() -> dict[str, Any]:
    return {
        "loan_amount": Money(currency_code="INR", units=100_000),
        "interest_rate": Decimal(value="12.5"),
        "tenure_months": 24,
    }


def picked(size: int, count: int) -> list[int]:
    """`count` random ids of customers 1 … `size`."""
    chance = random.Random(size)  # noqa: S311 - no secret
    return [chance.randint(1, size) for _ in range(count)]


def check_body(customer_id: int) -> bytes:
    """A CheckEligibility request that is approved."""
    return pb.CheckEligibilityRequest(customer_id=customer_id, **_ask()).SerializeToString()


def batch_body(customer_ids: Iterable[int]) -> bytes:
    """A BatchCheckEligibility request with the same ask for each of these customers."""
    asks = [pb.CheckEligibilityRequest(customer_id=each, **_ask()) for each in customer_ids]
    return pb.BatchCheckEligibilityRequest(asks=asks).SerializeToString()


def create_body(customer_id: int) -> bytes:
    """The same loan as a CreateLoan request, with a new request id."""
    return pb.CreateLoanRequest(
        request_id=str(uuid.uuid4()), customer_id=customer_id, **_ask()
    ).SerializeToString()


def eligible(answer: bytes) -> bool:
    return pb.CheckEligibilityResponse.FromString(answer).approved


def all_eligible(answer: bytes) -> bool:
    results = pb.BatchCheckEligibilityResponse.FromString(answer).results
    return len(results) == _WARM_CUSTOMERS and all(each.eligibility.approved for each in results)


def booked(answer: bytes) -> bool:
    return pb.CreateLoanResponse.FromString(answer).loan.loan_id > 0


def _paid(answer: bytes) -> bool:
    paid: int = pb.RecordPaymentResponse.FromString(answer).payment.amount.units
    return paid == 100


def _lists_all(answer: bytes) -> bool:
    return len(pb.ListLoansResponse.FromString(answer).loans) == LISTED_LOANS


def _has_loan(answer: bytes) -> bool:
    return pb.GetLoanResponse.FromString(answer).loan.loan_id > 0

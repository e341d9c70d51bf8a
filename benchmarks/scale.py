"""The results for many processors: one, two, four and eight serving processes (the group `scale`),
and one relay (the group `relay`).

All serving processes share one PostgreSQL. Each result is measured with the service's own placement
of the serving processes, with each pinned to a processor by this benchmark, and with all free to
move between processors, in turns. The load comes from several processes, on the processors that no
serving process is bound to, if there are any. The system places PostgreSQL.

The relay's result is its ceiling in events per second, and what happens at one and a half times
that rate: how late events are, and whether each reaches a watcher once and in order.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import psutil
import psycopg

from benchmarks import bed, calls, load, pgbench, streaming
from benchmarks.bed import TODAY, Bed, PlacementName, Server
from benchmarks.load import Order
from benchmarks.measuring import RATE, Goal, Plan, Result, Turn, by_turns
from credit_service.settings import Settings
from credit_service.spreadsheets import samples
from credit_service.storage import backlog
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb

COUNTS = (1, 2, 4, 8)
PLACEMENTS: tuple[PlacementName, ...] = ("default", "pinned", "free")
_CALLERS_EACH = 32
_CUSTOMERS = 30_000
_WARM_CUSTOMERS = 1_000
_LOANS_EACH = 3
_MOST_BOOKINGS_PER_SECOND = 3_000
# PostgreSQL of the test bed has 200 connections, and the processes of all counts run together.
_POOL_SIZE = 10
_STREAMS_EACH = 2
_ROWS = "rows/s"
_ROUNDS = 5
# Of files: each stream has customers of its own, whose ids begin with the number of the stream.
_FILE_CUSTOMERS = 1_000
_FIRST_STREAM = 1_000
_FILE_LOANS, _QUICK_FILE_LOANS = 20_000, 4_000
_SEED = 1
_BUSY = 0.9

# Of the relay.
_BACKLOG, _QUICK_BACKLOG = 50_000, 10_000
_OFFERED = 1.5
_OFFER_SECONDS, _QUICK_OFFER_SECONDS = 20.0, 5.0
_OFFERS_PER_SECOND = 10
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 300.0


class Scale:
    """Measurements on one database, with the serving processes of every count running."""

    def __init__(self, test_bed: Bed, plan: Plan) -> None:
        self._bed = test_bed
        self._plan = plan
        self._rounds = min(plan.rounds, _ROUNDS)
        self._next_stream = _FIRST_STREAM

    def measure(self) -> list[Result]:
        """Checks, bookings and ingestions with every count of processes."""
        url = self._bed.database("scale")
        bed.fill(url, 1, _CUSTOMERS, _LOANS_EACH)
        loans = _QUICK_FILE_LOANS if self._plan.quick else _FILE_LOANS
        turns_in_all = (1 + self._rounds) * len(PLACEMENTS) * sum(COUNTS) * _STREAMS_EACH
        first = _FIRST_STREAM * _FILE_CUSTOMERS
        bed.fill(url, first, first + turns_in_all * _FILE_CUSTOMERS - 1, 0)
        rows = _rows(loans)
        with ExitStack() as running:
            groups = [_Group(self._bed, url, count, running) for count in COUNTS]
            results = []
            for name, work, unit, measure in (
                ("check", "CheckEligibility, warm cache", RATE, self._check),
                ("create", "CreateLoan, durable", RATE, lambda group: self._create(url, group)),
                ("rows", "streamed files", _ROWS, lambda group: self._ingest(group, rows)),
            ):
                results += self._compared(groups, name, work, unit, measure)
        return results

    def _compared(
        self,
        groups: "Sequence[_Group]",
        name: str,
        work: str,
        unit: str,
        measure: "Callable[[_Group], Turn]",
    ) -> list[Result]:
        """A result for each count and placement. The service's own placement is compared with that
        of the benchmark, the others with one process placed likewise."""

        def placed(group: _Group, placement: PlacementName) -> Callable[[], Turn]:
            def turn() -> Turn:
                with group.placed(placement):
                    return measure(group)

            return turn

        kinds = [(placement, group) for placement in PLACEMENTS for group in groups]
        turns = by_turns(self._rounds, [placed(group, placement) for placement, group in kinds])
        found = dict(zip([(p, g.count) for p, g in kinds], turns, strict=True))
        results = []
        for (placement, count), own in found.items():
            against, goal, others = f"one, {placement}", None, found[placement, 1]
            if placement == "default":
                against, others = "the same, pinned", found["pinned", count]
                # Otherwise the load takes part of the processors.
                if len(self._bed.all_processors) >= 2 * count:
                    goal = Goal("≥", 0.95)
            elif count == 1:
                against, others = "", []
            result = Result(
                f"{name}-{count}-{placement}",
                f"{work}: {count} serving {'process' if count == 1 else 'processes'}, {placement}",
                against,
                unit,
                goal,
                own,
                others,
            )
            loads = _STREAMS_EACH * count if unit == _ROWS else _load_processes(count)
            limit = saturated(result.busy(), count, loads, len(self._bed.all_processors))
            result.notes.append(f"load processes: {loads}; limited by: {limit}")
            results.append(result)
        return results

    def _check(self, group: "_Group") -> Turn:
        bodies = [calls.check_body(each) for each in range(1, _WARM_CUSTOMERS + 1)]
        order = self._order(group, "CheckEligibility", bodies)
        return group.loaded([order] * _load_processes(group.count), calls.eligible)

    def _create(self, url: str, group: "_Group") -> Turn:
        most = int(self._plan.seconds * _MOST_BOOKINGS_PER_SECOND * group.count)
        bodies = [calls.create_body(each) for each in calls.picked(_CUSTOMERS, most)]
        bed.settle(url)
        processes = _load_processes(group.count)
        parts = [bodies[number::processes] for number in range(processes)]
        orders = [self._order(group, "CreateLoan", part, once=True) for part in parts]
        return group.loaded(orders, calls.booked)

    def _order(
        self, group: "_Group", method: str, bodies: Sequence[bytes], *, once: bool = False
    ) -> Order:
        callers = _CALLERS_EACH * group.count // _load_processes(group.count)
        # A connection each, so that the kernel spreads them evenly.
        return Order(
            group.server.port,
            calls.SERVICE + method,
            bodies,
            self._plan.seconds,
            callers=callers,
            channels=callers,
            once=once,
        )

    def _ingest(self, group: "_Group", rows: str) -> Turn:
        orders = []
        for _ in range(group.count * _STREAMS_EACH):
            path = self._bed.folder / f"loans-{self._next_stream}.csv"
            path.write_text(rows.replace("STREAM", str(self._next_stream)), encoding="utf-8")
            orders.append(streaming.Order(group.server.port, str(path), rows.count("\n") - 1))
            self._next_stream += 1
        return group.ingested(orders)


class _Group(bed.Group):
    """A supervisor with some serving processes, and the load on it."""

    def __init__(self, test_bed: Bed, url: str, count: int, running: ExitStack) -> None:
        super().__init__(test_bed, url, running, count, pool_size=_POOL_SIZE)
        self._loading = test_bed.all_processors

    @contextmanager
    def placed(self, placement: PlacementName) -> Iterator[None]:
        """Let the serving processes run, and load them from the remaining processors."""
        with self.at_work(placement) as self._loading:
            yield

    def loaded(self, orders: Sequence[Order], check: Callable[[bytes], bool]) -> Turn:
        """Calls per second of all orders together."""
        return self._observed(
            lambda: calls.loaded(self._bed, self.server, orders, check, self._loading)
        )

    def ingested(self, orders: "Sequence[streaming.Order]") -> Turn:
        """Rows per second of all streams together."""

        def turn() -> Turn:
            server_before = self.server.cpu_seconds()
            database_before = bed.cpu_seconds_of_tree(self._bed.database_pid)
            with bed.on(self._loading):
                outcomes = load.ordered("benchmarks.streaming", orders)
            seconds = max(each.seconds for each in outcomes)
            server_cpu = self.server.cpu_seconds() - server_before
            database_cpu = bed.cpu_seconds_of_tree(self._bed.database_pid) - database_before
            return Turn(
                sum(each.rows for each in orders) / seconds,
                {
                    "server": server_cpu / seconds,
                    "database": database_cpu / seconds,
                    "load": sum(each.cpu_seconds for each in outcomes) / seconds,
                },
            )

        return self._observed(turn)

    def _observed(self, work: Callable[[], Turn]) -> Turn:
        """`work` with the usage of the whole machine while it ran."""
        before, began = _busy_seconds(), time.perf_counter()
        turn = work()
        turn.busy["machine"] = (_busy_seconds() - before) / (time.perf_counter() - began)
        return turn


def _busy_seconds() -> float:
    """CPU time of the whole machine so far, without idle time."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _load_processes(count: int) -> int:
    """One for two serving processes: it is about ten times as fast as one of them."""
    return (count + 1) // 2


def saturated(busy: Mapping[str, float], count: int, loads: int, processors: int) -> str:
    """What limits a result, by the usage of processors. If nothing is busy, the serving processes
    wait for PostgreSQL, Redis or locks."""
    limits = {
        f"all {processors} processors": busy["machine"] / processors,
        "the serving processes": busy["server"] / count,
        "the load": busy["load"] / loads,
    }
    full = [name for name, share in limits.items() if share >= _BUSY]
    return " and ".join(full) or "waiting for PostgreSQL or Redis"


def _rows(loans: int) -> str:
    """A CSV file of loans; STREAM is to be replaced by four digits."""
    customers = range(_FIRST_STREAM * _FILE_CUSTOMERS, (_FIRST_STREAM + 1) * _FILE_CUSTOMERS)
    lines = [",".join(samples.LOAN_HEADERS)]
    for each in samples.further_loans(customers, loans, _SEED, TODAY, 1):
        line = ",".join(map(str, each.cells()))
        lines.append(f"STREAM{line.removeprefix(str(_FIRST_STREAM))}")
    return "\n".join(lines) + "\n"


# The relay.


_EVENTS = """
    INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
        traceparent)
    SELECT 1 + n %% %(customers)s, 1 + n / %(customers)s, %(kind)s, 1 + n / %(customers)s,
        clock_timestamp(),
        CAST(%(payload)s AS json), %(traceparent)s
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
"""
_UNPUBLISHED = """
    SELECT count(*), extract(epoch FROM clock_timestamp() - min(occurred_at))::float8
    FROM events WHERE event_id IS NULL
"""


class Relay:
    """Measurements of one relay without actors, on databases whose only events are generated."""

    def __init__(self, test_bed: Bed, plan: Plan) -> None:
        self._bed = test_bed
        self._rounds = min(plan.rounds, _ROUNDS)
        self._backlog = _QUICK_BACKLOG if plan.quick else _BACKLOG
        self._offer_seconds = _QUICK_OFFER_SECONDS if plan.quick else _OFFER_SECONDS

    def measure(self) -> list[Result]:
        """The ceiling, and the behavior beyond it."""
        bed.fill(self._bed.database("relay_template"), 1, self._backlog, 0)
        turns = [self._ceiling() for _ in range(self._rounds)]
        ceiling = Result(
            "relay",
            f"events published by one relay, {self._backlog:,} waiting",
            "",
            "events/s",
            None,
            turns,
        )
        ceiling.notes.append(
            "CPU time per event: "
            + ", ".join(
                f"{part} {busy / ceiling.figure * 1e6:.0f} µs"
                for part, busy in ceiling.busy().items()
            )
        )
        return [ceiling, self._beyond(ceiling.figure)]

    def _ceiling(self) -> Turn:
        """Publish a backlog, one event and so one task for each customer."""
        url = self._bed.database("relay", template="relay_template")
        self._bed.flush_cache()
        with psycopg.connect(url, autocommit=True) as connection:
            _insert(connection, self._backlog, 0, self._backlog)
            bed.settle(url)
            with bed.worker(url, self._bed.redis_url, "--relay-only") as relay:
                _await(lambda: _waiting(connection)[0] < self._backlog)
                began, first = time.perf_counter(), _waiting(connection)[0]
                before = (_cpu(relay), bed.cpu_seconds_of_tree(self._bed.database_pid))
                _await(lambda: _waiting(connection)[0] == 0)
                seconds = time.perf_counter() - began
                after = (_cpu(relay), bed.cpu_seconds_of_tree(self._bed.database_pid))
        own, database = ((end - start) / seconds for start, end in zip(before, after, strict=True))
        return Turn(first / seconds, {"relay": own, "database": database})

    def _beyond(self, ceiling: float) -> Result:
        """Offer more events than the relay publishes, for a while, to one watcher."""
        url = self._bed.database("relay", template="relay_template")
        self._bed.flush_cache()
        offered = _Offered(url, self._backlog, ceiling * _OFFERED, self._offer_seconds)
        with ExitStack() as running:
            server = running.enter_context(
                bed.server(url, self._bed.redis_url, self._bed.all_processors)
            )
            running.enter_context(bed.worker(url, self._bed.redis_url, "--relay-only"))
            watcher = _Watcher(server, running)
            lag = _Lag(url, running)
            # Once the relay runs.
            offered.offer(1)
            _await(lambda: lag.sample() == 0)
            lag.forget()
            offered.start()
            _await(lambda: lag.sample() == 0 and not offered.is_alive())
            drained_seconds = time.perf_counter() - offered.ended
            _await(lambda: len(watcher.ids) >= offered.count)
            watched_seconds = time.perf_counter() - offered.ended
        watcher.check(offered.count)
        result = Result(
            "relay-beyond",
            f"events offered to it for {self._offer_seconds:.0f} s",
            "",
            "events/s",
            None,
            [Turn(offered.rate)],
        )
        result.notes.append(
            f"at most {lag.most_waiting:,} events waited, the oldest {lag.oldest_seconds:.1f} s,"
            f" by the metric {lag.shown_seconds:.1f} s; none {drained_seconds:.1f} s after the end"
        )
        result.notes.append(
            f"the watcher received all {offered.count:,} events once, in order of ids and of each"
            f" customer, up to {watcher.latest_seconds:.1f} s after they occurred, the last one"
            f" {watched_seconds:.1f} s after the end"
        )
        return result


class _Lag:
    """How many events wait and for how long, and what the metric shows."""

    def __init__(self, url: str, running: ExitStack) -> None:
        self.forget()
        self._connection = running.enter_context(psycopg.connect(url, autocommit=True))
        self._database = Database(bed.sqlalchemy_url(url), pool_size=1)
        running.callback(self._database.dispose)

    def forget(self) -> None:
        """Start again with no lag."""
        self.most_waiting = 0
        self.oldest_seconds = self.shown_seconds = 0.0

    def sample(self) -> int:
        """Read the present lag; returns the number of events that wait."""
        waiting, oldest_seconds = _waiting(self._connection)
        with self._database.autocommit() as connection:
            shown = backlog.waiting(connection, Settings().clock.moment())
        self.most_waiting = max(self.most_waiting, waiting)
        self.oldest_seconds = max(self.oldest_seconds, oldest_seconds)
        self.shown_seconds = max(self.shown_seconds, shown.oldest_event_age_seconds)
        return waiting


class _Offered(threading.Thread):
    """Inserts events at a constant rate, as far as the database keeps up."""

    def __init__(self, url: str, customers: int, per_second: float, seconds: float) -> None:
        super().__init__(daemon=True)
        self._url, self._customers = url, customers
        self._at_once = max(1, round(per_second / _OFFERS_PER_SECOND))
        self._offers = round(seconds * _OFFERS_PER_SECOND)
        self.count = 0
        self.rate = self.ended = 0.0

    def offer(self, count: int) -> None:
        """Insert `count` events."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            _insert(connection, self._customers, self.count, count)
        self.count += count

    def run(self) -> None:
        began, first = time.perf_counter(), self.count
        for number in range(self._offers):
            pause = began + number / _OFFERS_PER_SECOND - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            self.offer(self._at_once)
        self.ended = time.perf_counter()
        self.rate = (self.count - first) / (self.ended - began)


class _Watcher:
    """Receives all events of a server in a thread."""

    def __init__(self, server: Server, running: ExitStack) -> None:
        self.ids: list[int] = []
        self.latest_seconds = 0.0
        self._versions: dict[int, int] = {}
        self._in_order = True
        self._call: Any = server.stub(running).WatchCreditEvents(
            pb.WatchCreditEventsRequest(after_event_id=0)
        )
        running.callback(self._call.cancel)
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            for message in self._call:
                self._note(message)
        except grpc.RpcError:
            return

    def _note(self, message: Any) -> None:
        if not message.HasField("event"):
            return
        event = message.event
        self.ids.append(event.event_id)
        late_seconds = time.time() - event.time.ToNanoseconds() / 1e9
        self.latest_seconds = max(self.latest_seconds, late_seconds)
        # The version is the number of the event among those of its customer.
        before = self._versions.get(event.customer_id, 0)
        self._in_order = self._in_order and event.customer_version == before + 1
        self._versions[event.customer_id] = event.customer_version

    def check(self, count: int) -> None:
        """Raise RuntimeError unless the ids 1 … `count` arrived in order, each once, and those of
        each customer in the order of its versions."""
        if self.ids != list(range(1, count + 1)) or not self._in_order:
            raise RuntimeError(f"{count:,} events, and the watcher did not get each once, in order")


def _insert(connection: psycopg.Connection, customers: int, first: int, count: int) -> None:
    """Insert events number `first` and on, which customers 1 … `customers` get in turn."""
    values = pgbench.variables()
    connection.execute(
        _EVENTS,
        {
            "customers": customers,
            "kind": values["event_kind"],
            "payload": values["event"],
            "traceparent": values["traceparent"],
            "first": first,
            "last": first + count - 1,
        },
    )


def _waiting(connection: psycopg.Connection) -> tuple[int, float]:
    """The number of unpublished events, and the age of the oldest one in seconds."""
    row = connection.execute(_UNPUBLISHED).fetchone()
    assert row is not None
    return row[0], row[1] or 0.0


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError("the relay does not publish the events")
        time.sleep(_POLL_SECONDS)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

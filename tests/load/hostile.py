"""Attacks while a regular client calls at half of the server's capacity: none of its calls may
fail, and its p99 may be at most three times the value without an attack.

With and without the load balancer of deploy/. Afterwards the attacks run against servers without a
guard: there the regular client must be affected, or the campaign would prove nothing.
"""

import json
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joserfc import jwt
from joserfc.jwk import ECKey

from benchmarks import bed, load
from benchmarks.bed import Bed
from benchmarks.calls import SERVICE, check_body, create_body
from credit_service.settings import Settings
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from tests.balancer import balancing, free_port
from tests.frames import Pairs, authorized
from tests.integration.conftest import refusal_of
from tests.load import open_loop
from tests.load.attacks import ATTACKS, Scene, under_attack
from tests.load.report import Report, ms, percentile

_CUSTOMERS = 20_000
_STRANGERS = 200_000
"""Customers without loans, for searches to scan."""
_READ_ABOUT = 200
_SECONDS = 4.0
_QUIET_SECONDS = 3.0
_WARM_SECONDS = 1.0
_ROUNDS = 3
_SHARE = 0.5
_MOST_RATIO = 3.0
_DESCRIPTORS = 512
_LOCKED = _CUSTOMERS
_ALL = "all combined"
_MESSAGE = re.compile(rb"[A-Z][a-z]+ [ -~]{10,}")
"""The status message in the bytes of the trailers."""
_WITHOUT = {
    "messages": ("half-health-checks", "half-calls", "slow-calls", "endless-calls"),
    "streams": ("streams",),
    "turns,shares": ("bookers",),
    "connections": ("idle-connections",),
    "batches,shares": ("batches",),
    "indexes,shares": ("searches",),
}
"""Guards, and the attacks that detect their absence. `indexes` are database indexes."""


@dataclass(slots=True)
class _Seen:
    """The results of the regular client."""

    seconds: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    """The ends of calls by kind."""
    failures: set[str] = field(default_factory=set)

    @property
    def p99(self) -> float:
        """The p99 in seconds; infinite if no call succeeded."""
        return percentile(self.seconds, 0.99) if self.seconds else float("inf")

    @property
    def failed(self) -> int:
        """The number of calls of all kinds."""
        return sum(count for end, count in self.ends.items() if end.endswith("failed"))

    def __str__(self) -> str:
        found = ", ".join(f"{count:,} {end}" for end, count in sorted(self.ends.items()))
        failures = "".join(f"; {each}" for each in sorted(self.failures)[:3])
        return f"p99 {ms(self.p99) if self.seconds else 'none'}, {found}{failures}"


@dataclass(frozen=True, slots=True)
class _Work:
    """One kind of call of the regular client."""

    method: str
    share: float
    bodies: Callable[[int], list[bytes]]

    @property
    def path(self) -> str:
        """The path of the method in HTTP/2."""
        return f"{SERVICE}{self.method}"


def _works() -> Sequence[_Work]:
    readable = range(1, _READ_ABOUT + 1)
    checks = [check_body(each) for each in readable]
    lists = [pb.ListLoansRequest(customer_id=each).SerializeToString() for each in readable]
    booking = cycle(range(_READ_ABOUT + 1, _LOCKED))
    return (
        _Work("CheckEligibility", 0.70, lambda _count: checks),
        _Work("ListLoans", 0.25, lambda _count: lists),
        _Work("CreateLoan", 0.05, lambda count: list(map(create_body, islice(booking, count)))),
    )


class _RegularClient:
    """A client at half of the capacity that also starts ingestions, and one that checks health like
    an orchestrator."""

    def __init__(self, test_bed: Bed, tokens: "_Tokens") -> None:
        self._test_bed, self._tokens = test_bed, tokens
        self._works = _works()
        self.rate = 0.0
        """Calls a second."""

    def warm(self, port: int) -> None:
        """Measure the capacity with a closed loop; sets the rate to half of it if there is none."""
        cost_seconds = 0.0
        for work in self._works:
            for _ in range(2):
                order = load.Order(
                    port,
                    work.path,
                    work.bodies(10_000),
                    1.0,
                    callers=8,
                    metadata=self._metadata(work),
                )
                with bed.on(self._test_bed.loading):
                    held = load.run_apart(order).calls_per_second
            cost_seconds += work.share / held
        self.rate = self.rate or _SHARE / cost_seconds

    def measure(self, port: int, health: str, seconds: float) -> _Seen:
        """Call for some seconds."""
        seen, done = _Seen(), threading.Event()
        with ThreadPoolExecutor(len(self._works) + 1) as threads:
            ingesting = threads.submit(self._ingesting, port, health, done)
            calling = [threads.submit(self._call, work, port, seconds) for work in self._works]
            for each in calling:
                found = each.result()
                seen.seconds += found.seconds
                seen.ends += found.ends
                seen.failures |= found.failures
            done.set()
            seen.ends += ingesting.result()
        return seen

    def _metadata(self, work: _Work) -> Pairs:
        return authorized(self._tokens.token(f"ordinary-{work.method}"))

    def _call(self, work: _Work, port: int, seconds: float) -> _Seen:
        rate = self.rate * work.share
        bodies = work.bodies(ceil(rate * seconds))
        order = open_loop.Order(
            port, work.path, bodies, rate, seconds, metadata=self._metadata(work)
        )
        ends: Counter[str] = Counter()
        try:
            with bed.on(self._test_bed.loading):
                found = open_loop.run_apart(order)
        except (load.LoadError, subprocess.CalledProcessError) as error:
            # No call succeeded, some had no response, or the server closed the connection.
            ends[f"{work.method} failed"] = int(rate * seconds)
            return _Seen([], ends, {str(error)})
        ends[work.method] = len(found.accepted)
        ends[f"{work.method} failed"] = len(found.refused)
        failures = {text.decode() for each in found.refusals for text in _MESSAGE.findall(each)}
        return _Seen(found.accepted + found.refused, +ends, failures)

    def _ingesting(self, port: int, health: str, done: threading.Event) -> Counter[str]:
        ends: Counter[str] = Counter()
        metadata: Any = authorized(self._tokens.token("ordinary-ingestion"))
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not done.wait(0.5):
            # Each on a new connection, like a new client.
            with (
                grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel,
                grpc.insecure_channel(health, options) as direct,
            ):
                try:
                    IngestionServiceStub(channel).IngestRows(iter(()), timeout=3, metadata=metadata)
                except grpc.RpcError as error:
                    ends["ingestion" if _was_admitted(error) else "ingestion failed"] += 1
                try:
                    health_pb2_grpc.HealthStub(direct).Check(
                        health_pb2.HealthCheckRequest(), timeout=2
                    )
                    ends["health check"] += 1
                except grpc.RpcError:
                    ends["health check failed"] += 1
        return ends


def _was_admitted(error: grpc.RpcError) -> bool:
    """Whether an ingestion was admitted: its only error is the missing message."""
    try:
        return refusal_of(error).reason == "STREAM_ORDER_INVALID"
    except AssertionError:
        return False


class _Tokens:
    """Keys for a server, and tokens that it accepts."""

    def __init__(self, folder: Path) -> None:
        self._key = ECKey.generate_key("P-256")
        self.path = folder / "jwks.json"
        public = {**self._key.as_dict(private=False), "kid": "k"}
        self.path.write_text(json.dumps({"keys": [public]}))
        self._made: dict[str, str] = {}

    def token(self, principal: str) -> str:
        """A token that is valid for the whole campaign."""
        if principal not in self._made:
            claims = {
                "iss": "https://id.example",
                "aud": "credit-service",
                "sub": principal,
                "scope": "credit.read credit.write ingest",
                "exp": int(time.time()) + 3600,
            }
            header = {"alg": "ES256", "kid": "k"}
            self._made[principal] = jwt.encode(header, claims, self._key)
        return self._made[principal]


@dataclass(frozen=True, slots=True)
class _Round:
    """The regular client's calls during an attack, and in the windows before and after it."""

    quiet: float
    """Its p99 without the attack, in seconds."""
    seen: _Seen
    done: Counter[str]
    failed_without: int

    def ratio(self) -> float:
        """Its p99 during the attack divided by the one without it."""
        return self.seen.p99 / self.quiet

    @property
    def summary(self) -> str:
        """Ratio of the p99 values, and calls that failed during the attack and without it."""
        failed = f"{self.seen.failed} failed, {self.failed_without} without the attack"
        return f"{self.ratio():.1f} ({failed})"


class _Campaign:
    """The attacks on one database."""

    def __init__(self, test_bed: Bed, report: Report, tokens: _Tokens) -> None:
        self._test_bed, self._report, self._tokens = test_bed, report, tokens
        self._url = test_bed.database("hostile")
        _fill(self._url)
        self._regular = _RegularClient(test_bed, tokens)
        self._before = _Seen()
        self._table: list[str] = []

    def attack(self, where: str, *, balanced: bool, names: Sequence[str]) -> None:
        """Run each of these attacks, and all of them combined if there are several."""
        with self._serving(balanced=balanced) as (port, health):
            self._regular.warm(port)
            self._before = self._measure(port, health)
            self._report.note(
                f"{where}: {self._regular.rate:,.0f} calls a second, no attack: {self._before}"
            )
            for name in names:
                self._attack(where, name, [name], port, health)
            if len(names) > 1:
                self._attack(where, _ALL, names, port, health)

    def _attack(self, where: str, what: str, names: Sequence[str], port: int, health: str) -> None:
        """Measure alternately without and with the attack. The median round counts, because a
        single window on a small machine may contain other work."""
        rounds = [self._round(names, port, health) for _ in range(_ROUNDS)]
        counted = rounds
        if _failed(rounds):
            # A stall of the disk fails bookings too. A server without a guard fails again.
            counted = [self._round(names, port, health) for _ in range(_ROUNDS)]
            rounds += counted
        middle = sorted(rounds, key=_Round.ratio)[len(rounds) // 2]
        failed = _failed(counted)
        self._table.append(_line(what, where, middle.quiet, middle.seen, failed))
        ratios = ", ".join(each.summary for each in rounds)
        line = f"{where}, {what} ({_listed(middle.done)}): {middle.seen}; rounds: {ratios}"
        failures = set().union(*(each.seen.failures for each in rounds))
        if failures:
            line += f"; failures: {'; '.join(sorted(failures)[:3])}"
        if what == _ALL:
            self._report.note(line)  # exceeds two processors: docs/reliability.md
        else:
            self._report.expect(not failed and middle.ratio() <= _MOST_RATIO, line)

    def _round(self, names: Sequence[str], port: int, health: str) -> _Round:
        """A window with the attack and one after it; the one before it is the last one's."""
        seen, done = self._under(names, port, health)
        after = self._measure(port, health)
        quiet = percentile(self._before.seconds + after.seconds, 0.99)
        found = _Round(quiet, seen, done, self._before.failed + after.failed)
        self._before = after
        return found

    def control(self, guards: str, names: Sequence[str]) -> None:
        """Run the same without these guards: the regular client must be affected."""
        weakened = [each for each in guards.split(",") if each != "indexes"]
        if "indexes" in guards:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("DROP INDEX customers_name_idx, customers_last_name_idx")
        with self._serving(balanced=False, without=",".join(weakened)) as (port, health):
            self._regular.measure(port, health, _WARM_SECONDS)
            for name in names:
                before = self._regular.measure(port, health, _WARM_SECONDS)
                seen, done = self._under([name], port, health)
                self._table.append(_line(name, f"without {guards}", before.p99, seen, seen.failed))
                self._report.expect(
                    _is_affected(seen, before.p99),
                    f"control: without {guards}, {name} ({_listed(done)}): {seen}",
                )

    def show(self) -> None:
        """The results, one line per attack."""
        head = ["attack", "where", "quiet p99", "attacked p99", "ratio", "failed"]
        for line in (f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *self._table):
            self._report.note(line)

    def _measure(self, port: int, health: str) -> _Seen:
        return self._regular.measure(port, health, _QUIET_SECONDS)

    def _under(self, names: Sequence[str], port: int, health: str) -> tuple[_Seen, Counter[str]]:
        """The regular client's results during these concurrent attacks, and the attacks'
        actions."""
        scene = Scene(f"127.0.0.1:{port}", self._url, self._tokens.token("careless"), _LOCKED)
        with under_attack(scene, names) as done:
            seen = self._regular.measure(port, health, _SECONDS)
        return seen, done

    @contextmanager
    def _serving(self, *, balanced: bool, without: str = "") -> Iterator[tuple[int, str]]:
        """The port for clients, and the address for health checks."""
        with ExitStack() as running:
            ready_port = free_port()
            server = running.enter_context(
                bed.server(
                    self._url,
                    self._test_bed.redis_url,
                    self._test_bed.serving,
                    module=("tests.weakened", f"descriptors={_DESCRIPTORS}", f"without={without}"),
                    max_wait_seconds=Settings.model_fields["max_wait_seconds"].default,
                    metrics_listen=f"127.0.0.1:{ready_port}",
                    token_keys=self._tokens.path,
                    token_issuer="https://id.example",
                )
            )
            target, port = f"127.0.0.1:{server.port}", server.port
            if balanced:
                with bed.on(self._test_bed.loading):
                    port = running.enter_context(balancing([(target, ready_port)], ready=1))
            yield port, target


def _failed(rounds: Sequence[_Round]) -> int:
    """Calls that failed during the attack. If calls fail without it too, the machine has other
    work."""
    return sum(each.seen.failed for each in rounds if not each.failed_without)


def _is_affected(seen: _Seen, quiet: float) -> bool:
    return bool(seen.failed) or seen.p99 > _MOST_RATIO * quiet


def _line(what: str, where: str, quiet: float, seen: _Seen, failed: int) -> str:
    """A line of the table."""
    attacked, ratio = (ms(seen.p99), f"{seen.p99 / quiet:.1f}") if seen.seconds else ("—", "—")
    return f"| {what} | {where} | {ms(quiet)} | {attacked} | {ratio} | {failed:,} |"


def _listed(done: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(done.items()))


def _fill(url: str) -> None:
    bed.fill(url, 1, _CUSTOMERS, 3)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO customers (customer_id, first_name, last_name, age, monthly_income_paise,
                phone_number, approved_limit_paise, imported, created_at, position_as_of,
                position_valid_until)
            SELECT n, 'Asha', 'Rao', 30, 10000000000, '+91' || (7000000000 + n), 0, true, now(),
                current_date, current_date + 1
            FROM generate_series(%s::bigint, %s::bigint) n""",
            [_CUSTOMERS + 1, _CUSTOMERS + _STRANGERS],
        )
        connection.execute("VACUUM ANALYZE customers")
    bed.settle(url)


def run(test_bed: Bed, only: str = "") -> Report:
    """Run this part on a separate database: all attacks, or one of them."""
    report = Report("hostile")
    names = [only] if only else list(ATTACKS)
    with tempfile.TemporaryDirectory() as folder:
        campaign = _Campaign(test_bed, report, _Tokens(Path(folder)))
        campaign.attack("server alone", balanced=False, names=names)
        campaign.attack("balancer", balanced=True, names=names)
        for guards, attacks in _WITHOUT.items():
            shown = [each for each in attacks if each in names]
            if shown:
                campaign.control(guards, shown)
        campaign.show()
    return report

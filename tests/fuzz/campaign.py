"""Sends all mutants to a full stack on real ports, and checks the stack afterwards."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import psutil
from joserfc.jwk import ECKey

from credit_service.processes.embedded import running_urls
from credit_service.v1 import credit_service_pb2, ingestion_pb2, ingestion_service_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from tests.fuzz import credentials, runner, world
from tests.fuzz.runner import Fuzzer, Outcome, Targets, channel_to
from tests.fuzz.values import numbered_uuid
from tests.system.up import (
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    Up,
    environment,
    up,
)

MUTANTS: Mapping[str, int] = {
    "fields": 10_000,
    "wire": 5_000,
    "rows": 300,
    "files": 1_000,
    "credentials": 1_000,
    "bare": 200,
}
"""The number of mutants of each kind in a full campaign; one of `rows` has ten rows."""

MAX_GROWTH_BYTES = 64 * 1024 * 1024
_SETTLE_SECONDS = 30.0
CALLERS = 6
_FINISH_SECONDS = 900.0
"""Longest wait for the end of an upload. Mutants of fields and messages leave a queue of them."""
_CHECK_EVERY = 500
_STREAMS = "32"


@dataclass
class Report:
    """Numbers of mutants and answers. `findings` is empty if all checks passed."""

    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    growth_bytes: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def line(self, kind: str) -> str:
        """The answers to the mutants of a kind."""
        listed = ", ".join(f"{name} {n}" for name, n in self.statuses[kind].most_common())
        return f"{kind}: {self.sent[kind]} in {self.seconds[kind]:.0f} s ({listed})"

    def __str__(self) -> str:
        lines = [
            f"memory of the {process}: {growth / 1024**2:+.1f} MiB"
            for process, growth in self.growth_bytes.items()
        ]
        passed = "all checks passed" if not self.findings else f"{len(self.findings)} findings"
        return "\n".join([*lines, f"seed {self.seed}: {passed}"])


class Campaign:
    """A stack under test and its findings."""

    def __init__(self, seed: int, running: Up, targets: Targets, guarded: "Guarded") -> None:
        self.report = Report(seed)
        self._running = running
        self._guarded_log = guarded.log
        self._targets = targets
        self._fuzzer = Fuzzer(seed, world.make(targets.channel), targets)
        self._warm_up()
        self._watched = {
            "server": running.running("credit_service.rpc"),
            "worker": running.running("workers"),
            "server that requires tokens": guarded.serving,
        }
        self._rss_before = self._rss()

    def _warm_up(self) -> None:
        """Send valid calls of every kind, so that the server has its normal memory use."""
        batch = world.rejected_batch(10_000)
        stub = IngestionServiceStub(self._targets.channel)
        kind = ingestion_pb2.INGESTION_KIND_CUSTOMERS
        with ThreadPoolExecutor(CALLERS) as callers:
            for number in range(2 * CALLERS):
                callers.submit(world.ingest, stub, numbered_uuid("warm", number), kind, batch)
            list(callers.map(partial(self._fuzzer.attempt, "fields"), range(300)))
            list(callers.map(partial(self._fuzzer.attempt, "credentials"), range(100)))

    def run(self, kind: str, numbers: range) -> None:
        """Send these mutants of a kind, several concurrently."""
        counted = self.report.statuses.setdefault(kind, Counter())
        began = time.monotonic()
        with ThreadPoolExecutor(CALLERS) as callers:
            outcomes = callers.map(partial(self._attempt, kind), numbers)
            for number, outcome in zip(numbers, outcomes, strict=True):
                counted[outcome.status] += 1
                self.report.sent[kind] += 1
                for fault in outcome.faults:
                    self._find(f"{kind}:{number} {outcome.what[:300]}: {fault}")
                if number % _CHECK_EVERY == 0:
                    self._check_processes(f"after {kind}:{number}")
        self._check_processes(f"after the {kind}")
        self.report.seconds[kind] = time.monotonic() - began
        print(self.report.line(kind), flush=True)  # noqa: T201 - a campaign takes minutes

    def _attempt(self, kind: str, number: int) -> Outcome:
        try:
            return self._fuzzer.attempt(kind, number)
        except Exception as error:  # noqa: BLE001 - a finding; the campaign continues
            return Outcome("", "not sent", (f"{type(error).__name__}: {error}",))

    def close(self) -> None:
        """Check memory and log at the end."""
        # Cancelled calls may still hold messages of 4 MiB, because a busy machine ends them late.
        until = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < until and self._has_grown():
            time.sleep(1)
        for process, now in self._rss().items():
            growth = now - self._rss_before[process]
            self.report.growth_bytes[process] = growth
            if growth >= MAX_GROWTH_BYTES:
                self._find(f"the {process} has grown by {growth / 1024**2:.0f} MiB")
        guarded_log = self._guarded_log.read_text(encoding="utf-8", errors="replace")
        for line in [*self._running.log.splitlines(), *guarded_log.splitlines()]:
            if "Traceback" in line or "call_failed" in line or "task_parked" in line:
                self._find(f"in the log: {line[:300]}")

    def _has_grown(self) -> bool:
        return any(
            now - self._rss_before[process] >= MAX_GROWTH_BYTES
            for process, now in self._rss().items()
        )

    def _check_processes(self, when: str) -> None:
        """Check that the original processes still run and answer."""
        for process, members in self._watched.items():
            if not all(each.is_running() for each in members):
                self._find(f"the {process} has ended {when}")
        try:
            request = credit_service_pb2.ListCustomersRequest(page_size=1)
            CreditServiceStub(self._targets.channel).ListCustomers(request, timeout=30)
        except grpc.RpcError as error:
            self._find(f"a valid call fails {when}: {error}")

    def _rss(self) -> dict[str, int]:
        return {
            process: sum(each.memory_info().rss for each in members if each.is_running())
            for process, members in self._watched.items()
        }

    def _find(self, finding: str) -> None:
        self.report.findings.append(finding)
        print(f"FOUND {finding}", flush=True)  # noqa: T201 - a campaign takes minutes


@contextmanager
def campaign(seed: int) -> Iterator[Campaign]:
    """A campaign on a separate stack, with a second server that requires tokens."""
    with (
        up("--no-console", CREDIT_MAX_STREAMS=_STREAMS) as running,
        _guarded(running) as guarded,
        channel_to(running.address) as open_channel,
        channel_to(guarded.address) as guarded_channel,
    ):
        targets = Targets(
            open_channel,
            guarded_channel,
            guarded.address,
            guarded.key,
            runner.now_in_seconds(),
            partial(_finished, open_channel),
        )
        yield Campaign(seed, running, targets, guarded)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server that requires tokens, on the database of the stack."""

    process: psutil.Process
    address: str
    key: ECKey
    log: Path

    @property
    def serving(self) -> list[psutil.Process]:
        """Its serving processes."""
        return self.process.children()


@contextmanager
def _guarded(running: Up) -> Iterator[Guarded]:
    key, keys_file = runner.write_keys(running.folder)
    urls = running_urls(running.folder / "data")
    if urls is None:
        raise RuntimeError("the stack does not report the URLs of its databases")
    settings = environment(
        DATABASE_URL=str(urls.database_url),
        REDIS_URL=str(urls.redis_url),
        CREDIT_LISTEN="127.0.0.1:0",
        CREDIT_TOKEN_KEYS=str(keys_file),
        CREDIT_TOKEN_ISSUER=credentials.ISSUER,
        CREDIT_MAX_STREAMS=_STREAMS,
        CREDIT_MAX_STREAMS_PER_PRINCIPAL=_STREAMS,
        CREDIT_MAX_CALLS_PER_SECOND="1000000",
    )
    path = running.folder / "guarded.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "credit_service.cli", "serve"],
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield Guarded(psutil.Process(process.pid), _announced(path), key, path)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_SECONDS)


def _announced(path: Path) -> str:
    """The address in a server's log."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"Serving on (\S+)", path.read_text(encoding="utf-8"))
        if found is not None:
            return found[1]
        time.sleep(0.05)
    raise TimeoutError(path.read_text(encoding="utf-8"))


def _finished(channel: grpc.Channel, ingestion_id: str) -> ingestion_pb2.Ingestion:
    """The ingestion after a worker has ended it, or its state after a timeout."""
    stub = IngestionServiceStub(channel)
    request = ingestion_service_pb2.GetIngestionRequest(ingestion_id=ingestion_id)
    deadline = time.monotonic() + _FINISH_SECONDS
    while True:
        found = stub.GetIngestion(request, timeout=30).ingestion
        if found.HasField("finished_time") or time.monotonic() >= deadline:
            return found
        time.sleep(0.05)

"""One campaign: a stack, a load, faults, and a check of all data afterwards."""

import math
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from credit_service.clock import Clock
from tests.faults import policy, stack
from tests.faults.account import Account
from tests.faults.cache_watch import CacheWatch
from tests.faults.faults import Inflictor
from tests.faults.history import Ended, Finding, History, Promotion
from tests.faults.load import Load
from tests.faults.plan import Plan

_SHOWN_FINDINGS = 40
# Calls that were on their way at the first write.
_AFTERMATH_SECONDS = 5.0
_OLD_SECONDS = 40 * 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Report:
    """The result. `findings` is empty if all checks passed."""

    plan: Plan
    load_seconds: float
    calls: Counter[str]
    statuses: Counter[str]
    faults: Counter[str]
    deaths: Counter[str]
    most_memory_mib: int
    checked: dict[str, int]
    findings: list[Finding]
    promotions: list[Promotion]
    ended: list[Ended]

    def __str__(self) -> str:
        def listed(counts: Counter[str] | dict[str, int]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        happened = sum(count for name, count in self.faults.items() if name != "missed")
        calls = sum(self.calls.values())
        kinds = Counter(finding.kind for finding in self.findings)
        passed = f"FOUND {listed(kinds)}" if self.findings else "all checks passed"
        return "\n".join(
            [
                f"calls:    {calls} in {self.load_seconds:.0f} s ({listed(self.calls)})",
                f"statuses: {listed(self.statuses)}",
                f"faults:   {happened} ({listed(self.faults)})",
                f"deaths:   {listed(self.deaths)}",
                f"memory:   {self.most_memory_mib} MiB at most, of all processes together",
                f"checked:  {listed(self.checked)}",
                *self._failovers(),
                *(f"FOUND     {each}" for each in self.findings[:_SHOWN_FINDINGS]),
                f"seed {self.plan.seed}: {passed}",
            ]
        )

    def _failovers(self) -> Iterator[str]:
        """How long each failover took, and the calls that failed meanwhile."""
        recovered = []
        for each in self.promotions:
            until = each.recovered_at or math.inf
            failed = Counter(
                call.status
                for call in self.ended
                if each.failed_at <= call.ended_at <= until + _AFTERMATH_SECONDS
                and call.status != "OK"
            )
            words = "no write succeeded"
            if each.recovered_at is not None:
                recovered.append(each.recovered_at - each.promoted_at)
                words = (
                    f"a write {each.recovered_at - each.failed_at:.2f} s after the failure,"
                    f" {recovered[-1]:.2f} s after the promotion"
                )
            yield f"failover: {each.how}: {words}; failed: {dict(failed) or 'none'}"
        if recovered:
            yield f"recovery: median {statistics.median(recovered):.2f} s after the promotion"


def exit_cleanly_on_signals() -> None:
    """Make SIGTERM and SIGINT end this process through its `finally` blocks, so that it cleans up.
    Call from the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def run(plan: Plan, sabotage: str = "") -> Report:
    """Execute the plan. `sabotage` names a guard to remove: see tests/faults/sabotage."""
    past = History()
    # Loans that begin before the load can get backdated payments and are overdue. All parts start
    # that early: a clock only moves forward.
    with stack.running(
        sabotage, with_standby=bool(plan.counts.failovers), offset_seconds=-_OLD_SECONDS
    ) as running:
        clock = Clock(offset_file=running.clock_file)
        load = Load(running.address, clock, plan.callers, plan.seed, running.folder, past)
        load.prepare()
        running.set_clock(0)
        policy.schedule(running.address, clock)
        watch = CacheWatch(running.databases.redis_url, past)
        began = time.monotonic()
        load.start()
        Inflictor(running, past).inflict(plan.faults(), plan.seconds)
        load.stop()
        load_seconds = time.monotonic() - began
        load.settle(plan.drain_seconds)
        load.review_the_rest()
        load.settle(plan.drain_seconds)
        account = Account(running, load, past, plan.drain_seconds)
        account.check()
        account.checked["cache writes"] = watch.writes
        return Report(
            plan=plan,
            load_seconds=load_seconds,
            calls=past.calls,
            statuses=past.statuses,
            faults=past.faults,
            deaths=running.deaths,
            most_memory_mib=running.most_memory_mib,
            checked=account.checked,
            findings=past.findings,
            promotions=past.promotions,
            ended=past.ended,
        )

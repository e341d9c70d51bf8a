"""The plan of a campaign, derived from its seed: the same seed gives the same faults and times.

The state in which a fault hits the service depends on the machine's speed, so a replay is not
identical.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.pair import HOWS
from tests.faults.proxy import LINKS

CRASHES = (
    "create_loan.before_write",
    "create_loan.before_commit",
    "create_loan.after_commit",
    "record_payment.before_write",
    "record_payment.after_commit",
    "reverse_payment.before_write",
    "reverse_payment.after_commit",
    "end_offer.before_commit",
    "end_offer.after_commit",
    "update_customer.before_commit",
    "update_customer.after_commit",
    "relay.before_publish_commit",
    "relay.before_send",
    "relay.after_send",
    "task.before_finish",
    "ingestion.mid_copy",
    "ingestion.after_commit",
    "revert.before_commit",
    "revert.after_commit",
    "cache.before_write",
)
"""Failpoints at which a campaign ends a process."""


STEPS = ("midnight", "month end", "year end")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its type, its time in seconds after the start of the load, and its details."""

    kind: str
    at_seconds: float
    # For a crash the failpoint, for a link fault the link, for a kill the number of the process.
    target: str = ""
    # The duration, unless the fault is instantaneous.
    lasts_seconds: float = 0.0
    # The fault of a link: reset, delay, cut there, cut back. For a failover: see pair.HOWS.
    how: str = ""

    def __str__(self) -> str:
        words = [self.kind, self.target, self.how]
        text = " ".join(word for word in words if word)
        return text + (f" for {self.lasts_seconds:.1f} s" if self.lasts_seconds else "")


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of faults of each kind."""

    kills: dict[str, int] = field(default_factory=dict)
    stops: int = 0
    links: int = 0
    crashes: int = 0
    held_seconds: float = 0.0
    flushes: int = 0
    full_redis: int = 0
    full_disk: int = 0
    clock_steps: int = 0
    # How the primary fails before each failover to its standby; none: there is no standby.
    failovers: tuple[str, ...] = ()


FULL = Counts(
    kills={"server": 10, "worker": 10, "relay": 5, "redis": 10, "postgresql": 5},
    stops=5,
    links=12,
    crashes=5,
    held_seconds=60.0,
    flushes=2,
    full_redis=1,
    full_disk=1,
    clock_steps=3,
)
SHORT = Counts(
    kills={"server": 1, "worker": 1, "relay": 1, "redis": 1, "postgresql": 1},
    stops=1,
    links=3,
    crashes=1,
    held_seconds=6.0,
    flushes=1,
    full_redis=1,
    full_disk=1,
    clock_steps=3,
)
FAILOVERS = Counts(kills={"server": 2, "worker": 2, "relay": 1, "redis": 1}, failovers=HOWS)
FAILOVERS_SHORT = Counts(kills={"server": 1}, failovers=("stall", "fence"))


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign: duration, number of callers, faults, seed."""

    seconds: float
    callers: int
    seed: int
    counts: Counts
    # Maximum time for which the account waits for unfinished work.
    drain_seconds: float = 180.0

    def faults(self) -> list[Fault]:
        """All faults, ordered by time."""
        pick = random.Random(self.seed)  # noqa: S311 - repeatable faults
        kinds = _drawn(self.counts, pick)
        pick.shuffle(kinds)
        slot_seconds = self.seconds / (len(kinds) + 1)
        faults = [
            make((number + 0.5 + pick.uniform(-0.4, 0.4)) * slot_seconds)
            for number, make in enumerate(kinds)
        ]
        if self.counts.held_seconds:
            begin = pick.uniform(0.1, 0.3) * self.seconds
            faults.append(Fault("hold", begin, lasts_seconds=self.counts.held_seconds))
        # The clock only moves forward.
        for number in range(self.counts.clock_steps):
            at_seconds = (number + 1) / (self.counts.clock_steps + 1) * self.seconds
            faults.append(Fault("clock", at_seconds, STEPS[number % len(STEPS)]))
        for number, how in enumerate(self.counts.failovers):
            at_seconds = (number + 0.2) / len(self.counts.failovers) * self.seconds
            faults.append(Fault("failover", at_seconds, how=how))
        return sorted(faults, key=lambda fault: fault.at_seconds)


_Make = Callable[[float], Fault]


def _drawn(counts: Counts, pick: random.Random) -> list[_Make]:
    """All faults without a fixed time."""
    makes: list[_Make] = []

    def add(kind: str, target: str = "", lasts_seconds: float = 0.0, how: str = "") -> None:
        makes.append(lambda at_seconds: Fault(kind, at_seconds, target, lasts_seconds, how))

    for part, count in counts.kills.items():
        for _ in range(count):
            add("kill", part)
    for number in range(counts.stops):
        add("stop", ("server", "redis", "worker", "relay")[number % 4], pick.uniform(1.0, 4.0))
    hows = ("reset", "delay", "cut there", "cut back")
    for number in range(counts.links):
        # Each link and each kind of fault in turn, including the callers' link.
        link = pick.choice(LINKS)
        how = hows[number % len(hows)]
        add("link", link, 0.0 if how == "reset" else pick.uniform(2.5, 5.0), how)
    for _ in range(counts.crashes):
        for point in CRASHES:
            add("crash", point)
    for _ in range(counts.flushes):
        add("flush")
    for _ in range(counts.full_redis):
        add("full redis", lasts_seconds=pick.uniform(2.0, 4.0))
    for _ in range(counts.full_disk):
        add("full disk", lasts_seconds=pick.uniform(3.0, 5.0))
    return makes

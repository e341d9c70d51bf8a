"""Alternates workloads with their yardsticks, and evaluates the results."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

SECONDS, RATE, MILLISECONDS, MEBIBYTES, COUNT = "s", "/s", "ms", "MiB", ""
AtLeast = Literal["≥"]
AtMost = Literal["≤"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    rounds: int
    seconds: float
    quick: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal for the ratio (workload ÷ yardstick) or, without a yardstick, for the value."""

    sense: AtLeast | AtMost
    value: float

    def met(self, ratio: float) -> bool:
        """Whether the value reaches the goal."""
        return ratio >= self.value if self.sense == "≥" else ratio <= self.value


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement: its value and further observations."""

    figure: float
    # CPU usage as a share of one processor: {"server": 0.99, "load": 0.4}.
    busy: dict[str, float] = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(slots=True)
class Result:
    """A row of the table. `figures` and `yardsticks` belong to the same rounds, in order."""

    name: str
    work: str
    against: str
    unit: str
    goal: Goal | None
    turns: list[Turn]
    yardstick_turns: list[Turn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def figure(self) -> float:
        """Median of the workload's values."""
        return statistics.median(each.figure for each in self.turns)

    @property
    def yardstick(self) -> float | None:
        """Median of the yardstick's values."""
        if not self.yardstick_turns:
            return None
        return statistics.median(each.figure for each in self.yardstick_turns)

    @property
    def ratio(self) -> float:
        """Median over the rounds of workload ÷ yardstick; without a yardstick, the value."""
        if not self.yardstick_turns:
            return self.figure
        return statistics.median(
            work.figure / yardstick.figure
            for work, yardstick in zip(self.turns, self.yardstick_turns, strict=True)
        )

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return None if self.goal is None else self.goal.met(self.ratio)

    def busy(self) -> dict[str, float]:
        """Median CPU usage of each process during the workload, as a share of one processor."""
        names = self.turns[0].busy
        return {name: statistics.median(each.busy[name] for each in self.turns) for name in names}

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "work": self.work,
            "against": self.against,
            "unit": self.unit,
            "figure": self.figure,
            "yardstick": self.yardstick,
            "ratio": self.ratio,
            "goal": None if self.goal is None else f"{self.goal.sense} {self.goal.value:g}",
            "met": self.met,
            "figures": [each.figure for each in self.turns],
            "yardsticks": [each.figure for each in self.yardstick_turns],
            "p50_ms": [each.p50_ms for each in self.turns],
            "p99_ms": [each.p99_ms for each in self.turns],
            "busy": self.busy(),
            "notes": self.notes,
        }


def by_turns(rounds: int, works: Sequence[Callable[[], Turn]]) -> list[list[Turn]]:
    """Run each workload once to warm up, then all in turn, `rounds` times; returns their rounds."""
    for work in works:
        work()
    turns: list[list[Turn]] = [[] for _ in works]
    for number in range(rounds):
        # Every other round in reverse order, so that no workload always follows the same one.
        order = range(len(works)) if number % 2 == 0 else reversed(range(len(works)))
        for place in order:
            turns[place].append(works[place]())
    return turns

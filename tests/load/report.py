"""What a campaign found, line by line."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """The findings of one part of the campaign, printed as they come."""

    name: str
    missed: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Say what was seen."""
        print(f"{self.name}: {line}", flush=True)  # noqa: T201 - what a command line is for

    def expect(self, holds: bool, line: str) -> None:
        """Say what was seen, and whether it is what must be."""
        self.note(f"{line} — {'met' if holds else 'MISSED'}")
        if not holds:
            self.missed.append(f"{self.name}: {line}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def ms(seconds: float) -> str:
    """As people write it."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"

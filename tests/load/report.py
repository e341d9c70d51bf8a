"""The findings of a campaign, line by line."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """The findings of one part of the campaign, printed immediately."""

    name: str
    missed: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Print an observation."""
        print(f"{self.name}: {line}", flush=True)  # noqa: T201 - the command's output

    def expect(self, holds: bool, line: str) -> None:
        """Print an observation, and whether it meets the expectation."""
        self.note(f"{line} — {'met' if holds else 'MISSED'}")
        if not holds:
            self.missed.append(f"{self.name}: {line}")


def percentile(values: Sequence[float], share: float) -> float:
    """The quantile `share` of the values; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def ms(seconds: float) -> str:
    """The duration formatted for people."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"

"""The table, for people and as JSON."""

import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bed import Machine
from benchmarks.measuring import RATE, Result, Turn

_NONE = "-"
_HEADS = ("work", "figure", "against", "yardstick", "ratio", "goal", "met")


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table, which is also readable on a terminal."""
    rows = [_HEADS, *(_row(each) for each in results)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADS))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]


def _row(result: Result) -> tuple[str, ...]:
    yardstick = result.yardstick
    return (
        result.work,
        amount(result.figure, result.unit),
        result.against or _NONE,
        _NONE if yardstick is None else amount(yardstick, result.unit),
        _NONE if yardstick is None else _ratio(result),
        _NONE if result.goal is None else _goal(result),
        {True: "yes", False: "NO", None: _NONE}[result.met],
    )


def amount(figure: float, unit: str) -> str:
    """A value formatted for people."""
    if unit == RATE:
        return f"{figure:,.0f} {unit}"
    return f"{figure:,.3g} {unit}".strip() if figure < 1000 else f"{figure:,.0f} {unit}"


def _ratio(result: Result) -> str:
    """Rates as a percentage of the yardstick, times, sizes and larger rates as a multiple."""
    if result.ratio > 1 if result.goal is None else result.goal.value >= 1:
        return f"{result.ratio:.2f} times"
    return f"{result.ratio:.0%}"


def _goal(result: Result) -> str:
    goal = result.goal
    assert goal is not None
    if result.yardstick is None:
        return f"{goal.sense} {amount(goal.value, result.unit)}"
    return (
        f"{goal.sense} {goal.value:g} times"
        if goal.value >= 1
        else f"{goal.sense} {goal.value:.0%}"
    )


def details(results: Sequence[Result]) -> str:
    """Spread of the values, latencies of the calls, and CPU usage."""
    lines = []
    for each in results:
        figures = [turn.figure for turn in each.turns]
        spread = f"{amount(min(figures), each.unit)} … {amount(max(figures), each.unit)}"
        parts = [f"{each.name}: {spread}"]
        latencies = [turn for turn in each.turns if turn.p50_ms is not None]
        if latencies:
            middle = sorted(latencies, key=lambda turn: turn.figure)[len(latencies) // 2]
            parts.append(f"p50 {middle.p50_ms:.1f} ms, p99 {middle.p99_ms:.1f} ms")
        busy = each.busy()
        if busy:
            named = ", ".join(f"{name} {part:.0%}" for name, part in busy.items())
            parts.append(f"of a processor: {named}")
        costs = [_server_cost(turns) for turns in (each.turns, each.yardstick_turns)]
        if each.unit == RATE and None not in costs:
            parts.append(f"server {costs[0]:.0f} µs a call, the yardstick {costs[1]:.0f} µs")
        lines += ["; ".join(parts), *(f"    {note}" for note in each.notes)]
    return "\n".join(lines)


def _server_cost(turns: Sequence[Turn]) -> float | None:
    """The server's CPU time per call, in microseconds."""
    costs = [each.busy["server"] / each.figure * 1e6 for each in turns if "server" in each.busy]
    return statistics.median(costs) if costs else None


def write_json(path: Path, machine: Machine, results: Sequence[Result], *, quick: bool) -> None:
    """All results and details, for comparing runs."""
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine.as_dict(),
        "results": [each.as_dict() for each in results],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

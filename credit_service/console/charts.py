"""Charts as SVG, drawn on the server so that pages need no script and no inline styles.

Coordinates are integer tenths of a unit, computed from integers, money included. Colours and fonts
come from the stylesheet by class name. Every chart has a text description.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup, escape

from credit_service.client import display
from credit_service.console import formats
from credit_service.rupees import group_digits

_ROUND = 1000


def _scaled(value: int, full: int, length: int) -> int:
    """Return `value` of `full` on a length in units, as tenths of a unit, clamped to the length."""
    if full <= 0:
        return 0
    return max(0, min(value, full)) * length * 10 // full


def _tenths(value: int) -> str:
    whole, tenth = divmod(value, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)


def _svg(width: int, height: int, css_class: str, title: str, body: str) -> Markup:
    return Markup(  # noqa: S704 - `body` holds numbers and escaped text only
        f'<svg class="{css_class}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'
    )


def bar(value: int, full: int, tone: str = "accent") -> Markup:
    """Return a level bar. Hidden from screen readers, because the figures are beside it."""
    width = _tenths(_scaled(value, full, 100))
    return Markup(  # noqa: S704 - numbers and an own class name
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="fill {tone}" width="{width}" height="8"/></svg>'
    )


def span_bar(start: int, end: int, full: int, tone: str = "accent") -> Markup:
    """Return a bar from one value to another, as a waterfall step. Hidden from screen readers."""
    left, right = sorted((_scaled(start, full, 100), _scaled(end, full, 100)))
    return Markup(  # noqa: S704 - numbers and an own class name
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="fill {tone}" x="{_tenths(left)}" width="{_tenths(right - left)}" '
        'height="8"/></svg>'
    )


def gauge(used: int, full: int, center: str, below: str, title: str) -> Markup:
    """Return a half circle filled by used / full. If used > full, it is full, in declined tone."""
    share = _ROUND if full <= 0 < used else (_scaled(used, full, _ROUND // 10))
    tone = "declined" if used > full else "accent"
    path = "M 20 100 A 80 80 0 0 1 180 100"
    body = (
        f'<path class="gauge-track" d="{path}"/>'
        + (
            f'<path class="gauge-fill {tone}" d="{path}" pathLength="{_ROUND}" '
            f'stroke-dasharray="{share} {_ROUND * 2}"/>'
            if share
            else ""
        )
        + f'<text class="gauge-center" x="100" y="86">{escape(center)}</text>'
        f'<text class="gauge-below" x="100" y="106">{escape(below)}</text>'
    )
    return _svg(200, 116, "gauge", title, body)


def ring(part: int, whole: int, title: str) -> Markup:
    """Return a ring filled by part / whole, with the percentage inside; '—' if `whole` is 0."""
    share = part * _ROUND // whole if whole else 0
    text = f"{(2 * 100 * part + whole) // (2 * whole)} %" if whole else "—"
    body = '<circle class="ring-track" cx="50" cy="50" r="40"/>'
    if share:
        body += (
            f'<circle class="ring-fill" cx="50" cy="50" r="40" pathLength="{_ROUND}" '
            f'stroke-dasharray="{share} {_ROUND * 2}" transform="rotate(-90 50 50)"/>'
        )
    body += f'<text class="ring-text" x="50" y="55">{text}</text>'
    return _svg(100, 100, "ring", title, body)


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """A score and the instant from which it applies. `label` is the text for it."""

    epoch_seconds: int
    score: int
    label: str


def score_line(points: Sequence[ScorePoint]) -> Markup:
    """Return scores of 0 to 100 over time, as steps: each applies until the next."""
    width, height, left, top, bottom = 480, 190, 30, 12, 22
    plot_width, plot_height = width - left - 12, height - top - bottom
    # Time never goes back on the line, even if two clocks differed.
    times = list(accumulate((each.epoch_seconds for each in points), max))
    first = times[0] if times else 0
    span = (times[-1] - first if times else 0) or 1

    def x(place: int) -> int:
        if len(points) == 1:
            return (left + plot_width) * 10
        return left * 10 + _scaled(times[place] - first, span, plot_width)

    def y(score: int) -> int:
        return (top + plot_height) * 10 - _scaled(score, 100, plot_height)

    parts = []
    for level in (0, 25, 50, 75, 100):
        at = _tenths(y(level))
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{at}" y2="{at}"/>'
            f'<text class="tick end" x="{left - 6}" y="{_tenths(y(level) + 35)}">{level}</text>'
        )
    if points:
        begin = x(0) if len(points) > 1 else left * 10
        steps = [f"M {_tenths(begin)} {_tenths(y(points[0].score))}"]
        steps += [
            f"H {_tenths(x(place))} V {_tenths(y(each.score))}" for place, each in enumerate(points)
        ]
        parts.append(f'<path class="line" d="{" ".join(steps)}"/>')
        shown = range(len(points)) if len(points) <= 60 else (len(points) - 1,)
        for place in shown:
            at_x, at_y = _tenths(x(place)), _tenths(y(points[place].score))
            parts.append(
                f'<circle class="dot" cx="{at_x}" cy="{at_y}" r="3.5">'
                f"<title>{escape(points[place].label)}</title></circle>"
            )
        ends = [(left, "start", points[0])] if len(points) > 1 else []
        for edge, anchor, each in (*ends, (width - 12, "end", points[-1])):
            day = each.label.partition(",")[0]
            parts.append(
                f'<text class="tick {anchor}" x="{edge}" y="{height - 5}">{escape(day)}</text>'
            )
    title = f"Score history, {len(points)} values"
    if points:
        title += f", now {points[-1].score} of 100"
    return _svg(width, height, "chart", title, "".join(parts))


_BAND = 10


def score_distribution(counts: Iterable[Any], title: str) -> Markup:
    """Return bars of the numbers of customers by bands of ten scores, before and after. `counts`
    are ScoreCounts messages. The last band includes 100."""
    bands = [[0, 0] for _ in range(100 // _BAND)]
    for each in counts:
        band = bands[min(each.score // _BAND, len(bands) - 1)]
        band[0] += each.before
        band[1] += each.after
    width, height, left, top = 760, 190, 60, 24
    plot_width, plot_height = width - left - 12, height - top - 26
    tallest = max((number for band in bands for number in band), default=0)
    floor = (top + plot_height) * 10
    parts = []
    for part in (0, 1, 2):
        at = _tenths(floor - plot_height * 5 * part)
        label_at = _tenths(floor - plot_height * 5 * part + 35)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{at}" y2="{at}"/>'
            f'<text class="tick end" x="{left - 8}" y="{label_at}">'
            f"{group_digits(tallest * part // 2)}</text>"
        )
    step = plot_width * 10 // len(bands)
    for number, band in enumerate(bands):
        begin = left * 10 + number * step
        for side, (tone, value) in enumerate(zip(("principal", "interest"), band, strict=True)):
            tall = _scaled(value, tallest, plot_height)
            parts.append(
                f'<rect class="{tone}" x="{_tenths(begin + step // 10 + side * step * 4 // 10)}" '
                f'width="{_tenths(step * 4 // 10 - 10)}" y="{_tenths(floor - tall)}" '
                f'height="{_tenths(tall)}"><title>{value}</title></rect>'
            )
        last = 100 if number == len(bands) - 1 else (number + 1) * _BAND - 1
        parts.append(
            f'<text class="tick middle" x="{_tenths(begin + step // 2)}" y="{height - 8}">'
            f"{number * _BAND} to {last}</text>"
        )
    listed = ", ".join(
        f"{number * _BAND} and more {before} and {after}"
        for number, (before, after) in enumerate(bands)
        if before or after
    )
    return _svg(width, height, "chart wide", f"{title}. {listed}", "".join(parts))


def schedule_chart(installments: Sequence[Any], title: str) -> Markup:
    """Return a repayment schedule with a common time axis. Above: the remaining balance. Below:
    principal and interest of each installment, stacked."""
    width, left, right = 760, 98, 12
    plot_width = width - left - right
    balance_top, balance_height = 24, 120
    split_top, split_height = 190, 100
    count = len(installments)
    rows = [
        (display.paise(each.principal), display.paise(each.interest), display.paise(each.balance))
        for each in installments
    ]
    start_balance = rows[0][0] + rows[0][2] if rows else 0
    tallest = max((principal + interest for principal, interest, _ in rows), default=0)
    parts = [
        _axis(left, width - right, balance_top, balance_height, start_balance, "Balance"),
        _axis(left, width - right, split_top, split_height, tallest, "Each installment"),
    ]

    def x(number: int) -> int:
        return left * 10 + _scaled(number, count, plot_width)

    balance_floor = (balance_top + balance_height) * 10
    split_floor = (split_top + split_height) * 10
    heights = [start_balance, *(balance for _, _, balance in rows)]
    # The balance changes only when an installment is paid, so it falls in steps.
    line = [
        f"M {left} {_tenths(balance_floor - _scaled(heights[0], start_balance, balance_height))}"
    ]
    line += [
        f"H {_tenths(x(number))} "
        f"V {_tenths(balance_floor - _scaled(heights[number], start_balance, balance_height))}"
        for number in range(1, count + 1)
    ]
    floor = _tenths(balance_floor)
    drawn = " ".join(line)
    parts.append(f'<path class="area" d="{drawn} V {floor} H {left} Z"/>')
    parts.append(f'<path class="line" d="{drawn}"/>')
    # With many bars there is no space for gaps between them.
    gap = 10 if count <= 60 else 2 if count <= 180 else 0
    for number, (principal, interest, _) in enumerate(rows):
        begin, end = x(number), x(number + 1)
        low = _scaled(principal, tallest, split_height)
        high = _scaled(principal + interest, tallest, split_height)
        at, bar_width = _tenths(begin + gap), _tenths(max(end - begin - 2 * gap, 2))
        parts.append(
            f'<rect class="principal" x="{at}" width="{bar_width}" '
            f'y="{_tenths(split_floor - low)}" height="{_tenths(low)}"/>'
            f'<rect class="interest" x="{at}" width="{bar_width}" '
            f'y="{_tenths(split_floor - high)}" height="{_tenths(high - low)}"/>'
        )
    parts += [
        f'<text class="tick {anchor}" x="{_tenths(x(number))}" y="{split_top + split_height + 16}">'
        f"{escape(text)}</text>"
        for number, anchor, text in _time_ticks(installments)
    ]
    return _svg(width, split_top + split_height + 22, "chart wide", title, "".join(parts))


def _axis(left: int, right: int, top: int, height: int, largest_paise: int, name: str) -> str:
    floor = top + height
    parts = [f'<text class="axis-name" x="{left}" y="{top - 9}">{escape(name)}</text>']
    for part in (0, 1, 2):
        at = _tenths(floor * 10 - height * 5 * part)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>')
        figure = formats.short_rupees(largest_paise * part // 2)
        label_at = _tenths(floor * 10 - height * 5 * part + 35)
        parts.append(f'<text class="tick end" x="{left - 8}" y="{label_at}">{figure}</text>')
    return "".join(parts)


def _time_ticks(installments: Sequence[Any]) -> list[tuple[int, str, str]]:
    count = len(installments)
    if not count:
        return []
    ticks = [(count, "end", formats.civil(installments[-1].due_date))]
    if count > 1:
        ticks.append((0, "start", formats.civil(installments[0].due_date)))
    if count > 4:
        middle = count // 2
        ticks.append((middle, "middle", formats.civil(installments[middle - 1].due_date)))
    return ticks

"""Draws the growth curves: `python -m benchmarks.picture RESULTS.json PICTURE.svg`."""

import json
import math
import sys
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 640, 320, 56
_COLOURS = ("#1f6feb", "#d1242f")

Curve = list[tuple[int, float]]


def curves(document: dict[str, Any]) -> dict[str, Curve]:
    """The (customers, p50 in ms) of each method in a results document, ordered by size."""
    found: dict[str, Curve] = {}
    for result in document["results"]:
        kind, _, rest = result["name"].partition("-")
        if kind != "growth":
            continue
        method, _, size = rest.partition("-")
        smallest = int(result["against"].split()[1].replace(",", ""))
        curve = found.setdefault(method, [(smallest, result["yardstick"])])
        curve.append((int(size), result["figure"]))
    return found


def svg(found: dict[str, Curve]) -> str:
    """An SVG of the curves over a logarithmic number of customers; the time axis starts at 0."""
    sizes = sorted({size for curve in found.values() for size, _ in curve})
    top = 1.15 * max(value for curve in found.values() for _, value in curve)
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])

    def x(size: int) -> float:
        return _MARGIN + (math.log10(size) - low) / (high - low) * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - value / top * (_HEIGHT - 2 * _MARGIN)

    bottom = _HEIGHT - _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">',
        "<style>text{font:12px sans-serif}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" fill="none" stroke="gray"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN - 16}">p50, ms, over customers in the tables</text>',
    ]
    parts += [
        f'<text x="{x(size):.0f}" y="{bottom + 18}" text-anchor="middle">{size:,}</text>'
        for size in sizes
    ]
    for (method, curve), colour in zip(sorted(found.items()), _COLOURS, strict=False):
        points = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in sorted(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        for size, value in curve:
            parts.append(
                f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
                f'<text x="{x(size):.1f}" y="{y(value) - 8:.1f}" fill="{colour}"'
                f' text-anchor="middle">{value:.2f}</text>'
            )
        last_size, last = max(curve)
        parts.append(
            f'<text x="{x(last_size):.1f}" y="{y(last) + 18:.1f}" fill="{colour}"'
            f' text-anchor="end">{method}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw the picture of the command line."""
    source, target = map(Path, sys.argv[1:3])
    document = json.loads(source.read_text(encoding="utf-8"))
    target.write_text(svg(curves(document)), encoding="utf-8")


if __name__ == "__main__":
    main()

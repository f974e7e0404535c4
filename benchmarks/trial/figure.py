"""The figure of ``docs/evidence.md``: leakage over fidelity, a line for each arm with its interval, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from benchmarks.trial.comparing import ENOUGH, Curve, interval, least_leakage, reach

WIDTH, HEIGHT = 760, 430
LEFT, TOP, RIGHT, BOTTOM = 70, 20, 190, 56  # margins
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")  # Okabe and Ito's
SHARE = 0.8  # of the replicates must reach a fidelity for a line to go there
STEPS = 40
LABEL = 15  # pixels between two names


@dataclass(frozen=True)
class Line:
    """An arm's least leakage by fidelity: means and 95 % intervals over the replicates that reach it."""

    name: str
    count: int
    points: Sequence[tuple[float, float, float, float]]  # fidelity, mean, low, high


def line(name: str, curves: Sequence[Curve]) -> Line:
    """Return an arm's line over all fidelities that enough of its replicates reach."""
    points = []
    for fidelity in np.linspace(0, 1, STEPS + 1):
        there = [least_leakage(curve, float(fidelity)) for curve in curves if reach(curve) >= fidelity]
        if len(there) < max(ENOUGH, SHARE * len(curves)):
            break
        found = interval(there)
        points.append((float(fidelity), found.mean, found.low or 0.0, found.high or 0.0))
    return Line(name, len(curves), points)


def drawn(curves: Mapping[str, Sequence[Curve]], x_title: str, y_title: str) -> str:
    """Return the figure as SVG; arms without a line are left out."""
    lines = [found for name, of_arm in curves.items() if len((found := line(name, of_arm)).points) > 1]
    parts = [_axes(x_title, y_title)]
    ends = []
    for number, one in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        mean = [(_x(f), _y(m)) for f, m, _, _ in one.points]
        band = [(_x(f), _y(high)) for f, _, _, high in one.points]
        band += [(_x(f), _y(low)) for f, _, low, _ in reversed(one.points)]
        parts.append(f'<polygon points="{_path(band)}" fill="{colour}" opacity="0.14"/>')
        dashed = ' stroke-dasharray="8 4"' * (number >= len(COLOURS))  # as a second round of colours
        parts.append(f'<polyline points="{_path(mean)}" fill="none" stroke="{colour}" stroke-width="2.5"{dashed}/>')
        ends.append((mean[-1], colour, f"{one.name} ({one.count})"))
    parts += _names(ends)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="13" role="img">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _x(fidelity: float) -> float:
    return LEFT + fidelity * (WIDTH - LEFT - RIGHT)


def _y(leakage: float) -> float:
    return HEIGHT - BOTTOM - min(max(leakage, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _axes(x_title: str, y_title: str) -> str:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _x(tick), _y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{_x(0.5):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>')
    turned = f'transform="rotate(-90 20 {middle:.1f})"'
    parts.append(f'<text x="20" y="{middle:.1f}" text-anchor="middle" {turned}>{escape(y_title)}</text>')
    return "\n".join(parts)


def _names(ends: Sequence[tuple[tuple[float, float], str, str]]) -> list[str]:
    """The names at the right, each joined to its line's end, moved apart where they would meet."""
    parts, last = [], -LABEL
    for (x, y), colour, name in sorted(ends, key=lambda end: end[0][1]):
        last = max(y, last + LABEL)
        edge = WIDTH - RIGHT + 12
        parts.append(f'<path d="M{x:.1f} {y:.1f}L{edge} {last:.1f}" stroke="{colour}" stroke-dasharray="2 3"/>')
        parts.append(f'<text x="{edge + 4}" y="{last + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return parts

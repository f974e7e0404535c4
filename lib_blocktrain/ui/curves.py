"""Line charts of a run's metrics as SVG: no script, no font, no library; colours follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lib_blocktrain.blocks import BLOCK_IDS
from lib_blocktrain.ui.history import Points, thinned

WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 22  # margins
TICKS = 4

_CHART = Markup(
    '<figure class="blocktrain-chart"><figcaption>{title}{legend}</figcaption>'
    '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{grid}{lines}{steps}</svg></figure>'
)
_STEPS = Markup('<text x="{left}" y="{y}">{first}</text><text x="{right}" y="{y}" text-anchor="end">step {last}</text>')
_GRID_LINE = Markup(
    '<line x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
    '<text x="{label_x}" y="{label_y}" text-anchor="end">{label}</text>'
)


def chart(title: str, curves: Mapping[str, Points], *, logarithmic: bool = False, by_block: bool = False) -> Markup:
    """One chart of named curves over the steps; empty if there are no points. With `by_block` the names are blocks."""
    curves = {name: thinned(points) for name, points in curves.items() if points}
    if logarithmic:
        curves = {name: [(s, math.log10(v)) for s, v in points if v > 0] for name, points in curves.items()}
        curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return Markup("")
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    low, high = _nonempty(min(values), max(values))

    def position(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    colours = _colours(list(curves)) if by_block else {}
    lines = [_line(name, [position(*point) for point in points], colours) for name, points in curves.items()]
    ticks = [low + (high - low) * number / (TICKS - 1) for number in range(TICKS)]
    digits = next((n for n in (3, 4, 5) if len({_label(value, logarithmic, n) for value in ticks}) == TICKS), 6)
    grid = [_grid_line(position(first, value)[1], _label(value, logarithmic, digits)) for value in ticks]
    return _CHART.format(
        title=title,
        legend=_legend(curves, colours, logarithmic),
        width=WIDTH,
        height=HEIGHT,
        grid=Markup("").join(grid),
        lines=Markup("").join(lines),
        steps=_STEPS.format(left=LEFT, right=WIDTH - RIGHT, y=HEIGHT - 6, first=first, last=last),
    )


def _line(name: str, positions: Sequence[tuple[float, float]], colours: Mapping[str, str]) -> Markup:
    if colours:
        dashes = "; stroke-dasharray: 5 2" if _dashed(name, colours) else ""
        colour = Markup('style="stroke: {}{}"').format(colours[name], dashes)
    else:
        colour = Markup('class="blocktrain-line-{}"').format(name)
    title = Markup("<title>{}</title>").format(name)
    if len(positions) == 1:
        x, y = positions[0]
        return Markup('<circle cx="{}" cy="{}" r="2" {}>{}</circle>').format(x, y, colour, title)
    points = " ".join(f"{x},{y}" for x, y in positions)
    return Markup('<polyline points="{}" {}>{}</polyline>').format(points, colour, title)


def _grid_line(y: float, label: str) -> Markup:
    return _GRID_LINE.format(left=LEFT, right=WIDTH - RIGHT, y=y, label_x=LEFT - 5, label_y=y + 3, label=label)


def _legend(curves: Mapping[str, Points], colours: Mapping[str, str], logarithmic: bool) -> Markup:
    items = []
    for name, points in curves.items():
        if colours:
            fill = f"repeating-linear-gradient(90deg, {colours[name]} 0 5px, transparent 5px 7px)"
            fill = fill if _dashed(name, colours) else colours[name]
            mark, last = Markup('<i style="background: {}"></i>').format(fill), ""
        else:
            mark = Markup('<i class="blocktrain-line-{}"></i>').format(name)
            last = f" {_label(points[-1][1], logarithmic)}"
        items.append(Markup("<span>{}{}{}</span>").format(mark, name, last))
    return Markup('<span class="blocktrain-chart-legend">{}</span>').format(Markup("").join(items))


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour a block that colour-blind readers can tell apart: IN blue, OUT orange, lighter outwards; others grey."""
    colours = dict.fromkeys(names, "#7d838c")
    for side, hue, saturation in (("IN", 215, 75), ("OUT", 28, 85)):
        ids = [block for block in BLOCK_IDS if block.startswith(side) and block in colours]
        for depth, name in enumerate(reversed(ids) if side == "IN" else ids):
            colours[name] = f"hsl({hue} {saturation}% {30 + 38 * depth / max(len(ids) - 1, 1):.0f}%)"
    return colours


def _dashed(name: str, colours: Mapping[str, str]) -> bool:
    """Whether the curve is dashed: every second one is, so that neighbours differ by more than a shade."""
    return name in list(colours)[1::2]


def _nonempty(low: float, high: float) -> tuple[float, float]:
    """The range of the values, widened where they are all the same."""
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _label(value: float, logarithmic: bool, digits: int = 3) -> str:
    value = 10**value if logarithmic else value
    return f"{value:.{digits}g}"

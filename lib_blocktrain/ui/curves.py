"""Curves as SVG, drawn here: no script, no font, no library; colours follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from lib_blocktrain.blocks import BLOCK_IDS
from lib_blocktrain.ui.history import Points, thinned

WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 22
TICKS = 4


def chart(title: str, curves: Mapping[str, Points], *, logarithmic: bool = False, by_block: bool = False) -> str:
    """One chart of named curves over the steps; empty without a point. `by_block`: the names are blocks'."""
    curves = {name: thinned(points) for name, points in curves.items() if points}
    if logarithmic:
        curves = {name: [(s, math.log10(v)) for s, v in points if v > 0] for name, points in curves.items()}
        curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    across = min(steps), max(max(steps), min(steps) + 1)
    along = _widened(min(values), max(values))

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - along[0]) / (along[1] - along[0]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    colours = _colours(list(curves)) if by_block else {}
    lines = [_curve(name, [place(*point) for point in points], colours) for name, points in curves.items()]
    ticks = _ticks(along)
    digits = next((n for n in (3, 4, 5) if len({_label(value, logarithmic, n) for value in ticks}) == TICKS), 6)
    grid = [_row(place(across[0], value)[1], _label(value, logarithmic, digits)) for value in ticks]
    ends = f'<text x="{LEFT}" y="{HEIGHT - 6}">{across[0]}</text>'
    ends += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step {across[1]}</text>'
    about = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}"'
    drawn = f"<svg {about}>{''.join(grid)}{''.join(lines)}{ends}</svg>"
    return (
        f'<figure class="blocktrain-chart"><figcaption>{escape(title)}{_legend(curves, colours, logarithmic)}'
        f"</figcaption>{drawn}</figure>"
    )


def _curve(name: str, places: Sequence[tuple[float, float]], colours: Mapping[str, str]) -> str:
    dashes = "; stroke-dasharray: 5 2" if _dashed(name, colours) else ""
    colour = f'style="stroke: {colours[name]}{dashes}"' if colours else f'class="blocktrain-line-{escape(name, True)}"'
    title = f"<title>{escape(name)}</title>"
    if len(places) == 1:
        x, y = places[0]
        return f'<circle cx="{x}" cy="{y}" r="2" {colour}>{title}</circle>'
    points = " ".join(f"{x},{y}" for x, y in places)
    return f'<polyline points="{points}" {colour}>{title}</polyline>'


def _row(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text x="{LEFT - 5}" y="{y + 3}" text-anchor="end">{escape(label)}</text>'


def _legend(curves: Mapping[str, Points], colours: Mapping[str, str], logarithmic: bool) -> str:
    items = []
    for name, points in curves.items():
        if colours:
            fill = f"repeating-linear-gradient(90deg, {colours[name]} 0 5px, transparent 5px 7px)"
            fill = fill if _dashed(name, colours) else colours[name]
            mark, last = f'<i style="background: {fill}"></i>', ""
        else:
            mark = f'<i class="blocktrain-line-{escape(name, quote=True)}"></i>'
            last = f" {_label(points[-1][1], logarithmic)}"
        items.append(f"<span>{mark}{escape(name)}{last}</span>")
    return f'<span class="blocktrain-legend">{"".join(items)}</span>'


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour a block that all eyes tell apart: IN blue, OUT orange, lighter outwards; M00 and BASE are grey."""
    colours = dict.fromkeys(names, "#7d838c")
    for side, hue, saturation in (("IN", 215, 75), ("OUT", 28, 85)):
        ids = [block for block in BLOCK_IDS if block.startswith(side) and block in colours]
        for place, name in enumerate(reversed(ids) if side == "IN" else ids):
            colours[name] = f"hsl({hue} {saturation}% {30 + 38 * place / max(len(ids) - 1, 1):.0f}%)"
    return colours


def _dashed(name: str, colours: Mapping[str, str]) -> bool:
    """Every second one is: neighbours differ by more than a shade."""
    return name in list(colours)[1::2]


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range of an axis: never empty."""
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _ticks(along: tuple[float, float]) -> list[float]:
    return [along[0] + (along[1] - along[0]) * number / (TICKS - 1) for number in range(TICKS)]


def _label(value: float, logarithmic: bool, digits: int = 3) -> str:
    value = 10**value if logarithmic else value
    return f"{value:.{digits}g}"

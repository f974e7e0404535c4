"""Curves: a weight as a function of the sampling progress, which is 0 at the first step and 1 at the last.

1@0-0.4,0.3@0.4-1     pieces: 1 until 0.4, then 0.3; 0 where there is no piece
0.5@0,1@0.5           points, joined by straight lines; the first and the last value hold outside
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.weights.text_spans import Span

_PIECE = re.compile(r"(?P<begin>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*-\s*(?P<end>[0-9.]+(?:[eE][+-]?[0-9]+)?)")


class Piece(NamedTuple):
    """From `begin` to before `end` the value goes in a straight line from `first` to `last`."""

    begin: float
    end: float
    first: float
    last: float


@dataclass(frozen=True)
class Curve:
    """A weight over the steps; positions are the progress, or steps counted from 0 if `in_steps`.

    It is 0 where there is no piece. `text` is how it was written.
    """

    pieces: tuple[Piece, ...]
    text: str
    in_steps: bool = False

    def at(self, step: int, steps: int | None) -> float:
        """Return the value in a step, counted from 1, of so many; None where only the first step is asked for."""
        position = float(step - 1)
        if not self.in_steps:
            position = position / max((steps or step) - 1, 1)
        for begin, end, first, last in reversed(self.pieces):
            if begin <= position < end or (position == end == 1 and not self.in_steps):
                return first if first == last else first + (last - first) * (position - begin) / (end - begin)
        return 0.0


@dataclass(frozen=True)
class Strength(Curve):
    """A factor of all layers of the U-Net over the steps."""

    @property
    def items(self) -> list[str]:
        """The entry of a preset string that says this."""
        return [f"strength={self.text}"]


def read_curve(entries: Sequence[tuple[float, Span]]) -> Curve:
    """Read values with their positions, `[(1.0, "0-0.4"), (0.3, "0.4-1")]`; raises PresetStringError."""
    first = entries[0][1]
    pieces = [_PIECE.fullmatch(position.text) for _, position in entries]
    text = ",".join(f"{number(value)}@{position.text}" for value, position in entries)
    if not any(pieces):
        return _through([(_position(position), value) for value, position in entries], text, first)
    found: list[Piece] = []
    for (value, position), match in zip(entries, pieces, strict=True):
        if match is None:
            raise position.error(f"{position.shown} among ranges: expected all as 0-0.4, or all as 0.4")
        begin, end = (_position(position.cut(*match.span(name))) for name in ("begin", "end"))
        if end <= begin or (found and begin < found[-1].end):
            raise position.error(f"{position.shown}: expected ranges of the progress in order, such as 0-0.4, 0.4-1")
        found.append(Piece(begin, end, value, value))
    return Curve(tuple(found), text)


def read_strength(text: str) -> Strength:
    """Read loractl's strength over the steps, `0.5@0,1@0.5` or `0.5@0;1@10`; raises PresetStringError.

    Where a position is above 1, all are steps, counted from 0. A value without a position is at 1.
    """
    items = Span(text.replace(";", ",").replace("~", "@")).split(",")
    points = []
    for item in items:
        value, position = item.partition("@")
        points.append((position.number() if position.text else 1.0, value.number()))
    points.sort(key=lambda point: point[0])
    if points[0][0] < 0:
        raise items[0].error(f"{text!r}: expected positions from 0 on")
    curve = _through(points, text, items[0])
    written = ",".join(f"{number(value)}@{number(position)}" for position, value in points)
    return Strength(curve.pieces, written, in_steps=points[-1][0] > 1)


def _through(points: Sequence[tuple[float, float]], text: str, where: Span) -> Curve:
    """Return the curve through points, which must be in order; two at one position are a jump."""
    for (before, _), (after, _) in pairwise(points):
        if after < before:
            raise where.error(f"{text}: expected positions in order")
    pieces = [Piece(-math.inf, points[0][0], points[0][1], points[0][1])]
    for (begin, first), (end, last) in pairwise(points):
        if end > begin:
            pieces.append(Piece(begin, end, first, last))
    return Curve((*pieces, Piece(points[-1][0], math.inf, points[-1][1], points[-1][1])), text)


def _position(span: Span) -> float:
    position = span.number()
    if not 0 <= position <= 1:
        raise span.error(f"{span.shown}: expected a progress of the sampling, 0 (first step) to 1 (last step)")
    return position

"""Statistics over draws: mean, spread and noise of each block, and how well the draws agree on the blocks' order.

A draw is one prompt with one seed; its timesteps are not independent of each other and are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % points of Student's t by degrees of freedom: how far a mean of so few draws may be off
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_MANY = 2.0
NEGLIGIBLE = 0.01  # of the strongest block: too little to see, however certain


@dataclass(frozen=True)
class Observation:
    """Where something was measured: `stretch` is its part of the trajectory (0 to 1), `whole` the LoRA's effect."""

    prompt: str = ""
    seed: int = 0
    timestep: int | None = None
    stretch: float = 1.0
    whole: float = 1.0


def by_draw(observations: Sequence[Observation], values: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the rows `values` by prompt and seed, `(draws, columns)`: means over timesteps, weighted by stretch."""
    rows: dict[tuple[str, int], list[tuple[float, np.ndarray]]] = {}
    for at, row in zip(observations, values):
        rows.setdefault((at.prompt, at.seed), []).append((at.stretch, np.asarray(row, dtype=float)))
    return np.stack([sum(s * row for s, row in of) / sum(s for s, _ in of) for of in rows.values()])


@dataclass(frozen=True)
class Figure:
    """One block. `noise` is half the 95 % interval of the mean, None with one draw; `share` of all that is positive."""

    block: str
    mean: float
    spread: float | None
    noise: float | None
    share: float
    rank: int
    within_noise: bool


def figures(blocks: Sequence[str], draws: np.ndarray) -> list[Figure]:
    """Return the figure of each block of `draws` `(draws, blocks)`, in the blocks' order; rank 1 is the strongest."""
    count = len(draws)
    means = draws.mean(axis=0)
    spreads = draws.std(axis=0, ddof=1) if count > 1 else None
    noises = None if spreads is None else student(count) * spreads / math.sqrt(count)
    positive = means.clip(min=0).sum()
    strongest = np.abs(means).max(initial=0.0)
    order = {index: place for place, index in enumerate(np.argsort(-means, kind="stable"), start=1)}
    found = []
    for index, block in enumerate(blocks):
        mean, noise = float(means[index]), None if noises is None else float(noises[index])
        within = abs(mean) <= max(noise or 0.0, NEGLIGIBLE * strongest)
        share = max(0.0, mean) / positive if positive > 0 else 0.0
        spread = None if spreads is None else float(spreads[index])
        found.append(Figure(block, mean, spread, noise, float(share), order[index], bool(within)))
    return found


def rank_stability(draws: np.ndarray) -> float | None:
    """Return the mean of Spearman's correlation over all pairs of draws: 1 if all agree; None with one draw."""
    pairs = [spearman(a, b) for n, a in enumerate(draws) for b in draws[n + 1 :]]
    return float(np.mean(pairs)) if pairs else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks. 0 where one is all equal."""
    first, second = (ranks(values) for values in (a, b))
    first, second = first - first.mean(), second - second.mean()
    size = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else 0.0


def ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value, 1 the smallest."""
    array = np.asarray(values, dtype=float)
    smaller = (array[:, None] > array[None]).sum(axis=1)
    return smaller + ((array[:, None] == array[None]).sum(axis=1) + 1) / 2


def student(count: int) -> float:
    """Return the 97.5 % point of Student's t for the mean of so many draws."""
    return _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _MANY


def rounded(value: float, digits: int) -> float:
    """Round for a text, without a minus before zero (formats can say so from Python 3.11 on)."""
    return round(value, digits) + 0.0

"""Fidelity against leakage, compared at matched fidelity; means with bootstrap intervals. Plain numbers in and out.

A curve is a list of points (fidelity, leakage) in the order of the LoRA's strength, from the model alone on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Curve = Sequence[tuple[float, float]]
DRAWS = 10_000
ENOUGH = 5  # values, before anything is said of them
SEEN = 0.0005  # less than three digits show is no difference, however sure its sign
BETWEEN = 50  # points that a stretch between two strengths is cut into


@dataclass(frozen=True)
class Interval:
    """A mean, its 95 % bootstrap interval (none from one value), and the number of values."""

    mean: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.count == 0:
            return "-"
        span = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.mean:.3f}{span}"

    @property
    def verdict(self) -> str:
        """Whether the values are below 0, above it, or neither can be told; a bootstrap of a few is too narrow."""
        if self.count < ENOUGH:
            return "too few"
        if abs(self.mean) < SEEN:
            return "not told apart"
        return "less" if self.high < 0 else "more" if self.low > 0 else "not told apart"


def interval(values: Sequence[float], draws: int = DRAWS) -> Interval:
    """Return the mean with its percentile bootstrap interval (Efron 1979); the same values give the same interval."""
    if not values:
        return Interval(float("nan"), None, None, 0)
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return Interval(float(array[0]), None, None, 1)
    drawn = np.random.default_rng(0).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(array[drawn].mean(axis=1), (2.5, 97.5))
    return Interval(float(array.mean()), float(low), float(high), len(array))


def reach(curve: Curve) -> float:
    """Return the highest fidelity of a curve."""
    return max(fidelity for fidelity, _ in curve)


def least_leakage(curve: Curve, fidelity: float) -> float:
    """Return the least leakage at which a curve, straight between its points, has at least this fidelity.

    Raises ValueError for a fidelity that it does not reach.
    """
    dense = _dense(curve)
    enough = dense[dense[:, 0] >= fidelity - 1e-12, 1]
    if not len(enough):
        raise ValueError(f"fidelity {fidelity:.3f}: the curve reaches {reach(curve):.3f}")
    return float(enough.min())


def area(curve: Curve, fidelity: float) -> float:
    """Return the mean of the least leakage over all fidelities from the model alone up to this one."""
    start = curve[0][0]
    if fidelity <= start:
        return least_leakage(curve, fidelity)
    least = np.array([least_leakage(curve, level) for level in np.linspace(start, fidelity, BETWEEN + 1)])
    return float((least[:-1] + least[1:]).mean() / 2)


def matched(curve: Curve, other: Curve) -> tuple[float, float, float, float]:
    """Return the highest fidelity that both reach, both least leakages there, and the difference of both areas."""
    level = min(reach(curve), reach(other))
    difference = area(curve, level) - area(other, level)
    return level, least_leakage(curve, level), least_leakage(other, level), difference


def _dense(curve: Curve) -> np.ndarray:
    points = np.asarray(curve, dtype=np.float64)
    places = np.linspace(0, len(points) - 1, (len(points) - 1) * BETWEEN + 1)
    return np.stack([np.interp(places, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], axis=1)

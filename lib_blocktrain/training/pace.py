"""How fast this machine trains, by the runs that it has trained: seconds for a step of another run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.training.runs import Run

LOOKED_AT = 20  # of the newest runs
LEAST_STEPS = 5  # the first ones take longer than others


@dataclass(frozen=True)
class Pace:
    """What a run took: `source` is its name, `gflop` a step's arithmetic, `seconds` a step's time with its samples."""

    source: str
    gflop: float
    seconds: float

    def minutes(self, steps: int, gflop: float) -> float:
        """Return how long so many steps of so much arithmetic take at this pace."""
        return steps * self.seconds * gflop / self.gflop / 60


def pace_of(runs: Iterable[Run], model: str, unet: UNetSize, device: str) -> Pace | None:
    """Return the pace of the newest run that was trained on this model; None where there is none.

    The arithmetic is `estimate`'s: a run of other blocks, batch or size has another one.
    """
    for run, _ in zip(runs, range(LOOKED_AT)):
        try:
            step, seconds = run.latest("step"), run.latest("seconds_a_step")
            known = isinstance(seconds, float) and isinstance(step, int) and step >= LEAST_STEPS
            if not known or run.first("model") != model:
                continue
            gflop = estimate(run.config, unet, None, device).gflop
        except (OSError, ValueError):
            continue  # a run that cannot be read says so where runs are shown
        if gflop > 0 and seconds > 0:
            return Pace(run.folder.name, gflop, seconds)
    return None

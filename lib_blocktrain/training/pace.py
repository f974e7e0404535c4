"""How many minutes a run will take, by the runs before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.training.runs import Run

PACE_RUNS = 20  # how many of the newest runs are looked at
PACE_MIN_STEPS = 5  # the first steps take longer than others


@dataclass(frozen=True)
class Pace:
    """The speed of a run: its name, and the arithmetic and the time of a step, samples included."""

    source: str
    gflop: float
    seconds: float

    def minutes(self, steps: int, gflop: float) -> float:
        """Return how many minutes steps of another run take; `gflop` is the arithmetic of one."""
        return steps * self.seconds * gflop / self.gflop / 60


def pace_of(runs: Iterable[Run], model: str, unet: UNetSize, device: str) -> Pace | None:
    """Return the pace of the newest run that was trained on this model; None where there is none."""
    for run, _ in zip(runs, range(PACE_RUNS)):
        try:
            step, seconds = run.latest("step"), run.latest("seconds_a_step")
            known = isinstance(seconds, float) and isinstance(step, int) and step >= PACE_MIN_STEPS
            if not known or run.first("model") != model:
                continue
            gflop = estimate(run.config, unet, None, device).gflop
        except (OSError, ValueError):
            continue  # its metrics cannot be read, or its weights do not fit this model: it tells no pace
        if gflop > 0 and seconds > 0:
            return Pace(run.folder.name, gflop, seconds)
    return None

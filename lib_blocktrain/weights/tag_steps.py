"""The sampling steps in which a LoRA acts on the U-Net, as its tag or a preset string says.

start=5         from the fifth step on; steps count from 1
stop=5          before the fifth step
step=5-10       both
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

STEP_ITEMS = ("start", "stop", "step")


class TagError(ValueError):
    """A tag that cannot be read; the host leaves its LoRA out of the picture."""


class SamplingStep(int):
    """A sampling step, counted from 1, of `of`; `reported` is the WebUI's own count at this moment, plus 1.

    The WebUI counts a step when its sampler reports it, after the first evaluation of the U-Net in that step: the count
    lags behind by one where a step begins.
    """

    reported: int
    of: int

    def __new__(cls, step: int, reported: int, of: int = 1) -> SamplingStep:
        made = super().__new__(cls, step)
        made.reported, made.of = reported, of
        return made


@dataclass(frozen=True)
class Steps:
    """The sampling steps, counted from 1, in which a LoRA acts on the U-Net: from `first` to the one before `end`.

    With `as_reported` they are counted as LoRA Block Weight counts, by `SamplingStep.reported`.
    """

    first: int = 1
    end: int | None = None
    as_reported: bool = False

    def __contains__(self, step: int) -> bool:
        if self.as_reported and isinstance(step, SamplingStep):
            step = step.reported
        return self.first <= step and (self.end is None or step < self.end)

    def at(self, step: int, steps: int | None) -> float:
        """Return 1 in these steps and 0 in others, as a factor of `LayerWeights`."""
        return float(step in self)

    @property
    def all(self) -> bool:
        return self.first <= 1 and self.end is None

    @property
    def items(self) -> list[str]:
        """The items of a tag that say this; in a tag with `lbw=` for steps as LoRA Block Weight counts."""
        first = [] if self.first <= 1 else [f"start={self.first}"]
        return first if self.end is None else [*first, f"stop={self.end}"]

    @property
    def as_counted(self) -> Steps:
        """The same steps, counted from 1 at the first: one evaluation of the U-Net a step, as most samplers have."""
        if not self.as_reported:
            return self
        return Steps(self.first if self.first <= 1 else self.first + 1, None if self.end is None else self.end + 1)

    def within(self, other: Steps) -> Steps:
        """Return the steps that are in both, neither of which may be `as_reported`."""
        ends = [end for end in (self.end, other.end) if end is not None]
        return Steps(max(self.first, other.first), min(ends, default=None))


ALWAYS = Steps()


def read_steps(given: Mapping[str, str], before: Steps = ALWAYS) -> Steps:
    """Return the steps that the values of `STEP_ITEMS` say, others as `before`; raise TagError."""
    first, end = given.get("start"), given.get("stop")
    if "step" in given:
        first, dash, end = given["step"].partition("-")
        if not dash:
            raise TagError(f"step={given['step']}: expected, for example, step=5-10")
    steps = Steps(_step("start", first) if first else before.first, _step("stop", end) if end else before.end)
    if steps.end is not None and steps.end <= steps.first:
        raise TagError(f"start={steps.first} and stop={steps.end}: expected a stop after the start")
    return replace(steps, as_reported="lbw" in given and not steps.all)


def _step(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text.strip()):
        raise TagError(f"{name}={text}: expected a step, counted from 1")
    return max(1, int(text))

"""Early stopping, of a run and of single blocks, by the loss of the held-out images.

What a block has learnt between two validations is judged by its part of the change of the validation loss: the integral
of the gradient along the straight line between the weights, by the trapezoidal rule, so that the parts of all blocks
add up to the change (integrated gradients: Sundararajan et al. 2017, 1703.01365). That takes one backward pass of the
validation, where leaving out each block would take as many passes as there are blocks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.training.config import RunConfig

Gains = dict[str, float]  # by how much what a block has learnt lowered the loss


@dataclass(frozen=True)
class Validation:
    """The loss of the held-out images; `values` and `gradients` of all parameters, on the CPU, if they were wanted."""

    loss: float
    values: Sequence[Tensor] = ()
    gradients: Sequence[Tensor] = ()

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and all(bool(gradient.isfinite().all()) for gradient in self.gradients)


def gains(before: Validation, now: Validation, blocks: Sequence[str]) -> Gains:
    """Return the gains between two validations; `blocks` has each parameter's block."""
    found = dict.fromkeys(blocks, 0.0)
    for block, old, new, first, last in zip(blocks, before.values, now.values, before.gradients, now.gradients):
        moved, mean = (new - old).double(), (first + last).double() / 2
        found[block] -= float((moved * mean).sum())
    return found


@dataclass
class EarlyStopping:
    """Counts the validations in a row that did not help, for the run and for each block."""

    config: RunConfig
    best: float = math.inf  # the last loss that was lower than those before by enough
    waited: int = 0  # validations since the loss was last lower
    waited_by_block: dict[str, int] = field(default_factory=dict)
    none_left: bool = False  # whether all blocks are frozen
    _before: Validation | None = None

    @property
    def wants_gradients(self) -> bool:
        return self.config.block_patience > 0

    @property
    def reason(self) -> str | None:
        """Why the run is over before its last step, None if it is not."""
        if self.is_past_best:
            return f"the validation loss was not lower in {self.waited} validations in a row"
        return "all blocks are frozen" if self.none_left else None

    @property
    def is_past_best(self) -> bool:
        """Whether the run is over since its best weights are some validations behind it."""
        return bool(self.config.patience) and self.waited >= self.config.patience

    def add(self, found: Validation, blocks: Sequence[str], frozen: Collection[str]) -> tuple[Gains, list[str]]:
        """Count a validation; return the gains by block, and the blocks that are to be frozen now.

        `blocks` has each parameter's block; those in `frozen` are not judged again. A loss or gradient that is not
        finite counts for the run alone.
        """
        least = self.config.min_delta * found.loss
        is_lower = found.loss < self.best and not self.best - found.loss <= least
        self.waited = 0 if is_lower else self.waited + 1
        self.best = found.loss if is_lower else self.best
        if not self.wants_gradients or not found.is_finite:
            return {}, []
        before, self._before = self._before, found
        if before is None:
            return {}, []
        by_block = {block: gain for block, gain in gains(before, found, blocks).items() if block not in frozen}
        for block, gain in by_block.items():
            self.waited_by_block[block] = 0 if gain > least else self.waited_by_block.get(block, 0) + 1
        spent = [block for block in by_block if self.waited_by_block[block] >= self.config.block_patience]
        self.none_left = len(spent) == len(by_block)
        return by_block, spent

    def forget(self) -> None:
        """Judge blocks anew from the next validation on: the weights have changed in another way than by learning."""
        self._before = None

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs; numbers that may not be finite as text."""
        before = self._before
        return {
            "best": str(self.best),
            "waited": self.waited,
            "waited_by_block": self.waited_by_block,
            "none_left": self.none_left,
            "loss": None if before is None else str(before.loss),
            "values": [] if before is None else list(before.values),
            "gradients": [] if before is None else list(before.gradients),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; an earlier version had no state."""
        if not state:
            return
        self.best, self.waited, self.none_left = float(state["best"]), state["waited"], state["none_left"]
        self.waited_by_block = dict(state["waited_by_block"])
        if state["loss"] is not None:
            self._before = Validation(float(state["loss"]), state["values"], state["gradients"])


def take_gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters' gradients, 0 where there is none, and leave them without."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found

"""The length of a run: how many steps some epochs are, and which steps end an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epochs:
    """Epochs of so many `batches`, of which a step takes `accumulate`; a step may have batches of two epochs."""

    batches: int
    accumulate: int = 1

    def steps(self, epochs: int) -> int:
        """Return the number of steps in which every picture was seen in each of the epochs."""
        return -(-epochs * self.batches // self.accumulate)

    def after(self, step: int) -> int:
        """Return how many epochs are over after this many steps."""
        return step * self.accumulate // self.batches

    def due(self, step: int, every: int, every_epochs: int = 0) -> bool:
        """Whether this is every so many steps, or the last of every so many epochs; 0 is never."""
        ends = bool(every_epochs) and self.after(step) // every_epochs > self.after(step - 1) // every_epochs
        return ends or (bool(every) and step % every == 0)

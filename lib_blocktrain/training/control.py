"""What another thread may ask of a run, how a run ends, and the errors that end it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.weights.block_weights import BlockWeights


class TrainingError(RuntimeError):
    """A run that could not go on; the message says why and what to do."""


class Diverged(TrainingError):
    """The loss is not a number any more, or has exploded."""


class OutOfMemory(TrainingError):
    """The accelerator's memory was not enough."""


class StoppedEarly(Exception):
    """The run was stopped before its first step."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "finished" or "stopped", after which step, and the network file, if one was saved."""

    ended: str
    step: int
    result: Path | None


class TrainerControl:
    """Requests to a run from other threads; the trainer carries them out between two steps."""

    def __init__(self) -> None:
        self.save = True
        self._stop = threading.Event()
        self._weights: BlockWeights | None = None
        self._lock = threading.Lock()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self, save: bool = True) -> None:
        """End the run after this step; with `save` False the last saved state stays. It can be resumed either way."""
        self.save = save
        self._stop.set()

    def set_weights(self, weights: BlockWeights) -> None:
        """Change the block weights from the next step on."""
        with self._lock:
            self._weights = weights

    def take_weights(self) -> BlockWeights | None:
        """Return the weights of the last `set_weights` since the previous call, if any."""
        with self._lock:
            taken, self._weights = self._weights, None
        return taken

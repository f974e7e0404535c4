"""The loss of a run and its trend, speed and memory, and the check for divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

SMOOTHING = 0.98  # decay of the smoothed loss per step
WARM_UP = 20  # steps before a loss is compared with the smoothed one
EXPLODED = 100.0  # times the smoothed loss is divergence
MAX_OVERFLOWS = 30  # steps in a row without a finite gradient

WORSE = 1.1  # times the loss without the LoRA is worse than that


def worse_than_none(compared: object) -> str | None:
    """Return what to say of a LoRA with these losses, `{"with": ..., "without": ...}`; None if it is no worse."""
    if not isinstance(compared, Mapping):
        return None
    losses = [compared.get(name) for name in ("with", "without")]
    own, none = (float(loss) if isinstance(loss, int | float | str) else math.nan for loss in losses)
    if not math.isfinite(none) or own <= WORSE * none:
        return None
    return (
        f"the LoRA does worse than none: the loss on its own pictures is {own:.3g} with it, {none:.3g} without:"
        " a learning rate that is too high"
    )


class TrainingMonitor:
    """Numbers that are saved with a run (loss, best validation loss), and those of this session (speed)."""

    def __init__(self) -> None:
        self.loss = self.smoothed = math.nan
        self.best = math.inf
        self.count = 0
        self.overflows = 0  # steps in a row without a finite gradient
        self.gradient: float | None = None
        self.gradients: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Measure the speed from now on."""
        self._started, self._counted = time.monotonic(), 0

    def add(self, loss: float) -> None:
        """Count a step with this loss; one that is not finite leaves the mean as it is."""
        self.loss = loss
        if math.isfinite(loss):
            decay = min(SMOOTHING, self.count / (self.count + 1))
            self.smoothed = loss if self.count == 0 else decay * self.smoothed + (1 - decay) * loss
        self.count += 1
        self._counted += 1

    def add_gradient(self, usable: bool) -> None:
        self.overflows = 0 if usable else self.overflows + 1

    def reason_to_stop(self, loss: float, scaled: bool, gradient: float = 0.0) -> str | None:
        """Return why training cannot go on after this loss and norm of the gradients, None if it can.

        `scaled`: with a loss scale (fp16) steps without a finite loss or gradient are skipped.
        """
        if not math.isfinite(loss) and not scaled:
            return f"the loss is {loss}: a learning rate that is too high, or broken latents"
        if not math.isfinite(gradient) and not scaled:
            return f"the loss is {loss:.3g}, but the gradient is {gradient}: a learning rate that is too high"
        if self.overflows >= MAX_OVERFLOWS:
            return (
                f"{self.overflows} steps in a row without a finite gradient in fp16: expected bf16 or fp32 to hold it"
            )
        if self.count >= WARM_UP and loss > EXPLODED * self.smoothed:
            times = f"the loss is {loss:.3g}, {EXPLODED:g} times what it was ({self.smoothed:.3g})"
            return f"{times}: a learning rate that is too high"
        return None

    def row(self, optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
        """Return the metrics of the last step; `seconds_a_step` is the mean of this session."""
        now = time.monotonic()
        row: dict[str, Any] = {
            "loss": self.loss,
            "smoothed": self.smoothed,
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "seconds_a_step": (now - self._started) / max(1, self._counted),
        }
        if self.gradient is not None:
            row["gradient"] = self.gradient
        if device.type == "cuda":
            row["memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        return row

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs, as text where it may not be finite."""
        return {"loss": str(self.loss), "smoothed": str(self.smoothed), "best": str(self.best), "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.loss, self.smoothed, self.best = (float(state[name]) for name in ("loss", "smoothed", "best"))
        self.count = state["count"]

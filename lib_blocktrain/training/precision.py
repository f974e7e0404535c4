"""Half precision: the dtype to compute in, and the loss scale that keeps small fp16 gradients from becoming 0."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str, model: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: "auto" is the model's own, and so is "fp32" where its weights are narrower."""
    return model if precision in ("auto", "fp32") else DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype, model: torch.dtype) -> AbstractContextManager[object]:
    """Compute in `dtype` where the model's weights have another one."""
    return nullcontext() if dtype in (model, torch.float32) else torch.autocast(device.type, dtype)


@dataclass
class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2017, 1710.03740, section 3.2): halved at a gradient that is not
    finite, doubled after `patience` steps without one. A scale of 1 that never changes, unless in fp16.
    """

    enabled: bool
    scale: float = 2.0**16
    finite_steps: int = 0  # since the scale has changed
    patience: int = 2000

    @property
    def factor(self) -> float:
        return self.scale if self.enabled else 1.0

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide the gradients by the scale, in place, without a wait for the GPU."""
        if self.enabled:
            torch._foreach_mul_([*gradients], 1 / self.scale)

    def adapt(self, finite: bool) -> None:
        """Change the scale after a step whose gradients were, or were not, all finite."""
        if not self.enabled:
            return
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.finite_steps >= self.patience:
            self.scale, self.finite_steps = self.scale * 2, 0

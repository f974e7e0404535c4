"""Half precision: which one, and the scale that keeps small fp16 gradients from becoming 0."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str, model: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: "auto" is the model's own, and so is "fp32" where its weights are narrower."""
    return model if precision in ("auto", "fp32") else DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype, model: torch.dtype) -> AbstractContextManager:
    """Compute in `dtype` where the model's weights are in another."""
    return nullcontext() if dtype in (model, torch.float32) else torch.autocast(device.type, dtype)


@dataclass
class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2017, 1710.03740, section 3.2): halved at a gradient that is not
    finite, doubled after `patience` steps without one. A scale of 1 that never changes, unless in fp16.
    """

    enabled: bool
    scale: float = 2.0**16
    good: int = 0
    patience: int = 2000

    @property
    def factor(self) -> float:
        return self.scale if self.enabled else 1.0

    def unscale(self, gradients: list[Tensor]) -> bool:
        """Divide the gradients by the scale; return whether the step may be made, and adapt."""
        if not self.enabled:
            return True
        torch._foreach_mul_(gradients, 1 / self.scale)
        finite = all(torch.isfinite(gradient).all() for gradient in gradients)
        if not finite:
            self.scale, self.good = self.scale / 2, 0
            return False
        self.good += 1
        if self.good >= self.patience:
            self.scale, self.good = self.scale * 2, 0
        return True

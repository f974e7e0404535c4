"""Half precision: the dtype to compute in, and the loss scale that keeps small fp16 gradients from becoming 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ANSWERS = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}  # oneDNN's, of a CPU
AMPERE = (8, 0)  # the first compute capability with bf16


def dtype_of(precision: str, model: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: "auto" is the model's own, and so is "fp32" where its weights are narrower."""
    return model if precision in ("auto", "fp32") else DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype, model: torch.dtype) -> AbstractContextManager[object]:
    """Compute in `dtype` where the model's weights have another one."""
    return nullcontext() if dtype in (model, torch.float32) else torch.autocast(device.type, dtype)


def emulated(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch emulates this dtype on this device, many times slower than it computes in fp32.

    Known of bf16 and fp16 on CPUs, which oneDNN tells, and of bf16 on NVIDIA GPUs before Ampere.
    """
    if device.type == "cuda":
        old = torch.version.hip is None and torch.cuda.get_device_capability(device) < AMPERE
        return dtype == torch.bfloat16 and old
    if device.type != "cpu" or dtype not in ANSWERS or not torch.backends.mkldnn.is_available():
        return False
    supported = getattr(torch.ops.mkldnn, ANSWERS[dtype], None)  # that of fp16 is younger than torch 2.1
    return supported is not None and not supported()


def precision_notices(precision: str, device: torch.device, model: torch.dtype) -> Iterator[str]:
    """Yield what is to be known of a precision: that it is not the one computed in, that the device emulates it."""
    dtype = dtype_of(precision, model)
    if DTYPES.get(precision, dtype) != dtype:
        yield f"precision {precision}: the model's weights are {dtype}, and so is the computation"
    if emulated(device, dtype):
        where = "CPU" if device.type == "cpu" else "GPU"
        taken = [name for name, other in DTYPES.items() if dtype_of(name, model) == other]
        better = [name for name in taken if not emulated(device, DTYPES[name])]
        yield (
            f"precision {precision}: this {where} has no instructions for {dtype} and emulates it, which can take many"
            f" times as long as fp32{': expected ' + ' or '.join(better) if better else ''}"
        )


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

"""A copy of tensors in this machine's memory, not in an accelerator's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """A copy of `tensors`, which may lie on an accelerator.

    It is one flat piece of page-locked memory: a copy is then one transfer that nothing waits for. Meanwhile a second
    copy is on the accelerator, but only between a backward pass and the next step, when activations take no memory.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._device = tensors[0].device if tensors else torch.device("cpu")
        pin = self._device.type == "cuda"
        self._flat = torch.empty(sum(t.numel() for t in tensors), dtype=torch.float32, pin_memory=pin)
        sizes = [tensor.numel() for tensor in tensors]
        self._parts = [part.view(t.shape) for part, t in zip(self._flat.split(sizes), tensors)] if tensors else []
        self.store(tensors)

    @torch.no_grad()
    def store(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors, of the same number and shapes as before."""
        if not tensors:
            return
        pieces = [tensor.detach().reshape(-1).to(self._device, torch.float32) for tensor in tensors]
        if self._device.type == "cpu":
            torch.cat(pieces, out=self._flat)
        else:
            self._flat.copy_(torch.cat(pieces), non_blocking=True)

    @torch.no_grad()
    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Copy everything back into the tensors."""
        for tensor, part in zip(tensors, self.parts, strict=True):
            tensor.copy_(part)

    @property
    def parts(self) -> list[Tensor]:
        """The copies, by tensor, once the last transfer has ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._parts

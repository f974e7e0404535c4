"""Norm: the difference of a normalisation layer's weight and bias."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import Adapter, NetworkModuleError, present, widened
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class Norm(Adapter):
    """delta w = w_norm, delta b = b_norm, both (channels,), for LayerNorm and GroupNorm (LyCORIS `norms.py`)."""

    w_norm: Tensor | None = None
    b_norm: Tensor | None = None

    algorithm = ALGORITHMS["norm"]
    names: ClassVar = {"w_norm": "w_norm", "b_norm": "b_norm"}
    fits_norms = True

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in present(self.w_norm, self.b_norm)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise NetworkModuleError(f"{self.key}: w_norm and b_norm of shapes {shapes}: expected (channels,)")

    @property
    def size(self) -> tuple[int, int]:
        return present(self.w_norm, self.b_norm)[0].shape[0], 1

    def delta_weight(self, weight: Tensor) -> Tensor:
        return widened(weight, torch.zeros(weight.shape) if self.w_norm is None else self.w_norm)[0]

    def delta_bias(self) -> Tensor | None:
        return self.b_norm

    def scaled(self, factor: float) -> "Norm":
        return replace(
            self,
            w_norm=None if self.w_norm is None else self.w_norm.float() * factor,
            b_norm=None if self.b_norm is None else self.b_norm.float() * factor,
        )

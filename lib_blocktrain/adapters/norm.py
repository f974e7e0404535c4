"""Norm: the difference of a normalisation layer's weight and bias."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lib_blocktrain.adapters.base import NetworkModule, widened
from lib_blocktrain.network_keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class Norm(NetworkModule):
    """delta w = w_norm, delta b = b_norm, both (channels,), for LayerNorm and GroupNorm (LyCORIS `norms.py`)."""

    w_norm: Tensor | None = None
    b_norm: Tensor | None = None

    algorithm = ALGORITHMS["norm"]
    names: ClassVar = {"w_norm": "w_norm", "b_norm": "b_norm"}

    @property
    def size(self) -> tuple[int, int]:
        return (self.b_norm if self.w_norm is None else self.w_norm).shape[0], 1

    def delta_weight(self, weight: Tensor) -> Tensor | None:
        return None if self.w_norm is None else widened(weight, self.w_norm)[0]

    def delta_bias(self) -> Tensor | None:
        return self.b_norm

    def scaled(self, factor: float) -> "Norm":
        return replace(
            self,
            w_norm=None if self.w_norm is None else self.w_norm.float() * factor,
            b_norm=None if self.b_norm is None else self.b_norm.float() * factor,
        )

"""LoRA, LoCon and its CP form: the product of two small matrices."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lib_blocktrain.networks.adapters.base import (
    NetworkModuleError,
    RankedModule,
    along_rank,
    check_core,
    matrix,
    tucker_product,
    widened,
)
from lib_blocktrain.networks.keys import ALGORITHMS
from lib_blocktrain.networks.layers import is_linear, pointwise, run, shaped, weight_shape


@dataclass(frozen=True, eq=False)
class LoRA(RankedModule):
    """delta W = alpha / rank * up @ down.

    Linear layers: `down` (rank, in), `up` (out, rank) (Hu et al. 2021, 2106.09685). Convolutions (LoCon, LyCORIS,
    Yeh et al. 2023, 2309.14859): `down` (rank, in, k, k), `up` (out, rank, 1, 1), or in the CP form `down`
    (rank, in, 1, 1), `mid` (rank, rank, k, k): delta W = alpha / rank * mid x_1 up x_2 down.
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None = None

    algorithm = ALGORITHMS["lora"]
    names: ClassVar = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight", "alpha": "alpha"}

    def __post_init__(self) -> None:
        self.check_product(self.up, self.down)
        if self.mid is not None:
            self.check_product(self.down.transpose(0, 1), self.up.transpose(0, 1))  # both are (.., ..[, 1, 1]) then
            check_core(self, "lora_mid", self.mid, (self.rank, self.rank))

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        kernel = 1 if self.mid is None else math.prod(self.mid.shape[2:])
        return self.up.shape[0], math.prod(self.down.shape[1:]) * kernel

    def check_fits(self, shape: tuple[int, ...]) -> None:
        super().check_fits(shape)
        if self.mid is not None and tuple(self.mid.shape[2:]) != tuple(shape[2:]):
            raise NetworkModuleError(
                f"{self.key}: lora_mid of shape {tuple(self.mid.shape)} for a weight of {tuple(shape)}"
            )

    @property
    def low_rank(self) -> bool:
        return True

    def delta_weight(self, weight: Tensor) -> Tensor:
        up, down = widened(weight, matrix(self.up), matrix(self.down))
        if self.mid is None:
            product = up @ down
        else:
            (mid,) = widened(weight, self.mid)
            product = tucker_product(mid, up.T, down)
        return (self.scale * product).reshape(weight.shape)

    def delta_output(self, x: Tensor, layer: nn.Module, ranks: Tensor | None = None) -> Tensor:
        down, up = self.down.to(x), self.up.to(x)
        # Not multiplied by 1: that is one more operation, and one more gradient, for each layer.
        scale = self.scale
        # Most layers: nothing to look up.
        if self.mid is None and down.ndim == 2 and ranks is None and is_linear(layer):
            hidden = F.linear(x, down)
            return F.linear(hidden if scale == 1 else hidden * scale, shaped(up, up.shape[:2]))
        if self.mid is None:
            hidden = run(layer, x, shaped(down, (self.rank, *weight_shape(layer)[1:])))
        else:
            hidden = run(layer, pointwise(layer, x, down), self.mid.to(x))
        if ranks is not None:
            hidden = hidden * along_rank(hidden, ranks)
        return pointwise(layer, hidden if scale == 1 else hidden * scale, up)

    def scaled(self, factor: float) -> "LoRA":
        """Scale `up`, in fp32: diffusers (0.35) reads one alpha for all attention layers of a file."""
        return replace(self, up=self.up.float() * factor)

"""DoRA: a low rank change of the weight's direction, with its magnitude learned apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import CannotScaleError, NetworkModule, NetworkModuleError, widened
from lib_blocktrain.networks.keys import Algorithm


@dataclass(frozen=True, eq=False)
class DoRA(NetworkModule):
    """delta W = m * V / |V| - W with V = W + the delta weight of `direction` (Liu et al. 2024, 2402.09353).

    The shape of `magnitude` m tells over which dimension |V| is taken: (1, in[, 1, 1]) for each input channel, as the
    WebUI 1.10.1 always does, (out, 1[, 1, 1]) for each output channel (LyCORIS `wd_on_output=True`, PEFT).
    """

    direction: NetworkModule
    magnitude: Tensor

    def __post_init__(self) -> None:
        if self.magnitude.ndim < 2 or self.magnitude.numel() not in self.magnitude.shape[:2]:
            raise NetworkModuleError(
                f"{self.key}: dora_scale of shape {tuple(self.magnitude.shape)}: expected (1, in[, 1, 1]) or"
                " (out, 1[, 1, 1])"
            )

    @property
    def algorithm(self) -> Algorithm:
        return self.direction.algorithm

    @property
    def size(self) -> tuple[int, int | None]:
        return self.direction.size

    @property
    def trainable(self) -> bool:
        return self.magnitude.requires_grad or self.direction.trainable

    def to_tensors(self) -> dict[str, Tensor]:
        return {**self.direction.to_tensors(), "dora_scale": self.magnitude}

    def check_fits(self, shape: tuple[int, ...]) -> None:
        self.direction.check_fits(shape)
        if self.magnitude.numel() != shape[self._dimension]:
            raise NetworkModuleError(
                f"{self.key}: dora_scale of shape {tuple(self.magnitude.shape)} for a weight of {tuple(shape)}"
            )

    def delta_weight(self, weight: Tensor) -> Tensor:
        base, magnitude = widened(weight, weight, self.magnitude)
        merged = base + self.direction.delta_weight(weight)
        others = tuple(d for d in range(weight.ndim) if d != self._dimension)
        norm = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
        return merged * (magnitude.reshape(norm.shape) / norm) - base

    def scaled(self, factor: float) -> NetworkModule:
        raise CannotScaleError(
            f"{self.key}: a DoRA's delta is a difference of normalised weights, and no tensor of it scales that"
        )

    @property
    def _dimension(self) -> int:
        """The dimension of the weight that `magnitude` has a number for: 0 is output, 1 is input."""
        return 0 if self.magnitude.shape[0] > 1 else 1

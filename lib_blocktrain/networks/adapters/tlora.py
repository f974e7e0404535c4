"""T-LoRA: a product with singular values of its own, less the part of the layer's weight that it began from."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import NetworkModuleError, RankedModule, matrix, widened
from lib_blocktrain.networks.adapters.lora import LoRA
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class TLoRA(RankedModule):
    """delta W = alpha / rank * (P diag(lambda) Q - W_r), with W_r the layer's weight W cut to this rank.

    (Soboleva et al. 2025, 2507.05964; LyCORIS 4.1.3 `tlora.py`.) `q` (rank, in), `p` (out, rank), `singular` (1, rank);
    for pointwise convolutions with [, 1, 1]. A file does not hold W_r: like LyCORIS this takes it from the weight that
    the network is applied to, which is right for files that began from the largest singular values, LyCORIS' default.
    What the training left out at high noise is in the file: it acts whole, as in LyCORIS.
    """

    q: Tensor
    p: Tensor
    singular: Tensor

    algorithm = ALGORITHMS["tlora"]
    names: ClassVar = {"q": "q_layer.weight", "p": "p_layer.weight", "singular": "lambda_layer", "alpha": "alpha"}

    def __post_init__(self) -> None:
        self.check_product(self.p, self.q)
        if self.singular.numel() != self.rank:
            raise NetworkModuleError(
                f"{self.key}: lambda_layer of shape {tuple(self.singular.shape)}: expected (1, {self.rank})"
            )

    @property
    def rank(self) -> int:
        return self.q.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.p.shape[0], math.prod(self.q.shape[1:])

    def check_fits(self, shape: tuple[int, ...]) -> None:
        if math.prod(shape[2:]) != 1:
            raise NetworkModuleError(
                f"{self.key}: a tlora module is on a convolution of {tuple(shape)}: LyCORIS writes it for one pixel of"
                " the kernel, and cannot use it itself: expected a linear layer or a 1x1 convolution"
            )
        super().check_fits(shape)

    def delta_weight(self, weight: Tensor) -> Tensor:
        return self.as_lora(weight).delta_weight(weight)

    def as_lora(self, weight: Tensor) -> LoRA:
        """Return the LoRA with the same delta on this weight, of up to twice the rank, on the weight's device."""
        base, p, q, singular = widened(weight, matrix(weight), matrix(self.p), matrix(self.q), self.singular)
        u, s, vh = torch.linalg.svd(base, full_matrices=False)
        up = torch.cat([p * singular.reshape(1, -1), -u[:, : self.rank] * s[: self.rank]], dim=1)
        down = torch.cat([q, vh[: self.rank]])
        tail = [1] * (weight.ndim - 2)
        up, down = (factor.reshape(*factor.shape, *tail) for factor in (up, down))
        return LoRA(self.key, down, up, alpha=self.scale * down.shape[0])

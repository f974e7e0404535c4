"""GLoRA: a low rank change of the weight's own columns, and a low rank weight beside it."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import NetworkModule, NetworkModuleError, RankedModule, matrix, widened
from lib_blocktrain.networks.keys import ALGORITHMS, glora_is_todays


@dataclass(frozen=True, eq=False)
class GLoRA(RankedModule):
    """delta W = alpha / rank * (W @ A + B), A (in, in) and B (out, in * k * k) of low rank.

    (Chavan et al. 2023, 2306.07967, the part that LyCORIS trains, `glora.py`.) There are two layouts. Today's: A =
    a1 @ a2, B = b1 @ b2 with `a1` (in, rank), `a2` (rank, in), `b1` (out, rank), `b2` (rank, in[, k, k]). The first,
    which the WebUI reads: A = a2 @ a1, B = b2 @ b1 with the shapes exchanged accordingly. The shapes of all four tell
    them apart, since a rank may be larger than the number of inputs: `conv_in` has 4. The WebUI ignores alpha here;
    LyCORIS, which trains it, does not.
    """

    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor

    algorithm = ALGORITHMS["glora"]
    names: ClassVar = {**{name: f"{name}.weight" for name in ("a1", "a2", "b1", "b2")}, "alpha": "alpha"}

    def __post_init__(self) -> None:
        for name in ("a1", "a2", "b1", "b2"):
            if getattr(self, name).ndim < 2:
                shape = tuple(getattr(self, name).shape)
                raise NetworkModuleError(f"{self.key}: {name} of shape {shape}: expected two dimensions or more")
        for left, right in self._products():
            self.check_product(left, right)

    def check_fits(self, shape: tuple[int, ...]) -> None:
        super().check_fits(shape)
        (up, down), _ = self._products()
        if (up.shape[0], math.prod(down.shape[1:])) != (shape[1], shape[1]):
            raise NetworkModuleError(
                f"{self.key}: a1 and a2 of shapes {tuple(self.a1.shape)} and {tuple(self.a2.shape)} for a weight of"
                f" {tuple(shape)}: expected {shape[1]} inputs"
            )

    @property
    def size(self) -> tuple[int, int]:
        (_, _), (b_up, b_down) = self._products()
        return b_up.shape[0], math.prod(b_down.shape[1:])

    def delta_weight(self, weight: Tensor) -> Tensor:
        (a_up, a_down), (b_up, b_down) = self._products()
        base, a_up, a_down, b_up, b_down = widened(weight, weight, *map(matrix, (a_up, a_down, b_up, b_down)))
        # The two small products first: W @ a_up is (out, rank[, k, k]).
        inner = torch.einsum("o r ..., r j -> o j ...", torch.einsum("o i ..., i r -> o r ...", base, a_up), a_down)
        return self.scale * (inner + (b_up @ b_down).reshape(weight.shape))

    def scaled(self, factor: float) -> NetworkModule:
        """Scale one factor of each product, since the WebUI does not look at alpha."""
        return replace(self, a1=self.a1.float() * factor, b1=self.b1.float() * factor)

    def _products(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return (up, down) of A and of B."""
        if glora_is_todays({name: tensor.shape for name, tensor in self.to_tensors().items()}):
            return (self.a1, self.a2), (self.b1, self.b2)
        return (self.a2, self.a1), (self.b2, self.b1)

"""LoHa: the element by element product of two low rank matrices."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lib_blocktrain.networks.adapters.base import (
    NetworkModuleError,
    RankedModule,
    check_core,
    matrix,
    tucker_product,
    widened,
)
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class LoHa(RankedModule):
    """delta W = alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b), the outer product element by element.

    (FedPara, Hyeon-Woo et al. 2021, 2108.06098; LyCORIS `functional/loha.py`.) `w*_a` (out, rank), `w*_b`
    (rank, in * k * k). Tucker form, for convolutions: `t*` (rank, rank, k, k), `w*_a` (rank, out), `w*_b` (rank, in)
    and t x_1 w_a x_2 w_b in place of each product.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None

    algorithm = ALGORITHMS["loha"]
    names: ClassVar = {
        **{field: f"hada_{field}" for field in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
        "alpha": "alpha",
    }

    def __post_init__(self) -> None:
        if (self.t1 is None) != (self.t2 is None):
            raise NetworkModuleError(f"{self.key}: one of hada_t1 and hada_t2 is missing: expected both or neither")
        sizes = {self._checked(self.w1_a, self.w1_b, self.t1), self._checked(self.w2_a, self.w2_b, self.t2)}
        if len(sizes) > 1:
            raise NetworkModuleError(f"{self.key}: the products of hada_w1 and hada_w2 are of different sizes: {sizes}")

    def _checked(self, a: Tensor, b: Tensor, core: Tensor | None) -> tuple[int, ...]:
        """Return the size of one of the two products, or raise NetworkModuleError."""
        self.check_product(a if core is None else a.transpose(0, -1), b)
        if a.ndim != 2 or (core is not None and b.ndim != 2):
            raise NetworkModuleError(
                f"{self.key}: loha factors of shapes {tuple(a.shape)} and {tuple(b.shape)}: expected matrices"
            )
        if core is None:
            return a.shape[0], math.prod(b.shape[1:])
        check_core(self, "hada_t", core, (a.shape[0], b.shape[0]))
        return a.shape[1], b.shape[1], *core.shape[2:]

    @property
    def size(self) -> tuple[int, int]:
        if self.t1 is None:
            return self.w1_a.shape[0], math.prod(self.w1_b.shape[1:])
        return self.w1_a.shape[1], self.w1_b.shape[1] * math.prod(self.t1.shape[2:])

    def delta_weight(self, weight: Tensor) -> Tensor:
        w1_a, w1_b, w2_a, w2_b = widened(weight, self.w1_a, matrix(self.w1_b), self.w2_a, matrix(self.w2_b))
        if self.t1 is None or self.t2 is None:
            product = (w1_a @ w1_b) * (w2_a @ w2_b)
        else:
            t1, t2 = widened(weight, self.t1, self.t2)
            product = tucker_product(t1, w1_a, w1_b) * tucker_product(t2, w2_a, w2_b)
        return (self.scale * product).reshape(weight.shape)

"""LoKr: the Kronecker product of a small and a larger matrix, either of them whole or a low rank product."""

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import (
    NetworkModule,
    NetworkModuleError,
    RankedModule,
    check_core,
    matrix,
    present,
    tucker_product,
    widened,
)
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class LoKr(RankedModule):
    """delta W = alpha / rank * kron(w1, w2), with w = w_a @ w_b where a factor is decomposed.

    (LyCORIS, Yeh et al. 2023, 2309.14859, section 3.2; KronA, Edalati et al. 2022, 2212.10650.) `w1` (a, c), `w2`
    (b, d[, k, k]), out = a * b, in = c * d. Decomposed: `w_a` (rows, rank), `w_b` (rank, columns[ * k * k]); in the
    Tucker form w2 = t2 x_1 w2_a x_2 w2_b with `t2` (rank, rank, k, k), `w2_a` (rank, b), `w2_b` (rank, d).
    Where both factors are whole there is no rank, and LyCORIS and the WebUI ignore alpha.
    """

    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None

    algorithm = ALGORITHMS["lokr"]
    names: ClassVar = {
        **{field: f"lokr_{field}" for field in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
        "alpha": "alpha",
    }

    def __post_init__(self) -> None:
        if self.w1 is None:
            self.check_product(*self._first)
        if self.w2 is None:
            w2_a, w2_b = self._second
            self.check_product(w2_a if self.t2 is None else w2_a.transpose(0, -1), w2_b)
            if self.t2 is not None:
                check_core(self, "lokr_t2", self.t2, (w2_a.shape[0], w2_b.shape[0]))
        matrices = present(self.w1, self.w1_a, self.w1_b, None if self._core is None else self.w2_b)
        if any(factor.ndim != 2 for factor in matrices) or (self.w2 is not None and self.w2.ndim < 2):
            shapes = [tuple(factor.shape) for factor in (*matrices, *present(self.w2))]
            raise NetworkModuleError(f"{self.key}: lokr factors of shapes {shapes}: expected matrices")
        if self.is_whole and self.t2 is not None:
            raise NetworkModuleError(f"{self.key}: lokr_t2 beside a whole lokr_w2: expected lokr_w2_a and lokr_w2_b")

    @property
    def is_whole(self) -> bool:
        """Whether neither factor is decomposed."""
        return self.w1 is not None and self.w2 is not None

    @property
    def scale(self) -> float:
        return 1.0 if self.is_whole else self.effective_alpha / self.rank

    @property
    def size(self) -> tuple[int, int]:
        rows, columns = self._first[0].shape[0], self._first[-1].shape[1]
        second, core = self._second, self._core
        if core is not None:
            return rows * second[0].shape[1], columns * second[1].shape[1] * math.prod(core.shape[2:])
        return rows * second[0].shape[0], columns * math.prod(second[-1].shape[1:])

    def delta_weight(self, weight: Tensor) -> Tensor:
        w1 = reduce(torch.matmul, widened(weight, *self._first))
        second = widened(weight, *map(matrix, self._second))
        if self._core is None:
            w2 = reduce(torch.matmul, second)
        else:
            (core,) = widened(weight, self._core)
            w2 = matrix(tucker_product(core, *second))
        # (a, c) x (b, d * k * k): the kernel is the fastest index of the columns, as in the weight itself.
        return (self.scale * torch.kron(w1, w2)).reshape(weight.shape)

    def scaled(self, factor: float) -> NetworkModule:
        """Scale by alpha, or, where readers ignore it, by w1 in fp32."""
        if self.w1 is None or self.w2 is None:
            return super().scaled(factor)
        return replace(self, w1=self.w1.float() * factor)

    @property
    def _first(self) -> tuple[Tensor, ...]:
        """w1, or w1_a and w1_b."""
        return present(self.w1) or present(self.w1_a, self.w1_b)

    @property
    def _second(self) -> tuple[Tensor, ...]:
        """w2, or w2_a and w2_b."""
        return present(self.w2) or present(self.w2_a, self.w2_b)

    @property
    def _core(self) -> Tensor | None:
        """The core of w2 in the Tucker form."""
        return self.t2 if self.w2 is None else None

"""Full: the difference of two weights as it is."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import Adapter, NetworkModuleError, present, widened
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class Full(Adapter):
    """delta W = diff, delta b = diff_b; either may be missing, and an alpha means nothing (LyCORIS `full.py`)."""

    diff: Tensor | None = None
    diff_b: Tensor | None = None

    algorithm = ALGORITHMS["full"]
    names: ClassVar = {"diff": "diff", "diff_b": "diff_b"}
    fits_norms = True

    def __post_init__(self) -> None:
        rows = {tuple(tensor.shape[:1]) for tensor in present(self.diff, self.diff_b)}
        if rows == {()} or len(rows) > 1 or (self.diff_b is not None and self.diff_b.ndim != 1):
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (self.diff, self.diff_b)]
            raise NetworkModuleError(f"{self.key}: diff and diff_b of shapes {shapes}: expected (out, ...) and (out,)")

    @property
    def size(self) -> tuple[int, int | None]:
        rows = present(self.diff, self.diff_b)[0].shape[0]
        return rows, None if self.diff is None else math.prod(self.diff.shape[1:])

    def delta_weight(self, weight: Tensor) -> Tensor:
        diff = torch.zeros(weight.shape) if self.diff is None else self.diff
        return widened(weight, diff)[0].reshape(weight.shape)

    def delta_bias(self) -> Tensor | None:
        return self.diff_b

    def scaled(self, factor: float) -> "Full":
        return replace(
            self,
            diff=None if self.diff is None else self.diff.float() * factor,
            diff_b=None if self.diff_b is None else self.diff_b.float() * factor,
        )

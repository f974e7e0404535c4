"""Full: the difference of two weights as it is."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lib_blocktrain.adapters.base import NetworkModule, widened
from lib_blocktrain.network_keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class Full(NetworkModule):
    """delta W = diff, delta b = diff_b; either may be missing, and an alpha means nothing (LyCORIS `full.py`)."""

    diff: Tensor | None = None
    diff_b: Tensor | None = None

    algorithm = ALGORITHMS["full"]
    names: ClassVar = {"diff": "diff", "diff_b": "diff_b"}

    @property
    def size(self) -> tuple[int, int | None]:
        if self.diff is None:
            return self.diff_b.shape[0], None
        return self.diff.shape[0], self.diff[0].numel()

    def delta_weight(self, weight: Tensor) -> Tensor | None:
        return None if self.diff is None else widened(weight, self.diff)[0].reshape(weight.shape)

    def delta_bias(self) -> Tensor | None:
        return self.diff_b

    def scaled(self, factor: float) -> "Full":
        return replace(
            self,
            diff=None if self.diff is None else self.diff.float() * factor,
            diff_b=None if self.diff_b is None else self.diff_b.float() * factor,
        )

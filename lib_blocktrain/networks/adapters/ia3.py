"""IA3: one learned factor per input or output channel."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lib_blocktrain.networks.adapters.base import Adapter, NetworkModuleError, check_matrix, single, widened
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class IA3(Adapter):
    """delta W = W * l, with `weight` l (channels,) along the weight's columns (`on_input`) or rows.

    (Liu et al. 2022, 2205.05638, as a difference: the layer's weight becomes W * (1 + l); LyCORIS `ia3.py`.)
    LyCORIS stores a convolution's as (1, channels, 1, 1) on either side. The WebUI 1.10.1 multiplies a convolution
    along the wrong dimension where `on_input` is 0; this module does not.
    """

    weight: Tensor
    on_input: bool

    algorithm = ALGORITHMS["ia3"]
    names: ClassVar = {"weight": "weight", "on_input": "on_input"}

    @classmethod
    def from_tensors(cls, key: str, tensors: Mapping[str, Tensor]) -> "IA3":
        return cls(key, tensors["weight"], bool(single(key, "on_input", tensors["on_input"])))

    def check_fits(self, shape: tuple[int, ...]) -> None:
        check_matrix(self, shape)
        if self.weight.numel() != shape[self._dimension]:
            raise NetworkModuleError(
                f"{self.key}: the ia3 module has {self.weight.numel()} numbers, but dimension {self._dimension} of the"
                f" layer's weight {tuple(shape)} is another"
            )

    def delta_weight(self, weight: Tensor) -> Tensor:
        base, factors = widened(weight, weight, self.weight)
        along = [1] * weight.ndim
        along[self._dimension] = -1
        return base * factors.reshape(along)

    def scaled(self, factor: float) -> "IA3":
        return replace(self, weight=self.weight.float() * factor)

    @property
    def _dimension(self) -> int:
        """The dimension of the weight that l runs along."""
        return 1 if self.on_input else 0

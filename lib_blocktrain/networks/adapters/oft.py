"""OFT and BOFT: rotations of the output channels, in blocks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters.base import (
    Adapter,
    CannotScaleError,
    NetworkModule,
    NetworkModuleError,
    present,
    widened,
)
from lib_blocktrain.networks.keys import ALGORITHMS


@dataclass(frozen=True, eq=False)
class OFT(Adapter):
    """delta W = rescale * (R^T W) - W, with R a block diagonal rotation of the rows.

    (Qiu et al. 2023, 2306.07280; sd-scripts `oft.py`, LyCORIS `diag_oft.py`.) `blocks` (n, b, b), n * b = out: each
    block's Q = blocks - blocks^T is skew, R = (I + Q)(I - Q)^-1 is Cayley's rotation. `alpha` is no scale here but
    the constraint: |Q| over all blocks is at most alpha * out; missing or 0, it is free. `diag` (n, b, b) of early
    LyCORIS files is R itself. `rescale` (out, 1, ...) multiplies the rows.
    """

    blocks: Tensor | None = None
    diag: Tensor | None = None
    rescale: Tensor | None = None
    alpha: float | None = None

    algorithm = ALGORITHMS["oft"]
    names: ClassVar = {"blocks": "oft_blocks", "diag": "oft_diag", "rescale": "rescale", "alpha": "alpha"}

    def __post_init__(self) -> None:
        if self._matrices.shape[-1] != self._matrices.shape[-2]:
            raise NetworkModuleError(
                f"{self.key}: {self.algorithm.id} blocks of shape {tuple(self._matrices.shape)}: expected square ones"
            )
        if self.rescale is not None and self.rescale.numel() != self.size[0]:
            raise NetworkModuleError(
                f"{self.key}: rescale of shape {tuple(self.rescale.shape)}: expected {self.size[0]} numbers"
            )

    @property
    def size(self) -> tuple[int, None]:
        return self._matrices.shape[-3] * self._matrices.shape[-1], None

    def delta_weight(self, weight: Tensor) -> Tensor:
        base, rotations = widened(weight, weight, self._matrices)
        if self.diag is None:
            rotations = self._cayley(rotations)
        rotated = self._rotate(base, rotations)
        if self.rescale is not None:
            rotated = rotated * widened(weight, self.rescale)[0].reshape(-1, *[1] * (weight.ndim - 1))
        return rotated - base

    def scaled(self, factor: float) -> NetworkModule:
        raise CannotScaleError(
            f"{self.key}: {self.algorithm.id} rotates the layer's weight, and no tensor of it scales the difference"
        )

    @property
    def _matrices(self) -> Tensor:
        return present(self.diag, self.blocks)[0]

    def _cayley(self, blocks: Tensor) -> Tensor:
        """Return (I + Q)(I - Q)^-1 of each block."""
        skew = blocks - blocks.transpose(-1, -2)
        if self.alpha:
            norm = skew.norm() + 1e-8
            skew = skew * (self.alpha * self.size[0] / norm).clamp(max=1)
        identity = torch.eye(skew.shape[-1], device=skew.device, dtype=skew.dtype)
        return torch.linalg.solve(identity - skew, identity + skew, left=False)

    def _rotate(self, weight: Tensor, rotations: Tensor) -> Tensor:
        """Return R^T W, block by block of rows."""
        rows = weight.unflatten(0, rotations.shape[:2])
        return torch.einsum("n b c, n b ... -> n c ...", rotations, rows).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class BOFT(OFT):
    """delta W = rescale * (R_m ... R_1 W) - W, each R_i a block diagonal rotation of rows shuffled as a butterfly.

    (Liu et al. 2023, 2311.06243; LyCORIS `boft.py`.) `blocks` (m, n, b, b): stage i lets rows that lie up to
    2^i * b apart mix.
    """

    algorithm = ALGORITHMS["boft"]

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, count, side = self._matrices.shape[:3]
        # the last stage mixes rows 2^(stages - 1) * side / 2 apart, in pairs
        fits = self.diag is None and side >= 2 and side % 2 == 0 and stages <= 32
        if not fits or (count * side) % (2**stages * side // 2):
            raise NetworkModuleError(
                f"{self.key}: boft blocks of shape {tuple(self._matrices.shape)}: expected an even size, and no more"
                " stages than rows can be halved"
            )

    def _rotate(self, weight: Tensor, rotations: Tensor) -> Tensor:
        half = rotations.shape[-1] // 2
        for stage, rotation in enumerate(rotations):
            span = 2**stage * half
            shuffled = weight.unflatten(0, (-1, 2, span)).transpose(1, 2).flatten(0, 2)
            rows = shuffled.unflatten(0, rotation.shape[:2])
            turned = torch.einsum("n b c, n c ... -> n b ...", rotation, rows).flatten(0, 1)
            weight = turned.unflatten(0, (-1, span, 2)).transpose(1, 2).flatten(0, 2)
        return weight

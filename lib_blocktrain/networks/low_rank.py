"""The delta weight of a module as a product of two factors, by singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import LoRA, NetworkModule
from lib_blocktrain.networks.adapters.base import matrix


@dataclass(frozen=True)
class Factors:
    """`left` (out, r) and `right` (r, columns), whose product is the delta as a matrix; each has sqrt(singular value).

    `values` (r,) are the singular values, the largest first; their squares add up to the delta's squared norm.
    """

    left: Tensor
    right: Tensor
    values: Tensor

    def rank_for(self, share: float) -> int:
        """Return the lowest rank that keeps this share, 0 to 1, of the delta's Frobenius norm; at least 1."""
        squares = self.values.double().square()
        kept = (squares.cumsum(0) / squares.sum().clamp(min=1e-300)).sqrt()
        return 1 + int((kept < share - 1e-12).sum().clamp(max=len(kept) - 1))

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the best factors of this rank (Eckart & Young 1936): (out, rank) and (rank, columns)."""
        return self.left[:, :rank], self.right[:rank]

    def lost(self, rank: int) -> float:
        """Return the Frobenius norm of what `cut` leaves out, over the whole delta's; 0 for a delta of 0."""
        squares = self.values.double().square()
        return float((squares[rank:].sum() / squares.sum().clamp(min=1e-300)).sqrt())


@torch.no_grad()
def factors_of(module: NetworkModule, weight: Tensor) -> Factors:
    """Decompose the module's finished delta on a layer's weight, in fp32 on the weight's device."""
    if isinstance(module, LoRA) and module.mid is None:
        left, right = matrix(module.up).to(weight.device).float(), matrix(module.down).to(weight.device).float()
        (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right.T)
        u, values, v = torch.linalg.svd(module.scale * r_left @ r_right.T, full_matrices=False)
        u, v = q_left @ u, v @ q_right.T
    else:
        u, values, v = torch.linalg.svd(matrix(module.delta_weight(weight)).float(), full_matrices=False)
    roots = values.sqrt()
    return Factors(u * roots, roots[:, None] * v, values)

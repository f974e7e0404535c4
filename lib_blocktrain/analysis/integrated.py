"""Integrated gradients over all block weights at once, the fast method (Sundararajan et al. 2017, 1703.01365).

With e = eps(w) - eps(0) and F(v) = <eps(v) - eps(0), e> / |e|, block b's attribution is

    a_b = w_b * integral from 0 to 1 of dF/dv_b at v = s w, ds

They have a sign, and add up to F(w) = |e|. The integral is taken with Gauss-Legendre nodes. A norm itself could not
be attributed so: it has no gradient at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib_blocktrain.analysis.effects import Pause, without
from lib_blocktrain.analysis.instrumented_model import InstrumentedModel
from lib_blocktrain.analysis.trajectory import TrajectoryPoint
from lib_blocktrain.blocks import BASE
from lib_blocktrain.training.batches import joined

NODES = 3
TIMESTEPS = 2  # two nodes more at each of them cost as much as another timestep


@dataclass(frozen=True, eq=False)
class Attributions:
    """`values` `(seeds, blocks)` in the order of `blocks`, `whole` = |e| `(seeds,)`."""

    blocks: tuple[str, ...]
    values: Tensor
    whole: Tensor

    @property
    def completeness(self) -> Tensor:
        """The attributions' sum over |e|, `(seeds,)`: 1 where the integral is exact."""
        return self.values.sum(dim=1) / self.whole


def integrated_gradients(
    instrumented: InstrumentedModel,
    point: TrajectoryPoint,
    region: Tensor | None = None,
    nodes: int = NODES,
    pause: Pause | None = None,
) -> Attributions:
    """Return the attributions at this point, inside a region `(seeds, 1, h, w)` or everywhere."""
    effect = point.noise - without(instrumented, point)
    whole = norm(effect, region)
    weighted = effect if region is None else effect * region  # <d, e> inside the region needs it once
    direction = weighted / whole.clamp(min=torch.finfo(torch.float32).tiny).view(-1, 1, 1, 1)
    values = torch.zeros(len(whole), len(instrumented.blocks), dtype=torch.float64)
    try:
        for node, share in gauss_legendre(nodes):
            if pause is not None:
                pause()
            values += share * _gradients(instrumented, point, direction, node)
    finally:
        instrumented.set_weights(instrumented.weights)
    return Attributions(instrumented.blocks, values, whole.double().cpu())


def _gradients(instrumented: InstrumentedModel, point: TrajectoryPoint, direction: Tensor, node: float) -> Tensor:
    """Return w_b dF/dv_b at v = node * w, `(seeds, blocks)`: each seed has block weights of its own."""
    seeds, names = len(point.seeds), instrumented.blocks
    weights = torch.tensor([instrumented.weights[block] for block in names], dtype=torch.float32)
    with torch.enable_grad():
        factors = (node * weights).repeat(seeds, 1).requires_grad_()
        conditioning = _conditioning(instrumented, point.prompt, factors, names) if BASE in names else None
        copies = 2 if instrumented.grid.guided else 1
        by_block = {block: factors[:, n].repeat(copies) for n, block in enumerate(names) if block != BASE}
        instrumented.hooks.set_factors(by_block)
        noise = instrumented.predict(point.latents, point.timestep, point.prompt, conditioning=conditioning)
        # scaled, so that half precision does not lose small gradients
        scale = math.sqrt(direction[0].numel())
        (gradients,) = torch.autograd.grad(scale * (noise * direction).sum(), factors)
    instrumented.count_backward(point.latents)
    return (gradients * weights).double() / scale


def _conditioning(
    instrumented: InstrumentedModel, prompt: str, factors: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the conditioning under each seed's own weight of the text encoder, as part of the autograd graph."""
    rows = []
    for text in instrumented.texts_of(prompt):
        for of_seed in factors[:, names.index(BASE)]:
            instrumented.hooks.set_factors({BASE: of_seed})
            rows.append(instrumented.model.encode_prompt(text))
    return joined(rows)


def gauss_legendre(nodes: int) -> list[tuple[float, float]]:
    """Return nodes and weights on 0..1; exact for polynomials of degree 2 nodes - 1."""
    at, shares = np.polynomial.legendre.leggauss(nodes)
    return [((1 + x) / 2, share / 2) for x, share in zip(at.tolist(), shares.tolist())]


def norm(change: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the norm of each seed's change, `(seeds,)`; `region` weighs its squares."""
    squares = change.float().square()
    return (squares if region is None else squares * region).sum(dim=(1, 2, 3)).sqrt()

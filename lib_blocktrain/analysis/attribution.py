"""How much each block matters to the predicted noise: exactly, by gradients, or by its weights alone.

`leave_one_out` and `one_only` are exact: the change of the noise when one block is taken away, or is all there is.

`integrated_gradients` is the fast method (Sundararajan et al. 2017, 1703.01365). With e = eps(w) - eps(0) and
F(v) = <eps(v) - eps(0), e> / |e|, block b's attribution is

    a_b = w_b * integral from 0 to 1 of dF/dv_b at v = s w, ds

Attributions have a sign, and add up to F(w) = |e|. The integral is taken with Gauss-Legendre nodes. A norm itself could
not be attributed so: it has no gradient at 0.

`weight_norms` needs no model. A large delta may change the image little, and a small one much: it shows what the
training changed, not its effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib_blocktrain.analysis.instrumented_model import InstrumentedModel, States
from lib_blocktrain.analysis.regions import WHOLE_IMAGE
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.analysis.trajectory import TrajectoryPoint
from lib_blocktrain.blocks import BASE, REST, architecture
from lib_blocktrain.networks.adapters import BOFT, IA3, OFT, DoRA, GLoRA, LoRA, NetworkModule, TLoRA
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.batches import joined
from lib_blocktrain.training.norms import squared_norm
from lib_blocktrain.weights.block_weights import BlockWeights

Changes = dict[str, Tensor]  # by block: (seeds, 4, h, w)
Pause = Callable[[], None]  # called between blocks; may raise, which ends the analysis


@torch.no_grad()
def leave_one_out(
    instrumented: InstrumentedModel, point: TrajectoryPoint, value: float = 0.0, pause: Pause | None = None
) -> Changes:
    """Return eps(w) - eps(w with w_b = value) for every block b that the network acts in."""
    weights = instrumented.weights
    changed = _one_by_one(instrumented, point, weights, lambda _: value, pause)
    return {block: point.noise - noise for block, noise in changed}


@torch.no_grad()
def one_only(instrumented: InstrumentedModel, point: TrajectoryPoint, pause: Pause | None = None) -> Changes:
    """Return eps(w_b alone) - eps(0) for every block b that the network acts in."""
    plain: list[Tensor] = []
    off, on = BlockWeights.uniform(instrumented.weights.architecture, 0.0), instrumented.weights
    changed = _one_by_one(instrumented, point, off, lambda block: on[block], pause, plain.append)
    return {block: noise - plain[0] for block, noise in changed}


@torch.no_grad()
def without(instrumented: InstrumentedModel, point: TrajectoryPoint) -> Tensor:
    """Return eps(0), what the model predicts without the network."""
    instrumented.set_weights(BlockWeights.uniform(instrumented.weights.architecture, 0.0))
    return instrumented.predict(point.latents, point.timestep, point.prompt)


def _one_by_one(
    instrumented: InstrumentedModel,
    point: TrajectoryPoint,
    weights: BlockWeights,
    value_of: Callable[[str], float],
    pause: Pause | None,
    on_whole_pass: Callable[[Tensor], None] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (block, noise) with one block changed; what comes before it is kept from one whole pass.

    `on_whole_pass` receives the noise of that pass. A block's layers are in no other block, so that nothing in front
    of it depends on the change; BASE and REST act everywhere and take a whole pass of their own.
    """
    at = point.latents, point.timestep, point.prompt
    states: States = {}
    instrumented.set_weights(weights)
    noise = instrumented.predict(*at, keep=states)
    if on_whole_pass is not None:
        on_whole_pass(noise)
    for block in instrumented.blocks:
        if pause is not None:
            pause()
        # REST as it is: weights that are all 0 would switch it off
        instrumented.set_weights(weights.replace({REST: weights.rest, block: value_of(block)}))
        resume = None if block in (BASE, REST) else (block, states.pop(block))
        yield block, instrumented.predict(*at, resume=resume)


NODES = 3
FAST_TIMESTEPS = 2  # two nodes more at each of them cost as much as another timestep


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
    weights = torch.tensor([instrumented.weights[block] for block in instrumented.blocks], device=whole.device)
    try:
        for node, share in gauss_legendre(nodes):
            if pause is not None:
                pause()
            values += share * _gradients(instrumented, point, direction, node * weights).cpu().double() / node
    finally:
        instrumented.set_weights(instrumented.weights)
    return Attributions(instrumented.blocks, values, whole.double().cpu())


def _gradients(instrumented: InstrumentedModel, point: TrajectoryPoint, direction: Tensor, at: Tensor) -> Tensor:
    """Return v_b dF/dv_b at v = `at`, `(seeds, blocks)`, fp32: each seed has block weights of its own.

    They are on the U-Net's device: a copy for each layer would make the CPU wait in each.
    """
    seeds, names = len(point.seeds), instrumented.blocks
    with torch.enable_grad():
        factors = at.repeat(seeds, 1).requires_grad_()
        conditioning = _conditioning(instrumented, point.prompt, factors, names) if BASE in names else None
        copies = 2 if instrumented.grid.guided else 1
        by_block = {block: factors[:, n].repeat(copies) for n, block in enumerate(names) if block != BASE}
        instrumented.hooks.set_factors(by_block)
        noise = instrumented.predict(point.latents, point.timestep, point.prompt, conditioning=conditioning)
        # scaled, so that half precision does not lose small gradients
        scale = math.sqrt(direction[0].numel())
        (gradients,) = torch.autograd.grad(scale * (noise * direction).sum(), factors)
    instrumented.count_backward(point.latents)
    return gradients * at / scale


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


OF_THE_WEIGHT = (IA3, OFT, BOFT, GLoRA, TLoRA)


def weight_norms(network: Network, weights: BlockWeights | None = None) -> Analysis:
    """Return the Frobenius norm of each block's delta weights over that of all, under these block weights.

    Modules whose delta depends on the model's own weights are left out, or count without that part; the notices name
    them. Raises ValueError if nothing is left.
    """
    weights = weights or BlockWeights.uniform(network.architecture, 1.0)
    squares: dict[str, float] = {}
    left_out: set[str] = set()
    for key, module in network.modules.items():
        if isinstance(module, DoRA):
            left_out.add("dora: its magnitude is left out")
            module = module.direction
        if isinstance(module, OF_THE_WEIGHT):
            left_out.add(f"{module.algorithm.id}: its size depends on the model's own weights")
            continue
        block = network.block_of(key)
        squares[block] = squares.get(block, 0.0) + weights[block] ** 2 * squared_delta(module)
    order = (BASE, REST, *architecture(network.architecture).block_ids)
    names = tuple(block for block in order if block in squares)
    whole = math.sqrt(sum(squares.values()))
    if not whole:
        raise ValueError(
            f"{network.name!r} has no delta weights that follow from its file alone: {'; '.join(left_out)}"
        )
    return Analysis(
        method="norms",
        architecture=network.architecture,
        name=network.name,
        model="",
        feature=WHOLE_IMAGE.title,
        blocks=names,
        observations=(Observation(whole=whole),),
        values=(tuple(math.sqrt(squares[block]) / whole for block in names),),
        notices=tuple(sorted(left_out)),
    )


def squared_delta(module: NetworkModule) -> float:
    """Return |delta W|^2, bias parts included; the module's delta must not depend on the layer's weight."""
    if isinstance(module, LoRA):
        square = float(squared_norm(module, module.up))
    else:
        rows, columns = module.size
        delta = module.delta_weight(torch.zeros(rows, columns) if columns else torch.zeros(rows))
        square = 0.0 if delta is None else float(delta.float().square().sum())
    bias = module.delta_bias()
    return square + (0.0 if bias is None else float(bias.float().square().sum()))

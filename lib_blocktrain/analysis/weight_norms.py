"""The size of a network file's delta weights, block by block: from the file alone, without any model.

A large delta may change the image little, and a small one much: it shows what the training changed, not its effect.
"""

from __future__ import annotations

import math

import torch

from lib_blocktrain.analysis.regions import WHOLE_IMAGE
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.blocks import BASE, REST, architecture
from lib_blocktrain.networks.adapters import BOFT, IA3, OFT, DoRA, GLoRA, LoRA, NetworkModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.norms import squared_norm
from lib_blocktrain.weights.block_weights import BlockWeights

# Their deltas depend on the layer's own weight, which is not in the file.
OF_THE_WEIGHT = (IA3, OFT, BOFT, GLoRA)


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

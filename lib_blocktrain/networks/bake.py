"""Bake block weights into a network file, so that every program that reads it applies them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from lib_blocktrain.networks.adapters import CannotScaleError, Full, NetworkModule, TLoRA
from lib_blocktrain.networks.cards import RECORD, with_recommended
from lib_blocktrain.networks.files import Network, write_network
from lib_blocktrain.networks.header import json_object
from lib_blocktrain.networks.layers import weight_of, weight_shape
from lib_blocktrain.networks.placement import Placement, Targets, layers_by_key
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights


def bake(
    network: Network,
    weights: BlockWeights | LayerWeights,
    path: str | Path,
    *,
    base: Targets | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    recommended: BlockWeights | None = None,
    change: Callable[[Network], Network] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the network with these weights baked in, and return the path.

    `change` is applied to the network before it is written, such as `reduce.reduced`. `recommended` are weights that
    the new file recommends; without them, 1 everywhere where weights were baked in. See `baked` for the algorithms that
    need the `base` model, `files.write_network` for the other arguments.
    """
    path = Path(path)
    found = baked(network, weights, path.stem, base=base, progress=progress)
    if change is not None:
        found = change(found)
    if recommended is not None:
        found = replace(found, metadata=_recommending(found.metadata, recommended))
    return write_network(path, found, dtype=dtype, overwrite=overwrite)


def baked(
    network: Network,
    weights: BlockWeights | LayerWeights,
    name: str,
    *,
    base: Targets | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Network:
    """Return a network that acts at weight 1 as this one does under these weights.

    A weight of 0 leaves the module out, 1 leaves it unchanged. Other weights scale exactly one tensor of each product:
    alpha, or, where a known reader ignores alpha, a factor in fp32. The deltas of DoRA and OFT are linear in no tensor;
    with the `base` model they become differences of weights (`diff`), without it CannotScaleError is raised. With it a
    T-LoRA, which WebUIs do not read, becomes a LoRA with the same delta. Raises
    ValueError for weights over the steps, which a file cannot hold.
    """
    placement = Placement(network, weights)
    if not placement.constant:
        raise ValueError(
            f"{weights.to_line()}: a file acts alike in every step, expected weights without @, start= and stop="
        )
    layers = {} if base is None else layers_by_key(base, network.architecture)
    modules = {}
    for number, (key, module) in enumerate(network.modules.items()):
        if progress is not None:
            progress(number, len(network.modules))
        factor = placement.factor(network.block_of(key), key)
        if isinstance(module, TLoRA) and key in layers:
            module.check_fits(weight_shape(layers[key]))
            module = module.as_lora(weight_of(layers[key]).detach())
        if factor:
            modules[key] = module if factor == 1 else _scaled(module, factor, layers)
    if not modules:
        raise ValueError(f"{network.name!r}: no module is left under these weights: {weights.to_line()}")
    return replace(network, name=name, modules=modules, metadata=_metadata(network, weights, name), path=None)


def _scaled(module: NetworkModule, factor: float, layers: Mapping[str, torch.nn.Module]) -> NetworkModule:
    try:
        return module.scaled(factor)
    except CannotScaleError as error:
        layer = layers.get(module.key)
        if layer is None:
            raise CannotScaleError(
                f"{error}. Weights of 0 and 1 can be baked as they are; another one, here {factor:g}, needs the base"
                " model that the network is for"
            ) from error
    weight = weight_of(layer).detach()
    module.check_fits(tuple(weight.shape))
    return Full(module.key, diff=(factor * module.delta_weight(weight)).to(weight.dtype))


def _metadata(network: Network, weights: BlockWeights | LayerWeights, name: str) -> dict[str, str]:
    """Return the network's metadata with a record of the weights, and its own name for the WebUI's alias.

    Weights that the network recommended hold no longer where other weights are baked in.
    """
    record = json_object(network.metadata.get(RECORD, ""))
    before = record.get("baked")
    record["baked"] = [*(before if isinstance(before, list) else []), weights.to_json()]
    metadata = {**network.metadata, "ss_output_name": name, RECORD: json.dumps(record)}
    plain = BlockWeights.uniform(weights.architecture, 1.0)
    if weights == plain:
        return metadata
    line = weights.to_line()
    return with_recommended(metadata, plain, f"baked: {line}", f"Use it without block weights: {line} are inside")


def _recommending(metadata: Mapping[str, str], weights: BlockWeights) -> dict[str, str]:
    """Return metadata that recommend these weights."""
    hint = f"Recommended block weights (BASE, IN00 to OUT{len(weights.values) // 2 - 1:02}): {weights.to_line()}"
    return with_recommended(metadata, weights, "chosen at baking", hint)

"""Merge networks into a model's weights for a while: slower to apply than hooks, but without cost in each step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.layers import weight_of
from lib_blocktrain.networks.overflow import ResultChecks, check_number, compute_dtype, computed_delta
from lib_blocktrain.networks.placement import Placement, PlacementError, Targets, find_sites, placements_of
from lib_blocktrain.networks.transfer import beside_weights
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights


@contextmanager
def merged(
    targets: Targets,
    networks: Network | Sequence[Placement],
    weights: BlockWeights | LayerWeights | None = None,
    multiplier: float = 1.0,
) -> Iterator[None]:
    """Add the networks' deltas to the weights; restore the old values on exit, bit for bit.

    Arguments and effect are those of `hooks.applied`: with several networks each delta is that of the unmerged weight.
    Raises OverflowedError for a change that the weight's dtype cannot hold.
    """
    placements = placements_of(networks, weights, multiplier)
    if not all(placement.constant for placement in placements):
        raise PlacementError("weights over the steps cannot be merged: expected weights of one step")
    sites, _ = find_sites(targets, placements)
    acting = [site for site in sites if placements[site.placement].factor(site.block, site.module.key)]
    modules = beside_weights((site.module, weight_of(site.layer)) for site in acting)
    changes: dict[nn.Module, dict[str, Tensor]] = {}
    keys: dict[nn.Module, str] = {}
    for site in acting:
        factor = placements[site.placement].factor(site.block, site.module.key)
        check_number(f"the strength of {site.block},", factor, compute_dtype(site.layer))
        total = changes.setdefault(site.layer, {})
        keys[site.layer] = site.module.key
        deltas = computed_delta(modules[site.module], weight_of(site.layer).detach())
        for name, delta in zip(("weight", "bias"), deltas, strict=True):
            if delta is not None:
                total[name] = total.get(name, 0) + factor * delta.detach()
    backup: list[tuple[nn.Module, str, Tensor | None]] = []
    checks = ResultChecks()
    try:
        while changes:  # each delta is freed as it is added: all are as large as the backup
            layer, deltas_of = changes.popitem()
            for name, delta in deltas_of.items():
                backup.append((layer, name, _add(layer, name, delta, keys[layer], checks)))
        checks.check()
        yield
    finally:
        for layer, name, value in backup:
            if value is None:
                setattr(layer, name, None)
            else:
                _copy(getattr(layer, name), value)


def _add(layer: nn.Module, name: str, delta: Tensor, key: str, checks: ResultChecks) -> Tensor | None:
    """Add to a parameter and return its old value, None if the layer did not have it."""
    parameter = getattr(layer, name)
    dtype = weight_of(layer).dtype if parameter is None else parameter.dtype
    added = delta if parameter is None else parameter.detach().to(delta.dtype) + delta.to(parameter.device)
    checks.add(f"{key}: the merged {name}", added, dtype)
    if parameter is None:
        setattr(layer, name, nn.Parameter(delta.to(weight_of(layer)), requires_grad=False))
        return None
    before = parameter.detach().clone()
    _copy(parameter, added)
    return before


def _copy(parameter: Tensor, value: Tensor) -> None:
    """Copy into a parameter, Forge's inference tensors among them."""
    with torch.inference_mode(parameter.is_inference()), torch.no_grad():
        parameter.copy_(value)

"""Block weights that change while a run goes on: what was learned stays, what is learned from now on scales anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import NetworkModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.norms import linear_factor
from lib_blocktrain.training.plan import Plan


@dataclass(frozen=True)
class WeightChange:
    """What new weights mean: `rates`, factors of the learning rate by block, and for `scale` factors by key."""

    after: Plan
    rates: Mapping[str, float]
    scales: Mapping[str, float]
    alphas: Mapping[str, float]

    @torch.no_grad()
    def network(self, network: Network) -> Network:
        """Return the network with its new alphas, and the tensors that began at 0 divided by what alpha grew by.

        The tensors are changed in place; the delta weights stay what they are.
        """
        modules: dict[str, NetworkModule] = {}
        for key, module in network.modules.items():
            if self.scales[key] != 1:
                linear_factor(module).div_(self.scales[key])
                module = replace(module, alpha=self.alphas[key])
            modules[key] = module
        return replace(network, modules=modules)

    def divided(self, network: Network) -> dict[int, float]:
        """Return by what `network` divides each tensor, by the tensor's id: copies of it have to follow."""
        changed: dict[int, float] = {}
        for key, module in network.modules.items():
            if self.scales[key] != 1:
                tensor: Tensor = linear_factor(module)
                changed[id(tensor)] = self.scales[key]
        return changed


def weight_change(before: Plan, after: Plan, config: NetworkConfig) -> WeightChange:
    """Return what it takes to go from one scope to the other; raise ConfigError if a run cannot."""
    if config.weight_mode == "rank":
        raise ConfigError("block weights that mean rank cannot change while a run goes on: expected a new run")
    old, new = ({module.key: module for module in plan.modules} for plan in (before, after))
    if old.keys() != new.keys():
        blocks = sorted({(old.get(key) or new[key]).block for key in old.keys() ^ new.keys()})
        raise ConfigError(f"{', '.join(blocks)}: a weight cannot become 0, or leave it, while a run goes on")
    ratios = {key: new[key].weight / old[key].weight for key in old}
    rates = {new[key].block: ratio for key, ratio in ratios.items()} if config.weight_mode == "lr" else {}
    scales = ratios if config.weight_mode == "scale" else dict.fromkeys(ratios, 1.0)
    return WeightChange(after, rates, scales, {key: module.alpha for key, module in new.items()})

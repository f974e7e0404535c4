"""Block weights that change during a run: what was learned keeps its delta, what is learned from now on scales anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lib_blocktrain.networks.adapters import NetworkModule
from lib_blocktrain.networks.adapters.base import RankedModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.norms import linear_factor
from lib_blocktrain.training.plan import Plan


@dataclass(frozen=True)
class WeightChange:
    """What new block weights change in the mode `scale`: scales and alphas by key."""

    scales: Mapping[str, float]
    alphas: Mapping[str, float]

    @torch.no_grad()
    def network(self, network: Network) -> Network:
        """Return the network with its new alphas; one factor of each delta is divided, in place, by what alpha grew by.

        So the delta weights stay what they are.
        """
        modules: dict[str, NetworkModule] = {}
        for key, module in network.modules.items():
            if self.scales[key] != 1:
                linear_factor(module).div_(self.scales[key])
                assert isinstance(module, RankedModule)  # else `linear_factor` has raised
                module = replace(module, alpha=self.alphas[key])
            modules[key] = module
        return replace(network, modules=modules)

    def divided(self, network: Network) -> dict[int, float]:
        """Return what `network` divides each tensor by, by the tensor's id: copies of it have to follow."""
        return {
            id(linear_factor(module)): self.scales[key]
            for key, module in network.modules.items()
            if self.scales[key] != 1
        }


def weight_change(before: Plan, after: Plan, config: NetworkConfig) -> WeightChange:
    """Return what it takes to go from one plan to the other; raise ConfigError if a run cannot."""
    if config.weight_mode == "rank":
        raise ConfigError("block weights that mean rank cannot change while a run goes on: expected a new run")
    old, new = ({module.key: module for module in plan.modules} for plan in (before, after))
    if old.keys() != new.keys():
        blocks = sorted({(old.get(key) or new[key]).block for key in old.keys() ^ new.keys()})
        raise ConfigError(f"{', '.join(blocks)}: a weight cannot change to 0 or from 0 during a run")
    ratios = {key: new[key].weight / old[key].weight for key in old}
    scales = ratios if config.weight_mode == "scale" else dict.fromkeys(ratios, 1.0)
    return WeightChange(scales, {key: module.alpha for key, module in new.items()})

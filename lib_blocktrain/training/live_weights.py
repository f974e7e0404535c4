"""Block weights that change during a run: what was learned keeps its delta, what is learned from now on scales anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lib_blocktrain.networks.adapters import LoKr, NetworkModule
from lib_blocktrain.networks.adapters.base import RankedModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.norms import linear_factor
from lib_blocktrain.training.plan import ModulePlan, Plan


@dataclass(frozen=True)
class WeightChange:
    """What new block weights change: the modules of both plans by key, in the mode `scale`."""

    before: Mapping[str, ModulePlan]
    after: Mapping[str, ModulePlan]
    is_scale: bool

    @torch.no_grad()
    def network(self, network: Network) -> Network:
        """Return the network with its new alphas; one factor of each delta is divided, in place, by what alpha grew by.

        So the delta weights stay what they are.
        """
        modules: dict[str, NetworkModule] = {}
        for key, module in network.modules.items():
            if self._growth(module) != 1:
                linear_factor(module).div_(self._growth(module))
                assert isinstance(module, RankedModule)  # else `linear_factor` has raised
                module = replace(module, alpha=self.after[key].alpha)
            modules[key] = module
        return replace(network, modules=modules)

    def divided(self, network: Network) -> dict[int, float]:
        """Return what `network` divides each tensor by, by the tensor's id: copies of it have to follow."""
        return {
            id(linear_factor(module)): self._growth(module)
            for module in network.modules.values()
            if self._growth(module) != 1
        }

    def _growth(self, module: NetworkModule) -> float:
        """By what the module's scale grows: with alpha, which may be the block's own and stay, or with the weight.

        The weight is a factor of its own where readers ignore alpha: see `init.training_network`.
        """
        old, new = self.before[module.key], self.after[module.key]
        if not self.is_scale:
            return 1.0
        whole = isinstance(module, LoKr) and module.is_whole
        return new.weight / old.weight if whole else new.alpha / old.alpha


def weight_change(before: Plan, after: Plan, config: NetworkConfig) -> WeightChange:
    """Return what it takes to go from one plan to the other; raise ConfigError if a run cannot."""
    if config.weight_mode == "rank":
        raise ConfigError("block weights that mean rank cannot change while a run goes on: expected a new run")
    old, new = ({module.key: module for module in plan.modules} for plan in (before, after))
    if old.keys() != new.keys():
        blocks = sorted({(old.get(key) or new[key]).block for key in old.keys() ^ new.keys()})
        raise ConfigError(f"{', '.join(blocks)}: a weight cannot change to 0 or from 0 during a run")
    return WeightChange(old, new, config.weight_mode == "scale")

"""The network of a run that goes on from a network file (sd-scripts' `--network_weights`), under the run's own plan."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lib_blocktrain.networks.adapters import IA3, OFT, DoRA, GLoRA, LoKr, LoRA, NetworkModule, TLoRA
from lib_blocktrain.networks.adapters.base import RankedModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.layers import weight_of
from lib_blocktrain.networks.low_rank import factors_of
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.norms import linear_factor
from lib_blocktrain.training.plan import ModulePlan, Plan

_OF_WEIGHTS = (DoRA, GLoRA, IA3, OFT, TLoRA)  # their delta is made from the layer's own weight
_NOTICEABLE = 0.001  # the share of the norm from which a loss by a lower rank is said


@torch.no_grad()
def start_from(file: Network, network: Network, plan: Plan, config: NetworkConfig) -> tuple[str, ...]:
    """Give a plan's new `network` the deltas of a file, in place; return notices of what of the file is not in it.

    Whatever rank, alpha and block weight a module has now, its delta weight is the file's, or the nearest that its rank
    allows. Modules that the file lacks begin at 0; what the plan has no module for is left out. Raises ConfigError for
    a file of another architecture, and for a LoHa or LoKr that has to become another size or algorithm.
    """
    if file.architecture != plan.architecture:
        raise ConfigError(
            f"network.start: {file.name} is for {file.architecture}: expected a LoRA for {plan.architecture},"
            " the model's architecture"
        )
    planned, lost = {module.key: module for module in plan.modules}, {}
    for key, theirs in file.modules.items():
        if key in planned:
            theirs.check_fits(tuple(weight_of(planned[key].layer).shape))
            share = _take_over(network.modules[key], theirs, planned[key], config)
            if share > _NOTICEABLE:
                lost[key] = share
    return tuple(_notices(network, plan, file, lost))


def _take_over(ours: NetworkModule, theirs: NetworkModule, planned: ModulePlan, config: NetworkConfig) -> float:
    """Give our tensors the values with which our delta is theirs; return the share of its norm that our rank loses."""
    weight = weight_of(planned.layer).detach()
    if isinstance(theirs, _OF_WEIGHTS) and not any(weight.stride()):
        raise ConfigError(
            f"network.start: {ours.key} is {_form(theirs)} there, which takes the model's own weights: expected fp8 and"
            " offload false, or another file"
        )
    if isinstance(ours, DoRA):
        by_input = isinstance(theirs, DoRA) and theirs.magnitude.shape[0] == 1
        direction = theirs.direction if isinstance(theirs, DoRA) and by_input else theirs
        ours.magnitude.detach().copy_(_magnitudes(theirs, weight).reshape(ours.magnitude.shape))
        return _take_over(ours.direction, direction, planned, config)
    if _shapes(ours) == _shapes(theirs) and isinstance(ours, RankedModule) and isinstance(theirs, type(ours)):
        values = theirs.to_tensors()
        for name, tensor in ours.to_tensors().items():
            if tensor.requires_grad:
                tensor.detach().copy_(values[name])
        linear_factor(ours).detach().mul_(theirs.scale / _scale_in_training(ours, planned, config))
        return 0.0
    if not isinstance(ours, LoRA):
        raise ConfigError(
            f"network.start: {ours.key} is {_form(theirs)} there and {_form(ours)} here: only a LoRA can take over"
            " another form: expected network.algorithm lora, or the same algorithm, rank and factor"
        )
    factors = factors_of(theirs, weight)
    up, down = factors.cut(ours.rank)  # ranks beyond those of the delta keep their random down, and add 0 at first
    ours.up.detach().zero_()[:, : up.shape[1]] = (up / ours.scale).reshape(-1, up.shape[1], *ours.up.shape[2:])
    ours.down.detach()[: down.shape[0]] = down.reshape(-1, *ours.down.shape[1:])
    return factors.lost(ours.rank)


def _shapes(module: NetworkModule) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.to_tensors().items() if tensor.ndim}


def _scale_in_training(module: RankedModule, planned: ModulePlan, config: NetworkConfig) -> float:
    """Where readers ignore alpha the block weight is a factor of its own in training: see `init.training_network`."""
    whole = isinstance(module, LoKr) and module.is_whole
    return planned.weight if whole and config.weight_mode == "scale" else module.scale


def _magnitudes(theirs: NetworkModule, weight: Tensor) -> Tensor:
    """Return the norm of each input channel of the layer's weight with their delta."""
    merged = weight.float() + theirs.delta_weight(weight)
    return torch.linalg.vector_norm(merged, dim=(0, *range(2, weight.ndim)), keepdim=True)


def _form(module: NetworkModule) -> str:
    algorithm = "dora" if isinstance(module, DoRA) else module.algorithm.id
    return f"a {algorithm} of {sorted(tuple(shape) for shape in _shapes(module).values())}"


def _notices(network: Network, plan: Plan, file: Network, lost: dict[str, float]) -> Iterable[str]:
    left_out = sorted({file.block_of(key) for key in file.modules.keys() - network.modules.keys()})
    added = sorted({module.block for module in plan.modules if module.key not in file.modules})
    if left_out:
        yield f"{file.name}: what it has in {', '.join(left_out)} is left out, wholly or in part, by this run's weights"
    if added:
        yield f"{', '.join(added)}: begin from nothing, wholly or in part, since {file.name} has no module there"
    if lost:
        worst = max(lost, key=lambda key: lost[key])
        yield (
            f"{file.name}: of {len(lost)} modules the lower rank keeps a part only; the most is lost of {worst},"
            f" {lost[worst]:.1%} of its norm"
        )

"""Less of the network at high noise: fewer ranks (T-LoRA, Soboleva et al. 2025, 2507.05964) or a lower scale.

With s(t) = ((T - t) / T)^power of the timestep t, of T = 1000, of each sample:

rank   of r ranks the first floor(s(t) (r - m)) + m act, m being `noise_least` r rounded, and at least 1: T-LoRA's mask
scale  the network acts at `noise_least` + (1 - `noise_least`) s(t)

Both are for the U-Net's modules alone. In a picture the scale is a curve over the steps, which `curve_of` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_blocktrain.blocks import BASE, architecture
from lib_blocktrain.networks.hooks import Applied
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.plan import Plan
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_strings import change

_POINTS = 5  # of a curve that is no straight line


class NoiseScaling:
    """Lets a network that is applied act as much as the noise allows; `timesteps` is how many the model has."""

    def __init__(self, config: NetworkConfig, plan: Plan, applied: Applied, timesteps: int = 1000):
        self.config, self.timesteps, self._applied = config, timesteps, applied
        self._blocks = architecture(plan.architecture).block_ids
        self._ranks = {module.key: module.rank for module in plan.modules if module.block != BASE}

    def set(self, timesteps: Tensor) -> None:
        """Let the network act as at these timesteps, `(batch,)`, until this or `unset` is called."""
        if self.config.noise_scaling == "rank":
            counts = {n: ranks_at(timesteps, n, self.config, self.timesteps) for n in {*self._ranks.values()}}
            acting = {n: torch.arange(n, device=timesteps.device) < count[:, None] for n, count in counts.items()}
            self._applied.set_ranks({key: acting[rank] for key, rank in self._ranks.items()})
        elif self.config.noise_scaling == "scale":
            factor = scale_at(timesteps, self.config, self.timesteps).float()
            self._applied.set_factors({BASE: torch.ones_like(factor[0]), **dict.fromkeys(self._blocks, factor)})

    def unset(self) -> None:
        """Let the network act whole."""
        self._applied.set_ranks({})
        self._applied.set_weights(self._applied.placements[0].weights)

    @contextmanager
    def in_pictures(self, unet: nn.Module) -> Iterator[None]:
        """Let a U-Net draw as with the file: whole, or with the scale of each call's timestep (see `curve_of`)."""
        self.unset()
        follows = self.config.noise_scaling == "scale"
        hook = unet.register_forward_pre_hook(self._before_call, with_kwargs=True) if follows else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
            self.unset()

    def _before_call(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found = arguments[1] if len(arguments) > 1 else next(named[n] for n in ("timesteps", "timestep") if n in named)
        timesteps = torch.as_tensor(found).reshape(-1)
        if bool((timesteps == timesteps[0]).all()):
            timesteps = timesteps[:1]  # for as many pictures as there are
        self.set(timesteps)


def ranks_at(timesteps: Tensor, rank: int, config: NetworkConfig, count: int = 1000) -> Tensor:
    """Return how many ranks act at these timesteps of `count`, int64 in their shape."""
    least = max(1, round(config.noise_least * rank))
    return (_share(timesteps, config, count) * (rank - least)).floor().long() + least


def scale_at(timesteps: Tensor, config: NetworkConfig, count: int = 1000) -> Tensor:
    """Return the factor of the network at these timesteps of `count`, fp64 in their shape."""
    return config.noise_least + (1 - config.noise_least) * _share(timesteps, config, count)


def curve_of(config: NetworkConfig, architecture_id: str) -> LayerWeights | BlockWeights:
    """Return the weights over the steps of a picture at which a trained file acts as it was trained.

    1 everywhere, unless its scale followed the noise: then a curve over the sampling progress p, with t = T (1 - p), in
    straight lines where the power is not 1. A sampler whose timesteps are not evenly spaced follows another one.
    """
    whole = BlockWeights.uniform(architecture_id, 1.0)
    if config.noise_scaling != "scale" or config.noise_least == 1:
        return whole
    points = _POINTS if config.noise_power != 1 else 2
    places = [round(place / (points - 1), 2) for place in range(points)]
    values = [config.noise_least + (1 - config.noise_least) * place**config.noise_power for place in places]
    curve = ",".join(f"{number(round(value, 4))}@{number(place)}" for value, place in zip(values, places))
    return change(LayerWeights(whole), f"*={curve}")


def _share(timesteps: Tensor, config: NetworkConfig, count: int) -> Tensor:
    return ((count - timesteps.double()) / count) ** config.noise_power

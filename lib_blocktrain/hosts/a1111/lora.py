"""Block weights on the WebUI's own Lora networks, and those networks taken out for a while.

`NetworkModule.multiplier()` is the one factor that scales every algorithm's finished delta, where it is merged and
where it is computed along the way. The two multipliers of a network, which that returns, become numbers that know the
weights: the WebUI compares them to decide whether a layer must be merged anew, and sets them afresh for every picture,
so that nothing is kept on a cached network and none is read from disk again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from modules import patches
from torch import nn

from lib_blocktrain.blocks import BASE, REST, UnknownLayerError, block_of
from lib_blocktrain.hosts.webui.prompt import Reading, weigh
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.prompt_tags import ALWAYS, Resolved, Steps

_KEY = __name__  # under which the WebUI's `patches` keeps the originals


@dataclass(frozen=True)
class Acting:
    """What makes one multiplier another than its number: weights, steps, and whether it acts in the present one."""

    weights: BlockWeights
    steps: Steps = ALWAYS
    text: bool = False
    now: bool = True


class Weighted(float):
    """A multiplier with block weights: equal only to one that acts alike."""

    acting: Acting

    def __new__(cls, value: float, acting: Acting):
        number = super().__new__(cls, value)
        number.acting = acting
        return number

    def at(self, layer: str) -> float:
        """Return the factor for a layer, by the WebUI's name of it."""
        acting = self.acting
        if not acting.now:
            return 0.0
        return float(self) * acting.weights[BASE if acting.text else _block_of(layer, acting.weights.architecture)]

    def in_step(self, step: int) -> Weighted:
        """Return the multiplier for this sampling step."""
        now = step in self.acting.steps
        if now == self.acting.now:
            return self
        return Weighted(float(self), Acting(self.acting.weights, self.acting.steps, self.acting.text, now))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weighted) and float(self) == float(other) and self.acting == other.acting

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((float(self), self.acting))


@functools.cache
def _block_of(layer: str, architecture: str) -> str:
    try:
        return block_of(layer, architecture)
    except UnknownLayerError:
        return REST


def extension() -> ModuleType | None:
    """Return the WebUI's Lora extension, None if it is disabled."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") and hasattr(networks, "network_apply_weights") else None


def patch(reading: Callable[[], Reading], offer: Callable[[Collection[str]], None]) -> None:
    """Let the WebUI's networks obey block weights.

    `reading` says how tags are read just now; `offer` is told the names in a prompt before the WebUI looks for them.
    """
    if extension() is None:
        return
    network, activation = sys.modules["network"], sys.modules["extra_networks_lora"]
    multiplier = network.NetworkModule.multiplier
    activate = activation.ExtraNetworkLora.activate

    def weighted_multiplier(module: Any) -> float:
        value = multiplier(module)
        return value.at(module.sd_key) if isinstance(value, Weighted) else value

    def weighted_activate(self: Any, p: Any, params_list: list[Any]) -> None:
        offer({str(params.items[0]) for params in params_list})
        found = weigh(p, params_list, reading())
        if found is None:
            activate(self, p, params_list)
            return
        pairs = [(params, resolved) for params, resolved in zip(params_list, found) if resolved is not None]
        activate(self, p, [type(params)(items=list(resolved.tag.plain)) for params, resolved in pairs])
        _weigh_networks([resolved for _, resolved in pairs], reading().architecture)

    patches.patch(_KEY, network.NetworkModule, "multiplier", weighted_multiplier)
    patches.patch(_KEY, activation.ExtraNetworkLora, "activate", weighted_activate)


def unpatch() -> None:
    """Give the WebUI its own functions back."""
    for owner, name in list(patches.originals[_KEY]):
        patches.undo(_KEY, owner, name)


def _weigh_networks(found: Sequence[Resolved], architecture: str | None) -> None:
    by_name = {resolved.tag.name: resolved for resolved in found}
    for net in extension().loaded_networks:
        resolved = by_name.get(net.mentioned_name)
        if resolved is None or architecture is None:
            continue
        weights, steps = resolved.weights or BlockWeights.uniform(architecture, 1.0), resolved.tag.steps
        if weights == BlockWeights.uniform(architecture, 1.0) and steps.all:
            continue  # the very numbers of a plain tag
        net.te_multiplier = Weighted(net.te_multiplier, Acting(weights, text=True))
        net.unet_multiplier = Weighted(net.unet_multiplier, Acting(weights, steps, now=1 in steps))


def enter_step(step: int) -> None:
    """Switch networks on and off that do not act in every step; steps count from 1."""
    networks = extension()
    for net in networks.loaded_networks if networks else ():
        multiplier = net.unet_multiplier
        if isinstance(multiplier, Weighted) and not multiplier.acting.steps.all:
            net.unet_multiplier = multiplier.in_step(step)


@contextmanager
def kept(sd_model: Any, taken_out: bool = False) -> Iterator[None]:
    """Leave the WebUI's networks, and what is merged of them, as they were; meanwhile they are out if `taken_out`."""
    networks = extension()
    if networks is None:
        yield
        return
    loaded = [(net, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in networks.loaded_networks]
    before = {id(layer): getattr(layer, "network_current_names", ()) for layer in _layers(sd_model)}
    try:
        if taken_out:
            networks.loaded_networks.clear()
            _merge(networks, _layers(sd_model))
        yield
    finally:
        changed = [
            layer
            for layer in _layers(sd_model)
            if getattr(layer, "network_current_names", ()) != before.get(id(layer), ())
        ]
        networks.loaded_networks.clear()
        _merge(networks, [layer for layer in changed if before.get(id(layer), ()) == ()])
        for net, te, unet, dim in loaded:
            net.te_multiplier, net.unet_multiplier, net.dyn_dim = te, unet, dim
            networks.loaded_networks.append(net)
        _merge(networks, [layer for layer in changed if before.get(id(layer), ()) != ()])


def _layers(sd_model: Any) -> list[nn.Module]:
    return [
        layer
        for layer in getattr(sd_model, "network_layer_mapping", {}).values()
        if getattr(layer, "weight", None) is not None or isinstance(layer, nn.MultiheadAttention)
    ]


@torch.no_grad()
def _merge(networks: ModuleType, layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        if getattr(layer, "network_current_names", ()) or networks.loaded_networks:
            networks.network_apply_weights(layer)

"""Block weights on the WebUI's own Lora networks, and a context that unloads and restores those networks.

`NetworkModule.multiplier()` scales the finished delta of every algorithm, merged or not. It returns one of the
network's two multipliers, and these become floats that carry block weights. The WebUI compares multipliers to decide
whether a layer must be merged again, and sets new ones for every image: cached networks need no cleaning up, and no
file is read again. Other extensions set multipliers, too, as plain numbers, before and during sampling (LoRA Block
Weight, Regional Prompter's latent mode): `KeptMultiplier` keeps the block weights until the WebUI loads networks again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import patches
from torch import nn

from lib_blocktrain.blocks import BASE, REST, UnknownLayerError, block_of
from lib_blocktrain.hosts.webui import activation
from lib_blocktrain.hosts.webui.prompt import TagContext
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.prompt_tags import Resolved
from lib_blocktrain.weights.tag_steps import SamplingStep

_KEY = __name__  # our name in the WebUI's registry of patches
_MULTIPLIERS = ("te_multiplier", "unet_multiplier")  # of the WebUI's `Network`


@dataclass(frozen=True)
class Schedule:
    """Weights in all steps, and `now` those of the present step."""

    weights: LayerWeights
    now: LayerWeights
    text_encoder: bool = False


class WeightedMultiplier(float):
    """A multiplier with block weights; equal only to multipliers with the same schedule."""

    schedule: Schedule

    def __new__(cls, value: float, schedule: Schedule) -> WeightedMultiplier:
        multiplier = super().__new__(cls, value)
        multiplier.schedule = schedule
        return multiplier

    def for_layer(self, layer: str) -> float:
        """Return the factor for a layer, given by the WebUI's name."""
        weights = self.schedule.now
        block = BASE if self.schedule.text_encoder else _block_of(layer, weights.architecture)
        return float(self) * weights.weight(block, layer)

    def in_step(self, step: SamplingStep) -> WeightedMultiplier:
        """Return the multiplier for a sampling step."""
        now = self.schedule.weights.at(step, step.of)
        return self if now == self.schedule.now else WeightedMultiplier(float(self), replace(self.schedule, now=now))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightedMultiplier) and float(self) == float(other) and self.schedule == other.schedule

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((float(self), self.schedule))


class KeptMultiplier:
    """An attribute of the WebUI's `Network`: a multiplier that keeps its block weights when it is set to a number.

    The value stays in the network's own `__dict__`, where it is when this class is not in use.
    """

    def __init__(self, name: str):
        self.name = name

    def __get__(self, net: Any, owner: type | None = None) -> Any:
        return self if net is None else vars(net)[self.name]

    def __set__(self, net: Any, value: float) -> None:
        before = vars(net).get(self.name)
        if isinstance(before, WeightedMultiplier):
            value = WeightedMultiplier(float(value), before.schedule)
        elif isinstance(value, WeightedMultiplier):  # kept by another extension from an earlier prompt
            value = float(value)
        vars(net)[self.name] = value


@functools.cache
def _block_of(layer: str, architecture: str) -> str:
    try:
        return block_of(layer, architecture)
    except UnknownLayerError:
        return REST


def extension() -> Any:
    """Return the `networks` module of the WebUI's Lora extension, None if that is disabled."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") and hasattr(networks, "network_apply_weights") else None


def patch(tag_context: Callable[[], TagContext], before_lookup: Callable[[Collection[str]], None]) -> None:
    """Apply the block weights of prompt tags to the WebUI's networks from now on.

    `before_lookup` is called with the LoRA names of a prompt before the WebUI looks for their files.
    """
    if extension() is None:
        return
    network, networks = sys.modules["network"], extension()
    multiplier = network.NetworkModule.multiplier
    load = networks.load_networks

    def weighted_multiplier(module: Any) -> float:
        value = multiplier(module)
        return value.for_layer(module.sd_key) if isinstance(value, WeightedMultiplier) else value

    @functools.wraps(load)
    def forgetting_load(*arguments: Any, **more: Any) -> Any:
        for net in (*networks.loaded_networks, *networks.networks_in_memory.values()):
            _set(net, *map(float, _multipliers(net)))
        return load(*arguments, **more)

    for name in _MULTIPLIERS:
        setattr(network.Network, name, KeptMultiplier(name))
    patches.patch(_KEY, networks, "load_networks", forgetting_load)
    patches.patch(_KEY, network.NetworkModule, "multiplier", weighted_multiplier)
    activation.patch(_KEY, tag_context, before_lookup, _set_multipliers)


def unpatch() -> None:
    activation.unpatch(_KEY)
    network: Any = sys.modules.get("network")
    for name in _MULTIPLIERS:
        if isinstance(vars(getattr(network, "Network", object)).get(name), KeptMultiplier):
            delattr(network.Network, name)


def _multipliers(net: Any) -> tuple[float, float]:
    return net.te_multiplier, net.unet_multiplier


def _set(net: Any, te: float, unet: float) -> None:
    """Set the multipliers of a network with or without block weights, whatever it had."""
    vars(net).update(te_multiplier=te, unet_multiplier=unet)


def _set_multipliers(found: Sequence[Resolved], architecture: str) -> None:
    by_name = {resolved.tag.name: resolved for resolved in found}
    for net in extension().loaded_networks:
        resolved = by_name.get(net.mentioned_name)
        if resolved is None:
            continue
        weights = resolved.layers(architecture)
        if weights.whole:
            continue  # the multipliers are those of a plain tag
        first = weights.at(1)
        te, unet = _multipliers(net)
        _set(
            net,
            WeightedMultiplier(te, Schedule(first, first, text_encoder=True)),
            WeightedMultiplier(unet, Schedule(weights, first)),
        )


def enter_step(step: SamplingStep) -> None:
    """Give the networks the weights of a step that do not act alike in every one."""
    networks = extension()
    for net in networks.loaded_networks if networks else ():
        multiplier = net.unet_multiplier
        if isinstance(multiplier, WeightedMultiplier) and not multiplier.schedule.weights.constant:
            _set(net, net.te_multiplier, multiplier.in_step(step))


@contextmanager
def preserve_networks(sd_model: Any, unload: bool = False) -> Iterator[None]:
    """Restore the WebUI's networks, and which of them are merged, on exit; with `unload`, start without them."""
    networks = extension()
    if networks is None:
        yield
        return
    loaded = [(net, _multipliers(net), net.dyn_dim) for net in networks.loaded_networks]
    before = {id(layer): getattr(layer, "network_current_names", ()) for layer in _layers(sd_model)}
    try:
        if unload:
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
        for net, multipliers, dim in loaded:
            _set(net, *multipliers)
            net.dyn_dim = dim
            networks.loaded_networks.append(net)
        _merge(networks, [layer for layer in changed if before.get(id(layer), ()) != ()])


def _layers(sd_model: Any) -> list[nn.Module]:
    return [
        layer
        for layer in getattr(sd_model, "network_layer_mapping", {}).values()
        if getattr(layer, "weight", None) is not None or isinstance(layer, nn.MultiheadAttention)
    ]


@torch.no_grad()
def _merge(networks: Any, layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        if getattr(layer, "network_current_names", ()) or networks.loaded_networks:
            networks.network_apply_weights(layer)

"""Weights with the deltas in them, in the place of a layer's own, while block weights rest.

A hook costs its products in every call of the U-Net, merged weights cost nothing but the merge. So the deltas are
folded at a second call under the same block weights: a layer gets a new parameter, and its own is kept beside it,
untouched, until block weights change or the context ends. It is put back as the very object that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.adapters import NetworkModule
from lib_blocktrain.networks.transfer import beside_weights

MOST_BYTES = 2**29  # of all new parameters together
CALLS = 8  # of the U-Net, in which a fold must save what it costs
# What the start of an operation costs, in multiplications that the device makes meanwhile, roughly.
_OVERHEAD = {"cpu": 1e6}
_OVERHEAD_ELSEWHERE = 1e8


class Foldable(Protocol):
    """What acts on one layer; while `folded` is True, its hook does nothing."""

    layer: nn.Module
    folded: bool
    counting: bool  # whether `positions` is to be known
    positions: int  # of the layer's output in the last call: samples times tokens or pixels

    def acting(self) -> list[tuple[float, NetworkModule]] | None:
        """Return the factors and modules that act; None where they cannot be folded."""


class Folding:
    """Folds at the U-Net's second call without a change, and unfolds at a change; a context that unfolds at its end."""

    def __init__(self, unet: nn.Module, all_effects: Iterable[Foldable]):
        inside = set(unet.modules())
        self._unet = unet
        self._effects = [effects for effects in all_effects if effects.layer in inside]
        for effects in self._effects:
            effects.counting = True
        self._kept: list[tuple[nn.Module, str, nn.Parameter | None]] = []
        self._rested = self._done = False

    def __enter__(self) -> Folding:
        self._remove: Callable[[], None] = self._unet.register_forward_pre_hook(self._before_call).remove
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        self.unfold()

    def unfold(self) -> None:
        """Put every layer's own parameters back."""
        for effects in self._effects:
            effects.folded = False
        while self._kept:
            layer, name, own = self._kept.pop()
            layer._parameters[name] = own
        self._rested = self._done = False

    def _before_call(self, *_: object) -> None:
        if self._rested and not self._done and not torch.is_grad_enabled():
            self._done = True
            self._fold()
        self._rested = True

    @torch.no_grad()
    def _fold(self) -> None:
        left, found = MOST_BYTES, []
        for effects, weight, modules in self._worthwhile():
            size = weight.numel() * weight.element_size()
            if size <= left:
                left -= size
                found.append((effects, weight, modules))
        try:
            with torch.inference_mode(False):
                moved = beside_weights((module, weight) for _, weight, modules in found for _, module in modules)
            for effects, weight, modules in found:
                with torch.inference_mode(False), torch.autocast(weight.device.type, enabled=False):
                    changed = _changed(effects.layer, weight, [(factor, moved[module]) for factor, module in modules])
                for name, value in changed.items():
                    self._kept.append((effects.layer, name, effects.layer._parameters.get(name)))
                    effects.layer._parameters[name] = nn.Parameter(value, requires_grad=False)
                effects.folded = True
        except torch.cuda.OutOfMemoryError:
            return  # hooks need less

    def _worthwhile(self) -> list[tuple[Foldable, Tensor, list[tuple[float, NetworkModule]]]]:
        """Return the layers whose fold pays, those that gain the most by byte first."""
        found = []
        for effects in self._effects:
            modules, weight = effects.acting(), effects.layer._parameters.get("weight")
            if modules and weight is not None and weight.is_floating_point() and weight.element_size() > 1:
                saved, spent = _costs(weight, modules, effects.positions)
                if spent <= CALLS * saved:
                    found.append((saved / weight.numel(), effects, weight, modules))
        return [(effects, weight, modules) for _, effects, weight, modules in sorted(found, key=lambda one: -one[0])]


def _costs(weight: Tensor, modules: list[tuple[float, NetworkModule]], positions: int) -> tuple[float, float]:
    """Return what the hook costs in each call and what the fold costs once, in multiplications, roughly."""
    overhead = _OVERHEAD.get(weight.device.type, _OVERHEAD_ELSEWHERE)
    saved = spent = 0.0
    for _, module in modules:
        numbers = sum(tensor.numel() for tensor in module.to_tensors().values())
        saved += 3 * overhead + positions * (numbers if module.low_rank else weight.numel())
        rank = numbers / (weight.shape[0] + weight.numel() / weight.shape[0])
        spent += 3 * overhead + weight.numel() * (5 + rank)
    return saved, spent


def _changed(layer: nn.Module, weight: Tensor, modules: list[tuple[float, NetworkModule]]) -> Mapping[str, Tensor]:
    """Return a layer's parameters, by name, with the deltas added in fp32."""
    changed: dict[str, Any] = {"weight": None, "bias": None}
    for factor, module in modules:
        for name, delta in (("weight", module.delta_weight(weight)), ("bias", module.delta_bias())):
            if delta is not None:
                delta = delta.detach().to(weight.device) * factor
                changed[name] = delta if changed[name] is None else changed[name].add_(delta)
    result = {}
    for name, delta in changed.items():
        if delta is not None:
            own = layer._parameters.get(name)
            result[name] = (delta if own is None else delta.add_(own)).to(weight.dtype)
    return result

"""Apply networks to a loaded model without changing its weights: by forward hooks on the leaf layers.

    with applied(unet, network, weights) as handle:
        ...
        handle.set_weights(other_weights)  # in effect from the next layer on
        handle.enter_step(2, 20)  # for weights over the steps

A layer computes y = W x + multiplier * w * delta(x), where w is its block's weight, unless the weights have one for its
kind of layer. Where w is 0 the hook does nothing, so that the output is the model's own bit for bit. On exit all hooks
are removed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lib_blocktrain.networks.adapters import NetworkModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.folding import Folding
from lib_blocktrain.networks.keys import UNET
from lib_blocktrain.networks.layers import Projection, attention_hook, run, weight_of
from lib_blocktrain.networks.overflow import (
    OverflowWatch,
    check_module,
    check_number,
    check_result,
    compute_dtype,
    computed_delta,
    last_layer,
)
from lib_blocktrain.networks.placement import Placement, Site, Targets, Unmatched, find_sites, placements_of
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights

log = logging.getLogger(__name__)

__all__ = ["Applied", "Placement", "applied"]


@contextmanager
def applied(
    targets: Targets,
    networks: Network | Sequence[Placement],
    weights: BlockWeights | LayerWeights | None = None,
    multiplier: float = 1.0,
    say: Callable[[str], None] = log.warning,
    *,
    fold: bool = False,
) -> Iterator["Applied"]:
    """Apply networks to a U-Net, or to models by component ("unet", "te" or "te1", "te2"), inside the context.

    Give one network with its weights and multiplier, or any number of placements. With several, each delta is that
    of the layer's own weight, whatever the others do. Gradients reach the layer's input and the tensors of modules that
    require them. `say` gets the notices of each network, and a message if some of its modules have no layer.
    `fold`: from the U-Net's second call under the same weights on, layers may have the deltas in their weights (see
    `folding`): faster, within the rounding of merged weights, and at the cost of memory. Nothing else may exchange the
    model's parameters meanwhile.

    Raises what `find_sites` raises, and OverflowedError for what a layer's dtype cannot hold. Where no module is
    trained, an output of the U-Net that was not finite raises OverflowedError at the end of the context, in the place
    of an error that came of it.
    """
    placements = placements_of(networks, weights, multiplier)
    sites, unmatched = find_sites(targets, placements, say)
    effects = [_Effect(site) for site in sites]
    by_layer: dict[nn.Module, list[_Effect]] = {}
    for effect in effects:
        by_layer.setdefault(effect.layer, []).append(effect)
    on_layers = [_LayerEffects(layer, own) for layer, own in by_layer.items() if not isinstance(layer, Projection)]
    unet = _components(targets).get(UNET)
    with ExitStack() as hooks:
        for on_layer in on_layers:
            hooks.callback(on_layer.layer.register_forward_hook(on_layer).remove)
        for attention, projection_effects in _by_attention(effects).items():
            hook = attention_hook(partial(_deltas, projection_effects))
            hooks.callback(attention.register_forward_hook(hook, with_kwargs=True).remove)
        last = None if any(effect.trainable for effect in effects) else last_layer(_components(targets))
        watch = OverflowWatch(partial(_acts, effects), partial(_strengths, effects))
        if last is not None:
            hooks.callback(last.register_forward_hook(watch).remove)
        folding = hooks.enter_context(Folding(unet, on_layers)) if fold and unet is not None else None
        try:
            yield Applied(placements, effects, tuple(unmatched), folding)
        except Exception as error:
            overflowed = watch.error()
            if overflowed is not None:
                raise overflowed from error
            raise
        overflowed = watch.error()
        if overflowed is not None:
            raise overflowed


class Applied:
    """Networks that are applied. `unmatched` are the modules without a layer in the given models."""

    def __init__(
        self,
        placements: Sequence[Placement],
        effects: "Sequence[_Effect]",
        unmatched: tuple[Unmatched, ...],
        folding: Folding | None = None,
    ):
        self.unmatched = unmatched
        self._effects, self._folding = effects, folding
        self._used: list[Placement] = []  # the placements with the weights of the present step
        self._put(placements)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """The placements in effect. Set it to change weights and multipliers; the networks must stay the same."""
        return self._placements

    @placements.setter
    def placements(self, placements: Sequence[Placement]) -> None:
        if [id(p.network) for p in placements] != [id(p.network) for p in self._placements]:
            raise ValueError(f"expected placements of the same {len(self._placements)} networks, in the same order")
        self._put(placements)

    def enter_step(self, step: int, steps: int) -> None:
        """Use the weights of a step, counted from 1, of so many; weights that are the same in every step stay."""
        if not all(placement.constant for placement in self._placements):
            self._use([placement.at(step, steps) for placement in self._placements])

    def set_weights(
        self, weights: BlockWeights | LayerWeights, multiplier: float | None = None, index: int = 0
    ) -> None:
        """Change the weights and, if given, the multiplier of the placement at this index."""
        changed = list(self._placements)
        old = changed[index]
        changed[index] = Placement(old.network, weights, old.multiplier if multiplier is None else multiplier)
        self._put(changed)

    def set_factors(self, factors: Mapping[str, Tensor], index: int = 0) -> None:
        """Use tensors as block weights, until weights are set again; they may require gradients. Other blocks are off.

        A tensor is a scalar, or `(batch,)`: one weight for each sample of the layers' outputs.
        """
        if self._folding is not None:
            self._folding.unfold()
        self._used = []
        multiplier = self._placements[index].multiplier
        for effect in self._effects:
            if effect.placement == index:
                effect.factor = multiplier * factors.get(effect.block, 0.0)

    def set_ranks(self, ranks: Mapping[str, Tensor], index: int = 0) -> None:
        """Multiply what is between the two factors of modules in training, until this is set again.

        `ranks` has `(batch, rank)` by the modules' keys; those that it does not have act whole.
        """
        for effect in self._effects:
            if effect.placement == index:
                effect.ranks = ranks.get(effect.module.key)

    def _put(self, placements: Sequence[Placement]) -> None:
        self._placements = tuple(placements)
        self._used = []
        self._use([placement.at(1) for placement in placements])

    def _use(self, placements: list[Placement]) -> None:
        """Set every effect's factor to that of these placements, whose weights are those of one step."""
        if placements == self._used:
            return
        if self._folding is not None:
            self._folding.unfold()
        self._used = placements
        for effect in self._effects:
            placement = placements[effect.placement]
            effect.set_factor(placement.network.name, placement.factor(effect.block, effect.module.key))


class _Effect:
    """The change that one module makes to its layer's output, and its factor, multiplier * w_b."""

    def __init__(self, site: Site):
        self.layer = site.layer
        self.block = site.block
        self.placement = site.placement
        self.factor: float | Tensor = 0.0
        self.ranks: Tensor | None = None
        self.trainable = site.module.trainable  # asked once: this is looked at in every layer's every call
        self._largest = 0.0  # magnitude of a factor until now
        self._module = site.module
        self._prepared: Callable[[Tensor], Tensor] = self._trained
        self._prepared_for: tuple[torch.device, torch.dtype] | None = None

    def set_factor(self, network: str, factor: float) -> None:
        """Set the factor; raise OverflowedError for one that the layer's dtype cannot hold."""
        check_number(f"{network}: the strength of {self.block},", factor, compute_dtype(self.layer))
        self.factor = factor
        self._largest = max(self._largest, abs(factor))

    @property
    def module(self) -> NetworkModule:
        return self._module

    @property
    def strength(self) -> tuple[str, float, NetworkModule]:
        """Block, the largest magnitude of its factor until now, and module."""
        factor = self.factor.detach().abs().max().item() if isinstance(self.factor, Tensor) else 0.0
        return self.block, max(self._largest, factor), self._module

    def on(self, x: Tensor, output: Tensor) -> Tensor:
        """Return delta(x) in the dtype of the layer's output."""
        if x.dtype != output.dtype:
            x = x.to(output.dtype)
        if self.trainable or self.ranks is not None:
            return self._trained(x)
        if self._prepared_for != (output.device, output.dtype):
            self._prepared = self._prepare(output.device, output.dtype)
            self._prepared_for = (output.device, output.dtype)
        return self._prepared(x)

    def delta(self) -> Tensor:
        """Return factor * delta weight, in the autograd graph."""
        return self.factor * self._module.delta_weight(weight_of(self.layer).detach())

    def _prepare(self, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Move the factors, or compute the delta, once for many forward passes; return delta(x)."""
        with torch.inference_mode(False), torch.no_grad():
            if self._module.low_rank:
                check_module(self._module, dtype)
                return partial(self._module.to(device, dtype).delta_output, layer=self.layer)
            weight, bias = computed_delta(self._module, weight_of(self.layer))
            for change in (weight, bias):
                if change is not None:
                    check_result(f"{self._module.key}: its change", change, dtype)
            bias = None if bias is None else bias.to(device, dtype)
            return partial(run, self.layer, weight=weight.to(device, dtype), bias=bias)

    def _trained(self, x: Tensor) -> Tensor:
        """Return delta(x) from the current tensors, in the autograd graph."""
        if self._module.low_rank:
            return self._module.delta_output(x, self.layer, self.ranks)
        bias = self._module.delta_bias()
        weight = self._module.delta_weight(weight_of(self.layer).detach())
        return run(self.layer, x, weight.to(x), None if bias is None else bias.to(x))


def _strengths(effects: Sequence[_Effect]) -> list[tuple[str, float, NetworkModule]]:
    """Return block, largest factor and module of the effects that were not off all the time."""
    return [strength for strength in (effect.strength for effect in effects) if strength[1]]


def _acts(effects: Sequence[_Effect]) -> bool:
    return any(isinstance(effect.factor, Tensor) or effect.factor for effect in effects)


def _components(targets: Targets) -> Mapping[str, nn.Module]:
    return {UNET: targets} if isinstance(targets, nn.Module) else targets


def _by_attention(effects: Sequence[_Effect]) -> dict[nn.Module, list[tuple[str, _Effect]]]:
    """Return the effects on projections, whose own hooks would never run, by their attention, with their names."""
    found: dict[nn.Module, list[tuple[str, _Effect]]] = {}
    for effect in effects:
        if isinstance(effect.layer, Projection):
            found.setdefault(effect.layer.attention, []).append((effect.layer.name, effect))
    return found


def _deltas(effects: Sequence[tuple[str, _Effect]]) -> dict[str, Tensor]:
    """Return what to add to the weights of an attention's projections, by name."""
    total: dict[str, Tensor] = {}
    for name, effect in effects:
        if isinstance(effect.factor, Tensor) or effect.factor:
            total[name] = total.get(name, 0) + effect.delta()
    return total


class _LayerEffects:
    """The effects on one layer, and its forward hook; it returns None, for "unchanged", when nothing acts there."""

    def __init__(self, layer: nn.Module, effects: "list[_Effect]"):
        self.layer = layer
        self.folded = self.counting = False
        self.positions = 0
        self._effects = effects

    def acting(self) -> list[tuple[float, NetworkModule]] | None:
        """Return the factors and modules that act; None for trained modules and factors that are tensors."""
        acting = []
        for effect in self._effects:
            if isinstance(effect.factor, Tensor) or effect.trainable:
                return None
            if effect.factor:
                acting.append((effect.factor, effect.module))
        return acting

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.folded:
            return None
        if self.counting:
            self.positions = output.numel() // len(weight_of(layer))
        changed = output
        for effect in self._effects:
            if isinstance(effect.factor, Tensor):
                factor = effect.factor.to(output).reshape(-1, *(1 for _ in output.shape[1:]))
                changed = changed + factor * effect.on(inputs[0], output)
            elif effect.factor:
                changed = torch.add(changed, effect.on(inputs[0], output), alpha=effect.factor)
        return None if changed is output else changed

"""Placement: the layers of the loaded models that a network's modules are for, and their strength there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from lib_blocktrain.blocks import ARCHITECTURES, UnknownLayerError
from lib_blocktrain.networks.adapters import NetworkModule, NetworkModuleError
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.keys import UNET, component_in, component_of, key_of
from lib_blocktrain.networks.layers import PROJECTIONS, Projection, is_attention, is_target, weight_shape
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights

log = logging.getLogger(__name__)

Targets = nn.Module | Mapping[str, nn.Module]  # a U-Net, or models by component: "unet", "te" or "te1", "te2"

_NO_LAYER = "the model has no such layer"


class PlacementError(ValueError):
    """A network for another model, or weights for another architecture."""


@dataclass(frozen=True)
class Placement:
    """A network with the user's multiplier and its weights: by block, or also by kind of layer and over the steps."""

    network: Network
    weights: BlockWeights | LayerWeights
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        ours, theirs = (ARCHITECTURES[a].block_ids for a in (self.network.architecture, self.weights.architecture))
        if ours != theirs:
            raise PlacementError(
                f"block weights for {self.weights.architecture} on {self.network.name!r}, a network for"
                f" {self.network.architecture}: expected {len(ours)} blocks, got {len(theirs)}"
            )

    @property
    def constant(self) -> bool:
        """Whether every step has the same weights."""
        return isinstance(self.weights, BlockWeights) or self.weights.constant

    def at(self, step: int, steps: int | None = None) -> "Placement":
        """Return the placement in a step, counted from 1, of so many; None where only the first step is asked for."""
        return self if isinstance(self.weights, BlockWeights) else replace(self, weights=self.weights.at(step, steps))

    def factor(self, block: str, key: str) -> float:
        """multiplier * w, where w is the weight of the block or, by the module's key, of the kind of layer."""
        weights = self.weights
        return self.multiplier * (weights[block] if isinstance(weights, BlockWeights) else weights.weight(block, key))


@dataclass(frozen=True)
class Site:
    """A module and its layer; `placement` is the index of its network."""

    layer: nn.Module
    module: NetworkModule
    block: str
    placement: int


@dataclass(frozen=True)
class Unmatched:
    """A module without a layer in the given models, and the reason."""

    network: str
    key: str
    reason: str


def placements_of(
    networks: Network | Sequence[Placement],
    weights: BlockWeights | LayerWeights | None = None,
    multiplier: float = 1.0,
) -> tuple[Placement, ...]:
    """Return placements unchanged, or the placement of one network; without weights, at weight 1 everywhere."""
    if not isinstance(networks, Network):
        return tuple(networks)
    return (Placement(networks, weights or BlockWeights.uniform(networks.architecture, 1.0), multiplier),)


def find_sites(
    targets: Targets, placements: Sequence[Placement], say: Callable[[str], None] = log.warning
) -> tuple[list[Site], list[Unmatched]]:
    """Find the layers of all modules; `say` gets the notices of each network, and a message if some of its
    modules have no layer.

    Modules of a component that is not among the targets are skipped. Raises PlacementError for a network without any
    layer, NetworkModuleError for a module whose layer has another size.
    """
    sites: list[Site] = []
    unmatched: list[Unmatched] = []
    layers = {name: layers_by_key(targets, name) for name in {p.network.architecture for p in placements}}
    for index, placement in enumerate(placements):
        network = placement.network
        for notice in network.notices:
            say(f"{network.name}: {notice}")
        found, missed = _match(network, layers[network.architecture], _components(targets, network.architecture))
        if not found:
            raise PlacementError(_no_match(network, targets))
        if missed:
            first = f"{missed[0].key}: {missed[0].reason}"
            say(f"{network.name}: {len(missed)} of its modules are left out, e.g. {first}")
        sites += [Site(layer, module, network.block_of(module.key), index) for module, layer in found]
        unmatched += missed
    return sites, unmatched


def layers_by_key(targets: Targets, architecture: str) -> dict[str, nn.Module]:
    """Return the layers that a network of this architecture can act on.

    LDM's layout and diffusers', for U-Nets; transformers' and OpenCLIP's, for text encoders.
    """
    layers: dict[str, nn.Module] = {}
    for component, model in _components(targets, architecture).items():
        bypassed: set[str] = set()  # of attentions, which never call them
        for path, layer in model.named_modules():
            if is_attention(layer):
                for name in PROJECTIONS:
                    layers[key_of(f"{path}.{name}", architecture, component)] = Projection(layer, name)
                bypassed.add(f"{path}.out_proj")
            if path in bypassed or next(layer.children(), None) is not None or not is_target(layer):
                continue
            try:
                layers[key_of(path, architecture, component)] = layer
            except UnknownLayerError:
                continue  # a layer of another architecture or of none: no module is for it
    return layers


def _components(targets: Targets, architecture: str) -> dict[str, nn.Module]:
    if isinstance(targets, nn.Module):
        return {UNET: targets}
    return {component_in(name, architecture): model for name, model in targets.items()}


def _match(
    network: Network, layers: Mapping[str, nn.Module], components: Mapping[str, nn.Module]
) -> tuple[list[tuple[NetworkModule, nn.Module]], list[Unmatched]]:
    found, missed = [], []
    for key, module in network.modules.items():
        layer = layers.get(key)
        if layer is not None:
            _check_fits(network, module, layer)
            found.append((module, layer))
        elif component_of(key) in components:
            missed.append(Unmatched(network.name, key, _NO_LAYER))
    return found, missed


def _check_fits(network: Network, module: NetworkModule, layer: nn.Module) -> None:
    try:
        module.check_fits(weight_shape(layer))
    except NetworkModuleError as error:
        raise NetworkModuleError(
            f"{network.name!r} was made for a {network.architecture} of another size than the model that is loaded"
            f" (open the checkpoint that it was trained on): {error}"
        ) from error


def _no_match(network: Network, targets: Targets) -> str:
    given = ", ".join(_components(targets, network.architecture))
    return (
        f"{network.name!r} is a network for {network.architecture}, and none of its {len(network.modules)} modules"
        f" matches a layer of the model ({given}), e.g. {next(iter(network.modules), None)!r}"
    )

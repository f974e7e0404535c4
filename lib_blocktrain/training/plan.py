"""Which modules block weights create, and with what rank, alpha, learning rate and cap."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from lib_blocktrain import blocks
from lib_blocktrain.blocks import BASE, REST, block_of
from lib_blocktrain.networks.keys import UNET, component_of
from lib_blocktrain.networks.layers import is_convolution, is_linear, weight_shape
from lib_blocktrain.networks.placement import Targets, layers_by_key
from lib_blocktrain.training.config import MAX_RANK, NetworkConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.preset_strings import parse

ELEMENTS = ("attn1", "attn2", "ff", "proj", "conv")
_ELEMENT = re.compile(r"_(attn1|attn2|ff|proj)_")
_TEXT_LAYER = re.compile(r"encoder_layers_\d+_(?:self_attn|mlp)_")


@dataclass(frozen=True)
class ModuleSettings:
    """What a block weight makes of a module: `lr` is a factor of the learning rate.

    `cap` is the largest Frobenius norm of all delta weights of the module's block, None where there is no limit.
    """

    rank: int
    alpha: float
    lr: float
    cap: float | None


@dataclass(frozen=True)
class ModulePlan:
    """One module to be made; `weight` is the block weight times the element's, the rest as in ModuleSettings."""

    key: str
    layer: nn.Module
    block: str
    element: str
    weight: float
    rank: int
    alpha: float
    lr: float
    cap: float | None


@dataclass(frozen=True)
class Plan:
    """All modules to be made, with notices for the user about them."""

    architecture: str
    weights: BlockWeights
    modules: tuple[ModulePlan, ...]
    notices: tuple[str, ...] = ()

    @property
    def first_block(self) -> str | None:
        """The first block in the order of the forward pass with a module; None if only BASE has any."""
        trained = {module.block for module in self.modules}
        return next((b for b in blocks.architecture(self.architecture).block_ids if b in trained), None)

    @property
    def trains_text(self) -> bool:
        return any(module.block == BASE for module in self.modules)

    @property
    def first_block_of_gradients(self) -> str | None:
        """The block at which the backward pass through the U-Net ends; None if it goes on into a text encoder."""
        return None if self.trains_text else self.first_block

    def without(self, blocks: Collection[str]) -> Plan:
        """Return the plan without the modules of these blocks."""
        return replace(self, modules=tuple(module for module in self.modules if module.block not in blocks))


def read_weights(config: NetworkConfig, architecture: str) -> tuple[BlockWeights, tuple[str, ...]]:
    """Return the block weights of a run, and notices about them; raises ConfigError."""
    weights, notices = _read_weights(config.weights, architecture)
    if not config.text_encoder:  # BASE is not trained then
        notices = tuple(notice for notice in notices if not notice.startswith(BASE))
    for block in (BASE, *weights.values):
        if not 0 <= weights[block] <= 2:
            raise ConfigError(f"network.weights: {block} = {number(weights[block])}: expected 0 to 2 in training")
    return weights, notices


def changed_weights(config: NetworkConfig, recorded: object) -> str | None:
    """Return the block weights that were recorded of a run as a preset line, if it was started with others.

    None, too, for what cannot be read.
    """
    try:
        weights = BlockWeights.from_json(recorded) if isinstance(recorded, Mapping) else None
    except (ValueError, TypeError):
        return None
    if weights is None:
        return None
    try:
        same = read_weights(config, weights.architecture)[0] == weights
    except ValueError:  # it was started with a preset that is not known here
        same = False
    return None if same else weights.to_line(with_architecture=True)


def _read_weights(given: str | Mapping[str, Any], architecture: str) -> tuple[BlockWeights, tuple[str, ...]]:
    try:
        if isinstance(given, str):
            parsed = parse(given, architecture)
            return parsed.weights, parsed.notices
        theirs = given.get("architecture", architecture)
        if theirs != architecture:
            raise ValueError(f"for {str(theirs)[:40]}: expected {architecture}, the model's architecture")
        return BlockWeights.from_json({**given, "architecture": architecture}), ()
    except ValueError as error:
        raise ConfigError(f"network.weights: {error}") from error


def plan_of(targets: Targets, architecture: str, config: NetworkConfig) -> Plan:
    """Return the modules that this configuration asks for; raise ConfigError if there are none.

    A weight of 0 makes no module. Layers outside the blocks (REST) are never trained.
    """
    weights, notices = read_weights(config, architecture)
    _check_names(config, architecture)
    modules = []
    for key, layer in layers_by_key(targets, architecture).items():
        block = block_of(key, architecture)
        element = _element(key, block, architecture)
        if (
            element is None
            or (element == "conv" and not config.conv_rank)
            or (block == BASE and not config.text_encoder)
        ):
            continue
        if not (is_linear(layer) or is_convolution(layer)):
            continue
        weight = element_weight(weights, config, block, element)
        found = settings_of(weight, config, block, is_kernel=max(weight_shape(layer)[2:], default=1) > 1)
        if found is not None:
            planned = ModulePlan(key, layer, block, element, weight, found.rank, found.alpha, found.lr, found.cap)
            modules.append(planned)
    if not modules:
        raise ConfigError(f"nothing to train under the weights {weights.to_line()}: {_why_nothing(weights, config)}")
    _check_text_encoder_steps(config, {module.block for module in modules})
    empty = _empty_blocks(weights, {module.block for module in modules}, config)
    return Plan(architecture, weights, tuple(modules), (*notices, *empty))


def element_weight(weights: BlockWeights, config: NetworkConfig, block: str, element: str) -> float:
    """Return the weight of one kind of layer in a block: the block weight times the element's."""
    return weights[block] * config.elements.get(f"{block}.{element}", config.elements.get(element, 1.0))


def settings_of(weight: float, config: NetworkConfig, block: str, is_kernel: bool = False) -> ModuleSettings | None:
    """Return what a weight makes of a module in this block, None for no module. The one place that knows this rule.

    `is_kernel`: a convolution larger than 1x1 has `conv_rank` and `conv_alpha`, as in sd-scripts. A rank of the
    block's own replaces what the weight makes of `rank`, 0 being no module; so does an alpha of its own above 0.
    """
    rank, alpha = (config.conv_rank, config.conv_alpha) if is_kernel else (config.rank, config.alpha)
    own_ranks, own_alphas = (
        (config.conv_block_ranks, config.conv_block_alphas) if is_kernel else (config.block_ranks, config.block_alphas)
    )
    alpha = alpha or float(rank)
    if config.weight_mode == "rank":
        rank = max(1, round(weight * rank))
    if config.weight_mode in ("rank", "scale"):
        alpha *= weight
    rank = own_ranks.get(block, rank)
    if not weight or not rank:
        return None
    lr = weight if config.weight_mode == "lr" else 1.0
    cap = config.cap * weight if config.weight_mode == "max_norm" else None
    return ModuleSettings(rank, own_alphas.get(block) or alpha, lr, cap)


def _element(key: str, block: str, architecture: str) -> str | None:
    """Return the element that a key belongs to, None for a layer that is never trained."""
    if component_of(key) != UNET:
        if not _TEXT_LAYER.search(key):
            return None
        return "attn1" if "_self_attn_" in key else "ff"
    if block == REST:
        return None
    kind = next((kind for prefix, kind in _parts(architecture) if key.startswith(prefix)), None)
    if kind in ("res", "down", "up"):
        return "conv"
    found = _ELEMENT.search(key) if kind == "attn" else None
    return found[1] if found else None


@cache
def _parts(architecture: str) -> tuple[tuple[str, str], ...]:
    """Return the prefix of the keys of each part of a block, and the part's kind."""
    parts = [part for block in blocks.architecture(architecture).blocks for part in block.parts]
    names = [(part.ldm if architecture == "sdxl" else part.diffusers, part.kind) for part in parts]
    return tuple((f"lora_unet_{name.replace('.', '_')}_", kind) for name, kind in names)


def _check_names(config: NetworkConfig, architecture: str) -> None:
    known = (BASE, *blocks.architecture(architecture).block_ids)
    for name in config.elements:
        block, _, element = name.rpartition(".")
        if element not in ELEMENTS or (block and block not in known):
            raise ConfigError(f"network.elements: {name!r}: expected one of {', '.join(ELEMENTS)}, or OUT03.attn2")
    for field in ("block_ranks", "block_alphas", "conv_block_ranks", "conv_block_alphas"):
        values: Mapping[str, float] = getattr(config, field)
        for block, value in values.items():
            if block not in known:
                raise ConfigError(
                    f"network.{field}: unknown block {block!r}: expected {known[1]}..{known[-1]} or {BASE}"
                )
            most = MAX_RANK if field.endswith("ranks") else math.inf
            if not 0 <= value <= most:
                raise ConfigError(f"network.{field}: {block} = {value}: expected 0 or more, ranks up to {MAX_RANK}")


def _check_text_encoder_steps(config: NetworkConfig, trained: set[str]) -> None:
    if not config.text_encoder_steps or trained > {BASE}:
        return
    reason = "the text encoder is not trained" if BASE not in trained else "nothing else is trained"
    raise ConfigError(f"network.text_encoder_steps = {config.text_encoder_steps}: expected 0: {reason}")


def _why_nothing(weights: BlockWeights, config: NetworkConfig) -> str:
    if not any(weights.values.values()):
        return "all blocks are 0" + ("" if config.text_encoder or not weights.base else ", and text_encoder is false")
    return "the blocks that are left have convolutions only: expected a conv_rank above 0, or other blocks"


def _empty_blocks(weights: BlockWeights, filled: set[str], config: NetworkConfig) -> list[str]:
    """Return a notice of blocks with a weight but without a module, unless all weights are equal."""
    if len(set(weights.values.values())) == 1:
        return []
    empty = [block for block, weight in weights.values.items() if weight and block not in filled]
    why = "no layer that is trained" if config.conv_rank else "convolutions only, and conv_rank is 0"
    return [f"{', '.join(empty)}: a weight, but {why}"] if empty else []

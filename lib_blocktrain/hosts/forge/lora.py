"""Block weights on the LoRAs that Forge merges: by the key of each patch, never by its position.

Forge keeps the LoRAs of an image in `lora_patches` of a ModelPatcher: for each file and strength, the patches by key of
a parameter. It merges again when files or strengths differ from those that it merged last. Weighted patches go into a
clone of the patcher, under file names that carry the weights; Forge's own patcher is unchanged, and no file is read
again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from modules import shared

from lib_blocktrain.hosts.forge import activation
from lib_blocktrain.hosts.forge.activation import ByFile, block_in_text, block_in_unet, extension
from lib_blocktrain.hosts.webui.prompt import TagContext
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.tag_steps import SamplingStep

Patches = dict[str, list[list[Any]]]  # by parameter: [strength, factors, ...] for each change to it
Identifier = tuple[Any, ...]  # Forge's key for one LoRA's patches: file, strength, ...

_KEY = __name__  # our name in the WebUI's registry of patches


class WeightedName(str):
    """The file name of a LoRA with the weights of one sampling step; `patches` are those of that step."""

    file: str
    weights: LayerWeights
    found: Patches  # Forge's own
    block_in: Callable[[str, str], str]
    patches: Patches

    def __new__(
        cls,
        file: str,
        weights: LayerWeights,
        found: Patches,
        block_in: Callable[[str, str], str],
        step: SamplingStep | None = None,
    ) -> WeightedName:
        now = weights.at(1) if step is None else weights.at(step, step.of)
        name = super().__new__(cls, f"{file} bw={now.to_line()}")  # differs from the plain file's name
        name.file, name.weights, name.found, name.block_in = file, weights, found, block_in
        name.patches = _scaled(found, now, block_in)
        return name

    def in_step(self, step: SamplingStep) -> WeightedName:
        return WeightedName(self.file, self.weights, self.found, self.block_in, step)


def patch(tag_context: Callable[[], TagContext], before_lookup: Callable[[Collection[str]], None]) -> None:
    """Apply the block weights of prompt tags to Forge's LoRAs from now on.

    `before_lookup` is called with the LoRA names of a prompt before Forge looks for their files.
    """
    if extension() is not None:
        activation.patch(_KEY, tag_context, before_lookup, _weigh_loras)


def unpatch() -> None:
    activation.unpatch(_KEY)


def enter_step(step: SamplingStep) -> None:
    """Give the LoRAs the weights of a step that do not act alike in every one."""
    objects = getattr(shared.sd_model, "forge_objects", None)
    if objects is None:
        return
    unet = objects.unet
    now: dict[Identifier, Patches] = {}
    for identifier, found in unet.lora_patches.items():
        name, *others = identifier
        if isinstance(name, WeightedName) and not name.weights.constant:
            name = name.in_step(step)
            identifier, found = (name, *others), name.patches
        now[identifier] = found
    if list(now) != list(unet.lora_patches):
        unet.lora_patches = now
        unet.refresh_loras()


def _weigh_loras(sd_model: Any, by_file: ByFile) -> None:
    objects = sd_model.forge_objects_after_applying_lora
    unet, clip = objects.unet, objects.clip
    weighed = _weigh(unet.lora_patches, by_file, block_in_unet)
    if weighed is not None:
        unet = activation.clone(unet)
        unet.lora_patches = weighed
    weighed = _weigh(clip.patcher.lora_patches, by_file, block_in_text)
    if weighed is not None:
        clip = activation.clone(clip)
        clip.patcher.lora_patches = weighed
    activation.replace(sd_model, unet, clip)


def _weigh(
    patches_of: Mapping[Identifier, Patches], by_file: ByFile, block_in: Callable[[str, str], str]
) -> dict[Identifier, Patches] | None:
    """Return the patches scaled by the weights of their LoRAs, None if that changes nothing."""
    weighed: dict[Identifier, Patches] = {}
    for identifier, found in patches_of.items():
        file, *others = identifier
        weights = by_file.get(file)
        if weights is None or weights.whole:
            weighed[identifier] = found
            continue
        weights = weights if block_in is block_in_unet else weights.at(1)  # the prompt is encoded before the first step
        name = WeightedName(file, weights, found, block_in)
        if weights.constant and name.patches == found:
            weighed[identifier] = found
        elif name.patches or not weights.constant:
            identifier = (name, *others)
            weighed[identifier] = name.patches
    return None if list(weighed) == list(patches_of) else weighed


def _scaled(found: Patches, weights: LayerWeights, block_in: Callable[[str, str], str]) -> Patches:
    """Scale each change by its layer's weight; a weight of 0 removes it, so that the parameter stays Forge's own."""
    scaled: Patches = {}
    for key, changes in found.items():
        weight = weights.weight(block_in(key, weights.architecture), key)
        if weight == 1:
            scaled[key] = changes
        elif weight:
            scaled[key] = [[strength * weight, *others] for strength, *others in changes]
    return scaled

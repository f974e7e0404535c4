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
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.prompt_tags import Steps

Patches = dict[str, list[list[Any]]]  # by parameter: [strength, factors, ...] for each change to it
Identifier = tuple[Any, ...]  # Forge's key for one LoRA's patches: file, strength, ...

_KEY = __name__  # our name in the WebUI's registry of patches


class WeightedName(str):
    """The file name of a LoRA with block weights in one sampling step; `patches` are merged in `steps` only."""

    active_name: str
    steps: Steps
    patches: Patches

    def __new__(cls, active_name: str, steps: Steps, patches: Patches, step: int) -> WeightedName:
        name = super().__new__(cls, active_name if step in steps else f"{active_name} off")
        name.active_name, name.steps, name.patches = active_name, steps, patches
        return name

    def in_step(self, step: int) -> WeightedName:
        return WeightedName(self.active_name, self.steps, self.patches, step)

    @property
    def active_patches(self) -> Patches:
        return self.patches if self == self.active_name else {}


def patch(tag_context: Callable[[], TagContext], before_lookup: Callable[[Collection[str]], None]) -> None:
    """Apply the block weights of prompt tags to Forge's LoRAs from now on.

    `before_lookup` is called with the LoRA names of a prompt before Forge looks for their files.
    """
    if extension() is not None:
        activation.patch(_KEY, tag_context, before_lookup, _weigh_loras)


def unpatch() -> None:
    activation.unpatch(_KEY)


def enter_step(step: int) -> None:
    """Turn the LoRAs on or off that do not act in every step; steps count from 1."""
    objects = getattr(shared.sd_model, "forge_objects", None)
    if objects is None:
        return
    unet = objects.unet
    now: dict[Identifier, Patches] = {}
    for identifier, found in unet.lora_patches.items():
        name, *others = identifier
        if isinstance(name, WeightedName):
            name = name.in_step(step)
            identifier, found = (name, *others), name.active_patches
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
        resolved = by_file.get(file)
        if resolved is None or (resolved.weights is None and resolved.tag.steps.all):
            weighed[identifier] = found
            continue
        steps = resolved.tag.steps if block_in is block_in_unet else Steps()  # the prompt is encoded before the first
        scaled = found if resolved.weights is None else _scaled(found, resolved.weights, block_in)
        if scaled == found and steps.all:
            weighed[identifier] = found
        elif scaled:
            line = "" if resolved.weights is None else f" bw={resolved.weights.to_line()}"
            name = WeightedName(f"{file}{line} {steps}", steps, scaled, step=1)  # differs from the plain file's name
            identifier = (name, *others)
            weighed[identifier] = name.active_patches
    return None if list(weighed) == list(patches_of) else weighed


def _scaled(found: Patches, weights: BlockWeights, block_in: Callable[[str, str], str]) -> Patches:
    """Scale each change by its block's weight; a weight of 0 removes it, so that the parameter stays Forge's own."""
    scaled: Patches = {}
    for key, changes in found.items():
        weight = weights[block_in(key, weights.architecture)]
        if weight == 1:
            scaled[key] = changes
        elif weight:
            scaled[key] = [[strength * weight, *others] for strength, *others in changes]
    return scaled

"""Block weights on the LoRAs that Forge merges: by the key of each patch, never by its position.

Forge keeps the LoRAs of an image in `lora_patches` of a ModelPatcher: for each file and strength, the patches by key of
a parameter. It merges again when files or strengths differ from those that it merged last. Weighted patches go into a
clone of the patcher, under file names that carry the weights; Forge's own patcher is unchanged, and no file is read
again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from modules import patches, shared

from lib_blocktrain.blocks import BASE, REST, UnknownLayerError, block_of
from lib_blocktrain.hosts.webui.prompt import TagContext, resolve_tags
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.prompt_tags import Resolved, Steps

Patches = dict[str, list[list[Any]]]  # by parameter: [strength, factors, ...] for each change to it
Identifier = tuple[Any, ...]  # Forge's key for one LoRA's patches: file, strength, ...

_KEY = __name__  # our name in the WebUI's registry of patches
_ORIGINAL = "blocktrain_original"  # attribute of our clones: the object that was cloned


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


def extension() -> Any:
    """Return the `networks` module of the Lora extension, None if it is disabled or does not merge as Forge's does."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") and hasattr(networks, "load_lora_for_models") else None


def patch(tag_context: Callable[[], TagContext], before_lookup: Callable[[Collection[str]], None]) -> None:
    """Apply the block weights of prompt tags to Forge's LoRAs from now on.

    `before_lookup` is called with the LoRA names of a prompt before Forge looks for their files.
    """
    if extension() is None:
        return
    activation = sys.modules["extra_networks_lora"]
    activate = activation.ExtraNetworkLora.activate

    def weighted_activate(self: Any, p: Any, params_list: list[Any]) -> None:
        before_lookup({str(params.items[0]) for params in params_list})
        _restore(shared.sd_model)  # for the same names and strengths as before Forge would keep our clones
        context = tag_context()
        found = resolve_tags(p, params_list, context)
        if found is None:
            activate(self, p, params_list)
            return
        if context.architecture is None:
            found = [_without_steps(p, resolved, context.unsupported) for resolved in found]
        pairs = [(params, resolved) for params, resolved in zip(params_list, found) if resolved is not None]
        activate(self, p, [type(params)(items=list(resolved.tag.plain)) for params, resolved in pairs])
        if context.architecture is not None:
            _weigh_loras(shared.sd_model, [resolved for _, resolved in pairs])

    patches.patch(_KEY, activation.ExtraNetworkLora, "activate", weighted_activate)


def _without_steps(p: Any, resolved: Resolved | None, why: str) -> Resolved | None:
    """Leave out a LoRA that is limited to some steps, for models on which that is not supported."""
    if resolved is None or resolved.tag.steps.all:
        return resolved
    p.comment(f"Block weights: {resolved.tag.name} left out: {why}")
    return None


def unpatch() -> None:
    for owner, name in list(patches.originals[_KEY]):
        patches.undo(_KEY, owner, name)


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


def _restore(sd_model: Any) -> None:
    """Replace our clones by Forge's own objects."""
    objects = getattr(sd_model, "forge_objects_after_applying_lora", None)
    if objects is None:
        return
    unet, clip = (getattr(part, _ORIGINAL, part) for part in (objects.unet, objects.clip))
    if unet is not objects.unet or clip is not objects.clip:
        _replace(sd_model, unet, clip)


def _replace(sd_model: Any, unet: Any, clip: Any) -> None:
    for objects in (sd_model.forge_objects, sd_model.forge_objects_after_applying_lora):
        objects.unet, objects.clip = unet, clip


def _weigh_loras(sd_model: Any, found: Sequence[Resolved]) -> None:
    by_name = {resolved.tag.name: resolved for resolved in found}
    by_file = {
        network.network_on_disk.filename: by_name[network.mentioned_name]
        for network in extension().loaded_networks
        if network.mentioned_name in by_name
    }
    objects = sd_model.forge_objects_after_applying_lora
    unet, clip = objects.unet, objects.clip
    weighed = _weigh(unet.lora_patches, by_file, _block_in_unet)
    if weighed is not None:
        unet = _clone(unet)
        unet.lora_patches = weighed
    weighed = _weigh(clip.patcher.lora_patches, by_file, _block_in_text)
    if weighed is not None:
        clip = _clone(clip)
        clip.patcher.lora_patches = weighed
    _replace(sd_model, unet, clip)


def _clone(part: Any) -> Any:
    clone = part.clone()
    setattr(clone, _ORIGINAL, part)
    return clone


def _weigh(
    patches_of: Mapping[Identifier, Patches], by_file: Mapping[str, Resolved], block_in: Callable[[str, str], str]
) -> dict[Identifier, Patches] | None:
    """Return the patches scaled by the weights of their LoRAs, None if that changes nothing."""
    weighed: dict[Identifier, Patches] = {}
    for identifier, found in patches_of.items():
        file, *others = identifier
        resolved = by_file.get(file)
        if resolved is None or (resolved.weights is None and resolved.tag.steps.all):
            weighed[identifier] = found
            continue
        steps = resolved.tag.steps if block_in is _block_in_unet else Steps()  # the prompt is encoded before the first
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


@functools.cache
def _block_in_unet(key: str, architecture: str) -> str:
    """`diffusion_model.input_blocks.1.1.norm.weight` is in IN01."""
    layer = key.removeprefix("diffusion_model.").rpartition(".")[0]
    try:
        return block_of(layer, architecture)
    except UnknownLayerError:
        return REST


def _block_in_text(key: str, architecture: str) -> str:
    return BASE

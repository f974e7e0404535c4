"""Block weights on the LoRAs that Forge merges: by the key of each patch, never by its position.

Forge keeps the LoRAs of a picture in `lora_patches` of what manages a model: by file and strength, a strength and the
factors for the key of each parameter. It merges anew when the names and strengths are others than those it merged last.
The weighted patches are put into a copy of that, under names that know the weights; Forge's own stay as they are, and
no file is read again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

from modules import patches, shared

from lib_blocktrain.blocks import BASE, REST, UnknownLayerError, block_of
from lib_blocktrain.hosts.webui.prompt import Reading, weigh
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.prompt_tags import Resolved, Steps

Patches = dict[str, list[list[Any]]]  # by parameter: [strength, what, ...] for each change to it

_KEY = __name__  # under which the WebUI's `patches` keeps the originals
_PLAIN = "blocktrain_plain"  # on a copy of ours: what it is a copy of


class Weighted(str):
    """A LoRA's file name with the weights that it was given, in one sampling step; `patches` act in `steps`."""

    plain: str
    steps: Steps
    patches: Patches

    def __new__(cls, plain: str, steps: Steps, found: Patches, step: int):
        name = super().__new__(cls, plain if step in steps else f"{plain} off")
        name.plain, name.steps, name.patches = plain, steps, found
        return name

    def at(self, step: int) -> Weighted:
        """Return the name in a sampling step."""
        return Weighted(self.plain, self.steps, self.patches, step)

    @property
    def acting(self) -> Patches:
        return self.patches if self == self.plain else {}


def extension() -> ModuleType | None:
    """Return the WebUI's Lora extension, None if it is disabled, or merges in another way than Forge's."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") and hasattr(networks, "load_lora_for_models") else None


def patch(reading: Callable[[], Reading], offer: Callable[[Collection[str]], None]) -> None:
    """Let Forge's LoRAs obey block weights; `reading` says how tags are read just now.

    `offer` hears the names of a prompt's LoRAs before Forge looks for them.
    """
    if extension() is None:
        return
    activation = sys.modules["extra_networks_lora"]
    activate = activation.ExtraNetworkLora.activate

    def weighted_activate(self: Any, p: Any, params_list: list[Any]) -> None:
        offer({str(params.items[0]) for params in params_list})
        _put_back(shared.sd_model)  # Forge takes the same names and strengths for done, and keeps what is there
        read = reading()
        found = weigh(p, params_list, read)
        if found is None:
            activate(self, p, params_list)
            return
        if read.architecture is None:
            found = [_without_steps(p, resolved, read.without) for resolved in found]
        pairs = [(params, resolved) for params, resolved in zip(params_list, found) if resolved is not None]
        activate(self, p, [type(params)(items=list(resolved.tag.plain)) for params, resolved in pairs])
        if read.architecture is not None:
            _weigh_patches(shared.sd_model, [resolved for _, resolved in pairs])

    patches.patch(_KEY, activation.ExtraNetworkLora, "activate", weighted_activate)


def _without_steps(p: Any, resolved: Resolved | None, why: str) -> Resolved | None:
    """Leave a LoRA out that is to act in some steps only, where those cannot be told apart."""
    if resolved is None or resolved.tag.steps.all:
        return resolved
    p.comment(f"Block weights: {resolved.tag.name} left out: {why}")
    return None


def unpatch() -> None:
    """Give Forge its own function back."""
    for owner, name in list(patches.originals[_KEY]):
        patches.undo(_KEY, owner, name)


def enter_step(step: int) -> None:
    """Switch LoRAs on and off that do not act in every step; steps count from 1."""
    objects = getattr(shared.sd_model, "forge_objects", None)
    if objects is None:
        return
    unet, now = objects.unet, {}
    for (name, *others), found in unet.lora_patches.items():
        if isinstance(name, Weighted):
            name = name.at(step)
            found = name.acting
        now[(name, *others)] = found
    if list(now) != list(unet.lora_patches):
        unet.lora_patches = now
        unet.refresh_loras()


def _put_back(sd_model: Any) -> None:
    """Have Forge's own patches where ours are."""
    objects = getattr(sd_model, "forge_objects_after_applying_lora", None)
    if objects is None:
        return
    unet, clip = (getattr(part, _PLAIN, part) for part in (objects.unet, objects.clip))
    if unet is not objects.unet or clip is not objects.clip:
        _put(sd_model, unet, clip)


def _put(sd_model: Any, unet: Any, clip: Any) -> None:
    for objects in (sd_model.forge_objects, sd_model.forge_objects_after_applying_lora):
        objects.unet, objects.clip = unet, clip


def _weigh_patches(sd_model: Any, found: Sequence[Resolved]) -> None:
    by_name = {resolved.tag.name: resolved for resolved in found}
    by_file = {
        network.network_on_disk.filename: by_name[network.mentioned_name]
        for network in extension().loaded_networks
        if network.mentioned_name in by_name
    }
    objects = sd_model.forge_objects_after_applying_lora
    unet, clip = objects.unet, objects.clip
    weighed = _weighed(unet.lora_patches, by_file, _block_in_unet)
    if weighed is not None:
        unet = _copy_of(unet)
        unet.lora_patches = weighed
    weighed = _weighed(clip.patcher.lora_patches, by_file, _block_in_text)
    if weighed is not None:
        clip = _copy_of(clip)
        clip.patcher.lora_patches = weighed
    _put(sd_model, unet, clip)


def _copy_of(part: Any) -> Any:
    copy = part.clone()
    setattr(copy, _PLAIN, part)
    return copy


def _weighed(
    patches_of: Mapping[tuple, Patches], by_file: Mapping[str, Resolved], block_in: Callable[[str, str], str]
) -> dict[tuple, Patches] | None:
    """Return the patches under the weights of their LoRAs, None where that changes nothing."""
    weighed: dict[tuple, Patches] = {}
    for (file, *others), found in patches_of.items():
        resolved = by_file.get(file)
        if resolved is None or (resolved.weights is None and resolved.tag.steps.all):
            weighed[(file, *others)] = found
            continue
        steps = resolved.tag.steps if block_in is _block_in_unet else Steps()  # the text is encoded before the first
        scaled = found if resolved.weights is None else _scaled(found, resolved.weights, block_in)
        if scaled == found and steps.all:
            weighed[(file, *others)] = found
        elif scaled:
            line = "" if resolved.weights is None else f" bw={resolved.weights.to_line()}"
            name = Weighted(f"{file}{line} {steps}", steps, scaled, step=1)  # never as the plain file's is
            weighed[(name, *others)] = name.acting
    return None if list(weighed) == list(patches_of) else weighed


def _scaled(found: Patches, weights: BlockWeights, block_in: Callable[[str, str], str]) -> Patches:
    """Scale each change by its block's weight; where that is 0 there is none, and the parameter is Forge's own."""
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

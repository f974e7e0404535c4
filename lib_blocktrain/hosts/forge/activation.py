"""What the Lora extensions of all Forges have in common: a hook on their activation, and clones of their patchers.

Forge keeps the LoRAs of an image in a ModelPatcher of the U-Net and one of the text encoders, and loads them once for
the same files and strengths. Weighted patches go into clones; Forge's own patchers are unchanged, and put back before
the next activation.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from modules import sd_models, shared

from lib_blocktrain.blocks import BASE, REST, UnknownLayerError, block_of
from lib_blocktrain.hosts.webui import activation
from lib_blocktrain.hosts.webui.prompt import TagContext
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.prompt_tags import Resolved

ByFile = Mapping[str, LayerWeights]  # the weights of each LoRA of the prompt, by the path of its file

_ORIGINAL = "blocktrain_original"  # attribute of our clones: the object that was cloned


def extension() -> Any:
    """Return the `networks` module of the Lora extension, None if it is disabled or does not load as Forge's does."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") and hasattr(networks, "load_lora_for_models") else None


def patch(
    key: str,
    tag_context: Callable[[], TagContext],
    before_lookup: Callable[[Collection[str]], None],
    weigh: Callable[[Any, ByFile], None],
    prepare: Callable[[Any], None] = lambda sd_model: None,
) -> None:
    """Call `weigh` with the checkpoint and its LoRAs after each activation that concerns this extension, from now on.

    See `webui.activation`; `prepare` is called with the checkpoint.
    """

    def restoring_lookup(names: Collection[str]) -> None:
        before_lookup(names)
        _restore(shared.sd_model)  # for the same names and strengths as before Forge would keep our clones

    activation.patch(
        key,
        tag_context,
        restoring_lookup,
        lambda found, architecture: weigh(shared.sd_model, _by_file(found, architecture)),
        lambda: prepare(shared.sd_model),
    )


def unpatch(key: str) -> None:
    """Undo all patches of this key, and put Forge's own objects back: for the same LoRAs it would keep our clones."""
    activation.unpatch(key)
    _restore(sd_models.model_data.sd_model)  # `shared.sd_model` would load one in reForge


def _by_file(found: Sequence[Resolved], architecture: str) -> ByFile:
    by_name = {resolved.tag.name: resolved.layers(architecture) for resolved in found}
    return {
        network.network_on_disk.filename: by_name[network.mentioned_name]
        for network in extension().loaded_networks
        if network is not None and network.mentioned_name in by_name  # None: ersatzForge's, for a file that is gone
    }


def _restore(sd_model: Any) -> None:
    """Replace our clones by Forge's own objects."""
    objects = getattr(sd_model, "forge_objects_after_applying_lora", None)
    if objects is None:
        return
    unet, clip = (getattr(part, _ORIGINAL, part) for part in (objects.unet, objects.clip))
    if unet is not objects.unet or clip is not objects.clip:
        replace(sd_model, unet, clip)


def replace(sd_model: Any, unet: Any, clip: Any) -> None:
    """Let Forge draw with these objects until the next activation."""
    for objects in (sd_model.forge_objects, sd_model.forge_objects_after_applying_lora):
        objects.unet, objects.clip = unet, clip


def clone(part: Any) -> Any:
    """Return a clone of a patcher, or of Forge's CLIP with its patcher, that is removed by the next activation."""
    made = part.clone()
    setattr(made, _ORIGINAL, part)
    return made


@functools.cache
def block_in_unet(key: str, architecture: str) -> str:
    """`diffusion_model.input_blocks.1.1.norm.weight` is in IN01."""
    layer = key.removeprefix("diffusion_model.").rpartition(".")[0]
    try:
        return block_of(layer, architecture)
    except UnknownLayerError:
        return REST


def block_in_text(key: str, architecture: str) -> str:
    return BASE

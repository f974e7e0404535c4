"""The hook on the activation of a WebUI's Lora extension: reads the tags before it, and weighs the LoRAs after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from modules import patches, shared

from lib_blocktrain.hosts.webui.prompt import TagContext, resolve_tags
from lib_blocktrain.weights.prompt_tags import Resolved


def patch(
    key: str,
    tag_context: Callable[[], TagContext],
    before_lookup: Callable[[Collection[str]], None],
    weigh: Callable[[Sequence[Resolved], str], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """From now on, call `weigh` with the tags of an image's LoRAs and the checkpoint's architecture, after activation.

    `key` is the caller's name in the WebUI's registry of patches. `before_lookup` is called with the LoRA names of a
    prompt before anything else, and `prepare` before the WebUI loads LoRAs that will be weighed. `prepare` and `weigh`
    are left out for a prompt without block weights, and for a checkpoint that can have none.
    """
    extra_network = sys.modules["extra_networks_lora"].ExtraNetworkLora
    activate = extra_network.activate

    def weighted_activate(self: Any, p: Any, params_list: list[Any]) -> None:
        _add_chosen(p, params_list)
        before_lookup({str(params.items[0]) for params in params_list})
        context = tag_context()
        found = resolve_tags(p, params_list, context)
        if found is None:
            activate(self, p, params_list)
            return
        pairs = [(params, resolved) for params, resolved in zip(params_list, found) if resolved is not None]
        if context.architecture is not None:
            prepare()
        activate(self, p, [type(params)(items=list(resolved.tag.plain)) for params, resolved in pairs])
        if context.architecture is not None:
            weigh([resolved for _, resolved in pairs], context.architecture)

    patches.patch(key, extra_network, "activate", weighted_activate)


def _add_chosen(p: Any, params_list: list[Any]) -> None:
    """Add the LoRA of the setting "Add network to prompt", as the WebUI does: after this it finds it there.

    (Its `extra_networks_lora.activate`.) Added later, it would act at full strength in the first batch alone.
    """
    name, strength = (
        getattr(shared.opts, "sd_lora", "None"),
        getattr(shared.opts, "extra_networks_default_multiplier", 1),
    )
    known = name != "None" and name in sys.modules["networks"].available_networks
    if known and not any(params.items[0] == name for params in params_list):
        p.all_prompts = [f"{prompt}<lora:{name}:{strength}>" for prompt in p.all_prompts]
        params_list.append(sys.modules["modules.extra_networks"].ExtraNetworkParams(items=[name, str(strength)]))


def unpatch(key: str) -> None:
    """Undo all patches of this key."""
    for owner, name in list(patches.originals[key]):
        patches.undo(key, owner, name)

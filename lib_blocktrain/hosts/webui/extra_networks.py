"""The WebUI's cards of LoRAs in Extra Networks: what a click puts into the prompt, and cards that were changed here."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from modules import patches, shared, ui_extra_networks

from lib_blocktrain.networks.cards import RECOMMENDED, RECORD, card_path, recommended_in_card
from lib_blocktrain.weights.card_preset import CARD

OPTION = "blocktrain_card_tag"  # of the WebUI's settings: true or false
_KEY = __name__  # our name in the WebUI's registry of patches
_END = ' + ">"'  # of a tag, in the JavaScript expression that a click evaluates


def patch() -> None:
    """Let a click on a LoRA with recommended weights insert `bw=card` as well, while the setting is on."""
    module = sys.modules.get("ui_extra_networks_lora")  # the Lora extension's
    if module is None:
        return
    create_item = module.ExtraNetworksPageLora.create_item

    @functools.wraps(create_item)
    def create_item_with_card(self: Any, *arguments: Any, **more: Any) -> Any:
        item = create_item(self, *arguments, **more)
        if item is not None and getattr(shared.opts, OPTION, False) and _recommends(item):
            item["prompt"] = item["prompt"].replace(_END, f' + ":bw={CARD}>"', 1)
        return item

    patches.patch(_KEY, module.ExtraNetworksPageLora, "create_item", create_item_with_card)


def unpatch() -> None:
    for owner, name in list(patches.originals[_KEY]):
        patches.undo(_KEY, owner, name)


def card_changed(network_file: Path) -> None:
    """Let the WebUI read a card again: its editor would write back what it has read before."""
    for page in getattr(ui_extra_networks, "extra_pages", ()):
        for item in page.items.values():
            if Path(item.get("filename") or "") == network_file:
                page.lister.update_file_entry(str(card_path(network_file)))
                page.read_user_metadata(item, use_cache=False)


def _recommends(item: dict[str, Any]) -> bool:
    """Whether a LoRA has recommended weights; the WebUI has read its card, and decoded JSON in its metadata."""
    record = (item.get("metadata") or {}).get(RECORD)
    if recommended_in_card(item.get("user_metadata") or {}):
        return True
    return isinstance(record, dict) and bool(record.get(RECOMMENDED))

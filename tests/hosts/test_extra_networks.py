"""What a click on a LoRA in Extra Networks inserts, and cards that were changed here, on a stand-in of the page."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from tests.hosts.fake_webui import Patches, module

PLAIN = '"<lora:a \\" + \\">\\" b:" + opts.extra_networks_default_multiplier + ">" + " a fox"'


@pytest.fixture
def webui(monkeypatch):
    items = {"plain": {}, "card": {"user_metadata": {"block weights": "OUT=1"}}, "lbw": {}, "file": {}}
    items["lbw"] = {"user_metadata": {"additional weight": "OUTD"}}
    items["file"] = {"metadata": {"ss_blocktrain": {"recommended": {"weights": "OUT=1"}}}}

    class ExtraNetworksPageLora:
        def create_item(self, name, index=None, enable_filter=True):
            return {"prompt": PLAIN, **items[name]} if name in items else None

    patches, shared = Patches(), module("modules.shared", opts=SimpleNamespace(blocktrain_card_tag=True))
    pages = module("modules.ui_extra_networks", extra_pages=[])
    names = {"modules": module("modules", shared=shared, patches=patches, ui_extra_networks=pages)}
    names |= {"modules.shared": shared, "modules.patches": patches, "modules.ui_extra_networks": pages}
    names["ui_extra_networks_lora"] = module("ui_extra_networks_lora", ExtraNetworksPageLora=ExtraNetworksPageLora)
    for name, content in names.items():
        monkeypatch.setitem(sys.modules, name, content)
    monkeypatch.delitem(sys.modules, "lib_blocktrain.hosts.webui.extra_networks", raising=False)
    from lib_blocktrain.hosts.webui import extra_networks

    yield SimpleNamespace(ours=extra_networks, page=ExtraNetworksPageLora, shared=shared, pages=pages.extra_pages)
    sys.modules.pop("lib_blocktrain.hosts.webui.extra_networks", None)
    vars(sys.modules["lib_blocktrain.hosts.webui"]).pop("extra_networks", None)


def test_a_click_inserts_the_card_where_weights_are_recommended(webui):
    webui.ours.patch()
    page = webui.page()
    with_card = PLAIN.replace('multiplier + ">"', 'multiplier + ":bw=card>"')
    for name, expected in {"plain": PLAIN, "card": with_card, "lbw": with_card, "file": with_card}.items():
        assert page.create_item(name, enable_filter=False)["prompt"] == expected
    assert page.create_item("none") is None
    webui.shared.opts.blocktrain_card_tag = False
    assert page.create_item("card")["prompt"] == PLAIN
    webui.ours.unpatch()
    webui.shared.opts.blocktrain_card_tag = True
    assert page.create_item("card")["prompt"] == PLAIN


def test_the_webuis_editor_keeps_a_card_that_was_changed_here(webui, tmp_path):
    lora, told = tmp_path / "fox.safetensors", []
    item = {"filename": str(lora), "user_metadata": {"notes": "old"}}

    def read_user_metadata(item, use_cache=True):
        assert not use_cache
        item["user_metadata"] = json.loads(lora.with_suffix(".json").read_text("utf-8"))

    lister = SimpleNamespace(update_file_entry=told.append)
    webui.pages.append(SimpleNamespace(items={"fox": item}, lister=lister, read_user_metadata=read_user_metadata))
    lora.with_suffix(".json").write_text('{"notes": "old", "block weights": "OUT=1"}', "utf-8")
    webui.ours.card_changed(lora)
    assert item["user_metadata"]["block weights"] == "OUT=1"
    assert told == [str(lora.with_suffix(".json"))]

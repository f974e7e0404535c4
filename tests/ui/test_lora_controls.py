"""The LoRA list, the sliders and the presets, as a page would use them."""

from __future__ import annotations

import pytest

from lib_blocktrain.blocks import BLOCK_IDS
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS
from lib_blocktrain.workspace.preset_store import PresetStore
from tests.fakes import SDXL_LAYERS, FakeModel, write_lora


def choose(controls, page, *keys):
    page.values["loras"] = list(keys)
    return page.take(controls.choose(page.values))


def test_opening_chooses_the_first_lora(page):
    assert page.values["loras"] == ["robot"]
    assert [value for _, value in page.properties["loras"]["choices"]] == ["robot", "style"]
    assert "IN04" in page.values["facts"]
    assert "ALL" in page.properties["preset"]["choices"]


def test_opening_begins_with_the_first_weights_before_the_model_is_read(host, lora_index, page):
    host.loaded = None
    controls = LoraControls(
        host, lora_index, PresetStore(lambda: host.presets_path), InitialState(lora="style", weights="OUT03=0.5")
    )
    page.take(controls.open(page.values))
    assert page.values["selection"].active == "style"
    assert {block: value for block, value in page.weights().items() if value} == {"BASE": 1.0, "OUT03": 0.5}
    assert str(host.lora_dirs[0]) in page.values["lora_folders"]


def test_what_the_lora_lacks_is_greyed_with_the_reason(page):
    free = {block_id for block_id in WEIGHT_IDS if page.properties["weights"][block_id]["interactive"]}
    assert free == {"BASE", "IN04", "OUT03"}
    assert page.properties["weights"]["M00"]["label"] == "M00 · not in this LoRA"


def test_what_the_model_lacks_is_greyed_with_the_reason(host, controls, page):
    host.loaded = FakeModel("sdxl")
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    page.take(controls.refresh(page.values))
    choose(controls, page, "xl")
    assert page.properties["weights"]["IN11"]["label"] == "IN11 · not in SDXL"
    assert page.properties["weights"]["OUT01"]["interactive"]
    assert set(BLOCK_IDS) <= page.properties["weights"].keys()


def test_a_lora_for_another_model_is_said(host, controls, page):
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    page.take(controls.refresh(page.values))
    choose(controls, page, "xl")
    assert "xl is for SDXL, and the loaded model is SD1" in page.values["lora_message"]


def test_a_damaged_file_cannot_be_used(host, controls, page):
    (host.lora_dirs[0] / "bad.safetensors").write_bytes(b"not a network at all")
    page.take(controls.refresh(page.values))
    choose(controls, page, "robot", "bad")
    assert page.values["loras"] == ["robot"]
    assert "bad cannot be used" in page.values["lora_message"]


def test_values_survive_a_change_of_lora(controls, page):
    page.values["weights"]["IN04"] = 0.25
    choose(controls, page)
    assert page.values["weights"]["IN04"] == 0.25
    choose(controls, page, "style")
    assert page.values["weights"]["IN04"] == 0.25


def test_each_lora_keeps_its_own(controls, page):
    page.values |= {"strength": 0.8}
    page.values["weights"] |= {"OUT03": 0.5}
    choose(controls, page, "robot", "style")
    assert page.values["active"] == "style"
    assert page.properties["active"]["visible"]
    page.values |= {"strength": 1.5}
    page.values["weights"] |= {"OUT03": -1.0}
    page.values["active"] = "robot"
    page.take(controls.activate(page.values))
    assert (page.values["weights"]["OUT03"], page.values["strength"]) == (0.5, 0.8)
    selection = page.values["selection"]
    assert selection.entries["style"].weights["OUT03"] == -1.0
    assert selection.entries["style"].strength == 1.5


def test_a_preset_sets_the_sliders(controls, page):
    page.values["preset"] = "OUTALL"
    page.take(controls.use_preset(page.values))
    assert page.values["weights"]["OUT11"] == 1
    assert page.values["weights"]["IN04"] == 0
    assert "set to 0" in page.values["preset_message"]


def test_a_saved_preset_is_not_replaced_unasked(controls, page):
    page.values |= {"preset_name": "mine"}
    page.values["weights"] |= {"IN04": 0.3}
    page.take(controls.save(page.values))
    page.values["weights"]["IN04"] = 0.9
    page.take(controls.save(page.values))
    assert "already" in page.values["preset_message"]
    assert controls.presets.parse("mine", "sd1").weights["IN04"] == 0.3
    page.values["preset_replace"] = True
    page.take(controls.save(page.values))
    assert controls.presets.parse("mine", "sd1").weights["IN04"] == 0.9
    assert page.values["preset_replace"] is False


def test_rename_and_delete(controls, page):
    page.values["preset_name"] = "mine"
    page.take(controls.save(page.values))
    page.values["preset_name"] = "ours"
    page.take(controls.rename(page.values))
    assert page.values["preset"] == "ours"
    page.take(controls.delete(page.values))
    assert page.values["preset"] is None
    assert "ours" not in page.properties["preset"]["choices"]


@pytest.mark.parametrize("button", ["rename", "delete"])
@pytest.mark.parametrize(("preset", "word"), [("OUTALL", "comes with the extension"), (None, "no preset is selected")])
def test_shipped_presets_stay(controls, page, button, preset, word):
    page.values |= {"preset": preset, "preset_name": "x"}
    page.take(getattr(controls, button)(page.values))
    assert word in page.values["preset_message"]


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a,b", "#a"])
def test_names_that_no_preset_can_have(controls, page, name):
    page.values["preset_name"] = name
    page.take(controls.save(page.values))
    assert "blocktrain-failure" in page.values["preset_message"]
    assert not controls.presets.own.path.exists()


def test_without_a_model_weights_still_work(host, controls, page):
    host.loaded = None
    page.take(controls.use_preset({**page.values, "preset": "OUTALL"}))
    assert page.values["weights"]["OUT03"] == 1
    assert page.values["weights"]["IN04"] == 0
    assert "no checkpoint is loaded" in controls.show_model(page.values)["model_line"]


def test_the_models_size_is_taken(controls, page):
    changes = controls.show_model(page.values)
    assert (changes["width"], changes["height"]) == (128, 128)
    assert "fake · SD1, 25 blocks" in changes["model_line"]


def test_files_that_are_gone_are_said(host, controls, page):
    (host.lora_dirs[0] / "robot.safetensors").unlink()
    page.take(controls.refresh(page.values))
    assert "robot no longer in the folders" in page.values["lora_message"]
    assert page.values["loras"] == []


@pytest.mark.parametrize("value", [None, 3, "1", float("nan"), True])
def test_sliders_from_a_browser_are_checked(controls, page, value):
    page.values["weights"]["IN04"] = value
    answer = controls.choose(page.values)
    assert "IN04 = " in answer["lora_message"]
    assert "selection" not in answer

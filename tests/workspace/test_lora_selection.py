"""The LoRAs in use, and the one check of the numbers on their sliders."""

from __future__ import annotations

import copy

import pytest

from lib_blocktrain.blocks import BASE, BLOCK_IDS
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraEntry, LoraSelection


@pytest.mark.parametrize("value", [-1, 0, 0.5, 2])
def test_numbers_in_range(value):
    entry = LoraEntry.checked(value, dict.fromkeys(WEIGHT_IDS, value))
    assert (entry.strength, entry.weights["OUT11"]) == (value, value)


@pytest.mark.parametrize("value", [-1.01, 2.01, float("nan"), None, "1", True, [1]])
def test_what_a_browser_may_send(value):
    with pytest.raises(ValueError, match=r"IN04 = .*: expected a number from -1 to 2"):
        LoraEntry.checked(1.0, {**dict.fromkeys(WEIGHT_IDS, 1.0), "IN04": value})


def test_strength_has_its_own_range():
    assert LoraEntry.checked(-2, LoraEntry().weights).strength == -2
    with pytest.raises(ValueError, match="strength = 3: expected a number from -2 to 2"):
        LoraEntry.checked(3, LoraEntry().weights)


def test_blocks_that_the_model_lacks_keep_their_weights():
    """SDXL has no IN09 to IN11 and no OUT09 to OUT11."""
    entry = LoraEntry.checked(0.5, dict.fromkeys(WEIGHT_IDS, 0.25)).with_weights(parse("*=1", "sdxl").weights)
    kept = {block_id for block_id in BLOCK_IDS if entry.weights[block_id] == 0.25}
    assert kept == {"IN09", "IN10", "IN11", "OUT09", "OUT10", "OUT11"}
    assert entry.strength == 0.5
    assert dict(entry.block_weights("sdxl").values).keys() == set(BLOCK_IDS) - kept
    assert entry.block_weights("sdxl").base == entry.weights[BASE]


def test_a_preset_that_no_slider_can_show_is_refused():
    with pytest.raises(ValueError, match=r"OUT03 = 7.0: expected a number"):
        LoraEntry().with_weights(parse("OUT03=7", "sd1").weights)


def test_a_selection_survives_the_page():
    """gradio copies the first value of a State deeply."""
    selection = LoraSelection().choose(["a", "b"]).with_shown(LoraEntry(0.5)).activate("a")
    assert copy.deepcopy(selection) == selection


def test_a_new_lora_begins_with_what_the_sliders_show_at_strength_1():
    shown = LoraEntry.checked(0.5, dict.fromkeys(WEIGHT_IDS, 0.25))
    selection = LoraSelection().choose(["a"]).with_shown(shown).choose(["a", "b"])
    assert selection.active == "b"
    assert selection.shown == LoraEntry(1.0, shown.weights)
    assert selection.activate("a").shown == shown
    with pytest.raises(ValueError, match="'c' is not in use"):
        selection.activate("c")

"""Whole ways through the tab in Chromium, under both gradio versions: what one place finds, the next one uses.

Training, from a folder to Preview, is in test_train.py; a preset in another browser in test_tab.py.
"""

from __future__ import annotations

import time

import pytest

from lib_blocktrain.weights.preset_strings import parse

pytestmark = pytest.mark.both_gradios

ENDED = "document.querySelector('#blocktrain_analyse_status [data-ended]') !== null"


def test_the_first_preview_is_one_click(opened):
    """Nothing is filled in, and nothing in the page moves from the click to the last picture."""
    opened.page.wait_for_function("() => document.querySelector('#blocktrain_width input[type=number]').value == '128'")
    opened.page.locator(opened.button("draw")).scroll_into_view_if_needed()
    opened.page.wait_for_timeout(1000)  # what the page was opened with has come to rest
    opened.watch_shifts()
    without, at_1, _ = opened.preview()
    assert without != at_1
    captions = opened.page.locator("#blocktrain_pictures figcaption b").all_inner_texts()
    assert captions == [
        "Without LoRA",
        "Every block at 1",
        "Under the weights",
    ]
    assert opened.shifts() == []


def test_from_a_word_to_a_preset_to_a_picture(opened):
    name = f"word-{time.time_ns()}"
    opened.go("Analyse")
    opened.type("analyse_prompts", "a photo of a large robot, blue background")
    opened.type("analyse_seeds", "0")
    opened.page.locator("#blocktrain_analyse_kind label", has_text="Word").locator("input").click()
    opened.type("analyse_word", "robot")
    opened.click("analyse")
    opened.page.wait_for_function(ENDED)
    opened.wait("analyse_status", "the word “robot”: done")
    opened.page.locator("#blocktrain_analyse_keep input[type=range]").fill("2")
    opened.page.wait_for_function(
        "document.querySelector('#blocktrain_u_analyse').dataset.weights.split(' 1').length <= 5"
    )
    opened.page.click("#blocktrain_menu_analyse_preset [data-menu]")
    opened.type("analyse_preset", name)
    opened.click("analyse_save_preset")
    opened.wait("analyse_message", f"Saved {name}")
    said = opened.text("analyse_message").split("Saved ")[1]

    opened.go("Preview")
    opened.preset(name)
    expected = parse(said.strip(), "sd1").weights
    off = next(block_id for block_id in ("IN04", "OUT03", "OUT11") if expected[block_id] == 0)
    opened.page.wait_for_function(f"() => document.querySelector('#blocktrain_w_{off} input[type=range]').value == '0'")
    blocks = ("IN01", "IN04", "IN08", "M00", "OUT03", "OUT06", "OUT09", "OUT11")
    shown = {block_id: opened.weight(block_id) for block_id in blocks}
    assert shown == {block_id: expected[block_id] for block_id in blocks}
    opened.small()
    assert len(set(opened.preview())) == 3

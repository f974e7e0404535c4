"""The pictures of Preview in Chromium: large, out of date, drawn again, brought back."""

from __future__ import annotations

import pytest
from journeys import decoded


@pytest.mark.both_gradios
def test_pictures_large_stale_and_brought_back(opened):
    page = opened.page
    opened.type("steps", 100)  # long enough to be shown while it is drawn
    opened.click("draw")
    live = page.wait_for_selector("#blocktrain_pictures figure.blocktrain-is-busy .blocktrain-live")
    assert decoded(live.get_attribute("src")).getextrema() != ((0, 0),) * 3
    opened.click("cancel")
    opened.wait("status", "Cancelled: ")  # of three, one may have been finished before
    assert page.locator(".blocktrain-live").count() == 0

    opened.small()
    opened.drag("OUT05", 0.5)
    first = opened.preview()
    page.locator("#blocktrain_history .blocktrain-hist").first.wait_for()

    # large: arrow keys go on, B shows the other one while it is held, Esc closes
    page.locator("#blocktrain_pictures .blocktrain-shot-b").first.click()
    heading = page.locator(".blocktrain-zoomed-tools b")
    assert heading.inner_text() == "Without LoRA"
    page.keyboard.press("ArrowRight")
    assert heading.inner_text() == "Every block at 1"
    page.keyboard.down("b")
    assert heading.inner_text() == "Under the weights"
    page.keyboard.up("b")
    assert heading.inner_text() == "Every block at 1"
    page.keyboard.press("Escape")
    page.locator(".blocktrain-zoomed").wait_for(state="detached")

    # other weights: the third says so, and no longer once they are back
    opened.drag("OUT05", -0.5)
    badge = page.locator("#blocktrain_pictures .blocktrain-stale-badge")
    badge.wait_for()
    assert badge.count() == 1
    assert badge.inner_text() == "1 weight changed"
    opened.wait("changed", "1 weight changed since drawn.")
    assert "OUT05 −0.5" in opened.text("changed")
    opened.drag("OUT05", 0.5)
    badge.wait_for(state="detached")

    # the old picture stays until the new one is there
    opened.drag("OUT05", -0.5)
    page.wait_for_timeout(1500)
    page.evaluate(
        """() => {
            window.fewest = 3;
            new MutationObserver(() => {
                const count = document.querySelectorAll("#blocktrain_pictures figure[data-arm] img").length;
                window.fewest = Math.min(window.fewest, count);
            }).observe(document.getElementById("blocktrain_section_pictures"), { childList: true, subtree: true });
        }"""
    )
    second = opened.preview("1 of 3 pictures drawn")
    assert second[2] != first[2]
    assert page.evaluate("window.fewest") == 3

    # the history brings back weights and pictures
    strip = page.locator("#blocktrain_history .blocktrain-hist")
    page.wait_for_function("() => document.querySelectorAll('#blocktrain_history .blocktrain-hist').length === 2")
    strip.nth(1).locator("button").first.click()
    opened.wait("status", "Weights and pictures are back")
    page.wait_for_function("() => document.querySelector('#blocktrain_w_OUT05 input[type=range]').value === '0.5'")
    assert opened.pixels() == first

    # a muted LoRA is not in the pictures; the history is in sight at 1400 x 900
    opened.row("robot").locator("[data-act=mute]").click()
    opened.wait("changed", "LoRAs changed since drawn.")
    assert opened.row("robot").locator("small").inner_text().startswith("muted · ")
    page.set_viewport_size({"width": 1400, "height": 900})
    box = page.locator(".blocktrain-history").bounding_box()
    assert box["y"] + box["height"] <= 900


@pytest.mark.both_gradios
@pytest.mark.long
def test_the_die_at_the_seed(opened):
    """Pressed, each drawing has a new seed; released, the seed is that of the pictures, which are not out of date."""
    page, die = opened.page, opened.page.get_by_role("button", name="Random seed")
    badge = page.locator("#blocktrain_pictures .blocktrain-stale-badge")
    opened.small()
    opened.drag("OUT05", 0.5)
    first = opened.preview()
    assert die.get_attribute("aria-pressed") == "false"
    die.click()
    assert (opened.box("seed"), die.get_attribute("aria-pressed")) == ("-1", "true")
    second = opened.preview("3 of 3 pictures drawn")
    assert second[0] != first[0]
    drawn = page.locator("#blocktrain_pictures .blocktrain-pictures").get_attribute("data-seed")
    assert f"seed {drawn}" in opened.text("status")
    die.click()
    assert (opened.box("seed"), die.get_attribute("aria-pressed")) == (drawn, "false")
    page.wait_for_timeout(1500)
    assert badge.count() == 0
    assert opened.preview("nothing has changed") == second
    opened.type("seed", 7)
    badge.first.wait_for()
    assert badge.first.inner_text() == "seed changed"


@pytest.mark.long
def test_weights_by_kind_of_layer_make_the_picture_stale(opened):
    """Auto draws it again, and says nothing any more."""
    page = opened.page
    opened.small()
    width = int(opened.box("width"))
    page.wait_for_function("width => blocktrain.recall('preview')?.width === width", arg=width)  # the settings are kept
    first = opened.preview()
    page.click("summary:has-text('Kinds of layers, steps'), .label-wrap:has-text('Kinds of layers, steps')")
    badge = page.locator("#blocktrain_pictures .blocktrain-stale-badge")
    opened.type("weight_changes", "OUT05.attn2=0")
    badge.wait_for()
    assert (badge.count(), badge.inner_text()) == (1, "1 weight changed")
    opened.wait("changed", "OUT05.attn2=0")
    opened.type("weight_changes", "")
    badge.wait_for(state="detached")
    opened.type("weight_changes", "OUT05.attn2=0")
    badge.wait_for()
    ended = "document.querySelector('#blocktrain_status [data-ended]')?.dataset.ended"
    before = page.evaluate(ended)
    page.locator("#blocktrain_auto input").check()
    page.wait_for_function(f"before => ({ended} ?? before) !== before", arg=before)
    badge.wait_for(state="detached")
    assert opened.pixels()[2] != first[2]
    page.locator("#blocktrain_auto input").uncheck()
    opened.type("weight_changes", "")
    opened.wait("changed", "without OUT05.attn2=0")


@pytest.mark.long
def test_a_grid_over_a_block(opened):
    page = opened.page
    opened.small()
    opened.view("grid")
    page.locator("#blocktrain_grid_over label", has_text="one block").locator("input").click()
    opened.type("grid_values", "0, 1.5")
    opened.press_and_wait("draw_grid")
    assert len(opened.pixels("grid_pictures")) == 3
    page.locator("#blocktrain_grid_pictures figure", has_text="OUT05 1.5").get_by_text("Use").click()
    page.wait_for_function("() => document.querySelector('#blocktrain_w_OUT05 input[type=range]').value === '1.5'")


@pytest.mark.both_gradios
@pytest.mark.long
def test_no_request_is_lost_while_another_is_answered(opened):
    """An entry is brought back and pinned before the pictures are there: gradio drops the event of the second."""
    page = opened.page
    opened.small()
    for seed in (911, 912):
        opened.type("seed", seed)
        opened.preview()
    page.wait_for_function("() => document.querySelectorAll('#blocktrain_history .blocktrain-hist').length === 2")
    before = set(opened.folder.rglob("*.pinned"))
    page.evaluate(
        """() => {
            const [, older] = document.querySelectorAll("#blocktrain_history .blocktrain-hist");
            older.querySelector("button").click();
            document.querySelectorAll("#blocktrain_history .blocktrain-pin")[1].click();
        }"""
    )
    page.wait_for_selector("#blocktrain_pictures .blocktrain-pictures[data-seed='911']")
    page.wait_for_selector("#blocktrain_history .blocktrain-pin[aria-pressed=true]")
    for _ in range(100):
        if len(set(opened.folder.rglob("*.pinned")) - before) == 3:
            break
        page.wait_for_timeout(100)
    assert len(set(opened.folder.rglob("*.pinned")) - before) == 3

"""Sharing presets, comparing two pictures, a probe, and fast input on the map, in Chromium."""

from __future__ import annotations

import time

import pytest
from journeys import SECOND
from PIL import Image

from lib_blocktrain.blocks import BLOCK_IDS

pytestmark = pytest.mark.long

MAP = "#blocktrain_u_weights"
SLIDER = "() => document.querySelector('#blocktrain_w_{} input[type=range]').value == '{}'"


def test_a_link_opens_in_another_browser_and_acts_only_when_used(opened, second, served):
    opened.active("robot")
    opened.drag("OUT05", 0.35)
    opened.menu("presets")
    opened.type("preset_name", "Face & co")
    opened.page.keyboard.press("Escape")
    link = opened.copy("link")
    assert link.startswith(f"{served[0]}#blocktrain=Face")
    assert link.isascii()
    assert " " not in link

    second.page.goto("about:blank")
    second.page.goto(link)
    second.wait("understood", "“Face & co” for SD1")
    second.page.wait_for_selector("#blocktrain_understood svg.blocktrain-u-tiny")
    assert second.weight("OUT05") == 1
    second.click("apply")
    second.page.wait_for_function(SLIDER.format("OUT05", 0.35))


def test_what_is_exported_can_be_imported(opened, tmp_path):
    opened.active("robot")
    name = f"mine-{time.time_ns()}"
    opened.drag("OUT05", 0.15)
    opened.save_preset(name)
    with opened.page.expect_download() as downloading:
        opened.click("preset_export")
    path = tmp_path / "blocktrain-presets.txt"
    downloading.value.save_as(path)
    assert downloading.value.suggested_filename == path.name
    assert f"{name}:" in path.read_text("utf-8")
    opened.click("preset_delete")
    opened.wait("preset_message", "to restore it, paste")
    opened.upload("preset_file", path)
    opened.wait("preset_message", "1 presets added")
    opened.page.locator(".blocktrain-card", has_text=name).wait_for(state="attached")
    opened.page.locator(f"#blocktrain_menu_presets [data-preset='{name}']").wait_for()


def test_the_difference_of_two_pictures(opened):
    opened.small()
    opened.drag("OUT05", 0.5)
    opened.preview()
    page = opened.page
    opened.view("difference")
    page.select_option(".blocktrain-swipe select[aria-label='Left picture']", "without")
    said = page.locator(".blocktrain-swipe-foot span")
    said.get_by_text("of the pixels differ").wait_for()
    assert not said.inner_text().startswith("0.0 %")
    with page.expect_download() as downloading:
        page.get_by_text("Save the difference").click()
    with Image.open(downloading.value.path()) as picture:
        assert picture.size == (64, 64)
        assert picture.convert("L").getextrema()[1] > 20
    page.select_option(".blocktrain-swipe select[aria-label='Left picture']", "weights")
    said.get_by_text("0.0 % of the pixels differ by more than 20 of 255, 0.0 on average").wait_for()


def test_quick_gestures_are_steps_of_their_own(opened):
    opened.active("robot")
    page = opened.page
    page.wait_for_selector(f"{MAP}[data-subject=robot] .blocktrain-u-block[tabindex='0']")
    page.evaluate(
        """() => {
            const block = (id) => document.querySelector(`#blocktrain_u_weights [data-block=${id}]`);
            const press = (id, key) => block(id).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            block("IN04").dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
            press("OUT06", "ArrowDown");
            press("OUT06", "ArrowDown");
            press("OUT07", "ArrowDown");
            press("OUT07", "Delete");
        }"""
    )
    seen = []
    for _ in range(4):
        page.click(f"{MAP} [data-tool=undo]")
        seen.append([opened.weight(block) for block in ("IN04", "OUT06", "OUT07")])
    assert seen == [[0, 0.9, 0.95], [0, 0.9, 1], [0, 1, 1], [1, 1, 1]]
    assert page.locator(f"{MAP} [data-tool=undo]").is_disabled()


def test_a_finger_scrolls_the_page_and_moves_what_it_has_selected(browser, served):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(180 * SECOND)
    try:
        page.goto(served[0])
        page.wait_for_selector(f"{MAP}[data-subject=robot] .blocktrain-u-block[tabindex='0']", state="attached")
        page.click("[data-segment=weights]")
        block = page.locator(f"{MAP} [data-block=OUT05]")
        block.scroll_into_view_if_needed()
        touch = context.new_cdp_session(page)

        def swipe(across: float, down: float) -> float:
            box = block.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            for kind, points in (
                ("touchStart", [{"x": x, "y": y}]),
                *(("touchMove", [{"x": x + across * n / 3, "y": y + down * n / 3}]) for n in range(1, 4)),
                ("touchEnd", []),
            ):
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            page.wait_for_timeout(1.5 * SECOND)  # until a value would have moved
            return float(block.get_attribute("aria-valuenow"))

        def swipe_down() -> float:
            return swipe(0, 27)

        assert swipe_down() == 1
        assert swipe(27, 0) == 1.5  # sideways: half a weight, without a first tap
        assert swipe(-27, 0) == 1
        block.tap()
        page.wait_for_selector(f"{MAP} [data-block=OUT05].blocktrain-u-chosen")
        assert swipe_down() == 0.5
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        context.close()


def test_from_pictures_by_a_probe_to_the_training(opened, tmp_path):
    folder = tmp_path / "4_thing"
    folder.mkdir()
    for number in range(3):
        picture = Image.linear_gradient("L").resize((64, 64)).rotate(3 * number)
        picture.convert("RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a photo of a robot", "utf-8")
    opened.go("Train")
    opened.wait("train_estimate", "A step, beside all blocks")
    opened.type("train_dataset_folders", folder)
    opened.type("train_dataset_size", 64)
    opened.click("train_probe")
    opened.page.locator("#blocktrain_analyse").first.wait_for()
    opened.open("probing")
    assert opened.box("probe_folder") == str(folder)
    opened.click("probe")
    opened.page.wait_for_function("() => document.querySelector('#blocktrain_probe_status [data-ended]')")
    assert opened.page.locator("#blocktrain_analyse_bars ul.blocktrain-bars li").count() == 16
    opened.click("analyse_train")
    opened.wait("train_understood", "Understood as 26 values")
    weights = opened.box("train_network_weights").split("|")[0].split(",")
    assert "1" in weights
    # The map shows them: it showed the ones before, and wrote those as soon as a block was moved on it.
    moved = {"probed": [weight.strip() for weight in weights[1:]], "blocks": list(BLOCK_IDS)}
    opened.page.wait_for_function(
        """({ probed, blocks }) => blocks.every((block, place) =>
            document.querySelector(`#blocktrain_train_w_${block} input[type=range]`).value === probed[place])""",
        arg=moved,
    )

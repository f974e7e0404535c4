"""Pictures in the WebUI: 24 dropped pictures without captions are captioned, masked and trained, without a path typed.

With ``BLOCKTRAIN_SHOTS`` the page is saved there as pictures of 1400 and 390 pixels.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from tests.webui.page import Page
from tests.webui.process import TRAINS

from test_pictures_place import COUNT, DROP, picture  # isort: skip - of tests/browser, which page.py adds
from test_train import STATE, STEP  # isort: skip


@pytest.fixture
def opened(browser, weighed):
    opened = Page(browser, weighed)
    yield opened
    opened.close()


def shot(opened: Page, name: str) -> None:
    folder = os.environ.get("BLOCKTRAIN_SHOTS")
    if folder:
        for width, height in ((390, 844), (1400, 900)):
            opened.page.set_viewport_size({"width": width, "height": height})
            opened.page.wait_for_timeout(700)
            opened.page.screenshot(path=Path(folder) / f"webui-{name}-{width}.png")


@pytest.mark.kinds("a1111", *TRAINS)
def test_from_24_dropped_pictures_to_a_run(opened, weighed):
    page, name = opened.page, f"bots-{time.time_ns()}"
    opened.ours()
    opened.go("Pictures")
    page.wait_for_selector(".blocktrain-drop")
    page.evaluate(DROP, ["#blocktrain_place_pictures", [[f"{n:03}.png", picture(n)] for n in range(COUNT)]])
    page.fill("dialog [name=name]", name)
    page.click("dialog [type=submit]")
    opened.wait("dataset_message", "24 files added")
    page.wait_for_function("() => document.querySelectorAll('.blocktrain-pic img[src]').length > 3")
    assert page.input_value("#txt2img_prompt textarea") == ""  # the WebUI did not take the dropped PNGs, too

    page.click("#blocktrain_menu_caption_all [data-menu]")
    page.click("#blocktrain_menu_caption_all .blocktrain-mi >> nth=0")
    page.fill("dialog [name=word]", "ohwx bot")
    page.click("dialog [type=submit]:not([disabled])")
    opened.wait("dataset_message", "24 captions changed")
    cells = page.locator(".blocktrain-pic-b")
    cells.nth(0).click()
    cells.nth(3).click(modifiers=["Shift"])
    page.get_by_role("button", name="Add tag…").click()
    page.fill("dialog [name=tag]", "red hat")
    page.click("dialog [type=submit]:not([disabled])")
    opened.wait("dataset_message", "4 captions changed")
    page.locator(".blocktrain-pic > p").nth(4).click()
    page.keyboard.type(", running")
    page.keyboard.press("Enter")
    opened.wait("dataset_message", "Caption of 004.png saved")

    cells.nth(1).click()
    page.click("[data-mode=mask]")
    page.fill(".blocktrain-dataset-word [name=word]", "bot")
    page.click(".blocktrain-dataset-word [type=submit]")
    found = page.locator("#blocktrain_dataset_chosen .blocktrain-note", has_text="of the picture")
    found.wait_for(timeout=1000 * weighed.answers_within)  # Forge's models have their full width, and draw 512 pixels
    page.get_by_role("button", name="Save the mask").click()
    opened.wait("dataset_message", "Mask of 001.png saved")
    [mask] = weighed.data.rglob(f"{name}/10_{name}/001.mask.png")
    assert mask.with_name("003.txt").read_text("utf-8").strip() == "ohwx bot, red hat"
    assert mask.with_name("004.txt").read_text("utf-8").strip() == "ohwx bot, running"
    shot(opened, "pictures")

    opened.click("dataset_use")
    page.locator(".blocktrain-train-set", has_text="24 pictures × 10 repeats").wait_for()
    shot(opened, "train")
    for field, value in {"network_weights": "OUT09-OUT11=1", "steps": 40, "dataset_size": 64}.items():
        opened.type(f"train_{field}", value)
    opened.wait("train_understood", "OUT09-OUT11 = 1")
    opened.click("train_start")
    page.wait_for_function(f"() => {STATE} === 'finished' && {STEP} === 40")
    assert opened.text("runs_head").startswith(name)

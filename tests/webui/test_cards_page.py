"""A LoRA's card and its tag in the WebUI's own page: Extra Networks, its editor, the editor of the tag, and our tab."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("playwright")

from tests.webui.page import Page
from tests.webui.running import LORA, pixels

CARDED = "blocktrain-carded"
OF_OTHERS = {
    "description": "mine",
    "activation text": "a fox",
    "preferred weight": 0,
    "notes": "kept",
    "from another program": {"a": [1, 2.5]},
}
WAIT = "() => document.querySelector('#txt2img_prompt textarea').value"


@pytest.fixture(scope="module")
def card(webui, weighed):
    """A third LoRA, with a card in which another program wrote too."""
    path = webui.loras / f"{CARDED}.safetensors"
    path.write_bytes((webui.loras / f"{LORA}.safetensors").read_bytes())
    path.with_suffix(".json").write_text(json.dumps(OF_OTHERS), "utf-8")
    webui.call("/sdapi/v1/refresh-loras", {})
    return path.with_suffix(".json")


@pytest.fixture(scope="module")
def page(browser, weighed, card):
    weighed.call("/sdapi/v1/options", {"blocktrain_card_tag": True})
    opened = Page(browser, weighed)
    opened.small()
    yield opened
    opened.close()
    weighed.call("/sdapi/v1/options", {"blocktrain_card_tag": False})


def wait_for(page: Page, prompt: str) -> None:
    try:
        page.page.wait_for_function(f"expected => ({WAIT})().trim() === expected", arg=prompt)
    except Exception as error:
        raise AssertionError(f"{page.page.evaluate(WAIT)!r}: expected {prompt!r}") from error


def until(path, holds) -> dict:
    """Return a card as soon as it holds something; the WebUI writes into the file in place."""
    text = ""
    for _ in range(300):
        text = path.read_text("utf-8")
        with suppress(json.JSONDecodeError):
            found = json.loads(text)
            if holds(found):
                return found
        time.sleep(0.1)
    raise AssertionError(text)


def recommend(page: Page, **weights: float) -> None:
    """Press the tab's button, with these weights on the sliders."""
    for block_id, value in weights.items():
        page.drag(block_id, value)
    page.menu("share")
    page.click("recommend")


def networks(page: Page):
    """The card in Extra Networks."""
    page.tab("txt2img")
    page.page.click('#txt2img_extra_tabs > .tab-nav > button:text-is("Lora")')
    found = page.page.locator(f'#txt2img_lora_cards .card[data-name="{CARDED}"]')
    if not found.count():  # Neo has listed the files at its start
        page.page.locator("#txt2img_lora_extra_refresh").first.dispatch_event("click")
    found.wait_for()
    return found


def write_notes(page: Page, notes: str) -> None:
    """Write notes in the WebUI's own editor of the card, and save them."""
    found = networks(page)
    found.hover()
    found.locator(".edit-button").click()
    editor = page.page.locator("#txt2img_lora_edit_user_metadata")
    box = editor.get_by_label("Notes")
    box.wait_for()
    page.page.wait_for_function(
        "name => document.querySelector('#txt2img_lora_edit_user_metadata').innerText.includes(name)", arg=CARDED
    )
    box.fill(notes)
    editor.locator('button:text-is("Save")').click()


def test_card_is_kept_by_both_editors_and_clicked(page, weighed, card):
    """The WebUI's editor keeps our keys, also those written after it has read the card, and we keep its."""
    page.ours()
    page.tick(CARDED)
    page.active(CARDED)
    recommend(page, IN07=0.25, OUT05=0.5)
    first = until(card, lambda found: "block weights" in found)
    assert {key: first[key] for key in OF_OTHERS} == OF_OTHERS
    write_notes(page, "from the WebUI")
    second = until(card, lambda found: found["notes"] == "from the WebUI")
    assert second["block weights"] == first["block weights"]
    assert second["from another program"] == OF_OTHERS["from another program"]
    page.ours()
    recommend(page, IN07=1, OUT05=0)
    third = until(card, lambda found: found["block weights"] != first["block weights"])
    ours = ("block weights", "block weights from")
    assert {k: v for k, v in third.items() if k not in ours} == {k: v for k, v in second.items() if k not in ours}
    write_notes(page, "again")
    fourth = until(card, lambda found: found["notes"] == "again")
    assert {**fourth, "notes": third["notes"]} == third

    page.prompt("")
    page.page.locator("#txt2img_lora_extra_refresh").first.dispatch_event("click")
    page.page.wait_for_selector(f'#txt2img_lora_cards .card[data-name="{CARDED}"][onclick*="bw=card"]')
    networks(page).click()
    wait_for(page, f"<lora:{CARDED}:1:bw=card> a fox")
    networks(page).click()  # a second time takes it out again
    page.page.wait_for_function(f"!({WAIT})().includes('lora')")


def test_the_tags_editor(page):
    """Beside the WebUI's own keys: what is written, undone, and closed."""
    page.tab("txt2img")
    page.page.click('#txt2img_extra_tabs > .tab-nav > button:text-is("Generation")')
    before = f"a fox <lora:{CARDED}:1:bw=card>, blue background"
    area, box = page.page.locator("#txt2img_prompt textarea"), page.page.locator(".blocktrain-tag-pop")
    page.prompt(before)
    area.evaluate("(area, at) => { area.focus(); area.setSelectionRange(at, at); }", before.index(">"))
    page.page.keyboard.press("Alt+b")
    box.wait_for()
    assert box.get_by_role("slider", name="OUT05", exact=True).input_value() == "0"
    box.get_by_role("slider", name="OUT03", exact=True).focus()
    page.page.keyboard.press("0")
    changed = before.replace("=card", "=card,OUT03=0")
    wait_for(page, changed)
    box.get_by_role("combobox").select_option("OUTD")
    wait_for(page, before.replace("=card", "=OUTD"))
    page.page.keyboard.press("Escape")
    box.wait_for(state="detached")
    assert page.page.evaluate("document.activeElement === document.querySelector('#txt2img_prompt textarea')")
    for expected in (changed, before):
        page.page.keyboard.press("Control+z")
        wait_for(page, expected)
    area.click(button="right", position={"x": 120, "y": 12})
    box.wait_for()
    page.page.keyboard.press("Escape")
    box.wait_for(state="detached")


def test_to_the_tab_and_back(page, weighed):
    """Prompt, size, sampler and the like from txt2img, and the pictures' prompt back with the tag."""
    page.tab("txt2img")
    page.small(seed=7)
    page.prompt("a photo of a fox in the snow")
    page.page.fill("#txt2img_neg_prompt textarea", "blurry")
    page.ours()
    page.page.click("#blocktrain [data-from-txt2img]")
    page.wait("status", "Taken from txt2img")
    assert (page.box("prompt"), page.box("negative")) == ("a photo of a fox in the snow", "blurry")
    taken = [page.box(name) for name in ("width", "height", "steps", "seed", "sampler")]
    assert taken == ["64", "64", "4", "7", "Euler"]
    page.drag("OUT05", 0.5)
    page.preview()
    page.page.click("#blocktrain [data-to-txt2img]")
    page.page.wait_for_function(f"({WAIT})().includes('bw=')")
    sent = page.page.evaluate(WAIT)
    assert sent.startswith(f"a photo of a fox in the snow <lora:{CARDED}:1:bw=")
    drawn = page.page.locator("#blocktrain_pictures figure[data-arm=weights] img").get_attribute("src")
    assert page.page.input_value("#txt2img_neg_prompt textarea") == "blurry"
    tagged = weighed.pixels(sent, seed=7, negative_prompt="blurry").astype(int)
    assert np.abs(tagged - pixels(drawn.split(",", 1)[1])).max() <= 2  # merged weights, and hooks


def test_a_preset_of_the_tab_is_in_the_accordions_menu(page):
    page.ours()
    name = f"SAVED-{time.time_ns()}"
    page.save_preset(name)
    page.tab("txt2img")
    page.accordion()
    page.pick("#blocktrain_txt2img_preset", name)
    page.page.wait_for_function(
        "name => document.querySelector('#blocktrain_txt2img_text textarea').value === name", arg=name
    )

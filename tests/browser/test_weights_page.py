"""The map and the table of sliders as one, and the menus of presets and of copying, in Chromium."""

from __future__ import annotations

import json
import time

import pytest

from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.lora_selection import LoraEntry

pytestmark = pytest.mark.long

MAP = "#blocktrain_u_weights"
BLOCK = MAP + " [data-block={}]"
ROW = "#blocktrain_w_{}"
SLIDER = "() => document.querySelector('#blocktrain_w_{} input[type=range]').value == '{}'"
LINE = f"{MAP} .blocktrain-u-info"


@pytest.fixture
def page(opened):
    opened.wait("model_line", "25 blocks")
    opened.page.wait_for_selector(f"{MAP}[data-subject=robot] .blocktrain-u-block[tabindex='0']")
    opened.page.wait_for_selector("[data-preset=OUTD]", state="attached")
    opened.page.wait_for_timeout(300)  # the first weights are all there
    return opened.page


def chosen(page) -> list[str]:
    """The blocks that are selected, on the map as in the table."""
    blocks = page.evaluate(f"[...document.querySelectorAll('{MAP} .blocktrain-u-chosen')].map((b) => b.dataset.block)")
    rows = page.evaluate(
        "[...document.querySelectorAll('#blocktrain_weights [data-blocktrain~=chosen]')].map((r) => r.id.slice(13))"
    )
    assert sorted(blocks) == sorted(rows)
    return blocks


def choose(page, *block_ids: str) -> None:
    for number, block_id in enumerate(block_ids):
        page.locator(BLOCK.format(block_id)).click(modifiers=["Control"] if number else [])
    assert chosen(page) == list(block_ids)


def is_one(page, block_id: str) -> None:
    page.wait_for_function(SLIDER.format(block_id, 1))


def test_a_selection_ends_with_a_click_elsewhere_and_with_escape(opened, page):
    choose(page, "OUT03", "OUT04")
    page.locator("#blocktrain_prompt textarea").click()
    assert chosen(page) == []
    choose(page, "OUT03", "OUT04")
    page.locator("#blocktrain_prompt textarea").focus()
    page.keyboard.press("Escape")
    assert chosen(page) == []
    choose(page, "OUT03", "OUT04")
    page.locator(f"{ROW.format('OUT09')} input[type=range]").click()
    assert chosen(page) == []
    choose(page, "OUT03", "OUT04")
    page.click(f"{MAP} [data-tool=zero]")  # the tools are for what is selected
    assert chosen(page) == ["OUT03", "OUT04"]
    assert [opened.weight(block_id) for block_id in ("OUT03", "OUT04", "OUT05")] == [0, 0, 1]


@pytest.mark.parametrize("way", ["menu", "paste", "card", "lora"])
def test_a_selection_ends_when_weights_are_loaded(opened, page, way):
    """Otherwise a forgotten one would drag all its blocks along."""
    choose(page, "OUT03", "OUT04")
    if way == "menu":
        page.evaluate("document.querySelector('[data-preset=OUTD]').click()")  # no press that would end it
    elif way == "card":
        page.evaluate("document.querySelector('.blocktrain-card[data-name=OUTD] [data-use]').click()")
    elif way == "paste":
        page.evaluate("blocktrain.showPaste('OUTD')")
        opened.wait("understood", "Understood as preset")
        page.evaluate("document.querySelector('button#blocktrain_apply, #blocktrain_apply button').click()")
    else:
        opened.tick("style")
        page.wait_for_selector(f"{MAP}[data-subject=style]")
    if way != "lora":
        page.wait_for_function(SLIDER.format("OUT09", 0))
    page.wait_for_function(f"() => !document.querySelector('{MAP} .blocktrain-u-chosen')")
    assert chosen(page) == []


def test_a_row_and_its_block_are_one(opened, page):
    page.locator(f"{ROW.format('OUT10')} label").click()
    assert chosen(page) == ["OUT10"]
    page.locator(f"{ROW.format('IN04')} label").click(modifiers=["Control"])
    assert chosen(page) == ["IN04", "OUT10"]
    page.locator(f"{ROW.format('OUT06')} input[type=range]").hover()
    page.wait_for_selector(BLOCK.format("OUT06") + ".blocktrain-u-pointed")
    assert page.locator(LINE).inner_text().startswith("OUT06 1 preset 1 · 32×32 · ")
    page.locator(BLOCK.format("IN05")).hover()
    page.wait_for_selector(f"{ROW.format('IN05')}[data-blocktrain~=pointed]")
    page.locator(BLOCK.format("IN00")).hover()
    assert page.locator(LINE).inner_text() == "IN00 no layers in this LoRA"


def test_what_has_changed_from_the_preset_is_told(opened, page):
    opened.preset("OUTD")
    name, changed = page.locator(".blocktrain-preset-name"), page.locator(".blocktrain-preset-changed")
    assert (name.inner_text(), changed.inner_text()) == ("OUTD", "")
    page.mouse.move(5, 5)
    assert "others 0" in page.locator(LINE).inner_text()
    opened.drag("IN08", -0.4)
    opened.type("w_OUT10", "1.3")
    changed.get_by_text("2 changed").wait_for()
    assert name.inner_text() == "OUTD"  # a typed number is a change, not other weights
    assert page.locator(LINE).inner_text() == "2 changed IN08 0 → −0.4, OUT10 0 → 1.3"
    row = page.locator(ROW.format("OUT10"))
    bold = "row => getComputedStyle(row.querySelector('input[type=number]')).fontWeight"
    tick = "row => getComputedStyle(row, '::after').content"
    assert (row.evaluate(bold), row.evaluate(tick)) == ("700", '""')
    assert page.locator(ROW.format("OUT09")).evaluate(tick) == "none"
    page.click(f"{MAP} [data-tool=diff]")
    assert (row.evaluate(bold), row.evaluate(tick)) == ("400", "none")
    opened.menu("presets")
    page.get_by_role("button", name="Back to OUTD").click()
    assert [opened.weight(block_id) for block_id in ("IN08", "OUT10")] == [0, 0]
    assert changed.inner_text() == ""
    page.click(f"{MAP} [data-tool=undo]")
    assert changed.inner_text() == "2 changed"
    page.click(f"{MAP} [data-tool=undo]")
    page.click(f"{MAP} [data-tool=undo]")
    page.click(f"{MAP} [data-tool=undo]")
    assert (name.inner_text(), changed.inner_text()) == ("ALL", "")  # the preset comes back with its weights


def test_each_lora_has_its_own_preset(opened, page):
    opened.preset("OUTD")
    opened.drag("IN08", 0.5)
    opened.tick("style")
    page.wait_for_selector(f"{MAP}[data-subject=style] .blocktrain-u-block[tabindex='0']")
    page.wait_for_timeout(300)
    opened.preset("INALL")
    assert page.locator(".blocktrain-preset-name").inner_text() == "INALL"
    opened.row("robot").locator(".blocktrain-lora-t").click()
    page.wait_for_selector(f"{MAP}[data-subject=robot]")
    page.locator(".blocktrain-preset-name").get_by_text("OUTD").wait_for()
    page.locator(".blocktrain-preset-changed").get_by_text("1 changed").wait_for()


def test_a_preset_is_saved_over_renamed_and_deleted(opened, page):
    name = f"own-{time.time_ns()}"
    opened.drag("OUT05", 0.15)
    opened.save_preset(name)
    shown = page.locator(".blocktrain-preset-name")
    assert shown.inner_text() == name
    page.keyboard.press("Escape")
    opened.drag("OUT05", 0.25)
    opened.menu("presets")
    assert page.locator("#blocktrain_preset_message").first.is_hidden()  # what was said before is over
    page.get_by_role("button", name=f"Save over {name}").click()
    opened.wait("preset_message", f"Saved {name}")
    page.wait_for_function("() => !document.querySelector('.blocktrain-preset-changed').textContent")
    opened.type("preset_name", f"{name}b")
    opened.click("preset_rename")
    opened.wait("preset_message", f"renamed to {name}b")
    shown.get_by_text(f"{name}b").wait_for()
    opened.click("preset_delete")
    opened.wait("preset_message", "Deleted")
    shown.get_by_text("Own weights").wait_for()
    assert opened.weight("OUT05") == 0.25


CHANGES = "#blocktrain_weight_changes textarea"


def drawn(opened) -> BlockWeights | LayerWeights:
    """Press Draw; return the weights under which the LoRA that is shown was drawn."""
    opened.preview()
    stored = json.loads(opened.page.get_attribute("#blocktrain_pictures .blocktrain-pictures", "data-values"))
    one = next(lora for lora in stored["loras"] if lora["lora"] == stored["active"])
    return LoraEntry(1.0, one["weights"], changes=one.get("changes", "")).acting("sd1")


def changes_are(page, text: str) -> None:
    page.wait_for_function(f"text => document.querySelector('{CHANGES}').value === text", arg=text)


@pytest.mark.both_gradios
@pytest.mark.parametrize(
    ("way", "text"),
    [("menu", "OUTD,OUT03.attn2=0.5"), ("card", "OUT=0.125,BASE=0.375,IN02.ff=0.333,start=2")],
    ids=["menu", "card"],
)
def test_a_preset_is_used_whole(opened, page, text, way):
    """With its weights for kinds of layers and steps, in place of those that were there, and as fine as it is."""
    opened.small()
    name = f"own-{time.time_ns()}"
    opened.paste(text)
    opened.wait("understood", "Understood as")
    opened.click("apply")
    opened.save_preset(name)
    page.wait_for_selector(f"[data-preset='{name}']")

    def use(preset: str) -> None:
        if way == "menu":
            opened.preset(preset)
        else:
            page.evaluate(f"document.querySelector(\".blocktrain-card[data-name='{preset}'] [data-use]\").click()")

    use("OUTALL")
    changes_are(page, "")
    page.locator("#blocktrain_weight_changes_said .blocktrain-note").wait_for(state="detached")
    assert drawn(opened) == parse("OUTALL", "sd1").weights
    use(name)
    changes_are(page, parse(text, "sd1", layers=True).layers.changes)
    opened.wait("weight_changes_said", "in place of the sliders")
    assert drawn(opened) == parse(text, "sd1", layers=True).acting
    assert page.locator(".blocktrain-preset-name").inner_text() == name
    assert page.locator(".blocktrain-preset-changed").inner_text() == ""
    assert parse(opened.copy("line"), "sd1", layers=True).acting == parse(text, "sd1", layers=True).acting


def test_what_a_preset_has_beside_the_sliders_is_its_too(opened, page):
    """A change there counts, is saved over, and is taken back with the preset and with the steps of the map."""
    name, changed = f"own-{time.time_ns()}", page.locator(".blocktrain-preset-changed")
    opened.paste("OUTD,OUT03.attn2=0.5")
    opened.wait("understood", "Understood as")
    opened.click("apply")
    opened.save_preset(name)
    opened.preset(name)
    opened.type("weight_changes", "start=5")
    changed.get_by_text("1 changed").wait_for()
    opened.menu("presets")
    page.get_by_role("button", name=f"Back to {name}").click()
    changes_are(page, "OUT03.attn2=0.5")
    assert changed.inner_text() == ""
    opened.preset("OUTALL")
    changes_are(page, "")
    page.click(f"{MAP} [data-tool=undo]")
    changes_are(page, "OUT03.attn2=0.5")
    page.click(f"{MAP} [data-tool=redo]")
    changes_are(page, "")
    opened.type("weight_changes", "start=5")
    opened.drag("OUT05", 0.5)
    page.click(f"{MAP} [data-tool=undo]")
    assert page.locator(CHANGES).input_value() == "start=5"  # no step of the map
    opened.preset(name)
    opened.type("weight_changes", "stop=9")
    changed.get_by_text("1 changed").wait_for()
    opened.menu("presets")
    page.get_by_role("button", name=f"Save over {name}").click()
    opened.wait("preset_message", f"Saved {name}")
    opened.preset("OUTALL")
    opened.preset(name)
    changes_are(page, "stop=9")


def test_pasting_a_block_alone(opened, page):
    opened.paste("OUT09")
    opened.wait("understood", "OUT09 is read as OUT09=1")
    opened.click("apply")
    page.wait_for_function(SLIDER.format("OUT08", 0))
    assert opened.weight("OUT09") == 1
    page.locator(LINE).get_by_text("Pasted").wait_for()
    assert page.locator("[data-open]").count() == 0
    steps = page.locator("#blocktrain_weight_changes textarea")
    assert not steps.is_visible()
    opened.paste("ALL,start=3")
    opened.wait("understood", "start=3")
    opened.click("apply")
    steps.wait_for()  # its fold opens
    assert steps.input_value() == "start=3"


def test_pasting_an_unknown_preset_names_three(opened, page):
    opened.paste("OUTDD")
    opened.wait("understood", "unknown preset 'OUTDD': did you mean OUTD or OUTS or OUTALL?")


def test_what_cannot_be_copied_copies_nothing(opened, page):
    assert opened.copy("tag") == "<lora:robot:1:bw=ALL>"
    opened.drag("OUT05", -0.5)
    assert opened.copy("tag") == "<lora:robot:1:bw=ALL,OUT05=-0.5>"
    page.evaluate("navigator.clipboard.writeText('before')")
    opened.menu("share")
    opened.click("copy_kohya")
    opened.wait("share_message", "a learning rate cannot be negative")
    assert page.evaluate("navigator.clipboard.readText()") == "before"
    page.keyboard.press("Escape")
    opened.menu("share")
    assert page.locator("#blocktrain_share_message").first.is_hidden()


def test_where_nothing_can_be_copied_the_text_is_shown(opened, page):
    page.evaluate("blocktrain.copy = async () => false")
    opened.menu("share")
    opened.click("copy_line")
    box = page.locator(".blocktrain-share-text textarea")
    box.wait_for()
    assert box.input_value().startswith("ALL:1,1,")
    assert page.evaluate("getSelection().toString() || document.activeElement.value").startswith("ALL:1,1,")


@pytest.mark.parametrize("name", ["presets", "share"])
@pytest.mark.parametrize("width", [1400, 900, 390])
def test_menus_close_and_stay_in_their_pane(opened, page, name, width):
    page.set_viewport_size({"width": width, "height": 900})
    if width < 900:
        page.click("[data-segment=weights]")
    menu = f"#blocktrain_menu_{name}"
    opened.menu(name)
    pop = page.locator(f"{menu} .blocktrain-pop")
    inside = """pop => {
        const [box, pane] = [pop, pop.closest(".blocktrain-pane")].map((each) => each.getBoundingClientRect());
        return box.left >= pane.left && box.right <= pane.right && pop.scrollWidth <= pop.clientWidth;
    }"""
    assert pop.evaluate(inside)
    page.keyboard.press("Escape")
    assert pop.is_hidden()
    opened.menu(name)
    page.locator("#blocktrain_weights_of").click()
    assert pop.is_hidden()


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_covers_the_sliders(opened, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    if width < 900:
        page.click("[data-segment=weights]")
    covered = page.evaluate(
        """() => [...document.querySelectorAll("#blocktrain_weights [id^=blocktrain_w_]")].filter((row) => {
            const range = row.querySelector("input[type=range]");
            const shown = range.checkVisibility() ? range : row;
            if (!row.checkVisibility()) {
                return false;
            }
            shown.scrollIntoView({ block: "center" });
            const box = shown.getBoundingClientRect();
            const there = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            const struck = (each) => getComputedStyle(each).textDecorationLine !== "none";
            return !row.contains(there) || [row, ...row.querySelectorAll("*")].some(struck);
        }).map((row) => row.id)"""
    )
    assert covered == []
    heights = page.evaluate(
        "[...document.querySelectorAll('#blocktrain_weights [id^=blocktrain_w_]')].map((r) => r.clientHeight)"
    )
    assert set(heights) == ({20} if width > 900 else {36, 0})


def test_map_and_sliders_fit_together_on_a_desktop(opened, page):
    page.set_viewport_size({"width": 1400, "height": 900})
    first, last = (
        page.locator("#blocktrain_menu_presets").bounding_box(),
        page.locator(ROW.format("BASE")).bounding_box(),
    )
    assert last["y"] + last["height"] - first["y"] < 620  # of 802 below the bars: two LoRAs stand above


def test_less_than_0_and_more_than_1_differ_at_a_glance(opened, page):
    opened.drag("OUT05", -0.5)
    opened.drag("OUT06", 1.5)
    style = "block => [getComputedStyle(block).backgroundImage.slice(0, 25), getComputedStyle(block, '::before').right]"
    hatch, from_right = page.locator(BLOCK.format("OUT05")).evaluate(style)
    assert hatch.startswith("repeating-linear-gradient")
    assert from_right == "0px"
    over = page.locator(BLOCK.format("OUT06"))
    assert over.evaluate("block => getComputedStyle(block, '::after').height") == "4px"
    assert page.locator(BLOCK.format("OUT07")).evaluate("b => getComputedStyle(b, '::after').content") == "none"
    bar = "row => getComputedStyle(row.querySelector('input[type=range]')).backgroundImage"
    assert "repeating-linear-gradient" in page.locator(ROW.format("OUT05")).evaluate(bar)
    ends = "row => ['from', 'to'].map((end) => Number(row.style.getPropertyValue(`--blocktrain-${end}`)))"
    assert page.locator(ROW.format("OUT05")).evaluate(ends) == pytest.approx([0.1667, 0.3333])
    assert page.locator(ROW.format("OUT06")).evaluate(ends) == pytest.approx([0.3333, 0.8333])
    assert page.locator(BLOCK.format("OUT05")).locator(".blocktrain-u-weight").inner_text() == "−0.5"

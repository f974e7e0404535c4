"""The place Analyse in Chromium: from a question to the sliders of Preview."""

from __future__ import annotations

import json

import pytest

AS_PROMISED = """promised => Object.entries(promised).every(
    ([block, weight]) => Number(document.querySelector(`#blocktrain_w_${block} input[type=range]`).value) === weight)"""
ENDED = "document.querySelector('#blocktrain_analyse_status [data-ended]') !== null"


def test_from_a_box_to_the_sliders(opened):
    opened.small()  # the analysis' size, too
    opened.go("Analyse")
    uses = "button:is(#blocktrain_analyse_sliders, #blocktrain_solve_sliders), #blocktrain_menu_analyse_preset"
    assert not any(use.is_visible() for use in opened.page.locator(uses).all())  # nothing is found yet
    opened.type("analyse_prompts", "a photo of a large robot, blue background")
    opened.type("analyse_seeds", "0")
    method = opened.page.locator("#blocktrain_analyse_method input")
    method.click()
    method.fill("fast")  # in place of what is chosen
    opened.page.click("#blocktrain_analyse_method [data-testid=dropdown-option][aria-label='fast']")
    opened.page.locator("#blocktrain_analyse_kind label", has_text="Box").locator("input").click()
    opened.type("analyse_box", "0.25,0.25,0.75,0.75")
    opened.click("analyse")
    opened.page.wait_for_function(ENDED)
    opened.wait("analyse_status", "the box 0.25,0.25,0.75,0.75: done")
    rows = opened.page.locator("#blocktrain_analyse_bars ul.blocktrain-bars li").all()
    assert len(rows) == 17  # BASE and the sixteen blocks with attention
    opened.wait("analyse_bars", "The feature fills 25% of the picture")
    assert opened.page.locator("#blocktrain_u_analyse").count() == 1

    opened.wait("analyse_weights", "of the effect")
    shown = "document.querySelector('#blocktrain_u_analyse').dataset.weights"
    before = opened.page.evaluate(shown)
    slider = opened.page.locator("#blocktrain_analyse_keep input[type=range]")
    assert slider.get_attribute("max") == "16"
    slider.fill("3")
    assert (
        len(opened.page.locator("#blocktrain_analyse_bars .blocktrain-is-kept").all()) == 3
    )  # before the server answers
    opened.page.wait_for_function(f"before => {shown} !== before", arg=before)
    promised = json.loads(opened.page.evaluate(shown))
    assert sum(value for block, value in promised.items() if block != "BASE") == 3
    assert opened.page.locator("#blocktrain_analyse_keep input[type=range]").input_value() == "3"

    opened.page.wait_for_function("() => blocktrain.recall('analyse')?.analyse_amount === 3")
    opened.page.reload()  # the result was there, without its slider, and with the number of blocks to begin with
    opened.page.locator("#blocktrain_analyse_keep input[type=range]").wait_for()
    assert opened.page.locator("#blocktrain_analyse_keep input[type=range]").input_value() == "3"
    assert json.loads(opened.page.evaluate(shown)) == promised

    first = opened.page.locator("#blocktrain_analyse_bars ul.blocktrain-bars li").first
    strongest = first.get_attribute("data-block")
    opened.page.click("#blocktrain_analyse_bars [data-order=place]")
    assert first.get_attribute("data-place") == "0"
    opened.page.click("#blocktrain_analyse_bars [data-order=rank]")
    assert first.get_attribute("data-block") == strongest

    opened.click("analyse_sliders")
    opened.page.locator("#blocktrain_draw").first.wait_for()  # Preview is shown
    opened.wait("status", "pictures drawn")  # and draws at once
    opened.page.wait_for_function(AS_PROMISED, arg=promised)
    assert {block: opened.weight(block) for block in promised} == promised

    opened.go("Analyse")  # and by a search, for the same box
    opened.type("solve_pictures", "1")
    opened.type("solve_budget", "200")
    opened.click("solve")
    opened.page.wait_for_function(ENDED.replace("analyse_status", "solve_status"))
    opened.wait("solve_status", "of 200 U-Net evaluations on 1 pictures")
    place = opened.page.locator("#blocktrain_solve_front input[type=range]")
    place.fill("0")  # the LoRA as it is
    opened.page.wait_for_function(f"Object.values(JSON.parse({shown})).every(weight => weight === 1)")
    assert opened.page.locator("#blocktrain_solve_front img").get_attribute("src").startswith("data:image/png")
    place.fill(place.get_attribute("max"))
    opened.page.wait_for_function(f"Object.values(JSON.parse({shown})).some(weight => weight < 1)")
    promised = json.loads(opened.page.evaluate(shown))
    opened.click("solve_sliders")
    opened.page.locator("#blocktrain_draw").first.wait_for()
    opened.page.wait_for_function(AS_PROMISED, arg=promised)


@pytest.mark.long
def test_a_picture_to_paint_on(opened):
    """Drawn by the host, shown where one paints; without paint there is nothing to analyse."""
    opened.go("Analyse")
    opened.type("analyse_prompts", "a photo of a large robot, blue background")
    opened.page.locator("#blocktrain_analyse_kind label", has_text="Paint").locator("input").click()
    opened.click("analyse_draw")
    opened.wait("analyse_status", "Paint over the feature")
    canvas = opened.page.locator("#blocktrain_analyse_drawing canvas")
    canvas.wait_for()
    opened.click("analyse")
    opened.wait("analyse_status", "nothing is drawn")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 5)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] - 5)
    opened.page.mouse.up()
    opened.page.wait_for_function(
        "() => document.querySelector('#blocktrain_analyse_painted :is(textarea, input)')"
        ".value.startsWith('[[0.06,0.2')"
    )
    opened.click("analyse")
    opened.wait("analyse_status", "done in")


@pytest.mark.long
def test_a_page_comes_to_rest(opened):
    """No canvas, spinner or animation is drawn again and again: the GPU is for pictures."""
    opened.page.evaluate(
        "() => { window.frames_asked = 0; const ask = window.requestAnimationFrame;"
        " window.requestAnimationFrame = (call) => { window.frames_asked++; return ask(call); }; }"
    )
    asked = []
    while len(asked) < 20 and (not asked or asked[-1] > 5):
        opened.page.evaluate("window.frames_asked = 0")
        opened.page.wait_for_timeout(1000)
        asked.append(opened.page.evaluate("window.frames_asked"))
    assert asked[-1] <= 5, f"frames asked for in each second: {asked}"
    assert opened.page.evaluate("document.getAnimations().length") == 0


def test_what_is_wrong_is_said(opened):
    opened.go("Analyse")
    opened.type("analyse_seeds", "one")
    opened.click("analyse")
    opened.wait("analyse_status", "expected whole numbers with commas")
    opened.type("analyse_cfg", "")
    opened.click("analyse")
    opened.wait("analyse_status", "CFG None: expected a number from 0 to 30")


@pytest.mark.both_gradios
@pytest.mark.long
def test_a_number_on_its_way_to_another_is_no_error(opened):
    """gradio said "Value 7 is less than minimum value 64" every five seconds, and the page remembered nothing."""
    opened.type("width", "7")
    opened.page.wait_for_function("() => blocktrain.recall('preview')?.width === 7")
    opened.click("draw")
    opened.wait("status", "width 7: expected")
    assert opened.page.locator(".toast-body").count() == 0

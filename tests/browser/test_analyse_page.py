"""The place Analyse in Chromium, under both gradio versions: from a question to the sliders of Preview."""

from __future__ import annotations

ENDED = "document.querySelector('#blocktrain_analyse_status [data-ended]') !== null"


def test_from_a_box_to_the_sliders(opened):
    opened.go("Analyse")
    opened.type("analyse_prompts", "a photo of a large robot, blue background")
    opened.type("analyse_seeds", "0")
    method = opened.page.locator("#blocktrain_analyse_method input")
    method.click()
    method.fill("fast")  # in place of what is chosen
    opened.page.click("#blocktrain_analyse_method [data-testid=dropdown-option][aria-label='fast']")
    opened.page.locator("#blocktrain_analyse_kind label", has_text="a box").locator("input").click()
    opened.type("analyse_box", "0.25,0.25,0.75,0.75")
    opened.click("analyse")
    opened.page.wait_for_function(ENDED)
    opened.wait("analyse_status", "the box 0.25,0.25,0.75,0.75: done")
    rows = opened.page.locator("#blocktrain_analyse_bars svg.blocktrain-bars g").all()
    assert len(rows) == 17  # BASE and the sixteen blocks with attention
    opened.wait("analyse_bars", "The feature fills 25% of the picture")
    assert opened.page.locator("#blocktrain_u_analyse").count() == 1

    opened.type("analyse_amount", "50")
    opened.click("analyse_sliders")
    opened.page.locator("#blocktrain_draw").first.wait_for()  # Preview is shown
    weights = {f"OUT{n:02}": opened.weight(f"OUT{n:02}") for n in range(12)}
    assert set(weights.values()) == {0.0, 1.0}


def test_a_picture_to_paint_on(opened):
    """Drawn by the host, shown where one paints; without paint there is nothing to analyse."""
    opened.go("Analyse")
    opened.type("analyse_prompts", "a photo of a large robot, blue background")
    opened.page.locator("#blocktrain_analyse_kind label", has_text="drawn on").locator("input").click()
    opened.click("analyse_draw")
    opened.wait("analyse_status", "Paint over the feature")
    opened.page.locator("#blocktrain_analyse_drawing canvas").first.wait_for()
    opened.click("analyse")
    opened.wait("analyse_status", "nothing is drawn")


def test_what_is_wrong_is_said(opened):
    opened.go("Analyse")
    opened.type("analyse_seeds", "one")
    opened.click("analyse")
    opened.wait("analyse_status", "expected whole numbers with commas")

"""The page's frame: the bar stays in sight, the keyboard reaches all places, and a reload loses nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from journeys import Opened
from test_train import STATE, STEP, fill

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = ("Preview", "Analyse", "Pictures", "Train", "Runs")
IN_SIGHT = """name => {
    const box = document.querySelector(name).getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const hit = document.elementFromPoint(x, y);
    return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight && document.querySelector(name).contains(hit);
}"""
OVERFLOWS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
EMPTY_BOXES = """() => [...document.querySelectorAll('#blocktrain .form')].filter((box) =>
    box.getClientRects().length && ![...box.children].some((child) => child.getClientRects().length))
    .map((box) => [...box.children].map((child) => child.id).join(' '))"""
REMEMBERED = "Object.entries(sessionStorage).find(([key]) => key.startsWith('blocktrain '))"
VALUES = f"(JSON.parse(({REMEMBERED} ?? ['', '{{}}'])[1]).values ?? {{}})"


def come_back(opened: Opened) -> None:
    opened.page.reload()
    opened.page.wait_for_selector("#blocktrain_model_line .blocktrain-note")
    opened.page.wait_for_function(
        "() => ['preview', 'analyse', 'train'].every((place) => "
        "document.querySelector(`#blocktrain_kept_${place} .blocktrain-kept`))"
    )


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.long
def test_the_bar_is_in_sight_wherever_one_scrolls(opened, size):
    opened.page.set_viewport_size({"width": size[0], "height": size[1]})
    for place in PLACES:
        opened.go(place)
        for scroll in (0, 400, 100000):
            opened.page.evaluate("to => window.scrollTo(0, to)", scroll)
            opened.page.wait_for_timeout(150)
            name = f"#blocktrain_bar_{place.lower()}"
            assert opened.page.evaluate(IN_SIGHT, name), f"{name} after scrolling to {scroll}"
            assert opened.page.evaluate(IN_SIGHT, "#blocktrain_tab_runs"), f"the header of {place} at {scroll}"
        assert opened.page.evaluate(OVERFLOWS) <= 0, place


@pytest.mark.both_gradios
def test_what_nobody_sees_takes_no_room(opened):
    """The box around a hidden field pushed the model to the left; on a phone one letter was left of it."""
    for width, others in ((1280, 70), (390, 20)):
        opened.page.set_viewport_size({"width": width, "height": 844})
        for place in PLACES:
            opened.go(place)
            assert opened.page.evaluate(EMPTY_BOXES) == [], place
        model = opened.page.locator("#blocktrain_model_line").first.bounding_box()
        assert model["x"] + model["width"] > width - others
        assert model["width"] > 120


@pytest.mark.long
def test_another_place_begins_at_its_top(opened):
    opened.page.set_viewport_size({"width": 1280, "height": 500})
    opened.go("Train")
    opened.page.evaluate("window.scrollTo(0, 600)")
    assert opened.page.evaluate("window.scrollY") > 300
    opened.go("Analyse")
    opened.page.wait_for_function("() => window.scrollY < 5")


@pytest.mark.long
def test_the_places_are_one_set_of_tabs_for_the_keyboard(opened):
    tabs = opened.page.get_by_role("tab")
    assert [tab.inner_text() for tab in tabs.all()] == list(PLACES)
    opened.page.locator("#blocktrain_tab_preview").focus()
    for key, place in (("ArrowRight", "analyse"), ("End", "runs"), ("ArrowRight", "preview"), ("ArrowLeft", "runs")):
        opened.page.keyboard.press(key)
        opened.page.wait_for_selector(f"#blocktrain_bar_{place}")
        chosen = opened.page.locator("#blocktrain_place_tabs [aria-selected=true]")
        assert chosen.get_attribute("id") == f"blocktrain_tab_{place}"
        assert opened.page.evaluate("document.activeElement.id") == f"blocktrain_tab_{place}"
        assert opened.page.locator("#blocktrain_place_tabs [tabindex='0']").count() == 1
    panel = opened.page.locator("#blocktrain_place_runs")
    assert (panel.get_attribute("role"), panel.get_attribute("aria-labelledby")) == ("tabpanel", "blocktrain_tab_runs")


@pytest.mark.both_gradios
def test_ctrl_enter_draws_with_what_was_just_typed(opened):
    opened.small()
    box = opened.page.locator("#blocktrain_seed input")
    box.fill("4242")
    box.press("Control+Enter")
    opened.wait("status", "of 3 pictures drawn, seed 4242")


@pytest.mark.long
def test_escape_cancels_a_drawing(opened):
    opened.type("steps", 150)
    opened.click("draw")
    opened.wait("status", "step")
    opened.page.wait_for_function("() => document.title.includes('%')")
    opened.page.keyboard.press("Escape")
    opened.wait("status", "Cancelled")
    opened.page.wait_for_function("() => !document.title.includes('%')")


@pytest.mark.long
def test_the_list_of_shortcuts_opens_and_closes(opened):
    opened.page.locator("#blocktrain_prompt textarea").press("?")  # a letter of the prompt
    assert not opened.page.locator("#blocktrain_shortcuts").count()
    opened.page.locator("#blocktrain_tab_preview").focus()
    opened.page.keyboard.press("?")
    shown = opened.page.get_by_role("dialog", name="Keyboard")
    shown.wait_for()
    assert "Ctrl" in shown.inner_text()
    opened.page.keyboard.press("Escape")
    shown.wait_for(state="detached")


@pytest.mark.both_gradios
def test_a_click_before_the_values_are_back_acts_on_them(opened):
    """Such a click drew without the LoRA, with the prompt of a new page."""
    opened.small()
    opened.type("prompt", "kept in mind")
    opened.page.wait_for_function(f"() => {VALUES}.preview?.prompt === 'kept in mind'")
    questions, answered = [], []
    late = re.compile("predict|queue/join")
    opened.page.route(late, lambda route: route.continue_() if answered else questions.append(route))  # no answer yet
    opened.page.reload()
    opened.click("draw")
    opened.page.wait_for_selector("button.blocktrain-held")
    # what fills a place waits too: what was brought back there took the place of it
    opened.page.evaluate("document.querySelector('button#blocktrain_dataset_use_now').click()")
    opened.page.wait_for_selector("button#blocktrain_dataset_use_now.blocktrain-held", state="attached")
    answered.append(True)
    for route in questions:
        route.continue_()
    opened.page.wait_for_selector(f"{opened.css('status')} [data-ended]", state="attached")
    assert not opened.page.locator("button.blocktrain-held").count()
    shown = opened.page.locator("#blocktrain_pictures .blocktrain-pictures")
    drawn = json.loads(shown.get_attribute("data-values"))
    assert (drawn["prompt"], [one["lora"] for one in drawn["loras"]]) == ("kept in mind", ["robot"])


@pytest.mark.both_gradios
@pytest.mark.long
def test_a_click_after_the_values_are_back_goes_on_at_once(opened):
    """gradio 3 gives an id twice: places were counted by it, and each click waited 15 seconds for what was there."""
    opened.page.wait_for_function("['preview', 'analyse', 'train'].every(blocktrain.restored)")
    opened.small()
    opened.click("draw")
    assert not opened.page.locator("button.blocktrain-held").count()
    opened.wait("status", "pictures drawn")


@pytest.mark.both_gradios
def test_a_reload_brings_everything_back(opened):
    opened.drag("OUT05", 0.35)
    opened.tick("style")
    opened.active("style")
    opened.drag("OUT05", -0.45)
    opened.type("prompt", "a red <fox> & more")
    opened.type("width", 64)
    opened.go("Analyse")
    opened.type("analyse_seeds", "3, 4")
    opened.go("Train")
    opened.type("train_name", "kept")
    opened.type("train_steps", 77)
    opened.page.wait_for_function(f"() => {VALUES}.train?.train_form?.train_steps === 77")
    opened.page.wait_for_function(f"() => {VALUES}.analyse?.analyse_seeds === '3, 4'")
    come_back(opened)
    opened.page.wait_for_selector("#blocktrain_bar_train")
    assert (opened.box("train_name"), opened.box("train_steps")) == ("kept", "77")
    assert opened.box("analyse_seeds") == "3, 4"
    opened.go("Preview")
    opened.active("style")
    assert opened.box("prompt") == "a red <fox> & more"
    assert opened.box("width") == "64"
    assert opened.weight("OUT05") == -0.45
    opened.row("robot").locator(".blocktrain-lora-t").click()
    opened.active("robot")
    assert opened.weight("OUT05") == 0.35


@pytest.mark.long
def test_two_pages_do_not_overwrite_each_other(opened):
    other = opened.another()
    opened.type("prompt", "the first page")
    opened.page.wait_for_function(f"() => {VALUES}.preview?.prompt === 'the first page'")
    other.type("prompt", "the second page")
    other.page.wait_for_function(f"() => {VALUES}.preview?.prompt === 'the second page'")
    for page, prompt in ((opened, "the first page"), (other, "the second page")):
        come_back(page)
        assert page.box("prompt") == prompt
    third = opened.another()  # begins with what was set last
    assert third.box("prompt") in ("the first page", "the second page")
    assert not [*other.problems, *third.problems]


@pytest.mark.long
def test_two_pages_keep_what_each_has_changed(opened):
    """For the next new page: the page that wrote last put all that it knew in the place of what the other had kept."""
    stored = "() => JSON.parse(Object.entries(localStorage).find(([key]) => key.startsWith('blocktrain '))[1]).values"
    other = opened.another()
    for page, name in ((opened, "ours"), (other, "theirs")):
        page.page.evaluate("name => blocktrain.remember(name, [name])", name)
        page.page.wait_for_function(f"name => ({stored})()[name]", arg=name)
    third = opened.another()
    assert third.page.evaluate("['ours', 'theirs'].map(blocktrain.recall)") == [["ours"], ["theirs"]]
    third.page.evaluate("blocktrain.remember('ours', undefined)")
    third.page.wait_for_function(f"() => !(({stored})().ours)")
    other.page.evaluate("blocktrain.remember('theirs', 2)")
    other.page.wait_for_function(f"() => ({stored})().theirs === 2")
    assert "ours" not in other.page.evaluate(f"({stored})()")
    assert not [*other.problems, *third.problems]


@pytest.mark.parametrize(
    "stored",
    [
        "{oops",
        json.dumps({"version": 999, "values": {"place": "runs"}}),
        json.dumps({"version": 1, "values": {"preview": {"loras": [{"lora": 3}], "steps": ["x"], "prompt": {}}}}),
        json.dumps({"version": 1, "values": {"preview": 7, "place": "nowhere", "analyse": {"analyse_method": "none"}}}),
        json.dumps(
            {
                "version": 1,
                "values": {
                    "preview": {"loras": [{"lora": "gone", "strength": 1, "weights": {}}]},
                    "train": {"train_form": {"train_steps": "many"}, "train_rest": 3},
                },
            }
        ),
    ],
    ids=["no JSON", "another version", "wrong types", "wrong values", "a LoRA that is gone"],
)
@pytest.mark.long
def test_a_bad_stored_state_is_ignored_with_a_line_in_the_console(opened, stored):
    opened.page.wait_for_function(f"() => {VALUES}.preview")
    opened.page.wait_for_timeout(500)
    key = opened.page.evaluate(f"{REMEMBERED}[0]")
    opened.page.add_init_script(f"sessionStorage.setItem({json.dumps(key)}, {json.dumps(stored)})")
    lines: list[str] = []
    opened.page.on("console", lambda message: lines.append(message.text))
    come_back(opened)
    opened.page.wait_for_function("() => document.querySelector('#blocktrain_steps input').value === '20'")
    assert any("blocktrain:" in line for line in lines), lines
    assert opened.page.locator(".toast-body, .error").count() == 0


@pytest.mark.both_gradios
def test_the_console_stays_quiet(opened):
    lines: list[str] = []
    opened.page.on("console", lambda message: lines.append(message.text))
    for place in (*PLACES[1:], PLACES[0]):
        opened.go(place)
        opened.page.wait_for_timeout(300)
    opened.drag("OUT05", 0.2)
    opened.page.wait_for_timeout(1000)
    assert not [line for line in lines if "Too many arguments" in line]


@pytest.mark.both_gradios
@pytest.mark.long
def test_the_run_in_training_is_seen_everywhere(opened):
    fill(opened, "seen-everywhere")
    opened.page.keyboard.press("Control+Enter")
    opened.page.wait_for_function(f"() => {STATE} === 'training' && {STEP} >= 1")
    opened.go("Preview")
    chip = opened.page.locator("#blocktrain_job_chip button")
    chip.get_by_text("seen-everywhere").wait_for()
    opened.page.wait_for_function("() => /\\d+\\/20000/.test(document.querySelector('#blocktrain_job_chip').innerText)")
    opened.page.wait_for_function("() => document.title.includes('% seen-everywhere')")
    chip.click()
    opened.page.wait_for_selector("#blocktrain_bar_runs")
    assert "seen-everywhere" in opened.text("runs_head")
    opened.click("runs_stop_save")
    opened.page.wait_for_function("() => document.querySelector('#blocktrain_job_chip [data-state=stopped]')")
    opened.page.set_viewport_size({"width": 390, "height": 844})
    assert "stopped" in chip.inner_text()  # no sign alone


@pytest.mark.both_gradios
def test_a_phone_shows_one_part_at_a_time(opened):
    opened.page.set_viewport_size({"width": 390, "height": 844})
    parts = {"LoRAs": "section_loras", "Weights": "section_weights", "Prompt": "section_prompt"}
    for title, name in {**parts, "Pictures": "section_pictures"}.items():
        opened.page.click(f"#blocktrain_segs_preview button:text-is('{title}')")
        shown = [one for one in (*parts.values(), "section_pictures") if opened.page.is_visible(f"#blocktrain_{one}")]
        assert shown == [name]
        opened.page.wait_for_function(f"() => {OVERFLOWS} <= 0")
    sizes = opened.page.evaluate(
        "[...document.querySelectorAll('#blocktrain textarea')].map(e => getComputedStyle(e).fontSize)"
    )
    assert set(sizes) == {"16px"}


def test_the_scripts_share_an_object_of_their_own(browser):
    """Whichever is read first, even where the page with the element `blocktrain` was there before them."""
    page = browser.new_page()
    for script in sorted((ROOT / "javascript").glob("*.js")):
        page.goto("about:blank")
        page.set_content('<div id="blocktrain"></div>')
        page.add_script_tag(content=script.read_text("utf-8"))
        own = "Object.hasOwn(window, 'blocktrain') && !(window.blocktrain instanceof Node)"
        assert page.evaluate(own), script.name
    page.close()


@pytest.mark.parametrize("last_first", [False, True])
def test_the_scripts_are_read_one_after_the_other(browser, last_first):
    """As in a WebUI, with time between them, in any order, and elements to set up that are there before."""
    page, problems = browser.new_page(), []
    page.on("pageerror", lambda error: problems.append(f"{error}\n{error.stack}"))
    names = sorted((path.name for path in (ROOT / "javascript").glob("*.js")), reverse=last_first)
    tags = "".join(f'<script src="{name}"></script>' for name in names)
    places = "".join(
        f'<div class="blocktrain-dataset-{name}"></div>' for name in ("sets", "message", "aside", "pictures")
    )
    html = f'<div id="blocktrain">{places}</div>{tags}<div class="blocktrain-dataset-chosen"></div>'

    def answer(route) -> None:
        name = route.request.url.rpartition("/")[2]
        script = name.endswith(".js")
        body = (ROOT / "javascript" / name).read_text("utf-8") if script else html
        route.fulfill(body=body, content_type="text/javascript" if script else "text/html")

    page.route("**/*", answer)
    page.goto("http://blocktrain.example/")
    page.wait_for_function("document.querySelector('.blocktrain-dataset-chosen > *') !== null")
    page.close()
    assert problems == []

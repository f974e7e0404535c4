"""A user's room of 2,000 LoRAs in Chromium: nothing is blocked, overflows, is covered or leaves the screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from covered import faults, nothing_covered
from journeys import Opened, serving
from room import RUNS, make_room

pytestmark = pytest.mark.long

COUNT = 2000
PLACES = ("Analyse", "Pictures", "Train", "Runs", "Preview")
LISTED = "() => window.blocktrain?.loras?.store.files.size"


@pytest.fixture(scope="session")
def room(tmp_path_factory) -> Path:
    return make_room(tmp_path_factory.mktemp("room"), COUNT)


@pytest.fixture(scope="module")
def living(python, random_model, room):
    """The room's server; one gradio after the other, on the same index."""
    with serving(python, random_model, room) as address:
        yield address


@pytest.fixture(params=[390, 1280, 1900])
def visitor(browser, living, room, request):
    context = browser.new_context(viewport={"width": request.param, "height": 844 if request.param < 900 else 900})
    opened = Opened(None, living, room, context)
    yield opened
    opened.close()


def chosen(page) -> list[dict]:
    return json.loads(page.locator("#blocktrain_loras textarea").first.input_value())["loras"]


@pytest.mark.both_gradios
def test_a_day_in_the_room(visitor):
    page, narrow = visitor.page, visitor.page.viewport_size["width"] < 900
    page.wait_for_function("blocktrain.loras.store.architecture")
    assert page.evaluate(LISTED) == COUNT
    nothing_covered(page, "opened")

    search = page.locator(".blocktrain-picker [type=search]")
    search.click()
    page.locator(".blocktrain-lib-list .blocktrain-lora").nth(4).wait_for()
    assert page.locator(".blocktrain-lib-list .blocktrain-lora").count() < 60  # those in view alone
    box = page.locator(".blocktrain-lib-list").bounding_box()
    assert box["y"] >= 0
    assert narrow or box["y"] + box["height"] <= 900
    nothing_covered(page, "the library")

    search.press_sequentially("ink sd1 lora")
    page.wait_for_function("() => document.querySelector('.blocktrain-lib-all').offsetHeight < 2000 * 44")
    for _ in range(8):
        search.press("Enter")
        search.press("ArrowDown")
    page.wait_for_function("() => blocktrain.loras.store.loras.length === 8")
    assert len({one["key"] for one in chosen(page)}) == 8
    last = chosen(page)[-1]["key"]
    visitor.active(last)
    nothing_covered(page, "eight LoRAs")

    first = page.locator(".blocktrain-lib-list .blocktrain-lora").first
    first.locator(".blocktrain-lora-t").click()
    page.locator(".blocktrain-lib-card-b dl").first.wait_for()
    nothing_covered(page, "a card")
    for _ in range(3):
        page.keyboard.press("Escape")

    row = page.locator(".blocktrain-loras > li").nth(1)
    row.scroll_into_view_if_needed()
    row.locator(".blocktrain-num").fill("0.55")
    row.locator(".blocktrain-num").press("Tab")
    row.locator("[data-act=mute]").click()
    one = chosen(page)[1]
    assert (one["strength"], one["muted"]) == (0.55, True)
    row.locator(".blocktrain-lora-t").click()
    visitor.active(one["key"])
    nothing_covered(page, "weights of another")

    for place in PLACES:
        visitor.go(place)
        if place == "Runs":
            page.locator(f"text={RUNS - 1:02}").first.wait_for(state="attached")
        page.wait_for_timeout(300)
        nothing_covered(page, place)
    assert len(chosen(page)) == 8


def test_names_come_before_facts(browser, python, random_model, room, tmp_path):
    """A first start, without an index: the page has all names at once, and what the headers say when they are read."""
    (tmp_path / "loras").symlink_to(room / "loras", target_is_directory=True)
    with serving(python, random_model, tmp_path) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("() => window.blocktrain?.loras?.store.received")
        at_first = page.evaluate("blocktrain.loras.store.files.size")
        asked = "performance.getEntriesByType('resource').some((one) => one.name.includes('/loras/listing?since=0'))"
        assert page.evaluate(asked)  # not only when gradio has built the page
        page.wait_for_function("() => blocktrain.loras.store.complete")
        assert at_first == COUNT
        assert page.evaluate("[...blocktrain.loras.store.files.values()].every((file) => file.known)")
        broken = "[...blocktrain.loras.store.files.values()].filter((file) => file.problem).length"
        assert COUNT / 5 < page.evaluate(broken) < COUNT / 2
        page.close()
    assert (tmp_path / "out" / "cache" / "loras.json").is_file()


WRONG = {
    "wider than the screen": '<div style="width: 900px; height: 20px">x</div>',
    "overflows by": '<div style="width: 60px; white-space: nowrap">a text that does not fit into this box</div>',
    "px below": '<div style="width: 60px; height: 20px; overflow: hidden">a text that does not fit</div>',
    "is covered by": '<div style="position: relative"><button>press</button>'
    '<div style="position: absolute; inset: 0; background: red">over</div></div>',
    "leaves the screen": '<div style="position: absolute; left: -50px; width: 80px; height: 20px">out</div>',
}
RIGHT = """<h2>Heading</h2><button>press</button><div style="width: 60px; overflow: hidden; white-space: nowrap;
    text-overflow: ellipsis">a text that is cut with dots</div><div style="width: 80px; height: 40px; overflow: auto">
    <div style="width: 300px; height: 300px">scrolls <button>below</button></div></div>
    <div class="blocktrain-pop" style="position: absolute; top: 0; left: 0; width: 100px; height: 300px">menu</div>"""


@pytest.mark.parametrize("fault", WRONG)
def test_a_page_made_wrong_is_found_out(browser, fault):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content(f'<body style="margin: 0"><div id="blocktrain">{RIGHT}</div>')
    assert faults(page) == []
    page.set_content(f'<body style="margin: 0"><div id="blocktrain">{WRONG[fault]}</div>')
    assert any(fault in found for found in faults(page)), faults(page)
    with pytest.raises(AssertionError, match=fault):
        nothing_covered(page)
    assert faults(page, ("#blocktrain *",)) == ([] if "wider" not in fault else faults(page)[:1])
    page.close()

"""The U map in Chromium, under gradio 4.40 and 3.41.2: it stays in step with the sliders, without a request."""

from __future__ import annotations

import math

import pytest

from lib_blocktrain.weights.preset_strings import parse

pytestmark = pytest.mark.long

BLOCK = "#blocktrain_u_weights .blocktrain-u-block[data-block={}]"
PREFIX = "blocktrain_w_"
HEIGHT = 54  # pixels of a drag for a weight of 1


class Map:
    """The map of the place Preview, in a page."""

    def __init__(self, opened):
        self.opened, self.page = opened, opened.page
        opened.active("robot")
        self.page.wait_for_selector("#blocktrain_u_weights[data-subject=robot] .blocktrain-u-block[tabindex='0']")
        self.page.locator("#blocktrain_u_weights").scroll_into_view_if_needed()

    def block(self, block_id: str):
        return self.page.locator(BLOCK.format(block_id))

    def weight(self, block_id: str) -> float:
        return float(self.block(block_id).get_attribute("aria-valuenow"))

    def both(self, block_id: str) -> float:
        """The weight of a block, on the map as on the slider and in its number box."""
        number = self.page.locator(f"#{PREFIX}{block_id} input[type=number]").input_value()
        assert self.weight(block_id) == self.opened.weight(block_id) == float(number)
        return self.weight(block_id)

    def drag(self, element, down: float, steps: int = 5) -> None:
        box = element.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y + down, steps=steps)
        self.page.mouse.up()

    def tool(self, name: str) -> None:
        self.page.click(f"#blocktrain_u_weights [data-tool={name}]")


@pytest.fixture
def map_(opened) -> Map:
    opened.wait("model_line", "25 blocks")  # what the server says of the model begins a new history, if it comes late
    return Map(opened)


def test_a_drag_moves_the_slider_within_one_frame_and_asks_nobody(map_):
    map_.page.evaluate("document.querySelector('button#blocktrain_job_tick').remove()")  # asks from time to time
    map_.page.wait_for_timeout(1000)  # and what a new page asks for is over
    requests = []
    map_.page.on("request", lambda request: requests.append(request.url))
    map_.page.on("websocket", lambda socket: requests.append(socket.url))
    frames = map_.page.evaluate(
        """async ([prefix, height]) => {
            const block = document.querySelector("#blocktrain_u_weights [data-block=OUT05]");
            const range = document.querySelector(`#${prefix}OUT05 input[type=range]`);
            const number = document.querySelector(`#${prefix}OUT05 input[type=number]`);
            const frame = () => new Promise(requestAnimationFrame);
            const box = block.getBoundingClientRect();
            const hand = { clientX: box.x + 9, button: 0, bubbles: true, pointerType: "mouse" };
            const at = (y) => ({ ...hand, clientY: box.y + 9 + y });
            const seen = [];
            block.dispatchEvent(new PointerEvent("pointerdown", at(0)));
            for (let tick = 1; tick <= 10; tick++) {
                window.dispatchEvent(new PointerEvent("pointermove", at(tick * height / 10)));
                await frame();
                seen.push([range.value, number.value, block.getAttribute("aria-valuenow")]);
            }
            window.dispatchEvent(new PointerEvent("pointerup", at(height)));
            range.value = "1.3"; // as the server does it
            await frame();
            seen.push([range.value, "1.3", block.getAttribute("aria-valuenow")]);
            return seen;
        }""",
        [PREFIX, HEIGHT],
    )
    expected = [*(1 - 0.1 * tick for tick in range(1, 11)), 1.3]
    assert len(frames) == len(expected), frames
    for values, weight in zip(frames, expected, strict=True):
        assert [float(value) for value in values] == pytest.approx([weight] * 3, abs=1e-9)
    assert requests == []


def test_the_server_has_what_the_map_shows_and_the_map_what_the_server_says(map_, opened):
    map_.drag(map_.block("OUT04"), 0.7 * HEIGHT)
    assert map_.both("OUT04") == pytest.approx(0.3)
    values = opened.copy("line").split("|")[0].split(",")
    assert float(values[1 + 13 + 4]) == pytest.approx(0.3)
    opened.preset("OUTD")
    opened.page.wait_for_function(f"() => document.querySelector('{BLOCK.format('IN04')}').ariaValueNow == '0'")
    assert [map_.both(block_id) for block_id in ("IN08", "OUT03", "OUT06", "OUT07")] == [0, 1, 1, 0]


def test_keys(map_):
    block = map_.block("OUT06")
    block.focus()
    for keys, weight in (
        (["ArrowDown"], 0.95),
        (["Shift+ArrowUp"], 0.96),
        (["PageDown"], 0.7),
        (["Home"], -1),
        (["End"], 2),
        (["Enter"], 0),
        (["Enter"], 1),
        (["0", ".", "3", "5"], 0.35),
        (["Enter"], 0.35),  # ends the number
    ):
        for key in keys:
            map_.page.keyboard.press(key)
        assert map_.both("OUT06") == pytest.approx(weight), keys
    map_.page.keyboard.press("ArrowRight")
    assert map_.page.evaluate("document.activeElement.dataset.block") == "OUT07"
    map_.page.keyboard.press("Control+z")
    assert map_.both("OUT06") != pytest.approx(0.35)


def test_the_wheel_changes_a_block_but_a_page_that_scrolls_goes_on(map_):
    map_.block("OUT05").hover()
    map_.page.mouse.wheel(0, 100)
    map_.page.wait_for_function(f"() => document.querySelector('{BLOCK.format('OUT05')}').ariaValueNow == '0.95'")
    assert map_.both("OUT05") == 0.95
    page_moved = map_.page.evaluate(
        """() => {
            const turn = (target) => {
                const event = new WheelEvent("wheel", { deltaY: 100, bubbles: true, cancelable: true });
                target.dispatchEvent(event);
                return !event.defaultPrevented;
            };
            return [turn(document.body), turn(document.querySelector("#blocktrain_u_weights [data-block=OUT05]"))];
        }"""
    )
    assert page_moved == [True, True]
    assert map_.both("OUT05") == 0.95


def test_selection_groups_partners_and_history(map_):
    map_.block("OUT03").click()
    map_.block("OUT05").click(modifiers=["Shift"])
    map_.block("OUT08").click(modifiers=["Control"])
    map_.drag(map_.block("OUT04"), HEIGHT / 2)
    moved = {block_id: map_.both(block_id) for block_id in ("OUT03", "OUT04", "OUT05", "OUT06", "OUT08")}
    assert moved == {"OUT03": 0.5, "OUT04": 0.5, "OUT05": 0.5, "OUT06": 1, "OUT08": 0.5}
    map_.page.keyboard.press("Escape")
    map_.tool("link")
    map_.page.wait_for_timeout(1500)  # a gesture of its own, also for the history
    map_.block("IN04").dblclick()
    assert map_.both("IN04") == map_.both("OUT07") == 0
    map_.page.wait_for_timeout(1500)
    handle = map_.page.locator("#blocktrain_u_weights [data-group=side][data-of=OUT]")
    map_.drag(handle, HEIGHT / 4)
    assert [map_.both(block_id) for block_id in ("OUT03", "OUT06", "OUT09")] == pytest.approx([0.25, 0.75, 0.75])
    assert map_.both("IN05") == map_.both("OUT06")  # linked
    for _ in range(3):
        map_.tool("undo")
    assert {map_.both(block_id) for block_id in ("OUT03", "OUT07", "IN04", "IN05")} == {1}
    map_.tool("redo")
    assert {block_id: map_.both(block_id) for block_id in moved} == moved


def test_a_curve_is_sd_scripts(map_):
    down = "down_lr_weight=0,0,0,0,0,0,0,0,0,0,0,0 mid_lr_weight=1 up_lr_weight={}+0.1"
    for shape in ("sine", "cosine", "linear"):
        weights = parse(down.format(shape), "sd1").weights
        map_.page.locator("#blocktrain_u_weights .blocktrain-u-curve summary").click()
        map_.page.select_option("[data-curve=shape]", shape)
        map_.page.select_option("[data-curve=of]", "OUT")
        map_.page.fill("[data-curve=low]", "0.1")
        map_.page.fill("[data-curve=high]", "1.1")
        map_.tool("curve")
        map_.page.keyboard.press("Escape")
        for number in range(3, 12):  # the LoRA has nothing in OUT00 to OUT02
            block_id = f"OUT{number:02}"
            assert map_.both(block_id) == pytest.approx(weights[block_id], abs=0.0051), shape
    assert map_.both("IN04") == 1


def test_what_the_lora_lacks_is_grey_and_says_why(map_):
    block = map_.block("IN03")
    assert block.get_attribute("aria-disabled") == "true"
    assert "no layers in this LoRA" in block.get_attribute("aria-valuetext")
    block.dblclick(force=True)  # a hand can, though it is disabled
    map_.tool("zero")
    assert map_.opened.weight("IN03") == 1
    assert map_.both("IN04") == 0
    map_.block("OUT05").hover()
    tip = map_.block("OUT05").locator("[role=tooltip]")
    tip.get_by_text("16 × 16 cells").wait_for()
    assert "structure and shape (grade A: P+" in tip.inner_text()
    assert "skip partner IN06" in tip.inner_text()


def test_values_colour_the_blocks(map_):
    map_.page.evaluate("blocktrain.uMap.show('blocktrain_u_weights', {OUT05: 2, OUT06: 1, OUT07: 0}, 'Effect')")
    map_.page.wait_for_selector("#blocktrain_u_weights.blocktrain-u-valued")
    style = "block => getComputedStyle(block).backgroundColor"
    colours = [map_.block(block_id).evaluate(style) for block_id in ("OUT05", "OUT06", "OUT07")]
    lightness = [float(colour.split("(")[1].split()[0]) for colour in colours]
    assert lightness == sorted(lightness)
    assert lightness[2] - lightness[0] > 0.15  # told apart without hue
    assert "Effect 2.00" in map_.block("OUT05").get_attribute("aria-valuetext")
    legend = map_.page.locator("#blocktrain_u_weights .blocktrain-u-legend").inner_text()
    assert legend.split() == ["0", "2", "Effect"]

    views = """<div class="blocktrain-seg blocktrain-u-views">
        <button data-values='{"OUT05": 2}' data-title="A">A</button>
        <button data-values='{"OUT05": -2, "OUT06": 1}' data-title="A less B">A − B</button></div>"""
    at_map = "([id, html]) => document.getElementById(id).insertAdjacentHTML('beforeend', html)"
    map_.page.evaluate(at_map, ["blocktrain_u_weights", views])
    map_.page.wait_for_selector(".blocktrain-u-views [aria-pressed=true]:text-is('A')")
    map_.page.click(".blocktrain-u-views button:text-is('A − B')")
    map_.page.wait_for_selector("#blocktrain_u_weights [data-block=OUT05].blocktrain-u-below")
    assert "A less B −2.00" in map_.block("OUT05").get_attribute("aria-valuetext")
    legend = map_.page.locator("#blocktrain_u_weights .blocktrain-u-legend").inner_text()
    assert legend.split() == ["−2", "2", "A", "less", "B"]


def test_another_lora_begins_a_new_history(map_, opened):
    map_.block("OUT05").dblclick()
    opened.tick("style")
    opened.active("style")
    map_.page.wait_for_selector("#blocktrain_u_weights[data-subject=style] .blocktrain-u-block[tabindex='0']")
    map_.page.wait_for_timeout(600)
    assert map_.page.locator("#blocktrain_u_weights [data-tool=undo]").is_disabled()
    map_.drag(map_.block("OUT06"), HEIGHT / 2)
    assert map_.both("OUT06") == 0.5


def test_cards_are_found_used_and_copied(map_, opened):
    opened.menu("presets")
    opened.page.get_by_role("button", name="All as cards").click()
    cards = opened.page.locator(".blocktrain-card:visible")
    opened.page.locator(".blocktrain-cards input").fill("palette out06")
    assert cards.count() == 1
    cards.get_by_role("button", name="Use PALETTE").click()
    assert [map_.both(block_id) for block_id in ("OUT05", "OUT06", "OUT11", "IN04")] == [0, 1, 1, 0]
    cards.get_by_role("button", name="LoRA Block Weight").click()
    opened.page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('PALETTE:1,0')")
    opened.paste(opened.page.evaluate("navigator.clipboard.readText()"))
    opened.wait("understood", "“PALETTE” for SD1")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_shifts_or_overflows(opened, width):
    opened.page.set_viewport_size({"width": width, "height": 844})
    if width < 900:
        opened.page.click("[data-segment=weights]")
    map_ = Map(opened)
    measure = "document.querySelector('#blocktrain_weights').getBoundingClientRect().top + scrollY"
    before = map_.page.evaluate(measure)
    map_.drag(map_.block("OUT05"), HEIGHT)
    map_.block("OUT06").click()
    assert map_.page.evaluate(measure) == before
    page_width = map_.page.evaluate("document.documentElement.scrollWidth")
    assert page_width <= width
    boxes = [map_.block(block_id).bounding_box() for block_id in ("IN00", "OUT11", "IN11", "OUT00")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    middles = [(box["x"] * 2 + box["width"]) / 2 for box in boxes]
    assert math.isclose(middles[0] + middles[1], middles[2] + middles[3], abs_tol=1)  # partners mirror each other

"""The WebUI's own page in Chromium: the accordion, the X/Y/Z plot, "send to", and the tab on the WebUI's model."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

pytest.importorskip("playwright")

from tests.webui.page import Page
from tests.webui.process import TRAINS
from tests.webui.running import LORA

PROMPT = "a photo of a fox"
TAG = f"{PROMPT} <lora:{LORA}:1>"


@pytest.fixture(scope="module")
def opened(browser, weighed):
    """One page for all tests: it is slow to load."""
    opened = Page(browser, weighed)
    yield opened
    opened.close()


@pytest.fixture
def page(opened):
    """That page in its initial state."""
    opened.tab("txt2img")
    opened.small()
    opened.prompt("")
    opened.page.fill("#blocktrain_txt2img_text textarea", "", force=True)
    opened.pick("#script_list", "None")
    return opened


@pytest.fixture
def second(browser, weighed):
    opened = Page(browser, weighed)
    yield opened
    opened.close()


def test_the_accordions_menu_is_the_tag(page, weighed):
    page.prompt(TAG)
    page.accordion()
    page.pick("#blocktrain_txt2img_preset", "OUTD")
    page.page.wait_for_function("() => document.querySelector('#blocktrain_txt2img_text textarea').value === 'OUTD'")
    said = page.generate()
    assert f"{LORA}: 1,0,0," in said
    assert np.array_equal(page.picture(), weighed.pixels(TAG.replace(":1>", ":1:bw=OUTD>")))


def test_written_into_the_prompt_and_edited_in_the_tab(page):
    page.prompt(TAG)
    page.accordion()
    page.page.fill("#blocktrain_txt2img_text textarea", "IN=0.5,OUT=1")
    page.click("txt2img_write")
    page.page.wait_for_function("() => document.querySelector('#txt2img_prompt textarea').value.includes('bw=')")
    assert page.page.input_value("#txt2img_prompt textarea") == TAG.replace(":1>", ":1:bw=IN=0.5,OUT=1>")
    page.click("txt2img_edit")
    page.page.wait_for_function("() => document.querySelector('#blocktrain_w_IN04 input[type=range]').value === '0.5'")
    assert page.weight("OUT05") == 1
    steps = page.page.locator("#blocktrain_weight_changes textarea")
    assert not steps.is_visible()
    page.tab("txt2img")
    page.prompt(f"{PROMPT} <lora:{LORA}:0.5@0,1@0.5:bw=OUTD:stop=5>")
    page.click("txt2img_edit")
    steps.wait_for()  # its fold opens
    page.page.wait_for_function("() => document.querySelector('#blocktrain_w_IN04 input[type=range]').value === '0'")
    assert steps.input_value() == "stop=5,strength=0.5@0,1@0.5"
    page.wait("status", "under “Kinds of layers, steps”")


def test_a_failed_request_leaves_the_prompt_and_is_said_beside_the_button(page):
    page.prompt(TAG)
    page.accordion()
    page.page.fill("#blocktrain_txt2img_text textarea", "OUTD")
    page.page.route("**/blocktrain/v1/prompt/**", lambda route: route.abort())
    page.click("txt2img_write")
    error = page.page.locator("#blocktrain_txt2img_error")
    error.wait_for()
    assert "The prompt stays as it is: the server does not answer" in error.inner_text()
    assert page.page.input_value("#txt2img_prompt textarea") == TAG
    page.page.unroute("**/blocktrain/v1/prompt/**")
    page.click("txt2img_write")
    error.wait_for(state="detached")
    page.page.wait_for_function("() => document.querySelector('#txt2img_prompt textarea').value.includes('bw=OUTD')")


def test_what_cannot_be_read_is_said_on_the_page(page, weighed):
    page.prompt(TAG.replace(":1>", ":1:bw=NO_SUCH>"))
    said = page.generate()
    assert f"{LORA} left out: unknown preset 'NO_SUCH'" in said
    assert np.array_equal(page.picture(), weighed.pixels(PROMPT))


def test_send_to_brings_random_values_back(page, weighed, tmp_path):
    """To img2img, with a random seed, too; and from the image's file, by PNG Info."""
    page.small(seed=-1)
    page.prompt(TAG.replace(":1>", f":1:bw={','.join(['R'] * 17)}>"))
    seed = int(re.search(r"Seed: (\d+)", page.generate())[1])
    drawn = page.picture()
    page.page.click("#txt2img_send_to_img2img")
    page.page.wait_for_function("() => /bw=0\\./.test(document.querySelector('#img2img_prompt textarea').value)")
    sent = page.page.input_value("#img2img_prompt textarea")
    assert "R,R" not in sent
    assert np.array_equal(weighed.pixels(sent, seed=seed), drawn)
    if getattr(weighed, "kind", "a1111") == "neo":
        return  # its PNG Info sends the seed but not the prompt, without this extension, too
    page.tab("PNG Info")
    page.page.set_input_files("#pnginfo_image input[type=file]", page.file(tmp_path / "drawn.png"))
    page.page.locator("#tab_pnginfo").get_by_text(f"Seed: {seed}").first.wait_for()
    page.page.click("#tab_pnginfo #txt2img_tab")
    page.page.wait_for_function("() => /bw=0\\./.test(document.querySelector('#txt2img_prompt textarea').value)")
    assert np.array_equal(weighed.pixels(page.page.input_value("#txt2img_prompt textarea"), seed=seed), drawn)


def test_xyz_plot_of_three_presets_and_two_blocks(page, weighed):
    page.prompt(TAG)
    page.pick("#script_list", "X/Y/Z plot")
    prefix = "#script_txt2img_xyz_plot"
    for axis, kind, values in (("x", "Preset", "NONE,OUTD,ALL"), ("y", "Block", "OUT03=0,IN04=0")):
        page.pick(f"{prefix}_{axis}_type", f"[blocktrain] {kind}")
        page.page.check(f"{prefix}_csv_mode input")
        page.page.locator(f"{prefix}_{axis}_values textarea").fill(values)
    page.generate()
    grid = page.picture()
    rows, columns = grid.shape[0] - 2 * 64, grid.shape[1] - 3 * 64
    assert min(rows, columns) > 0  # the labels
    base = weighed.pixels(PROMPT)
    assert np.array_equal(grid[rows : rows + 64, columns : columns + 64], base)
    assert np.array_equal(grid[-64:, -64:], weighed.pixels(TAG.replace(":1>", ":1:bw=*=1,IN04=0>")))


def test_taken_from_txt2img_and_sent_back(page, weighed):
    """A prompt's LoRA taken into the tab, drawn there with txt2img's settings, and sent back, is the same picture."""
    page.prompt(TAG.replace(":1>", ":0.8:bw=OUTD>"))
    page.ours()
    page.page.click("#blocktrain [data-from-txt2img]")
    page.wait("status", f"Taken from txt2img; LoRAs: {LORA}")
    page.page.wait_for_function("() => document.querySelector('#blocktrain_w_OUT04 input[type=range]').value === '1'")
    assert page.box("prompt") == PROMPT
    page.page.fill("#blocktrain_prompt textarea", TAG)  # the pictures leave the tag out, that without the LoRA too
    assert [page.box(name) for name in ("steps", "width", "seed")] == ["4", "64", "1"]
    drawn = page.preview()
    plain = weighed.pixels(PROMPT)
    assert np.array_equal(np.frombuffer(drawn[0], np.uint8).reshape(plain.shape), plain)
    page.page.click("#blocktrain [data-to-txt2img]")
    page.page.wait_for_selector("#txt2img_prompt textarea")
    sent = page.page.input_value("#txt2img_prompt textarea")
    assert sent.startswith(f"{PROMPT} <lora:{LORA}:0.8:bw="), sent
    page.generate()
    shown = page.picture().astype(int)
    off = [np.abs(shown - np.frombuffer(one, np.uint8).reshape(shown.shape)).max() for one in drawn]
    assert off[2] <= 2, off  # the picture with the weights on the sliders


def test_typed_without_a_pause_and_cancelled_in_the_tab(page):
    page.ours()
    page.menu("share")
    paste = page.page.locator("#blocktrain_paste textarea")
    paste.fill("")
    paste.press_sequentially("MINE:OUT=1,IN04-IN08=0.25,M00=oops")
    page.wait("understood", "'oops': expected a number")
    paste.fill("")
    page.page.keyboard.press("Escape")
    page.type("steps", 150)
    page.click("draw")
    page.wait("status", "step")
    page.click("cancel")
    page.wait("status", "Cancelled: ")  # where it is quick, some may have been drawn before
    page.type("steps", 20)


STATE = "document.querySelector('#blocktrain_runs_head [data-state]')?.dataset.state"


QUEUED = """() => {
    const { components, dependencies } = gradio_config;
    const named = new Map(components.map((one) => [one.id, one.props.elem_id || ""]));
    const targets = (one) => one.targets.map(([id]) => named.get(id));
    const closing = dependencies.find((one) => targets(one).includes("blocktrain_lost_stream") && one.cancels.length);
    return dependencies.filter((one) => closing?.cancels.includes(one.id)).map((one) => [targets(one)[0], one.queue]);
}"""


@pytest.mark.kinds(*TRAINS)
def test_only_our_own_jobs_end_with_a_dead_stream(page):
    """gradio gives each event another number in the WebUI's page: see ui/shim.py, `forget_stream`."""
    found = page.page.evaluate(QUEUED)
    assert ["blocktrain_draw", True] in found
    assert all(name.startswith("blocktrain_") and queued for name, queued in found), found


@pytest.mark.kinds("a1111", *TRAINS)
def test_trained_by_clicks_and_used_at_once(page, second, weighed, tmp_path_factory):
    """A run is followed in another browser tab, too, in which nothing was clicked."""
    from tests.webui.test_model import write_pictures

    name = f"clicked-{time.time_ns()}"
    page.prompt(f"a robot <lora:{name}:1>")
    page.generate()
    without = page.picture()
    page.ours()
    page.go("Train")
    fields = {
        "dataset_folders": write_pictures(tmp_path_factory.mktemp("pictures")),
        "dataset_size": 64,
        "network_weights": "OUT09-OUT11=1",
        "optimizer_lr": 0.01,
        "steps": 6,
        "batch": 1,
        "name": name,
    }
    for field, value in fields.items():
        page.type(f"train_{field}", value)
    page.wait("train_understood", "OUT09-OUT11 = 1")
    page.click("train_start")
    page.page.wait_for_function(f"() => {STATE} === 'finished'")
    second.ours()
    second.go("Runs")
    second.page.locator(
        "#blocktrain_runs_list tr", has_text=name
    ).click()  # it opened with the run that was the newest then
    second.page.wait_for_function(f"() => {STATE} === 'finished'")
    assert name in second.text("runs_head")
    page.tab("txt2img")
    said = page.generate()
    assert name in said
    assert not np.array_equal(page.picture(), without)

"""Runs in Chromium, on runs that another session left: table, samples, charts, heat map, comparison, menu."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from journeys import Opened, serving, write_loras
from PIL import Image

from lib_blocktrain.training.config import load
from lib_blocktrain.training.runs import Run, create, open_run

pytestmark = pytest.mark.long

READY = Path(__file__).resolve().parent.parent.parent / "demo" / "runs" / "2-robot-out.json"
STEPS = 60
EVERY = 10  # steps between two samples
LONG = "a name as long as people give them, which no table has the room for, and then some more of it"
BEAT = "document.querySelector('#blocktrain_runs_beat [data-beat]').dataset.beat"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")  # of the samples, by their number


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_model, python) -> Path:  # one for each gradio
    folder = tmp_path_factory.mktemp("runs")
    write_loras(random_model, folder / "loras")
    return folder


@pytest.fixture(scope="module")
def address(folder, random_model, python):
    make_runs(folder / "out")
    with serving(python, random_model, folder) as address:
        yield address


@pytest.fixture
def opened(browser, address, folder):
    opened = Opened(browser, address, folder)
    opened.go("Runs")
    opened.page.locator("#blocktrain_runs_list tr[data-run]").first.wait_for()
    yield opened
    opened.close()


def make_runs(out: Path) -> None:
    """35 runs; "whole" is the newest and has samples of two prompts, "half" has half of its steps."""
    config = load(READY)
    for number in range(35):
        name = {0: "whole", 1: "half", 2: LONG}.get(number, f"old-{number:02}")
        run = create(replace(config, name=name[:90], steps=STEPS), out / "runs" / f"{name[:90]}-1")
        run.add_metrics({"step": 0, "event": "started"})
        last = STEPS // 2 if name == "half" else STEPS
        write_rows(run, last, samples=number < 2)
        for path in (run.folder / "run.json", run.metrics_path):
            os.utime(path, (time.time() - 60 * number,) * 2)


def write_rows(run: Run, last: int, *, samples: bool, first: int = 1) -> None:
    for step in range(first, last + 1):
        scale = 2 if run.config.name == "half" else 1
        run.add_metrics({"step": step, "loss": scale / step, "smoothed": scale / step, "lr": 1e-4})
        if step % 5 == 0:
            norms = {"OUT06": step / 10, "OUT09": step / 20, "OUT11": 0.01}
            run.add_metrics({"step": step, "norms": norms, "gradients": {block: n / 100 for block, n in norms.items()}})
        if step == 30 and run.config.name == "whole":
            run.add_metrics({"step": step, "event": "frozen", "blocks": ["OUT09"]})
        if samples and step % EVERY == 0:
            draw(run, step)
    if last == STEPS:
        run.add_metrics({"step": last, "event": "finished", "time": 1_790_000_000})


def draw(run: Run, step: int) -> None:
    for number in range(2):
        path = run.sample(step, number)
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), COLOURS[step // EVERY % len(COLOURS)]).save(path)
        run.add_metrics({"step": step, "sample": path.name, "prompt": f"prompt {number}"})


def choose(opened: Opened, name: str) -> None:
    opened.page.locator(f'#blocktrain_runs_list tr[data-run="{name}-1"]').click()
    opened.page.locator(f'#blocktrain_runs_head [data-run="{name}-1"]').wait_for()


def shown_sample(opened: Opened) -> str:
    return opened.page.locator(".blocktrain-big img").first.get_attribute("alt")


def scrub(opened: Opened, step: int) -> None:
    opened.page.locator(".blocktrain-scrub input").evaluate(
        "(range, step) => { range.value = step; range.dispatchEvent(new Event('input', {bubbles: true})); }", step
    )


def in_view(opened: Opened, inner: str, outer: str) -> bool:
    boxes = [opened.page.locator(name).first.bounding_box() for name in (inner, outer)]
    (x, width), (left, room) = [(box["x"], box["width"]) for box in boxes]
    return left - 5 <= x and x + width <= left + room + 5


@pytest.mark.parametrize("size", [(1280, 900), (390, 844), (1900, 1000)])
def test_many_runs_stay_in_their_box(opened, size):
    """The list scrolls by itself, beside the run that is shown, and nothing is wider than the page."""
    opened.page.set_viewport_size({"width": size[0], "height": size[1]})
    if size[0] < 900:
        opened.page.click("#blocktrain_segs_runs [data-segment=all]")
    rows = opened.page.locator("#blocktrain_runs_list tr[data-run]")
    assert rows.count() == 35
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pane = opened.page.locator("#blocktrain_panes_runs .blocktrain-pane-l")
    for row in (rows.first, rows.nth(2), rows.last):
        row.scroll_into_view_if_needed()
        own, room = row.bounding_box(), pane.bounding_box()
        assert room["x"] <= own["x"]
        assert own["x"] + own["width"] <= room["x"] + room["width"]
    if size[0] >= 900:
        assert pane.evaluate("pane => pane.scrollHeight > pane.clientHeight && pane.scrollTop > 0")
        assert pane.bounding_box()["height"] <= size[1]
        assert opened.page.locator("#blocktrain_runs_head h1").is_visible()


def test_the_table_is_searched(opened):
    search = opened.page.locator("#blocktrain_runs_list input[type=search]")
    rows = opened.page.locator("#blocktrain_runs_list tr[data-run]")
    for text, count in (("old-1", 10), ("OUT08 whole", 1), ("finished", 34), ("IN04", 0), ("", 35)):
        search.fill(text)
        assert rows.count() == count, text
    search.fill("nothing like it")
    opened.wait("runs_list", "None of 35 runs")


@pytest.mark.both_gradios
def test_the_newest_sample_is_shown_and_the_run_is_followed(opened, folder):
    """The strip is at its end, not at step 0; with another sample it goes on, unless an older one was chosen."""
    choose(opened, "half")
    opened.page.set_viewport_size({"width": 390, "height": 844})
    last = ".blocktrain-fr.blocktrain-is-now"
    assert shown_sample(opened) == "step 30: prompt 0"
    run = open_run(folder / "out" / "runs" / "half-1")
    write_rows(run, 50, samples=True, first=31)
    opened.page.wait_for_function("() => document.querySelector('.blocktrain-big img').alt.startsWith('step 50')")
    opened.page.wait_for_timeout(300)
    assert in_view(opened, last, ".blocktrain-film")
    assert opened.page.locator(".blocktrain-big img").first.evaluate("image => image.naturalWidth") == 64
    opened.page.locator(".blocktrain-fr").first.click()
    assert shown_sample(opened) == "step 10: prompt 0"
    write_rows(run, 59, samples=False, first=51)
    opened.page.wait_for_function("() => document.querySelector('.blocktrain-scrub-x').textContent === '59'")
    assert shown_sample(opened) == "step 10: prompt 0"
    opened.page.get_by_role("button", name="Latest").click()
    assert shown_sample(opened) == "step 50: prompt 0"


def test_one_step_in_all_of_them(opened):
    choose(opened, "whole")
    scrub(opened, 20)
    assert shown_sample(opened) == "step 20: prompt 0"
    lines = opened.page.locator(".blocktrain-head-line:visible")
    places = [lines.nth(index).bounding_box()["x"] for index in range(lines.count())]
    chart = opened.page.locator(".blocktrain-chart").bounding_box()
    assert len(places) == 2
    assert places == pytest.approx([chart["x"] + chart["width"] * 20 / 60] * 2, abs=1.5)
    canvas = opened.page.locator(".blocktrain-heat-c")
    box = canvas.bounding_box()
    opened.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 8)
    assert shown_sample(opened) == "step 30: prompt 0"
    assert "OUT11 · step 30" in opened.page.locator(".blocktrain-heat-t").inner_text()


def test_the_chart_says_its_numbers(opened):
    choose(opened, "whole")
    texts = opened.page.locator(".blocktrain-cy span").all_inner_texts()
    assert texts[0] == "0"
    assert len({len(text) for text in texts[1:]}) == 1
    box = opened.page.locator(".blocktrain-chart").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    tip = opened.page.locator(".blocktrain-tip").inner_text()
    assert "step 30" in tip
    assert "0.0333" in tip  # the loss, 1/30
    assert "0.0001" in tip  # the rate
    opened.page.get_by_role("button", name="log").click()
    assert "0" not in opened.page.locator(".blocktrain-cy span").all_inner_texts()
    opened.page.get_by_role("button", name="lin").click()


PIXEL = """([x, block, part]) => {
    const canvas = document.querySelector('.blocktrain-heat-c');
    const row = document.querySelector(`.blocktrain-hr[data-block=${block}]`).getBoundingClientRect();
    const ratio = canvas.height / canvas.clientHeight;
    const y = (row.top + row.height * part - canvas.getBoundingClientRect().top) * ratio;
    return [...canvas.getContext('2d').getImageData(x * (canvas.width - 1), y, 1, 1).data];
}"""


def test_the_heat_map_has_the_colours_of_its_tokens(opened):
    """Light where a block has changed little, dark where much; in the dark theme the other way round."""
    choose(opened, "whole")
    frozen = opened.page.locator(".blocktrain-hr.blocktrain-is-frozen b").all_inner_texts()
    assert frozen == ["IN00–OUT05", "OUT07–OUT08", "OUT10"]

    def pixel(x, block, part=0.5):
        return opened.page.evaluate(PIXEL, [x, block, part])

    # OUT09 was frozen in the middle: from there on its row is thin.
    assert [pixel(x, "OUT09", part)[3] for x in (0.4, 0.6) for part in (0.2, 0.5)] == [255, 255, 0, 255]

    for theme in ("light", "dark"):
        opened.page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        opened.page.wait_for_timeout(300)
        tokens = opened.page.evaluate(
            "() => [0, 8].map((level) => getComputedStyle(document.querySelector('.blocktrain-heat-c'))"
            ".getPropertyValue(`--blocktrain-heat-${level}`).trim())"
        )
        low, high = ([int(token[i : i + 2], 16) for i in (1, 3, 5)] for token in tokens)
        assert pixel(0.99, "OUT06")[:3] == high
        assert pixel(0.99, "OUT11")[:3] == low
        assert pixel(0.12, "OUT06")[:3] != high
    opened.page.evaluate("document.body.classList.remove('dark')")
    share = opened.page.locator(".blocktrain-hr[data-block=OUT06] em").inner_text()
    assert share == "80 %"  # 6 squared of 6 squared + 3 squared


def test_two_runs_side_by_side(opened):
    choose(opened, "whole")
    opened.page.locator('#blocktrain_runs_list tr[data-run="half-1"] .blocktrain-ab').click()
    opened.page.locator(".blocktrain-cp .blocktrain-l-other").wait_for(state="attached")
    assert opened.page.locator(".blocktrain-big figure").count() == 2
    style = opened.page.locator(".blocktrain-cp .blocktrain-l-other").evaluate(
        "line => getComputedStyle(line).strokeDasharray"
    )
    assert style != "none"
    opened.wait("runs_head", "half")
    opened.page.get_by_role("button", name="End the comparison").first.click()
    opened.page.locator(".blocktrain-cp .blocktrain-l-other").wait_for(state="detached")
    opened.page.get_by_role("button", name="All", exact=True).click()
    assert opened.page.locator(".blocktrain-big figure").count() == 2
    opened.page.get_by_role("button", name="Prompt 1", exact=True).click()


def test_a_sample_is_enlarged(opened):
    choose(opened, "whole")
    opened.page.locator(".blocktrain-zoom-b").first.click()
    popup = opened.page.locator("dialog.blocktrain-zoom-d")
    for key, step in (("ArrowLeft", 50), ("ArrowLeft", 40), ("ArrowRight", 50)):
        opened.page.keyboard.press(key)
        popup.get_by_text(f"step {step}").wait_for()
    opened.page.keyboard.press("Escape")
    popup.wait_for(state="detached")
    assert shown_sample(opened) == "step 50: prompt 0"


def menu(opened: Opened, item: str) -> None:
    opened.page.click("#blocktrain_menu_runs [data-menu]")
    opened.page.click(f"#blocktrain_runs_menu [data-do={item}]")


@pytest.mark.both_gradios
def test_the_menu_stays_open_while_the_page_asks_for_news(opened):
    choose(opened, "whole")
    opened.page.click("#blocktrain_menu_runs [data-menu]")
    beat = "document.querySelector('#blocktrain_runs_beat [data-beat]')?.dataset.beat"
    before = opened.page.evaluate(beat)
    opened.page.wait_for_function(f"before => {beat} !== before", arg=before)
    assert opened.page.locator("#blocktrain_runs_menu [data-do=title]").is_visible()
    opened.page.click("#blocktrain_runs_head h1")
    assert not opened.page.locator("#blocktrain_runs_menu [data-do=title]").is_visible()


@pytest.mark.both_gradios
def test_title_notes_and_deletion(opened, folder):
    choose(opened, "old-34")
    menu(opened, "title")
    opened.page.locator("dialog input").fill("<b>renamed</b>")
    opened.page.keyboard.press("Enter")
    opened.wait("runs_head", "<b>renamed</b>")
    menu(opened, "notes")
    opened.page.locator("dialog textarea").fill("too soft")
    opened.page.get_by_role("button", name="Save").click()
    opened.wait("runs_head", "too soft")
    menu(opened, "delete")
    beat = opened.page.evaluate(BEAT)
    opened.page.get_by_role("button", name="Cancel").click()
    opened.page.wait_for_function(f"beat => {BEAT} !== beat", arg=beat)  # a command would have been carried out
    assert (folder / "out" / "runs" / "old-34-1" / "run.json").exists()
    menu(opened, "delete")
    opened.page.locator("dialog").get_by_role("button", name="Delete").click()
    opened.page.locator('tr[data-run="old-34-1"]').wait_for(state="detached")
    assert not (folder / "out" / "runs" / "old-34-1").exists()
    make_again = open_run(folder / "out" / "runs" / "old-33-1").config
    create(make_again, folder / "out" / "runs" / "old-34-1")  # for the tests that count
    write_rows(open_run(folder / "out" / "runs" / "old-34-1"), STEPS, samples=False)


@pytest.mark.both_gradios
def test_ctrl_enter_presses_the_button_in_front(opened, folder):
    """The dialog's own one, not the bar's behind it; in the bar the one that is seen, whatever is hidden before it."""
    old = open_run(folder / "out" / "runs" / "old-31-1")
    times = (old.metrics_path.stat().st_atime, old.metrics_path.stat().st_mtime)
    old.add_metrics({"published": "robot.safetensors"})
    os.utime(old.metrics_path, times)
    opened.page.evaluate(
        """() => {
            window.pressed = [];
            document.addEventListener("click", (event) => {
                const button = event.target.closest("#blocktrain_bar_runs button");
                if (button?.classList.contains("primary")) {
                    window.pressed.push(button.textContent.trim());
                    event.stopImmediatePropagation();
                }
            }, true);
        }"""
    )
    choose(opened, "half")
    opened.page.locator(opened.button("runs_resume")).first.wait_for()
    menu(opened, "notes")
    opened.page.locator("dialog textarea").fill("by the keyboard")
    opened.page.keyboard.press("Control+Enter")
    opened.wait("runs_head", "by the keyboard")
    menu(opened, "delete")
    opened.page.locator("dialog h2").press("Control+Enter")  # no key deletes a run
    opened.page.wait_for_timeout(300)
    opened.page.keyboard.press("Escape")
    assert opened.page.evaluate("pressed") == []
    choose(opened, "old-31")
    opened.page.wait_for_selector("#blocktrain_bar_runs button.primary:visible:text-is('Preview it')")
    opened.page.keyboard.down("Control")
    opened.page.keyboard.down("Enter")
    opened.page.keyboard.down("Enter")  # held
    opened.page.wait_for_function("() => pressed.length")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("pressed") == ["Preview it"]


def test_a_run_that_cannot_be_read_says_why(opened, folder):
    """Chosen in the list it is the one that the bar, the menu and the right half of the page are about."""
    file = folder / "out" / "runs" / "old-32-1" / "run.json"
    whole, times = file.read_text("utf-8"), (file.stat().st_atime, file.stat().st_mtime)
    choose(opened, "old-33")
    file.write_text("{", "utf-8")
    row = opened.page.locator('tr[data-run="old-32-1"]')
    row.get_by_text("cannot be read").wait_for()
    row.click()
    opened.wait("runs_state", "old-32-1 cannot be read: ")
    assert "run.json: line 1: " in opened.text("runs_state")
    assert row.get_attribute("aria-current") == "true"
    assert opened.page.locator("#blocktrain_runs_head [data-run]").count() == 0
    assert not opened.page.locator("#blocktrain_runs_view .blocktrain-loss").is_visible()
    assert not opened.page.locator(opened.button("runs_resume")).first.is_visible()
    opened.page.click("#blocktrain_menu_runs [data-menu]")
    assert opened.page.locator("#blocktrain_runs_menu [data-do]:visible").count() == 0
    file.write_text(whole, "utf-8")
    os.utime(file, times)
    row.get_by_text("cannot be read").wait_for(state="detached")
    opened.page.locator('#blocktrain_runs_head [data-run="old-32-1"]').wait_for()


def test_words_at_the_buttons(opened):
    """Each button says what it does; what a state does not allow is not there."""
    choose(opened, "half")
    opened.wait("runs_state", "interrupted at step")
    assert re.search("Resume", opened.page.locator(opened.button("runs_resume")).first.inner_text())
    for name in ("runs_stop", "runs_pause", "runs_stop_save"):
        assert not opened.page.locator(opened.button(name)).first.is_visible()
    icon = "(button) => getComputedStyle(button, '::before').maskImage"
    for name in ("runs_resume", "runs_preview"):
        assert "svg" in opened.page.locator(opened.button(name)).first.evaluate(icon), name
    choose(opened, "whole")
    opened.wait("runs_state", "whole finished.")
    assert not opened.page.locator(opened.button("runs_resume")).first.is_visible()
    assert "turn" not in opened.text("runs_state")


@pytest.mark.both_gradios
def test_a_reload_brings_back_the_run_and_its_step(opened):
    choose(opened, "whole")
    choose(opened, "half")
    scrub(opened, 20)
    assert shown_sample(opened) == "step 20: prompt 0"
    opened.page.wait_for_timeout(1000)  # it is written a little later
    opened.page.reload()
    opened.page.wait_for_selector("#blocktrain_place_tabs [role=tab]")
    opened.go("Runs")
    opened.page.locator('#blocktrain_runs_head [data-run="half-1"]').wait_for()
    opened.page.wait_for_function("() => document.querySelector('.blocktrain-big img')?.alt === 'step 20: prompt 0'")


def test_a_reload_brings_back_the_run_when_the_server_is_slower_than_the_page(opened):
    """However late the answers: each of the page's waits is a twentieth here, so that a second is like twenty."""
    choose(opened, "half")
    opened.page.wait_for_timeout(1000)
    opened.page.add_init_script("const wait = setTimeout; window.setTimeout = (f, ms, ...a) => wait(f, ms / 20, ...a);")
    network = opened.page.context.new_cdp_session(opened.page)
    slow = {"offline": False, "latency": 1000, "downloadThroughput": -1, "uploadThroughput": -1}
    opened.page.reload()
    network.send("Network.emulateNetworkConditions", slow)
    opened.page.wait_for_selector("#blocktrain_place_tabs [role=tab]")
    opened.go("Runs")
    opened.page.locator('#blocktrain_runs_head [data-run="half-1"]').wait_for()


def test_on_a_phone_a_run_is_chosen_in_one_segment_and_shown_in_another(opened):
    opened.page.set_viewport_size({"width": 390, "height": 844})
    opened.page.click("#blocktrain_segs_runs [data-segment=all]")
    assert not opened.page.locator(".blocktrain-big").is_visible()
    opened.page.locator('#blocktrain_runs_list tr[data-run="whole-1"]').click()
    opened.page.locator(".blocktrain-big img").first.wait_for()
    assert not opened.page.locator("#blocktrain_runs_list").first.is_visible()
    assert not opened.page.locator(".blocktrain-heat-c").is_visible()
    opened.page.click("#blocktrain_segs_runs [data-segment=change]")
    assert opened.page.locator(".blocktrain-heat-c").is_visible()
    assert opened.page.locator(".blocktrain-chart").is_visible()
    opened.page.click("#blocktrain_segs_runs [data-segment=log]")
    assert opened.page.locator(".blocktrain-run-log li").first.is_visible()
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_queue_is_put_in_another_order(browser, python, random_model, tmp_path):
    """By the menu; a server that is started again has the order that was made."""
    write_loras(random_model, tmp_path / "loras")
    config = load(READY)
    names = ["first-1", "second-1", "third-1"]
    for name in names:
        create(replace(config, name=name[:-2], steps=STEPS), tmp_path / "out" / "runs" / name)
    (tmp_path / "out" / "runs" / "queue.json").write_text(json.dumps(names))
    with serving(python, random_model, tmp_path) as address:
        opened = Opened(browser, address, tmp_path)
        opened.go("Runs")
        rows = opened.page.locator("#blocktrain_runs_list tr[data-run]")
        rows.first.wait_for()
        assert [row.get_attribute("data-run") for row in rows.all()] == names
        choose(opened, "third")
        opened.wait("runs_state", "2 before it; the queue has not been started")
        menu(opened, "up")
        opened.wait("runs_state", "1 before it")
        menu(opened, "first")
        opened.wait("runs_state", "it is the next one")
        assert not opened.page.locator("#blocktrain_runs_menu [data-do=up]").is_visible()
        opened.page.click(opened.button("runs_stop"))  # a run that waits loses nothing: no question
        opened.wait("runs_state", "third was stopped")
        opened.close()
    assert json.loads((tmp_path / "out" / "runs" / "queue.json").read_text()) == ["first-1", "second-1"]

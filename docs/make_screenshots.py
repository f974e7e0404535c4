"""Write the documents' pictures of the tab: `python docs/make_screenshots.py` (a quarter of an hour on a CPU).

The standalone tab on the demo model, driven in Chromium as the tests drive it: each place at two widths, light and
dark; Preview under gradio 3.41.2 (AUTOMATIC1111's) too. Wants what `python -m lib_blocktrain test` installs.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

import gradio3  # noqa: E402
from journeys import Opened, serving  # noqa: E402

from lib_blocktrain.hosts.demo_model import DEMO, LORAS, MODEL  # noqa: E402

CHROMIUM = os.environ.get("BLOCKTRAIN_CHROMIUM") or shutil.which("chromium")
IMAGES = Path(__file__).parent / "images"
LORA, PROMPT, SEED = "robot-on-green", "a photo of a large robot in the center", 0
WEIGHTS, WORD = "OUT06-OUT11=1", "robot"
READY, SET = "2-robot-out", "koala-dressed"
STEPS, SAMPLES_EVERY = 120, 20
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
TALLEST = {1280: 1500, 390: 900}  # pixels; what is below is left out
PHONE = {"preview": "weights", "analyse": "map"}  # the part of a place that a phone's picture shows
COLOURS = 256
WITHOUT_ROOT = """(root) => {
    window.blocktrain.pictureSets.ask = () => new Promise(() => {});  // the page would ask about the shorter paths
    const walker = document.createTreeWalker(document.querySelector("#blocktrain"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replaceAll(root, "");
    document.querySelectorAll("#blocktrain textarea").forEach((box) => (box.value = box.value.replaceAll(root, "")));
}"""  # no picture tells where this checkout lies

log = logging.getLogger("screenshots")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for the pictures (%(default)s)")
    parser.add_argument("--only", nargs="*", default=list(PLACES), choices=list(PLACES), metavar="PLACE")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for gradio, python in (("", Path(sys.executable)), ("-gradio3", gradio3.python())):
            places = [name for name in arguments.only if not gradio or name == "preview"]
            if not places:
                continue
            folder = Path(work, f"tab{gradio}")
            shutil.copytree(LORAS, folder / "loras")
            with serving(python, MODEL, folder, "--lora", LORA) as address:
                for place in places:
                    _show(browser, address, folder, place, f"{out}/tab-{place}{gradio}")
        browser.close()


def _show(browser, address: str, folder: Path, place: str, stem: str) -> None:
    tab = Opened(browser, address, folder)
    try:
        PLACES[place](tab)
        for width, scheme in LOOKS:
            tab.page.set_viewport_size({"width": width, "height": 900})
            tab.page.emulate_media(color_scheme=scheme)
            if width < LOOKS[0][0] and place in PHONE:
                tab.page.click(f"#blocktrain_segs_{place} [data-segment={PHONE[place]}]")
            name = stem + ("" if width == LOOKS[0][0] else f"-{width}") + ("" if scheme == "light" else "-dark")
            _save(tab, Path(f"{name}.png"), TALLEST[width])
    finally:
        tab.close()


def _save(tab: Opened, path: Path, tallest: int) -> None:
    page = tab.page
    page.evaluate("scrollTo(0, 0); document.activeElement?.blur()")
    for folder in (ROOT, tab.folder):
        page.evaluate(WITHOUT_ROOT, f"{folder}{os.sep}")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # what was hovered over fades
    tall = page.evaluate("document.querySelector('#blocktrain').getBoundingClientRect().bottom + scrollY + 16")
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": min(tallest, tall)}
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")
    few = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    log.info("%s: %d x %d, %.0f kB", path.name, *picture.size, os.path.getsize(path) / 1000)


# --- what is shown ---------------------------------------------------------------------------------------------------


def preview(tab: Opened) -> None:
    """A LoRA that has learnt its background: without it, with it, and with half of its blocks."""
    tab.type("prompt", PROMPT)
    tab.type("seed", SEED)
    tab.paste(WEIGHTS)
    tab.wait("understood", "Understood as")
    tab.click("apply")
    tab.page.wait_for_function("() => document.querySelector('#blocktrain_w_IN04 input[type=range]').value == '0'")
    tab.preview()


def analyse(tab: Opened) -> None:
    """The blocks that carry a word."""
    tab.go("Analyse")
    tab.type("analyse_prompts", PROMPT)
    tab.page.locator("#blocktrain_analyse_kind label", has_text="Word").locator("input").click()
    tab.type("analyse_word", WORD)
    tab.click("analyse")
    tab.page.wait_for_function("document.querySelector('#blocktrain_analyse_status [data-ended]') !== null")
    tab.wait("analyse_weights", "of the effect")


def pictures(tab: Opened) -> None:
    """A set with its captions, and one of its pictures."""
    shutil.copytree(DEMO / "datasets" / SET, tab.folder / "out" / "datasets" / SET)
    tab.page.reload()
    tab.page.wait_for_selector("#blocktrain_model_line .blocktrain-note")
    tab.go("Pictures")
    tab.page.locator(".blocktrain-pic-b:has(img[src])").nth(1).click()
    tab.page.wait_for_selector("#blocktrain_dataset_chosen .blocktrain-facts")
    tab.page.locator("#blocktrain", has_text="No duplicates").wait_for()


def train(tab: Opened) -> None:
    """A ready run, with its pictures and its cost."""
    _fill(tab)
    tab.click("train_look")
    tab.wait("train_dataset", "with their repeats")


def runs(tab: Opened) -> None:
    """A run of a few minutes, from its beginning to its end."""
    _fill(tab)
    tab.type("train_steps", STEPS)
    tab.type("train_samples_every", SAMPLES_EVERY)
    tab.click("train_start")
    state = "document.querySelector('#blocktrain_runs_head [data-state]')?.dataset.state"
    tab.page.wait_for_function(f"() => {state} === 'finished'", timeout=3_600_000)
    tab.page.wait_for_selector(f"{tab.button('runs_preview')}:not([disabled])")
    tab.page.locator("#blocktrain_job_chip", has_text="finished").wait_for()


def _fill(tab: Opened) -> None:
    tab.go("Train")
    tab.choose("train_ready", READY)
    tab.wait("train_understood", "OUT11 = 1")
    tab.wait("train_estimate", "The backward pass stops at")


PLACES: dict[str, Callable[[Opened], None]] = {
    "preview": preview,
    "analyse": analyse,
    "pictures": pictures,
    "train": train,
    "runs": runs,
}

if __name__ == "__main__":
    main()

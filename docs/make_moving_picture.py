"""Write the README's moving picture: `python docs/make_moving_picture.py` (five minutes on a CPU).

The standalone page on the demo model, driven in Chromium: blocks of the U map are dragged and the picture follows;
then a short run trains, and its heat map grows. Frames are taken from the page while it works, and shown faster.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "tests" / "browser")]

from journeys import Opened, serving  # noqa: E402
from make_screenshots import CHROMIUM, IMAGES, LORA, PROMPT, READY, SEED  # noqa: E402

from lib_blocktrain.hosts.demo_model import LORAS, MODEL  # noqa: E402

WINDOW, SIZE = (1280, 800), (880, 550)
STEPS, SAMPLES_EVERY, SAMPLING = 48, 8, 10
EVERY = 120  # milliseconds between two frames
UNIT = 54  # pixels of a drag for a weight of 1, as in u_map_gestures.js
SHOWN, HELD = 110, 1600  # milliseconds that a frame is shown; the last of a scene
QUALITY, LARGEST = 62, 2_000_000  # bytes
POINTER = """() => {
    const dot = Object.assign(document.createElement("div"), { id: "pointer" });
    dot.style.cssText = `position: fixed; z-index: 999; width: 22px; height: 22px; margin: -11px; border-radius: 50%;
        background: #f5a62399; border: 2px solid #fff; box-shadow: 0 0 3px #0008; pointer-events: none;`;
    document.body.append(dot);
    const move = ({ clientX: x, clientY: y }) => Object.assign(dot.style, { left: `${x}px`, top: `${y}px` });
    addEventListener("pointermove", move, true);
}"""  # a screenshot has none
ENDED = "document.querySelector('#blocktrain_status [data-ended]')?.dataset.ended"
SETTLED = (
    "document.querySelector('#blocktrain_bar_preview .blocktrain-changed').hidden"
    " && !document.querySelector('button#blocktrain_draw, #blocktrain_draw button').disabled"
)
BLOCK = "#blocktrain_u_weights [data-block={}]"
STATE = "document.querySelector('#blocktrain_runs_head [data-state]')?.dataset.state"
STEP = "document.querySelector('#blocktrain_runs_head [data-step]')?.dataset.step ?? ''"

log = logging.getLogger("moving picture")


class Film:
    """Frames of a page with the milliseconds that each is shown; one that is like the last is left out."""

    def __init__(self, tab: Opened):
        self.page = tab.page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, shown: int = SHOWN) -> None:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        if self.frames and picture.tobytes() == self.frames[-1].tobytes():
            self.times[-1] = max(self.times[-1], shown)
            return
        self.frames.append(picture)
        self.times.append(shown)

    def until(self, ended: str, argument: object = None, changes: str = "null") -> None:
        """Take frames until an expression in the page is true, where given only those of a new value of ``changes``."""
        last = object()
        while not self.page.evaluate(ended, argument):
            now = self.page.evaluate(changes)
            if now is None or now != last:
                self.take()
            last = now
            self.page.wait_for_timeout(EVERY)
        self.page.wait_for_timeout(600)
        self.take(HELD)

    def save(self, path: Path) -> None:
        first, *others = self.frames
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0, quality=QUALITY, method=4)
        size, seconds = path.stat().st_size, sum(self.times) / 1000
        log.info("%s: %d frames, %.1f s, %d kB", path.name, len(self.frames), seconds, size / 1000)
        if size > LARGEST:
            raise SystemExit(f"{path.name} has {size} bytes, at most {LARGEST} were expected: lower QUALITY")


def edit(tab: Opened, film: Film) -> None:
    """IN, and then OUT03-OUT05, go from 1 to 0 in a drag each, and the picture under the weights follows."""
    page = tab.page
    tab.type("prompt", PROMPT)
    tab.type("seed", SEED)
    tab.preset("ALL")
    page.keyboard.press("Escape")
    tab.preview()
    page.evaluate(POINTER)
    page.locator("#blocktrain_auto input").check()
    drag(film, "#blocktrain_u_weights .blocktrain-u-handle:has-text('IN')")
    page.click(BLOCK.format("OUT03"))
    page.click(BLOCK.format("OUT05"), modifiers=["Shift"])
    drag(film, BLOCK.format("OUT04"))
    page.evaluate("document.querySelector('#pointer').remove()")


def drag(film: Film, element: str) -> None:
    """Drag a part of the map down by a weight of 1, and wait for the picture."""
    page = film.page
    box = page.locator(element).first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.evaluate(ENDED)
    page.mouse.move(x, y)
    film.take(HELD)
    page.mouse.down()
    for down in range(0, UNIT + 1, 6):
        page.mouse.move(x, y + down)
        film.take()
    page.mouse.up()
    page.mouse.move(WINDOW[0] / 2, WINDOW[1] - 10)  # no tooltip over the map
    film.until(f"before => {{ const now = {ENDED}; return now && now !== before && {SETTLED}; }}", before)


def train(tab: Opened, film: Film) -> None:
    """A short run of the last six OUT blocks, from its first step to its last."""
    tab.go("Train")
    tab.choose("train_ready", READY)
    tab.wait("train_estimate", "The backward pass stops at")
    tab.type("train_steps", STEPS)
    tab.type("train_samples_every", SAMPLES_EVERY)
    tab.type("train_samples_steps", SAMPLING)
    tab.click("train_start")
    tab.page.wait_for_function(f"() => {STATE} === 'training'")
    film.until(f"() => {STATE} === 'finished'", changes=STEP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES / "moving.webp")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shutil.copytree(LORAS, Path(work, "loras"))
        with serving(Path(sys.executable), MODEL, Path(work), "--lora", LORA) as address:
            tab = Opened(browser, address, Path(work))
            tab.page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
            film = Film(tab)
            for scene in (edit, train):
                scene(tab, film)
            film.save(arguments.out.resolve())
            tab.close()
        browser.close()


if __name__ == "__main__":
    main()

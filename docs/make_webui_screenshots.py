"""Write the pictures of docs/webui.md: `WEBUI_DIR=DIR python docs/make_webui_screenshots.py` (ten minutes on a CPU).

AUTOMATIC1111 with this extension on the exported demo model, in Chromium: the tab, the accordion, a run trained in the
tab and used in txt2img, an X/Y/Z plot, and the tab in Japanese, which needs a font with Japanese letters. `WEBUI_DIR`
and `WEBUI_PYTHON` name the WebUI and its interpreter, as for `tests/webui`.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from make_screenshots import CHROMIUM, COLOURS, IMAGES, LORA, PROMPT, SEED, WEIGHTS, WITHOUT_ROOT  # noqa: E402

from lib_blocktrain.hosts.demo_model import DEMO, LORAS, MODEL  # noqa: E402
from lib_blocktrain.hosts.ldm_export import export  # noqa: E402
from tests.webui.page import Page  # noqa: E402
from tests.webui.process import started  # noqa: E402
from tests.webui.running import WebUI  # noqa: E402

CHECKPOINT = "blocktrain-demo"
FLAGS = ["--no-download-sd-model", "--use-cpu=all", "--no-half", "--do-not-download-clip"]
PATIENCE = 600  # seconds
RESOLUTION, STEPS, CFG = 128, 20, 5
TRAINED = "robot-trained-here"
TRAINING = {
    "dataset_folders": DEMO / "datasets" / "robot",
    "dataset_size": RESOLUTION,
    "network_weights": WEIGHTS,
    "optimizer_lr": 0.004,
    "batch": 4,
    "steps": 70,
    "name": TRAINED,
}
TRAINED_PROMPT, TRAINED_SEED = "a photo of a large robot in the center, blue background", 3
STATE = "document.querySelector('#blocktrain_runs_head [data-state]')?.dataset.state"

log = logging.getLogger("screenshots")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder for the pictures (%(default)s)")
    parser.add_argument("--only", nargs="*", default=list(PICTURES), choices=list(PICTURES), metavar="PICTURE")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for language in ("", "ja_JP"):
            names = [name for name in arguments.only if (name == "ja") == bool(language)]
            if not names:
                continue
            with running(Path(work, f"data{language}"), language) as webui:
                for name in names:
                    tab = Page(browser, webui)
                    try:
                        PICTURES[name](tab, arguments.out / f"webui-{name}.png")
                    finally:
                        tab.close()
        browser.close()


@contextmanager
def running(data: Path, language: str = "") -> Iterator[WebUI]:
    """Yield the WebUI on a data folder with the demo model and its LoRAs."""
    folder = Path(os.environ["WEBUI_DIR"])
    python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
    shutil.copytree(LORAS, data / "models" / "Lora", dirs_exist_ok=True)
    export(MODEL, data / "models" / "Stable-diffusion", CHECKPOINT)
    (data / "config.json").write_text(json.dumps({"localization": language or "None"}), "utf-8")
    with started(python, folder, data, FLAGS, {}, PATIENCE) as url:
        webui = WebUI(url, data, data / "log.txt")
        webui.use_checkpoint(f"{CHECKPOINT}.safetensors")
        yield webui


def save(page: Page, path: Path, width: int, height: int, top: str = "#tabs", scale: float = 1) -> None:
    """Save this much of the page, from an element on; `scale` is that of the picture."""
    page.page.set_viewport_size({"width": round(width / scale), "height": round(height / scale)})
    page.page.evaluate("document.activeElement?.blur()")
    for folder in (ROOT, page.webui.data, page.webui.data.resolve()):
        page.page.evaluate(WITHOUT_ROOT, f"{folder}{os.sep}")
    page.page.mouse.move(0, 0)
    page.page.locator(top).evaluate("(at) => scrollBy(0, at.getBoundingClientRect().y)")
    page.page.wait_for_timeout(1500)  # what was hovered over fades
    picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    _write(picture.resize((width, height), Image.Resampling.LANCZOS), path)


def _write(picture: Image.Image, path: Path) -> None:
    picture = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    log.info("%s: %d x %d, %.0f kB", path.name, *picture.size, os.path.getsize(path) / 1000)


def settings(page: Page, prompt: str, seed: int = SEED) -> None:
    """Set a prompt and the demo model's size in txt2img."""
    page.tab("txt2img")
    page.small(seed=seed)
    for name, value in (("width", RESOLUTION), ("height", RESOLUTION), ("steps", STEPS), ("cfg_scale", CFG)):
        box = page.page.locator(f"#txt2img_{name} input[type=number]")
        box.fill(str(value))
        box.blur()
    page.pick("#txt2img_sampling", "DDIM")
    page.prompt(prompt)


# --- what is shown ---------------------------------------------------------------------------------------------------


def fill_training(page: Page) -> None:
    """Train's fields for a run of a minute on the demo's robots."""
    page.go("Train")
    for name, value in TRAINING.items():
        page.type(f"train_{name}", value)
    page.wait("train_understood", "OUT06-OUT11 = 1")
    page.wait("train_estimate", "The backward pass stops at")


def tab(page: Page, path: Path) -> None:
    """A LoRA that has learnt its background, without it, with it, and with half of its blocks."""
    settings(page, f"{PROMPT} <lora:{LORA}:1:bw={WEIGHTS}>")
    page.accordion()
    page.click("txt2img_edit")
    page.page.wait_for_function("() => document.querySelector('#blocktrain_w_IN04 input[type=range]').value === '0'")
    page.page.click("#blocktrain [data-from-txt2img]")
    page.wait("status", "Taken from txt2img")
    page.type("prompt", PROMPT)  # without the tag
    page.preview()
    save(page, path, 1280, 1010)


def accordion(page: Page, path: Path) -> None:
    """A preset for all LoRAs of the prompt, and the picture that it gives."""
    settings(page, f"{PROMPT}, blue background <lora:robot:1>")
    page.accordion()
    page.pick("#blocktrain_txt2img_preset", "OUTALL")
    page.page.wait_for_function("() => document.querySelector('#blocktrain_txt2img_text textarea').value === 'OUTALL'")
    page.generate()
    save(page, path, 1250, 870, "#txt2img_toprow")


def xyz(page: Page, path: Path) -> None:
    """A plot of three presets, with some of the blocks off: which of them bring the robot, and which the green."""
    settings(page, f"{PROMPT} <lora:{LORA}:1>")
    page.pick("#script_list", "X/Y/Z plot")
    prefix = "#script_txt2img_xyz_plot"
    for axis, kind, values in (("x", "Preset", "NONE,PALETTE,ALL"), ("y", "Group", "IN=0,OUT06-OUT08=0")):
        page.pick(f"{prefix}_{axis}_type", f"[blocktrain] {kind}")
        page.page.check(f"{prefix}_csv_mode input")
        page.page.locator(f"{prefix}_{axis}_values textarea").fill(values)
    page.generate()
    _write(Image.fromarray(page.picture()), path)


def trained(page: Page, path: Path) -> None:
    """A short run in the tab, then its LoRA in txt2img."""
    page.ours()
    fill_training(page)
    page.click("train_start")
    page.page.wait_for_function(f"() => {STATE} === 'finished'", timeout=3_600_000)
    settings(page, f"{TRAINED_PROMPT} <lora:{TRAINED}:1>", TRAINED_SEED)
    page.generate()
    save(page, path, 1248, 848, "#tabs")


def ja(page: Page, path: Path) -> None:
    """The tab in Japanese, as it comes from the accordion."""
    page.prompt(f"a photo of a large robot, blue background <lora:{LORA}:1>")
    page.accordion()
    page.click("txt2img_edit")
    page.page.wait_for_selector(f'.blocktrain-loras [data-key="{LORA}"]')
    save(page, path, 1050, 480, scale=0.8)


PICTURES: dict[str, Callable[[Page, Path], None]] = {
    "tab": tab,
    "accordion": accordion,
    "trained": trained,
    "xyz": xyz,
    "ja": ja,
}

if __name__ == "__main__":
    main()

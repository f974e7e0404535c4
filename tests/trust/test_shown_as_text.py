"""HTML in names, captions, tags, prompts and metadata is text: the tab in Chromium, with all of it in place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("gradio")

from lib_blocktrain.training import runs
from tests.browser.journeys import Opened, serving, write_loras

EVIL = '<blocktrain-evil><img src=x onerror="window.blocktrainHacked=1"><script>window.blocktrainHacked=1<\u2215script>'
SAID = "blocktrain-evil"
FOUND = """() => [
    window.blocktrainHacked, document.querySelectorAll('blocktrain-evil').length,
    document.querySelectorAll('img[src="x"], a[href^="javascript:"]').length,
]"""


def write_bad_things(model: Path, pictures: Path, config, folder: Path) -> None:
    """A LoRA, presets, a run, a dataset and a picture, whose every text is markup."""
    loras, out = folder / "loras", folder / "out"
    write_loras(model, loras)
    names = ("ss_output_name", "ss_sd_model_name", "ss_training_comment", "modelspec.trigger_phrase", EVIL)
    metadata = dict.fromkeys(names, EVIL)
    metadata["ss_tag_frequency"] = json.dumps({EVIL: {EVIL: 5, "robot": 3}})
    metadata["ss_network_args"] = json.dumps({"block_dims": EVIL, "down_lr_weight": EVIL})
    save_file(load_file(loras / "robot.safetensors"), loras / f"{EVIL}.safetensors", metadata)
    (loras / f"broken {EVIL}.safetensors").write_bytes(b"none")
    out.mkdir()
    presets = f"<b>bold<\u2215b>:OUT=1  # {EVIL}\n{EVIL}: broken\nBROKEN:{EVIL}\n"
    (out / "presets.txt").write_text(presets, "utf-8")
    prompts = replace(config.samples, prompts=(EVIL,))
    run = runs.create(replace(config, description=EVIL, samples=prompts), out / "runs" / f"run {EVIL}")
    for row in ({"event": EVIL}, {"event": "failed", "reason": EVIL}, {"prompt": EVIL, "sample": None}):
        run.add_metrics({"step": 1, **row})
    run.add_metrics({"step": 1, "event": "started", "dataset": {"tags": {EVIL: 1}, "notices": [EVIL]}, "notice": EVIL})
    dataset = folder / "pictures" / "1_<b>concept"
    dataset.mkdir(parents=True)
    for number, path in enumerate(sorted((pictures / "2_thing").glob("*.png"))):
        (dataset / f"{number}{EVIL}.png").write_bytes(path.read_bytes())
        (dataset / f"{number}{EVIL}.txt").write_text(f"{EVIL}, robot", "utf-8")
    (dataset / f"broken {EVIL}.png").write_bytes(b"none")
    info = PngInfo()
    info.add_text("parameters", f"{EVIL}\nNegative prompt: {EVIL}\nSteps: 2, Sampler: {SAID}, Seed: 1, LoRA 1: {EVIL}")
    Image.new("RGB", (64, 64)).save(folder / "picture.png", pnginfo=info)


@pytest.fixture
def opened(browser, random_model, pictures, config, tmp_path) -> Iterator[Opened]:
    write_bad_things(random_model, pictures, config, tmp_path)
    with serving(Path(sys.executable), random_model, tmp_path) as address:
        opened = Opened(browser, address, tmp_path)
        yield opened
        opened.close()


def unfold_all(opened: Opened) -> None:
    """Open every place and every folded part, so that nothing stays unrendered."""
    for place in opened.page.locator("#blocktrain_place_tabs [role=tab]").all():
        place.click()
        for part in opened.page.locator("#blocktrain button.label-wrap:not(.open), .label-wrap:not(.open)").all():
            if part.is_visible():
                part.click()
        opened.page.wait_for_timeout(500)


def check(opened: Opened, tally) -> None:
    with tally.case("markup shown as text", fault=True):
        assert opened.page.evaluate(FOUND) == [None, 0, 0]


def test_markup_is_text(opened, tally):
    page = opened.page
    check(opened, tally)
    opened.open("contents")
    page.locator(".blocktrain-picker [type=search]").click()
    page.locator(".blocktrain-lib-list .blocktrain-lora", has_text=SAID).first.locator(".blocktrain-lora-add").click()
    opened.wait("facts", SAID)
    check(opened, tally)
    opened.paste(f"{EVIL}:{EVIL}")
    opened.wait("understood", SAID)
    opened.menu("presets")
    opened.type("preset_name", EVIL)
    opened.click("preset_save")
    opened.wait("preset_message", SAID)
    check(opened, tally)
    opened.upload("png_file", opened.folder / "picture.png")
    opened.wait("status", SAID)
    check(opened, tally)
    opened.go("Train")
    opened.type("train_dataset_folders", str(opened.folder / "pictures"))
    opened.click("train_look")
    opened.wait("train_dataset", SAID)
    check(opened, tally)
    opened.type("train_network_weights", EVIL)
    opened.go("Runs")
    opened.page.locator(".blocktrain-run-log", has_text=SAID).first.wait_for()
    check(opened, tally)
    unfold_all(opened)
    check(opened, tally)

"""Two minutes of training on the demo model, watched, stopped, saved and previewed by clicks alone.

It takes as long as it says, so it runs where BLOCKTRAIN_MINUTES is set, to 2 for what its name says; what it does is
done in seconds on a tiny model by test_train.py. What the pictures show is read by the demo's classifier.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import torch
from journeys import SECOND, Opened, decoded, serving
from test_train import STATE, STEP

from lib_blocktrain.hosts.demo_model import DEMO, LORAS

MINUTES = float(os.environ.get("BLOCKTRAIN_MINUTES", "0"))
pytestmark = pytest.mark.skipif(not MINUTES, reason="takes minutes: set BLOCKTRAIN_MINUTES=2")


def subjects(opened: Opened) -> list[str]:
    """What the classifier takes the pictures of Preview for."""
    sys.path.insert(0, str(DEMO))
    from demo.classifier import read
    from demo.evaluate import load_classifier
    from demo.pictures import as_tensor

    images = opened.page.locator("#blocktrain_pictures figure[data-arm] img").all()
    pictures = [decoded(image.get_attribute("src")) for image in images]
    with torch.no_grad():
        return read(load_classifier(DEMO / "model"), torch.stack([as_tensor(p) for p in pictures]))["subject"]


def test_two_minutes_make_a_robot(browser, python, tmp_path):
    (tmp_path / "loras").mkdir()
    shutil.copy(LORAS / "pixel-art.safetensors", tmp_path / "loras")
    with serving(python, DEMO / "model", tmp_path) as address:
        opened = Opened(browser, address, tmp_path)
        opened.go("Train")
        opened.choose("train_ready", "1-robot")
        opened.wait("train_message", "A subject that the demo model has never seen")
        opened.wait("train_estimate", "is known once a run has started")
        opened.click("train_start")
        opened.page.wait_for_function(f"() => {STATE} === 'training' && {STEP} >= 1")

        steps = []
        for _ in range(4):  # somebody watches
            opened.page.wait_for_timeout(MINUTES * 60 * SECOND / 4)
            steps.append(opened.page.evaluate(STEP))
            assert "left" in opened.text("runs_state")
        assert steps == sorted(set(steps))
        assert opened.page.locator(".blocktrain-loss polyline").count() >= 2
        opened.page.screenshot(path=tmp_path / "watched.png", full_page=True)

        opened.click("runs_stop_save")
        opened.page.wait_for_function(f"() => {STATE} === 'stopped'")
        opened.go("Train")
        opened.type("train_steps", steps[-1])
        opened.wait("train_estimate", "as robot-")  # so many minutes, as this run went
        opened.go("Runs")
        opened.page.wait_for_selector(f"{opened.button('runs_preview')}:not([disabled])")
        opened.click("runs_preview")
        opened.row("robot").first.wait_for()
        opened.preview()
        opened.page.screenshot(path=tmp_path / "previewed.png", full_page=True)
        without, trained, _ = subjects(opened)
        assert without != "robot" == trained
        opened.close()

"""What needs the model for a set: where a word is in a picture, and which blocks training on it would change."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

from PIL import Image

from lib_blocktrain.analysis import probe
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.picture_sets import PictureSets
from lib_blocktrain.workspace.set_jobs import find_mask, probe_set, retest
from tests.fakes import FakeHost
from tests.tiny_models import assert_untouched, state_of

ROBOTS = Path(__file__).resolve().parent.parent.parent / "demo" / "datasets" / "robot" / "10_robot"


@pytest.fixture(scope="module")
def model():
    """The demo model, which knows what a robot is."""
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo()


@pytest.fixture
def host(tmp_path, model):
    before = state_of(model.unet)
    yield FakeHost(tmp_path, model)
    assert_untouched(model.unet, before)


@pytest.fixture
def sets(host):
    sets = PictureSets(host)
    sets.create("robot")
    folder = host.output_dir / "datasets" / "robot" / "10_robot"
    for name in ("002.png", "002.txt", "008.png"):
        shutil.copyfile(ROBOTS / name, folder / name)
    Image.open(ROBOTS / "008.png").convert("RGB").resize((300, 150)).save(folder / "wide.png")
    (folder / "wide.txt").write_text("ohwx bot", "utf-8")
    yield sets
    sets.close()


def subject(picture: Image.Image) -> np.ndarray:
    """Where the demo's picture is not its plain background."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.abs(pixels - pixels[0, 0]).max(axis=-1) > 24


@pytest.mark.parametrize("name", ["002.png", "wide.png"])
def test_a_word_is_where_its_subject_is(host, sets, name):
    steps: list[tuple[int, int]] = []
    found = find_mask(host, sets, "robot", f"robot/{name}", " robot ", lambda done, of: steps.append((done, of)))
    picture = Image.open(host.output_dir / "datasets" / "robot" / "10_robot" / name)
    mask = Image.open(io.BytesIO(found.png))
    assert (mask.mode, mask.size) == ("L", picture.size)
    found_at, truly = np.asarray(mask) > 0, subject(picture)
    assert (found_at & truly).sum() / (found_at | truly).sum() > 0.5
    assert found.share == pytest.approx(found_at.mean(), abs=0.03)
    assert steps[-1] == (6, 6)
    saved = sets.save_mask("robot", f"robot/{name}", png=found.png)
    assert saved.title == f"mask of {name}"


def test_what_is_no_word_is_refused(host, sets):
    for word in ("", "  ", "x" * 201):
        with pytest.raises(ValueError, match="expected a word of the picture"):
            find_mask(host, sets, "robot", "robot/002.png", word)
    with pytest.raises(FileNotFoundError, match="no picture"):
        find_mask(host, sets, "robot", "robot/nothing.png", "robot")


def test_a_set_is_probed_and_its_weights_are_a_preset(host, sets, monkeypatch):
    monkeypatch.setattr(probe, "TIMESTEPS", (400,))
    found = probe_set(host, sets, "robot", 3).to_json()
    assert found["pictures"] == 3
    assert sum(one["mean"] for one in found["blocks"]) == pytest.approx(1, abs=0.01)
    weights = parse(found["weights"], "sd1").weights if found["weights"] else None
    for one in found["blocks"]:
        if weights is not None and one["within_noise"]:
            assert weights[one["block"]] == 0


def test_weights_for_another_share_are_to_be_found_again():
    assert "more than twofold apart" in retest(0.08, 0.4)
    assert retest(0.3, 0.4) == retest(None, 0.4) == retest(0.3, None) == ""

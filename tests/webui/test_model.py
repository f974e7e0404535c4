"""The loaded model in the real WebUI: we compute what the WebUI computes, and leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.webui.process import TRAINS
from tests.webui.running import LORA, pixels

PROMPT = "a photo of a fox"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def write_pictures(root: Path) -> Path:
    """Two images of 64 pixels in kohya's layout; brackets in the caption are literal."""
    folder = root / "2_thing"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a (robot:1.3) BREAK [thing]")
    return root


def run(pictures, **changes) -> dict:
    return {
        "name": "tiny",
        "dataset": {"folders": [{"path": str(pictures)}], "size": 64},
        "network": {"rank": 2, "weights": "OUT10=1,OUT11=1"},
        "optimizer": {"lr": 0.01},
        "steps": 4,
        "batch": 1,
        "save_every": 2,
        "save_dtype": "fp32",
        "samples": {"prompts": [f"a robot <lora:{LORA}:1>"], "every": 4, "steps": 1},
        **changes,
    }


@pytest.fixture
def whole(weighed):
    """With a user's LoRA merged, each of these leaves everything as it was."""
    weighed.pixels(f"{PROMPT} <lora:{LORA}:0.8:bw=OUTD>")
    before = weighed.inside("fingerprint")
    yield weighed
    assert weighed.inside("fingerprint") == before


@pytest.mark.kinds("a1111")
def test_conditioning_and_prediction_are_the_webuis_own(whole):
    distance = whole.inside("same_as_webui", prompt="a photo of a fox, blue background, " + "very " * 90)
    assert distance["context"] == 0
    assert distance["prediction"] < 1e-5
    assert distance["spread"] > 1e-3
    assert distance["picture"]


def test_whole_after_a_preview(whole):
    assert whole.inside("preview", prompt=PROMPT, lora=LORA, sampler="Euler", steps=2, width=64, height=64)


def test_whole_after_a_preview_that_is_cancelled(whole):
    assert whole.inside("broken_preview", prompt=PROMPT, lora=LORA).startswith("at step 1 of 4")


@pytest.mark.kinds("a1111", *TRAINS)
def test_whole_after_an_exception_in_training(whole):
    assert whole.inside("broken_training") == "broken on purpose"


@pytest.mark.kinds("a1111", *TRAINS)
def test_whole_after_a_run_that_is_stopped(whole, pictures):
    stopped = whole.inside("train", config=run(pictures, name="stopped", steps=400), stop_after=2)
    assert stopped["state"] == "stopped"
    assert 2 <= stopped["step"] < 400


@pytest.mark.kinds("a1111", *TRAINS)
def test_a_trained_lora_can_be_used_at_once(whole, pictures):
    trained = whole.inside("train", config=run(pictures))
    assert trained["state"] == "finished"
    assert set(trained["gradients"][0]) == {"OUT10", "OUT11"}
    assert all(norm > 0 for norm in trained["gradients"][0].values())
    published = trained["published"].removesuffix(".safetensors")
    drawn = [whole.pixels(f"a robot{more}") for more in ("", f" <lora:{published}:1>", " <lora:tiny-000002:1>")]
    assert len({picture.tobytes() for picture in drawn}) == 3
    assert "didn't match keys" not in whole.log.read_text(errors="replace")
    whole.pixels(f"{PROMPT} <lora:{LORA}:0.8:bw=OUTD>")


@pytest.mark.kinds("a1111", *TRAINS)
def test_steps_of_a_run_in_a_plot(weighed, pictures):
    """Compare a run's checkpoints while they are still in its folder."""
    trained = weighed.trained(run(pictures, name="steps", steps=3, save_every=1, samples={}))
    assert trained["state"] == "finished", trained
    tag = f"a robot <lora:{trained['published'].removesuffix('.safetensors')}:1>"
    axis = weighed.inside("axes").index("[blocktrain] Step of a run")
    cells = weighed.txt2img(tag, **weighed.inside("plot", x_type=axis, x_values="1,2"))["images"][1:]
    drawn = [weighed.pixels(f"a robot <lora:steps-00000{step}:1>") for step in (1, 2)]
    assert [np.array_equal(pixels(cell), alone) for cell, alone in zip(cells, drawn)] == [True, True]
    assert not np.array_equal(*drawn)


def test_nothing_doubles(weighed):
    from tests.webui.test_manners import once

    assert weighed.inside("registered") == once(weighed)

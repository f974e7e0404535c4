"""What works with memory modes, narrow weights and a replaced U-Net in the real WebUI, and what does not."""

from __future__ import annotations

import json
import urllib.error

import numpy as np
import pytest

from tests.webui.running import LORA, pixels
from tests.webui.test_model import run, write_pictures

PROMPT = "a photo of a fox"
TAG = f"{PROMPT} <lora:{LORA}:1>"
SOME = ("NONE", "OUTD")
SAME = {"sampler": "Euler", "steps": 4, "cfg": 5.0, "seed": 1, "width": 64, "height": 64}

pytestmark = pytest.mark.kinds("a1111")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=["--medvram", "--lowvram"])
def saving(request, another, exported):
    """A WebUI that moves parts of the model to the GPU when they are called."""
    with another(request.param) as found:
        found.use_checkpoint(exported.name)
        found.flag = request.param
        yield found


def test_pictures_are_the_same(saving, weighed):
    """Tag and preview; with BASE alone only the text encoders are moved."""
    for weights in ("ALL", "OUTD", "BASE=1,REST=0"):
        theirs = saving.pixels(TAG.replace(":1>", f":1:bw={weights}>"))
        assert np.array_equal(theirs, weighed.pixels(TAG.replace(":1>", f":1:bw={weights}>")))
        ours = pixels(saving.inside("preview", prompt=PROMPT, lora=LORA, weights=weights, **SAME))
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_training_needs_the_whole_unet(saving, pictures):
    before = saving.inside("fingerprint")
    trained = saving.inside("train", config=run(pictures, name="saving"))
    assert saving.inside("fingerprint") == before
    if saving.flag == "--medvram":
        assert trained["state"] == "finished"
        assert all(norm > 0 for norm in trained["gradients"][0].values())
    else:
        assert trained["state"] == "failed"
        assert "--lowvram only one block of the U-Net is on the GPU" in trained["reason"]
        assert "--medvram" in trained["reason"]


def test_analysis_needs_the_whole_unet(saving):
    found = saving.analysed(LORA, method="fast", prompts=[PROMPT])
    if saving.flag == "--lowvram":
        assert "--lowvram" in found["detail"]
    else:
        assert found["state"] == "done", found


def test_a_replaced_unet_cannot_be_hooked(weighed, pictures):
    """Preview, training and analysis are refused; the message names the replacement."""
    before = weighed.pixels(TAG)
    weighed.inside("replace_unet", label="[TRT] fox")
    try:
        weighed.pixels(PROMPT)  # the engine's own image is drawn as before
        with pytest.raises(urllib.error.HTTPError) as refused:
            weighed.call("/blocktrain/v1/preview", {"prompt": PROMPT, "loras": [{"name": LORA}], "steps": 1})
        said = json.loads(refused.value.read())
        assert refused.value.code == 409
        assert (said["error"], "replaced by '[TRT] fox'" in said["detail"]) == ("no model", True)
        trained = weighed.inside("train", config=run(pictures, name="replaced"))
        assert trained["state"] == "failed"
        assert "set SD Unet to None" in trained["reason"]
    finally:
        weighed.inside("replace_unet", label=None)
    assert np.array_equal(weighed.pixels(TAG), before)


@pytest.mark.parametrize("saving", ["--medvram"], indirect=True)
def test_narrow_weights_are_not_trained_on(saving, pictures):
    """FP8: images and previews are drawn, training is refused. The last test here: the WebUI itself keeps a trace.

    Tag and preview are not the same: the WebUI rounds what it merges to FP8, and hooks add it in full.
    """
    live = {"live_previews_enable": False}  # on a CPU the WebUI cannot decode them from FP8
    saving.call("/sdapi/v1/options", {"fp8_storage": "Enable", **live})
    try:
        base = saving.pixels(PROMPT)
        none, outs = (pixels(saving.inside("preview", prompt=PROMPT, lora=LORA, weights=w, **SAME)) for w in SOME)
        assert np.array_equal(none, base)
        assert not np.array_equal(outs, base)
        assert np.array_equal(saving.pixels(TAG.replace(":1>", ":1:bw=NONE>")), base)
        assert not np.array_equal(saving.pixels(TAG.replace(":1>", ":1:bw=OUTD>")), base)
        trained = saving.inside("train", config=run(pictures, name="narrow"))
        assert trained["state"] == "failed"
        assert "float8_e4m3fn: set FP8 weight to Disable" in trained["reason"]
    finally:
        saving.call("/sdapi/v1/options", {"fp8_storage": "Disable"})
    assert saving.inside("train", config=run(pictures, name="narrow"))["state"] == "finished"

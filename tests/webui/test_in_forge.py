"""The extension in a real Forge, on its CPU: tags, preview and training, all without a trace in the model.

`FORGE_DIR` names an installed stable-diffusion-webui-forge, `FORGE_PYTHON` the interpreter of its environment (by
default `venv/bin/python` in it). Without `FORGE_DIR` all of these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

FORGE_DIR = os.environ.get("FORGE_DIR")
pytestmark = pytest.mark.skipif(not FORGE_DIR, reason="FORGE_DIR does not name an installed Forge")

SOME = "IN=0.5,M00=1,OUT03-OUT05=2,BASE=0.5"


@pytest.fixture(scope="module")
def forge(tmp_path_factory):
    pytest.importorskip("diffusers")
    from tests.webui.forge_process import running, write_models

    data = tmp_path_factory.mktemp("forge")
    write_models(Path(FORGE_DIR), data)
    with running(Path(FORGE_DIR), data) as found:
        yield found


@pytest.fixture(scope="module")
def pictures(forge):
    """Return a function from a tag's text behind the LoRA's name to pixels, drawn once; None stands for no tag."""
    drawn = {}

    def draw(tag: str | None) -> np.ndarray:
        if tag not in drawn:
            prompt = "a cat" if tag is None else f"a cat <lora:random:{tag}>"
            picture, drawn[tag, "says"] = forge.draw(prompt)
            drawn[tag] = np.asarray(picture).astype(int)
        return drawn[tag]

    draw.says = lambda tag: (draw(tag), drawn[tag, "says"])[1]
    return draw


def test_what_is_called_is_there(forge):
    """The stand-ins of `tests/hosts` have the names and parameters of the real functions."""
    found = forge.inside("signatures")
    assert found["load_models_gpu"][:2] == ["models", "memory_required"]
    assert found["attention"][:5] == ["q", "k", "v", "heads", "mask"]
    assert found["refresh"][:2] == ["self", "lora_patches"]
    assert found["encode"] == ["self", "tokens"]
    assert found["tokenize"] == ["self", "texts"]
    assert found["reload"] == []
    assert found["patch"] == ["key", "obj", "field", "replacement"]
    assert found["undo"] == ["key", "obj", "field"]
    assert found["activate"] == ["self", "p", "params_list"]


def test_recognised(forge):
    found = forge.inside("features")
    assert (found["host"], found["architecture"]) == ("Forge", "sd1")
    assert "LoRAs merged by key" in found["features"]


def test_loaded_after_the_lora_extension(forge):
    order = forge.inside("script_order")
    lora = next(place for place, path in enumerate(order) if path.endswith("sd_forge_lora/lora_script.py"))
    ours = next(place for place, path in enumerate(order) if path.endswith("/blocktrain.py"))
    assert ours > lora


def test_all_is_forges_own_and_none_is_no_lora(pictures):
    """Bit for bit, and again after other weights at the same strength."""
    assert np.array_equal(pictures("1:bw=ALL"), pictures("1"))
    assert np.array_equal(pictures("1:bw=NONE"), pictures(None))
    some = pictures(f"1:bw={SOME}")
    assert not np.array_equal(some, pictures("1"))
    assert not np.array_equal(some, pictures(None))
    assert np.array_equal(pictures("1.0"), pictures("1"))
    assert 'Block weights: "random: 0.5,' in pictures.says(f"1:bw={SOME}")


def test_a_tag_that_cannot_be_read_leaves_its_lora_out(pictures):
    assert np.array_equal(pictures("1:bw=NO_SUCH_PRESET"), pictures(None))
    assert "random left out: unknown preset 'NO_SUCH_PRESET'" in pictures.says("1:bw=NO_SUCH_PRESET")


def test_steps(pictures):
    """In an image of two steps, `start=3` is never and `stop=3` always."""
    assert np.array_equal(pictures("1:te=0:unet=1:start=3"), pictures(None))
    assert np.array_equal(pictures("1:stop=3"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures(None))


def test_the_tabs_preview_is_the_tag(forge, pictures):
    """Hooks and merged weights differ by rounding only, for block weights with BASE, too."""
    from tests.webui.forge_process import picture_of

    before = forge.inside("fingerprint")
    shown = forge.inside("preview", prompt="a cat", file=str(forge.loras / "random.safetensors"), weights=SOME)
    assert forge.inside("fingerprint") == before
    difference = np.abs(np.asarray(picture_of(shown)).astype(int) - pictures(f"1:bw={SOME}"))
    effect = np.abs(pictures(f"1:bw={SOME}") - pictures(None))
    assert difference.max() <= 2
    assert difference.mean() * 50 < effect.mean()


def test_forward_by_blocks(forge):
    assert forge.inside("forward_by_blocks") == {"whole": True, "blocks": 25, "equal": 25}


def test_gradients(forge):
    """Every tensor of a LoRA on all attention layers has a gradient, equal to finite differences."""
    before = forge.inside("fingerprint")
    found = forge.inside("gradients", file=str(forge.loras / "random.safetensors"))
    assert forge.inside("fingerprint") == before
    assert found["found"] == found["tensors"] == 2 * 16 * 8
    assert all(error < 0.005 for error in found["errors"].values()), found["errors"]


@pytest.mark.parametrize("ending", ["finished", "stopped", "failed"])
def test_training_leaves_no_trace(forge, tmp_path_factory, ending):
    """With a LoRA merged by Forge, the text encoder trained, too, and a sample drawn in between."""
    forge.draw("a cat <lora:random:1>")
    before = forge.inside("fingerprint")
    found = forge.inside("train", folder=str(tmp_path_factory.mktemp("run")), ending=ending)
    assert forge.inside("fingerprint") == before
    assert found["ended"] == {"failed": "made to fail"}.get(ending, ending)
    assert len(found["losses"]) == {"finished": 3}.get(ending, 1)
    if ending == "finished":
        assert found["samples"] == 2  # after the second of three steps, and at the end
        shutil.copy(found["files"][0], forge.loras / "trained.safetensors")
        forge.call("/sdapi/v1/refresh-loras", {})
        plain, _ = forge.draw("a cat")
        trained, _ = forge.draw("a cat <lora:trained:1>")
        assert trained.tobytes() != plain.tobytes()

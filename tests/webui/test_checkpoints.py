"""SD2 and SDXL in the real WebUI, on checkpoints of random weights: OpenCLIP's text encoders, SDXL's 19 blocks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.weights.preset_strings import parse
from tests.webui.random_models import configuration, write_lora
from tests.webui.running import pixels

PROMPT = "a photo of a fox, a forest behind it"
SAME = {"sampler": "Euler", "steps": 4, "cfg": 5.0, "seed": 1, "width": 64, "height": 64}

pytestmark = pytest.mark.kinds("a1111")


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def loaded(request, webui, exported):
    """The WebUI on a random checkpoint of an architecture, with a LoRA for it."""
    architecture, folder = request.param, exported.parent
    name = f"blocktrain-{architecture}"
    (clip,) = folder.glob(f"{exported.stem}*/config.json")
    (folder / f"{name}.yaml").write_text(configuration(architecture, clip.parent), "utf-8")
    checkpoint = folder / f"{name}.safetensors"
    webui.inside("write_random", configuration=str(folder / f"{name}.yaml"), path=str(checkpoint))
    write_lora(checkpoint, webui.loras / f"{name}-lora.safetensors", architecture)
    webui.call("/sdapi/v1/refresh-loras", {})
    webui.call("/sdapi/v1/options", {"show_progress_type": "Approx cheap"})  # the default one is downloaded for SDXL
    webui.use_checkpoint(checkpoint.name)
    return SimpleNamespace(webui=webui, architecture=architecture, lora=f"{name}-lora")


@pytest.fixture(scope="module")
def weights(loaded) -> str:
    """Return different weights for BASE and each block, half of them 0."""
    ids = ["BASE", *ARCHITECTURES[loaded.architecture].block_ids]
    return ",".join(f"{block_id}={[0.5, 0, 1.3, 0][n % 4] + n / 50:g}" for n, block_id in enumerate(ids))


def tag(loaded, *more: str) -> str:
    return f"{PROMPT} <lora:{':'.join([loaded.lora, '1', *more])}>"


def test_the_real_one_is_recognised(loaded):
    """Every attention layer of the LoRA matches a layer, in the blocks of its architecture."""
    webui, known = loaded.webui, ARCHITECTURES[loaded.architecture]
    assert webui.inside("registered")["scripts"] == 1
    found = webui.inside("block_states", lora=loaded.lora)
    attention = [block.id for block in known.blocks if any(part.kind == "attn" for part in block.parts)]
    assert set(found) == set(attention)
    assert len(attention) == {"sd2": 16, "sdxl": 11}[loaded.architecture]
    described = webui.call(f"/blocktrain/v1/loras/inspect?name={loaded.lora}")
    if loaded.architecture == "sdxl":  # SD2 is recognised by a context 1024 wide; this one is smaller
        assert described["architecture"] == "sdxl"
    assert {name: number for name, number in described["blocks"].items() if name in attention} == found


def test_conditioning_and_prediction_are_the_webuis_own(loaded):
    distance = loaded.webui.inside("same_as_webui", prompt=f"{PROMPT}, " + "very " * 90)
    assert distance["context"] < 1e-5
    assert distance["prediction"] < 1e-4
    assert distance["spread"] > 1e-3
    assert distance["picture"]


def test_all_is_the_plain_tag_and_none_is_no_lora(loaded):
    webui = loaded.webui
    base, plain = webui.pixels(PROMPT), webui.pixels(tag(loaded))
    assert not np.array_equal(plain, base)
    assert np.array_equal(webui.pixels(tag(loaded, "bw=ALL")), plain)
    assert np.array_equal(webui.pixels(tag(loaded, "bw=NONE")), base)
    assert "didn't match keys" not in webui.log.read_text(errors="replace")


@pytest.mark.parametrize("blocks", ["all", "BASE=1,REST=0", "OUTD,BASE=0"])
def test_the_tabs_preview_is_the_tag(loaded, weights, blocks):
    """Hooks against merged weights; in the second case for the text encoder alone, OpenCLIP's attention included."""
    webui, chosen = loaded.webui, weights if blocks == "all" else blocks
    before = webui.inside("fingerprint")
    ours = pixels(webui.inside("preview", prompt=PROMPT, lora=loaded.lora, weights=chosen, **SAME)).astype(int)
    assert webui.inside("fingerprint") == before
    theirs, base = webui.pixels(tag(loaded, f"bw={chosen}")), webui.pixels(PROMPT)
    effect = np.abs(base.astype(int) - theirs)
    assert np.abs(ours - theirs).max() <= 2
    assert effect.max() > 8
    assert np.abs(ours - theirs).mean() * 50 < effect.mean()


def test_the_classic_presets_by_tag_and_tab(loaded):
    """LoRA Block Weight's names, in its spelling and in ours, are the numbers that the tab draws with.

    At a fifth of the strength: at 1 these random weights amplify rounding, and a strength of 1.000001 differs by 23.
    """
    webui, known, seen, rows = loaded.webui, ARCHITECTURES[loaded.architecture], set(), []

    def tagged(weights: str) -> dict:
        return webui.txt2img(f"{PROMPT} <lora:{loaded.lora}:0.2:{weights}>")

    for name in ("INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL"):
        answer = tagged(f"lbw={name}")
        drawn = pixels(answer["images"][0])
        said = json.loads(answer["info"])["extra_generation_params"]["Block weights"]
        numbers = parse(name, known.id).weights.to_line()
        assert said == f"{loaded.lora}: {numbers}"
        for weights in (name, numbers):
            assert np.array_equal(pixels(tagged(f"bw={weights}")["images"][0]), drawn)
        lora = {"lora": loaded.lora, "weights": name, "multiplier": 0.2}
        shown = pixels(webui.inside("preview", prompt=PROMPT, **lora, **SAME))
        rows.append(int(np.abs(shown.astype(int) - drawn).max()))
        seen.add(drawn.tobytes())
    assert max(rows) <= 2, rows
    assert len(seen) == len(rows)


def test_what_another_architecture_means_is_refused(loaded):
    """17 values are the attention blocks of SD1 and SD2, 12 those of SDXL; the same holds for presets."""
    webui, base = loaded.webui, loaded.webui.pixels(PROMPT)
    of_another = {"sd2": {"1" + ",1" * 11: "12 values", "B-LORA-STYLE": "is for SDXL"}}
    of_another["sdxl"] = {"1" + ",1" * 16: "17 values", "POSE": "is for SD1 and SD2"}
    for weights, said in of_another[loaded.architecture].items():
        answer = webui.txt2img(tag(loaded, f"bw={weights}"))
        assert np.array_equal(pixels(answer["images"][0]), base)
        assert said in json.loads(answer["info"])["extra_generation_params"]["Block weights problem"]
    resolved = json.loads(webui.txt2img(tag(loaded, "bw=OUT=0.5"))["info"])["extra_generation_params"]["Block weights"]
    assert resolved.count(",") == len(ARCHITECTURES[loaded.architecture].block_ids)


def test_trains(loaded, tmp_path_factory):
    """Two steps on the last blocks leave no trace in the model, and the LoRA can be used at once."""
    from tests.webui.test_model import run, write_pictures

    webui, blocks = loaded.webui, ARCHITECTURES[loaded.architecture].block_ids
    last = [block_id for block_id in ("OUT03", "OUT05") if block_id in blocks]
    webui.pixels(tag(loaded, "bw=OUT05=0.5"))
    before = webui.inside("fingerprint")
    config = run(write_pictures(tmp_path_factory.mktemp("pictures")), name=f"tiny-{loaded.architecture}", steps=2)
    config["samples"] = {"prompts": ["a robot"], "every": 2, "steps": 1}
    config["network"]["weights"] = ",".join(f"{block_id}=1" for block_id in last)
    trained = webui.inside("train", config=config)
    assert webui.inside("fingerprint") == before
    assert trained["state"] == "finished", trained
    assert set(trained["gradients"][0]) == set(last)
    published = trained["published"].removesuffix(".safetensors")
    assert not np.array_equal(webui.pixels(f"{PROMPT} <lora:{published}:1>"), webui.pixels(PROMPT))

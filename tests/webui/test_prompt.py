"""The prompt tag in the real WebUI: its own Lora networks under block weights, where possible bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.weights.preset_strings import parse
from tests.webui.running import LORA, pixels

PROMPT = "a photo of a fox"
WEIGHTS = "0.5,0,1,0.3,0,1,1.5,0,1,0.2,0,0.7,1,0,1,1,0.4,0,1,0.6,1,0,1.2,1,0,1"
SAME = {"sampler": "Euler", "steps": 4, "cfg": 5.0, "seed": 1, "width": 64, "height": 64}


def tag(*more: str, multiplier: str = "1") -> str:
    return f"{PROMPT} <lora:{':'.join([LORA, multiplier, *more])}>"


@pytest.fixture(scope="module")
def base(weighed):
    return weighed.pixels(PROMPT)


@pytest.fixture(scope="module")
def plain(weighed, base):
    drawn = weighed.pixels(tag())
    assert not np.array_equal(drawn, base)
    return drawn


def test_loaded_after_the_lora_extension(webui):
    order = webui.inside("script_order")
    lora = next(place for place, path in enumerate(order) if path.endswith("/lora_script.py"))
    ours = next(place for place, path in enumerate(order) if path.endswith("/blocktrain.py"))
    assert ours > lora


def test_all_is_the_plain_tag_and_none_is_no_lora(weighed, base, plain):
    for spelling in ("bw", "lbw"):
        assert np.array_equal(weighed.pixels(tag(f"{spelling}=ALL")), plain)
        assert np.array_equal(weighed.pixels(tag(f"{spelling}=NONE")), base)
    assert np.array_equal(weighed.pixels(tag()), plain)  # no trace of the weights
    assert np.array_equal(weighed.pixels(PROMPT), base)


def test_base_is_the_text_encoder(weighed):
    """Against the WebUI's own te= and unet=. Its cached conditioning is not used for other weights."""
    blocks = ",".join(["1"] * 25)
    assert np.array_equal(weighed.pixels(tag(f"bw=0,{blocks}")), weighed.pixels(tag("te=0", "unet=1")))
    only_text = tag(f"bw=1,{','.join(['0'] * 25)} | rest=0")
    assert np.array_equal(weighed.pixels(only_text), weighed.pixels(tag("te=1", "unet=0")))


def test_steps(weighed, plain):
    unet_off = weighed.pixels(tag("te=1", "unet=0"))
    assert np.array_equal(weighed.pixels(tag("start=99")), unet_off)
    assert np.array_equal(weighed.pixels(tag("start=1")), plain)
    late, early = weighed.pixels(tag("start=3")), weighed.pixels(tag("stop=3"))
    assert len({drawn.tobytes() for drawn in (late, early, unet_off, plain)}) == 4


@pytest.mark.parametrize(
    ("weights", "first", "then"),  # of four steps the first two are before the middle of the sampling
    [
        ("*=1,BASE=0,OUT=0.5,OUT.attn2=1.3,M00.ff=0,IN.proj=0", None, None),
        ("*=1,BASE=0,OUT=0.2@0-0.5,1@0.5-1,IN.ff=1@0-0.5", "ALL,BASE=0,OUT=0.2", "ALL,BASE=0,IN.ff=0"),
    ],
)
def test_kinds_of_layers_and_curves_are_baked_files_step_by_step(weighed, base, weights, first, then):
    """The tag, the tab's preview, and the same weights in files that were baked."""
    network = read_network(weighed.loras / f"{LORA}.safetensors")
    names = []
    for text in filter(None, (first or weights, then)):
        names.append(f"baked-{'layers' if then is None else 'curve'}-{len(names)}")  # Forge keeps what it has read
        made = parse(text, "sd1", layers=True).acting
        bake(network, made, weighed.loras / f"{names[-1]}.safetensors", overwrite=True)
    weighed.call("/sdapi/v1/refresh-loras", {})
    steps = [""] if then is None else [":stop=3", ":start=3"]
    baked = " ".join(f"<lora:{name}:1{step}>" for name, step in zip(names, steps, strict=True))
    theirs, answer = weighed.pixels(f"{PROMPT} {baked}").astype(int), weighed.txt2img(tag(f"bw={weights}"))
    ours = pixels(answer["images"][0])
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - base.astype(int)).max() > 8
    tab = pixels(weighed.inside("preview", prompt=PROMPT, lora=LORA, weights=weights, **SAME))
    assert np.abs(tab - theirs).max() <= 2
    info = json.loads(answer["info"])["infotexts"][0]
    prompt = weighed.inside("pasted_by_callbacks", text=info)
    assert np.array_equal(weighed.pixels(prompt), ours)


def test_loractls_strength_is_a_step_by_step_one(weighed):
    """Without the text encoder, whose strength loractl takes from the first step."""
    ours = weighed.pixels(tag("te=0", "unet=0.2@0,1@1", multiplier="1").replace(":1:te", ":te"))
    curve = weighed.pixels(tag("bw=*=0.2@0,1@1,BASE=0"))
    assert np.array_equal(ours, curve)


@pytest.mark.kinds("a1111")
def test_functional_path_and_merging_path_agree(weighed):
    merged = weighed.pixels(tag(f"bw={WEIGHTS}"))
    functional = weighed.pixels(tag(f"bw={WEIGHTS}"), override_settings={"lora_functional": True})
    assert np.abs(merged.astype(int) - functional).max() <= 2
    none = weighed.pixels(tag("bw=NONE"), override_settings={"lora_functional": True})
    assert np.array_equal(none, weighed.pixels(PROMPT, override_settings={"lora_functional": True}))


@pytest.mark.kinds("a1111")
def test_weights_change_without_reading_the_file_again(weighed):
    weighed.call("/sdapi/v1/options", {"lora_in_memory_limit": 4})
    weighed.pixels(tag("bw=OUTD"))
    before = weighed.inside("loads", name=LORA)
    for weights in ("OUTALL", WEIGHTS, "ALL"):
        weighed.pixels(tag(f"bw={weights}"))
    assert weighed.inside("loads", name=LORA) == before


@pytest.mark.parametrize(("weights", "said"), [("OUTX", "unknown preset 'OUTX'"), ("1,2,3", "3 values")])
def test_what_cannot_be_read_leaves_the_lora_out_and_says_so(weighed, base, weights, said):
    answer = weighed.txt2img(tag(f"bw={weights}"))
    assert np.array_equal(pixels(answer["images"][0]), base)
    info = json.loads(answer["info"])
    assert said in info["extra_generation_params"]["Block weights problem"]
    assert said in info["infotexts"][0]


def test_random_values_come_back_by_pasting(weighed):
    answer = weighed.txt2img(tag("bw=" + ",".join(["R"] * 17)), seed=7)
    text = json.loads(answer["info"])["infotexts"][0]
    prompt = weighed.inside("pasted_by_callbacks", text=text)
    assert "R,R" not in prompt
    assert np.array_equal(weighed.pixels(prompt, seed=7), pixels(answer["images"][0]))


def test_several_loras_hires_img2img_and_batches(weighed):
    both = f"{tag('bw=OUTD')} <lora:{LORA}-2:0.7:bw=INALL>"
    answer = weighed.txt2img(both)
    assert json.loads(answer["info"])["extra_generation_params"]["Block weights"].count(": ") == 2
    one_off = weighed.pixels(both.replace("bw=INALL", "bw=NONE"))
    assert np.array_equal(one_off, weighed.pixels(tag("bw=OUTD")))
    assert not np.array_equal(one_off, pixels(answer["images"][0]))
    hires, on, off = weighed.hires, tag(f"bw={WEIGHTS}"), tag("bw=NONE")
    assert not np.array_equal(weighed.pixels(on, **hires), weighed.pixels(off, **hires))
    assert np.array_equal(weighed.pixels(off, **hires), weighed.pixels(PROMPT, **hires))
    start = {"init_images": [weighed.txt2img(PROMPT)["images"][0]], "denoising_strength": 0.8}
    drawn = [weighed.pixels(prompt, route="img2img", **start) for prompt in (off, PROMPT, on)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    stopped = tag(f"bw={WEIGHTS}", "stop=3")
    batch = weighed.txt2img(stopped, n_iter=2, do_not_save_grid=True)
    assert np.array_equal(pixels(batch["images"][-1]), weighed.pixels(stopped, seed=2))


def test_the_accordion_is_the_tag(weighed):
    accordion = {"alwayson_scripts": {"Block weights": {"args": ["OUTD"]}}}
    drawn = weighed.txt2img(tag(), **accordion)
    assert np.array_equal(pixels(drawn["images"][0]), weighed.pixels(tag("bw=OUTD")))
    if weighed.kind in ("forge", "neo", "ersatz"):
        return  # their API reads no `infotext`: isinstance(..., list[str]) in apply_infotext, for any text
    infotext = json.loads(drawn["info"])["infotexts"][0]
    again = weighed.call("/sdapi/v1/txt2img", {"infotext": infotext})
    assert np.array_equal(pixels(again["images"][0]), pixels(drawn["images"][0]))
    other = f"{PROMPT} <lora:{LORA}-2:1>"  # a prompt of its own, with another LoRA
    assert np.array_equal(weighed.pixels(other, infotext=infotext), weighed.pixels(other))


def test_the_tabs_preview_is_the_tag(weighed, base):
    """Hooks against merged weights, BASE included. A tag of the same LoRA in the preview's prompt is ignored."""
    ours = pixels(weighed.inside("preview", prompt=tag(), lora=LORA, weights=WEIGHTS, **SAME))
    theirs = weighed.pixels(tag(f"bw={WEIGHTS}"))
    assert np.abs(ours.astype(int) - theirs).max() <= 2
    assert np.abs(base.astype(int) - theirs).max() > 8
    assert np.array_equal(pixels(weighed.inside("preview", prompt=PROMPT, **SAME)), base)


def test_xyz_plot_of_three_presets_and_two_blocks(weighed, base):
    labels = weighed.inside("axes")
    x, y = labels.index("[blocktrain] Preset"), labels.index("[blocktrain] Block")
    plot = weighed.inside("plot", x_type=x, x_values="NONE,OUTD,ALL", y_type=y, y_values="OUT03=0,IN04=0")
    cells = [pixels(picture) for picture in weighed.txt2img(tag(), **plot)["images"][1:]]
    assert len(cells) == 6
    assert np.array_equal(cells[0], base)
    outd = "1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0"  # without OUT03
    assert np.array_equal(cells[1], weighed.pixels(tag(f"bw={outd}")))
    assert np.array_equal(cells[5], weighed.pixels(tag("bw=*=1,IN04=0")))


def test_xyz_plot_refuses_before_the_first_picture(weighed):
    labels = weighed.inside("axes")
    for label, value in (("Preset", "NOPE"), ("Block", "IN99=0"), ("Step of a run", "500")):
        axis = labels.index(f"[blocktrain] {label}")
        plot = weighed.inside("plot", x_type=axis, x_values=value)
        assert value.split("=")[0] in weighed.refusal(tag(), **plot)

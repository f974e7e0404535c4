"""Generation parameters: ours are read back as written, and those of other programs are read too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.networks.adapters import NetworkModule
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.workspace.images import infotext, read_infotext, read_png, save_png

PICTURE = Image.new("RGB", (64, 72))
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=60)
prompts = text.filter(lambda t: not any(line.startswith("Negative prompt:") for line in t.split("\n")))


def placement(name: str, values: list[float], multiplier: float) -> Placement:
    blocks = [f"IN{n:02}" for n in range(12)] + ["M00"] + [f"OUT{n:02}" for n in range(12)]
    modules: dict[str, NetworkModule] = {}
    return Placement(Network(name, "sd1", modules), BlockWeights("sd1", dict(zip(blocks, values)), 0.5), multiplier)


@given(prompts, prompts, text.filter(bool), st.lists(st.floats(-1, 2), min_size=25, max_size=25))
def test_round_trip(prompt, negative, name, values):
    placements = (placement(name, values, 0.5), placement("other", values[::-1], -1.0))
    request = SampleRequest(
        prompt, negative, seed=2**32 - 1, steps=7, cfg=4.5, sampler="DPM++ 2M Karras", placements=placements
    )
    found = read_infotext(infotext(request, PICTURE, "model, v1: final"))
    assert (found.prompt, found.negative) == (prompt, negative)
    assert found.values["Seed"] == str(2**32 - 1)
    assert found.values["Size"] == "64x72"
    assert found.values["Sampler"] == "DPM++ 2M Karras"
    assert found.values["Model"] == "model, v1: final"
    assert [(lora.name, lora.multiplier) for lora in found.loras] == [(name, 0.5), ("other", -1.0)]
    assert [parse(lora.weights, "sd1").weights for lora in found.loras] == [p.weights for p in placements]


def test_what_the_webui_writes():
    found = read_infotext(
        "a (fox:1.2), red\nBREAK, Steps: many\nNegative prompt: blur\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7,"
        ' Seed: 1, Size: 512x768, Model hash: abc, Model: v1-5, Lora hashes: "a: 12, b: 34", Version: v1.10.1'
    )
    assert found.prompt == "a (fox:1.2), red\nBREAK, Steps: many"
    assert found.negative == "blur"
    assert found.values["Lora hashes"] == "a: 12, b: 34"
    assert found.values["Schedule type"] == "Karras"
    assert found.loras == ()


@pytest.mark.parametrize("text", ["", "a fox", "a fox: red, b: blue"])
def test_no_parameters(text):
    with pytest.raises(ValueError, match="no generation parameters"):
        read_infotext(text)


def test_png(tmp_path):
    request = SampleRequest("ein Fuchs, 狐\nzweite Zeile", placements=(placement("a:b|c#d", [1.0] * 25, 1.0),))
    save_png(PICTURE, tmp_path / "x.png", request, "m")
    found = read_png(tmp_path / "x.png")
    assert found.prompt == request.prompt
    assert found.loras[0].name == "a:b|c#d"


def test_a_png_without_parameters(tmp_path):
    PICTURE.save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png has no generation parameters"):
        read_png(tmp_path / "plain.png")

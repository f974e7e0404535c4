"""What is particular to Forge and its forks: weights of parameters, gradients, training without a trace, SDXL.

Other tests of this folder run in them as they do in AUTOMATIC1111.
"""

from __future__ import annotations

import re
import shutil
import urllib.error

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("playwright")

from tests.webui.forge_process import write_models
from tests.webui.page import Page
from tests.webui.process import NAMES, TRAINS
from tests.webui.running import pixels

pytestmark = pytest.mark.kinds(*NAMES)
trains = pytest.mark.kinds(*TRAINS)
SOME = "IN=0.5,M00=1,OUT03-OUT05=2,BASE=0.5"


@pytest.fixture(scope="module")
def forge(webui, exported):
    """The WebUI on the random SD1; its LoRA is named `sd1`, too."""
    webui.use_checkpoint(exported.name)
    return webui


@pytest.fixture(scope="module")
def pictures(forge):
    """Return a function from a tag's text behind the LoRA's name to pixels, drawn once; None stands for no tag."""
    drawn = {}

    def draw(tag: str | None) -> np.ndarray:
        if tag not in drawn:
            prompt = "a cat" if tag is None else f"a cat <lora:sd1:{tag}>"
            picture, drawn[tag, "says"] = forge.draw(prompt)
            drawn[tag] = np.asarray(picture).astype(int)
        return drawn[tag]

    draw.says = lambda tag: (draw(tag), drawn[tag, "says"])[1]
    return draw


@trains
def test_what_is_called_is_there(forge):
    """The stand-ins of `tests/hosts` have the names and parameters of the real functions."""
    found = forge.inside("signatures")
    assert found["load_models_gpu"][:2] == ["models", "memory_required"]
    assert found["attention"][:5] == ["q", "k", "v", "heads", "mask"]
    if forge.kind != "neo":
        assert found["refresh"][:2] == ["self", "lora_patches"]
    else:
        loading = ["model", "clip", "lora", "strength_model", "strength_clip", "filename", "online_mode"]
        assert found["load_lora"] == loading
        assert found["load_models_gpu"][3] == "minimum_memory_required"
    assert found["encode"] == ["self", "tokens"]
    assert found["tokenize"] == ["self", "texts"]
    assert found["reload"] == []
    assert found["patch"] == ["key", "obj", "field", "replacement"]
    assert found["undo"] == ["key", "obj", "field"]
    assert found["activate"] == ["self", "p", "params_list"]


def test_recognised(forge):
    found = forge.inside("features")
    assert found["architecture"] == "sd1"
    assert found["host"] == NAMES["forge" if forge.kind == "ersatz" else forge.kind]  # it has all that Forge 2 has
    by_key = forge.kind in ("forge", "ersatz")
    assert f"LoRAs merged by {'key' if by_key else 'parameter'}" in found["features"]


def test_all_is_forges_own_and_none_is_no_lora(pictures):
    """Bit for bit, and again after other weights at the same strength."""
    assert np.array_equal(pictures("1:bw=ALL"), pictures("1"))
    assert np.array_equal(pictures("1:bw=NONE"), pictures(None))
    some = pictures(f"1:bw={SOME}")
    assert not np.array_equal(some, pictures("1"))
    assert not np.array_equal(some, pictures(None))
    assert np.array_equal(pictures("1.0"), pictures("1"))
    assert 'Block weights: "sd1: 0.5,' in pictures.says(f"1:bw={SOME}")


def test_steps(pictures):
    """In an image of two steps, `start=3` is never and `stop=3` always."""
    assert np.array_equal(pictures("1:te=0:unet=1:start=3"), pictures(None))
    assert np.array_equal(pictures("1:stop=3"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures(None))


BLOCKS = ["BASE", *(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12))]
SDXL_BLOCKS = ["BASE", *(f"IN{n:02}" for n in range(9)), "M00", *(f"OUT{n:02}" for n in range(9))]
_ATTENTION = re.compile(r"lora_unet_(down|up)_blocks_(\d)_attentions_(\d)")  # SD1, by diffusers' names
_NUMBERED = re.compile(r"lora_unet_(in|out)put_blocks_(\d)_1_")  # SDXL, by the checkpoint's


def weighted(tensors, values: dict[str, float]):
    """Scale one factor of each module of a file."""
    scaled = {}
    for key, tensor in tensors.items():
        block = "BASE" if key.startswith("lora_te") else "M00"
        if found := _ATTENTION.match(key):
            number = 3 * int(found[2]) + int(found[3])
            block = f"IN{number + 1:02}" if found[1] == "down" else f"OUT{number:02}"
        elif found := _NUMBERED.match(key):
            block = f"{found[1].upper()}{int(found[2]):02}"
        scaled[key] = tensor * values[block] if key.endswith("lora_up.weight") else tensor
    return scaled


def assert_weighted(forge, lora: str, blocks: list[str], strength: float) -> None:
    """Six random vectors, in U-Net and text encoder, against files that this test has written."""
    rng, base = np.random.default_rng(7), forge.pixels("a cat", steps=2).astype(int)
    for number in range(6):
        values = {block: round(float(rng.choice([0, 1, rng.uniform(-0.5, 1.5)])), 2) for block in blocks}
        name = f"weighted-{lora}-{number}"
        save_file(weighted(load_file(forge.loras / f"{lora}.safetensors"), values), forge.loras / f"{name}.safetensors")
        forge.call("/sdapi/v1/refresh-loras", {})
        theirs = forge.pixels(f"a cat <lora:{name}:{strength}>", steps=2).astype(int)
        ours = forge.pixels(f"a cat <lora:{lora}:{strength}:bw={','.join(map(str, values.values()))}>", steps=2)
        assert np.abs(ours - theirs).max() <= 1, (number, values)
        assert np.abs(theirs - base).max() > 4


@trains
def test_hires_fix_with_a_checkpoint_of_its_own(forge, exported):
    """It draws with that one: the checkpoint chosen in the page was loaded back in the middle of the picture."""
    other = exported.with_name("sd1-hires.safetensors")
    if not other.exists():
        tensors = load_file(exported)
        save_file({name: -t if name.endswith("out.2.weight") else t for name, t in tensors.items()}, other)
    forge.call("/sdapi/v1/refresh-checkpoints", {})
    forge.draw("a cat")  # so that the first checkpoint is loaded

    def draw(tag: str) -> np.ndarray:
        options = {**forge.hires, "hr_checkpoint_name": other.name}
        return np.asarray(forge.draw(f"a cat {tag}", **options)[0]).astype(int)

    def loaded() -> int:
        return forge.log.read_text(errors="replace").count("Loading Model: ")

    before, plain = loaded(), draw("")
    assert loaded() == before + 1
    assert np.array_equal(draw("<lora:sd1:1:bw=NONE>"), plain)
    assert not np.array_equal(draw("<lora:sd1:1:bw=OUT=1>"), plain)
    assert loaded() == before + 5  # the first one again, and the other, for each picture


def test_weights_are_those_of_a_file_with_weighted_factors(forge):
    assert_weighted(forge, "sd1", BLOCKS, strength=1)


def test_a_change_of_weights_reads_no_file(forge):
    """The WebUI reads each file once for the same strengths, whatever the weights."""
    counts = [forge.inside("loads")]
    for weights in ("OUT=1", "IN=0.3", "ALL", "NONE"):
        forge.draw(f"a cat <lora:sd1:0.9:bw={weights}>")
        counts.append(forge.inside("loads"))
    assert counts[1:] == [counts[0] + 1] * 4


@trains
def test_forward_by_blocks(forge):
    assert forge.inside("forward_by_blocks") == {"whole": True, "blocks": 25, "equal": 25}


@trains
def test_gradients(forge):
    """Every tensor of a LoRA on all attention layers has a gradient, equal to finite differences."""
    before = forge.inside("fingerprint")
    found = forge.inside("gradients", file=str(forge.loras / "sd1.safetensors"))
    assert forge.inside("fingerprint") == before
    assert found["found"] == found["tensors"] == 2 * 16 * 8
    assert all(error < 0.005 for error in found["errors"].values()), found["errors"]


@trains
@pytest.mark.parametrize("ending", ["finished", "stopped", "failed"])
def test_training_leaves_no_trace(forge, tmp_path_factory, ending):
    """With a LoRA merged by Forge, the text encoder trained, too, and a sample drawn in between."""
    forge.draw("a cat <lora:sd1:1>")
    before = forge.inside("fingerprint")
    found = forge.inside("train_until", folder=str(tmp_path_factory.mktemp("run")), ending=ending)
    assert forge.inside("fingerprint") == before
    assert found["ended"] == {"failed": "made to fail"}.get(ending, ending)
    assert len(found["losses"]) == {"finished": 20}.get(ending, 1)
    assert all(norm > 0 for row in found["gradients"] for norm in row.values()), found["gradients"]
    if ending == "finished":
        assert found["samples"] == 2  # after the twelfth step, and at the end
        assert {"BASE", "OUT10", "OUT11"} <= set(found["gradients"][-1])
        shutil.copy(found["files"][0], forge.loras / "trained.safetensors")
        forge.call("/sdapi/v1/refresh-loras", {})
        plain, _ = forge.draw("a cat")
        trained, _ = forge.draw("a cat <lora:trained:1>")
        assert trained.tobytes() != plain.tobytes()
        assert "Error executing callback" not in (forge.data / "log.txt").read_text("utf-8", errors="replace")


@pytest.fixture
def low_bits(forge):
    """Return a function that chooses how the U-Net's weights are stored."""
    yield lambda choice: forge.inside("low_bits", choice=choice)
    forge.inside("low_bits", choice="Automatic")


@trains
@pytest.mark.parametrize("choice", ["float8-e4m3fn", "Automatic (fp16 LoRA)"])
def test_narrow_weights_and_loras_that_are_not_merged(forge, low_bits, choice, tmp_path_factory):
    """They are drawn with; FP8 is refused for training by name."""
    low_bits(choice)
    drawn = {}
    for tag in ("", " <lora:sd1:1>", *(f" <lora:sd1:1:bw={weights}>" for weights in ("ALL", "NONE", SOME))):
        drawn[tag.partition("bw=")[2] or tag] = np.asarray(forge.draw(f"a cat{tag}")[0])
    assert np.array_equal(drawn["ALL>"], drawn[" <lora:sd1:1>"])
    assert np.array_equal(drawn["NONE>"], drawn[""])
    assert not np.array_equal(drawn[f"{SOME}>"], drawn["ALL>"])
    assert not np.array_equal(drawn[f"{SOME}>"], drawn[""])
    if "float8" in choice:
        folder = str(tmp_path_factory.mktemp("run"))
        answer = forge.call("/blocktrain-probe/train_until", {"folder": folder, "ending": "finished"})
        assert "the U-Net's weights are torch.float8_e4m3fn: set 'Diffusion in Low Bits'" in answer["error"]


@pytest.fixture
def opened(forge, browser):
    opened = Page(browser, forge)
    yield opened
    opened.close()


@pytest.mark.kinds(*(kind for kind in NAMES if kind not in TRAINS))
def test_a_refusal_of_training_is_in_the_page(opened, forge):
    """Start and Probe are off, with the reason beside them; drawing works; and the API refuses for the same reason."""
    opened.ours()
    opened.go("Train")
    assert opened.page.locator("#blocktrain_train_start").is_disabled()
    assert f"{NAMES[forge.kind]} cannot train here" in opened.text("train_message")
    opened.go("Analyse")
    assert opened.page.locator("#blocktrain_probe").is_disabled()
    assert forge.inside("features")["no_training"] in opened.text("analyse_message")
    with pytest.raises(urllib.error.HTTPError) as refused:
        forge.call("/blocktrain/v1/runs", {"config": {"name": "x", "dataset": {"folders": [{"path": "x"}]}}})
    assert "cannot train here" in refused.value.read().decode()
    assert "Traceback" not in (forge.data / "log.txt").read_text("utf-8", errors="replace")


@pytest.fixture(scope="module")
def sdxl(forge):
    """The same process on a random SDXL."""
    write_models(forge.kind, forge.data, "sdxl")
    for route in ("refresh-checkpoints", "refresh-loras"):
        forge.call(f"/sdapi/v1/{route}", {})
    forge.use_checkpoint("sdxl.safetensors")
    yield forge
    forge.use_checkpoint("sd1.safetensors")


def of_sdxl(tag: str | None) -> str:
    return "a cat" if tag is None else f"a cat <lora:sdxl:{tag}>"


@trains
def test_tags_on_sdxl(sdxl):
    """Bit for bit; step gating; two LoRAs, hires fix, img2img and a batch."""

    def draw(tag: str | None = None, more: str = "", **options) -> np.ndarray:
        return sdxl.pixels(of_sdxl(tag) + more, **{"steps": 2, **options}).astype(int)

    plain, without, some = draw("1"), draw(), draw("1:bw=IN=0.5,M00=1,OUT01=2,BASE=0.5")
    assert sdxl.inside("features")["architecture"] == "sdxl"
    assert np.array_equal(draw("1:bw=ALL"), plain)
    assert np.array_equal(draw("1:bw=NONE"), without)
    assert np.array_equal(draw("1:te=0:stop=1"), without)
    gates = ("", ":start=3", ":stop=3", ":start=9")  # the last of two steps changes too little to be seen: four here
    drawn = [draw(f"1:bw=OUT=1,BASE=0{gate}", steps=4) for gate in gates]
    assert len({picture.tobytes() for picture in drawn}) == 4
    assert np.array_equal(drawn[3], draw(steps=4))
    other = " <lora:sdxl-2:0.5:bw={}>"
    assert np.array_equal(draw("1:bw=IN=0.5,M00=1,OUT01=2,BASE=0.5", other.format("NONE")), some)
    assert not np.array_equal(draw("1:bw=IN=0.5,M00=1,OUT01=2,BASE=0.5", other.format("OUT=1")), some)
    start = {"route": "img2img", "init_images": [sdxl.txt2img("a cat", steps=2)["images"][0]]}
    for options in (sdxl.hires, {**start, "denoising_strength": 0.8}):
        base = draw(**options)
        assert np.array_equal(draw("1:bw=NONE", **options), base)
        assert not np.array_equal(draw("1:bw=OUT=1", **options), base)
    batch = sdxl.txt2img(of_sdxl("1:bw=OUT=1:stop=2"), n_iter=2, do_not_save_grid=True, steps=2)["images"]
    assert np.array_equal(pixels(batch[-1]), draw("1:bw=OUT=1:stop=2", seed=2))


@trains
def test_weights_on_sdxl_are_those_of_a_file_with_weighted_factors(sdxl):
    assert_weighted(sdxl, "sdxl", SDXL_BLOCKS, strength=2)  # its LoRA changes less than that of SD1


@trains
def test_preview_plot_and_training_on_sdxl(sdxl, tmp_path_factory):
    some, base = "IN=0.5,M00=1,OUT01=2,BASE=0.5", sdxl.pixels("a cat", steps=2).astype(int)
    tagged = sdxl.pixels(of_sdxl(f"1:bw={some}"), steps=2).astype(int)
    settings = {"seed": 1, "steps": 2, "cfg": 5, "sampler": "Euler", "width": 64, "height": 64}
    shown = pixels(sdxl.inside("preview", prompt="a cat", lora="sdxl", weights=some, **settings))
    assert np.abs(shown.astype(int) - tagged).max() <= 2 < np.abs(tagged - base).max()
    labels = sdxl.inside("axes")
    x, y = labels.index("[blocktrain] Preset"), labels.index("[blocktrain] Block")
    plot = sdxl.inside("plot", x_type=x, x_values="NONE,ALL", y_type=y, y_values="OUT01=0,IN04=0")
    cells = [pixels(picture) for picture in sdxl.txt2img(of_sdxl("1"), steps=2, **plot)["images"][1:]]
    assert len(cells) == 4
    assert np.array_equal(cells[0], base)
    assert np.array_equal(cells[3], sdxl.pixels(of_sdxl("1:bw=*=1,IN04=0"), steps=2))
    assert sdxl.inside("forward_by_blocks") == {"whole": True, "blocks": 19, "equal": 19}
    assert np.array_equal(sdxl.pixels(of_sdxl(f"1:bw={some}"), steps=2), tagged)
    before, folder = sdxl.inside("fingerprint"), str(tmp_path_factory.mktemp("run"))
    for ending, steps in (("finished", 20), ("stopped", 1), ("failed", 1)):
        found = sdxl.inside("train_until", folder=folder, ending=ending, weights="OUT01=1")
        assert found["ended"] == {"failed": "made to fail"}.get(ending, ending)
        assert len(found["losses"]) == steps
        assert all(norm > 0 for row in found["gradients"] for norm in row.values()), found["gradients"]
        assert sdxl.inside("fingerprint") == before

"""The extension in a real Forge and its forks, on the CPU: tags, preview and training, without a trace in the model.

`FORGE_DIR` names an installed stable-diffusion-webui-forge, `NEO_DIR` a Forge Neo, `REFORGE_DIR`, `ERSATZ_DIR` and
`CLASSIC_DIR` the others, and `FORGE_PYTHON` and so on the interpreters of their environments (by default
`venv/bin/python` in the folder). Without its folder, the tests in one of them are skipped.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import shutil
import urllib.error

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("playwright")

from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.weights.preset_strings import parse
from tests.webui import test_page
from tests.webui.forge_process import FOLDERS, NAMES, TRAINS, picture_of, running, write_models
from tests.webui.page import Page
from tests.webui.running import LORA

SOME = "IN=0.5,M00=1,OUT03-OUT05=2,BASE=0.5"
KINDS = [
    pytest.param(
        kind, marks=pytest.mark.skipif(not folder, reason=f"{kind.upper()}_DIR does not name an installed one")
    )
    for kind, folder in FOLDERS.items()
]


@pytest.fixture(scope="module", params=KINDS)
def forge(request, tmp_path_factory):
    data = tmp_path_factory.mktemp(request.param)
    write_models(request.param, data, "sd1")
    with running(request.param, data) as found:
        yield found


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


@pytest.fixture
def trainer(forge):
    """Those whose model can be hooked and trained on."""
    if forge.kind not in TRAINS:
        pytest.skip(f"{NAMES[forge.kind]} refuses it")
    return forge


def test_what_is_called_is_there(trainer):
    """The stand-ins of `tests/hosts` have the names and parameters of the real functions."""
    forge = trainer
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


def test_loaded_after_the_lora_extension(forge):
    order = forge.inside("script_order")
    lora = next(place for place, path in enumerate(order) if path.endswith("/lora_script.py"))
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
    assert 'Block weights: "sd1: 0.5,' in pictures.says(f"1:bw={SOME}")


def test_a_tag_that_cannot_be_read_leaves_its_lora_out(pictures):
    assert np.array_equal(pictures("1:bw=NO_SUCH_PRESET"), pictures(None))
    assert "sd1 left out: unknown preset 'NO_SUCH_PRESET'" in pictures.says("1:bw=NO_SUCH_PRESET")


def test_steps(pictures):
    """In an image of two steps, `start=3` is never and `stop=3` always."""
    assert np.array_equal(pictures("1:te=0:unet=1:start=3"), pictures(None))
    assert np.array_equal(pictures("1:stop=3"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures("1"))
    assert not np.array_equal(pictures("1:stop=2"), pictures(None))


def test_weights_are_those_of_a_file_with_weighted_factors(forge, pictures):
    """Six random vectors, in U-Net and text encoder, against files that this test has written."""
    rng = np.random.default_rng(7)
    for number in range(6):
        values = {block: round(float(rng.choice([0, 1, rng.uniform(-0.5, 1.5)])), 2) for block in BLOCKS}
        name = f"weighted-{forge.kind}-{number}"
        save_file(weighted(load_file(forge.loras / "sd1.safetensors"), values), forge.loras / f"{name}.safetensors")
        forge.call("/sdapi/v1/refresh-loras", {})
        theirs, _ = forge.draw(f"a cat <lora:{name}:1>")
        ours, _ = forge.draw(f"a cat <lora:sd1:1:bw={','.join(map(str, values.values()))}>")
        difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
        assert difference.max() <= 1, (number, values)
        assert np.abs(np.asarray(theirs).astype(int) - pictures(None)).max() > 4


def test_kinds_of_layers_are_those_of_a_baked_file(forge, pictures):
    weights = "*=1,BASE=0,OUT=0.5,OUT.attn2=1.3,M00.ff=0,IN.proj=0"
    network, made = read_network(forge.loras / "sd1.safetensors"), parse(weights, "sd1", layers=True).acting
    bake(network, made, forge.loras / f"baked-{forge.kind}.safetensors", overwrite=True)
    forge.call("/sdapi/v1/refresh-loras", {})
    theirs = np.asarray(forge.draw(f"a cat <lora:baked-{forge.kind}:1>")[0]).astype(int)
    assert np.abs(pictures(f"1:bw={weights}") - theirs).max() <= 1
    assert np.abs(theirs - pictures(None)).max() > 4


BLOCKS = ["BASE", *(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12))]
_ATTENTION = re.compile(r"lora_unet_(down|up)_blocks_(\d)_attentions_(\d)")


def weighted(tensors, values):
    """Scale one factor of each module of a file for SD1."""
    scaled = {}
    for key, tensor in tensors.items():
        found, block = _ATTENTION.match(key), "BASE" if key.startswith("lora_te") else "M00"
        if found:
            number = 3 * int(found[2]) + int(found[3])
            block = f"IN{number + 1:02}" if found[1] == "down" else f"OUT{number:02}"
        scaled[key] = tensor * values[block] if key.endswith("lora_up.weight") else tensor
    return scaled


def test_two_loras_hires_img2img_batches_and_the_accordion(forge, pictures):
    both = f"a cat <lora:sd1:1:bw={SOME}> <lora:sd1-2:0.5:bw=OUT=1>"
    picture, said = forge.draw(both)
    assert said.count("sd1") >= 4  # two tags, and two records of them
    one_off, _ = forge.draw(f"a cat <lora:sd1:1:bw={SOME}> <lora:sd1-2:0.5:bw=NONE>")
    assert np.array_equal(one_off, pictures(f"1:bw={SOME}"))
    assert not np.array_equal(picture, one_off)
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "None", "denoising_strength": 0.7}
    hires["hr_additional_modules"] = ["Use same choices"]
    on, off = f"a cat <lora:sd1:1:bw={SOME}>", "a cat <lora:sd1:1:bw=NONE>"
    plain, _ = forge.draw("a cat", **hires)
    assert np.array_equal(forge.draw(off, **hires)[0], plain)
    assert not np.array_equal(forge.draw(on, **hires)[0], plain)
    start = {"route": "img2img", "init_images": [forge.answer("a cat")["images"][0]], "denoising_strength": 0.8}
    plain, _ = forge.draw("a cat", **start)
    assert np.array_equal(forge.draw(off, **start)[0], plain)
    assert not np.array_equal(forge.draw(on, **start)[0], plain)
    batch = forge.answer(f"{on[:-1]}:stop=2>", n_iter=2, do_not_save_grid=True)["images"]
    alone, _ = forge.draw(f"{on[:-1]}:stop=2>", seed=2)
    assert np.array_equal(picture_of(batch[-1]), alone)
    accordion, said = forge.draw("a cat <lora:sd1:1>", alwayson_scripts={"Block weights": {"args": [SOME]}})
    assert np.array_equal(accordion, pictures(f"1:bw={SOME}"))


def test_a_change_of_weights_reads_no_file(forge):
    """The WebUI reads each file once for the same strengths, whatever the weights."""
    counts = [forge.inside("loads")]
    for weights in ("OUT=1", "IN=0.3", "ALL", "NONE"):
        forge.draw(f"a cat <lora:sd1:0.9:bw={weights}>")
        counts.append(forge.inside("loads"))
    assert counts[1:] == [counts[0] + 1] * 4


def test_xyz_plot(forge, pictures):
    labels = forge.inside("axes")
    x, y = labels.index("[blocktrain] Preset"), labels.index("[blocktrain] Block")
    plot = forge.inside("plot", x_type=x, x_values="NONE,OUTD,ALL", y_type=y, y_values="OUT03=0,IN04=0")
    cells = [picture_of(picture) for picture in forge.answer("a cat <lora:sd1:1>", **plot)["images"][1:]]
    assert len(cells) == 6
    assert np.array_equal(cells[0], pictures(None))
    assert np.array_equal(cells[5], pictures("1:bw=*=1,IN04=0"))


def test_the_tabs_preview_is_the_tag(forge, pictures):
    """Hooks and merged weights differ by rounding only, for block weights with BASE, too."""
    before = forge.inside("fingerprint")
    shown = forge.inside("preview", prompt="a cat", file=str(forge.loras / "sd1.safetensors"), weights=SOME)
    assert forge.inside("fingerprint") == before
    difference = np.abs(np.asarray(picture_of(shown)).astype(int) - pictures(f"1:bw={SOME}"))
    effect = np.abs(pictures(f"1:bw={SOME}") - pictures(None))
    assert difference.max() <= 2
    assert difference.mean() * 50 < effect.mean()


def test_forward_by_blocks(trainer):
    assert trainer.inside("forward_by_blocks") == {"whole": True, "blocks": 25, "equal": 25}


def test_gradients(trainer):
    """Every tensor of a LoRA on all attention layers has a gradient, equal to finite differences."""
    before = trainer.inside("fingerprint")
    found = trainer.inside("gradients", file=str(trainer.loras / "sd1.safetensors"))
    assert trainer.inside("fingerprint") == before
    assert found["found"] == found["tensors"] == 2 * 16 * 8
    assert all(error < 0.005 for error in found["errors"].values()), found["errors"]


@pytest.mark.parametrize("ending", ["finished", "stopped", "failed"])
def test_training_leaves_no_trace(trainer, tmp_path_factory, ending):
    """With a LoRA merged by Forge, the text encoder trained, too, and a sample drawn in between."""
    trainer.draw("a cat <lora:sd1:1>")
    before = trainer.inside("fingerprint")
    found = trainer.inside("train", folder=str(tmp_path_factory.mktemp("run")), ending=ending)
    assert trainer.inside("fingerprint") == before
    assert found["ended"] == {"failed": "made to fail"}.get(ending, ending)
    assert len(found["losses"]) == {"finished": 20}.get(ending, 1)
    assert all(norm > 0 for row in found["gradients"] for norm in row.values()), found["gradients"]
    if ending == "finished":
        assert found["samples"] == 2  # after the twelfth step, and at the end
        assert {"BASE", "OUT10", "OUT11"} <= set(found["gradients"][-1])
        shutil.copy(found["files"][0], trainer.loras / "trained.safetensors")
        trainer.call("/sdapi/v1/refresh-loras", {})
        plain, _ = trainer.draw("a cat")
        trained, _ = trainer.draw("a cat <lora:trained:1>")
        assert trained.tobytes() != plain.tobytes()
        assert "Error executing callback" not in (trainer.data / "log.txt").read_text("utf-8", errors="replace")


@pytest.fixture
def low_bits(trainer):
    """Return a function that chooses how the U-Net's weights are stored."""
    yield lambda choice: trainer.inside("low_bits", choice=choice)
    trainer.inside("low_bits", choice="Automatic")


@pytest.mark.parametrize("choice", ["float8-e4m3fn", "Automatic (fp16 LoRA)"])
def test_narrow_weights_and_loras_that_are_not_merged(trainer, low_bits, choice, tmp_path_factory):
    """They are drawn with; FP8 is refused for training by name."""
    low_bits(choice)
    drawn = {}
    for tag in ("", " <lora:sd1:1>", *(f" <lora:sd1:1:bw={weights}>" for weights in ("ALL", "NONE", SOME))):
        drawn[tag.partition("bw=")[2] or tag] = np.asarray(trainer.draw(f"a cat{tag}")[0])
    assert np.array_equal(drawn["ALL>"], drawn[" <lora:sd1:1>"])
    assert np.array_equal(drawn["NONE>"], drawn[""])
    assert not np.array_equal(drawn[f"{SOME}>"], drawn["ALL>"])
    assert not np.array_equal(drawn[f"{SOME}>"], drawn[""])
    if "float8" in choice:
        folder = str(tmp_path_factory.mktemp("run"))
        answer = trainer.call("/blocktrain-probe/train", {"folder": folder, "ending": "finished"})
        assert "the U-Net's weights are torch.float8_e4m3fn: set 'Diffusion in Low Bits'" in answer["error"]


JOURNEYS = (
    test_page.test_the_accordions_menu_is_the_tag,
    test_page.test_written_into_the_prompt_and_edited_in_the_tab,
    test_page.test_a_failed_request_leaves_the_prompt_and_is_said_beside_the_button,
    test_page.test_what_cannot_be_read_is_said_on_the_page,
    test_page.test_send_to_brings_random_values_back,
    test_page.test_xyz_plot_of_three_presets_and_two_blocks,
    test_page.test_taken_from_txt2img_and_sent_back,
    test_page.test_typed_without_a_pause_and_cancelled_in_the_tab,
    test_page.test_trained_by_clicks_and_used_at_once,
)


@pytest.fixture(scope="module")
def opened(forge, browser):
    """One page for all journeys, with the LoRA that they are about."""
    tensors = load_file(forge.loras / "sd1.safetensors")
    metadata = {"ss_output_name": LORA, "ss_base_model_version": "sd_v1-5"}
    save_file(tensors, forge.loras / f"{LORA}.safetensors", metadata)
    forge.call("/sdapi/v1/refresh-loras", {})
    opened = Page(browser, forge)
    yield opened
    opened.close()


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__.removeprefix("test_"))
def test_by_clicks(opened, forge, browser, journey, tmp_path, tmp_path_factory):
    """The journeys in AUTOMATIC1111's page, in this one."""
    wanted = inspect.signature(journey).parameters
    if "second" in wanted and forge.kind not in TRAINS:
        pytest.skip(f"{NAMES[forge.kind]} refuses it")
    given = {"weighed": forge, "tmp_path": tmp_path, "tmp_path_factory": tmp_path_factory}
    with contextlib.ExitStack() as closing:
        if "second" in wanted:
            given["second"] = Page(browser, forge)
            closing.callback(given["second"].close)
        journey(test_page.initial(opened), **{name: value for name, value in given.items() if name in wanted})


def test_a_refusal_of_training_is_in_the_page(opened, forge):
    """Start and Probe are off, with the reason beside them; drawing works; and the API refuses for the same reason."""
    if forge.kind in TRAINS:
        pytest.skip("it trains")
    opened.ours()
    opened.go("Train")
    assert opened.page.locator("#blocktrain_train_start").is_disabled()
    assert f"{NAMES[forge.kind]} cannot train here" in opened.text("train_message")
    opened.go("Analyse")
    assert opened.page.locator("#blocktrain_probe").is_disabled()
    assert forge.inside("features")["no_training"] in opened.text("analyse_message")
    with pytest.raises(urllib.error.HTTPError) as refused:
        forge.call("/blocktrain/v1/runs", {"config": {"dataset": {"folders": [{"folder": "x"}]}}})
    assert "cannot train here" in refused.value.read().decode()
    assert "Traceback" not in (forge.data / "log.txt").read_text("utf-8", errors="replace")


@pytest.fixture(scope="module")
def sdxl(forge):
    """The same process on a random SDXL."""
    if forge.kind not in TRAINS:
        pytest.skip("its second text encoder has no configuration of its own there")
    write_models(forge.kind, forge.data, "sdxl")
    for route in ("refresh-checkpoints", "refresh-loras"):
        forge.call(f"/sdapi/v1/{route}", {})
    forge.call("/sdapi/v1/options", {"sd_model_checkpoint": "sdxl.safetensors", "show_progress_type": "Approx cheap"})
    return forge


def test_sdxl(sdxl, tmp_path_factory):
    """All of it once on SDXL: tags bit for bit, preview, gradients and training."""

    def draw(tag: str = "") -> np.ndarray:
        return np.asarray(sdxl.draw(f"a cat{tag}")[0]).astype(int)

    some = "IN=0.5,M00=1,OUT01=2,BASE=0.5"
    plain, without = draw(" <lora:sdxl:1>"), draw()
    assert sdxl.inside("features")["architecture"] == "sdxl"
    assert np.array_equal(draw(" <lora:sdxl:1:bw=ALL>"), plain)
    assert np.array_equal(draw(" <lora:sdxl:1:bw=NONE>"), without)
    assert np.array_equal(draw(" <lora:sdxl:1:te=0:stop=1>"), without)
    tagged, lora = draw(f" <lora:sdxl:1:bw={some}>"), str(sdxl.loras / "sdxl.safetensors")
    shown = picture_of(sdxl.inside("preview", prompt="a cat", file=lora, weights=some))
    assert np.abs(np.asarray(shown).astype(int) - tagged).max() <= 2 < np.abs(tagged - without).max()
    assert sdxl.inside("forward_by_blocks") == {"whole": True, "blocks": 19, "equal": 19}
    assert np.array_equal(draw(f" <lora:sdxl:1:bw={some}>"), tagged)
    before, folder = sdxl.inside("fingerprint"), str(tmp_path_factory.mktemp("run"))
    found = sdxl.inside("train", folder=folder, ending="finished", weights="OUT01=1", steps=2)
    assert (found["ended"], len(found["losses"])) == ("finished", 2)
    assert all(norm > 0 for row in found["gradients"] for norm in row.values()), found["gradients"]
    assert sdxl.inside("fingerprint") == before

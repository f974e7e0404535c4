"""Other extensions in the same AUTOMATIC1111: what each does with block weights beside it, by the pixels.

`NEIGHBOURS_DIR` names a folder with theirs: sd-webui-lora-block-weight, sd-webui-regional-prompter, adetailer,
a1111-sd-webui-tagcomplete, sd-webui-weight-helper. The references are pictures of files with the weights baked in by
the code below, of an extension alone, and of a WebUI without any.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.webui.running import LORA

FOLDER = os.environ.get("NEIGHBOURS_DIR")
pytestmark = [
    pytest.mark.kinds("a1111"),
    pytest.mark.skipif(not FOLDER, reason="NEIGHBOURS_DIR does not name a folder with other extensions"),
]

PROMPT = "a photo of a fox"
OTHER = f"{LORA}-2"
BLOCKS = ["BASE", *(f"IN{n:02d}" for n in range(12)), "M00", *(f"OUT{n:02d}" for n in range(12))]
OUTD = {"BASE": 1, "OUT03": 1, "OUT04": 1, "OUT05": 1, "OUT06": 1}
VALUES = dict(
    zip(BLOCKS, [0.5, 0, 1, 0.3, 0, 1, 1.5, 0, 1, 0.2, 0, 0.7, 1, 0, 1, 1, 0.4, 0, 1, 0.6, 1, 0, 1.2, 1, 0, 1])
)
LINE = ",".join(map(str, VALUES.values()))
LBW = {"LoRA Block Weight": {"args": [None, True]}}  # its own presets, Active
ACCORDION = "Block weights"


def block_of(key: str) -> str:
    """Return the block of a LoRA's key on SD1, from diffusers' names."""
    found = re.match(r"lora_unet_(down|up)_blocks_(\d)_attentions_(\d)_", key)
    if found is None:
        return "M00" if key.startswith("lora_unet_mid_block") else "BASE"
    block, place = int(found[2]), int(found[3])
    return f"IN{1 + 3 * block + place:02d}" if found[1] == "down" else f"OUT{3 * block + place:02d}"


def bake(source: Path, target: Path, weights: dict[str, float]) -> None:
    tensors = load_file(source)
    for key in tensors:
        if key.endswith("lora_up.weight"):
            tensors[key] = tensors[key] * weights.get(block_of(key), 0)
    save_file(tensors, target)


def the_tag(name: str, *items: str) -> str:
    return f"<lora:{':'.join([name, *items])}>"


def off(drawn: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(drawn.astype(int) - expected).max())


def accordion(text: str) -> dict:
    return {ACCORDION: {"args": [text]}}


@pytest.fixture(scope="module")
def beside(webui, exported, another):
    """A WebUI with all of them, and files with baked weights."""
    whole = dict.fromkeys(BLOCKS, 1)
    written = ((LORA, "a-outd", OUTD), (OTHER, "b-values", VALUES), (LORA, "a-values", VALUES))
    for source, name, weights in (*written, (LORA, "left", whole), (OTHER, "right", whole)):
        bake(webui.loras / f"{source}.safetensors", webui.loras / f"{name}.safetensors", weights)
    detector = webui.data / "models" / "adetailer" / "middle.pt"
    detector.parent.mkdir(exist_ok=True)
    detector.touch()
    found = [folder for folder in sorted(Path(FOLDER).iterdir()) if folder.is_dir()]
    flags = ["--ad-no-huggingface"] if any(folder.name == "adetailer" for folder in found) else []
    path = os.pathsep.join([str(Path(__file__).parent / "detector"), os.environ.get("PYTHONPATH", "")])
    with another(*flags, extensions=found, environment={"PYTHONPATH": path}) as started:
        started.use_checkpoint(exported.name)
        started.names = {folder.name for folder in found}
        yield started


@pytest.fixture
def needs(beside):
    def needed(*names: str) -> None:
        for name in names:
            if name not in beside.names:
                pytest.skip(f"{name} is not in NEIGHBOURS_DIR")

    return needed


def test_both_tags_beside_lora_block_weight(beside, needs):
    """Against baked files, in either order, with the tag's weights and with the accordion's."""
    needs("sd-webui-lora-block-weight")
    theirs, ours = the_tag(LORA, "1", "lbw=OUTD"), the_tag(OTHER, "0.5", f"bw={LINE}")
    baked = beside.pixels(f"{PROMPT} <lora:a-outd:1> <lora:b-values:0.5>")
    for prompt in (f"{PROMPT} {theirs} {ours}", f"{PROMPT} {ours} {theirs}"):
        assert off(beside.pixels(prompt, alwayson_scripts=LBW), baked) <= 1
    prompt = f"{PROMPT} {theirs} {the_tag(OTHER, '0.5')}"
    assert off(beside.pixels(prompt, alwayson_scripts={**LBW, **accordion(LINE)}), baked) <= 1
    baked = beside.pixels(f"{PROMPT} <lora:a-outd:1> <lora:b-values:0.5>", **beside.hires)
    assert off(beside.pixels(f"{PROMPT} {theirs} {ours}", alwayson_scripts=LBW, **beside.hires), baked) <= 1
    assert "could not convert string to float" not in beside.log.read_text(errors="replace")


@pytest.mark.parametrize("items", [f"1:bw={LINE}", f"unet=0.5:bw={LINE}:start=2:stop=4", "0.5:te=0.2:bw=OUTD:step=2-3"])
def test_our_tag_is_the_same_with_lora_block_weight_active(beside, needs, items):
    needs("sd-webui-lora-block-weight")
    ours = f"{PROMPT} {the_tag(LORA, items)}"
    assert off(beside.pixels(ours, alwayson_scripts=LBW), beside.pixels(ours)) == 0
    theirs = the_tag(OTHER, "1", f"lbw={','.join(['0'] * 26)}")  # writes to all networks of the prompt
    assert off(beside.pixels(f"{ours} {theirs}", alwayson_scripts=LBW), beside.pixels(ours)) <= 1


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM2 a", "DDIM", "UniPC"])
def test_lbw_means_what_it_means_there(beside, weighed, needs, sampler):
    """Its picture and that of a WebUI without it, where this extension reads the tag: the same bits."""
    needs("sd-webui-lora-block-weight")
    drawn = set()
    for gate in (["start=3"], ["stop=3"], ["start=1"], ["step=2-4"]):
        prompt = f"{PROMPT} {the_tag(LORA, '1', 'lbw=OUTD', *gate)}"
        options = {"sampler_name": sampler, "steps": 6}
        theirs, ours = beside.pixels(prompt, alwayson_scripts=LBW, **options), weighed.pixels(prompt, **options)
        assert off(ours, theirs) == 0, gate
        drawn.add(ours.tobytes())
    assert len(drawn) == 4


def test_a_strength_over_the_steps_beside_lora_block_weight(beside, weighed, needs):
    """By itself, which LoRA Block Weight would drop, and with a LoRA under its own tag in the same prompt."""
    needs("sd-webui-lora-block-weight")
    curve, theirs = f"{PROMPT} {the_tag(LORA, '0.2@0,1@0.5')}", the_tag(OTHER, "1", "lbw=OUTD")
    alone = weighed.pixels(curve)
    assert off(alone, weighed.pixels(f"{PROMPT} {the_tag(LORA, '0.2')}")) > 8
    assert off(beside.pixels(curve, alwayson_scripts=LBW), alone) == 0
    both = weighed.pixels(f"{curve} {theirs}")
    assert off(both, alone) > 8
    for prompt in (f"{curve} {theirs}", curve.replace("<", f"{theirs} <")):
        assert off(beside.pixels(prompt, alwayson_scripts=LBW), both) <= 1


def regional(mode: str) -> dict:
    """Return Regional Prompter's arguments: two columns."""
    splitting = ["Matrix", "Columns", "Mask", "Prompt", "1,1", "0.2", False, False, False]
    return {"Regional Prompter": {"args": [True, False, *splitting, mode, [], "0", "0", "0.4", None, "0", "0", False]}}


@pytest.mark.parametrize("mode", ["Latent", "Attention"])
def test_regional_prompter(beside, needs, mode):
    """Against baked files, in a prompt with a LoRA for each region; also with LoRA Block Weight active."""
    needs("sd-webui-regional-prompter")

    def draw(left: str, right: str, more: dict | None = None):
        prompt = f"a fox {left} BREAK\na dog {right}"
        return beside.pixels(prompt, width=128, alwayson_scripts={**regional(mode), **(more or {})})

    baked = draw("<lora:a-outd:1>", "<lora:b-values:0.5>")
    # It takes one LoRA for another where a name contains the other's: those here do not.
    outd, values = the_tag("left", "1", "bw=OUTD"), the_tag("right", "0.5", f"bw={LINE}")
    assert off(draw(outd, values), baked) <= 1
    by_lora = f"left: OUTD\nright: {LINE}"
    assert off(draw(the_tag("left", "1"), the_tag("right", "0.5"), accordion(by_lora)), baked) <= 1
    assert off(draw(the_tag("left", "1"), the_tag("right", "0.5")), baked) > 8
    if "sd-webui-lora-block-weight" in beside.names:
        assert off(draw(outd, values, LBW), baked) <= 1


def test_adetailer(beside, needs):
    """Its pass has the weights of tags, and those of the accordion if this script is in its list."""
    needs("adetailer")
    options = {"ad_model": "middle.pt", "ad_denoising_strength": 0.7, "ad_inpaint_only_masked_padding": 8}
    detailed = {"ADetailer": {"args": [True, False, options]}}
    setting = beside.call("/sdapi/v1/options")["ad_script_names"]

    def draw(prompt: str, text: str, listed: bool = False):
        names = f"{setting},blocktrain" if listed else setting
        scripts = {**detailed, **accordion(text)}
        return beside.pixels(prompt, alwayson_scripts=scripts, override_settings={"ad_script_names": names})

    tagged, plain = f"{PROMPT} {the_tag(LORA, '1', f'bw={LINE}')}", f"{PROMPT} {the_tag(LORA, '1')}"
    expected, first = draw(f"{PROMPT} <lora:a-values:1>", ""), beside.pixels(tagged)
    assert off(expected, first) > 8  # the pass has drawn something
    assert off(draw(tagged, ""), expected) <= 1
    assert off(draw(plain, LINE, listed=True), expected) <= 1
    unlisted = draw(plain, LINE)
    assert off(unlisted[:8], expected[:8]) <= 1  # outside of the pass
    assert off(unlisted, expected) > 8


def test_page(beside, needs, browser):
    """No errors; tags are completed after `<lora:`; the accordion says that ADetailer does not read it."""
    pytest.importorskip("playwright")
    from tests.webui.page import Page

    opened = Page(browser, beside)
    try:
        page = opened.page
        opened.accordion()
        if "adetailer" in beside.names:
            note = page.locator("#blocktrain_txt2img_adetailer")
            note.wait_for(timeout=60_000)
            assert "add blocktrain to its setting" in note.inner_text()
            names = beside.call("/sdapi/v1/options")["ad_script_names"]
            beside.call("/sdapi/v1/options", {"ad_script_names": f"{names}, blocktrain"})
            page.reload()
            page.wait_for_selector("#txt2img_prompt textarea")
            page.wait_for_function("Object.keys(opts).length > 0")
            page.wait_for_selector("#blocktrain_txt2img_write", state="attached")
            assert not note.count()
            beside.call("/sdapi/v1/options", {"ad_script_names": names})
        if "a1111-sd-webui-tagcomplete" in beside.names:
            prompt = page.locator("#txt2img_prompt textarea")
            prompt.click()
            prompt.press_sequentially("<lora:blocktrain", delay=50)
            listed = page.locator("#txt2img_prompt .autocompleteResults li", has_text=OTHER)
            listed.first.wait_for(timeout=60_000)
            listed.first.click()
            page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.includes('-2:1')")
            prompt.fill(f"{PROMPT} {the_tag(OTHER, '1', 'bw=OUTD')}")
        else:
            opened.prompt(f"{PROMPT} {the_tag(OTHER, '1', 'bw=OUTD')}")
        opened.small()
        said = opened.generate()
        assert f"{OTHER}: 1,0,0," in said
    finally:
        opened.close()


def test_the_log_names_no_error_of_ours(beside):
    """The last one: of all that was drawn above."""
    log = beside.log.read_text(errors="replace")
    assert "lib_blocktrain" not in "".join(re.findall(r"Traceback(?:.|\n)*?\n\S.*", log))
    assert "activating extra network" not in log

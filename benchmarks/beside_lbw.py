"""Block weights beside LoRA Block Weight's, in one AUTOMATIC1111 that has both extensions, in one run.

    WEBUI_DIR=DIR NEIGHBOURS_DIR=DIR python benchmarks/beside_lbw.py --work DIR

`WEBUI_DIR` and `WEBUI_PYTHON` name an installed WebUI and `NEIGHBOURS_DIR` a folder with a clone of
sd-webui-lora-block-weight, as for `tests/webui`. The U-Net has SD1's size and random weights, the pictures are small
and short, so that what is timed is the weights' change rather than the drawing. Ten LoRAs of SD1's size, their weights
different in every picture: with its tags (`lbw=`), with ours (`bw=`), and without weights, in turns; then the analysis
of one LoRA: its sheet of one picture a block, and our methods with the same prompt, seed and size. Counted are
the seconds of the WebUI's processor (a busy machine disturbs them less) and the network files that it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.preview import ATTENTION, make_network
from benchmarks.setting import load, processor, ratios, table, unet_of
from lib_blocktrain.analysis.request import IMAGE_STEPS
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.ldm_export import WEIGHTS, export
from lib_blocktrain.networks.files import write_network
from lib_blocktrain.weights.preset_strings import parse
from tests.webui.process import PATIENCE, started
from tests.webui.running import WebUI

THEIRS = "sd-webui-lora-block-weight"
COUNT, RANK = 10, 16
ANSWERS_WITHIN = 7200.0  # seconds: a sheet is one request, and takes ten minutes here
STRENGTH = 0.1  # ten LoRAs of random numbers must not overflow
PROMPT = "a photo of a fox"
PICTURE = {"width": 64, "height": 64, "steps": 1, "cfg_scale": 5, "seed": 1, "sampler_name": "Euler"}
FLAGS = ["--no-download-sd-model", "--use-cpu=all", "--no-half", "--do-not-download-clip"]
# Its arguments: presets, active, 2 for the analyser, the types and values of X, Y and Z, the value without a block and
# with it, the blocks, seeds, the difference's colour and threshold, order, elements, two for debugging.
ONES = "XYZ:" + ",".join(["1"] * 17)
SHEET = [ONES, True, 2, "none", "", "none", "", "none", "", "0,1", "17ALL", 1, "black", "20", False, "", False, False]
ARMS = {"no weights": "", "LoRA Block Weight": ":lbw={}", "blocktrain": ":bw={}"}


def write_models(work: Path) -> None:
    """Write the checkpoint, the demo's with a U-Net of SD1's size, and ten LoRAs for it, where they are not there."""
    models = work / "data" / "models"
    if (models / "Lora" / f"ten-{COUNT - 1}.safetensors").is_file():
        return
    config = json.loads((demo_model.MODEL / "unet" / "config.json").read_text("utf-8"))
    unet = unet_of("sd1", torch.float16, cross_attention_dim=config["cross_attention_dim"])
    folder = work / "model"
    shutil.copytree(demo_model.MODEL, folder, dirs_exist_ok=True)
    real = {name: unet.config[name] for name in ("block_out_channels", "attention_head_dim")}
    (folder / "unet" / "config.json").write_text(json.dumps({**config, **real}), "utf-8")
    save_file({name: value.contiguous() for name, value in unet.state_dict().items()}, folder / "unet" / WEIGHTS)
    export(folder, models / "Stable-diffusion", "sd1-size")
    shutil.rmtree(folder)
    for number in range(COUNT):
        torch.manual_seed(number)
        network = make_network(unet, ATTENTION, RANK)
        write_network(models / "Lora" / f"ten-{number}.safetensors", network, dtype=torch.float16)


def values(picture: int, lora: int) -> str:
    """Return 26 values, BASE first, that differ from picture to picture and LoRA to LoRA."""
    return ",".join(str((7 * block + 3 * picture + lora) % 10 / 10) for block in range(26))


def prompt_of(tag: str, picture: int) -> str:
    tags = (f"<lora:ten-{n}:{STRENGTH}{tag.format(values(picture, n))}>" for n in range(COUNT))
    return f"{PROMPT} {' '.join(tags)}"


class Meter:
    """The WebUI's seconds and the files that it reads, for one piece of work after the other."""

    def __init__(self, webui: WebUI):
        self.webui = webui

    def spent(self, work: Callable[[], object]) -> tuple[float, float, int]:
        """Do the work; return seconds, seconds of the WebUI's processor, and network files read."""
        clock, files, began = self.webui.inside("clock"), self.webui.inside("loads", name=""), time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        return seconds, self.webui.inside("clock") - clock, self.webui.inside("loads", name="") - files


def changes(webui: WebUI, rounds: int, ends: float) -> str:
    """The table of pictures whose weights change; a first round, in which everything is read once, does not count.

    No round begins after `ends`, a time of `time.monotonic`, once there is one that counts.
    """
    meter, found = Meter(webui), {arm: [] for arm in ARMS}
    active = {"LoRA Block Weight": {"args": [None, True]}}
    for number in range(rounds + 1):
        if number > 1 and time.monotonic() > ends:
            break
        arms = list(ARMS) if number % 2 else list(reversed(ARMS))
        for arm in arms:
            scripts = {"alwayson_scripts": active} if arm == "LoRA Block Weight" else {}
            body = {"prompt": prompt_of(ARMS[arm], number), **PICTURE, **scripts}
            spent = meter.spent(lambda body=body: webui.call("/sdapi/v1/txt2img", body))
            if number:
                found[arm].append(spent)
    base = [processor for _, processor, _ in found["LoRA Block Weight"]]
    rows = []
    for arm, spent in found.items():
        seconds, cpu, files = ([row[n] for row in spent] for n in range(3))
        rows.append([arm, f"{median(seconds):.2f}", f"{median(cpu):.2f}", ratios(cpu, base), f"{median(files):.0f}"])
    first = f"ten LoRAs, other weights each time; rounds: {len(base)}"
    head = [first, "s", "processor's s", "/ LoRA Block Weight's", "files read"]
    return table(head, rows)


def median(found: list) -> float:
    return sorted(found)[len(found) // 2]


def analyses(webui: WebUI, methods: Sequence[str], steps: int) -> str:
    """The table of one LoRA's analyses: its sheet of pictures, and our methods."""
    meter = Meter(webui)
    webui.call("/sdapi/v1/txt2img", {"prompt": PROMPT, **PICTURE})  # loads the checkpoint, unless that was done before
    size = {**PICTURE, "steps": steps}
    sheet = {"prompt": f"{PROMPT} <lora:ten-0:1:lbw=XYZ>", "script_name": "LoRA Block Weight", "script_args": SHEET}
    body = {**size, **sheet}
    spent = meter.spent(lambda: webui.call("/sdapi/v1/txt2img", body))
    rows = [[f"its sheet, 18 pictures of {steps} steps", spent]]
    for method in methods:
        asked = {"method": method, "prompts": [PROMPT], "seeds": [1], "width": size["width"], "height": size["height"]}
        rows.append([f"ours, {method}", meter.spent(lambda asked=asked: done(webui.analysed("ten-0", **asked)))])
    first = rows[0][1][1]
    head = ["analysis of one LoRA", "s", "processor's s", "/ its sheet's", "files read"]
    lines = [[name, f"{s:.1f}", f"{cpu:.1f}", f"{cpu / first:.3f}", files] for name, (s, cpu, files) in rows]
    return table(head, lines)


def done(found: dict) -> None:
    if found["state"] != "done":
        raise RuntimeError(f"the analysis ended as {found['state']}: {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the WebUI's data (4 GB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60, help="begin no further round after this time")
    parser.add_argument("--steps", type=int, default=IMAGE_STEPS, help="of its sheet's pictures (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=["changes", "analyses"], default=["changes", "analyses"])
    parser.add_argument("--methods", nargs="+", default=["exact", "fast", "one-only", "rendered"], help="of ours")
    arguments = parser.parse_args()
    folder, neighbours = Path(os.environ["WEBUI_DIR"]), Path(os.environ["NEIGHBOURS_DIR"])
    python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
    write_models(arguments.work)
    data = arguments.work / "data"
    shutil.copytree(neighbours / THEIRS, data / "extensions" / THEIRS, dirs_exist_ok=True)
    size = (data / "models" / "Lora" / "ten-0.safetensors").stat().st_size / 2**20
    print(f"{processor()}; {load()}; {COUNT} LoRAs of rank {RANK}, {size:.0f} MiB each; medians\n", flush=True)
    with started(python, folder, data, FLAGS, {}, max(PATIENCE, 900)) as url:
        webui = WebUI(url, data, data / "log.txt")
        webui.answers_within = ANSWERS_WITHIN
        if "changes" in arguments.only:
            print(changes(webui, arguments.rounds, time.monotonic() + 60 * arguments.minutes), end="\n\n", flush=True)
        if "analyses" in arguments.only:
            print(analyses(webui, arguments.methods, arguments.steps), flush=True)


if __name__ == "__main__":
    assert parse(values(1, 2), "sd1").weights  # 26 values, as both read them
    main()

"""Text that comes from outside: preset strings and files, kohya's arguments and toml, runs on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.training import config as configs
from lib_blocktrain.training import runs, state_file
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from lib_blocktrain.training.kohya_toml import read_toml
from lib_blocktrain.training.optimizers import make_optimizer
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.weights import prompt_tags, tagged_prompts
from lib_blocktrain.weights.preset_files import PresetFile, read_lbw_presets, read_presets
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import Preset, from_link, shipped_presets
from lib_blocktrain.weights.prompt_tags import PageWeights
from lib_blocktrain.workspace.images import read_infotext
from tests.trust.junk import JUNK, damaged_bytes, damaged_json, damaged_text
from tests.trust.tally import bounded, fuzz, refused

STRINGS = (
    *(preset.text for preset in shipped_presets()),
    "FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0 | arch=sd1 canvas=0.12 rest=0.5  # of a portrait",
    "*=1,IN04-OUT02=0.5,OUT=X+0.25,BASE=R",
    "down_lr_weight=sine+.5 mid_lr_weight=0.5 up_lr_weight=1,1,1,1,1,1,1,1,1,1,1,1 block_lr_zero_threshold=0.1",
    '["block_dims=' + ",".join(["8"] * 25) + '", "block_alphas=' + ",".join(["4"] * 25) + '"]',
    '{"architecture": "sd1", "weights": {"BASE": 1, "IN00": 0.5}, "rest": 1}',
)
PIECES = (
    *("IN", "OUT11", "M00", "BASE", "REST", "*", "=", ":", ",", "|", "#", "-", "+", "{", "}", "[", "]", '"', "\\"),
    *(
        "block_dims=",
        "network_alpha=0",
        "arch=sdxl",
        "canvas=",
        "nan",
        "1e999",
        "R",
        "U",
        "X",
        "１",
        "²",
        "\0",
        "\ud800",
    ),
)
KOHYA = """[general]
enable_bucket = true
[[datasets]]
resolution = [512, 768]
batch_size = 2
min_bucket_reso = 256
[[datasets.subsets]]
image_dir = "pictures"
num_repeats = 3
class_tokens = "robot"
caption_extension = "txt"
keep_tokens = 1
"""
RUN = {
    "name": "robot",
    "dataset": {"folders": [{"path": "pictures", "repeats": 2}], "size": 128, "caption_extensions": [".txt"]},
    "network": {"rank": 8, "weights": "OUTD", "meaning": "lr", "elements": {"attn1": 0.5}, "block_ranks": {"OUT03": 4}},
    "optimizer": {"name": "SGD", "lr": 0.1, "arguments": {"momentum": 0.9}},
    "schedule": {"name": "cosine", "warmup": 3},
    "loss": {"min_snr_gamma": 5, "prediction": None},
    "samples": {"prompts": ["a", "b"], "every": 5},
    "steps": 20,
    "metadata": {"author": "me"},
}
TAGS = (
    "a fox <lora:robot:1:0.5:bw=OUTALL:start=3> in <lora:x:te=1:unet=1:lbw=1,0,R:step=2-9>",
    "<lora:robot:1:bw=OUT=0.5,IN04-OUT02=X:x=0.2>",
    "robot: 1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0 | arch=sd1; x: OUT=1",
)
INFOTEXT = (
    "a robot, (blue:1.2)\nNegative prompt: bad\nSteps: 20, Sampler: DDIM, CFG scale: 6, Seed: 1, LoRA 1: robot,"
    ' Block weights 1: "1,0,0 | arch=sd1", Multiplier 1: 0.8'
)


def test_preset_strings(tally):
    def check(text):
        with tally.case("preset strings") as case:
            for architecture in ARCHITECTURES:
                said = refused(lambda a=architecture: parse(from_link(text), a, seed=1, x=0.5))
                case.fault |= said is not None

    fuzz(damaged_text(STRINGS, PIECES) | st.text(), check, tally.scale.examples)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 1_000_000 + "x",
        "1," * 500_000,
        "IN00=1," * 100_000,
        "a" * 1_000_000 + ":1",
        "block_dims=" + "8," * 300_000,
        "down_lr_weight" + " " * 1_000_000 + "x",
        "[" * 1_000_000 + "block_dims=1",
        "{" * 100_000,
        '{"weights": ' + "[" * 100_000 + "}",
        '{"weights": {' + ",".join(f'"IN{i}": 1' for i in range(60_000)) + "}}",
        "1,1 |" + " a=1" * 100_000,
    ],
    ids=lambda text: f"{text[:14]}... {len(text)}",
)
def test_enormous_preset_strings(tally, text):
    with tally.case("enormous texts", fault=True), bounded():
        assert refused(lambda: parse(text, "sd1", seed=0, x=0))


def test_preset_files(tally, tmp_path):
    """Damaged lines cost no other, and stay in the file, byte for byte, whatever is put beside them."""
    own = Preset("MINE", ("sd1",), "OUT=1 | arch=sd1")
    path = tmp_path / "presets.txt"

    def check(content):
        with tally.case("preset files") as case:
            path.write_bytes(content)
            file = PresetFile(path)
            found = file.read()
            read_lbw_presets(content.decode("utf-8", "surrogateescape"))
            case.fault = bool(found.problems)
            if refused(lambda: file.put(own)):
                assert path.read_bytes() == content
                return
            again = file.read()
            assert again.presets.keys() == {*found.presets, "MINE"}
            assert len(again.problems) <= len(found.problems)
            assert [p for p in tmp_path.iterdir() if p != path] == []

    valid = "\n".join(["# mine", *STRINGS[-5:-2], "A:OUT=1", "B:ALL  # all", "C:1,1", ""]).encode()
    fuzz(damaged_bytes([valid, valid.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + valid]), check, tally.scale.examples)


def read_prompt(prompt: str) -> None:
    """Everything that is done with a prompt and what a picture says of it."""
    tagged_prompts.without(prompt, tagged_prompts.lora_names(prompt))
    tagged_prompts.pasted(prompt, prompt)
    for part in prompt.split("<"):
        tag = prompt_tags.read_tag(part.split(">")[0].split(":")[1:] or [part])
        prompt_tags.resolve(tag, "sd1", page=PageWeights(prompt), loras=["robot"], seed=1)


def test_prompts(tally):
    def check(prompt):
        with tally.case("prompts with tags") as case:
            case.fault = refused(lambda: read_prompt(prompt)) is not None

    fuzz(damaged_text(TAGS, [*PIECES, "<lora:", ":bw=", ":step=1-", ";", "\n"]), check, tally.scale.examples)


@pytest.mark.parametrize(
    "prompt",
    [
        "<lora:" * 50_000,
        "<lora:a:" + "bw=1:" * 50_000 + ">",
        "a: b; " * 50_000,
        "; " * 150_000,
        "<" * 300_000,
        ":" * 300_000,
    ],
    ids=lambda prompt: f"{prompt[:8]}... {len(prompt)}",
)
def test_enormous_prompts(tally, prompt):
    with tally.case("enormous texts", fault=True), bounded():
        tagged_prompts.without(prompt, tagged_prompts.lora_names(prompt))
        tagged_prompts.renamed(prompt, ["a"], "b")
        tagged_prompts.pasted(prompt, prompt)
        refused(lambda: prompt_tags.resolve(prompt_tags.read_tag(["a"]), "sd1", page=PageWeights(prompt), seed=1))


def test_enormous_preset_files(tally, tmp_path):
    path = tmp_path / "presets.txt"
    with tally.case("enormous texts", fault=True), bounded():
        path.write_bytes(b"A:OUT=1\n" * 200_000)
        assert refused(PresetFile(path).read, str(path))
    with tally.case("enormous texts", fault=True), bounded(seconds=60):
        text = "".join(f"P{number}:IN0{number % 10}=1\n" for number in range(1000))
        found = read_presets(text).presets
        path.write_text("", "utf-8")
        PresetFile(path).put(*found.values())
        assert PresetFile(path).read().presets == found


def test_a_run_json(tally, tmp_path):
    """Whatever stands there, it is read, or refused with the file's name; what is read can be written and used."""
    path = tmp_path / "run.json"

    def check(data):
        with tally.case("run.json") as case:
            path.write_text(json.dumps(data), "utf-8")
            config = None

            def load():
                nonlocal config
                config = configs.load(path)

            if refused(load, str(path)):
                case.fault = True
                return
            again = tmp_path / "again.json"
            again.write_text(configs.dumps(config), "utf-8", errors="surrogatepass")
            case.fault = refused(lambda: use(config)) is not None

    def use(config: RunConfig):
        read_weights(config.network, "sd1")
        parameter = torch.nn.Parameter(torch.zeros(2))
        make_optimizer(config.optimizer, [{"params": [parameter], "lr": 0.1}])

    fuzz(damaged_json(RUN), check, tally.scale.examples)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1"),
        (b"[" * 100_000, "recursion"),
        (b"\xff\xfe{\0}\0", "not UTF-8 at byte 0"),
        (b"[1, 2]", "expected an object"),
        (json.dumps({**RUN, "steps": float("nan")}).encode(), "steps = nan: expected a whole number"),
        (json.dumps({**RUN, "name": "../up"}).encode(), r"'\.\./up': expected a file's name"),
        (json.dumps({**RUN, "name": "CON"}).encode(), "'CON': expected a name without"),
        (json.dumps({**RUN, "name": "nul.txt"}).encode(), "'nul.txt': expected a name without"),
        (json.dumps({**RUN, "name": "a. "}).encode(), "expected a name without a dot or space"),
        (json.dumps({**RUN, "name": "a\0b"}).encode(), "expected a file's name"),
        (json.dumps({**RUN, "checkpoint": "a\0b"}).encode(), "null"),
        (json.dumps({**RUN, "network": {"rank": 10**9}}).encode(), "rank = 1000000000: expected 1 to"),
        (b" " * 5_000_000, "larger than"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_run_files(tally, tmp_path, content, said):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with tally.case("run.json", fault=True), bounded(), pytest.raises(ValueError, match=said) as caught:
        configs.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load", "no.such", ".", "a..b"]
)
def test_an_optimizer_is_an_optimizer(tally, name, monkeypatch):
    config = configs.OptimizerConfig(name=name, arguments={"shell": True})
    parameter = torch.nn.Parameter(torch.zeros(2))
    with tally.case("run.json", fault=True):
        assert refused(lambda: make_optimizer(config, [{"params": [parameter], "lr": 0.1}]), name)


def test_kohya_toml(tally, tmp_path):
    pytest.importorskip("tomllib", reason="Python 3.11's")
    path = tmp_path / "dataset.toml"
    config = DatasetConfig(toml=str(path))
    values = ("true", "3", '"x"', "[1, 2, 3]", "[[general]]", "{a = 1}", "nan", "datasets = 4", "'''", "-1", "1e999")

    def check(text):
        with tally.case("kohya's toml") as case:
            path.write_text(text, "utf-8", errors="surrogatepass")
            case.fault = refused(lambda: read_toml(config), str(path)) is not None

    fuzz(damaged_text([KOHYA], [*values, "\n", "=", "[[datasets]]\n", "image_dir = 3\n"]), check, tally.scale.examples)
    for odd in (KOHYA.replace("768", "769"), KOHYA.replace("num_repeats = 3", "num_repeats = 0")):
        with tally.case("kohya's toml", fault=True):
            path.write_text(odd, "utf-8")
            assert refused(lambda: read_toml(config), str(path))
    for line in ("datasets = 3", "general = 3", "datasets = ['a']", 'a = "' + "x" * 5_000_000, "a = " + "[" * 100_000):
        with tally.case("kohya's toml", fault=True), bounded():
            path.write_text(line, "utf-8")
            assert refused(lambda: read_toml(config), str(path))


def test_states(tally, tmp_path):
    """A damaged state is refused with its name; it never becomes another run's weights in silence."""
    path = tmp_path / "state.safetensors"
    state = {"step": 3, "learner": {"parameters": [torch.ones(2, 3)], "average": []}, "pairs": {1: (2, "a")}}
    state_file.save(path, state)
    content = path.read_bytes()

    def check(damaged):
        with tally.case("states of a run") as case:
            path.write_bytes(damaged)
            case.fault = refused(lambda: state_file.load(path), str(path)) is not None

    fuzz(damaged_bytes([content]), check, tally.scale.examples)


def test_metrics_and_queue(tally, tmp_path):
    """What is broken in a run's records is passed over; what is whole is found, whatever ends of lines a prompt has."""
    run = runs.create(RunConfig("a", DatasetConfig((FolderConfig("x"),))), tmp_path / "a")
    row = {"step": 1, "prompt": "one\u2028two\x85three", "event": "started"}
    run.add_metrics(row)
    assert run.metrics() == [row]
    valid = run.metrics_path.read_bytes() + b'{"step": "x", "event": ["y"]}\n{"step": 2, "loss": 1.0}\n'

    def check(content):
        with tally.case("records of a run") as case:
            run.metrics_path.write_bytes(content)
            run.drop_metrics_after(1)
            case.fault = len(run.metrics()) != 2
            assert isinstance(run.status, str)
            (tmp_path / "queue.json").write_bytes(content)
            assert all(found.folder == tmp_path / "a" for found in Queue(tmp_path).runs())

    fuzz(damaged_bytes([valid, b'["a", "b"]', b"[[]]", b"[" * 3000]), check, tally.scale.examples)


def test_parameters_of_pictures(tally):
    def check(text):
        with tally.case("parameters of a picture") as case:
            case.fault = refused(lambda: read_infotext(text).loras) is not None

    fuzz(damaged_text([INFOTEXT], ['"', ":", ",", "\\", "Steps: ", "\n", "1e999", "nan"]), check, tally.scale.examples)
    for text in ("a" * 49_000, 'a:"\\",' * 8_000, "x" * 5_000_000):
        with tally.case("enormous texts", fault=True), bounded():
            refused(lambda text=text: read_infotext(text))


def test_values_of_every_kind(tally):
    """JSON of anything at all in place of weights."""

    def check(value):
        with tally.case("weights in JSON") as case:
            network = refused(lambda: read_weights(configs.NetworkConfig(weights=value), "sd1"))
            text = json.dumps(value)
            string = refused(lambda: parse(text, "sd1", seed=0, x=0))
            case.fault = network is not None or string is not None

    weights = st.dictionaries(st.sampled_from(["architecture", "weights", "rest", "IN00", "BASE"]), JUNK)
    fuzz(weights | JUNK, check, tally.scale.examples)


def test_the_path_of_a_run_stays_its_own(tmp_path):
    """What `asdict` gives is what `load` reads: the fuzzed file above is not refused for being another one."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN), "utf-8")
    config = configs.load(path)
    assert asdict(config)["dataset"]["folders"][0]["path"] == str(Path(tmp_path, "pictures").resolve())

"""Sample prompts with their own options: what sd-scripts' `line_to_prompt_dict` (48d368f) answered, and its files."""

from __future__ import annotations

import json
import sys

import pytest

from lib_blocktrain.training.config import RunConfig, dumps, load
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.sample_prompts import SamplePrompt, prompts_in, read_prompt

RUN = {"name": "x", "dataset": {"folders": [{"path": "."}]}}
LINE = "a robot --w 512 --h 768 --d 7 --l 5.5 --s 28 --n blurry, bad"
ANSWERS = {
    "a robot": SamplePrompt("a robot"),
    LINE: SamplePrompt("a robot", "blurry, bad", 512, 768, 7, 28, 5.5),
    "x, y --D 3 --n (low:1.2)": SamplePrompt("x, y", "(low:1.2)", seed=3),
    "--n x": SamplePrompt("--n x"),
    "tall -robot-- in --S 5 --ss euler_a": SamplePrompt("tall -robot-- in", steps=5, sampler="euler_a"),
}


@pytest.mark.parametrize("line", ANSWERS)
def test_a_line_is_that_of_sd_scripts(line):
    assert read_prompt(line) == ANSWERS[line]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a --w 500", r"--w = 500: expected a multiple of 8 from 64 on"),
        ("a --h x", r"--h 'x': expected a multiple of 8"),
        ("a --s 0", r"--s = 0: expected 1 to 1000"),
        ("a --d -1", r"--d = -1: expected a whole number from 0 to"),
        ("a --l nan", r"--l = nan: expected a number from 0 on"),
        ("a --n", r"--n = '': expected text"),
        ("a --cn x.png", r"unknown --cn x.png: expected one of --w, --h, --d, --s, --l, --n, --ss"),
    ],
)
def test_what_a_line_cannot_say(line, said):
    with pytest.raises(ConfigError, match=f"sample prompt '{line}': {said}"):
        read(RunConfig, {**RUN, "samples": {"prompts": [line]}})


def test_what_a_prompt_does_not_say_is_the_runs():
    samples = read(RunConfig, {**RUN, "samples": {"prompts": ["a", LINE], "seed": 4, "negative": "bad", "width": 256}})
    own, other = samples.samples.prompt(0), samples.samples.prompt(1)
    assert own == SamplePrompt("a", "bad", 256, None, 4, 20, 6.0, "DDIM")
    assert other == SamplePrompt("a robot", "blurry, bad", 512, 768, 7, 28, 5.5, "DDIM")
    assert samples.samples.texts == ["a", "bad", "a robot", "blurry, bad"]


def test_files_of_sd_scripts(tmp_path):
    (tmp_path / "p.txt").write_text(f"# a comment\n\n{LINE}\n a second\n", "utf-8")
    assert prompts_in(tmp_path / "p.txt") == (LINE, "a second")
    items = ["a line --d 3", {"prompt": "a robot", "negative_prompt": "blurry,\nbad", "width": 512, "sample_steps": 9}]
    (tmp_path / "p.json").write_text(json.dumps(items), "utf-8")
    assert prompts_in(tmp_path / "p.json") == ("a line --d 3", "a robot --n blurry, bad --w 512 --s 9")
    if sys.version_info >= (3, 11):
        text = '[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = "a"\nseed = 0\n[[prompt.subset]]\nprompt = "b"\n'
        (tmp_path / "p.toml").write_text(text, "utf-8")
        assert prompts_in(tmp_path / "p.toml") == ("a --w 64 --d 0", "b --w 64")
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "samples": {"sample_prompts": "p.txt", "every": 2}}), "utf-8")
    config = load(tmp_path / "run.json")  # once read, the run has all of it
    assert (config.samples.file, config.samples.prompts) == (None, (LINE, "a second"))
    assert '"file": null' in dumps(config)
    (tmp_path / "bad.json").write_text('[{"prompt": "a", "enhance": 1}]', "utf-8")
    for name, said in (("bad.json", "unknown 'enhance'"), ("p.yaml", r"expected a \.txt, \.json or \.toml")):
        (tmp_path / "p.yaml").write_text("a", "utf-8")
        with pytest.raises(ConfigError, match=said):
            prompts_in(tmp_path / name)
    with pytest.raises(ConfigError, match="a file or prompts, one of them"):
        read(RunConfig, {**RUN, "samples": {"file": "p.txt", "prompts": ["a"]}})

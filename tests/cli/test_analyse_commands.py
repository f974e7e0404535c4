"""The commands that analyse: files and JSON, and one plain sentence for bad input."""

from __future__ import annotations

import json

import pytest

from lib_blocktrain.analysis.results import read_analysis
from lib_blocktrain.analysis.solve_result import Solved
from lib_blocktrain.cli.main import main
from lib_blocktrain.hosts import standalone
from lib_blocktrain.networks.files import write_network
from lib_blocktrain.weights.preset_files import read_line
from lib_blocktrain.weights.preset_strings import parse
from tests.analysis.miniature import MODELS, PROMPT, lora_for


@pytest.fixture(scope="module")
def miniature():
    return MODELS["diffusers sd1"]()


@pytest.fixture
def lora(tmp_path, miniature, monkeypatch):
    """A LoRA for the model that stands in for the demo model."""
    monkeypatch.setattr("lib_blocktrain.cli.main.ensure", lambda *arguments: None)
    monkeypatch.setattr(standalone, "load_demo", lambda *arguments: miniature)
    return write_network(tmp_path / "thing.safetensors", lora_for(miniature, ("attn2_to_q",), scale=0.3))


def test_a_word_to_a_preset(lora, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["analyse", "--lora", str(lora), "--prompt", PROMPT, "--word", "robot", "--against-word", "background"]
    command += ["--method", "fast", "--seeds", "0,1", "--keep", "strongest=3", "--preset", "ROBOT", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = read_analysis(out / "analysis.json")
    assert found.feature == "the word “robot”"
    assert data["analysis"] == found.to_json()
    assert data["comparison"]["titles"][1].startswith("the word “background”")
    preset = read_line((out / "preset.txt").read_text("utf-8").strip())
    assert preset.name == "ROBOT"
    assert f"canvas={found.area_share:.3f}".rstrip("0") in preset.text
    assert sorted(path.name for path in out.iterdir()) == [
        *("against.csv", "against.json", "analysis.csv", "analysis.json", "comparison.json", "preset.txt")
    ]
    assert main(["compare", str(out / "analysis.json"), str(out / "against.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == data["comparison"]
    assert main(["compare", str(out / "analysis.csv"), str(out / "against.json")]) == 2
    assert "analysis.csv" in capsys.readouterr().err
    assert main([*command, "--method", "norms"]) == 2
    assert "norms are of the file alone" in capsys.readouterr().err


def test_solving(lora, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["analyse", "--lora", str(lora), "--prompt", PROMPT, "--word", "robot", "--against-box", "0,0,1,0.25"]
    command += ["--solve", "--seeds", "0", "--preset", "ROBOT", "--out", str(out), "--json"]
    assert main([*command, "--budget", "400", "--kind", "on-off"]) == 0
    data = json.loads(capsys.readouterr().out)
    solved = Solved.from_json(data["solved"])
    assert data["solved"] == json.loads((out / "solved.json").read_text("utf-8"))
    assert solved.evaluations <= solved.budget == 400
    preset = read_line((out / "preset.txt").read_text("utf-8").strip())
    assert (preset.name, parse(preset.text, "sd1").weights) == ("ROBOT", solved.best.weights)
    pictures = [f"front-{n + 1}.png" for n in range(len(solved.front))]
    assert sorted(path.name for path in out.iterdir()) == [*pictures, "preset.txt", "solved.json"]
    for more, said in (
        (["--keep", "proportional"], "--keep with --solve"),
        (["--method", "fast"], "--method with --solve"),
        (["--budget", "50"], "a budget of 50 U-Net evaluations: expected at least"),
    ):
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err


def test_weights_of_a_feature_of_another_size_are_warned_of(lora, tmp_path, capsys):
    command = ["analyse", "--lora", str(lora), "--prompt", PROMPT, "--box", "0,0,1,0.5", "--method", "fast"]
    command += ["--seeds", "0", "--out", str(tmp_path)]
    for share, warned in (("0.4", False), ("0.1", True)):
        assert main([*command, "--weights", f"OUT=1 | canvas={share}"]) == 0
        assert (
            "found for a feature that fills 10% of the picture, used for one that fills 50%" in capsys.readouterr().out
        ) == warned


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "exact"], "no prompt: expected at least one"),
        (["--prompt", PROMPT, "--word", "hat"], "word 'hat': expected one that stands in the prompt"),
        (["--prompt", PROMPT, "--box", "0,0,2,1"], "expected left < right"),
        (["--prompt", PROMPT, "--mask", "nowhere.png"], "nowhere.png"),
        (["--prompt", PROMPT, "--seeds", "a"], "seeds 'a': expected whole numbers"),
        (["--prompt", PROMPT, "--keep", "most"], "--keep 'most': expected strongest=K"),
        (["--prompt", PROMPT, "--keep", "lower"], "expected a second feature too"),
        (["--prompt", PROMPT, "--preset", "A"], "--preset names weights that --keep makes"),
        (["--prompt", PROMPT, "--weights", "NOSUCH"], "NOSUCH"),
    ],
)
def test_bad_input_is_one_sentence(lora, tmp_path, capsys, options, said):
    assert main(["analyse", "--lora", str(lora), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_similar(lora, tmp_path, capsys, monkeypatch):
    write_network(tmp_path / "loras" / "twin.safetensors", _read(lora))
    (tmp_path / "loras" / "broken.safetensors").write_bytes(b"x")
    assert main(["similar", "--lora", str(lora), "--folder", str(tmp_path / "loras"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [match["name"] for match in data["matches"]] == ["twin"]
    assert data["unreadable"][0]["path"].endswith("broken.safetensors")
    assert main(["similar", "--lora", str(tmp_path / "none.safetensors")]) == 2

    monkeypatch.chdir(tmp_path)  # however its path is written, a file is not like itself
    assert main(["similar", "--lora", "loras/twin.safetensors", "--folder", str(tmp_path / "loras"), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["matches"]


def _read(path):
    from lib_blocktrain.networks.files import read_network

    return read_network(path)

"""The command line as a person uses it: a process of its own, its two streams and its status."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib_blocktrain.cli import main
from lib_blocktrain.cli.commands import ProgressBar
from tests import lacking

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lib_blocktrain", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """Status 2, nothing on stdout, one sentence on stderr that has the words."""
    assert result.returncode == 2, result.stderr
    assert not result.stdout
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_parse_17_values():
    result = run("presets", "parse", "FACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0", "--architecture", "sd1", "--json")
    data = json.loads(result.stdout)
    assert data["architecture"] == "sd1"
    on = {block for block, value in data["weights"].items() if value == 1}
    assert on == {"BASE", "OUT03", "OUT04", "OUT05", "REST"}
    assert set(data["weights"]) == {"BASE", "REST", "M00", *(f"{s}{n:02}" for s in ("IN", "OUT") for n in range(12))}
    assert data["notices"]  # what the short form leaves out is said


def test_parse_a_presets_name():
    data = json.loads(run("presets", "parse", "OUTALL", "--architecture", "sd1", "--json").stdout)
    assert data["weights"]["OUT11"] == 1
    assert data["weights"]["IN01"] == 0


def test_parse_for_people():
    result = run("presets", "parse", "1" + ",1" * 24)
    assert result.returncode == 0
    assert "OUT11" in result.stdout


@pytest.mark.parametrize(
    ("string", "architecture", "words"),
    [
        ("1,2,3", "sd1", ["3", "25"]),
        ("A:" + ",".join(["1"] * 17), "sdxl", ["17"]),
        ("1,x" + ",1" * 23, "sd1", ["'x'"]),
        ("NOSUCH", "sd1", ["NOSUCH"]),
        ("", "sd1", []),
    ],
)
def test_parse_refuses(string, architecture, words):
    refused(run("presets", "parse", string, "--architecture", architecture, "--json"), *words)


def test_presets_list():
    data = json.loads(run("presets", "list", "--json").stdout)
    names = {preset["name"] for preset in data}
    assert {"ALL", "NONE", "INS", "OUTALL"} <= names
    assert all(preset["purpose"] and preset["grade"] and preset["architectures"] for preset in data)
    for_sdxl = json.loads(run("presets", "list", "--architecture", "sdxl", "--json").stdout)
    assert all("sdxl" in preset["architectures"] for preset in for_sdxl)


@pytest.mark.parametrize("name", [*range(0, 60, 7)])
def test_every_listed_preset_parses(name):
    data = json.loads(run("presets", "list", "--json").stdout)
    preset = data[name % len(data)]
    for architecture in preset["architectures"]:
        assert run("presets", "parse", preset["name"], "--architecture", architecture, "--json").returncode == 0


def test_light_commands_import_no_torch():
    code = (
        "import sys; from lib_blocktrain.cli.main import main; main(['presets', 'list']);"
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'safetensors'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def network_file(tmp_path_factory) -> Path:
    """A kohya file with one module in IN04, one in OUT03 and one in the text encoder, rank 4."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for layer in (
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    ):
        width = 768 if "attn2" in layer or "_te_" in layer else 640
        tensors[f"{layer}.lora_down.weight"] = torch.randn(4, width)
        tensors[f"{layer}.lora_up.weight"] = torch.randn(640, 4)
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("network") / "three.safetensors"
    save_file(tensors, path, {"ss_output_name": "three"})
    return path


def test_inspect(network_file):
    data = json.loads(run("inspect", network_file, "--json").stdout)
    assert data["architecture"] == "sd1"
    assert [a.lower() for a in data["algorithms"]] == ["lora"]
    assert data["rank"] == 4 or data["rank"] == [4]
    assert {block: n for block, n in data["blocks"].items() if n} == {"BASE": 1, "IN04": 1, "OUT03": 1}
    assert data["metadata"]["ss_output_name"] == "three"


def test_inspect_names_the_keys_that_nobody_reads(tmp_path):
    import torch
    from safetensors.torch import save_file

    module = "lora_unet_conv_out"
    known = {f"{module}.diff": torch.ones(4, 4), "lora_te1_text_model_encoder_layers_0_mlp_fc1.diff": torch.ones(4, 4)}
    others = {name: torch.ones(2) for name in (f"{module}.scalar", "bundle_emb.\x1b[31mface.vec")}
    path = tmp_path / "some.safetensors"
    save_file({**known, **others}, path)
    text = run("inspect", path).stdout
    assert "full for sdxl\n" in text, "there is no rank, and none is named"
    assert f"2 keys that nobody reads: 'bundle_emb.\\x1b[31mface.vec', '{module}.scalar'" in text
    save_file({**known, **{f"emb.{number:02}": torch.ones(2) for number in range(30)}}, path)
    assert "30 keys that nobody reads: 'emb.00', 'emb.01', 'emb.02', 'emb.03', ..." in run("inspect", path).stdout


def test_inspect_refuses_a_file_with_nothing_known(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())}, tmp_path / "empty.safetensors")
    refused(run("inspect", tmp_path / "empty.safetensors"), "no network modules among its 1 keys")


def test_inspect_refuses(tmp_path, network_file):
    refused(run("inspect", tmp_path / "missing.safetensors"), "missing.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not a safetensors file at all, just text")
    refused(run("inspect", garbage, "--json"), "garbage.safetensors")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(network_file.read_bytes()[:500])
    refused(run("inspect", truncated), "truncated.safetensors")


def test_bake_and_never_over_a_file(tmp_path, network_file):
    pytest.importorskip("diffusers")  # without it the command would make its environment
    out = tmp_path / "baked.safetensors"
    assert run("bake", "--lora", network_file, "--weights", "OUT=0.5,BASE=1", "--out", out).returncode == 0
    data = json.loads(run("inspect", out, "--json").stdout)
    assert {block: n for block, n in data["blocks"].items() if n} == {"BASE": 1, "OUT03": 1}
    before = out.read_bytes()
    refused(run("bake", "--lora", network_file, "--weights", "ALL", "--out", out), "baked.safetensors")
    assert out.read_bytes() == before
    small = ("--recommend", "OUT=1", "--rank", "1", "--overwrite", "--json")
    answer = json.loads(run("bake", "--lora", network_file, "--weights", "ALL", "--out", out, *small).stdout)
    assert {found["rank"] for found in answer["reduction"]["blocks"].values()} == {1}
    assert 0 < answer["reduction"]["error"] < 1


def test_help_names_every_command():
    text = run("--help").stdout
    for command in ("presets", "inspect", "preview", "bake", "demo", "test", "tour"):
        assert command in text


def test_arguments_for_pytest():
    """Options too, which argparse would take for ours; its exit status comes back."""
    pytest.importorskip("diffusers")
    result = run("test", "-q", "--collect-only", "-k", "help_names", "tests/cli/test_cli.py")
    assert result.returncode == 0, result.stderr
    assert "test_help_names_every_command" in result.stdout
    assert (
        run("test", "-q", "-k", "nothing_like_it", "tests/cli/test_cli.py").returncode == 5
    )  # pytest: nothing collected


def test_unknown_option():
    result = run("presets", "list", "--colour")
    assert result.returncode == 2
    assert "--colour" in result.stderr


def test_missing_checkpoint(tmp_path):
    pytest.importorskip("diffusers")
    result = run("preview", "--prompt", "fox", "--out", tmp_path / "x.png", "--checkpoint", tmp_path / "no.safetensors")
    refused(result, "no.safetensors: No such file")
    assert "Errno" not in result.stderr


def test_an_option_before_the_command_counts():
    """``--checkpoint`` is an option of the tab and of ``preview``: it must not be lost on the way."""
    from lib_blocktrain.cli.main import build_parser

    words = ["preview", "--prompt", "fox", "--out", "x.png"]
    assert build_parser().parse_args(["--checkpoint", "a.safetensors", *words]).checkpoint == Path("a.safetensors")
    assert build_parser().parse_args([*words, "--checkpoint", "b.safetensors"]).checkpoint == Path("b.safetensors")
    assert build_parser().parse_args(words).checkpoint is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_a_terminal(monkeypatch):
    """And for one where tqdm is installed; elsewhere nothing is written."""
    pytest.importorskip("tqdm")
    for stream, words in ((io.StringIO(), []), (Terminal(), ["drawing", "2/2", "loss 0.5"])):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = ProgressBar("drawing")
        bar(1, 2)
        bar(2, 2, "loss 0.5")
        assert bool(stream.getvalue()) == bool(words)
        assert all(word in stream.getvalue() for word in words)
    monkeypatch.setattr("lib_blocktrain.cli.commands.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    ProgressBar("drawing")(1, 2)
    assert not stream.getvalue()


@pytest.mark.parametrize("lack", lacking.ERRORS)
def test_too_little_memory_is_one_sentence(lack, monkeypatch, capsys):
    asked = argparse.Namespace(run=lambda _: lack(), needs=None, url=None)
    monkeypatch.setattr(main, "_parse", lambda _: asked)
    assert main.main([]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("blocktrain: ")

"""`train` and `estimate` from the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.blocks import BLOCK_IDS
from lib_blocktrain.cli import main
from lib_blocktrain.cli.runs import runs_text
from lib_blocktrain.networks.cards import recommended_of
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.header import read_header
from lib_blocktrain.runner import published_copy
from lib_blocktrain.training.config import dumps, load
from lib_blocktrain.training.runs import open_run
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse


@pytest.fixture
def blocktrain(embedded, monkeypatch, capsys, model, tmp_path):
    """Run a command on the random model; return its exit status, its JSON and what it wrote to stderr."""
    from lib_blocktrain.hosts import standalone, standalone_folders

    monkeypatch.setattr(main, "ensure", lambda *arguments: None)
    monkeypatch.setattr(standalone, "load_demo", lambda: model)
    monkeypatch.setattr(standalone_folders, "ROOT", tmp_path)

    def run(*arguments):
        status = main.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else None, err

    return run


@pytest.fixture
def run_json(config, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(dumps(config), "utf-8")
    return path


def test_train_and_resume(blocktrain, run_json, tmp_path):
    folder = tmp_path / "out"
    status, answer, _ = blocktrain("train", run_json, "--out", folder, "--steps", 2, "--save-every", 1)
    assert (status, answer["ended"], answer["step"]) == (0, "finished", 2)
    assert (folder / "tiny.safetensors").exists()
    assert (folder / "checkpoints" / "tiny-000001.safetensors").exists()
    assert load(folder / "run.json").steps == 2
    status, answer, _ = blocktrain("train", "--resume", folder, "--steps", 4)
    assert (status, answer["step"]) == (0, 4)


def test_resumed_from_the_earlier_state(blocktrain, run_json, tmp_path):
    """Where the last is damaged, and only there."""
    folder = tmp_path / "out"
    blocktrain("train", run_json, "--out", folder, "--steps", 1)
    state, earlier = folder / "state.safetensors", folder / "state-before.safetensors"
    whole = state.read_bytes()
    earlier.write_bytes(whole)
    status, _, err = blocktrain("train", "--resume", folder, "--steps", 2, "--earlier-state")
    assert (status, "of step 1, is whole" in err) == (2, True), err
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    status, _, err = blocktrain("train", "--resume", folder, "--steps", 2)
    assert (status, "resume with --earlier-state" in err) == (2, True), err
    status, answer, _ = blocktrain("train", "--resume", folder, "--steps", 2, "--earlier-state")
    assert (status, answer["ended"], answer["step"]) == (0, "finished", 2)
    status, _, err = blocktrain("train", run_json, "--earlier-state")
    assert (status, "--earlier-state without --resume" in err) == (2, True), err


def test_the_runs_folder_is_named_after_the_run(blocktrain, run_json, tmp_path):
    """And the result is published: in the LoRA folder, with what the WebUI shows beside it; never over another."""
    outputs = tmp_path / "outputs"
    for name in ("tiny", "tiny-2"):
        _, answer, _ = blocktrain("train", run_json, "--steps", 1)
        assert answer["run"].startswith(str(outputs / "runs" / "tiny-"))
        assert answer["published"] == str(outputs / "loras" / f"{name}.safetensors")
    assert (outputs / "runs" / "cache").is_dir()
    card = json.loads((outputs / "loras" / "tiny-2.json").read_text("utf-8"))
    assert card["activation text"] == "a photo of a robot, (blue background:1.3)"
    assert card["preferred weight"] == 1
    assert (card["sd version"], card["negative text"]) == ("SD1", "")
    assert re.match(r"Trained with blocktrain \S+ on .+: 1 steps of batch \d+, \d+ pictures", card["notes"])
    assert "\nblocks: " in card["notes"]
    found = recommended_of(outputs / "loras" / "tiny-2.safetensors")
    assert parse(found.text, "sd1").weights == BlockWeights.uniform("sd1", 1.0)
    metadata = read_header(outputs / "loras" / "tiny-2.safetensors").metadata
    assert metadata["modelspec.usage_hint"].startswith("Use it without block weights: it was trained in ")


def test_bad_input_is_one_sentence(blocktrain, run_json, config, tmp_path):
    assert blocktrain("train")[::2] == (2, "blocktrain: nothing to train: expected RUN.json or --resume DIR\n")
    status, _, err = blocktrain("train", run_json, "--resume", tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = blocktrain("train", "--resume", tmp_path / "nowhere")
    assert status == 2
    assert "nothing to resume" in err
    run_json.write_text(dumps(config).replace('"rank": 2', '"rank": "two"'), "utf-8")
    status, _, err = blocktrain("train", run_json)
    assert status == 2
    assert "network.rank = 'two': expected a whole number" in err
    blocktrain("train", write(tmp_path, config), "--out", tmp_path / "a", "--steps", 1)
    status, _, err = blocktrain("train", write(tmp_path, config), "--out", tmp_path / "a")
    assert status == 2
    assert "holds a run already: resume it" in err


def write(folder, config):
    path = folder / "again.json"
    path.write_text(dumps(config), "utf-8")
    return path


def test_a_run_that_fails_is_status_1(blocktrain, run_json, config):
    run_json.write_text(dumps(replace(config, steps=9, optimizer=replace(config.optimizer, lr=1e30))), "utf-8")
    status, answer, err = blocktrain("train", run_json)
    assert (status, answer) == (1, None)
    assert "the loss is" in err
    assert "nothing was learnt before" in err  # the first step spoilt the weights


def test_syntax_in_the_prompts_of_samples_is_said(blocktrain, run_json, config):
    """By the estimate, before the run."""
    samples = replace(config.samples, prompts=("a robot <lora:x:1>", "a (red:1.5) robot"))
    run_json.write_text(dumps(replace(config, samples=samples)), "utf-8")
    _, answer, _ = blocktrain("estimate", run_json)
    said = " ".join(answer["notices"])
    assert "the prompt of the samples: '<lora:x:1>' is read as words" in said
    assert "'(red:1.5)'" in said


def test_a_dry_run_writes_nothing(blocktrain, run_json, config, tmp_path):
    samples = replace(config.samples, prompts=("a robot --w 64",))
    changed = replace(config, samples=samples, epochs=3, dataset=replace(config.dataset, more_sizes=(128,)))
    run_json.write_text(dumps(changed), "utf-8")
    before = sorted(tmp_path.rglob("*"))
    status, answer, _ = blocktrain("train", run_json, "--dry-run")
    assert status == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert answer["modules"].keys() == {"OUT09", "OUT10", "OUT11"}
    assert (answer["batches_per_epoch"], answer["steps"], answer["epochs"]) == (8, 24, 3.0)
    assert answer["dataset"]["buckets"] == {"64x64": 8, "128x128": 8}
    assert answer["samples"][0]["width"] == 64
    assert answer["estimate"]["first_block"] == "OUT09"
    run_json.write_text(dumps(replace(changed, network=replace(config.network, weights="NONE"))), "utf-8")
    status, _, said = blocktrain("train", run_json, "--dry-run")
    assert (status, "nothing to train under the weights" in said) == (2, True)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_table_of_runs(blocktrain, run_json, tmp_path):
    status, _, said = blocktrain("runs")
    assert (status, "no such folder" in said) == (2, True)
    folder = tmp_path / "here"
    blocktrain("train", run_json, "--out", folder / "first", "--steps", 1)
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{}", "utf-8")
    status, (row,), said = blocktrain("runs", "--folder", folder)
    assert (status, row["name"], row["state"], row["step"]) == (0, "first", "finished", 1)
    assert row["trained"] == "OUT09, OUT11, OUT10=0.5"
    assert "note: broken:" in said
    table = runs_text([row, {**row, "name": "second", "smoothed": None, "state": "waiting", "trained": None}])
    first, second = table.splitlines()[1:]
    assert first.split()[:3] == ["first", "finished", "1/1"]
    assert second.split() == ["second", "waiting", "1/1"]
    assert runs_text([]) == "no runs"


def test_the_estimate_from_files_is_that_of_the_loaded_model(embedded):
    from lib_blocktrain.cli.train import _unet_size
    from lib_blocktrain.hosts.standalone import load_demo
    from lib_blocktrain.training.estimate import size_of_model

    assert _unet_size(None) == size_of_model(load_demo(embedded))


def test_estimate(blocktrain, run_json, config):
    status, answer, _ = blocktrain("estimate", run_json)
    assert status == 0
    assert 0.4 < answer["relative_time"] < 0.8
    assert answer["first_block"] == "OUT09"
    assert answer["mib"].keys() == {"model", "network", "optimizer", "activations", "gradients", "overhead"}
    _, trained, _ = blocktrain("train", run_json, "--steps", 1)
    numbers = sum(tensor.numel() for tensor in load_file(trained["result"]).values() if tensor.ndim)
    assert answer["parameters"] == numbers


def test_what_is_changed_at_a_resume_stays(blocktrain, run_json, tmp_path):
    """The next session had the old number of steps, and ended at once."""
    folder = tmp_path / "out"
    assert blocktrain("train", run_json, "--out", folder, "--steps", 1)[0] == 0
    assert blocktrain("train", "--resume", folder, "--steps", 2, "--save-every", 1)[0] == 0
    assert (load(folder / "run.json").steps, load(folder / "run.json").save_every) == (2, 1)
    status, _, err = blocktrain("train", "--resume", folder, "--out", tmp_path / "other")
    assert (status, f"--out {tmp_path / 'other'} together with --resume" in err) == (2, True), err


def test_presets_of_ones_own_mean_what_they_mean_on_the_page(blocktrain, run_json, tmp_path):
    """OUTD was the shipped one, and MINE unknown."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "presets.txt").write_text("MINE:OUT09=0.5\nOUTD:OUT11=1\n", "utf-8")
    _, listed, _ = blocktrain("presets", "list")
    assert [preset["name"] for preset in listed][:2] == ["MINE", "OUTD"]
    for name, block in (("MINE", "OUT09"), ("OUTD", "OUT11")):
        _, parsed, _ = blocktrain("presets", "parse", name)
        assert [b for b, weight in parsed["weights"].items() if weight and b in BLOCK_IDS] == [block]
        written = json.loads(run_json.read_text("utf-8"))
        written["network"]["weights"] = name
        run_json.write_text(json.dumps(written), "utf-8")
        status, planned, err = blocktrain("train", run_json, "--steps", 1, "--dry-run")
        assert (status, list(planned["modules"])) == (0, [block]), err
        status, answer, err = blocktrain("train", run_json, "--steps", 1)
        assert status == 0, err
        network = read_network(answer["published"])
        assert {b for b, count in network.blocks.items() if count} == {block}
        baked = tmp_path / f"baked-{name}.safetensors"
        status, _, err = blocktrain("bake", "--lora", answer["published"], "--weights", "MINE", "--out", baked)
        assert status == (0 if name == "MINE" else 2), err  # of the other one nothing would be left


def test_a_resumed_run_is_published_when_it_has_finished(blocktrain, run_json, tmp_path):
    """The page knows its LoRA then, and the next time it replaces its own."""
    _, first, _ = blocktrain("train", run_json, "--steps", 1)
    run = open_run(Path(first["run"]))
    copy = Path(first["published"])
    assert published_copy(run, copy.parent) == copy
    status, answer, _ = blocktrain("train", "--resume", first["run"], "--steps", 2)
    assert status == 0
    assert answer["published"] == first["published"]
    assert read_header(copy).metadata["ss_steps"] == "2"
    assert published_copy(run, copy.parent) == copy

"""What `run.json` says, and what is said of what it should not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lib_blocktrain.training import checked_file
from lib_blocktrain.training.config import (
    DatasetConfig,
    FolderConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    dumps,
    load,
)
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.optimizers import lr_factor
from lib_blocktrain.training.state_file import load as load_state
from lib_blocktrain.training.state_file import save as save_state

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"name": "x", "dataset": {"folders": [{"path": "pictures"}]}}


def test_reads_back_what_it_writes(tmp_path):
    network = NetworkConfig(weights={"weights": {"OUT00": 0.5}}, elements={"attn2": 0.5}, block_ranks={"OUT01": 4})
    dataset = DatasetConfig((FolderConfig("/a/b", repeats=3),), caption_dropout=0.1)
    optimizer = OptimizerConfig("SGD", 0.1, arguments={"momentum": 0.9, "nesterov": True})
    config = RunConfig("näme 1", dataset, network, optimizer, checkpoint="/models/a.safetensors", metadata={"a": "b"})
    path = tmp_path / "run.json"
    path.write_text(dumps(config), "utf-8")
    assert load(path) == config


def test_paths_are_from_the_files_folder_on(tmp_path):
    path = tmp_path / "runs" / "run.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**SMALL, "checkpoint": "../model.safetensors"}), "utf-8")
    config = load(path)
    assert config.dataset.folders[0].path == str(tmp_path / "runs" / "pictures")
    assert config.checkpoint == str(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepps": 3}, "unknown 'stepps': did you mean 'steps'"),
        ({"network": {"rnk": 3}}, r"unknown 'network\.rnk': did you mean 'rank'"),
        ({"steps": "many"}, "steps = 'many': expected a whole number"),
        ({"steps": 0}, "steps = 0: expected 1 or more"),
        ({"steps": True}, "steps = True: expected a whole number"),
        ({"batch": 1.5}, r"batch = 1\.5: expected a whole number"),
        ({"optimizer": {"lr": float("nan")}}, r"optimizer\.lr = nan: expected a finite number"),
        ({"optimizer": {"lr": 0}}, r"lr = 0\.0: expected more than 0"),
        ({"network": {"algorithm": "lohaa"}}, r"network\.algorithm = 'lohaa': expected one of lora, loha"),
        ({"network": {"algorithm": "dora"}}, "alpha does not scale a DoRA's finished delta: expected 'lr' or 'rank'"),
        ({"network": {"algorithm": "dora", "meaning": "max_norm"}}, "cannot be shortened"),
        ({"network": {"algorithm": "loha", "rank_dropout": 0.1}}, "expected lora, for rank or neuron dropout"),
        ({"name": "../elsewhere"}, "expected a file's name"),
        ({"name": ".hidden"}, "expected a file's name"),
        ({"dataset": {}}, "folders or a toml"),
        ({"dataset": {"folders": [{"path": 3}]}}, r"dataset\.folders\[0\]\.path = 3: expected text"),
        ({"dataset": {"folders": [{}]}}, r"dataset\.folders\[0\]\.path is missing"),
        ({"loss": {"min_timestep": 900, "max_timestep": 100}}, "min_timestep = 900: expected 0 to 99"),
        ({"loss": {"debiased": True, "min_snr_gamma": 5}}, "one of debiased and min_snr_gamma"),
        ({"optimizer": {"arguments": []}}, r"optimizer\.arguments = \[\]: expected an object"),
    ],
    ids=str,
)
def test_errors_name_the_value(change, message):
    with pytest.raises(ConfigError, match=message):
        read(RunConfig, {**SMALL, **change})


def test_files_that_are_none(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"name": "x",\n oops}', "utf-8")
    with pytest.raises(ConfigError, match=r"run\.json: line 2"):
        load(path)
    path.write_text("[]", "utf-8")
    with pytest.raises(ConfigError, match="expected an object"):
        load(path)


@pytest.mark.parametrize("path", sorted((ROOT / "demo" / "runs").glob("*.json")), ids=lambda p: p.stem)
def test_ready_runs(path):
    config = load(path)
    assert all(Path(folder.path).is_dir() for folder in config.dataset.folders)
    assert config.description


def test_the_first_ready_run_is_the_held_out_subject():
    first = min((ROOT / "demo" / "runs").glob("*.json"))
    assert load(first).dataset.folders[0].path.endswith("robot")


# Schedules.


def test_schedules():
    def curve(schedule, steps=10):
        return [lr_factor(step, steps, schedule) for step in range(steps)]

    assert curve(ScheduleConfig()) == [1.0] * 10
    assert curve(ScheduleConfig("linear")) == pytest.approx([1 - i / 10 for i in range(10)])
    cosine = curve(ScheduleConfig("cosine", min_lr_ratio=0.1))
    assert cosine[0] == 1
    assert cosine[5] == pytest.approx(0.55)
    assert cosine == sorted(cosine, reverse=True)
    warm = curve(ScheduleConfig("constant", warmup=4))
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    restarts = curve(ScheduleConfig("cosine_with_restarts", cycles=2))
    assert restarts[0] == restarts[5] == 1
    assert restarts[4] < 0.15
    assert lr_factor(99, 10, ScheduleConfig("linear")) == 0


def test_schedules_are_transformers():
    optimization = pytest.importorskip("transformers.optimization")
    import torch

    made = {
        "linear": optimization.get_linear_schedule_with_warmup,
        "cosine": optimization.get_cosine_schedule_with_warmup,
        "cosine_with_restarts": lambda o, w, t: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
            o, w, t, 3
        ),
    }
    for name, make in made.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = make(optimizer, 0, 30)
        for step in range(30):
            ours = lr_factor(step, 30, ScheduleConfig(name, cycles=3))
            assert ours == pytest.approx(scheduler.get_last_lr()[0], abs=1e-6), (name, step)
            optimizer.step()
            scheduler.step()


# State as one file.


def test_any_state_without_pickle(tmp_path):
    import torch

    state = {
        "step": 3,
        "tensors": [torch.arange(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor(5.0)],
        "state": {0: {"exp_avg": torch.zeros(2), "step": torch.tensor(1.0)}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "lr": 1e-3, "foreach": None, "name": "OUT00"}],
    }
    save_state(tmp_path / "a", state)
    found = load_state(tmp_path / "a")
    assert found["groups"] == [{**state["groups"][0], "betas": [0.9, 0.999]}]  # JSON: lists, and keys that are text
    assert found["state"].keys() == {"0", "1"}
    assert found["state"]["1"] == {}
    assert found["state"]["0"]["step"].dtype == torch.float32
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found["tensors"], state["tensors"]))
    with pytest.raises(TypeError, match="object cannot be saved"):
        save_state(tmp_path / "b", {"x": object()})
    (tmp_path / "c").write_bytes(b"\x00" * 50)
    with pytest.raises(ValueError, match="c"):
        load_state(tmp_path / "c")
    tensors, metadata = checked_file.read(tmp_path / "a")
    tensors["state.0.pets"] = tensors.pop("state.0.step")
    checked_file.write(tmp_path / "d", tensors, metadata)
    with pytest.raises(ValueError, match=r"damaged: no place for state\.0\.pets"):
        load_state(tmp_path / "d")
    checked_file.write(tmp_path / "e", tensors, {"state": metadata["values"]})
    with pytest.raises(ValueError, match="an earlier development version wrote: expected one of version"):
        load_state(tmp_path / "e")


def test_replacing_keeps_checks():
    with pytest.raises(ConfigError):
        replace(NetworkConfig(), rank=0)


@pytest.mark.parametrize(
    ("section", "old", "new", "value"),
    [("network", "meaning", "weight_mode", "lr"), ("schedule", "least", "min_lr_ratio", 0.5)],
)
def test_both_spellings_are_read_and_the_old_one_written(section, old, new, value):
    configs = [read(RunConfig, {**SMALL, section: {key: value}}) for key in (old, new)]
    assert configs[0] == configs[1]
    assert getattr(getattr(configs[0], section), new) == value
    written = json.loads(dumps(configs[0]))[section]
    assert written[old] == value
    assert new not in written
    with pytest.raises(ConfigError, match=f"{section}.{old} and {section}.{new} are one entry"):
        read(RunConfig, {**SMALL, section: {old: value, new: value}})


def test_the_name_of_a_linked_folder_counts(tmp_path):
    """`10_robot`, a link to pictures elsewhere, has ten repeats and the class caption."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "10_robot").symlink_to(tmp_path / "pictures", target_is_directory=True)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"name": "a", "dataset": {"folders": [{"path": "10_robot"}]}}), "utf-8")
    assert load(path).dataset.folders[0].path == str(tmp_path / "10_robot")

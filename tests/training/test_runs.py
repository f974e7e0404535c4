"""A run's folder: what is read of it, also after something went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.training import records, runs
from lib_blocktrain.training.config import OptimizerConfig
from lib_blocktrain.training.monitor import TrainingMonitor
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.result import publish, with_one_alpha
from lib_blocktrain.training.train_state import TrainState
from tests.tiny_models import diffusers_unet, network_for


def test_metrics_of_a_killed_run(config, tmp_path):
    run = runs.create(config, tmp_path / "run")
    for step in (1, 2, 3):
        run.add_metrics({"step": step, "loss": float("nan") if step == 2 else 0.5})
    with open(run.metrics_path, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.metrics()[1]["loss"] == "nan"
    run.drop_metrics_after(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert run.metrics_path.read_text("utf-8").endswith("\n")


def test_a_folder_holds_one_run(config, tmp_path):
    first = runs.create(config, tmp_path / "a")
    assert runs.open_run(first.folder) == first
    with pytest.raises(FileExistsError, match="holds a run already"):
        runs.create(config, first.folder)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        runs.open_run(tmp_path)


def test_how_a_run_stands(config, tmp_path):
    run = runs.create(config, tmp_path / "run")
    assert run.status == "waiting"
    with run.locked():
        assert run.status == "running"
    for event, status in (
        ("started", "broken off"),
        ("stopped", "stopped"),
        ("resumed", "broken off"),
        ("finished",) * 2,
    ):
        run.add_metrics({"step": 1, "event": event})
        assert run.status == status


def test_a_killed_process_leaves_no_lock(config, tmp_path):
    run = runs.create(config, tmp_path / "run")
    code = (
        "import pathlib, sys\nfrom lib_blocktrain.training.runs import open_run\n"
        "with open_run(pathlib.Path(sys.argv[1])).locked():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert run.is_held()
        with pytest.raises(runs.RunInUse, match="another process"), run.locked():
            pass
        process.kill()
        process.wait()
    assert not run.is_held()
    with run.locked():
        assert run.status == "running"


def test_a_queue_survives_a_restart(config, tmp_path):
    first, second = (runs.create(config, tmp_path / name) for name in "ab")
    queue = Queue(tmp_path)
    assert queue.next() is None
    for run in (first, second, first):
        queue.add(run)
    assert [run.folder.name for run in Queue(tmp_path).runs()] == ["a", "b"]
    first.add_metrics({"step": 3, "event": "finished"})
    assert Queue(tmp_path).next() == second
    assert Queue(tmp_path).runs() == [second]
    queue.remove(second)
    assert queue.next() is None
    with pytest.raises(ValueError, match="expected a run in"):
        queue.add(runs.create(config, tmp_path / "deeper" / "c"))


def test_names_in_a_queue_are_no_paths(config, tmp_path):
    runs.create(config, tmp_path / "outside")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "queue.json").write_text(
        json.dumps(["../outside", "..", 3, str(tmp_path / "outside")]), "utf-8"
    )
    assert Queue(tmp_path / "runs").runs() == []
    (tmp_path / "runs" / "queue.json").write_text("{", "utf-8")
    assert Queue(tmp_path / "runs").next() is None


@pytest.mark.parametrize(
    "content", [b"{", b"{}", b'["a", "\xff"]', b"[" * 100_000], ids=["cut", "other", "bytes", "deep"]
)
def test_a_damaged_queue_is_kept_aside(config, tmp_path, caplog, content):
    """It was taken for an empty one, and overwritten by the next change."""
    run = runs.create(config, tmp_path / "a")
    (tmp_path / "queue.json").write_bytes(content)
    queue = Queue(tmp_path)
    assert [queue.runs(), queue.names()] == [[], []]
    queue.add(run)
    assert queue.names() == ["a"]
    assert (tmp_path / "queue.json.damaged").read_bytes() == content
    (record,) = caplog.records
    assert f"{tmp_path / 'queue.json'} cannot be read, and the queue is empty: " in record.getMessage()
    assert "it is kept as queue.json.damaged" in record.getMessage()


def test_a_damaged_queue_that_cannot_be_kept_is_told_once(tmp_path, caplog, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    (tmp_path / "queue.json").write_text("{", "utf-8")
    monkeypatch.setattr(os, "replace", refused)
    queue = Queue(tmp_path)
    assert [queue.names(), queue.names()] == [[], []]
    assert ["Permission denied" in record.getMessage() for record in caplog.records] == [True]


def test_two_runs_in_one_second(tmp_path):
    first = runs.new_folder(tmp_path, "robot")
    first.mkdir()
    assert runs.new_folder(tmp_path, "robot") != first


def test_publishing_replaces_nothing(tmp_path):
    result, folder = tmp_path / "x.safetensors", tmp_path / "loras"
    result.write_bytes(b"first")
    assert publish(result, folder, text="robot", weight=0.8).name == "x.safetensors"
    result.write_bytes(b"second")
    assert publish(result, folder).name == "x-2.safetensors"
    assert (folder / "x.safetensors").read_bytes() == b"first"
    assert json.loads((folder / "x.json").read_text("utf-8"))["preferred weight"] == 0.8
    card = json.loads((folder / "x.json").read_text("utf-8"))
    mine = {**card, "notes": "mine", "block weights": "OUT=1", "preferred weight": 0.6}
    (folder / "x.json").write_text(json.dumps(mine), "utf-8")
    publish(result, folder, replaces=result.name)
    assert (folder / "x.safetensors").read_bytes() == b"second"
    assert json.loads((folder / "x.json").read_text("utf-8")) == mine
    (folder / "x.json").write_text("{", "utf-8")
    publish(result, folder, replaces=result.name)  # the result is not lost for a card that cannot be read
    assert (folder / "x.json").read_text("utf-8") == "{"


def test_one_alpha_changes_no_delta():
    unet = diffusers_unet()
    network = network_for(unet, layers=("up_blocks_3_attentions_0_transformer",))
    changed = with_one_alpha(network, 7.0)
    for key, module in network.modules.items():
        weight = torch.empty(*module.size).reshape(module.size)
        torch.testing.assert_close(changed.modules[key].delta_weight(weight), module.delta_weight(weight))
        assert changed.modules[key].alpha == 7
    assert with_one_alpha(changed, 7.0) is changed


class TwoSets(torch.optim.SGD):
    """As Schedule-Free's: what it trains is not what it wants saved."""

    def train(self):
        self._put(1.0)

    def eval(self):
        self._put(2.0)

    @torch.no_grad()
    def _put(self, value):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.fill_(value)


def test_a_schedule_free_optimizer_saves_its_other_weights(config):
    run = replace(config, optimizer=OptimizerConfig("tests.training.test_runs.TwoSets"))
    train_state = TrainState(plan_of(diffusers_unet(), "sd1", config.network), run, torch.float32)
    train_state.begin_step(1.0)
    with train_state.network_to_save() as network:
        saved = {key: module.down.clone() for key, module in network.modules.items()}
    assert all((down == 2).all() for down in saved.values())
    assert all((parameter == 1).all() for parameter in train_state.parameters)


def test_when_to_stop():
    monitor = TrainingMonitor()
    assert "the loss is nan" in monitor.reason_to_stop(float("nan"), scaled=False)
    assert monitor.reason_to_stop(float("nan"), scaled=True) is None
    for _ in range(30):
        assert monitor.reason_to_stop(1.0, scaled=False) is None
        monitor.add(1.0)
    assert "times what it was" in monitor.reason_to_stop(150.0, scaled=False)
    assert monitor.reason_to_stop(20.0, scaled=False) is None
    for _ in range(30):
        monitor.add_gradient(usable=False)
    assert "without a finite gradient in fp16" in monitor.reason_to_stop(1.0, scaled=True)
    monitor.add_gradient(usable=True)
    assert monitor.reason_to_stop(1.0, scaled=True) is None


def test_tensorboard_where_it_is(monkeypatch, tmp_path):
    written = []
    writer = SimpleNamespace(add_scalar=lambda *arguments: written.append(arguments))
    package = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(records.importlib, "import_module", lambda name: package)
    records.event_writer(tmp_path)({"step": 3, "loss": 0.5, "norms": {"OUT09": 1.5}, "event": "text"})
    assert written == [("loss", 0.5, 3), ("norms/OUT09", 1.5, 3)]
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
    records.event_writer(tmp_path)({"step": 3, "loss": 0.5})
    assert len(written) == 2

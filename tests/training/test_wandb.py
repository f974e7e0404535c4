"""Weights & Biases, by a stand-in of the package: it is imported only where a run asks for it."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
from PIL import Image

from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError, read


class Session:
    """What `wandb.init` returns."""

    def __init__(self, **options):
        self.options, self.rows, self.ended = options, [], False

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        assert not self.ended
        self.rows.append(row)

    def finish(self):
        self.ended = True


@pytest.fixture
def sessions(monkeypatch):
    made = []
    package = types.ModuleType("wandb")
    package.init = lambda **options: (made.append(Session(**options)), made[-1])[1]
    package.Image = lambda image, caption: (image.size, caption)
    monkeypatch.setitem(sys.modules, "wandb", package)
    return made


def test_numbers_and_samples_are_sent(train, config, sessions):
    train(replace(config, steps=1), "plain")
    assert not sessions
    samples = replace(config.samples, prompts=("a robot --w 64",), every=3)
    config = replace(config, wandb="robots", samples=samples)
    trainer = train(config, "of-wandb", draw=lambda asked: Image.new("RGB", (asked.width, 8)))
    (session,) = sessions
    assert session.ended
    options = session.options
    assert (options["project"], options["name"], options["resume"]) == ("robots", "of-wandb", "allow")
    assert str(trainer.run.folder.parent) not in str({**options, "dir": ""})  # no paths of this machine
    losses = [row["loss"] for row in session.rows if "loss" in row]
    assert losses == [row["loss"] for row in trainer.run.metrics() if "loss" in row]
    assert any("norms/OUT09" in row for row in session.rows)
    assert [row for row in session.rows if "samples/00" in row] == [
        {"samples/00": ((64, 8), "a robot --w 64"), "step": 3}
    ]
    with pytest.raises(ConfigError):
        train(replace(config, network=replace(config.network, weights="NONE")), "wrong")
    assert sessions[-1].ended  # after an error, too


def test_without_the_package(train, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb = .robots.: a package that is not here .*: pip install wandb"):
        train(replace(config, wandb="robots"))
    with pytest.raises(ConfigError, match="wandb = ' ': expected a project's name, or none"):
        read(RunConfig, {"name": "x", "dataset": {"folders": [{"path": "."}]}, "log_tracker_name": " "})

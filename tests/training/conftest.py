"""A model and runs small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def model(random_model):
    """The random model in the demo's format, loaded once; every test must leave it as it was."""
    pytest.importorskip("diffusers")
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo(random_model)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder in kohya's layout: four pictures of 64 pixels, two repeats."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    place = folder / "2_thing"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"a photo of a robot, number {number}, (blue background:1.3)\n", "utf-8")
    return folder


@pytest.fixture
def config(pictures):
    """A run of three steps on those pictures, weights on three blocks."""
    from lib_blocktrain.training.config import DatasetConfig, FolderConfig, NetworkConfig, OptimizerConfig, RunConfig

    return RunConfig(
        name="tiny",
        dataset=DatasetConfig(folders=(FolderConfig(str(pictures)),), size=64),
        network=NetworkConfig(rank=2, weights="OUT09=1,OUT10=0.5,OUT11=1"),
        optimizer=OptimizerConfig(lr=1e-2),
        steps=3,
        batch=2,
        save_dtype="fp32",
    )


@pytest.fixture
def train(model, tmp_path):
    """Train a configuration, or a part of it, and return the trainer."""
    from lib_blocktrain.training import runs
    from lib_blocktrain.training.trainer import Trainer

    def run(config, folder="run", *, of=None, **options):
        path = tmp_path / folder
        made = runs.open_run(path) if (path / "run.json").exists() else runs.create(config, path)
        trainer = Trainer(of or model, replace(made, config=config), **options)
        trainer.outcome = trainer.run_loop()
        return trainer

    return run

"""A run that goes on with another `run.json`, other pictures or another model than its state was made with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from lib_blocktrain.training.config import FolderConfig, RunConfig, ScheduleConfig
from lib_blocktrain.training.config_json import ConfigError, read, write
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.training.origin import check_config


@pytest.fixture
def half(train, config):
    """A run that was stopped after its first step."""

    def run(config, folder="run"):
        control = TrainerControl()
        return train(config, folder, control=control, report=lambda row: control.stop() if "loss" in row else None)

    return run


def resumed(train, config, folder="run", **options):
    """The run goes on; with what was said."""
    said: list[str] = []
    trainer = train(config, folder, report=lambda row: said.append(row.get("notice", "")), **options)
    return trainer, [text for text in said if text]


def changed(config, **parts):
    """A configuration with some entries of its parts changed: `network={"alpha": 3.0}`, `seed=1`."""
    values = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return replace(config, **values)


def test_a_lowered_rate_is_used(train, config, half):
    """The steps after the change are as long as the new rate makes them; the metadata have it, too."""
    config = changed(config, optimizer={"name": "SGD", "lr": 1.0, "text_encoder_lr": 0.5})
    before = half(config).train_state.parameters[1].detach().clone()
    trainer, said = resumed(train, changed(config, optimizer={"lr": 1e-6}))
    assert {group["base_lr"] for group in trainer.train_state.optimizer.param_groups} == {1e-6}
    assert [row["lr"] for row in trainer.run.metrics() if "loss" in row] == [1.0, 1e-6, 1e-6]
    torch.testing.assert_close(trainer.train_state.parameters[1].detach(), before, rtol=1e-5, atol=1e-5)
    assert any("optimizer.lr was 1.0 and is 1e-06: that holds from step 2 on" in text for text in said), said


def test_a_value_that_is_not_set_is_said_in_words(config):
    rate = changed(config, optimizer={"lr": None})
    text = check_config(write(rate), changed(config, optimizer={"lr": 1e-4}))
    assert "optimizer.lr was not set and is 0.0001" in text
    with pytest.raises(ConfigError, match=r"^optimizer\.clip is empty: expected a finite number"):
        read(RunConfig, {**write(config), "optimizer": {"clip": None}})


def test_what_may_change(train, config, half, tmp_path):
    half(config)
    other = changed(
        config, steps=4, save_every=1, keep=2, description="more", checkpointing=True,
        schedule=ScheduleConfig("cosine", warmup=1), samples={"prompts": ("a robot",), "every": 2},
        dataset={"cache": str(tmp_path / "elsewhere")},
    )  # fmt: skip
    trainer, said = resumed(train, other)
    assert (trainer.outcome.ended, trainer.step) == ("finished", 4)
    names = ("steps", "save_every", "keep", "schedule.name", "schedule.warmup", "samples.every", "dataset.cache")
    assert all(f"{name} was " in " ".join(said) for name in names), said
    assert [row["lr"] for row in trainer.run.metrics() if "loss" in row][-1] < config.optimizer.lr


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("network.rank", {"network": {"rank": 3}}),
        ("network.alpha", {"network": {"alpha": 3.0}}),
        ("network.weights", {"network": {"weights": "OUT09=1,OUT10=1,OUT11=1"}}),
        ("network.algorithm", {"network": {"algorithm": "loha"}}),
        ("optimizer.name", {"optimizer": {"name": "SGD"}}),
        ("optimizer.lora_plus", {"optimizer": {"lora_plus": 4.0}}),
        ("optimizer.ema", {"optimizer": {"ema": 0.5}}),
        ("seed", {"seed": 1}),
        ("batch", {"batch": 1}),
        ("precision", {"precision": "bf16"}),
        ("loss.noise_offset", {"loss": {"noise_offset": 0.1}}),
        ("dataset.flip", {"dataset": {"flip": True}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not_change(train, config, half, name, parts):
    """It is refused by its name; put back, the run goes on."""
    half(config)
    with pytest.raises(ConfigError, match=rf"run.json was changed .*: {name} was .* and is .*: put it back"):
        train(changed(config, **parts, steps=4))
    assert train(config).outcome.ended == "finished"


def test_nothing_is_said_of_a_run_that_is_as_it_was(train, config, half):
    half(config)
    _, said = resumed(train, config)
    assert not [text for text in said if "changed" in text or "began" in text], said


def moved(pictures: Path, config, folder: Path):
    """The same pictures in another folder."""
    place = folder / "2_thing"
    place.mkdir(parents=True)
    for path in (pictures / "2_thing").iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    return changed(config, dataset={"folders": (FolderConfig(str(folder)),)})


def test_pictures_that_lie_elsewhere_are_the_same(train, config, half, pictures, tmp_path):
    half(config)
    _, said = resumed(train, moved(pictures, config, tmp_path / "elsewhere"))
    assert any("dataset.folders[0].path was" in text for text in said)
    assert not any("pictures are not those" in text for text in said), said


def test_pictures_replaced_under_their_names(train, config, half, pictures, tmp_path):
    config = moved(pictures, config, tmp_path / "pictures")
    half(config)
    place = tmp_path / "pictures" / "2_thing"
    (place / "1.png").write_bytes((place / "2.png").read_bytes())
    _, said = resumed(train, config)
    assert any("the pictures are not those that this run began with" in text for text in said), said


def test_another_checkpoint_under_its_name(train, config, half, model):
    """Other weights are noticed; the same in another precision are the same."""
    half(config)
    layers = [p for p in model.unet.parameters() if p.ndim > 1]
    before = [layer.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.mul_(1.01)
        _, said = resumed(train, config)
    finally:
        with torch.no_grad():
            for layer, value in zip(layers, before):
                layer.copy_(value)
    assert any(f"began on {model.name} with other weights than it has now" in text for text in said), said


def test_the_same_weights_in_half_precision(train, config, half):
    trainer = half(config)
    origin = trainer.origin
    for dtype in (torch.float16, torch.bfloat16):
        rounded = replace(origin, weights=origin.weights.to(dtype).float(), dtype=str(dtype).split(".")[1])
        assert not origin.notices(rounded.to_state())
        assert not rounded.notices(origin.to_state())

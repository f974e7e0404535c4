"""A run that diverges: what it saves, what it never saves, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.training.control import Diverged
from lib_blocktrain.training.trainer import Trainer
from tests.training.test_trainer import same


def spoil_weights(monkeypatch, step: int, number: float) -> None:
    """Let this step, counted from 1, leave this number in the weights."""
    optimize = Trainer.optimize

    def spoil(self):
        optimize(self)
        if self.step + 1 == step:
            with torch.no_grad():
                self.train_state.parameters[1].fill_(number)

    monkeypatch.setattr(Trainer, "optimize", spoil)


def spoil_gradients(monkeypatch, step: int) -> None:
    """Let this step have a finite loss and gradients that are not numbers: 0 times the root's slope at 0."""
    losses = Trainer.losses

    def spoil(self, *arguments):
        found = losses(self, *arguments)
        return found + 0 * (found - found.detach()).sqrt() if self.step + 1 == step else found

    monkeypatch.setattr(Trainer, "losses", spoil)


def files(trainer_folder) -> list[str]:
    return sorted(str(p.relative_to(trainer_folder)) for p in trainer_folder.rglob("*.safetensors"))


@pytest.mark.parametrize("step", [1, 3], ids=["first", "last"])
def test_no_step_on_a_gradient_that_is_not_finite(train, config, monkeypatch, tmp_path, step):
    """Also in the last step, whose loss says nothing of it."""
    spoil_gradients(monkeypatch, step)
    with pytest.raises(Diverged, match=rf"step {step}: the loss is [\d.]+, but the gradient is nan"):
        train(config, "run")
    saved = files(tmp_path / "run")
    assert saved == (["checkpoints/tiny-000001.safetensors"] if step == 3 else [])  # the last with a finite gradient
    for name in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / name).values())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_the_last_step_spoils_is_never_a_result(train, config, monkeypatch, tmp_path, number, ema):
    """The file has the weights of the step before, averaged if they are."""
    config = replace(config, optimizer=replace(config.optimizer, ema=ema))
    good = train(replace(config, steps=2), "good")
    spoil_weights(monkeypatch, 3, number)
    with pytest.raises(Diverged, match=r"step 3: the weights are not finite.*weights of step 2 are in .*000002"):
        train(config, "spoilt")
    assert files(tmp_path / "spoilt") == ["checkpoints/tiny-000002.safetensors"]
    assert same(tmp_path / "spoilt" / "checkpoints" / "tiny-000002.safetensors", good.outcome.result)


def test_weights_that_the_file_cannot_hold(train, config, monkeypatch, tmp_path):
    spoil_weights(monkeypatch, 3, 1e5)
    with pytest.raises(Diverged, match=r"step 3: 1 of 72 tensors cannot be saved, .* is 1e\+05, too large for .*16"):
        train(replace(config, save_dtype="fp16"), "half")
    assert files(tmp_path / "half") == ["checkpoints/tiny-000002.safetensors"]
    assert train(config, "whole").outcome.ended == "finished"


def test_one_wait_for_the_device_a_step(train, config, monkeypatch):
    """Whether all numbers are finite is asked with the loss: nothing else of a step is read from the device."""
    trainer = train(config)
    asked = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real, name=name: (asked.append(name), real(self))[1])
    trainer.train_state.begin_step(1.0)
    trainer.train_state.measure(sum(p.square().sum() for p in trainer.train_state.parameters))
    trainer.train_state.optimize()
    assert asked == ["tolist"]

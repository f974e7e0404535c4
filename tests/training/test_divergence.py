"""A run that diverges: what it saves, what it never saves, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.runner.status import LatestMetrics, status_of
from lib_blocktrain.training import evaluation
from lib_blocktrain.training.control import Diverged, TrainerControl
from lib_blocktrain.training.runs import open_run
from lib_blocktrain.training.trainer import Trainer
from tests.training.test_trainer import same


def spoil_weights(monkeypatch, step: int, number: float, of_all: bool = False) -> None:
    """Let this step, counted from 1, leave this number in the weights: in one tensor, or in all."""
    optimize = Trainer.optimize

    def spoil(self):
        optimize(self)
        if self.step + 1 == step:
            with torch.no_grad():
                for parameter in self.train_state.parameters if of_all else self.train_state.parameters[1:2]:
                    parameter.fill_(number)

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
    trainer.train_state.optimize(0)
    assert asked == ["tolist"]


def measure(monkeypatch, step: int, loss: float) -> None:
    """Let the LoRA have this loss after this step, beside the loss without it."""
    compared_loss = Trainer.compared_loss
    monkeypatch.setattr(Trainer, "compared_loss", lambda self: loss if self.step == step else compared_loss(self))


def explode(monkeypatch, step: int) -> None:
    """Let this step leave finite weights that are far too large, and the next one a loss that is no number."""
    spoil_weights(monkeypatch, step, 3.0, of_all=True)
    measure(monkeypatch, step, 10.0)
    losses = Trainer.losses

    def no_number(self, *arguments):
        return losses(self, *arguments) * (float("nan") if self.step == step else 1)

    monkeypatch.setattr(Trainer, "losses", no_number)


def test_finite_weights_whose_loss_is_not(train, config, monkeypatch, tmp_path):
    """Left by the last step, which no later loss tells of."""
    spoil_weights(monkeypatch, 3, 100.0, of_all=True)
    with pytest.raises(Diverged, match="step 3: the loss with the weights that it left is nan; the weights of step 2"):
        train(config, "run")
    assert files(tmp_path / "run") == ["checkpoints/tiny-000002.safetensors"]


def with_rate(config, lr: float):
    return replace(config, optimizer=replace(config.optimizer, lr=lr))


def test_a_run_that_diverged_goes_on_at_a_lower_rate(train, config, monkeypatch, tmp_path):
    """From the last state before it exploded, though one with the exploded weights was saved after that."""
    monkeypatch.setattr(evaluation, "COMPARE_EVERY", 1)
    config = replace(config, steps=5, save_every=1)
    with monkeypatch.context() as patch:
        explode(patch, 3)
        with pytest.raises(Diverged, match=r"step 4: the loss is nan.*with a lower optimizer\.lr .* it goes on"):
            train(config, "run")
    assert open_run(tmp_path / "run").load_state()["step"] == 2
    control = TrainerControl()
    stop = lambda row: control.stop() if row.get("step") == 2 and "loss" in row else None  # noqa: E731
    train(config, "stopped", control=control, report=stop)
    for name in ("run", "stopped"):
        train(with_rate(config, 1e-3), name)
    assert same(tmp_path / "run" / "tiny.safetensors", tmp_path / "stopped" / "tiny.safetensors")
    rows = open_run(tmp_path / "run").metrics()
    assert [row["lr"] for row in rows if "loss" in row] == [1e-2, 1e-2, 1e-3, 1e-3, 1e-3]
    assert files(tmp_path / "run") == files(tmp_path / "stopped")
    assert "state-before.safetensors" not in files(tmp_path / "run")  # a finished run needs it no more


def test_a_run_that_diverged_at_once_begins_anew(train, config, monkeypatch, tmp_path):
    config = replace(config, save_every=1)
    with monkeypatch.context() as patch:
        explode(patch, 1)
        with pytest.raises(Diverged, match="nothing was learnt before"):
            train(config, "run")
    assert open_run(tmp_path / "run").load_state() is None
    train(with_rate(config, 1e-3), "run")
    whole = train(with_rate(config, 1e-3), "whole")
    assert same(tmp_path / "run" / "tiny.safetensors", whole.outcome.result)


def test_it_does_not_go_back_before_a_good_state(train, config, monkeypatch, tmp_path):
    """Resumed twice with the rate as it was, it diverges twice, and loses nothing more."""
    monkeypatch.setattr(evaluation, "COMPARE_EVERY", 1)
    config = replace(config, steps=5, save_every=1)
    with monkeypatch.context() as patch:
        explode(patch, 3)
        for _ in range(3):
            with pytest.raises(Diverged):
                train(config, "run")
            assert open_run(tmp_path / "run").load_state()["step"] == 2


def test_comparisons_cost_a_bounded_part_of_a_run(train, config, monkeypatch, tmp_path):
    """However often it is saved: the first save, then every so many steps, and what the run ends with."""
    monkeypatch.setattr(evaluation, "COMPARE_EVERY", 3)
    train(replace(config, steps=8, save_every=1), "run")
    rows = open_run(tmp_path / "run").metrics()
    assert [row["step"] for row in rows if "compared" in row] == [1, 4, 7, 8]


def test_it_goes_back_to_the_last_state_that_was_compared(train, config, monkeypatch, tmp_path):
    """States that were not may be exploded ones: none of them takes the place of the one that is kept."""
    config = replace(config, steps=8, save_every=1)
    monkeypatch.setattr(evaluation, "COMPARE_EVERY", 3)
    with monkeypatch.context() as patch:
        explode(patch, 6)
        with pytest.raises(Diverged):
            train(config, "run")
    assert open_run(tmp_path / "run").load_state()["step"] == 4


def test_worse_than_no_lora_is_said(train, config, monkeypatch):
    """At the end, and of a run that is not active any more; a good one says nothing."""
    said: list[str] = []
    report = lambda row: said.append(row.get("notice", ""))  # noqa: E731
    trainer = train(config, "good", report=report)
    assert set(trainer.run.latest("compared")) == {"with", "without"}
    assert not any("worse" in text for text in said), said
    measure(monkeypatch, 3, 10.0)
    trainer = train(config, "bad", report=report)
    found = [text for text in said if "step 3: the LoRA does worse than none" in text]
    assert len(found) == 1
    status = status_of(trainer.run, LatestMetrics(trainer.run).values(), "finished")
    assert "does worse than none" in status.notices[0]

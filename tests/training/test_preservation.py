"""Differential output preservation: what a step adds, by hand, and what it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.config import LossConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.dataset import DatasetError
from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.weights.block_weights import BlockWeights

KEEPING = LossConfig(preservation=2.0, trigger="robot", class_word="cat")


def test_what_a_step_adds(train, config, model):
    """The gradients of a step: those of the plain loss, and by hand of 2 |eps(class, LoRA) - eps(class)|^2."""
    trainer = train(replace(config, steps=2, loss=KEEPING))
    batch, network = trainer.data.batch(2, trainer.processes), trainer.train_state.training_network
    noise = trainer.step_losses.noise(batch, 2)
    parameters, targets = trainer.train_state.parameters, {"unet": model.unet, **model.text_encoders}
    captions = [caption.replace("robot", "cat") for caption in batch.captions]
    assert all("number" in caption and "robot" not in caption for caption in captions)

    def gradients(losses) -> list[torch.Tensor]:
        return [g.clone() for g in torch.autograd.grad(losses.sum() / batch.total, parameters)]

    with model.trainable():
        noised = trainer.objective.noised(batch.latents, noise)
        with torch.no_grad():
            conditioning = [model.encode_prompt(caption) for caption in captions]
            context = {name: torch.cat([c[name] for c in conditioning]) for name in conditioning[0]}
            own = model.predict(noised, noise.timesteps, context)
        with applied(targets, network, BlockWeights.uniform("sd1", 1.0)):
            plain = gradients(trainer.losses(batch, noise))
            moved = model.predict(noised, noise.timesteps, context) - own
            added = gradients(2 * moved.square().mean(dim=(1, 2, 3)))
        trainer.apply()
        trainer.step = 2
        with trainer.hooks:
            trainer.train_state.begin_step(1.0)
            trainer.forward_backward()
            with torch.no_grad():  # the network is back
                torch.testing.assert_close(model.predict(noised, noise.timesteps, context), own + moved)
    assert sum(float(g.abs().sum()) for g in added) > 0
    for found, one, other in zip(trainer.train_state.gradients(), plain, added):
        torch.testing.assert_close(found, one + other, rtol=1e-4, atol=1e-7)


def test_the_class_stays_nearer(train, config):
    """After as many steps the network moves the class less than one that was trained without."""
    moved = {}
    for name, loss in (("plain", LossConfig()), ("kept", replace(KEEPING, preservation=20.0))):
        trainer = train(replace(config, steps=12, loss=loss), name)
        batch, measured = trainer.data.batch(0, trainer.processes), replace(KEEPING)
        trainer.data.loader._loss = measured
        trainer.apply()
        with trainer.hooks, torch.no_grad():
            moved[name] = float(
                trainer.step_losses.preservation(
                    trainer.data.loader.of_class(batch), trainer.step_losses.noise(batch, 0)
                ).sum()
            )
    assert 0 < moved["kept"] < 0.8 * moved["plain"]


def test_words_that_cannot_be_meant_are_refused(train, config):
    with pytest.raises(ConfigError, match="class_word = '': expected a word of the captions, and"):
        LossConfig(preservation=1.0, trigger="robot")
    with pytest.raises(ConfigError, match="preservation = -1: expected 0 or more"):
        LossConfig(preservation=-1)
    with pytest.raises(DatasetError, match=r"loss\.trigger = 'zx': it is in no caption.*such as 'a photo of a robot"):
        train(replace(config, loss=replace(KEEPING, trigger="zx")))


def test_an_estimate_knows_what_it_costs(config):
    plain, kept = (estimate(replace(config, loss=loss), UNetSize.real("sd1")) for loss in (LossConfig(), KEEPING))
    forward = 2 * plain.gflop
    assert forward < kept.gflop < 3 * plain.gflop

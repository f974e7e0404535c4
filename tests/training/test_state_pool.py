"""A pool of noise: the same gradients for a draw, less of the U-Net to run, and what it cannot be used with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from lib_blocktrain.training import state_pool
from lib_blocktrain.training.config import LossConfig, PoolConfig
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.training.step import Denoiser
from tests.training.bare import Bare, real_unet
from tests.training.test_backward import inputs
from tests.training.test_length import harmed_by
from tests.training.test_trainer import same


def plainly(monkeypatch):
    """Let a run draw from the pool, and run the whole U-Net at each step."""

    def predict(self, batch, noise, conditioning, with_network=True):
        return self._denoiser.predict(self._objective.noised(batch.latents, noise), noise.timesteps, conditioning)

    monkeypatch.setattr(state_pool.StatePool, "predict", predict)


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_a_draw_has_the_gradients_of_the_whole_pass(train, config, monkeypatch, keep):
    """To the last bit, picture by picture; each state is made once, and nothing of it is left on the disk."""
    made, front = [], Denoiser.front
    monkeypatch.setattr(Denoiser, "front", lambda self, *a: (made.append(a[1].tolist()), front(self, *a))[1])
    dataset = replace(config.dataset, flip=True)
    config = replace(config, dataset=dataset, steps=12, batch=1, pool=PoolConfig(2, keep), checkpointing=keep == "disk")
    pooled = train(config, "pooled")
    assert len(made) < 12 + 1 < len(made) + 6, made  # of 4 pictures, 2 sides and 2 draws; one more for its size
    assert [path.name for path in pooled.run.folder.iterdir() if path.name.startswith("pool")] == []
    with monkeypatch.context() as patch:
        plainly(patch)
        whole = train(config, "whole")
    losses = [[row["loss"] for row in t.run.metrics() if "loss" in row] for t in (pooled, whole)]
    assert losses[0] == losses[1]
    assert same(pooled.outcome.result, whole.outcome.result)


def test_batches_halves_and_what_is_preserved(train, config, monkeypatch):
    """In batches to float error, in bf16 nearly; the class's caption and a block frozen on the way have states too."""
    harmed_by(monkeypatch, {"OUT09"})
    keeping = LossConfig(preservation=1.0, trigger="robot", class_word="cat")
    dataset = replace(config.dataset, validation_share=0.3)
    config = replace(
        config, dataset=dataset, steps=4, loss=keeping, validate_every=1, block_patience=1, pool=PoolConfig(2)
    )
    optimizer = replace(config.optimizer, name="SGD", lr=1e-2)
    config = replace(config, optimizer=optimizer)
    pooled = train(config, "pooled")
    halved = train(replace(config, pool=PoolConfig(2, dtype="bf16")), "halved")
    assert pooled.train_state.frozen == {"OUT09"}
    plainly(monkeypatch)
    whole = train(config, "whole")
    for one, half, other in zip(*(t.train_state.parameters for t in (pooled, halved, whole))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(half, other, rtol=0.05, atol=1e-3)
    assert not same(halved.outcome.result, whole.outcome.result)


def test_what_it_cannot_be_used_with_is_named(train, config, monkeypatch):
    pool = PoolConfig(2)
    with pytest.raises(ConfigError, match="draws = -1: expected 0"):
        PoolConfig(-1)
    with pytest.raises(ConfigError, match="compile = True: expected false with pool"):
        replace(config, pool=pool, compile=True)
    with pytest.raises(ConfigError, match=r"pool\.draws = 2: expected 0 with network\.text_encoder"):
        replace(config, pool=pool, network=replace(config.network, text_encoder=True))
    for change, what in (("shuffle_tags", "caption"), ("random_crop", "crop or colours")):
        dataset = replace(config.dataset, **{change: True})
        with pytest.raises(ConfigError, match=rf"pool\.draws, and .*png has another {what} in each step"):
            train(replace(config, pool=pool, dataset=dataset), change)
    monkeypatch.setattr(state_pool, "free_host_memory", lambda: 0.01)
    with pytest.raises(ConfigError, match=r"pool\.draws = 2: 6 states of .* free in memory: .* or pool\.keep disk"):
        train(replace(config, pool=pool), "large")


@pytest.mark.parametrize(("weights", "least", "most"), [("OUT09-OUT11=1", 0.4, 0.5), ("OUT01=1", 0.55, 0.75)])
def test_an_estimate_knows_what_it_saves(config, weights, least, most):
    """Time as counted by layers, and the size of a state as the real U-Net's is, on tensors without numbers."""
    architecture = "sdxl" if weights == "OUT01=1" else "sd1"
    network = replace(config.network, weights=weights, rank=16)
    config = replace(config, network=network, dataset=replace(config.dataset, size=512))
    plain, pooled = (
        estimate(replace(config, pool=pool), UNetSize.real(architecture)) for pool in (PoolConfig(), PoolConfig(8))
    )
    assert least < pooled.gflop / plain.gflop < most
    assert pooled.relative_time / plain.relative_time == pytest.approx(pooled.gflop / plain.gflop)
    arguments = inputs(64, 2048 if architecture == "sdxl" else 768, "meta", sdxl=architecture == "sdxl")
    denoiser = Denoiser(Bare(real_unet(architecture), architecture), torch.float32, pooled.first_block, False)
    mib = sum(tensor.numel() for tensor in denoiser.front(*arguments)) * 2 / 2**20
    assert f"{mib:.1f} MiB for each of the 8 draws of a picture" in " ".join(pooled.notices)

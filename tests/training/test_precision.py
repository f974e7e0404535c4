"""Half precision against fp32: what the text encoder's gradients come to when its weights are in fp16."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

pytest.importorskip("diffusers")

from lib_blocktrain.hosts.standalone import StandaloneModel, load_demo
from lib_blocktrain.training import runs, step, train_state
from lib_blocktrain.training.precision import LossScale
from lib_blocktrain.training.step import Objective
from lib_blocktrain.training.trainer import Trainer


def in_fp16(folder) -> StandaloneModel:
    """Return a model whose U-Net and text encoder are in fp16; its VAE is not."""
    model = load_demo(folder)
    model.pipeline.unet.half()
    model.pipeline.text_encoder.half()
    return model


def text_gradient(model, config, folder) -> torch.Tensor:
    """Return the gradients of the text encoder's tensors in the first step, unscaled."""
    trainer = Trainer(model, runs.create(config, folder))
    with model.trainable(), trainer.hooks:
        trainer.prepare()
        state = trainer.train_state
        state.begin_step(1.0)
        state.measure(trainer.forward_backward())
        groups = state.optimizer.param_groups
        return torch.cat([t.grad.flatten() for g in groups if g["block"] == "BASE" for t in g["params"]]).double()


def _in_fp32(monkeypatch, name: str) -> None:
    """Compute a norm in fp32, as autocast does on CUDA; on the CPU it refuses weights of another dtype."""
    plain = getattr(functional, name)

    def norm(x, shape, weight=None, bias=None, eps=1e-5):
        return plain(x.float(), shape, weight.float(), bias.float(), eps).to(x.dtype)

    monkeypatch.setattr(functional, name, norm)


def test_the_text_encoders_gradients_in_bf16(random_model, config, tmp_path, monkeypatch):
    """An fp16 model that computes in bf16 beside the same weights in fp32, under the small loss of a large picture."""
    for name in ("layer_norm", "group_norm"):
        _in_fp32(monkeypatch, name)
    losses = Objective.losses
    monkeypatch.setattr(Objective, "losses", lambda *arguments: 1e-3 * losses(*arguments))
    network = replace(config.network, text_encoder=True, weights="BASE=1")
    config = replace(config, network=network)
    bf16 = replace(config, precision="bf16")
    expected = text_gradient(load_demo(random_model), bf16, tmp_path / "fp32")

    def error(name: str) -> float:
        found = text_gradient(in_fp16(random_model), bf16, tmp_path / name)
        return float((found - expected).norm() / expected.norm())

    assert error("as it is") < 0.25  # bf16 rounds to 8 bits; it is as far from fp32 itself
    plain, calls = step.autocast, iter(range(10**6))
    monkeypatch.setattr(train_state, "LossScale", lambda enabled: LossScale(enabled=False))
    monkeypatch.setattr(step, "autocast", lambda *a: nullcontext() if next(calls) % 2 == 0 else plain(*a))
    assert error("as it was") > 0.5, "the control"

"""Half precision against fp32: what the text encoder's gradients come to when its weights are in fp16."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

pytest.importorskip("diffusers")

from demo.loop import half
from lib_blocktrain.hosts.standalone import StandaloneModel, load_demo
from lib_blocktrain.training import runs, step, train_state
from lib_blocktrain.training.precision import LossScale, emulated, precision_notices
from lib_blocktrain.training.run_plan import plan_run
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


CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["emulates", "computes"])
def cpu_has_bf16(request, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: request.param, raising=False)
    return request.param


def test_a_cpu_that_emulates_a_precision_is_said(random_model, config, tmp_path, cpu_has_bf16):
    """Without AVX-512 the demo's U-Net takes 19 times as long in bf16, which most sd-scripts' .toml ask for."""
    assert emulated(CPU, torch.bfloat16) is not cpu_has_bf16
    config = replace(config, precision="bf16")
    model = load_demo(random_model)
    said = [line for line in plan_run(config, model).notices if line.startswith("precision bf16: this CPU")]
    assert len(said) == (not cpu_has_bf16)
    reported = []
    Trainer(model, runs.create(replace(config, steps=1), tmp_path / "run"), report=reported.append).run_loop()
    assert [row["notice"] for row in reported if "this CPU" in row.get("notice", "")] == said
    assert not any("fp32" not in line for line in said)
    assert not list(precision_notices("auto", CPU, torch.float32))


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), True), ((8, 0), False), ((12, 0), False)])
def test_an_old_gpu_that_emulates_bf16_is_said(monkeypatch, capability, expected):
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert emulated(device, torch.bfloat16) is expected
    assert not emulated(device, torch.float16)
    said = list(precision_notices("bf16", device, torch.float32))
    assert [line.endswith("expected fp32 or fp16") for line in said] == [True] * expected


def test_the_benchmarks_compute_in_bf16_where_it_is_fast(cpu_has_bf16):
    with half(CPU):
        assert torch.is_autocast_cpu_enabled() is cpu_has_bf16

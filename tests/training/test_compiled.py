"""A compiled U-Net: the same gradients, no more of a backward pass, and hooks that may change.

Torch's compiler for C++ would take minutes: "aot_eager" makes the same graphs of both passes, "eager" that of the
forward pass alone, and both run them operation by operation.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.hosts.standalone import load_demo
from lib_blocktrain.training import compiled
from lib_blocktrain.training.compiled import CompiledUNet
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.tiny_models import CONTEXT, assert_untouched, ldm_unet, randomised, state_of
from tests.training.bare import Bare, training


def plain_unet(context: int = CONTEXT) -> torch.nn.Module:
    """SD1's blocks, of which those trained here alone have attention: what takes the compiler's time."""
    import diffusers

    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownBlock2D",) * 4,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=4,
    )
    return randomised(unet)


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing of a graph stays for the tests that come behind."""
    yield
    torch._dynamo.reset()


def test_the_same_gradients_and_no_more_of_a_backward_pass(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    unet, found = plain_unet(), {}
    before, generator = state_of(unet), torch.Generator().manual_seed(0)
    latents, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, CONTEXT, generator=generator)
    for graph in (None, CompiledUNet(unet)):
        with training(Bare(unet, "sd1"), "OUT09-OUT11=1", rank=2) as (denoiser, tensors):
            denoiser.compiled = graph
            loss = denoiser.predict(latents, torch.tensor([500]), {"context": context}).square().sum()
            with FlopCounterMode(display=False) as counter:
                loss.backward()
            found[graph] = counter.get_total_flops(), [tensor.grad for tensor in tensors.values()]
    graph.forget()
    (flops, gradients), (flops_compiled, gradients_compiled) = found.values()
    assert 0 < flops_compiled <= flops
    for ours, theirs in zip(gradients_compiled, gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert_untouched(unet, before)


@pytest.mark.long
def test_a_run_with_changed_weights_that_is_stopped_and_goes_on(train, config, random_model, monkeypatch):
    """To the bits of the run that was neither compiled nor stopped: a graph with the first hooks would have others."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    model = load_demo(random_model)
    width = model.pipeline.unet.config.cross_attention_dim
    model.pipeline.unet = plain_unet(width)
    on = {"OUT09": 0.25, "OUT10": 1.5, "OUT11": 1.0}
    weights = BlockWeights("sd1", {block: on.get(block, 0.0) for block in BlockWeights.uniform("sd1", 0).values})

    def run(config, folder, stop_at=None):
        control = TrainerControl()

        def monitor(row):
            if "loss" in row and row["step"] == 1:
                control.set_weights(weights)
            if "loss" in row and row["step"] == stop_at:
                control.stop()

        return train(config, folder, of=model, control=control, report=monitor)

    config = replace(config, network=replace(config.network, noise_scaling="rank"))  # of each batch's own timesteps
    plain = run(config, "plain")
    config = replace(config, compile=True)
    assert run(config, "compiled", stop_at=2).step == 2
    ended, expected = train(config, "compiled", of=model), load_file(plain.outcome.result)
    assert ended.step == 3
    assert all(tensor.equal(expected[name]) for name, tensor in load_file(ended.outcome.result).items())
    assert "_compiled_call_impl" not in vars(model.unet)


class Small(torch.nn.Module):
    """What is looked for in a U-Net in diffusers' layout."""

    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv_in(x)


def test_what_cannot_be_compiled(config, monkeypatch):
    with pytest.raises(ConfigError, match=r"compile = true.*patched while it runs"):
        CompiledUNet(ldm_unet())
    with pytest.raises(ConfigError, match="checkpointing"):
        replace(config, compile=True, checkpointing=True)

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    small = Small()
    graph = CompiledUNet(small)
    with pytest.raises(ConfigError, match=r"torch cannot.*no compiler here"), graph.active():
        small(torch.zeros(1, 4, 2, 2))
    graph.forget()
    assert small(torch.zeros(1, 4, 2, 2)).shape == (1, 4, 2, 2)

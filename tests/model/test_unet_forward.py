"""The forward pass block by block against the models' own, in every layout and topology."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_blocktrain.blocks import architecture
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.model.unet_forward import enter_blocks, layout_of, run_blocks
from lib_blocktrain.networks.hooks import applied
from tests.tiny_models import (
    CONTEXT,
    assert_untouched,
    diffusers_sdxl_unet,
    diffusers_unet,
    ldm_sdxl_unet,
    ldm_unet,
    network_for,
    randomised,
    state_of,
)

POOLED, SIZES = 16, 6  # 16 + 6 * 8 = 64, the width of the tiny SDXL's added embedding


def inputs(model: str, side: int = 16):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, side, side, generator=generator)
    conditioning = {"context": torch.randn(2, 7, CONTEXT, generator=generator)}
    if "sdxl" in model:
        conditioning["pooled"] = torch.randn(2, POOLED, generator=generator)
        conditioning["size"] = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)
    if model == "ldm sdxl":
        conditioning["y"] = torch.randn(2, 64, generator=generator)
    return latents, torch.tensor([10, 900]), conditioning


def own_forward(unet: nn.Module, latents, timesteps, conditioning):
    if hasattr(unet, "input_blocks"):
        return unet(latents, timesteps, context=conditioning["context"], y=conditioning.get("y"))
    added = {"text_embeds": conditioning.get("pooled"), "time_ids": conditioning.get("size")}
    return unet(latents, timesteps, conditioning["context"], added_cond_kwargs=added).sample


MODELS = {
    "ldm sd1": ("sd1", lambda: randomised(ldm_unet())),
    "diffusers sd1": ("sd1", diffusers_unet),
    "ldm sdxl": ("sdxl", ldm_sdxl_unet),
    "diffusers sdxl": ("sdxl", lambda: randomised(diffusers_sdxl_unet())),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    name, make = MODELS[request.param]
    return request.param, name, make()


def test_equals_the_models_own_forward_from_every_block(model):
    """Also with the states of one pass, from each block on: bit for bit."""
    name, arch, unet = model
    expected = own_forward(unet, *inputs(name))
    states = {}
    whole = run_blocks(unet, arch, "IN00", enter_blocks(unet, *inputs(name)), keep=states)
    assert torch.equal(whole, expected)
    assert list(states) == list(architecture(arch).block_ids)
    for block, state in states.items():
        assert torch.equal(run_blocks(unet, arch, block, state), expected), block


def test_a_side_that_halves_unevenly():
    unet = diffusers_unet()
    expected = own_forward(unet, *inputs("diffusers sd1", side=20))
    assert torch.equal(run_blocks(unet, "sd1", "IN00", enter_blocks(unet, *inputs("", side=20))), expected)


def test_hooks_act_in_it(model):
    name, arch, unet = model
    plain = own_forward(unet, *inputs(name))
    with applied(unet, network_for(unet, architecture=arch)):
        expected = own_forward(unet, *inputs(name))
        assert torch.equal(run_blocks(unet, arch, "IN00", enter_blocks(unet, *inputs(name))), expected)
    assert not torch.equal(plain, expected)


def test_blocks_can_be_called_through_a_checkpoint(model):
    name, arch, unet = model
    latents, timesteps, conditioning = inputs(name)
    latents.requires_grad_()
    own_forward(unet, latents, timesteps, conditioning).square().sum().backward()
    expected, latents.grad = latents.grad, None
    called = []

    def call(block, function, *tensors):
        called.append(block)
        return checkpoint(function, *tensors, use_reentrant=False)

    state = enter_blocks(unet, latents, timesteps, conditioning)
    run_blocks(unet, arch, "IN00", state, call=call).square().sum().backward()
    assert called == list(architecture(arch).block_ids)
    assert torch.equal(latents.grad, expected)


def test_strangers(model):
    name, arch, unet = model
    with pytest.raises(ValueError, match="no block 'OUT12'"):
        run_blocks(unet, arch, "OUT12", enter_blocks(unet, *inputs(name)))
    with pytest.raises(ValueError, match="Linear has neither input_blocks"):
        layout_of(nn.Linear(1, 1))


def test_frozen_and_back():
    unet = ldm_unet()
    unet.train()
    unet.middle_block.eval()
    transformer = unet.input_blocks[1][1].transformer_blocks[0]
    transformer.checkpoint = True
    for number, parameter in enumerate(unet.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    before = state_of(unet)
    flags = [m.training for m in unet.modules()], [p.requires_grad for p in unet.parameters()]

    def fail_inside():
        with frozen(unet):
            assert not any(m.training for m in unet.modules())
            assert not any(p.requires_grad for p in unet.parameters())
            assert transformer.checkpoint is False
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert flags == ([m.training for m in unet.modules()], [p.requires_grad for p in unet.parameters()])
    assert transformer.checkpoint is True
    assert_untouched(unet, before)

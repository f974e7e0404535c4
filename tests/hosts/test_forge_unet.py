"""Forge's layout of the U-Net, block by block, against its own forward pass."""

from __future__ import annotations

import pytest
import torch

from lib_blocktrain.blocks import architecture
from lib_blocktrain.model.unet_forward import Forge, enter_blocks, layout_of, run_blocks
from lib_blocktrain.networks.hooks import applied
from tests.model.forge_unet import forge_unet
from tests.tiny_models import CONTEXT, ldm_sdxl_unet, ldm_unet, network_for, predict, randomised, unet_inputs


def inputs(sdxl: bool, side: int = 16):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, side, side, generator=generator)
    conditioning = {"context": torch.randn(2, 7, CONTEXT, generator=generator)}
    if sdxl:
        conditioning["y"] = torch.randn(2, 64, generator=generator)
    return latents, torch.tensor([10, 900]), conditioning


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request):
    return request.param, forge_unet(ldm_sdxl_unet() if request.param == "sdxl" else randomised(ldm_unet()))


def own(unet, latents, timesteps, conditioning):
    return unet(latents, timesteps, context=conditioning["context"], y=conditioning.get("y"), transformer_options={})


def test_the_stand_in_computes_what_stabilitys_does():
    plain, forge = randomised(ldm_unet()), forge_unet(randomised(ldm_unet()))
    assert torch.allclose(predict(forge), predict(plain), atol=1e-5)


@pytest.mark.parametrize("side", [16, 20])
def test_equals_the_models_own_forward_from_every_block(model, side):
    """Bit for bit, for odd sides, too, at which an upsampler needs the target size."""
    arch, unet = model
    given = inputs(arch == "sdxl", side)
    assert isinstance(layout_of(unet), Forge)
    expected, states = own(unet, *given), {}
    assert torch.equal(run_blocks(unet, arch, "IN00", enter_blocks(unet, *given), keep=states), expected)
    assert list(states) == list(architecture(arch).block_ids)
    for block, state in states.items():
        assert torch.equal(run_blocks(unet, arch, block, state), expected), block


def test_hooks_act_and_nothing_is_written_into_the_blocks_defaults():
    unet = forge_unet(randomised(ldm_unet()))
    given = inputs(sdxl=False)
    defaults = type(unet.input_blocks[0]).forward.__defaults__
    defaults[1].clear()
    with applied(unet, network_for(unet)):
        hooked = run_blocks(unet, "sd1", "IN00", enter_blocks(unet, *given))
        assert defaults[1] == {}
        assert torch.equal(hooked, own(unet, *given))
    assert not torch.equal(hooked, predict(unet, unet_inputs()))

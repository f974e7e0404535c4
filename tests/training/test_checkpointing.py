"""Checkpoints: the gradients without them, in each layout, and the modules as they were."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

pytest.importorskip("diffusers")

from lib_blocktrain import blocks
from lib_blocktrain.training.checkpointing import Checkpoints, is_split
from lib_blocktrain.training.compiled import COMPILED_CALL
from tests.model.forge_unet import forge_unet
from tests.tiny_models import CONTEXT, deepened, diffusers_sdxl_unet, ldm_sdxl_unet, randomised
from tests.training.bare import Bare, training
from tests.training.test_backward import inputs


def ldm():
    unet = deepened(ldm_sdxl_unet())
    unet.num_classes = None  # the package is SD2's, whose forward pass has no label embedding
    return unet


LAYOUTS = {
    "diffusers": lambda: randomised(diffusers_sdxl_unet()),
    "ldm": ldm,
    "forge": lambda: forge_unet(ldm()),
}


def gradients(model: Bare, weights: str, checkpointing: bool, context_too: bool) -> tuple[dict, int]:
    """The gradients by key, and how many transformer blocks ran."""
    latents, timesteps, conditioning = inputs(16, CONTEXT, sdxl=True, pooled=16)
    conditioning["context"].requires_grad_(context_too)
    calls = []
    with training(model, weights, checkpointing=checkpointing, rank=4) as (denoiser, tensors), ExitStack() as hooks:
        for name, module in model.unet.named_modules():
            if name.endswith(("norm1", "norm2")) and "transformer_blocks" in name:  # as the Forge host does it
                hooks.callback(module.register_forward_pre_hook(lambda _, given: (given[0].clone(),)).remove)
            if name.endswith("attn1"):
                hooks.callback(module.register_forward_pre_hook(lambda *_: calls.append(1)).remove)
        denoiser.predict(latents, timesteps, conditioning).square().mean().backward()
    found = {name: tensor.grad for name, tensor in tensors.items()}
    return {**found, "context": conditioning["context"].grad}, len(calls)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("weights", "context_too"), [("ALL", True), ("OUT01=1,OUT04=1", False)])
def test_gradients_are_those_without_checkpoints(layout, weights, context_too):
    """Bit for bit; each transformer block from the first trained one on runs twice."""
    model = Bare(LAYOUTS[layout](), "sdxl")
    expected, once = gradients(model, weights, False, context_too)
    found, calls = gradients(model, weights, True, context_too)
    assert once < calls <= 2 * once
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        assert (found[key] is None) if gradient is None else torch.equal(found[key], gradient), key
    assert not any(vars(module).get(COMPILED_CALL) for module in model.unet.modules())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_checkpoint_for_each_transformer_block(layout):
    model = Bare(LAYOUTS[layout](), "sdxl")
    checkpoints = Checkpoints(model, "M00")
    transformers = [module for module in checkpoints._modules if hasattr(module, "attn1")]
    parts = [(part.kind, part) for block in blocks.architecture("sdxl").blocks[9:] for part in block.parts]
    depth = 3 if layout != "diffusers" else None
    assert len(transformers) == sum(depth or part.depth for kind, part in parts if kind == "attn")
    assert len(checkpoints._modules) - len(transformers) == sum(kind != "attn" for kind, _ in parts)
    with checkpoints.active():
        assert all(vars(module)[COMPILED_CALL] for module in checkpoints._modules)
    assert not any(vars(module).get(COMPILED_CALL) for module in model.unet.modules())


def test_blocks_of_sd1_are_whole():
    assert not is_split(blocks.architecture("sd1"))
    assert not is_split(blocks.architecture("sd2"))

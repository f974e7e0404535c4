"""The backward pass shrinks with the selection: counted, without a clock.

Bounds: design section 5 and issue 4. LoRA of rank 16 on the attention layers, batch 1, no text encoder. The meta device
would compute attention unfused; a GPU does not, so the fused operator is put there (its backward pass costs 5 products
of matrices to the forward pass's 2, the unfused one's 4).
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers")

from tests.tiny_models import CONTEXT, diffusers_sdxl_unet, diffusers_unet, ldm_sdxl_unet, ldm_unet, randomised
from tests.training.bare import Bare, real_unet, training


def inputs(side: int, context: int, device: str = "cpu", sdxl: bool = False, pooled: int = 1280):
    generator = torch.Generator().manual_seed(1)
    conditioning = {"context": torch.randn(1, 77, context, generator=generator).to(device)}
    if sdxl:
        conditioning["pooled"] = torch.randn(1, pooled, generator=generator).to(device)
        conditioning["size"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=device)
    latents = torch.randn(1, 4, side, side, generator=generator).to(device)
    return latents, torch.tensor([500], device=device), conditioning


@pytest.fixture
def fused_on_meta(monkeypatch):
    def fused(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)


@pytest.fixture(scope="module")
def flops():
    """FLOP of a step by architecture and weights; each is counted once."""
    models = {"sd1": (Bare(real_unet("sd1"), "sd1"), 64, 768), "sdxl": (Bare(real_unet("sdxl"), "sdxl"), 128, 2048)}
    counted = {}

    def count(architecture: str, weights: str, checkpointing: bool = False) -> int:
        key = architecture, weights, checkpointing
        if key not in counted:
            model, side, context = models[architecture]
            arguments = inputs(side, context, "meta", sdxl=architecture == "sdxl")
            step = training(model, weights, checkpointing=checkpointing, rank=16)
            with step as (denoiser, _), FlopCounterMode(display=False) as counter:
                denoiser.predict(*arguments).square().sum().backward()
            counted[key] = counter.get_total_flops()
        return counted[key]

    return count


@pytest.mark.parametrize(
    ("architecture", "weights", "bound"),
    [
        ("sd1", "OUT09-OUT11=1", 0.60),
        ("sd1", "OUT06-OUT11=1", 0.71),
        ("sd1", "OUT=1", 0.80),
        ("sdxl", "OUT03-OUT05=1", 0.58),
        ("sdxl", "OUT01=1", 0.71),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.usefixtures("fused_on_meta")
def test_flops(flops, architecture, weights, bound, checkpointing):
    """Of training ALL in the same way; with checkpointing a forward pass more is saved, too."""
    ratio = flops(architecture, weights, checkpointing) / flops(architecture, "ALL", checkpointing)
    how = ", checkpointing" if checkpointing else ""
    sys.stdout.write(f"FLOP, {architecture} {weights}{how}: {ratio:.3f} of ALL (at most {bound})\n")
    assert ratio <= bound


@pytest.mark.usefixtures("fused_on_meta")
def test_a_checkpoint_costs_the_trained_part_once_more(flops):
    """The blocks in front of the first trained one are not run again."""
    plain, again = flops("sd1", "OUT09-OUT11=1"), flops("sd1", "OUT09-OUT11=1", True)
    whole = flops("sd1", "ALL", True) - flops("sd1", "ALL")
    assert 0.2 < (again - plain) / whole < 0.28  # OUT09-11 are 24.6 % of a forward pass


def saved_bytes(model: Bare, weights: str, arguments, *, checkpointing=False, rank=16) -> tuple[int, int]:
    """Bytes kept for the backward pass, unique storages: all of them, and those that are no weights."""
    kept: dict[int, tuple[int, object]] = {}
    with training(model, weights, checkpointing=checkpointing, rank=rank) as (denoiser, tensors):
        weights_of = {t.untyped_storage()._cdata for t in (*model.unet.parameters(), *tensors.values())}

        def pack(tensor):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes(), tensor  # held, so that no address is used twice
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            output = denoiser.predict(*arguments)
        del output
    activations = sum(size for storage, (size, _) in kept.items() if storage not in weights_of)
    return sum(size for size, _ in kept.values()), activations


@pytest.mark.usefixtures("fused_on_meta")
def test_bytes_saved_for_backward():
    """SD1 itself at 512 pixels in fp32: of all that is saved, and of the activations alone.

    Of all: a frozen weight that the backward pass needs counts, too. Of the activations alone OUT09-11 can have no less
    than about 1/3: they are three of the five attention blocks at the full resolution.
    """
    model, arguments = Bare(real_unet("sd1"), "sd1"), inputs(64, 768, "meta")
    everything, activations = saved_bytes(model, "ALL", arguments)
    for weights, bound, activation_bound in (
        ("OUT09-OUT11=1", 0.30, 0.33),
        ("OUT06-OUT11=1", 0.30, 0.53),
        ("OUT=1", 0.60, 0.63),
    ):
        total, part = saved_bytes(model, weights, arguments)
        mib = activations >> 20
        sys.stdout.write(
            f"saved, {weights}: {total / everything:.3f}; activations {part / activations:.3f} of {mib} MiB\n"
        )
        assert total / everything <= bound
        assert part / activations <= activation_bound
    assert activations >> 20 <= 1788  # sd-scripts' U-Net, ALL (facts section 1); OUT09-11 there: 1583


def test_bytes_saved_on_the_cpu():
    """The same with real tensors and the CPU's fused kernel, at a tenth of the width (and of the rank)."""
    narrow = {"block_out_channels": [32, 64, 128, 128], "attention_head_dim": 4, "cross_attention_dim": CONTEXT}
    model, arguments = Bare(randomised(real_unet("sd1", "cpu", **narrow)), "sd1"), inputs(64, CONTEXT)
    _, everything = saved_bytes(model, "ALL", arguments, rank=2)
    _, part = saved_bytes(model, "OUT09-OUT11=1", arguments, rank=2)
    _, again = saved_bytes(model, "ALL", arguments, rank=2, checkpointing=True)
    sys.stdout.write(f"on the CPU: OUT09-11 {part / everything:.3f}, ALL with checkpoints {again / everything:.3f}\n")
    assert part / everything <= 0.33
    assert again / everything <= 0.2


TINY = {
    "diffusers sd1": ("sd1", diffusers_unet, "OUT09=1,OUT10=0.5"),
    "ldm sd1": ("sd1", lambda: randomised(ldm_unet()), "M00=1,OUT09=1"),
    "diffusers sdxl": ("sdxl", lambda: randomised(diffusers_sdxl_unet()), "OUT03-OUT05=1"),
}


def gradients(model: Bare, weights: str, arguments, *, unpruned: bool = False, checkpointing: bool = False):
    latents, timesteps, conditioning = arguments
    if unpruned:  # what sd-scripts does: the gradient of the inputs is asked for, so that nothing is left out
        latents = latents.clone().requires_grad_()
        conditioning = {**conditioning, "context": conditioning["context"].clone().requires_grad_()}
    with training(model, weights, checkpointing=checkpointing, rank=4) as (denoiser, tensors):
        denoiser.predict(latents, timesteps, conditioning).square().mean().backward()
        assert (latents.grad is not None) == unpruned
        return {name: tensor.grad for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_those_of_the_unpruned_pass(name):
    """Bit for bit, and none is 0; with checkpointing likewise."""
    architecture, make, weights = TINY[name]
    model = Bare(make(), architecture)
    arguments = inputs(16, CONTEXT, sdxl=architecture == "sdxl", pooled=16)
    expected = gradients(model, weights, arguments, unpruned=True)
    for checkpointing in (False, True):
        found = gradients(model, weights, arguments, checkpointing=checkpointing)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(gradient.abs().sum() > 0 for gradient in expected.values())


def test_nothing_in_front_of_the_first_trained_block_is_recorded():
    model = Bare(diffusers_unet(), "sd1")
    recorded = {}

    def monitor(block):
        return lambda module, inputs, output: recorded.__setitem__(block, output.requires_grad)

    hooks = [
        model.unet.get_submodule(f"up_blocks.{i}.resnets.0").register_forward_hook(monitor(f"OUT{3 * i:02}"))
        for i in range(4)
    ]
    try:
        gradients(model, "OUT06-OUT11=1", inputs(16, CONTEXT))
    finally:
        for hook in hooks:
            hook.remove()
    assert recorded == {"OUT00": False, "OUT03": False, "OUT06": False, "OUT09": True}  # OUT06's attention is after


def test_ldm_sdxl_layout_trains():
    model = Bare(ldm_sdxl_unet(), "sdxl")
    model.unet.num_classes = None
    found = gradients(model, "OUT01=1", inputs(16, CONTEXT))
    assert found
    assert all("output_blocks_1_1" in key for key in found)

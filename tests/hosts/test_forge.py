"""Forge's model as the protocol `Model`: borrowed for autograd, and returned as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.hosts import forge_backend
from tests.tiny_models import CONTEXT, ldm_unet, network_for, randomised

LATENTS = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([100, 800])
CONTEXTS = {"context": torch.randn(2, 7, CONTEXT, generator=torch.Generator().manual_seed(2))}


@pytest.fixture
def forge(monkeypatch):
    with forge_backend.process(monkeypatch) as found:
        yield found


@pytest.fixture
def model(forge):
    from lib_blocktrain.hosts.forge.model import hookable_model

    return hookable_model(forge_backend.sd_model())


def learnable(unet):
    """Return a LoRA on all layers, and its trainable tensors by key."""
    network = network_for(unet, layers=["attentions", "conv2"], scale=0.3)
    tensors = {key: (module.down, module.up) for key, module in network.modules.items()}
    for pair in tensors.values():
        for tensor in pair:
            tensor.requires_grad_()
    return network, tensors


def merge_a_lora(sd_model, load):
    """Leave the model as Forge does after an image with `<lora:somewhere:1>`."""
    unet = sd_model.forge_objects_original.unet.clone()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    weight = unet.model.get_parameter(key)
    patch = ("lora", (torch.ones(len(weight), 1), torch.ones(1, weight.shape[1]), 1.0, None, None))
    unet.lora_patches = {("somewhere", 1.0, 1.0, False): {key: [[1.0, patch, 1.0, None, None]]}}
    sd_model.forge_objects.unet = sd_model.forge_objects_after_applying_lora.unet = unet
    sd_model.current_lora_hash = "[['somewhere', 1.0, 1.0, False]]"
    load([unet])
    return key, weight


def state_of(sd_model):
    """Return all state that must not change; parameters by identity, not only by value."""
    objects = sd_model.forge_objects_original
    parts = {"unet": objects.unet.model.diffusion_model, "text": objects.clip.cond_stage_model}
    modules = {f"{part}.{name}": m for part, model in parts.items() for name, m in model.named_modules()}
    return {
        "tensors": {f"{p}.{name}": t.detach().clone() for p, m in parts.items() for name, t in m.state_dict().items()},
        "flags": [(p.requires_grad, p.is_inference(), p.dtype) for m in parts.values() for p in m.parameters()],
        "training": [module.training for module in modules.values()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules.values()],
        "forward": [(type(m).forward, "forward" in vars(m)) for m in modules.values()],
        "believed": [sd_model.forge_objects, sd_model.forge_objects_after_applying_lora, sd_model.current_lora_hash],
    }


def assert_same(before, after):
    tensors = before.pop("tensors"), after.pop("tensors")
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert before == after


def gradients_on(unet, predict, tensors, network):
    for pair in tensors.values():
        for tensor in pair:
            tensor.grad = None
    with applied(unet, network, BlockWeights.uniform("sd1", 1.0)):
        predict().square().mean().backward()
    return {key: [tensor.grad for tensor in pair] for key, pair in tensors.items()}


def test_protocol(model):
    assert isinstance(model, Model)
    assert (model.name, model.architecture, model.prediction) == ("tiny", "sd1", "epsilon")
    assert model.alphas_cumprod.shape == (1000,)


def test_gradients_are_those_of_a_plain_model(model):
    """Forge's U-Net has no backward pass by itself; borrowed, it has that of Stability's with the same weights."""
    plain = randomised(ldm_unet())
    network, tensors = learnable(plain)
    by_plain = gradients_on(plain, lambda: plain(LATENTS, TIMESTEPS, **CONTEXTS), tensors, network)
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        gradients_on(model.unet, lambda: model.predict(LATENTS, TIMESTEPS, CONTEXTS), tensors, network)
    with model.trainable():
        borrowed = gradients_on(model.unet, lambda: model.predict(LATENTS, TIMESTEPS, CONTEXTS), tensors, network)
        assert all(not p.requires_grad and not p.is_inference() for p in model.unet.parameters())
    for key, expected in by_plain.items():
        for gradient, own in zip(borrowed[key], expected, strict=True):
            assert own.abs().max() > 0, key
            assert torch.allclose(gradient, own, rtol=1e-3, atol=1e-3 * float(own.abs().max())), key


@pytest.mark.parametrize("merged", [False, True])
def test_leaves_no_trace(forge, model, merged):
    """After an exception in training, with and without a LoRA that Forge had merged before."""
    if merged:
        key, without = merge_a_lora(model.sd_model, forge.load)
    before, loaded = state_of(model.sd_model), [entry.model for entry in forge.loaded]

    def fail_inside():
        with model.trainable(), model.trainable():
            if merged:
                inside = model.sd_model.forge_objects_original.unet.model.get_parameter(key)
                assert torch.equal(inside, without)
            with model.sampling():
                assert all(p.is_inference() for p in model.unet.parameters())
            model.encode_prompt("some words")
            assert not any(p.is_inference() for p in model.unet.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert_same(before, state_of(model.sd_model))
    if merged:
        assert [entry.model for entry in forge.loaded if entry.model in loaded] == loaded
        assert torch.equal(model.sd_model.forge_objects_original.unet.model.lora_loader.backup[key], without)


def test_a_failed_image_in_between_leaves_the_weights_borrowed(forge, model):
    with model.trainable():
        with pytest.raises(KeyError), model.sampling():
            raise KeyError
        assert not any(p.is_inference() for p in model.unet.parameters())
        model.predict(LATENTS, TIMESTEPS, CONTEXTS)


def test_a_picture_in_between_may_merge_what_it_likes(forge, model):
    """LoRAs of a sample drawn during training are not in the weights afterwards."""
    before = state_of(model.sd_model)
    with model.trainable():
        inside = {name: p.detach().clone() for name, p in model.unet.named_parameters()}
        with model.sampling():
            merge_a_lora(model.sd_model, forge.load)
        assert all(torch.equal(p, inside[name]) for name, p in model.unet.named_parameters())
        model.predict(LATENTS, TIMESTEPS, CONTEXTS)
    assert_same(before, state_of(model.sd_model))


def test_a_text_is_literal_and_part_of_the_graph(model):
    """More than 75 tokens give several contexts of 77; a network on the text encoder gets gradients."""
    words = ("word " * 80).strip()
    encoded = model.encode_prompt(words)["context"]
    assert encoded.shape == (1, 2 * 77, CONTEXT)
    assert not encoded.requires_grad
    assert not encoded.is_inference()
    brackets = model.encode_prompt("((word)) BREAK")["context"]
    assert not torch.equal(brackets, model.encode_prompt("word")["context"])
    (name,) = model.text_encoders
    assert name == "te"
    encoder = model.text_encoders["te"]
    with model.trainable():
        plain = model.encode_prompt("some words")["context"]
        layer = encoder.get_submodule("text_model.encoder.layers.0.mlp.fc2")
        shift = torch.zeros(CONTEXT, requires_grad=True)
        hook = layer.register_forward_hook(lambda _layer, _inputs, output: output + shift)
        model.encode_prompt("some words")["context"].sum().backward()
        hook.remove()
    assert shift.grad.eq(77).all()
    assert torch.equal(plain, model.encode_prompt("some words")["context"])


class Options:
    """The WebUI's settings: those that were changed are in `data`."""

    def __init__(self, **data):
        self.data = data

    def __getattr__(self, name):
        return self.data.get(name, {"CLIP_stop_at_last_layers": 1, "sd_noise_schedule": "Default"}.get(name))


def test_the_encoding_of_a_run(forge, model):
    """Clip skip is set for the run and put back; the VAE is the one that the WebUI has; captions of a fixed length."""
    forge.shared.opts = options = Options(forge_additional_modules=["/models/VAE/good.safetensors"])
    asked, before = [], model.sd_model.set_clip_skip
    model.sd_model.set_clip_skip = lambda layer: (asked.append(layer), before(layer))
    with model.encoding("good.safetensors", 2):
        assert model.encode_prompt("word", 150)["context"].shape == (1, 152, CONTEXT)
    model.encode_prompt("word")
    assert asked == [2, 1]
    assert "CLIP_stop_at_last_layers" not in options.data
    with model.encoding(None, 2):
        options.data["CLIP_stop_at_last_layers"] = 3  # the user chooses another meanwhile
    assert options.data["CLIP_stop_at_last_layers"] == 3
    with (
        pytest.raises(NoModel, match=r"vae = 'other.pt': the WebUI uses 'good.safetensors': choose it"),
        model.encoding("other.pt", None),
    ):
        pass
    options.data["forge_additional_modules"] = []
    with pytest.raises(NoModel, match="the WebUI uses the checkpoint's own"), model.encoding("other.pt", None):
        pass
    with pytest.raises(ValueError, match="clip_skip = 13: expected 1"), model.encoding(None, 13):
        pass


def test_zero_terminal_snr_as_forge_draws(forge, model):
    assert not model.zero_terminal_snr
    forge.shared.opts = Options(sd_noise_schedule="Zero Terminal SNR")
    assert model.zero_terminal_snr
    forge.shared.opts = Options()
    model.sd_model.model_config = SimpleNamespace(ztsnr=True)
    assert model.zero_terminal_snr


def refused(change, match):
    from lib_blocktrain.hosts.forge.model import hookable_model

    sd_model = forge_backend.sd_model()
    sd_model = change(sd_model) or sd_model
    with pytest.raises(NoModel, match=match), hookable_model(sd_model).trainable():
        pass


@pytest.mark.usefixtures("forge")
def test_refusals():
    def flux(sd_model):
        return type("Flux", (SimpleNamespace,), {})(**{**vars(sd_model), "is_sd1": False})

    def sd3(sd_model):
        sd_model.is_sd1, sd_model.is_sd3 = False, True

    def kernel(sd_model):
        return sd_model.forge_objects_original.unet.model

    def quantised(sd_model):
        attention = kernel(sd_model).diffusion_model.middle_block[1].transformer_blocks[0].attn1
        attention.to_q = torch.nn.Module()
        kernel(sd_model).storage_dtype = "nf4"

    def refiner(sd_model):
        sd_model.is_sdxl = True

    def flow(sd_model):
        kernel(sd_model).predictor.prediction_type = "const"

    def narrow(sd_model):
        kernel(sd_model).storage_dtype = torch.float8_e4m3fn

    def mixed(sd_model):
        kernel(sd_model).diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q.quant_format = "nvfp4"

    def integers(sd_model):
        layer = kernel(sd_model).diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q
        layer._parameters["weight"] = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)

    def half_loaded(sd_model):
        kernel(sd_model).diffusion_model.out.prev_parameters_manual_cast = True

    refused(flux, "tiny is a checkpoint of Flux, which has no block weights here: choose one of SD1, SD2 or SDXL")
    refused(sd3, "tiny is a checkpoint of Stable Diffusion 3, which has no block weights here")
    refused(quantised, "stored as nf4, in layers .Module. that cannot be hooked")
    refused(refiner, "other blocks than .*: IN09")
    refused(flow, "predicts 'const'")
    refused(narrow, "weights are torch.float8_e4m3fn: .*to train")
    refused(mixed, r"weights are quantised \(nvfp4\), and gradients need")
    refused(integers, r"weights are quantised \(torch.int8\)")
    refused(half_loaded, "room for only part of the U-Net")


@pytest.mark.usefixtures("forge")
def test_no_model():
    from lib_blocktrain.hosts.forge.model import hookable_model

    with pytest.raises(NoModel, match="no checkpoint is loaded"):
        hookable_model(SimpleNamespace(cond_stage_model=None))


def test_refused_training_leaves_no_trace(forge, model):
    merge_a_lora(model.sd_model, forge.load)
    before = state_of(model.sd_model)
    model.sd_model.forge_objects_original.unet.model.storage_dtype = torch.float8_e4m3fn
    with pytest.raises(NoModel), model.trainable():
        pass
    assert_same(before, state_of(model.sd_model))

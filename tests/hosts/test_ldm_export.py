"""The exported single-file checkpoint, read by Stability's own LDM code (PyPI: stable-diffusion-sdkit)."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lib_blocktrain.hosts.ldm_export import export

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def exported(random_model, tmp_path_factory):
    return export(random_model, tmp_path_factory.mktemp("exported folder"))


@pytest.fixture(scope="module")
def parameters(exported) -> dict:
    return json.loads(exported["yaml"].read_text("utf-8"))["model"]["params"]


@pytest.fixture(scope="module")
def pipeline(random_model):
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo(random_model).pipeline


def part(exported, prefix: str) -> dict[str, torch.Tensor]:
    state = load_file(exported["checkpoint"])
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


@torch.no_grad()
def test_unet(exported, parameters, pipeline, ldm_unet):
    unet = ldm_unet(**parameters["unet_config"]["params"]).eval()
    unet.load_state_dict(part(exported, "model.diffusion_model."))  # strict: every tensor, and no other
    latents, timesteps, context = torch.randn(2, 4, 16, 16), torch.tensor([3, 987]), torch.randn(2, 77, 128)
    expected = pipeline.unet(latents, timesteps, context, return_dict=False)[0]
    torch.testing.assert_close(unet(latents, timesteps, context), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_autoencoder(exported, parameters, pipeline):
    ldm = pytest.importorskip("ldm.modules.diffusionmodules.model")
    config = parameters["first_stage_config"]["params"]["ddconfig"]
    state = part(exported, "first_stage_model.")
    encoder, decoder = ldm.Encoder(**config).eval(), ldm.Decoder(**config).eval()
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    pictures = torch.rand(1, 3, 64, 64) * 2 - 1
    conv = torch.nn.functional.conv2d
    moments = conv(encoder(pictures), state["quant_conv.weight"], state["quant_conv.bias"])
    mean = pipeline.vae.encode(pictures).latent_dist.mean
    torch.testing.assert_close(moments[:, :4], mean, atol=2e-5, rtol=1e-4)
    decoded = decoder(conv(mean, state["post_quant_conv.weight"], state["post_quant_conv.bias"]))
    torch.testing.assert_close(decoded, pipeline.vae.decode(mean, return_dict=False)[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_text_encoder_folder(exported, pipeline):
    transformers = pytest.importorskip("transformers")
    clip = exported["clip"]
    config = transformers.CLIPTextConfig.from_pretrained(clip)
    encoder = transformers.CLIPTextModel(config).eval()
    encoder.load_state_dict(part(exported, "cond_stage_model.transformer."))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    tokens = tokenizer("a photo of a zebra, sitting", padding="max_length", max_length=77, return_tensors="pt")
    expected = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    torch.testing.assert_close(encoder(tokens.input_ids).last_hidden_state, expected, atol=2e-2, rtol=2e-2)


def test_yaml_names_the_folder_absolutely(exported, parameters):
    assert parameters["cond_stage_config"]["params"]["version"] == str(exported["clip"].resolve())

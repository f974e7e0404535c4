"""The trainer on U-Nets of both layouts and topologies: LDM's ends where diffusers' with the same weights does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from lib_blocktrain.model.diffusion import scaled_linear_alphas_cumprod
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training.config_json import ConfigError
from tests.tiny_models import CONTEXT, diffusers_sdxl_unet, diffusers_unet, ldm_unet, randomised, state_of
from tests.training.bare import Bare


class Encoding(Bare):
    """A model whose pictures are their own latents, and whose texts are numbers of their letters."""

    alphas_cumprod = scaled_linear_alphas_cumprod()
    prediction = "epsilon"
    native_size = 64

    def encode_image(self, picture):
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32))[None, ::8, ::8].permute(0, 3, 1, 2)
        return torch.cat([pixels, pixels[:, :1]], dim=1) / 128 - 1

    def encode_prompt(self, text):
        generator = torch.Generator().manual_seed(len(text))
        conditioning = {"context": torch.randn(1, 7, CONTEXT, generator=generator)}
        if self.architecture == "sdxl":
            conditioning["pooled"] = torch.randn(1, 16, generator=generator)
            conditioning["size"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        return conditioning


class TwoEncoders(Encoding):
    """SDXL's two text encoders, a layer each: the first makes the context, the second what is pooled."""

    def __init__(self):
        layers = {"te1": torch.nn.Linear(CONTEXT, CONTEXT), "te2": torch.nn.Linear(16, 16)}
        unet = randomised(diffusers_sdxl_unet(depths=(1, 1, 1)))
        super().__init__(unet, "sdxl", {name: encoder_of(randomised(layer)) for name, layer in layers.items()})

    def encode_prompt(self, text):
        conditioning = super().encode_prompt(text)
        for encoder, name in zip(self.text_encoders.values(), ("context", "pooled")):
            conditioning[name] = encoder.text_model.encoder.layers[0].mlp.fc1(conditioning[name])
        return conditioning


def encoder_of(layer: torch.nn.Linear) -> torch.nn.Module:
    """A text encoder with one layer."""
    encoder, *parts = (torch.nn.Module() for _ in range(5))
    text_model, whole, block, mlp = parts
    encoder.text_model, text_model.encoder, whole.layers = text_model, whole, torch.nn.ModuleList([block])
    block.mlp, mlp.fc1 = mlp, layer
    return encoder


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ldm_is_diffusers(train, config, checkpointing):
    config = replace(config, checkpointing=checkpointing, optimizer=replace(config.optimizer, name="SGD", lr=1.0))
    unet = diffusers_unet()
    models = {"diffusers": Encoding(unet, "sd1"), "ldm": Encoding(ldm_unet(like=unet), "sd1")}
    files = {}
    for name, model in models.items():
        before = state_of(model.unet)
        files[name] = load_file(train(config, name, of=model).outcome.result)
        after = model.unet.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
    assert files["ldm"].keys() == files["diffusers"].keys()
    for key, value in files["diffusers"].items():
        torch.testing.assert_close(files["ldm"][key], value, rtol=1e-3, atol=1e-5)
    assert any(value.abs().sum() > 0 for key, value in files["ldm"].items() if "lora_up" in key)


def test_sdxl(train, config):
    """Its keys are LDM's, M00 counts thrice in kohya's arguments, and the sizes of each picture reach the U-Net."""
    seen = []

    class Watched(Encoding):
        def predict(self, latents, timesteps, conditioning):
            seen.append(conditioning["size"])
            return super().predict(latents, timesteps, conditioning)

    model = Watched(randomised(diffusers_sdxl_unet()), "sdxl")
    network = replace(config.network, weights="M00=0.5,OUT01=1", weight_mode="rank")
    trainer = train(replace(config, network=network), of=model)
    saved = read_network(trainer.outcome.result)
    assert saved.architecture == "sdxl"
    assert saved.blocks == {"M00": 102, "OUT01": 102}
    assert saved.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert '"block_dims": "0,0,0,0,0,0,0,0,0,0,1,1,1,0,2,' in saved.metadata["ss_network_args"]
    assert (
        sum(len(sizes) == 2 for sizes in seen) == config.steps
    )  # others: what the LoRA does is measured a picture at a time
    assert all(row == [64, 64, 0, 0, 64, 64] for sizes in seen for row in sizes.tolist())


def test_an_inpainting_model_is_refused(train, config):
    unet = diffusers_unet()
    unet.conv_in = torch.nn.Conv2d(9, 32, 3, padding=1)
    with pytest.raises(ConfigError, match="takes 9 channels: an inpainting"):
        train(config, of=Encoding(unet, "sd1"))


def test_a_v_prediction_model_is_recognised(train, config):
    model = Encoding(diffusers_unet(), "sd1")
    model.prediction = "v"
    notices = []
    trainer = train(config, of=model, report=lambda row: notices.append(row.get("notice")))
    assert trainer.objective.prediction == "v"
    assert any("v-prediction" in notice for notice in notices if notice)

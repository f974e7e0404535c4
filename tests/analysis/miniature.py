"""A model small enough to analyse in a test: a tiny U-Net of the real topology, and a causal text encoder of words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.model import unet_forward
from lib_blocktrain.model.diffusion import scaled_linear_alphas_cumprod
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.files import Network
from tests.tiny_models import (
    CONTEXT,
    diffusers_sdxl_unet,
    diffusers_unet,
    ldm_unet,
    network_for,
    randomised,
)

PROMPT = "a red robot, green background"
LENGTH = 12  # tokens that the text encoder reads
GRID = SamplingGrid((PROMPT,), negative="bad", seeds=(0, 1), steps=4, timesteps=1, guidance=3.0)
TEXT_KEY = "lora_te_text_model_encoder_layers_0_mlp_fc1"


class Words(nn.Module):
    """One token a word or comma; what a token is told depends on those before it alone, as in CLIP."""

    def __init__(self):
        super().__init__()
        layer = nn.Module()
        layer.mlp = nn.Module()
        layer.mlp.fc1 = nn.Linear(CONTEXT, CONTEXT)
        self.text_model = nn.Module()
        self.text_model.encoder = nn.Module()
        self.text_model.encoder.layers = nn.ModuleList([layer])
        randomised(self, seed=5)

    def forward(self, text: str) -> Tensor:
        tokens = ["<begin>", *re.findall(r"\w+|,", text)][: LENGTH - 1]
        tokens += ["<end>"] * (LENGTH - len(tokens))
        rows = [torch.randn(CONTEXT, generator=torch.Generator().manual_seed(_number(token))) for token in tokens]
        steps = torch.arange(1, LENGTH + 1).view(-1, 1)
        hidden = torch.stack(rows) + torch.stack(rows).cumsum(dim=0) / steps
        return (hidden + self.text_model.encoder.layers[0].mlp.fc1(hidden))[None]


@dataclass
class Miniature:
    """The protocol Model, as far as an analysis asks."""

    unet: nn.Module
    architecture: str = "sd1"
    name: str = "miniature"
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False
    native_size: int = 64
    in_channels: int = 4
    notices: tuple[str, ...] = ()
    text: Words = field(default_factory=Words)
    alphas_cumprod: Tensor = field(default_factory=scaled_linear_alphas_cumprod)

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        return {"te1" if self.architecture == "sdxl" else "te": self.text}

    def encode_prompt(self, text: str) -> dict[str, Tensor]:
        found = {"context": self.text(text)}
        if self.architecture == "sdxl":
            found |= {"pooled": found["context"][:, 0, :16], "size": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        return found

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The first three channels as colours."""
        levels = ((latents[:, :3].clamp(-2, 2) + 2) * 63.75).byte().permute(0, 2, 3, 1)
        return [Image.fromarray(picture.numpy()) for picture in levels]

    def predict(self, latents, timesteps, conditioning):
        return self.run_blocks("IN00", self.enter_blocks(latents, timesteps, conditioning))

    def enter_blocks(self, latents, timesteps, conditioning):
        return unet_forward.enter_blocks(self.unet, latents, timesteps, conditioning)

    def run_blocks(self, start, saved, *, keep=None, call=None):
        return unet_forward.run_blocks(self.unet, self.architecture, start, saved, keep=keep, call=call)

    def trainable(self):
        return frozen(self.unet, self.text)


MODELS = {
    "diffusers sd1": lambda: Miniature(diffusers_unet()),
    "ldm sd1": lambda: Miniature(ldm_unet(like=diffusers_unet())),
    "diffusers sdxl": lambda: Miniature(randomised(diffusers_sdxl_unet()), "sdxl"),
}


def lora_for(
    model: Miniature, layers=("attn2_to_q", "attn1_to_v"), *, scale: float = 1.0, text: bool = False
) -> Network:
    """A LoRA of random factors on these layers, and on the text encoder if wanted."""
    network = network_for(model.unet, layers=layers, architecture=model.architecture)
    modules = {key: module.scaled(scale) for key, module in network.modules.items()}
    if text:
        modules[TEXT_KEY] = LoRA(TEXT_KEY, torch.randn(2, CONTEXT) * 0.3, torch.randn(CONTEXT, 2) * 0.3 * scale)
    return replace(network, modules=modules)


def _number(token: str) -> int:
    return int.from_bytes(token.encode()[:6], "little")

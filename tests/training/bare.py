"""A U-Net alone as a model to train on, and one step of a LoRA on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.model import unet_forward
from lib_blocktrain.model.freezing import frozen
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.init import init_network, trained_tensors
from lib_blocktrain.training.plan import plan_of
from lib_blocktrain.training.step import Denoiser
from lib_blocktrain.weights.block_weights import BlockWeights

CONFIGS = Path(unet_forward.__file__).parent.parent / "hosts" / "configs"


@dataclass
class Bare:
    """What training asks of a Model's U-Net, in either layout."""

    unet: nn.Module
    architecture: str
    text_encoders: Mapping[str, nn.Module] = field(default_factory=dict)
    vae: nn.Module = field(default_factory=nn.Identity)
    movable: tuple[nn.Module, ...] = ()
    zero_terminal_snr: bool = False

    @property
    def native_size(self) -> int:
        return blocks.architecture(self.architecture).native_size

    @property
    def in_channels(self) -> int:
        first = self.unet.conv_in if hasattr(self.unet, "conv_in") else self.unet.input_blocks[0][0]
        return first.in_channels

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        context = conditioning["context"]
        if hasattr(self.unet, "input_blocks"):
            return self.unet(latents, timesteps, context=context)
        added = {"text_embeds": conditioning.get("pooled"), "time_ids": conditioning.get("size")}
        return self.unet(latents, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]

    def enter_blocks(self, latents, timesteps, conditioning):
        return unet_forward.enter_blocks(self.unet, latents, timesteps, conditioning)

    def run_blocks(self, start, saved, *, keep=None, call=None):
        return unet_forward.run_blocks(self.unet, self.architecture, start, saved, keep=keep, call=call)

    def trainable(self):
        return frozen(self.unet)


def real_unet(architecture: str, device: str = "meta", **changes) -> nn.Module:
    """The real configuration of an architecture in diffusers' layout; on the meta device it weighs nothing."""
    import diffusers

    config = json.loads((CONFIGS / architecture / "unet" / "config.json").read_text("utf-8"))
    with torch.device(device):
        return diffusers.UNet2DConditionModel.from_config({**config, **changes})


@contextmanager
def training(model: Bare, weights: str, *, checkpointing: bool = False, **network):
    """Yield the prediction under a fresh LoRA, and the trained tensors by key; `up` is filled, so that all is felt."""
    config = NetworkConfig(weights=weights, **network)
    with model.trainable():
        plan = plan_of(model.unet, model.architecture, config)
        made = init_network(plan, config, "test", seed=0)
        tensors = {
            f"{key}.{name}": tensor
            for key, module in made.modules.items()
            for name, tensor in trained_tensors(module).items()
        }
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, tensor in tensors.items():
                if "lora_up" in name and tensor.device.type != "meta":
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        with applied(model.unet, made, BlockWeights.uniform(model.architecture, 1.0)):
            yield Denoiser(model, torch.float32, plan.first_block, checkpointing), tensors

"""What the models of all WebUIs have in common: names, blocks, pictures as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from modules import shared
from PIL import Image
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.hosts.host import NoModel

NOTHING_LOADED = "no checkpoint is loaded: choose one at the top of the page, and look at the console if it fails"
FP8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name))


def architecture_of(sd_model: Any) -> str | None:
    """Return "sd1", "sd2" or "sdxl", None for any other model."""
    for architecture, flag in (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1")):
        if getattr(sd_model, flag, False):
            return architecture
    return None


def known_architecture(name: str, sd_model: Any) -> blocks.Architecture:
    """Return what the checkpoint of this name is; raise NoModel for any other model."""
    architecture = architecture_of(sd_model)
    if architecture is None:
        raise NoModel(f"{name} is a {type(sd_model).__name__}: expected a checkpoint of SD1, SD2 or SDXL")
    return blocks.architecture(architecture)


def check_blocks(name: str, unet: nn.Module, known: blocks.Architecture) -> None:
    """Raise NoModel for a U-Net of other blocks than its architecture has."""
    inputs, outputs = len(unet.input_blocks), len(unet.output_blocks)
    there = [*(f"IN{n:02}" for n in range(inputs)), "M00", *(f"OUT{n:02}" for n in range(outputs))]
    others = sorted(set(there) ^ set(known.block_ids))
    if others:
        raise NoModel(f"the U-Net of {name} has other blocks than {known.title}: {', '.join(others)}")


def to_pixels(picture: Image.Image) -> Tensor:
    """Return `(1, 3, height, width)` from -1 to 1."""
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 127.5 - 1)
    return pixels.permute(2, 0, 1)[None]


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Return the pictures of `(batch, 3, height, width)` from -1 to 1."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in values]


def sdxl_size(device: torch.device) -> Tensor:
    """Return what SDXL is told of a picture's size, `(1, 6)`: original, crop (from the WebUI's settings), target."""
    side = float(blocks.architecture("sdxl").native_size)
    top, left = float(shared.opts.sdxl_crop_top), float(shared.opts.sdxl_crop_left)
    return torch.tensor([[side, side, top, left, side, side]], device=device)

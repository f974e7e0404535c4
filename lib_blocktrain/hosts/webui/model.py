"""The code common to the models of all WebUIs: architecture, blocks, literal prompts, images as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from modules import shared
from PIL import Image
from torch import Tensor

from lib_blocktrain import blocks
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.token_rows import joined_rows, token_rows
from lib_blocktrain.model.protocol import Model, check_clip_skip

NOTHING_LOADED = "no checkpoint is loaded: choose one at the top of the page, and look at the console if it fails"
_CLIP_SKIP = "CLIP_stop_at_last_layers"
FP8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name))


class WebUIModel(Model, Protocol):
    """The protocol `Model` on a WebUI's `sd_model`."""

    @property
    def sd_model(self) -> Any:
        """The WebUI's own object of the checkpoint."""

    def sampling(self) -> AbstractContextManager[None]:
        """A context in which the WebUI may sample with the model; afterwards its own LoRAs are as they were."""


def architecture_of(sd_model: Any) -> str | None:
    """Return "sd1", "sd2" or "sdxl", None for any other model."""
    for architecture, flag in (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1")):
        if getattr(sd_model, flag, False):
            return architecture
    return None


def known_architecture(name: str, sd_model: Any) -> blocks.Architecture:
    """Return the architecture of the checkpoint `name`; raise NoModel if it is none of SD1, SD2 and SDXL."""
    architecture = architecture_of(sd_model)
    if architecture is None:
        kind = "Stable Diffusion 3" if getattr(sd_model, "is_sd3", False) else type(sd_model).__name__
        raise NoModel(
            f"{name} is a checkpoint of {kind}, which has no block weights here: choose one of SD1, SD2 or SDXL"
        )
    return blocks.architecture(architecture)


def check_blocks(name: str, unet: Any, known: blocks.Architecture) -> None:
    """Raise NoModel if an LDM U-Net does not have the blocks of its architecture."""
    inputs, outputs = len(unet.input_blocks), len(unet.output_blocks)
    there = [*(f"IN{n:02}" for n in range(inputs)), "M00", *(f"OUT{n:02}" for n in range(outputs))]
    others = sorted(set(there) ^ set(known.block_ids))
    if others:
        raise NoModel(f"the U-Net of {name} has other blocks than {known.title}: {', '.join(others)}")


def to_pixels(image: Image.Image) -> Tensor:
    """Return `(1, 3, height, width)` from -1 to 1."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1)
    return pixels.permute(2, 0, 1)[None]


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Return the images of `(batch, 3, height, width)` from -1 to 1."""
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in values]


def sdxl_size(device: torch.device) -> Tensor:
    """Return SDXL's size conditioning, `(1, 6)` in pixels: original, crop (from the WebUI's settings), target."""
    side = float(blocks.architecture("sdxl").native_size)
    top, left = float(shared.opts.sdxl_crop_top), float(shared.opts.sdxl_crop_left)
    return torch.tensor([[side, side, top, left, side, side]], device=device)


@contextmanager
def encoding_options(
    architecture: str, vae: str | None, clip_skip: int | None, loaded: Sequence[str]
) -> Iterator[None]:
    """A context with this clip skip in the WebUI's settings; `loaded` are the files of the VAE that it uses.

    The VAE is chosen in the WebUI: raises NoModel if that is another one, ValueError for a clip skip that cannot be.
    """
    names = [Path(path).name for path in loaded if path]
    if vae is not None and Path(vae).name not in names:
        used = ", ".join(map(repr, names)) or "the checkpoint's own"
        raise NoModel(f"vae = {vae!r}: the WebUI uses {used}: choose it in the WebUI as VAE, or leave it out")
    if clip_skip is None:
        yield
        return
    check_clip_skip(clip_skip, architecture)
    before = shared.opts.data.get(_CLIP_SKIP)
    shared.opts.data[_CLIP_SKIP] = clip_skip
    try:
        yield
    finally:
        if shared.opts.data.get(_CLIP_SKIP) == clip_skip:  # the user has not chosen another meanwhile
            shared.opts.data.update({_CLIP_SKIP: before} if before is not None else {})
            if before is None:
                del shared.opts.data[_CLIP_SKIP]


def zero_terminal_snr(model_config: Any = None) -> bool:
    """Whether the WebUI draws with zero terminal SNR: by its setting, in Forge also by the checkpoint's marker."""
    chosen = getattr(shared.opts, "sd_noise_schedule", "") == "Zero Terminal SNR"
    return chosen or bool(getattr(model_config, "ztsnr", False))


def encode_literally(
    encoder: Any, text: str, embeddings: Any, device: torch.device, max_tokens: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return `(1, tokens, width)` and, for an encoder that has it, the pooled output of the first 75 tokens.

    Brackets, BREAK and the names of embeddings have no meaning in `text`. `encoder` is one of the WebUI's, with its own
    clip skip and padding; `embeddings.fixes` holds the embeddings of the prompt that was encoded last.
    """
    tokens = list(encoder.tokenize([text])[0])
    if max_tokens is not None:
        rows = token_rows(tokens, max_tokens, encoder.id_start, encoder.id_end, encoder.id_pad)
        embeddings.fixes = None
        states = [encoder.encode_with_transformers(torch.tensor([row], device=device)) for row in rows]
        return joined_rows(torch.cat(states)), getattr(states[0], "pooled", None)
    length = encoder.chunk_length
    chunks = [tokens[at : at + length] for at in range(0, max(len(tokens), 1), length)]
    encoded = []
    for chunk in chunks:
        padded = [encoder.id_start, *chunk, *[encoder.id_end] * (length + 1 - len(chunk))]
        ids = torch.tensor([padded], device=device)
        if encoder.id_pad != encoder.id_end:  # SD2, and SDXL's second encoder
            ids[0, len(chunk) + 2 :] = encoder.id_pad
        embeddings.fixes = None
        encoded.append(encoder.encode_with_transformers(ids))
    return torch.cat(encoded, dim=1), getattr(encoded[0], "pooled", None)

"""The U-Net's forward pass block by block, in LDM's, Forge's and diffusers' layout; `Model.run_blocks` is made of it.

The modules are found by the names in `blocks`; neither library is imported.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.blocks import Block
from lib_blocktrain.networks.layers import weight_shape

# Calls a block: (id, function, *tensors) -> its output; with checkpointing, for example.
Caller = Callable[..., Tensor]


@dataclass(frozen=True)
class BlockState:
    """The state of the forward pass before a block.

    `h` `(batch, channels, h, w)` is the output of the block before; `skips` are the outputs of IN blocks that OUT
    blocks still need (the last is needed first); `embedding` `(batch, width)` is that of the timesteps and, in SDXL, of
    sizes and pooled text; `context` is `(batch, tokens, width)`.
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor
    context: Tensor


class Layout(Protocol):
    """The parts of the forward pass that differ between implementations of the U-Net."""

    def enter(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        """Return the state before the first block."""

    def call(self, block: Block, h: Tensor, state: BlockState) -> Tensor:
        """Return the output of a block for `h`, which includes the skip connection."""

    def leave(self, h: Tensor) -> Tensor:
        """Return the U-Net's output from the last block's."""


def layout_of(unet: nn.Module) -> Layout:
    """Return the layout of this U-Net by its attributes; raise ValueError for an unknown one."""
    if is_diffusers(unet):
        return Diffusers(unet)
    if hasattr(unet, "input_blocks"):
        return Forge(unet) if "transformer_options" in inspect.signature(unet.forward).parameters else LDM(unet)
    raise ValueError(f"{type(unet).__name__} has neither input_blocks (LDM) nor down_blocks (diffusers)")


class DiffusersUNet(Protocol):
    """The methods of diffusers' `UNet2DConditionModel` that are used here."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return the module at a dotted path, as `nn.Module` does."""

    def get_time_embed(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Sinusoids of the timesteps, `(batch, width)`."""

    def get_aug_embed(
        self, emb: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: Mapping[str, Tensor]
    ) -> Tensor:
        """SDXL's embedding of pooled text and sizes, `(batch, width)`."""


def is_diffusers(unet: nn.Module) -> TypeGuard[DiffusersUNet]:
    """Whether a U-Net is in diffusers' layout."""
    return hasattr(unet, "down_blocks")


def enter_blocks(unet: nn.Module, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
    """Return the state before IN00."""
    return layout_of(unet).enter(latents, timesteps, conditioning)


def run_blocks(
    unet: nn.Module,
    architecture: str,
    start: str,
    saved: BlockState,
    *,
    keep: MutableMapping[str, BlockState] | None = None,
    call: Caller | None = None,
) -> Tensor:
    """Run the U-Net from block `start` on, given the state before it, and return its output.

    `keep` receives the state before every block that runs, by block id; `call` calls each block's function (for
    example with `torch.utils.checkpoint`). Raises ValueError for a block that the architecture lacks.
    """
    layout, known = layout_of(unet), blocks.architecture(architecture)
    state = saved
    for block in known.blocks[known.block_ids.index(known.block(start).id) :]:
        if keep is not None:
            keep[block.id] = state
        state = _through(layout, block, state, call)
    return layout.leave(state.h)


def _through(layout: Layout, block: Block, state: BlockState, call: Caller | None) -> BlockState:
    skips = state.skips
    inputs: tuple[Tensor, ...] = (state.h,)
    if block.id.startswith("OUT"):
        skips, inputs = skips[:-1], (state.h, skips[-1])
    after = replace(state, skips=skips)  # an upsampler looks at the next skip connection's size

    def run(embedding: Tensor, context: Tensor, *inputs: Tensor) -> Tensor:
        # Concatenated in here, so that a checkpoint saves the two tensors, which exist anyway, and not a copy of them.
        h = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
        return layout.call(block, h, replace(after, embedding=embedding, context=context))

    arguments = (state.embedding, state.context, *inputs)
    h = run(*arguments) if call is None else call(block.id, run, *arguments)
    return replace(after, h=h, skips=(*skips, h) if block.id.startswith("IN") else skips)


@dataclass(frozen=True)
class LDM:
    """`input_blocks`, `middle_block`, `output_blocks`: a block is one module."""

    unet: nn.Module

    def enter(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        latents = latents.to(getattr(self.unet, "dtype", latents.dtype))
        return BlockState(latents, (), _embedding(self.unet, latents, timesteps, conditioning), conditioning["context"])

    def call(self, block: Block, h: Tensor, state: BlockState) -> Tensor:
        return self.unet.get_submodule(block.ldm)(h, state.embedding, state.context)

    def leave(self, h: Tensor) -> Tensor:
        return self.unet.get_submodule("out")(h)


@dataclass(frozen=True)
class Forge:
    """LDM's blocks as in ComfyUI, from which Forge and its forks took them.

    They compute in the latents' dtype, whatever the weights' is, and get their position and an upsampler's target size.
    """

    unet: nn.Module

    def enter(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        return BlockState(latents, (), _embedding(self.unet, latents, timesteps, conditioning), conditioning["context"])

    def call(self, block: Block, h: Tensor, state: BlockState) -> Tensor:
        side, _, number = block.ldm.partition(".")
        # a new dict for each call: blocks write into it, and their default is one dict for all calls
        options = {"block": (side.removesuffix("_blocks").removesuffix("_block"), int(number or 0))}
        size = state.skips[-1].shape if state.skips and block.id.startswith("OUT") else None
        return self.unet.get_submodule(block.ldm)(h, state.embedding, state.context, options, size)

    def leave(self, h: Tensor) -> Tensor:
        return self.unet.get_submodule("out")(h)


@dataclass(frozen=True)
class Diffusers:
    """`down_blocks`, `mid_block`, `up_blocks`: a block is several modules, named in `blocks`."""

    unet: DiffusersUNet

    def enter(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        unet, context = self.unet, conditioning["context"]
        embedding = unet.get_submodule("time_embedding")(unet.get_time_embed(sample=latents, timestep=timesteps))
        if "pooled" in conditioning:
            added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["size"]}
            embedding = embedding + unet.get_aug_embed(
                emb=embedding, encoder_hidden_states=context, added_cond_kwargs=added
            )
        return BlockState(latents, (), embedding, context)

    def call(self, block: Block, h: Tensor, state: BlockState) -> Tensor:
        for part in block.parts:
            module = self.unet.get_submodule(part.diffusers)
            if part.kind == "res":
                h = module(h, state.embedding)
            elif part.kind == "attn":
                h = module(h, encoder_hidden_states=state.context, return_dict=False)[0]
            elif part.kind == "up":
                size = state.skips[-1].shape[2:]
                h = module(h) if size == tuple(2 * side for side in h.shape[2:]) else module(h, size)
            else:
                h = module(h)
        return h

    def leave(self, h: Tensor) -> Tensor:
        for name in ("conv_norm_out", "conv_act", "conv_out"):
            h = self.unet.get_submodule(name)(h)
        return h


def _embedding(unet: nn.Module, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Return LDM's embedding of the timesteps and, in SDXL, of the class vector, in the latents' dtype."""
    width = weight_shape(unet.get_submodule("time_embed.0"))[1]
    embedding = unet.get_submodule("time_embed")(_timestep_embedding(timesteps, width).to(latents.dtype))
    if getattr(unet, "num_classes", None) is not None:
        embedding = embedding + unet.get_submodule("label_emb")(_class_vector(conditioning, embedding))
    return embedding


def _timestep_embedding(timesteps: Tensor, width: int, longest: float = 10000) -> Tensor:
    """Sinusoids of the timesteps, cosines first, `(batch, width)` (Ho et al. 2020; as LDM computes them)."""
    frequencies = _frequencies(width // 2, longest, timesteps.device)
    angles = timesteps[:, None].float() * frequencies[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return embedding if width % 2 == 0 else torch.cat([embedding, torch.zeros_like(embedding[:, :1])], dim=-1)


@lru_cache(maxsize=8)
def _frequencies(count: int, longest: float, device: torch.device) -> Tensor:
    """Return so many frequencies on a device, copied there once; from the CPU, as in LDM: the same bits everywhere."""
    with torch.inference_mode(False):
        steps = torch.arange(count, dtype=torch.float32)
        return torch.exp(-math.log(longest) * steps / count).to(device)


def _class_vector(conditioning: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return SDXL's class vector: `y` if it is given, else the pooled text and 256 sinusoids of each of six sizes."""
    if "y" in conditioning:
        return conditioning["y"]
    sizes = conditioning["size"]
    embedded = _timestep_embedding(sizes.flatten(), 256).reshape(len(sizes), -1)
    return torch.cat([conditioning["pooled"], embedded.to(conditioning["pooled"].dtype)], dim=-1).to(like.dtype)

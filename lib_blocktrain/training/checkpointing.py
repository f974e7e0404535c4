"""Gradient checkpoints: the parts of the U-Net that run again in the backward pass instead of keeping activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib_blocktrain import blocks
from lib_blocktrain.blocks import Architecture, Block
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.model.unet_forward import Forge, is_diffusers, layout_of
from lib_blocktrain.training.compiled import COMPILED_CALL


def is_split(architecture: Architecture) -> bool:
    """Whether each transformer block and each other part of a block is a checkpoint of its own, not the whole block.

    So it is in SDXL, whose transformers are up to 10 deep. In SD1 the inputs that more checkpoints keep take more than
    the smaller checkpoints spare: 303 MiB instead of 239 at 512 pixels (`benchmarks/memory.py`).
    """
    return any(part.depth > 1 for block in architecture.blocks for part in block.parts)


class Checkpoints:
    """The checkpoints of a U-Net from `first_block` on (from the beginning if it is None).

    Nothing before the first trained block is kept anyway.
    """

    def __init__(self, model: Model, first_block: str | None):
        known = blocks.architecture(model.architecture)
        first = 0 if first_block is None else known.block_ids.index(first_block)
        split, checkpointed = is_split(known), known.blocks[first:]
        self._whole = frozenset(() if split else (block.id for block in checkpointed))
        self._modules = [module for block in checkpointed if split for module in _modules(model.unet, block)]
        self._is_forge = isinstance(layout_of(model.unet), Forge)

    def call(self, block: str, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Call a block's function, for `run_blocks`: as a checkpoint if whole blocks are."""
        if block not in self._whole or not torch.is_grad_enabled():
            return function(*tensors)
        return checkpoint(function, *tensors, use_reentrant=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make each call of the modules that are checkpoints one."""
        before = [vars(module).get(COMPILED_CALL) for module in self._modules]
        try:
            for module in self._modules:
                vars(module)[COMPILED_CALL] = partial(self._call_module, module)
            yield
        finally:
            for module, own in zip(self._modules, before):
                vars(module).pop(COMPILED_CALL, None)
                if own is not None:
                    vars(module)[COMPILED_CALL] = own

    def _call_module(self, module: nn.Module, first: Tensor, *others: Any, **options: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return module._call_impl(first, *others, **options)
        # Forge's transformer blocks add to their input in place, and write into the options that they share.
        clones = self._is_forge and hasattr(module, "attn1")
        options = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}

        def run(first: Tensor, *others: Any) -> Tensor:
            return module._call_impl(first.clone() if clones else first, *others, **options)

        return checkpoint(run, first, *others, use_reentrant=False)


def _modules(unet: nn.Module, block: Block) -> Iterator[nn.Module]:
    """Yield the modules of a block that are checkpoints of their own, in either layout."""
    for part in block.parts:
        module = unet.get_submodule(part.diffusers if is_diffusers(unet) else part.ldm)
        if part.kind == "attn":
            yield from module.get_submodule("transformer_blocks").children()
        else:
            yield module

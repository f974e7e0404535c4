"""Faults in the middle of a model's work: an error inside a layer, and no memory at the n-th occasion."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Bug(RuntimeError):
    """Somebody else's, in a layer."""


NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


class NoMemory(TorchDispatchMode):
    """Lets the n-th operation that makes a new tensor find no memory, once."""

    def __init__(self, nth: int):
        super().__init__()
        self.left = nth

    def __torch_dispatch__(self, function, types, arguments=(), more=None):
        if all(result.alias_info is None for result in function._schema.returns):
            self.left -= 1
            if self.left == 0:
                raise torch.cuda.OutOfMemoryError(NO_MEMORY)
        return function(*arguments, **(more or {}))


@contextmanager
def no_memory_at_layer(nth: int) -> Iterator[None]:
    """Let the n-th layer that is called find no memory."""
    left = nth

    def count(module, inputs):
        nonlocal left
        if next(module.children(), None) is None:
            left -= 1
            if left == 0:
                raise torch.cuda.OutOfMemoryError(NO_MEMORY)

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def bug_in_layer(layer: nn.Module, call: int) -> Iterator[None]:
    """Let a layer raise when it is called this often."""
    left = call

    def fail(module, inputs):
        nonlocal left
        left -= 1
        if left == 0:
            raise Bug("in a layer")

    handle = layer.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def fault(rng: random.Random, parts: Mapping[str, nn.Module]) -> Iterator[str | None]:
    """Nothing, or one of the faults, at a place drawn at random."""
    kind = rng.choice([None, "bug in a layer", "no memory at a layer", "no memory for a tensor"])
    if kind is None:
        yield None
    elif kind == "bug in a layer":
        leaves = [m for part in parts.values() for m in part.modules() if next(m.children(), None) is None]
        with bug_in_layer(rng.choice(leaves), rng.randint(1, 3)):
            yield kind
    elif kind == "no memory at a layer":
        with no_memory_at_layer(int(10 ** rng.uniform(0, 3))):
            yield kind
    else:
        with NoMemory(int(10 ** rng.uniform(0, 4))):
            yield kind

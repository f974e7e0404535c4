"""The state of a model, and of the process, that no job may change."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor  # torch.compile's, which hold nothing

_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"),
    *(
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_non_persistent_buffers_set",
    ),
)
_HOOKS_OF_ALL = [name for name in vars(nn.modules.module) if name.startswith("_global_") and name.endswith("hooks")]


class Whole:
    """Models as they are now, and what the host's next picture depends on; `check` fails where anything has changed."""

    def __init__(self, parts: Mapping[str, nn.Module], more: Callable[[], object] = lambda: None):
        self._parts, self._more = dict(parts), more
        self._shape, self._values = self._traced(), self._bits()
        self._copies = {name: value.clone() for name, value in self._values.items()}
        self._around = surroundings()

    def check(self) -> None:
        shape = self._traced()
        changed = [name for name in {*shape, *self._shape} if shape.get(name) != self._shape.get(name)]
        details = [(name, self._shape.get(name), shape.get(name)) for name in changed[:3]]
        assert not changed, f"{len(changed)} modules are not what they were: {details}"
        values = self._bits()
        assert values.keys() == self._copies.keys()
        for name, value in values.items():
            assert value is self._values[name], f"{name} is another tensor"
            assert torch.equal(value, self._copies[name]), f"{name} has other numbers"
        around = surroundings()
        for name, value in self._around.items():
            assert _same(around[name], value), f"{name} is not what it was: {value} before, {around[name]} now"

    def _bits(self) -> dict[str, torch.Tensor]:
        """All parameters and buffers by name; the very objects."""
        return {
            f"{part}.{path}.{name}": value
            for part, model in self._parts.items()
            for path, module in model.named_modules()
            for name, value in (*module._parameters.items(), *module._buffers.items())
            if value is not None
        }

    def _traced(self) -> dict[str, Any]:
        """Flags, hooks, methods and attributes of every module, by its path, and the identity of everything else."""
        traced: dict[str, Any] = {
            f"{part}.{path}": (type(module), _hooks(module), _attributes(module), _flags(module))
            for part, model in self._parts.items()
            for path, module in model.named_modules()
        }
        return {**traced, "more": self._more()}


def _hooks(module: nn.Module) -> tuple:
    return (type(module).forward, *(tuple(map(str, getattr(module, name, ()))) for name in _HOOKS))


def _attributes(module: nn.Module) -> dict[str, object]:
    """What stands on the module itself: a replaced method would be here."""
    plain = (int, float, str, bool, type(None), tuple)
    return {
        name: value if isinstance(value, plain) else id(value)
        for name, value in vars(module).items()
        if not name.startswith("_") or isinstance(value, FunctionType | MethodType)
    }


def _flags(module: nn.Module) -> tuple:
    return tuple(
        (name, p.requires_grad, p.grad is None, p.data_ptr(), p.dtype, p.device, len(p._backward_hooks or ()))
        for name, p in module._parameters.items()
        if p is not None
    )


def surroundings() -> dict[str, Any]:
    """What a host's own code takes for granted."""
    return {
        "torch's random state": torch.get_rng_state(),
        "Python's random state": random.getstate(),
        "NumPy's random state": np.random.get_state(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "benchmark": torch.backends.cudnn.benchmark,
        "hooks of all modules": [len(getattr(nn.modules.module, name)) for name in _HOOKS_OF_ALL],
        "working directory": os.getcwd(),
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@dataclass(frozen=True)
class Held:
    """What the process holds on to."""

    tensors: int
    bytes: int
    threads: int
    files: int

    @staticmethod
    def now() -> Held:
        gc.collect()
        kinds = ((o, type(o)) for o in gc.get_objects())
        tensors = [o for o, kind in kinds if issubclass(kind, torch.Tensor) and not issubclass(kind, FakeTensor)]
        stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        handles = Path("/proc/self/fd")
        files = len(list(handles.iterdir())) if handles.exists() else 0
        return Held(len(tensors), sum(stores.values()), threading.active_count(), files)

    def check(self, before: Held) -> None:
        """Fail if it is more than before."""
        for name in ("tensors", "bytes", "threads", "files"):
            now, then = getattr(self, name), getattr(before, name)
            assert now <= then, f"{now - then} {name} were left behind ({then} before)"

"""Any state of tensors and plain values as one safetensors file, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lib_blocktrain.files import atomic_write

_TENSOR, _PAIRS, _TUPLE = "__tensor__", "__pairs__", "__tuple__"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state, in one file that appears whole or not at all."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(state, "", tensors))
    content = safetensors.torch.save(tensors or {"nothing": torch.zeros(1)}, {"state": text})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load(path: Path) -> Any:
    """Return the state of a file that `save` wrote; raise ValueError for another."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # cloned: what is mapped from the file would change with it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
            text = (file.metadata() or {}).get("state")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    if text is None:
        raise ValueError(f"{path}: not the state of a run")
    try:
        return _unpacked(json.loads(text), tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: the state of a run, but damaged: {error!r}") from error


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        items = {key: _packed(item, f"{name}/{key}", tensors) for key, item in value.items()}
        return items if all(isinstance(key, str) for key in items) else {_PAIRS: [[k, v] for k, v in items.items()]}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: {type(value).__name__} cannot be saved in a run's state")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_unpacked(item, tensors) for item in value[_TUPLE])
    if _PAIRS in value:
        return {key: _unpacked(item, tensors) for key, item in value[_PAIRS]}
    return {key: _unpacked(item, tensors) for key, item in value.items()}

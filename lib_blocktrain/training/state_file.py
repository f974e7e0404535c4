"""The state of a run as one safetensors file, without pickle.

Tensors are stored under their dotted path (`train_state.parameters.KEY.lora_up.weight`); everything else is one JSON
object in the file's metadata, with null in the place of a tensor. The file carries a checksum (`checked_file`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_blocktrain import __version__
from lib_blocktrain.training import checked_file
from lib_blocktrain.training.checked_file import CHECKSUM, DamagedFile

log = logging.getLogger(__name__)

_VALUES, _VERSION = "values", "blocktrain_version"  # keys of the metadata


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, mappings, lists and plain values; keys come back as text, tuples as lists."""
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_without_tensors(state, "", tensors))
    checked_file.write(path, tensors, {_VALUES: values, _VERSION: __version__})


def load(path: Path) -> dict[str, Any]:
    """Return the state of a file that `save` wrote; raise ValueError for another file, DamagedFile for a damaged one.

    One of an earlier version has no checksum: it is read, and that is logged.
    """
    tensors, metadata = checked_file.read(path)
    if _VALUES not in metadata:
        found = "a state that an earlier development version wrote" if "state" in metadata else "not the state of a run"
        raise ValueError(f"{path}: {found}: expected one of version {__version__}")
    if CHECKSUM not in metadata:
        if set(metadata) != {_VALUES, _VERSION}:  # the key itself may be what is damaged
            raise DamagedFile(f"{path}: the state of a run, but damaged: it has {sorted(metadata)}")
        log.warning("%s has no checksum, since an earlier version wrote it: damage would not be noticed", path)
    try:
        state = _with_tensors(json.loads(metadata[_VALUES]), "", tensors)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: the state of a run, but damaged: {error!r}") from error
    if tensors or not isinstance(state, dict):
        found = ", ".join([*tensors][:3]) or type(state).__name__
        raise DamagedFile(f"{path}: the state of a run, but damaged: no place for {found}")
    return state


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return the value with None for each tensor, which goes into `tensors` under its path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_tensors(item, _below(path, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, _below(path, index), tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: {type(value).__name__} cannot be saved in a run's state")


def _with_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Undo `_without_tensors`; each tensor that is put back leaves `tensors`."""
    if isinstance(value, dict):
        return {key: _with_tensors(item, _below(path, key), tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tensors(item, _below(path, index), tensors) for index, item in enumerate(value)]
    return tensors.pop(path, None) if value is None else value


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)

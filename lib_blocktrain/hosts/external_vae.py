"""An autoencoder from a file of its own, in diffusers' or in the original layout, for the standalone host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_PREFIX = "first_stage_model."
_ORIGINAL = "encoder.down.0.block.0.conv1.weight"
_DIFFUSERS = "encoder.down_blocks.0.resnets.0.conv1.weight"


def external_vae(path: Path, like: Any, converted: Callable[[Any, Any], Mapping[str, Tensor]]) -> Any:
    """Return the autoencoder of a safetensors file; `like` is one of the same shape, whose settings it takes.

    `converted` gives the tensors of the original layout and the settings the names that diffusers has.

    Raises ValueError for a file that is none, or is one of another shape.
    """
    tensors = _read(path)
    if _ORIGINAL in tensors:
        tensors = converted(tensors, like.config)
    elif _DIFFUSERS not in tensors:
        raise ValueError(f"vae = {str(path)!r}: expected an autoencoder (a tensor {_ORIGINAL} or {_DIFFUSERS})")
    made = type(like).from_config(like.config)
    wanted = made.state_dict()
    wrong = [name for name, value in wanted.items() if name not in tensors or tensors[name].shape != value.shape]
    if wrong:
        found = tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else "missing"
        raise ValueError(
            f"vae = {str(path)!r}: {wrong[0]} is {found}: expected {tuple(wanted[wrong[0]].shape)}, as the model's own"
        )
    made.load_state_dict({name: tensors[name] for name in wanted})
    weight = next(like.parameters())
    return made.to(weight.device, weight.dtype).eval().requires_grad_(False)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"vae = {str(path)!r}: expected a .safetensors file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"vae = {str(path)!r}: {error}: expected a safetensors file") from error
    plain = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    return {name: value for name, value in plain.items() if isinstance(value, torch.Tensor)}

"""What the state of a run was made with - configuration, model and pictures - compared by content when it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError, read, write
from lib_blocktrain.training.dataset import Dataset

# What may be changed while a run goes on: rates, length, samples, saving, how it computes, and where things lie (what
# lies there is compared by its content). Everything else makes it another run.
_MAY_CHANGE = re.compile(
    r"optimizer\.(lr|text_encoder_lr)|schedule\..*|steps|epochs|samples\..*|(save|validate)_every(_epochs)?|keep"
    r"|save_dtype|patience|block_patience|min_delta|pool\.keep"
    r"|name|description|wandb|metadata.*|checkpointing|compile|offload"
    r"|checkpoint|network\.start|dataset\.cache|dataset\.(folders|validation)\[\d+\]\.(path|mask_folder)"
)
_SAME_WEIGHTS = 0.9  # the share that has to be equal: where dtypes differ, a few are rounded twice
_ABSENT = object()
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = 60


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a state was made with. `weights`: one number of each tensor of the model, in fp32 but rounded to `dtype`."""

    config: RunConfig
    model: str
    weights: Tensor
    dtype: str
    pictures: str

    def to_state(self) -> dict[str, Any]:
        """Return what `notices` and `check_config` need, for `state_file.save`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "config": write(self.config)}

    def notices(self, state: Mapping[str, Any]) -> list[str]:
        """Return how this differs from what a saved state was made with, where a run can go on all the same."""
        found = []
        if state["pictures"] != self.pictures:
            found.append("the pictures are not those that this run began with: it goes on, but not as it would have")
        if state["model"] != self.model:
            found.append(
                f"the run began on {state['model']}, and goes on with {self.model}: it was not learnt for that"
            )
        elif not self._same_weights(state["weights"], state["dtype"]):
            found.append(
                f"the run began on {self.model} with other weights than it has now: it was not learnt for that"
            )
        return found

    def _same_weights(self, weights: Tensor, dtype: str) -> bool:
        if weights.shape != self.weights.shape:
            return False
        ours = self.weights
        for name in (dtype, self.dtype):  # as the narrower of the two holds them
            ours, weights = (numbers.to(getattr(torch, name)).float() for numbers in (ours, weights))
        return float((ours == weights).float().mean()) >= _SAME_WEIGHTS


def weights_of(model: Model) -> tuple[Tensor, str]:
    """Return one number of each tensor of a model, in fp32, and the name of the dtype that they are rounded to."""
    parts = [model.unet, *model.text_encoders.values()]
    tensors = [tensor.detach() for part in parts for tensor in part.parameters() if tensor.numel()]
    device, dtype = tensors[0].device, tensors[0].dtype
    numbers = [tensor.reshape(-1)[tensor.numel() // 2].to(device, torch.float32) for tensor in tensors]
    return torch.stack(numbers).cpu(), str(dtype).split(".")[-1]


def origin_of(
    config: RunConfig, name: str, weights: tuple[Tensor, str], dataset: Dataset, contents: Mapping[Path, str]
) -> Origin:
    """Return what a run is made with now: `weights` of the model, and the digest of each picture's file."""
    return Origin(config, name, *weights, _pictures(dataset, contents))


def check_config(before: Mapping[str, Any], now: RunConfig) -> str | None:
    """Return what was changed in `run.json` since a state was saved, None for nothing.

    Raises ConfigError with the names of what cannot be changed while a run goes on.
    """
    changed = _differences(_entries(write(read(RunConfig, before))), _entries(write(now)))
    refused = [text for name, text in changed.items() if not _MAY_CHANGE.fullmatch(name)]
    if refused:
        raise ConfigError(
            f"run.json was changed since this run's state was saved: {'; '.join(refused)}: a run cannot go on with"
            " that: put it back, or begin a new run"
        )
    return f"run.json was changed since this run's state was saved: {'; '.join(changed.values())}" if changed else None


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, str]:
    """Return a text for each entry that differs, by its name."""
    found = {}
    for name in {**before, **now}:
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if old != new:
            shown = ["not set" if value is _ABSENT or value is None else _QUOTE.repr(value) for value in (old, new)]
            found[name] = f"{name} was {shown[0]} and is {shown[1]}"
    return found


def _entries(value: object, where: str = "") -> dict[str, object]:
    """Return the plain values of nested objects and lists by their path: `dataset.folders[0].path`."""
    if isinstance(value, Mapping) and value:
        items = [(f"{where}.{key}" if where else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {where: value}
    return {name: leaf for path, item in items for name, leaf in _entries(item, path).items()}


def _pictures(dataset: Dataset, contents: Mapping[Path, str]) -> str:
    """Return a text that is another one for other pictures, masks or captions."""
    masks = {i.mask for i in dataset.images if i.mask is not None and i.mask != i.path and i.mask.is_file()}
    seen = [hashlib.sha256(mask.read_bytes()).hexdigest() for mask in sorted(masks, key=lambda path: path.name)]
    seen += [contents.get(image.path, "") for image in dataset.images]
    return hashlib.sha256(repr((dataset.fingerprint, seen)).encode()).hexdigest()

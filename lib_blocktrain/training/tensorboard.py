"""TensorBoard event files beside `metrics.jsonl`, where the package is there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Write = Callable[[Mapping[str, Any]], None]


def event_writer(folder: Path) -> Write:
    """Return a function that writes the numbers of a row as scalars; without TensorBoard it does nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        return lambda row: None
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def write(row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, Mapping):
                for block, number in value.items():
                    _add(writer, f"{name}/{block}", number, row["step"])
            elif name != "step":
                _add(writer, name, value, row["step"])

    return write


def _add(writer: Any, name: str, value: object, step: int) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        writer.add_scalar(name, value, step)

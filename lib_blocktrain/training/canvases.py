"""The sizes and batches of a run's steps, from its configuration alone."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from lib_blocktrain.training.config import RunConfig


class Canvas(NamedTuple):
    """Width and height in pixels, and images of a batch."""

    width: int
    height: int
    batch: int


def canvases(config: RunConfig, native_size: int) -> list[Canvas]:
    """Return the size and batch of each group of images; `native_size` is the model's, in pixels."""
    dataset, found = config.dataset, dict[Canvas, None]()
    for folder in dataset.folders:
        for sizes in dataset.sizes_of(folder):
            width = sizes.size or native_size
            found[Canvas(width, sizes.height or width, folder.batch or config.batch)] = None
    if not found:  # a toml that has not been read
        width = dataset.size or native_size
        found[Canvas(width, dataset.height or width, config.batch)] = None
    return list(found)


def on_canvas(config: RunConfig, canvas: Canvas) -> RunConfig:
    """Return the run with this size and batch only."""
    folders = tuple(replace(folder, batch=None, size=None, height=None) for folder in config.dataset.folders)
    dataset = replace(config.dataset, folders=folders, size=canvas.width, height=canvas.height, more_sizes=())
    return replace(config, dataset=dataset, batch=canvas.batch)


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """Return the run with this batch at every size."""
    folders = tuple(replace(folder, batch=None) for folder in config.dataset.folders)
    return replace(config, dataset=replace(config.dataset, folders=folders), batch=batch)

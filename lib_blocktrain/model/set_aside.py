"""Models that wait on the CPU while nobody uses them, and are back where they were afterwards."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import nn

from lib_blocktrain.model.memory import MIB, lacks_memory

log = logging.getLogger(__name__)


class SetAside:
    """A context, at whose end all models are back on their device; `put` moves them to the CPU in between.

    Each model has all its parameters on one device.
    """

    def __init__(self) -> None:
        self._devices: list[tuple[nn.Module, torch.device]] = []

    def __enter__(self) -> SetAside:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        put_back(self._back, error)
        self._devices.clear()

    def put(self, models: Sequence[nn.Module]) -> None:
        """Move the models to the CPU."""
        placed = [(model, parameter.device) for model in models for parameter in list(model.parameters())[:1]]
        self._devices = [(model, device) for model, device in placed if device.type != "cpu"]
        self._away()
        if self._devices:
            size = sum(p.numel() * p.element_size() for model, _ in self._devices for p in model.parameters())
            log.info("%d models, which are not needed meanwhile, wait on the CPU: %.0f MiB", len(placed), size / MIB)

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Have the models where they were while the context is open."""
        self._back()
        try:
            yield
        finally:
            self._away()

    def _away(self) -> None:
        for model, _ in self._devices:
            model.to("cpu")

    def _back(self) -> None:
        for model, device in self._devices:
            model.to(device)


def put_back(restore: Callable[[], None], error: BaseException | None) -> None:
    """Call `restore` at the end of a context; where the device lacks memory, free what the error holds, and try again.

    What is there already must do no harm the second time.
    """
    try:
        restore()
    except RuntimeError as lack:
        if not lacks_memory(lack):
            raise
        _forget_frames(error)
        restore()


def _forget_frames(error: BaseException | None) -> None:
    """Free what the frames of an error and its causes hold: the tensors that filled the memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    torch.cuda.empty_cache()

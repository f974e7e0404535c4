"""Forge as the protocol `Host`. As Forge does, it loads the checkpoint chosen in the page when that is needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import call_queue, sd_models

from lib_blocktrain.hosts.forge.model import ForgeModel, hookable_model
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.host import WebUIHost

_MODEL = "blocktrain_model"  # attribute of a checkpoint


class ForgeHost(WebUIHost):
    """The protocol `Host` in a running Forge, or in a fork of it with Forge 2's `backend`."""

    def __init__(self, name: str = "Forge") -> None:
        super().__init__(name, self._current_model)
        self._queue = threading.local()  # `held` is set in the thread that holds Forge's queue
        self._loading = threading.Lock()

    def _current_model(self) -> ForgeModel:
        """Return the model of the checkpoint, which keeps it: here it would hold a checkpoint that Forge frees."""
        sd_model = self._loaded()
        model: ForgeModel | None = getattr(sd_model, _MODEL, None)
        if model is None:
            model = hookable_model(sd_model)
            setattr(sd_model, _MODEL, model)
        return model

    @contextmanager
    def queued(self) -> Iterator[None]:
        with super().queued():
            self._queue.held = True
            try:
                yield
            finally:
                self._queue.held = False

    def _loaded(self) -> Any:
        """Return the checkpoint chosen in the page, loaded if need be; while others hold the queue, the loaded one.

        A page that opens asks several times at once: the first loads, and the others wait for it.
        """
        if getattr(self._queue, "held", False):
            return load()
        with self._loading:  # nobody waits for the queue inside
            if not is_current() and call_queue.queue_lock.acquire(blocking=False):
                try:
                    return load()
                finally:
                    call_queue.queue_lock.release()
        return sd_models.model_data.sd_model


def is_current() -> bool:
    """Whether the loaded checkpoint is the one chosen in the page."""
    data = sd_models.model_data
    return data.forge_hash == str(data.forge_loading_parameters)


def drawing() -> Any:
    """Return the checkpoint that draws the picture that is being made; raise NoModel.

    That is the loaded one. A refiner's, and hires fix's own, is another than the one chosen in the page: `load` would
    put that back in the middle of the picture.
    """
    sd_model = sd_models.model_data.sd_model
    return sd_model if hasattr(sd_model, "forge_objects_original") else load()


def load() -> Any:
    """Load and return the checkpoint chosen in the page; raise NoModel. The caller holds the WebUI's queue."""
    try:
        with torch.inference_mode():
            return sd_models.forge_model_reload()[0]
    except Exception as error:  # loaders may raise anything; the user must see it
        raise NoModel(f"Forge cannot load the checkpoint: {error}") from error

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


class ForgeHost(WebUIHost):
    """The protocol `Host` in a running Forge, or in a fork of it with Forge 2's `backend`."""

    def __init__(self, name: str = "Forge") -> None:
        super().__init__(name, self._current_model)
        self._model: ForgeModel | None = None
        self._queue = threading.local()  # `held` is set in the thread that holds Forge's queue
        self._loading = threading.Lock()

    def _current_model(self) -> ForgeModel:
        sd_model = self._loaded()
        if self._model is None or self._model.sd_model is not sd_model:
            self._model = hookable_model(sd_model)
        return self._model

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


def load() -> Any:
    """Load and return the checkpoint chosen in the page; raise NoModel. The caller holds the WebUI's queue."""
    try:
        with torch.inference_mode():
            return sd_models.forge_model_reload()[0]
    except Exception as error:  # loaders may raise anything; the user must see it
        raise NoModel(f"Forge cannot load the checkpoint: {error}") from error

"""Forge as the protocol `Host`: it loads a checkpoint when a picture asks for it, and so does this."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import call_queue, sd_models

from lib_blocktrain.hosts.forge.borrowed_weights import kept
from lib_blocktrain.hosts.forge.model import ForgeModel, checked
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.host import WebUIHost


class ForgeHost(WebUIHost):
    """The protocol `Host` in a running Forge."""

    name = "Forge"

    def __init__(self):
        self._model: ForgeModel | None = None
        self._queue = threading.local()  # `held` in the thread that holds Forge's

    def model(self) -> ForgeModel:
        sd_model = self._loaded()
        if self._model is None or self._model.sd_model is not sd_model:
            self._model = checked(sd_model)
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
        """Return the checkpoint chosen in the page, read from disk if need be; the one in use while others work."""
        if getattr(self._queue, "held", False):
            return load()
        if not is_current() and call_queue.queue_lock.acquire(blocking=False):
            try:
                return load()
            finally:
                call_queue.queue_lock.release()
        return sd_models.model_data.sd_model

    @contextmanager
    def _kept(self, model: ForgeModel) -> Iterator[None]:
        with model.given_back(), kept(model.sd_model), _same_checkpoint():
            yield


def is_current() -> bool:
    """Whether what is loaded is what was chosen in the page."""
    data = sd_models.model_data
    return data.forge_hash == str(data.forge_loading_parameters)


def load() -> Any:
    """Return the checkpoint chosen in the page, which the WebUI's queue must be held for; raise NoModel."""
    try:
        with torch.inference_mode():
            return sd_models.forge_model_reload()[0]
    except Exception as error:  # whatever a loader may raise, it is for the person who asked for the model
        raise NoModel(f"Forge cannot load the checkpoint: {error}") from error


class _Settled(str):
    """What is loaded, by a name that equals every other."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@contextmanager
def _same_checkpoint() -> Iterator[None]:
    """Draw with the checkpoint in use: one chosen in the page since then waits for the queue."""
    data = sd_models.model_data
    before = data.forge_hash
    data.forge_hash = _Settled(before)
    try:
        yield
    finally:
        data.forge_hash = before

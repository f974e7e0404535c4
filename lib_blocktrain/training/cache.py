"""Latents and text conditioning on disk, keyed by the content of all that they come from: never served stale.

What encodes is known by what it makes of a probe: another VAE, another clip skip, another precision give another key.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib_blocktrain.files import atomic_write
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.dataset import DatasetError, DatasetImage

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
_IN_MEMORY = 512 * 2**20  # bytes of a store that stay in memory; the rest is read again
_PROBE_TEXT = "a (probe:1.2) of the text encoder, [its] clip skip and its precision"


class TensorStore:
    """Tensors by key, in memory and, given a folder, on disk."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._memory: OrderedDict[str, Tensors] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """Return what has this key, made if it is not there yet or cannot be read."""
        found = self._memory.get(key) or self._read(key)
        if found is None:
            found = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
            self._write(key, found)
        self._remember(key, found)
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensors | None:
        if self.folder is None or not self._path(key).is_file():
            return None
        try:
            return safetensors.torch.load(self._path(key).read_bytes())  # no file stays open, as a map of it would
        except (OSError, safetensors.SafetensorError) as error:
            log.warning("%s cannot be read (%s): it is made anew", self._path(key), error)
            return None

    def _write(self, key: str, tensors: Tensors) -> None:
        if self.folder is not None:
            with atomic_write(self._path(key)) as temporary:
                temporary.write_bytes(safetensors.torch.save(tensors))

    def _remember(self, key: str, tensors: Tensors) -> None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return
        self._memory[key] = tensors
        self._bytes += _size(tensors)
        while self._bytes > _IN_MEMORY and len(self._memory) > 1:
            self._bytes -= _size(self._memory.popitem(last=False)[1])


class LatentCache:
    """A picture's latents `(4, h/8, w/8)`, fp32, on the CPU."""

    def __init__(self, model: Model, folder: Path | None):
        self._model, self._store = model, TensorStore(folder and folder / "latents")
        self._contents: dict[Path, str] = {}
        self._mark = _digest(_bytes_of({"probe": model.encode_image(_probe_picture()).float()}))

    def of(self, picture: DatasetImage, flipped: bool = False) -> Tensor:
        """Return the latents; raise DatasetError if the VAE gives none that are finite."""
        if picture.path not in self._contents:
            self._contents[picture.path] = _digest(picture.path.read_bytes())
        alpha = picture.mask == picture.path
        key = _digest(repr((self._mark, self._contents[picture.path], picture.fit, flipped, alpha)).encode())
        return self._store.get(key, lambda: {"latents": self._encode(picture, flipped)})["latents"]

    def _encode(self, picture: DatasetImage, flipped: bool) -> Tensor:
        image = picture.open()
        latents = self._model.encode_image(ImageOps.mirror(image) if flipped else image)[0].float()
        if not torch.isfinite(latents).all():
            raise DatasetError(f"{picture.path}: the VAE gives numbers that are not finite")
        return latents


class ConditioningCache:
    """The conditioning of a caption: tensors with a batch dimension of 1, on the CPU."""

    def __init__(self, model: Model, folder: Path | None):
        self._model, self._store = model, TensorStore(folder and folder / "texts")
        self._mark = _digest(_bytes_of(self._encode(_PROBE_TEXT)))

    def of(self, caption: str) -> Tensors:
        """Return the conditioning of a caption, by name."""
        key = _digest(repr((self._mark, caption)).encode())
        return self._store.get(key, lambda: self._encode(caption))

    @torch.no_grad()
    def _encode(self, caption: str) -> Tensors:
        return dict(self._model.encode_prompt(caption))


def _probe_picture() -> Image.Image:
    """A picture in which everything differs from everything; 64 pixels a side."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _bytes_of(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

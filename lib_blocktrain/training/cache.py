"""Latents and text conditioning in memory and on disk, by a key of everything that they depend on.

The models are part of the key by their weights' content, and settings by what the model makes of a fixed input: another
VAE, another clip skip or another precision gives another key, so that nothing stale is read. Of that output a few bits
differ from GPU to GPU: it is compared with the one that is stored beside the entries.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training import checked_file
from lib_blocktrain.training.augmentation import Color, colored
from lib_blocktrain.training.checked_file import CHECKSUM, DamagedFile
from lib_blocktrain.training.dataset import DatasetError, DatasetImage

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
_MEMORY_LIMIT = 512 * 2**20  # bytes of a store in memory; what comes later is read from the disk each time
_PASSING = 256  # captions of a single step that stay in memory: 75 MiB for SDXL
_SAME = 0.02  # relative difference of a probe's output up to which it is that of the same settings, on another GPU
_PROBE_TEXT = "a (probe:1.2) of the text encoder, [its] clip skip and its precision"


class TensorStore:
    """Tensors by key, in memory, up to `limit` bytes, and, given a folder, on disk."""

    def __init__(self, folder: Path | None, limit: float = _MEMORY_LIMIT):
        self._folder, self._limit = folder, limit
        # Filled once: an epoch asks for every entry in turn, and dropping the least recently used would drop them all.
        self._memory: dict[str, Tensors] = {}
        self._bytes = 0

    def get(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """Return the tensors of this key; they are made if there are none, or if their file cannot be read."""
        found = self._memory.get(key)
        if found is not None:
            return found
        path = self._folder and self._folder / key[:2] / f"{key}.safetensors"
        found = None if path is None else _read(path)
        if found is None:
            found = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
            if path is not None:
                checked_file.write(path, found, {})
        if self._bytes < self._limit:
            self._memory[key] = found
            self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        return found


def _read(path: Path) -> Tensors | None:
    """Return the tensors of a file, None where there is none whose checksum is right."""
    if not path.is_file():
        return None
    try:
        tensors, metadata = checked_file.read(path)
        if CHECKSUM in metadata:
            return tensors
        log.info("%s has no checksum, since an earlier version wrote it: it is made anew", path)
    except (OSError, DamagedFile) as error:
        log.warning("%s cannot be read (%s): it is made anew", path, error)
    return None


class LatentCache:
    """The latents of images, `(4, h/8, w/8)`, fp32, on the CPU."""

    def __init__(self, model: Model, folder: Path | None):
        self._model, self._store, self._mark = model, TensorStore(folder and folder / "latents"), ""
        self.contents: dict[Path, str] = {}  # the digest of each picture that was asked for
        if folder is not None:
            self._mark = _mark(folder / "latents", [model.vae], lambda: {"probe": model.encode_image(_noise_image())})

    def of(self, image: DatasetImage, flipped: bool = False) -> Tensor:
        """Return the latents of an image; raise DatasetError if the VAE gives none that are finite."""
        self.note_contents(image)
        alpha = image.mask == image.path
        key = _digest(repr((self._mark, self.contents[image.path], image.fit, flipped, alpha)).encode())
        return self._store.get(key, lambda: {"latents": self._encode(image, flipped)})["latents"]

    def key(self, image: DatasetImage, flipped: bool = False) -> str:
        """Return a text that is another one for another content, crop or side of an image."""
        self.note_contents(image)
        return repr((self.contents[image.path], image.fit, flipped))

    def passing(self, image: DatasetImage, flipped: bool, color: Color | None) -> Tensor:
        """Return the latents of an image that is cropped or coloured for a single step: they are not stored."""
        return self._encode(image, flipped, color).cpu()

    def note_contents(self, image: DatasetImage) -> None:
        """Put the digest of the picture's file into `contents`."""
        if image.path not in self.contents:
            self.contents[image.path] = _digest(image.path.read_bytes())

    def _encode(self, image: DatasetImage, flipped: bool, color: Color | None = None) -> Tensor:
        pixels = image.open() if color is None else colored(image.open(), color)
        latents = self._model.encode_image(ImageOps.mirror(pixels) if flipped else pixels)[0].float()
        if not torch.isfinite(latents).all():
            raise DatasetError(f"{image.path}: the VAE gives numbers that are not finite")
        return latents


class ConditioningCache:
    """The conditioning of captions: tensors with a batch dimension of 1, on the CPU."""

    def __init__(self, model: Model, folder: Path | None, max_tokens: int | None = None):
        self._model, self._max_tokens = model, max_tokens
        self._store, self._mark = TensorStore(folder and folder / "texts"), ""
        self._kept: set[str] = set()  # captions that were asked for as more than passing
        self._passing: OrderedDict[str, Tensors] = OrderedDict()  # the last one used is at the end
        if folder is not None:
            encoders = list(model.text_encoders.values())
            self._mark = _mark(folder / "texts", encoders, lambda: self._encode(_PROBE_TEXT))

    def of(self, caption: str, passing: bool = False) -> Tensors:
        """Return the conditioning of a caption, by name.

        One that is made for a single step, as by shuffling, is `passing`: it hardly comes again, and is not stored.
        """
        if passing and caption not in self._kept:
            return self._of_passing(caption)
        self._kept.add(caption)
        length = () if self._max_tokens is None else (self._max_tokens,)
        key = _digest(repr((self._mark, caption, *length)).encode())
        return self._store.get(key, lambda: self._encode(caption))

    def _of_passing(self, caption: str) -> Tensors:
        found = self._passing.pop(caption, None)
        if found is None:
            found = {name: tensor.detach().cpu() for name, tensor in self._encode(caption).items()}
        self._passing[caption] = found
        if len(self._passing) > _PASSING:
            self._passing.popitem(last=False)
        return found

    @torch.no_grad()
    def _encode(self, caption: str) -> Tensors:
        """Return the conditioning of a caption; raise DatasetError if it has numbers that are not finite."""
        conditioning = dict(prompt_encoder(self._model, self._max_tokens)(caption))
        if not all(torch.isfinite(tensor).all() for tensor in conditioning.values()):
            raise DatasetError(f"caption {caption!r}: the text encoder gives numbers that are not finite")
        return conditioning


def prompt_encoder(model: Model, max_tokens: int | None) -> Callable[[str], Mapping[str, Tensor]]:
    """Return what encodes a caption; `max_tokens` as in `Model.encode_prompt`."""
    return model.encode_prompt if max_tokens is None else partial(model.encode_prompt, max_tokens=max_tokens)


def _noise_image() -> Image.Image:
    """The same random pixels each time, 64 a side."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _mark(folder: Path, parts: Sequence[nn.Module], probe: Callable[[], Tensors]) -> str:
    """Return a text that is another one for other weights, or where other settings change what a model gives.

    The first such output is stored; a close one has the same mark, so that entries of another GPU are found.
    """
    weights = _weights_digest(parts)
    found = {name: tensor.detach().float().cpu().contiguous() for name, tensor in probe().items()}
    for path in sorted((folder / "models").glob(f"{weights}-*.safetensors")):
        stored = _read(path)
        if stored is not None and _is_close(found, stored):
            return path.stem
    mark = f"{weights}-{_digest(safetensors.torch.save(found))[:16]}"
    checked_file.write(folder / "models" / f"{mark}.safetensors", found, {})
    return mark


def _is_close(found: Tensors, stored: Tensors) -> bool:
    if {name: t.shape for name, t in found.items()} != {name: t.shape for name, t in stored.items()}:
        return False
    return all(float((found[name] - t).norm()) <= _SAME * float(t.norm()) for name, t in stored.items())


@torch.no_grad()
def _weights_digest(parts: Sequence[nn.Module]) -> str:
    """Return a digest of the dtypes, shapes and bits of the weights."""
    digest = hashlib.sha256()
    for part in parts:
        for tensor in (*part.parameters(), *part.buffers()):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            if tensor.numel():
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

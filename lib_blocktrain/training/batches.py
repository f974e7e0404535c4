"""Which images a step trains on, with which captions, and the batch of them: all follows from seed and step number."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib_blocktrain.training.augmentation import Color, drawn, pictures_vary
from lib_blocktrain.training.cache import ConditioningCache, LatentCache
from lib_blocktrain.training.captions import RunStep, augmented_caption
from lib_blocktrain.training.config import LossConfig
from lib_blocktrain.training.dataset import DatasetImage
from lib_blocktrain.training.rng import seed_of


@dataclass(frozen=True)
class Batch:
    """What one process trains on at once.

    `latents` `(batch, 4, h, w)`, fp32; `conditioning` by name, `(batch, ...)`, empty where the text encoder is
    trained; `sizes` `(batch, 6)`, SDXL's conditions; `mask` `(batch, 1, h, w)`, 0 to 1; `weights` `(batch,)` of the
    losses; `indices`: each sample's number among the `total` of all processes; `keys`: what its latents are of.
    """

    latents: Tensor
    conditioning: Mapping[str, Tensor]
    captions: tuple[str, ...]
    sizes: Tensor
    mask: Tensor | None
    weights: Tensor
    indices: tuple[int, ...]
    total: int
    keys: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device, without a wait for the GPU."""
        return replace(
            self,
            latents=sent(self.latents, device),
            conditioning={name: sent(tensor, device) for name, tensor in self.conditioning.items()},
            sizes=sent(self.sizes, device),
            mask=None if self.mask is None else sent(self.mask, device),
            weights=sent(self.weights, device),
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a GPU from pinned memory, for which the CPU does not wait."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class BatchSampler:
    """The order of the images: in every epoch each image `repeats` times, shuffled, each batch from one bucket.

    Images of different groups are never in one batch, and a group may have its own batch. In each group
    regularisation images are repeated until there are as many as training images, and left out from there on.
    """

    def __init__(self, images: Sequence[DatasetImage], size: int, seed: int, processes: int = 1):
        self._size, self._seed, self._processes = size, seed, processes
        self._buckets: dict[tuple[tuple[int, int], int], list[DatasetImage]] = {}
        for group in dict.fromkeys(image.group for image in images):
            members = [image for image in images if image.group == group]
            trained = [image for image in members if not image.regularisation for _ in range(image.repeats)]
            regularisation = [image for image in members if image.regularisation]
            for image in (*trained, *_as_many(regularisation, len(trained))):
                self._buckets.setdefault((image.fit.bucket, group), []).append(image)
        self._epoch: tuple[int, list[list[DatasetImage]]] = (-1, [])  # its number, and its batches

    @property
    def batches_per_epoch(self) -> int:
        return sum(-(-len(images) // self._batch_of(images)) for images in self._buckets.values())

    def batch(self, number: int) -> list[DatasetImage]:
        """Return the images of batch 0, 1, ..., counted through all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(random.Random(seed_of(self._seed, "epoch", epoch)))
        return self._epoch[1][position]

    def _shuffled(self, rng: random.Random) -> list[list[DatasetImage]]:
        batches = []
        for _, bucket in sorted(self._buckets.items()):
            images, size = rng.sample(bucket, len(bucket)), self._batch_of(bucket)
            batches += [images[i : i + size] for i in range(0, len(images), size)]
        rng.shuffle(batches)
        return batches

    def _batch_of(self, bucket: Sequence[DatasetImage]) -> int:
        """Return the images of a batch, those of all processes."""
        own = bucket[0].batch
        return self._size if own is None else own * self._processes


def _as_many(images: Sequence[DatasetImage], count: int) -> list[DatasetImage]:
    """Return each image as often as it is repeated until there are `count`, then one more of each in turn.

    As in sd-scripts the repeats of an image stay together, so that there may be some more.
    """
    found: list[DatasetImage] = []
    for image in images:
        if len(found) < count:
            found += [image] * image.repeats
    return found + list(itertools.islice(itertools.cycle(images), max(0, count - len(found))))


class BatchLoader:
    """Makes batches of images; with `conditioning` None their captions are left to be encoded in the step."""

    def __init__(self, latents: LatentCache, conditioning: ConditioningCache | None, loss: LossConfig, seed: int):
        self._latents, self._conditioning = latents, conditioning
        self._loss, self._seed = loss, seed
        self._mask = lru_cache(maxsize=4096)(_shrunk_mask)  # of this run: it may be painted anew before the next

    @property
    def has_conditioning(self) -> bool:
        """Whether batches have their captions encoded."""
        return self._conditioning is not None

    def load(
        self, images: Sequence[DatasetImage], number: int, indices: Sequence[int], total: int, at: RunStep | None = None
    ) -> Batch:
        """Return the batch of these images, which have these indices among the `total` of batch `number`.

        `at` is the step that the batch is of, for what grows with the steps.
        """
        rngs = [random.Random(seed_of(self._seed, "augment", number, index)) for index in indices]
        flips = [image.options.flip and rng.random() < 0.5 for image, rng in zip(images, rngs)]
        images, colors = _augmented(images, rngs)
        captions = [augmented_caption(image.caption, image.options, rng, at) for image, rng in zip(images, rngs)]
        return self._batch(images, flips, captions, tuple(indices), total, colors)

    def plain(self, images: Sequence[DatasetImage]) -> Batch:
        """Return the batch of these images without augmentation: for validation."""
        captions = [image.plain_caption for image in images]
        return self._batch(images, [False] * len(images), captions, tuple(range(len(images))), len(images))

    def of_class(self, batch: Batch) -> Batch:
        """Return the batch with the class's word in the place of the trigger, in every caption."""
        captions = tuple(class_caption(caption, self._loss) for caption in batch.captions)
        cache = self._conditioning
        conditioning = {} if cache is None else joined([cache.of(caption, passing=True) for caption in captions])
        return replace(batch, captions=captions, conditioning=conditioning)

    def _batch(
        self,
        images: Sequence[DatasetImage],
        flips: Sequence[bool],
        captions: Sequence[str],
        indices: tuple[int, ...],
        total: int,
        colors: Sequence[Color | None] | None = None,
    ) -> Batch:
        latents = torch.stack(
            [
                self._latents.of(image, flip)
                if colors is None or not pictures_vary(image.options)
                else self._latents.passing(image, flip, colors[place])
                for place, (image, flip) in enumerate(zip(images, flips))
            ]
        )
        weights = [self._loss.prior_weight if image.regularisation else 1.0 for image in images]
        cache = self._conditioning
        passing = [caption not in ("", image.plain_caption) for image, caption in zip(images, captions)]
        conditioning = {} if cache is None else joined([cache.of(*c) for c in zip(captions, passing)])
        masks = [
            (_shrunk_mask if image.options.random_crop else self._mask)(image, flip, latents.shape[-2:])
            for image, flip in zip(images, flips)
        ]
        mask = None
        if any(m is not None for m in masks):
            whole = torch.ones(1, *latents.shape[-2:])
            mask = torch.stack([whole if m is None else m for m in masks])
        sizes = torch.tensor([_sizes(image) for image in images])
        keys = tuple(self._latents.key(image, flip) for image, flip in zip(images, flips))
        weighed = torch.tensor(weights)
        return Batch(latents, conditioning, tuple(captions), sizes, mask, weighed, indices, total, keys)


def _augmented(
    images: Sequence[DatasetImage], rngs: Sequence[random.Random]
) -> tuple[list[DatasetImage], list[Color | None]]:
    """Return the images with the crop of this step, and how the colours of each are changed."""
    cropped: list[DatasetImage] = []
    colors: list[Color | None] = []
    for image, rng in zip(images, rngs):
        color = None
        if pictures_vary(image.options):
            fit, color = drawn(image.options, image.fit, rng)
            image = replace(image, fit=fit)
        cropped.append(image)
        colors.append(color)
    return cropped, colors


def class_caption(caption: str, loss: LossConfig) -> str:
    """Return the caption with the class's word in the place of the trigger, wherever it is."""
    return caption.replace(loss.trigger, loss.class_word)


def joined(conditionings: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return one batch of conditionings.

    The context of a long caption has several chunks of tokens. Contexts of different lengths are repeated until they
    are equally long: attention to a repeated context equals attention to the context.
    """
    length = math.lcm(*(c["context"].shape[1] for c in conditionings))
    whole = [{**c, "context": c["context"].repeat(1, length // c["context"].shape[1], 1)} for c in conditionings]
    return {name: torch.cat([c[name] for c in whole]) for name in whole[0]}


def _sizes(image: DatasetImage) -> list[float]:
    """SDXL's conditions (2307.01952, section 2.2): original height and width, top and left of the crop in the resized
    image, height and width of the bucket.
    """
    fit = image.fit
    (width, height), (to_width, to_height) = fit.original, fit.bucket
    return [float(side) for side in (height, width, fit.top, fit.left, to_height, to_width)]


def _shrunk_mask(image: DatasetImage, flip: bool, size: torch.Size) -> Tensor | None:
    """Return the mask at the latents' size `(1, h, w)`, each value the mean of its 8x8 pixels."""
    mask = image.open_mask()
    if mask is None:
        return None
    mask = ImageOps.mirror(mask) if flip else mask
    shrunk = mask.resize((size[1], size[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(shrunk, dtype=np.float32) / 255)[None]

"""Which pictures a step trains on, and the batch of them. Everything follows from the seed and the step's number."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lib_blocktrain.training.cache import ConditioningCache, LatentCache
from lib_blocktrain.training.captions import caption_of
from lib_blocktrain.training.config import DatasetConfig
from lib_blocktrain.training.dataset import DatasetImage
from lib_blocktrain.training.rng import seed_of


@dataclass(frozen=True)
class Batch:
    """What one process takes at once.

    `latents` `(batch, 4, h, w)`, fp32; `conditioning` by name, `(batch, ...)`, empty where the text encoder is
    trained; `mask` `(batch, 1, h, w)`, 0 to 1; `weights` `(batch,)` of the losses; `places`: each sample's number in
    the batch of all processes, `of` their number.
    """

    latents: Tensor
    conditioning: Mapping[str, Tensor]
    captions: tuple[str, ...]
    sizes: Tensor
    mask: Tensor | None
    weights: Tensor
    places: tuple[int, ...]
    of: int


class BatchSampler:
    """The order of the pictures: in every epoch each picture `repeats` times, shuffled, a batch from one bucket.

    Regularisation pictures are repeated, or left out, until there are as many as training pictures, as in sd-scripts.
    """

    def __init__(self, pictures: Sequence[DatasetImage], size: int, seed: int):
        self._size, self._seed = size, seed
        trained = [p for p in pictures if not p.regularisation for _ in range(p.repeats)]
        regularisation = [p for p in pictures if p.regularisation for _ in range(p.repeats)]
        added = itertools.islice(itertools.cycle(regularisation), len(trained)) if regularisation else ()
        self._buckets: dict[tuple[int, int], list[DatasetImage]] = {}
        for picture in (*trained, *added):
            self._buckets.setdefault(picture.fit.bucket, []).append(picture)
        self._epoch: tuple[int, list[list[DatasetImage]]] = (-1, [])

    @property
    def batches_an_epoch(self) -> int:
        return sum(-(-len(pictures) // self._size) for pictures in self._buckets.values())

    def batch(self, number: int) -> list[DatasetImage]:
        """Return the pictures of batch 0, 1, ..., counted through all epochs."""
        epoch, position = divmod(number, self.batches_an_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(random.Random(seed_of(self._seed, "epoch", epoch)))
        return self._epoch[1][position]

    def _shuffled(self, rng: random.Random) -> list[list[DatasetImage]]:
        batches = []
        for _, pictures in sorted(self._buckets.items()):
            pictures = rng.sample(pictures, len(pictures))
            batches += [pictures[i : i + self._size] for i in range(0, len(pictures), self._size)]
        rng.shuffle(batches)
        return batches


class BatchLoader:
    """Makes batches of pictures; `texts` None leaves the captions to be encoded in the step."""

    def __init__(
        self,
        config: DatasetConfig,
        latents: LatentCache,
        texts: ConditioningCache | None,
        prior_weight: float,
        seed: int,
    ):
        self._config, self._latents, self._texts = config, latents, texts
        self._prior_weight, self._seed = prior_weight, seed

    def load(self, pictures: Sequence[DatasetImage], number: int, places: Sequence[int], of: int) -> Batch:
        """Return the batch of these pictures, which have these places among the `of` of batch `number`."""
        rngs = [random.Random(seed_of(self._seed, "augment", number, place)) for place in places]
        flips = [self._config.flip and rng.random() < 0.5 for rng in rngs]
        captions = [caption_of(picture.caption, self._config, rng) for picture, rng in zip(pictures, rngs)]
        return self._batch(pictures, flips, captions, tuple(places), of)

    def plain(self, pictures: Sequence[DatasetImage]) -> Batch:
        """Return the batch of these pictures as they are: for validation."""
        captions = [picture.caption for picture in pictures]
        return self._batch(pictures, [False] * len(pictures), captions, tuple(range(len(pictures))), len(pictures))

    def _batch(
        self,
        pictures: Sequence[DatasetImage],
        flips: Sequence[bool],
        captions: Sequence[str],
        places: tuple[int, ...],
        of: int,
    ) -> Batch:
        latents = torch.stack([self._latents.of(picture, flip) for picture, flip in zip(pictures, flips)])
        weights = [self._prior_weight if picture.regularisation else 1.0 for picture in pictures]
        conditioning = {} if self._texts is None else joined([self._texts.of(caption) for caption in captions])
        masks = [_mask(picture, flip, latents.shape[-2:]) for picture, flip in zip(pictures, flips)]
        mask = None
        if any(m is not None for m in masks):
            whole = torch.ones(1, *latents.shape[-2:])
            mask = torch.stack([whole if m is None else m for m in masks])
        sizes = torch.tensor([_sizes(picture) for picture in pictures])
        return Batch(latents, conditioning, tuple(captions), sizes, mask, torch.tensor(weights), places, of)


def joined(conditionings: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return one batch of conditionings.

    A long caption's context comes in several chunks of tokens. Contexts of different lengths are repeated until they
    are equally long: attention to a whole context repeated is attention to the context.
    """
    length = math.lcm(*(c["context"].shape[1] for c in conditionings))
    whole = [{**c, "context": c["context"].repeat(1, length // c["context"].shape[1], 1)} for c in conditionings]
    return {name: torch.cat([c[name] for c in whole]) for name in whole[0]}


def _sizes(picture: DatasetImage) -> list[float]:
    """SDXL's conditions (2307.01952, section 2.2): original height and width, top and left of the cut in the resized
    picture, height and width of the bucket.
    """
    fit = picture.fit
    (width, height), (to_width, to_height) = fit.original, fit.bucket
    return [float(side) for side in (height, width, fit.top, fit.left, to_height, to_width)]


@lru_cache(maxsize=4096)
def _mask(picture: DatasetImage, flip: bool, size: torch.Size) -> Tensor | None:
    """Return the mask at the latents' size `(1, h, w)`, each number the share of its 8x8 pixels."""
    mask = picture.open_mask()
    if mask is None:
        return None
    mask = ImageOps.mirror(mask) if flip else mask
    shrunk = mask.resize((size[1], size[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(shrunk, dtype=np.float32) / 255)[None]

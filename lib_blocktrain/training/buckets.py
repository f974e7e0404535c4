"""Buckets: the sizes that images are cropped to, so that each batch has one size and little is lost.

sd-scripts' rules: sides are multiples of a step, the area is at most that of the run's size, an image goes to the
bucket of the nearest aspect ratio, is scaled until it covers it, and is cropped in the centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from lib_blocktrain.training.dataset_config import DatasetConfig

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Fit:
    """How an image is brought to its bucket: scaled from `original` to `resized`, then cropped from `left`, `top`."""

    original: Size
    resized: Size
    bucket: Size

    @property
    def left(self) -> int:
        return (self.resized[0] - self.bucket[0]) // 2

    @property
    def top(self) -> int:
        return (self.resized[1] - self.bucket[1]) // 2

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the image in its bucket's size."""
        if self.resized != image.size:
            shrinks_mask = image.mode == "L" and self.resized[0] < image.width
            image = image.resize(self.resized, Image.Resampling.BOX if shrinks_mask else Image.Resampling.LANCZOS)
        return image.crop((self.left, self.top, self.left + self.bucket[0], self.top + self.bucket[1]))


def bucket_sizes(area: Size, min_side: int, max_side: int, step: int) -> tuple[Size, ...]:
    """Return all bucket sizes for a training size (width, height), as sd-scripts' `make_bucket_resolutions`."""
    limit = area[0] * area[1]
    side = math.isqrt(limit) // step * step
    sizes = {(side, side)}
    for width in range(min_side, max_side + 1, step):
        height = min(max_side, limit // width // step * step)
        if height >= min_side:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(size for size in sizes if min(size) > 0))


def fit(original: Size, sizes: Sequence[Size]) -> Fit:
    """Return the bucket of the nearest aspect ratio and how to get there."""
    width, height = original
    if original in sizes:
        return Fit(original, original, original)
    bucket = min(sizes, key=lambda size: (abs(size[0] / size[1] - width / height), -size[0] * size[1]))
    scale = max(bucket[0] / width, bucket[1] / height)
    resized = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    return Fit(original, resized, bucket)


def fit_without_upscaling(original: Size, area: Size, step: int) -> Fit:
    """Return a bucket for this image alone: shrunk to the area if it is larger, sides cropped to the step."""
    width, height = original
    scale = min(1.0, math.sqrt(area[0] * area[1] / (width * height)))
    resized = round(width * scale), round(height * scale)
    bucket = resized[0] // step * step, resized[1] // step * step
    if min(bucket) == 0:
        raise ValueError(f"{width}x{height} pixels: expected at least {step} on each side, or upscale")
    return Fit(original, resized, bucket)


def fitting(config: DatasetConfig, native_size: int) -> Callable[[Size], Fit]:
    """Return the function that finds an image's Fit by its size; `native_size` is the model's, in pixels."""
    width = config.size or native_size
    area, step = (width, config.height or width), config.bucket_step
    if not config.buckets:
        return lambda original: fit(original, (area,))
    if not config.upscale:
        return lambda original: fit_without_upscaling(original, area, step)
    min_side = config.bucket_least or max(step, width // 2 // step * step)
    sizes = bucket_sizes(area, min_side, config.bucket_most or 2 * width, step)
    return lambda original: fit(original, sizes)

"""Buckets: the sizes that images are cropped to, so that each batch has one size and little is lost.

sd-scripts' rules (`BucketManager`, `make_bucket_resolutions`): sides are multiples of a step, the area is at most that
of the run's size, an image goes to the bucket of the nearest aspect ratio, is scaled until it covers it, and is cropped
in the centre. Without upscaling an image that is too large is shrunk to a multiple of the step on one side, the one
that keeps its aspect ratio better, and no image is enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from lib_blocktrain.training.config_json import check
from lib_blocktrain.training.dataset_config import SizeOptions

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

    @property
    def off_centre(self) -> tuple[int, ...]:
        """Left and top of a crop that is not in the centre, else nothing."""
        return ()

    def starting_at(self, left: int, top: int) -> Fit:
        """Return the same with the crop at this place of the resized image."""
        return PlacedFit(self.original, self.resized, self.bucket, (left, top))

    def focused(self, focus: tuple[float, float]) -> Fit:
        """Return the same with the crop as near to a place as the picture's edges allow; x and y are 0 to 1."""
        return FocusedFit(self.original, self.resized, self.bucket, focus)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the image in its bucket's size."""
        if self.resized != image.size:
            shrinks_mask = image.mode == "L" and self.resized[0] < image.width
            image = image.resize(self.resized, Image.Resampling.BOX if shrinks_mask else Image.Resampling.LANCZOS)
        return image.crop((self.left, self.top, self.left + self.bucket[0], self.top + self.bucket[1]))


@dataclass(frozen=True)
class FocusedFit(Fit):
    """A Fit whose crop is centred on `focus`, x and y from 0 to 1, instead of the middle.

    A class of its own, so that the cache's keys, made of a Fit's text, stay those of pictures without a focus.
    """

    focus: tuple[float, float]

    @property
    def left(self) -> int:
        return self._start(0)

    @property
    def top(self) -> int:
        return self._start(1)

    @property
    def off_centre(self) -> tuple[int, ...]:
        """Left and top of the crop."""
        return self.left, self.top

    def _start(self, axis: int) -> int:
        wanted = round(self.focus[axis] * self.resized[axis] - self.bucket[axis] / 2)
        return min(max(wanted, 0), self.resized[axis] - self.bucket[axis])


@dataclass(frozen=True)
class PlacedFit(Fit):
    """A Fit whose crop begins at `start` (left, top) of the resized image."""

    start: tuple[int, int]

    @property
    def left(self) -> int:
        return self.start[0]

    @property
    def top(self) -> int:
        return self.start[1]

    @property
    def off_centre(self) -> tuple[int, ...]:
        """Left and top of the crop."""
        return self.start


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
    """Return the bucket of the nearest aspect ratio, the first of several, and how to get there."""
    width, height = original
    aspect = width / height
    bucket = original if original in sizes else min(sizes, key=lambda size: abs(size[0] / size[1] - aspect))
    scale = bucket[1] / height if aspect > bucket[0] / bucket[1] else bucket[0] / width
    return Fit(original, (_rounded(width * scale), _rounded(height * scale)), bucket)


def fit_without_upscaling(original: Size, area: Size, step: int) -> Fit:
    """Return a bucket for this image alone; raise ValueError for an image that is smaller than a step."""
    width, height = original
    limit = area[0] * area[1]
    resized = original if width * height <= limit else _shrunk(width / height, limit, step)
    bucket = resized[0] // step * step, resized[1] // step * step
    if min(bucket) == 0:
        raise ValueError(f"{width}x{height} pixels: expected at least {step} on each side, or upscale")
    return Fit(original, resized, bucket)


def _shrunk(aspect: float, limit: int, step: int) -> Size:
    """Return the size of this aspect ratio and about this area with a multiple of the step as width or as height."""
    width, height = (_rounded(side) // step * step for side in (math.sqrt(limit * aspect), math.sqrt(limit / aspect)))
    by_width = width / max(1, _rounded(width / aspect) // step * step)  # the bucket's aspect ratio
    by_height = _rounded(height * aspect) // step * step / max(1, height)
    if abs(by_width - aspect) < abs(by_height - aspect):
        return width, _rounded(width / aspect)
    return _rounded(height * aspect), height


def _covers(original: Size, area: Size) -> bool:
    return original[0] >= area[0] and original[1] >= area[1]


def _rounded(side: float) -> int:
    return int(side + 0.5)


def fitting(config: SizeOptions, native_size: int, random_crop: bool = False) -> Callable[[Size], Fit]:
    """Return the function that finds an image's Fit by its size; `native_size` is the model's, in pixels.

    As in sd-scripts images that are cropped at random are not resized first where there are no buckets. Raises
    ConfigError for limits between which no bucket of this size lies.
    """
    width = config.size or native_size
    area, step = (width, config.height or width), config.bucket_step
    if not config.buckets:
        return lambda original: (
            Fit(original, original, area) if random_crop and _covers(original, area) else fit(original, (area,))
        )
    if not config.upscale:
        return lambda original: fit_without_upscaling(original, area, step)
    least, most = config.bucket_least, config.bucket_most
    check(least is None or least <= min(area), "dataset.bucket_least", least, f"up to {min(area)}, the shorter side")
    check(most is None or most >= max(area), "dataset.bucket_most", most, f"{max(area)}, the longer side, or more")
    min_side = max(step, (least or min(area) // 2) // step * step)
    max_side = math.ceil((most or 2 * max(area)) / step) * step
    sizes = bucket_sizes(area, min_side, max_side, step)
    check(bool(sizes), "dataset.bucket_step", step, f"up to {min(area)}, the shorter side")
    return lambda original: fit(original, sizes)

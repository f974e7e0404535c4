"""What is changed at random in a picture: where it is cropped and its colours, as in sd-scripts.

`random_crop`: `trim_and_resize_if_required` draws the left and then the top edge of the crop, each only where the
resized picture is longer than its bucket. `color_aug`: `AugHelper.color_aug` on a third of the draws, half of them a
shift of the hue by up to 8 of 180, half a gamma of 0.95 to 1.05, which there acts on the numbers from 0 to 255: 0.95
darkens 255 to 193. It takes RGB for BGR, so that the hue is that of the colour with red and blue exchanged.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from lib_blocktrain.training.buckets import Fit
from lib_blocktrain.training.dataset_config import ImageOptions

_HUES = 180  # of 8-bit HSV
_HUE_SHIFT = 8.0
_COLOR_SHARE = 0.33
_SHIFT = 12  # bits behind the point in the tables of 8-bit HSV

Color = Callable[[np.ndarray], np.ndarray]  # RGB (height, width, 3), uint8


def pictures_vary(options: ImageOptions) -> bool:
    """Whether a picture differs from step to step by more than a flip, so that its latents are made in the step."""
    return options.random_crop or options.color


def drawn(options: ImageOptions, fit: Fit, rng: random.Random) -> tuple[Fit, Color | None]:
    """Draw where a picture is cropped and how its colours are changed, in sd-scripts' order."""
    fit = _cropped_at_random(fit, rng) if options.random_crop else fit
    return fit, _color(rng) if options.color else None


def colored(image: Image.Image, color: Color) -> Image.Image:
    """Return an RGB image with its colours changed."""
    return Image.fromarray(color(np.asarray(image, dtype=np.uint8)))


def _cropped_at_random(fit: Fit, rng: random.Random) -> Fit:
    spare = [resized - bucket for resized, bucket in zip(fit.resized, fit.bucket)]
    left, top = (rng.randint(0, pixels) if pixels > 0 else 0 for pixels in spare)
    return fit.starting_at(left, top)


def _color(rng: random.Random) -> Color | None:
    if rng.random() > _COLOR_SHARE:
        return None
    if rng.random() > 0.5:
        shift = rng.uniform(-_HUE_SHIFT, _HUE_SHIFT)
        return lambda pixels: shifted_hue(pixels, shift)
    gamma = rng.uniform(0.95, 1.05)
    return lambda pixels: np.clip(pixels**gamma, 0, 255).astype(np.uint8)


def shifted_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Return RGB pixels `(..., 3)`, uint8, with the hue shifted by so many of 180, through 8-bit HSV as in OpenCV."""
    hue, saturation, value = _hsv(pixels)
    shift = _HUES + shift if shift < 0 else shift
    return _from_hsv(((hue + shift) % _HUES).astype(np.uint8), saturation, value)


def _hsv(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """OpenCV's `COLOR_BGR2HSV` in 8 bits, with the channels taken as blue, green and red."""
    blue, green, red = (pixels[..., channel].astype(np.int64) for channel in range(3))
    value, least = np.maximum(np.maximum(blue, green), red), np.minimum(np.minimum(blue, green), red)
    spread = value - least
    saturation = (spread * _table(255.0)[value] + (1 << (_SHIFT - 1))) >> _SHIFT
    of_green = np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    hue = np.where(value == red, green - blue, of_green)
    hue = (hue * _table(_HUES / 6)[spread] + (1 << (_SHIFT - 1))) >> _SHIFT
    return np.where(hue < 0, hue + _HUES, hue), saturation, value


def _table(scale: float) -> np.ndarray:
    return np.array([0, *(round((1 << _SHIFT) * scale / n) for n in range(1, 256))], dtype=np.int64)


def _from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """OpenCV's `COLOR_HSV2BGR` in 8 bits, which computes in fp32."""
    unit = np.float32(1 / 255)
    place = hue.astype(np.float32) * np.float32(6 / _HUES)
    sector = np.floor(place).astype(np.int64)
    rest, s, v = place - sector.astype(np.float32), saturation.astype(np.float32) * unit, value * unit
    levels = np.stack([v, v * (1 - s), v * (1 - s * rest), v * (1 - s * (1 - rest))]).astype(np.float32)
    order = np.array([[1, 3, 0], [1, 0, 2], [3, 0, 1], [0, 2, 1], [0, 1, 3], [2, 1, 0]])[sector % 6]
    channels = [np.take_along_axis(levels, order[..., channel][None], 0)[0] for channel in range(3)]
    return np.clip(np.rint(np.stack(channels, -1) * 255), 0, 255).astype(np.uint8)

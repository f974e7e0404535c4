"""Picture files from outside: opened within limits, upright, in eight bits; errors name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lib_blocktrain.files import PICTURE_FORMATS, error_text, one_of

MAX_PIXELS = 128_000_000  # of an image: decoded it takes less than a GiB
MAX_FILE_BYTES = 512 * 2**20  # of an image

# What Pillow raises for damaged images and for other files.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class DatasetError(ValueError):
    """A dataset that cannot be trained on; the message says which folder and why."""


def upright(path: Path) -> Image.Image:
    """Return an image with its EXIF orientation applied, the first frame of an animation; may raise DatasetError."""
    with opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image) or image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; an error that it causes while the context is open becomes a DatasetError that names it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB: expected a picture")
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{path}: {image.width}x{image.height} pixels: expected up to {MAX_PIXELS}")
            yield image
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path}: expected {one_of(PICTURE_FORMATS)}: it is damaged, or something else") from error
    except _UNREADABLE as error:
        message = error_text(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DatasetError(message if str(path) in message else f"{path}: {message}") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits with 8 bits; Pillow's own conversion clips values above 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may have transparent pixels: by a channel, a palette's entries or one transparent colour."""
    deep = image.mode.startswith("I")  # of 16 bits, which Pillow does not convert with their transparent colour
    return image.mode in ("RGBA", "LA", "PA") or ("transparency" in image.info and not deep)


def alpha_of(image: Image.Image) -> Image.Image:
    """Return the alpha channel, "L", however the image has it."""
    return image.convert("RGBA").getchannel("A")


def rgb(image: Image.Image) -> Image.Image:
    """Return an image without transparency, which becomes white."""
    if has_alpha(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")

"""Masks of pictures: `NAME.mask.png` beside a picture, white where the loss counts, from strokes or from a PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, ImageChops

from lib_blocktrain.analysis.regions import read_mask
from lib_blocktrain.training.buckets import Size
from lib_blocktrain.training.picture_files import alpha_of, eight_bits, upright
from lib_blocktrain.workspace.painted_masks import painted_mask

Mode = Literal["replace", "add", "erase"]

SUFFIX = ".mask.png"
MAX_SIDE = 2048  # pixels of a mask that is written; training enlarges it to the picture
SHOWN_SIDE = 1024
_PAINTED_SIDE = 1024


def painted(strokes: str, size: Size) -> Image.Image:
    """The mask of brush strokes for a picture of this size, "L"; raises ValueError for none, or wrong ones."""
    mask = painted_mask(strokes, _PAINTED_SIDE)
    if mask is None:
        raise ValueError("nothing is painted: paint over what the training is to look at")
    return mask.resize(mask_size(size), Image.Resampling.BILINEAR)


def from_png(content: bytes, size: Size) -> Image.Image:
    """The mask in a PNG for a picture of this size, "L"; of one with transparent parts, what is opaque."""
    image = read_mask(io.BytesIO(content), "the mask", ("PNG",))
    grey = _grey(image)
    return grey.resize(mask_size(size), Image.Resampling.BILINEAR) if grey.size != mask_size(size) else grey


def combined(new: Image.Image, old: Image.Image | None, mode: str) -> Image.Image:
    """The new mask alone, or with the old one; raises ValueError for another mode, or if nothing white is left."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode {mode[:40]!r}: expected one of {', '.join(get_args(Mode))}")
    base = Image.new("L", new.size) if old is None else old.resize(new.size, Image.Resampling.BILINEAR)
    if mode != "replace":
        new = ImageChops.lighter(base, new) if mode == "add" else ImageChops.subtract(base, new)
    if new.getextrema() == (0, 0):
        raise ValueError("the mask is black everywhere, so that the picture would not count: remove the mask instead")
    return new


def of_file(path: Path, side: int = MAX_SIDE) -> Image.Image:
    """The mask in a file as training reads it, "L", at most `side` pixels; raises DatasetError."""
    grey = eight_bits(upright(path)).convert("L")
    grey.thumbnail((side, side), Image.Resampling.BOX)
    return grey


def of_alpha(path: Path, side: int = MAX_SIDE) -> Image.Image:
    """The alpha of a picture as a mask, "L", at most `side` pixels; raises DatasetError."""
    alpha = alpha_of(upright(path))
    alpha.thumbnail((side, side), Image.Resampling.BOX)
    return alpha


def mask_size(size: Size) -> Size:
    """The size of the mask of a picture: its own, or that of its shape within `MAX_SIDE`."""
    scale = min(1.0, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def png(mask: Image.Image) -> bytes:
    data = io.BytesIO()
    mask.save(data, "PNG", optimize=True)
    return data.getvalue()


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = alpha_of(image)
        if alpha.getextrema() != (255, 255):
            return alpha
    return eight_bits(image).convert("L")

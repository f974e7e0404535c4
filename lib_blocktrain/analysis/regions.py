"""The part of the image that an analysis looks at (a box, a mask, or where a word of the prompt is), and its share.

A region is `(1, h, w)` at the latents' size, 0 to 1: the share of each position that counts.

A block at a coarse resolution sees a small feature as a single cell, or as a part of one: where a feature fills less
of the image than it did when weights were found, other blocks draw it. So weights have to be found again then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib_blocktrain.blocks import architecture, spans
from lib_blocktrain.files import PICTURE_FORMATS, one_of
from lib_blocktrain.training.picture_files import alpha_of, eight_bits, has_alpha

BINS = 128  # of the histogram in which Otsu's threshold is sought
MAX_MASK_SIDE = 8192  # pixels: a small file can hold a huge image

Box = tuple[float, float, float, float]  # left, top, right, bottom; 0 to 1


@dataclass(frozen=True)
class Feature:
    """The feature to analyse: a word of the prompt, a box, a mask, or the whole image."""

    word: str | None = None
    box: Box | None = None
    mask: Image.Image | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("word", "box", "mask") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} together: expected one of them")
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"box {self.box}: expected left < right and top < bottom, from 0 to 1")

    @property
    def given(self) -> bool:
        """Whether it is a part of the image rather than the whole."""
        return any(value is not None for value in (self.word, self.box, self.mask))

    @property
    def title(self) -> str:
        """Its name in tables and figures."""
        if self.word is not None:
            return f"the word “{self.word}”"
        if self.box is not None:
            return f"the box {','.join(f'{side:g}' for side in self.box)}"
        return "the whole picture" if self.mask is None else "the mask"


WHOLE_IMAGE = Feature()


def to_box(sides: Sequence[float]) -> Box:
    """Return the box of these sides; raises ValueError unless there are four."""
    if len(sides) != 4:
        raise ValueError(f"box {list(sides)}: expected four numbers: left, top, right, bottom")
    left, top, right, bottom = sides
    return left, top, right, bottom


def read_box(text: str) -> Box:
    """Read `left,top,right,bottom`, each 0 to 1; raises ValueError."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"box {text!r}: expected left,top,right,bottom, each 0 to 1, such as 0,0,0.5,1") from error
    return left, top, right, bottom


def read_mask(source: Path | BinaryIO, name: str, formats: tuple[str, ...] = PICTURE_FORMATS) -> Image.Image:
    """Read a mask from an image file, of any of the `formats`.

    Raises ValueError, with the `name`, for what is no image or has more than MAX_MASK_SIDE pixels a side.
    """
    try:
        with Image.open(source, formats=formats) as image:
            if max(image.size) > MAX_MASK_SIDE:
                raise ValueError(f"{name}, {image.width}x{image.height}: expected up to {MAX_MASK_SIDE} pixels a side")
            return image.copy()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None) is not None:  # of the file system, which says what and where
            raise
        raise ValueError(f"{name}: expected a picture as the mask: {one_of(formats)}") from error


def fixed_region(feature: Feature, size: tuple[int, int]) -> Tensor | None:
    """Return the region of a box or mask, `(1, h, w)`; None for a word, or for the whole image."""
    if feature.box is not None:
        return box_region(feature.box, size)
    return None if feature.mask is None else mask_region(feature.mask, size)


def box_region(box: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Return the region of a box (left, top, right, bottom; 0 to 1), `(1, h, w)`; positions cut by its edge count
    in part.
    """
    left, top, right, bottom = box
    rows, columns = _covered(top, bottom, size[0]), _covered(left, right, size[1])
    return torch.outer(rows, columns)[None]


def mask_region(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return the region of a mask, `(1, h, w)`: white counts; of an image with transparent parts, what is opaque."""
    shrunk = _coverage(mask).resize((size[1], size[0]), Image.Resampling.BOX)
    region = torch.from_numpy(np.asarray(shrunk, dtype=np.float32) / 255)[None]
    if not region.any():
        raise ValueError("the mask is black everywhere: expected white where the feature is")
    return region


def _coverage(mask: Image.Image) -> Image.Image:
    if has_alpha(mask):
        alpha = alpha_of(mask)
        if alpha.getextrema() != (255, 255):  # else it says nothing, as in masks that a program saved as RGBA
            return alpha
    return eight_bits(mask).convert("L")


def strong(heat: Tensor) -> Tensor:
    """Return where a word's attention `(h, w)` is strong, `(1, h, w)`: Otsu's threshold tells strong from weak."""
    return (heat >= otsu(heat)).float()[None]


def otsu(values: Tensor) -> float:
    """Return the threshold that parts values into two groups with the least spread inside them (Otsu 1979)."""
    counts, edges = np.histogram(values.numpy().ravel(), bins=BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    best = np.flatnonzero(between == np.nanmax(between))  # a row of empty bins is as good as any of them
    return float(edges[1:-1][best].mean())


def _covered(start: float, end: float, length: int) -> Tensor:
    """Return how much of each of `length` cells lies between start and end (0 to 1)."""
    cells = torch.arange(length, dtype=torch.float32)
    return ((cells + 1).clamp(max=end * length) - cells.clamp(min=start * length)).clamp(min=0)


ALIKE = 2.0  # shares that differ by more than this factor need weights of their own


@dataclass(frozen=True)
class View:
    """How blocks of one resolution see a feature: `height` and `width` of their grid, `cells` that it fills."""

    blocks: tuple[str, ...]
    height: int
    width: int
    cells: float


def views(share: float, architecture_id: str, latent: tuple[int, int]) -> tuple[View, ...]:
    """Return how each resolution sees a feature with this share of the image, the finest first.

    `latent` is height and width of the latents.
    """
    known = architecture(architecture_id)
    found = []
    for divisor in sorted({block.resolution_in for block in known.blocks}):
        height, width = (-(-side // divisor) for side in latent)
        ids = tuple(block.id for block in known.blocks if block.resolution_in == divisor)
        found.append(View(ids, height, width, share * height * width))
    return tuple(found)


def area_sentence(share: float, architecture_id: str, latent: tuple[int, int]) -> str:
    """Say how large a feature with this share is in the finest and the coarsest grid."""
    seen, order = views(share, architecture_id, latent), architecture(architecture_id).block_ids
    fine, coarse = seen[0], seen[-1]
    text = (
        f"The feature fills {_percent(share)} of the picture: {_cells(fine.cells)} of {fine.height}×{fine.width} where"
        f" the picture is finest ({spans(fine.blocks, order)}), {_cells(coarse.cells)} of"
        f" {coarse.height}×{coarse.width} where it is coarsest ({spans(coarse.blocks, order)})."
    )
    blind = [view for view in seen if view.cells < 1]
    if blind:
        ids = [spans(view.blocks, order) for view in blind]
        text += f" It is smaller than one cell in {', '.join(ids)}: they place it, but cannot draw it."
    return text


def area_warning(found_for: float | None, used_for: float | None) -> str:
    """Return a warning where weights are used for a share more than twofold from theirs; else, or if unknown, ""."""
    if not found_for or not used_for or max(found_for, used_for) <= ALIKE * min(found_for, used_for):
        return ""
    return (
        f"found for a feature that fills {_percent(found_for)} of the picture, used for one that fills"
        f" {_percent(used_for)}, more than twofold apart: other blocks may carry it, so analyse it again"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _cells(cells: float) -> str:
    return f"{cells:.0f} cells" if cells >= 1.5 else f"{cells:.1f} cells"

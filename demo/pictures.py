"""Images as tensors, and many images on one sheet."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_tensor(picture: Image.Image) -> Tensor:
    """Return an image as ``(3, h, w)`` in -1..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def sheet(pictures: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Return images of one size in a grid."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (255, 255, 255))
    for n, picture in enumerate(pictures):
        grid.paste(picture, (n % columns * (width + gap), n // columns * (height + gap)))
    return grid

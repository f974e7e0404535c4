"""Between PIL pictures and tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_tensor(picture: Image.Image) -> Tensor:
    """A picture as ``(3, h, w)`` in -1..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def as_picture(tensor: Tensor) -> Image.Image:
    """The inverse of ``as_tensor``, clipped."""
    levels = (tensor.float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).cpu().numpy())


def sheet(pictures: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size on a grid."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (255, 255, 255))
    for n, picture in enumerate(pictures):
        grid.paste(picture, (n % columns * (width + gap), n // columns * (height + gap)))
    return grid

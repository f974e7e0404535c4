"""How different two images look, by measures that need no neural network and no download.

`changed_share` is LoRA Block Weight's: the share of RGB samples that differ by more than 20 levels. It is blind to
small changes everywhere and to where the changed samples are. `perceived_difference` measures those too:

    D = (structure + colour) / 2, both 0 to 1
    structure = 1 - MS-SSIM of the lightness L* (Wang, Simoncelli & Bovik 2003), its scales weighed alike
    colour = mean over the same scales of the mean over the positions of dE / (dE + 50)

where dE is the CIE 1976 difference in L*a*b* (D65), of images blurred to that scale, as seen from a distance
(after S-CIELAB, Zhang & Wandell 1996). The scales halve the image until its shorter side would be below 11.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LEVELS = 20  # of 255: LoRA Block Weight's threshold
SCALES = 5  # at most
WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
HALF_DIFFERENCE = 50.0  # the dE that counts as half of the largest difference
_SRGB_TO_XYZ = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = torch.tensor([0.9505, 1.0, 1.089])  # D65


def changed_share(a: Image.Image, b: Image.Image) -> float:
    """Return the share, 0 to 1, of RGB samples that differ by more than 20 levels."""
    first, second = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in _alike(a, b))
    return float((np.abs(first - second) > LEVELS).mean())


def perceived_difference(a: Image.Image, b: Image.Image) -> float:
    """Return D, 0 (the same) to 1."""
    first, second = (to_lab(image) for image in _alike(a, b))
    scales = max(1, min(SCALES, int(np.log2(min(first.shape[-2:]) / WINDOW)) + 1))
    structure, colour = torch.ones(()), []
    for scale in range(scales):
        if scale:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
        luminance, contrast = _ssim(first[:, :1], second[:, :1])
        # luminance counts at the coarsest scale alone; a scale that is inverted counts as wholly different
        similar = (luminance * contrast if scale == scales - 1 else contrast).mean().clamp(min=0)
        structure = structure * similar ** (1 / scales)
        difference = (first - second).square().sum(dim=1).sqrt()
        colour.append((difference / (difference + HALF_DIFFERENCE)).mean())
    return float(((1 - structure) + torch.stack(colour).mean()) / 2)


def to_lab(image: Image.Image) -> Tensor:
    """Return CIE L*a*b* of an sRGB image (IEC 61966-2-1), `(1, 3, h, w)`: L* 0 to 100, a* and b* about +-100."""
    rgb = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij, jhw -> ihw", _SRGB_TO_XYZ, linear) / _WHITE.view(3, 1, 1)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])[None]


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM's luminance term and the product of its contrast and structure, at every position."""
    side = min(WINDOW, *a.shape[-2:])
    steps = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    line = torch.exp(-steps.square() / (2 * SIGMA**2))
    window = torch.outer(line, line) / line.sum() ** 2
    kernel = window[None, None]
    mean_a, mean_b = F.conv2d(a, kernel), F.conv2d(b, kernel)
    spread_a = F.conv2d(a * a, kernel) - mean_a.square()
    spread_b = F.conv2d(b * b, kernel) - mean_b.square()
    shared = F.conv2d(a * b, kernel) - mean_a * mean_b
    c1, c2 = (0.01 * 100) ** 2, (0.03 * 100) ** 2  # of L*'s range
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance, (2 * shared + c2) / (spread_a + spread_b + c2)


def _alike(a: Image.Image, b: Image.Image) -> tuple[Image.Image, Image.Image]:
    if a.size != b.size:
        raise ValueError(f"images of {a.width}x{a.height} and {b.width}x{b.height}: expected one size")
    return a, b

"""Whole images, each with one block lowered, and how different they are from the image with all blocks.

This is what LoRA Block Weight's Effective Block Analyzer does; over several seeds the figures have their noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_blocktrain.analysis.instrumented_model import active_blocks
from lib_blocktrain.analysis.perceptual import changed_share, perceived_difference
from lib_blocktrain.analysis.regions import WHOLE_IMAGE
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.blocks import REST
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights

Draw = Callable[[str, int, BlockWeights], Image.Image]  # prompt, seed, weights


@dataclass(frozen=True)
class Lowered:
    """An image with one block at another weight; `changed` is LoRA Block Weight's figure, `perceived` ours."""

    prompt: str
    seed: int
    block: str
    weights: BlockWeights
    image: Image.Image
    difference: Image.Image
    changed: float
    perceived: float


@dataclass(frozen=True)
class Rendered:
    """The images with all blocks under the `weights`, by prompt and seed, and those with one block lowered."""

    whole: dict[tuple[str, int], Image.Image]
    weights: BlockWeights
    lowered: tuple[Lowered, ...]


def render(
    draw: Draw,
    network: Network,
    weights: BlockWeights,
    at: Sequence[tuple[str, int]],
    *,
    value: float = 0.0,
    regions: Mapping[tuple[str, int], Image.Image] | None = None,
) -> Rendered:
    """Draw, for each prompt and seed, the image with all blocks and one a block with that block at `value`.

    `regions` are masks by prompt and seed: only what they show is compared. What `draw` raises ends it.
    """
    names = active_blocks(network, weights)
    whole: dict[tuple[str, int], Image.Image] = {}
    lowered: list[Lowered] = []
    for prompt, seed in at:
        whole[prompt, seed] = draw(prompt, seed, weights)
        region = None if regions is None else regions[prompt, seed]
        reference = masked(whole[prompt, seed], region)
        for block in names:
            changed = weights.replace({REST: weights.rest, block: value})
            image = draw(prompt, seed, changed)
            compared = masked(image, region)
            figures = changed_share(reference, compared), perceived_difference(reference, compared)
            shown = difference_map(reference, compared)
            lowered.append(Lowered(prompt, seed, block, changed, image, shown, *figures))
    return Rendered(whole, weights, tuple(lowered))


def analysis_of(rendered: Rendered, network: Network, model: str, *, perceived: bool = True) -> Analysis:
    """Return the images' figures: the perceived difference, or LoRA Block Weight's share of changed samples."""
    names = tuple(dict.fromkeys(cell.block for cell in rendered.lowered))
    cells = {(c.prompt, c.seed, c.block): c.perceived if perceived else c.changed for c in rendered.lowered}
    return Analysis(
        method="rendered",
        architecture=network.architecture,
        name=network.name,
        model=model,
        feature=WHOLE_IMAGE.title,
        blocks=names,
        observations=tuple(Observation(prompt, seed) for prompt, seed in rendered.whole),
        values=tuple(tuple(cells[prompt, seed, block] for block in names) for prompt, seed in rendered.whole),
    )


def masked(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Return the image with everything grey that the mask hides."""
    if mask is None:
        return image
    grey = Image.new("RGB", image.size, (128, 128, 128))
    return Image.composite(image.convert("RGB"), grey, mask.convert("L").resize(image.size, Image.Resampling.BILINEAR))


def difference_map(a: Image.Image, b: Image.Image) -> Image.Image:
    """Return where two images differ: black where they do not, white at half the range and above."""
    first, second = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (a, b))
    return Image.fromarray((np.abs(first - second).max(axis=2) * 2).clip(0, 255).astype(np.uint8))

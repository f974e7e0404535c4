"""The familiar way: whole pictures, each with one block lowered, and how far they are from the picture with all.

LoRA Block Weight's Effective Block Analyzer, with numbers that a second seed confirms or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_blocktrain.analysis.perceptual import changed_share, perceived_difference
from lib_blocktrain.analysis.results import Analysis, Observation
from lib_blocktrain.blocks import BASE, REST, architecture
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights

Draw = Callable[[str, int, BlockWeights], Image.Image]  # prompt, seed, weights
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lowered:
    """A picture with one block at another weight; `changed` is LoRA Block Weight's figure, `perceived` ours."""

    prompt: str
    seed: int
    block: str
    weights: BlockWeights
    picture: Image.Image
    difference: Image.Image
    changed: float
    perceived: float


@dataclass(frozen=True)
class Rendered:
    """The pictures with all blocks under the `weights`, by prompt and seed, and those with one block lowered."""

    whole: dict[tuple[str, int], Image.Image]
    weights: BlockWeights
    lowered: tuple[Lowered, ...]


def blocks_of(network: Network, weights: BlockWeights) -> tuple[str, ...]:
    """Return the blocks to be lowered: those that the network acts in under these weights."""
    there = network.blocks
    order = (BASE, REST, *architecture(network.architecture).block_ids)
    return tuple(block for block in order if there.get(block) and weights[block])


def render(
    draw: Draw,
    network: Network,
    weights: BlockWeights,
    at: Sequence[tuple[str, int]],
    *,
    value: float = 0.0,
    regions: Mapping[tuple[str, int], Image.Image] | None = None,
    progress: Progress | None = None,
) -> Rendered:
    """Draw, for each prompt and seed, the picture with all blocks and one a block with that block at `value`.

    `regions` are masks by prompt and seed: only what they show is compared. What `progress` or `draw` raise ends it.
    """
    names = blocks_of(network, weights)
    if not names:
        raise ValueError(f"{network.name!r} acts in no block under the weights {weights.to_line()}")
    whole, lowered = {}, []
    total = len(at) * (len(names) + 1)
    for prompt, seed in at:
        whole[prompt, seed] = draw(prompt, seed, weights)
        _report(progress, len(whole) + len(lowered), total)
        region = None if regions is None else regions[prompt, seed]
        reference = seen_through(whole[prompt, seed], region)
        for block in names:
            changed = weights.replace({REST: weights.rest, block: value})
            picture = draw(prompt, seed, changed)
            compared = seen_through(picture, region)
            figures = changed_share(reference, compared), perceived_difference(reference, compared)
            shown = difference_picture(reference, compared)
            lowered.append(Lowered(prompt, seed, block, changed, picture, shown, *figures))
            _report(progress, len(whole) + len(lowered), total)
    return Rendered(whole, weights, tuple(lowered))


def analysis_of(rendered: Rendered, network: Network, model: str, *, perceived: bool = True, **facts) -> Analysis:
    """Return the figures of the sheet: the perceived difference, or LoRA Block Weight's share; `facts` go along."""
    names = tuple(dict.fromkeys(cell.block for cell in rendered.lowered))
    cells = {(c.prompt, c.seed, c.block): c.perceived if perceived else c.changed for c in rendered.lowered}
    return Analysis(
        method="rendered",
        architecture=network.architecture,
        name=network.name,
        model=model,
        blocks=names,
        observations=tuple(Observation(prompt, seed) for prompt, seed in rendered.whole),
        values=tuple(tuple(cells[prompt, seed, block] for block in names) for prompt, seed in rendered.whole),
        **{"feature": "the whole picture", **facts},
    )


def seen_through(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Return the picture with everything grey that the mask hides."""
    if mask is None:
        return picture
    grey = Image.new("RGB", picture.size, (128, 128, 128))
    return Image.composite(picture.convert("RGB"), grey, mask.convert("L").resize(picture.size, Image.BILINEAR))


def difference_picture(a: Image.Image, b: Image.Image) -> Image.Image:
    """Return where two pictures differ: black where they do not, white at half the range and above."""
    first, second = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (a, b))
    return Image.fromarray((np.abs(first - second).max(axis=2) * 2).clip(0, 255).astype(np.uint8))


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)

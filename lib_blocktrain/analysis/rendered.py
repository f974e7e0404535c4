"""Whole images, each with one block lowered: their difference from the image with all blocks, and a contact sheet.

This is what LoRA Block Weight's Effective Block Analyzer does; over several seeds the figures have their noise.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


SIDE, MARGIN, LINE = 192, 8, 12  # pixels
CHARACTERS = SIDE // 6  # of a caption's line, in the default font
PAPER, INK, FAINT = (250, 250, 252), (30, 36, 50), (100, 106, 120)


def contact_sheet(rendered: Rendered, prompt: str, seed: int, columns: int = 6) -> Image.Image:
    """Return the sheet of one prompt and seed: all blocks first, then each block's image over its difference."""
    cells = [cell for cell in rendered.lowered if (cell.prompt, cell.seed) == (prompt, seed)]
    if not cells:
        raise ValueError(f"no picture of {prompt!r} with seed {seed} was drawn")
    drawn = [_cell(rendered.whole[prompt, seed], None, "all blocks", rendered.weights)]
    drawn += [_cell(cell.image, cell.difference, _title(cell), cell.weights) for cell in cells]
    return _in_rows(drawn, min(columns, len(drawn)))


def _title(cell: Lowered) -> str:
    return f"{cell.block}: {cell.perceived:.3f} perceived, {cell.changed:.1%} changed"


def _cell(image: Image.Image, difference: Image.Image | None, title: str, weights: BlockWeights) -> Image.Image:
    lines = textwrap.wrap(title, CHARACTERS)
    vector = textwrap.wrap(weights.to_line(with_architecture=True).replace(",", ", "), CHARACTERS)
    height = _resized(image).height
    cell = Image.new("RGB", (SIDE, 2 * height + MARGIN + LINE * (len(lines) + len(vector))), PAPER)
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default()
    y = 0
    for text, colour in [(line, INK) for line in lines] + [(line, FAINT) for line in vector]:
        draw.text((0, y), text, fill=colour, font=font)
        y += LINE
    cell.paste(_resized(image), (0, y))
    if difference is not None:
        cell.paste(_resized(difference).convert("RGB"), (0, y + height + MARGIN // 2))
    return cell


def _resized(image: Image.Image) -> Image.Image:
    size = SIDE, round(image.height * SIDE / image.width)
    return image.resize(size, Image.Resampling.NEAREST if image.width * 2 <= SIDE else Image.Resampling.LANCZOS)


def _in_rows(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + MARGIN for row in rows]
    whole = Image.new("RGB", (columns * (SIDE + MARGIN) + MARGIN, sum(heights) + MARGIN), PAPER)
    y = MARGIN
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            whole.paste(cell, (MARGIN + column * (SIDE + MARGIN), y))
        y += height
    return whole

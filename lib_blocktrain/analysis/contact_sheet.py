"""One sheet with all images of a rendered analysis, each with its figures and block weights."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lib_blocktrain.analysis.rendered import Lowered, Rendered
from lib_blocktrain.weights.block_weights import BlockWeights

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

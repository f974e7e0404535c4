"""The layout of the U map: IN from the left inwards and down, OUT mirrored, M00 at the bottom.

Horizontal lengths are in thousandths of the map's width, so that it fits any width; vertical ones are in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lib_blocktrain.blocks import BASE, Architecture, Block
from lib_blocktrain.ui.u_map_facts import level

WIDTHS = {1: 130, 2: 122, 4: 114, 8: 106}  # of a block, by level: wider where the resolution is higher
CENTRES = {1: 172, 2: 166, 4: 158, 8: 150}  # between the two sides
GAP = 12
BLOCK_HEIGHT, LANES_HEIGHT, LANE = 54, 20, 5  # the skip connections of a level run in lanes below it
ABOVE = 26  # for the handles of the sides
BESIDE = 3  # blocks of a level on each side
TINY_HEIGHT = 220  # of a preset card's map, whose width is 1000


@dataclass(frozen=True)
class Box:
    """``left`` and ``width`` are horizontal, ``top`` vertical."""

    left: float
    top: int
    width: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def style(self) -> str:
        return f"left:{self.left / 10:g}%;top:{self.top}px;width:{self.width / 10:g}%"


def partner(block: Block) -> str:
    """The block at the other end of the skip connection."""
    assert block.skip is not None, f"{block.id} has no skip connection"
    return block.skip


def levels(known: Architecture) -> list[int]:
    """The levels from above: how often the latent's side was halved, as divisors."""
    return sorted({level(block) for block in known.blocks})


def side_width(divisor: int) -> int:
    """The width of a level's blocks on one side."""
    return BESIDE * WIDTHS[divisor] + (BESIDE - 1) * GAP


def row_top(row: int) -> int:
    """The top of a level's blocks."""
    return ABOVE + row * (BLOCK_HEIGHT + LANES_HEIGHT)


def layout(known: Architecture) -> dict[str, Box]:
    """The boxes of the blocks and of BASE."""
    boxes: dict[str, Box] = {}
    for row, divisor in enumerate(levels(known)):
        width = WIDTHS[divisor]
        left = (1000 - CENTRES[divisor]) / 2 - side_width(divisor)
        incoming = [block for block in known.blocks if block.id.startswith("IN") and level(block) == divisor]
        for column, block in enumerate(incoming):
            box = Box(left + column * (width + GAP), row_top(row), width)
            boxes[block.id] = box
            boxes[partner(block)] = Box(1000 - box.right, box.top, width)
    width = WIDTHS[levels(known)[-1]]
    boxes["M00"] = Box(500 - width / 2, row_top(len(levels(known))), width)
    boxes[BASE] = Box(0, boxes["M00"].top, width)
    return boxes


def height(known: Architecture) -> int:
    """The height of the whole map."""
    return row_top(len(levels(known))) + BLOCK_HEIGHT


def skip_paths(known: Architecture) -> dict[str, str]:
    """The skip connection of each IN block as SVG path data. Partners mirror each other, so that the lines nest."""
    boxes = layout(known)
    paths = {}
    for block in known.blocks:
        if block.id.startswith("IN"):
            box, other = boxes[block.id], boxes[partner(block)]
            bottom = box.top + BLOCK_HEIGHT
            lane = bottom + (BESIDE - int(block.id[2:]) % BESIDE) * LANE
            paths[block.id] = f"M{box.middle:g} {bottom}V{lane}H{other.middle:g}V{bottom}"
    return paths


def flow_paths(known: Architecture) -> list[str]:
    """SVG path data of the way from the last IN block through M00 to the first OUT block."""
    boxes = layout(known)
    first, middle = boxes["OUT00"], boxes["M00"]
    last = boxes[partner(known.block("OUT00"))]
    across = last.top + BLOCK_HEIGHT // 2
    return [
        f"M{last.right:g} {across}H{last.right + 11:g}V{middle.top + 27}H{middle.left:g}",
        f"M{middle.right:g} {middle.top + 27}H{first.left - 11:g}V{across}H{first.left:g}",
    ]


def tiny(known: Architecture, weights: Mapping[str, float], title: str) -> Markup:
    """A small picture of weights, as SVG with this title."""
    scale = TINY_HEIGHT / height(known)
    tall = BLOCK_HEIGHT * scale
    paths = {"room": "", "plus": "", "minus": ""}
    for block_id, box in layout(known).items():
        weight = weights.get(block_id, 0.0)
        bottom = box.top * scale + tall
        filled = min(abs(weight), 1.0) * tall
        for kind, up in (("room", tall), ("minus" if weight < 0 else "plus", filled)):
            if up:
                paths[kind] += f"M{box.left:.0f} {bottom:.0f}h{box.width:.0f}v-{up:.0f}h-{box.width:.0f}z"
    path = Markup('<path class="blocktrain-u-{}" d="{}"/>')
    return Markup(
        '<svg class="blocktrain-u-tiny" viewBox="0 0 1000 {}" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}</svg>'
    ).format(TINY_HEIGHT, title, Markup("").join(path.format(*shape) for shape in paths.items() if shape[1]))

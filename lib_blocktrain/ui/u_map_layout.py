"""Where the blocks stand in the U map: a row for each resolution, IN on the left, OUT mirrored, M00 at the foot.

`style.css` turns rows and columns into lengths, which differ by the page's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lib_blocktrain.blocks import BASE, Architecture, Block
from lib_blocktrain.ui.u_map_facts import level

BESIDE = 3  # blocks of a row on each side
TINY_WIDTH, TINY_BLOCK, TINY_STEP, TINY_INDENT = 48, (5, 4), (6, 5), 1.5  # of a small map: the sketch's units


@dataclass(frozen=True)
class Place:
    """A block's row from above, and its column from the outer edge of its side ("in", "out", "mid" or "base")."""

    side: str
    row: int
    column: int = 0

    @property
    def style(self) -> str:
        return f"--blocktrain-u-row:{self.row};--blocktrain-u-col:{self.column}"


def partner(block: Block) -> str:
    """The block at the other end of the skip connection."""
    assert block.skip is not None, f"{block.id} has no skip connection"
    return block.skip


def levels(known: Architecture) -> list[int]:
    """The levels from above: how often the latent's side was halved, as divisors."""
    return sorted({level(block) for block in known.blocks})


def places(known: Architecture) -> dict[str, Place]:
    """The places of the blocks and of BASE. Skip partners have the same row and column, on opposite sides."""
    found: dict[str, Place] = {}
    for row, divisor in enumerate(levels(known)):
        incoming = [block for block in known.blocks if block.id.startswith("IN") and level(block) == divisor]
        for column, block in enumerate(incoming):
            found[block.id] = Place("in", row, column)
            found[partner(block)] = Place("out", row, column)
    foot = len(levels(known))
    return {**found, "M00": Place("mid", foot), BASE: Place("base", foot)}


def tiny(known: Architecture, weights: Mapping[str, float], title: str) -> Markup:
    """A small picture of weights, as SVG with this title; one path for the blocks of each weight."""
    (width, height), (across, down) = TINY_BLOCK, TINY_STEP
    paths: dict[float, str] = {}
    found = places(known)
    for block_id, place in found.items():
        if place.side == "base":
            continue
        left = place.row * TINY_INDENT + place.column * across
        x = {"in": left, "out": TINY_WIDTH - width - left, "mid": (TINY_WIDTH - width) / 2}[place.side]
        weight = max(-1.0, min(1.0, weights.get(block_id, 0.0)))
        paths[weight] = paths.get(weight, "") + f"M{x:g} {place.row * down}h{width}v{height}h-{width}z"
    shape = Markup('<path class="blocktrain-u-{}" style="--blocktrain-w:{:g}" d="{}"/>')
    return Markup('<svg class="blocktrain-u-tiny" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        TINY_WIDTH,
        found["M00"].row * down + height,
        title,
        Markup("").join(shape.format("minus" if weight < 0 else "plus", abs(weight), d) for weight, d in paths.items()),
    )

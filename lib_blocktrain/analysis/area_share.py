"""What share of the image a feature fills, and how many cells of each block's grid that is.

A block at a coarse resolution sees a small feature as a single cell, or as a part of one: where a feature fills less
of the image than it did when weights were found, other blocks draw it. So weights have to be found again then.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_blocktrain.blocks import architecture, spans

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
        f"The feature fills {_percent(share)} of the picture: {_cells(fine.cells)} of {fine.height}x{fine.width} where"
        f" the picture is finest ({spans(fine.blocks, order)}), {_cells(coarse.cells)} of"
        f" {coarse.height}x{coarse.width} where it is coarsest ({spans(coarse.blocks, order)})."
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

"""The U map: the blocks as a U, as HTML that ``javascript/u_map.js`` brings to life.

Everything that does not move is made here, so that the map is there, at its full size, before any script has run. In
the page a map is tied to sliders by the beginning of their ids and follows them; without sliders it only shows. Any
number of maps may be in a page. What comes from files and people is text, and never becomes markup.

What a map shows besides the sliders stands in its attributes, which a script may set too (docs in ``u_map.js``):
``data-values``, JSON, block id to number, colours the blocks under ``data-values-title``; ``data-weights``, likewise,
are the weights of a map without sliders. From Python a new ``UMap(...).html()`` in the same place does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from lib_blocktrain.blocks import ARCHITECTURES, BASE, Architecture
from lib_blocktrain.ui.u_map_facts import LAYER_NAMES, cells, facts, level
from lib_blocktrain.ui.u_map_layout import (
    CENTRES,
    Box,
    flow_paths,
    height,
    layout,
    levels,
    row_top,
    side_width,
    skip_paths,
)

SCALE = 'aria-orientation="vertical" aria-valuemin="-1" aria-valuemax="2" aria-valuenow="1"'  # until the sliders say
LEGEND = ("res", "attn", "down", "up")
TOOLS = (  # what it does, its sign, its name, its help
    ("undo", "↶", "Undo", "Undo (Ctrl+Z)"),
    ("redo", "↷", "Redo", "Redo (Ctrl+Shift+Z)"),
    ("zero", "0", "Set to 0", "Selected blocks, or all, to 0: the LoRA does not act there"),
    ("one", "1", "Set to 1", "Selected blocks, or all, to 1: the LoRA acts as it is"),
    ("link", "⇄", "Link skip partners", "A block’s skip partner takes its weight too"),
)
GAP_BESIDE = 18  # of a handle in the middle, to the blocks or the lines beside it
SHAPES = ("linear", "sine", "cosine")
HINT = (
    "Drag a block, scroll over it, or type a number; Shift is finer. Double-click: 0 or 1. "
    "Click selects, Ctrl+click adds, Shift+click selects up to there; what is selected moves together."
)


@dataclass(frozen=True)
class UMap:
    """What one map shows. ``sliders`` is how the names of its widgets begin: "w_" for "w_IN00".

    ``absent`` says by block why nothing can be set there; ``subject`` whose weights these are: with another one the
    history begins anew. ``values`` are shown as colour under ``title``; ``weights`` are for a map without sliders.
    """

    name: str
    architecture: str
    sliders: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    values: Mapping[str, float] | None = None
    title: str = ""
    weights: Mapping[str, float] | None = None

    def html(self) -> str:
        """The map's HTML."""
        known = ARCHITECTURES[self.architecture]
        data = {
            "architecture": self.architecture,
            "sliders": f"blocktrain_{self.sliders}" if self.sliders else "",
            "subject": self.subject,
            "values": "" if self.values is None else json.dumps(dict(self.values)),
            "values-title": self.title,
            "weights": "" if self.weights is None else json.dumps(dict(self.weights)),
        }
        handles = "".join(_handles(known)) if self.sliders else ""
        return (
            f'<div class="blocktrain-u" id="blocktrain_u_{self.name}" {_data(data)}>'
            f"{_tools() if self.sliders else ''}"
            f'<div class="blocktrain-u-plane" role="group" aria-label="Block weights of {known.title} as a U" '
            f'style="height:{height(known)}px">{_lines(known)}{handles}{"".join(self._blocks(known))}</div>'
            f"{_legend()}</div>"
        )

    def _blocks(self, known: Architecture) -> Iterator[str]:
        boxes = layout(known)
        for block_id in (*known.block_ids, BASE):
            data = {"block": block_id, "side": block_id.rstrip("0123456789"), "absent": self.absent.get(block_id, "")}
            kinds: tuple[str, ...] = ()
            if block_id != BASE:
                block = known.block(block_id)
                kinds = block.layers
                data |= {"level": str(level(block)), "partner": block.skip or ""}
            tip_id = f"blocktrain_u_{self.name}_{block_id}_tip"
            role = f'role="slider" tabindex="-1" {SCALE}' if self.sliders else 'role="img"'
            yield (
                f'<div class="blocktrain-u-block" {_data(data)} {role} aria-label="{block_id}" '
                f'aria-describedby="{tip_id}" style="{boxes[block_id].style}">'
                '<span class="blocktrain-u-well"><span class="blocktrain-u-fill"></span></span>'
                f'<b>{block_id}</b><span class="blocktrain-u-weight"></span>'
                '<span class="blocktrain-u-foot">'
                f'<span class="blocktrain-u-layers">{"".join(map(_glyph, kinds))}</span>'
                '<span class="blocktrain-u-value"></span></span>'
                f"{self._tip(block_id, tip_id, boxes[block_id])}</div>"
            )

    def _tip(self, block_id: str, tip_id: str, box: Box) -> str:
        across = "left" if box.middle < 450 else "right" if box.middle > 550 else "middle"
        lines = [self.absent[block_id]] if block_id in self.absent else []
        body = "".join(f"<span>{escape(line)}</span>" for line in (*lines, *facts(self.architecture, block_id)))
        return (
            f'<span class="blocktrain-u-tip blocktrain-u-{across}" role="tooltip" id="{tip_id}">'
            f'<strong>{block_id}<span class="blocktrain-u-told"></span></strong>{body}</span>'
        )


def _data(data: Mapping[str, str]) -> str:
    return " ".join(f'data-{name}="{escape(value, quote=True)}"' for name, value in data.items())


def _glyph(kind: str) -> str:
    return f'<i class="blocktrain-u-{kind}"></i>'


def _lines(known: Architecture) -> str:
    paths = [f'<path class="blocktrain-u-flow" d="{shape}"/>' for shape in flow_paths(known)]
    for block_id, shape in skip_paths(known).items():
        paths.append(f'<path class="blocktrain-u-skip" data-skip="{block_id}" d="{shape}"/>')
    view = f'viewBox="0 0 1000 {height(known)}" preserveAspectRatio="none"'
    return f'<svg class="blocktrain-u-lines" {view} aria-hidden="true">{"".join(paths)}</svg>'


def _handles(known: Architecture) -> Iterator[str]:
    """What moves a side or a level; the middle is one block, and its own handle."""
    for side, left in (("IN", 0), ("OUT", 1000 - side_width(1))):
        yield _handle("side", side, f"{side} blocks", side, Box(left, 0, side_width(1)))
    for row, divisor in enumerate(levels(known)):
        side = cells(known, divisor)
        width = CENTRES[divisor] - 2 * (GAP_BESIDE + 10 if divisor == levels(known)[-1] else GAP_BESIDE)
        box = Box(500 - width / 2, row_top(row) + 14, width)
        yield _handle("level", str(divisor), f"blocks of {side} × {side} cells", f"{side}×{side}", box)


def _handle(kind: str, value: str, label: str, text: str, box: Box) -> str:
    return (
        f'<div class="blocktrain-u-handle" data-group="{kind}" data-of="{value}" role="slider" tabindex="0" {SCALE} '
        f'aria-label="All {label}" title="All {label}: drag, scroll or type moves them together; a click selects them" '
        f'style="{box.style}"><span>{text}</span></div>'
    )


def _tools() -> str:
    buttons = []
    for name, sign, label, help_text in TOOLS:
        pressed = ' aria-pressed="false"' if name == "link" else ""
        buttons.append(
            f'<button type="button" data-tool="{name}"{pressed} aria-label="{label}" title="{help_text}">'
            f'<span aria-hidden="true">{sign}</span></button>'
        )
    return (
        f'<div class="blocktrain-u-tools" role="toolbar" aria-label="U map">{"".join(buttons)}{_curve()}'
        f'<span class="blocktrain-u-selected" role="status"></span>'
        f'<span class="blocktrain-u-help" tabindex="0" role="note" aria-label="{HINT}" title="{HINT}">?</span></div>'
    )


def _curve() -> str:
    shapes = "".join(f'<option value="{shape}">{shape}</option>' for shape in SHAPES)
    return (
        '<details class="blocktrain-u-curve">'
        '<summary title="Set the weights along a curve, in the order of the blocks">Curve</summary><div>'
        '<label>Shape <select data-curve="shape">'
        f'{shapes}</select></label><label><input type="checkbox" data-curve="reverse"> reversed</label>'
        '<label>Low <input type="number" step="0.05" value="0" data-curve="low"></label>'
        '<label>High <input type="number" step="0.05" value="1" data-curve="high"></label>'
        '<label>Of <select data-curve="of"><option value="selection">what is selected</option>'
        '<option value="IN">IN</option><option value="OUT">OUT</option><option value="all">all blocks</option></select>'
        '</label><svg viewBox="-2 -2 104 34" aria-hidden="true"><path/></svg>'
        '<button type="button" data-tool="curve">Set</button>'
        '<p class="blocktrain-u-said" role="status"></p></div></details>'
    )


def _legend() -> str:
    kinds = "".join(f"<li>{_glyph(kind)}{LAYER_NAMES[kind]}</li>" for kind in LEGEND)
    return (
        f'<ul class="blocktrain-u-legend"><li><i class="blocktrain-u-key-weight"></i>weight</li>{kinds}'
        '<li><i class="blocktrain-u-key-skip"></i>skip connection</li>'
        '<li class="blocktrain-u-key-values" hidden><i></i><span></span></li></ul>'
    )

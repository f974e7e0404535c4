"""The U map: the blocks drawn as a U, as HTML; ``javascript/u_map.js`` makes it interactive.

All static parts are made here, so that the map has its full size before any script has run. A map is tied to sliders by
the prefix of their ids and follows them; without sliders it only shows weights. A page may hold any number of maps.

What a map shows besides the sliders is in its attributes, which a script may set too (see ``u_map.js``):
``data-values``, JSON, block id to number, colours the blocks under ``data-values-title``; ``data-weights``, likewise,
are the weights of a map without sliders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

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
from lib_blocktrain.workspace.lora_selection import WEIGHT_MAX, WEIGHT_MIN

SCALE = Markup('aria-orientation="vertical" aria-valuemin="{:g}" aria-valuemax="{:g}" aria-valuenow="1"').format(
    WEIGHT_MIN, WEIGHT_MAX
)  # u_map.js sets the value from the sliders
LEGEND = ("res", "attn", "down", "up")
TOOLS = (  # data-tool, sign, label, help
    ("undo", "↶", "Undo", "Undo (Ctrl+Z)"),
    ("redo", "↷", "Redo", "Redo (Ctrl+Shift+Z)"),
    ("zero", "0", "Set to 0", "Set the selected blocks, or all, to 0: the LoRA has no effect there"),
    ("one", "1", "Set to 1", "Set the selected blocks, or all, to 1: the LoRA has its full effect"),
    ("link", "⇄", "Link skip partners", "Give a block’s skip partner the same weight"),
)
GAP_BESIDE = 18  # of a handle in the middle, to the blocks or the lines beside it
SHAPES = ("linear", "sine", "cosine")
HINT = (
    "Drag a block, scroll over it, or type a number; hold Shift for fine steps. Double-click: 0 or 1. "
    "Click selects, Ctrl+click adds, Shift+click selects a range; selected blocks move together."
)


@dataclass(frozen=True)
class UMap:
    """What one map shows. ``sliders`` is the prefix of its widgets' names: "w_" for "w_IN00".

    ``absent`` says by block why nothing can be set there. ``subject`` is the LoRA whose weights these are; the undo
    history ends where it changes. ``values`` are shown as colour under ``title``; ``weights`` are for a map without
    sliders.
    """

    name: str
    architecture: str
    sliders: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    values: Mapping[str, float] | None = None
    title: str = ""
    weights: Mapping[str, float] | None = None

    def html(self) -> Markup:
        known = ARCHITECTURES[self.architecture]
        data = {
            "architecture": self.architecture,
            "sliders": f"blocktrain_{self.sliders}" if self.sliders else "",
            "subject": self.subject,
            "values": "" if self.values is None else json.dumps(dict(self.values)),
            "values-title": self.title,
            "weights": "" if self.weights is None else json.dumps(dict(self.weights)),
        }
        boxes = layout(known)
        return Markup(
            '<div class="blocktrain-u" id="blocktrain_u_{name}" {data}>{tools}'
            '<div class="blocktrain-u-plane" role="group" aria-label="Block weights of {title} as a U"'
            ' style="height:{height}px">{lines}{handles}{blocks}</div>{legend}</div>'
        ).format(
            name=self.name,
            data=_data(data),
            tools=_tools() if self.sliders else "",
            title=known.title,
            height=height(known),
            lines=_lines(known),
            handles=_handles(known) if self.sliders else "",
            blocks=Markup("").join(self._block(block_id, boxes[block_id]) for block_id in (*known.block_ids, BASE)),
            legend=_legend(),
        )

    def _block(self, block_id: str, box: Box) -> Markup:
        data = {"block": block_id, "side": block_id.rstrip("0123456789"), "absent": self.absent.get(block_id, "")}
        kinds: tuple[str, ...] = ()
        if block_id != BASE:
            block = ARCHITECTURES[self.architecture].block(block_id)
            kinds = block.layers
            data |= {"level": str(level(block)), "partner": block.skip or ""}
        tip_id = f"blocktrain_u_{self.name}_{block_id}_tip"
        return Markup(
            '<div class="blocktrain-u-block" {data} {role} aria-label="{block_id}" aria-describedby="{tip_id}"'
            ' style="{style}"><span class="blocktrain-u-well"><span class="blocktrain-u-fill"></span></span>'
            '<b>{block_id}</b><span class="blocktrain-u-weight"></span><span class="blocktrain-u-foot">'
            '<span class="blocktrain-u-layers">{kinds}</span><span class="blocktrain-u-value"></span></span>{tip}</div>'
        ).format(
            data=_data(data),
            role=Markup('role="slider" tabindex="-1" {}').format(SCALE) if self.sliders else Markup('role="img"'),
            block_id=block_id,
            tip_id=tip_id,
            style=box.style,
            kinds=Markup("").join(map(_glyph, kinds)),
            tip=self._tip(block_id, tip_id, box),
        )

    def _tip(self, block_id: str, tip_id: str, box: Box) -> Markup:
        across = "left" if box.middle < 450 else "right" if box.middle > 550 else "middle"
        lines = [self.absent[block_id]] if block_id in self.absent else []
        lines += facts(self.architecture, block_id)
        return Markup(
            '<span class="blocktrain-u-tip blocktrain-u-{}" role="tooltip" id="{}">'
            '<strong>{}<span class="blocktrain-u-told"></span></strong>{}</span>'
        ).format(across, tip_id, block_id, Markup("").join(Markup("<span>{}</span>").format(line) for line in lines))


def _data(data: Mapping[str, str]) -> Markup:
    return Markup(" ").join(Markup('data-{}="{}"').format(name, value) for name, value in data.items())


def _glyph(kind: str) -> Markup:
    return Markup('<i class="blocktrain-u-{}"></i>').format(kind)


def _lines(known: Architecture) -> Markup:
    paths = [Markup('<path class="blocktrain-u-flow" d="{}"/>').format(shape) for shape in flow_paths(known)]
    for block_id, shape in skip_paths(known).items():
        paths.append(Markup('<path class="blocktrain-u-skip" data-skip="{}" d="{}"/>').format(block_id, shape))
    return Markup(
        '<svg class="blocktrain-u-lines" viewBox="0 0 1000 {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(height(known), Markup("").join(paths))


def _handles(known: Architecture) -> Markup:
    """Handles for the sides and the levels. M00 is a single block and needs none."""
    handles = [
        _handle("side", side, f"{side} blocks", side, Box(left, 0, side_width(1)))
        for side, left in (("IN", 0), ("OUT", 1000 - side_width(1)))
    ]
    for row, divisor in enumerate(levels(known)):
        side_cells = cells(known, divisor)
        width = CENTRES[divisor] - 2 * (GAP_BESIDE + 10 if divisor == levels(known)[-1] else GAP_BESIDE)
        box = Box(500 - width / 2, row_top(row) + 14, width)
        label = f"blocks of {side_cells} × {side_cells} cells"
        handles.append(_handle("level", str(divisor), label, f"{side_cells}×{side_cells}", box))
    return Markup("").join(handles)


def _handle(kind: str, value: str, label: str, text: str, box: Box) -> Markup:
    return Markup(
        '<div class="blocktrain-u-handle" data-group="{kind}" data-of="{value}" role="slider" tabindex="0" {scale}'
        ' aria-label="All {label}" title="All {label}: drag, scroll or type moves them together; a click selects them"'
        ' style="{style}"><span>{text}</span></div>'
    ).format(kind=kind, value=value, scale=SCALE, label=label, style=box.style, text=text)


def _tools() -> Markup:
    button = Markup(
        '<button type="button" data-tool="{}"{} aria-label="{}" title="{}"><span aria-hidden="true">{}</span></button>'
    )
    buttons = Markup("").join(
        button.format(name, Markup(' aria-pressed="false"') if name == "link" else "", label, help_text, sign)
        for name, sign, label, help_text in TOOLS
    )
    return Markup(
        '<div class="blocktrain-u-tools" role="toolbar" aria-label="U map">{buttons}{curve}'
        '<span class="blocktrain-u-selected" role="status"></span>'
        '<span class="blocktrain-u-help" tabindex="0" role="note" aria-label="{hint}" title="{hint}">?</span></div>'
    ).format(buttons=buttons, curve=_curve(), hint=HINT)


def _curve() -> Markup:
    shapes = Markup("").join(Markup('<option value="{0}">{0}</option>').format(shape) for shape in SHAPES)
    return Markup(
        '<details class="blocktrain-u-curve">'
        '<summary title="Set the weights along a curve, in the order of the blocks">Curve</summary><div>'
        '<label>Shape <select data-curve="shape">'
        '{}</select></label><label><input type="checkbox" data-curve="reverse"> reversed</label>'
        '<label>Low <input type="number" step="0.05" value="0" data-curve="low"></label>'
        '<label>High <input type="number" step="0.05" value="1" data-curve="high"></label>'
        '<label>Of <select data-curve="of"><option value="selection">what is selected</option>'
        '<option value="IN">IN</option><option value="OUT">OUT</option><option value="all">all blocks</option></select>'
        '</label><svg viewBox="-2 -2 104 34" aria-hidden="true"><path/></svg>'
        '<button type="button" data-tool="curve">Set</button>'
        '<p class="blocktrain-u-said" role="status"></p></div></details>'
    ).format(shapes)


def _legend() -> Markup:
    kinds = Markup("").join(Markup("<li>{}{}</li>").format(_glyph(kind), LAYER_NAMES[kind]) for kind in LEGEND)
    return Markup(
        '<ul class="blocktrain-u-legend"><li><i class="blocktrain-u-key-weight"></i>weight</li>{}'
        '<li><i class="blocktrain-u-key-skip"></i>skip connection</li>'
        '<li class="blocktrain-u-key-values" hidden><i></i><span></span></li></ul>'
    ).format(kinds)
